// Search over everything that was embedded: by a sentence, a picture, or a moment that was found.
import { address, apiKey, content, get, post } from "./api.js";
import { ask, clock, failed, fill, h, note } from "./dom.js";
import { frame, show, thumbnail } from "./frames.js";

const TOP = 24;

export async function search(view, { query }, signal) {
  const [files, streams] = await Promise.all([
    get("v1/files?purpose=vision", signal).then((answer) => answer.data),
    get("v1/streams/get-stream-info", signal).catch(() => []),
  ]);
  const byId = new Map(files.map((file) => [file.id, file]));
  let picture = null;
  const box = h("input", { type: "search", name: "q", placeholder: "Describe what you look for, or drop a picture here", "aria-label": "What to look for", value: query.get("q") || "", autocomplete: "off" });
  const chooser = h("input", { type: "file", accept: "image/*", hidden: true, id: "picture", onchange: () => usePicture(chooser.files[0]) });
  const where = h("select", {}, h("option", { value: "" }, "Everywhere"),
    h("optgroup", { label: "Films" }, files.slice(0, 500).map((file) => h("option", { value: file.id }, file.filename))),
    h("optgroup", { label: "Cameras" }, streams.map((stream) => h("option", { value: stream.id }, stream.description || stream.id))));
  where.value = byId.has(query.get("in")) || streams.some((stream) => stream.id === query.get("in")) ? query.get("in") : "";
  const from = h("input", { type: "datetime-local" });
  const to = h("input", { type: "datetime-local" });
  const least = h("input", { type: "number", min: -1, max: 1, step: 0.01, placeholder: "any" });
  const together = h("input", { type: "checkbox" });
  const form = h("form", { role: "search", onsubmit: (event) => { event.preventDefault(); picture = null; run(); } },
    h("div", { class: "searchbox" }, box, h("button", { class: "main" }, "Search"), chooser, h("button", { type: "button", onclick: () => chooser.click() }, "Picture")),
    h("div", { class: "filters" }, h("label", {}, "Where", where), h("label", {}, "From", from), h("label", {}, "Until", to), h("label", {}, "Lowest score", least)),
    h("p", { class: "row small" }, h("label", { class: "row" }, joinBox(together), "Join neighbouring chunks"),
      h("button", { type: "button", class: "quiet", onclick: () => copy("curl") }, "Copy as curl"), h("button", { type: "button", class: "quiet", onclick: () => copy("python") }, "Copy as Python")));
  const words = h("p", { class: "dim small num", role: "status" });
  const grid = h("ol", { class: "grid", "aria-label": "Results" });
  fill(view, h("div", { class: "head" }, h("h1", {}, "Search")), form, words, grid);
  form.addEventListener("dragover", (event) => event.preventDefault());
  form.addEventListener("drop", (event) => { event.preventDefault(); usePicture(event.dataTransfer.files[0]); });
  get("v1/search", signal).then((state) => {
    if (!grid.childElementCount && !words.textContent) words.textContent = `${state.chunks.toLocaleString("en")} chunks are indexed${state.lag_messages ? `; ${state.lag_messages} wait` : ""}.`;
  }).catch((error) => fill(grid, h("li", { class: "empty" }, h("p", {}, error.message))));

  function body() {
    const like = query.get("like");
    const [asset, chunk] = like ? [like.slice(0, like.lastIndexOf(":")), Number(like.slice(like.lastIndexOf(":") + 1))] : [];
    const wanted = picture ? { image: picture } : box.value.trim() ? { text: box.value.trim() } : like ? { like: { asset, chunk } } : null;
    if (!wanted) return null;
    const time = (input) => (input.value ? { [input === from ? "start_time" : "end_time"]: new Date(input.value).toISOString() } : {});
    return { ...wanted, top_k: TOP, merge: together.checked, ...(where.value ? { assets: [where.value] } : {}), ...time(from), ...time(to), ...(least.value ? { min_score: Number(least.value) } : {}) };
  }

  async function run() {
    const wanted = body();
    if (!wanted) return;
    if (wanted.text) history.replaceState(null, "", `#/search?${new URLSearchParams({ q: wanted.text, ...(where.value ? { in: where.value } : {}) })}`);
    words.textContent = "Searching";
    const began = performance.now();
    try {
      const { hits } = await post("v1/search", wanted, signal);
      const what = wanted.text ? `for “${wanted.text}”` : wanted.like ? "like that chunk" : "like that picture";
      words.textContent = `${hits.length} ${hits.length === 1 ? "result" : "results"} ${what} in ${Math.round(performance.now() - began)} ms`;
      const top = hits.length ? hits[0].score : 1;
      fill(grid, hits.length ? hits.map((hit) => result(hit, top, wanted.text)) : h("li", { class: "empty" }, h("p", {}, "Nothing found. Fewer filters or other words may help.")));
    } catch (error) {
      if (error.name !== "AbortError") { words.textContent = ""; fill(grid, h("li", { class: "empty" }, h("p", { class: "bad" }, error.message))); }
    }
  }

  function result(hit, top, text) {
    const file = byId.get(hit.asset);
    const shot = h("div", { class: "shot" }, h("span", { class: "badge left" }, hit.score.toFixed(3)), hit.start !== null && hit.media_type === "video" && h("span", { class: "badge" }, clock(hit.start)));
    show(shot, (wanted) => thumbnail(hit) ? Promise.resolve(thumbnail(hit)) : file ? frame(file, (hit.start + hit.end) / 2, wanted) : Promise.resolve(null));
    const meter = h("i", {});
    meter.style.width = `${Math.max(2, Math.min(100, 100 * hit.score / Math.max(top, 1e-6)))}%`;
    const link = file ? `#/films/${hit.asset}?${new URLSearchParams({ ...(hit.start === null ? {} : { t: hit.start }), ...(text ? { q: text } : {}) })}` : "#/cameras";
    const when = hit.start_time ? new Date(hit.start_time).toLocaleString() : hit.start !== null ? `${clock(hit.start)} to ${clock(hit.end)}` : "";
    const item = h("li", { class: "card hit" }, shot, h("div", { class: "words" }, h("a", { class: "name", href: link, title: hit.name }, hit.name || hit.asset),
      h("span", { class: "dim small num" }, when), h("div", { class: "meter", "aria-hidden": "true" }, meter),
      h("a", { class: "above small", href: `#/search?like=${encodeURIComponent(`${hit.asset}:${hit.chunk}`)}` }, "More like this")));
    if (file && hit.media_type === "video") preview(item, shot, file, hit, signal);
    return item;
  }

  async function usePicture(file) {
    if (!file) return;
    if (file.size > 20e6) return note("The picture is larger than 20 MB", "bad");
    picture = await new Promise((resolve) => { const reader = new FileReader(); reader.onload = () => resolve(reader.result); reader.readAsDataURL(file); });
    box.value = "";
    run();
  }

  async function copy(kind) {
    const wanted = body() || { text: "a person", top_k: TOP };
    if (wanted.image?.length > 200) wanted.image = "data:image/jpeg;base64,...";
    const text = kind === "curl" ? asCurl(wanted) : asPython(wanted);
    try { await navigator.clipboard.writeText(text); note("Copied"); }
    catch { await ask("Copy this", [h("textarea", { rows: 8, readonly: true, "aria-label": "Code", value: text })], { submit: "Done" }); }
  }
  if (body()) await run();
}

function joinBox(box) { box.style.width = "auto"; box.style.margin = "0"; return box; }

function preview(item, shot, file, hit, signal) {
  let video = null;
  const stop = () => { video?.remove(); video = null; };
  item.addEventListener("mouseenter", async () => {
    stop();
    const mine = video = h("video", { muted: true, loop: false, playsinline: true, "aria-hidden": "true", tabindex: "-1" });
    try { mine.src = await content(file); } catch { return; }
    if (video !== mine) return;
    mine.currentTime = hit.start;
    mine.addEventListener("timeupdate", () => { if (mine.currentTime > hit.end) mine.currentTime = hit.start; });
    mine.addEventListener("playing", () => shot.append(mine), { once: true });
    mine.play().catch(() => {});
  }, { signal });
  item.addEventListener("mouseleave", stop, { signal });
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function asCurl(body) {
  const key = apiKey() ? ' \\\n  -H "Authorization: Bearer $RTEMBED_API_KEY"' : "";
  return `curl ${quoted(address("v1/search"))} -H 'Content-Type: application/json'${key} \\\n  -d ${quoted(JSON.stringify(body))}`;
}

function asPython(body) {
  const key = apiKey() ? ',\n    headers={"Authorization": "Bearer " + os.environ["RTEMBED_API_KEY"]}' : "";
  const literal = JSON.stringify(body, null, 4).replaceAll(": true", ": True").replaceAll(": false", ": False");
  return `${key ? "import os\n\n" : ""}import httpx\n\nanswer = httpx.post(\n    ${JSON.stringify(address("v1/search"))},\n    json=${literal.replaceAll("\n", "\n    ")}${key},\n)\nfor hit in answer.raise_for_status().json()["hits"]:\n    print(f"{hit['score']:.3f}", hit["name"], hit["start"], hit["end"])\n`;
}
