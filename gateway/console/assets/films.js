// Films and pictures: upload, embed, look at, find a moment, delete.
import { content, get, post, remove } from "./api.js";
import { ask, clock, facts, failed, fill, h, note, size } from "./dom.js";
import { frame, show, stored, thumbnail } from "./frames.js";
import { add, changed, embed, jobs, list } from "./jobs.js";
import { Timeline } from "./timeline.js";

const LENGTHS = [2, 5, 10, 30, 60];
const PAGE = 60;
const MOST_CHUNKS = 10000;

export async function films(view, _, signal) {
  const seconds = h("select", { "aria-label": "Seconds per chunk" }, LENGTHS.map((n) => h("option", { value: n, selected: n === 5 }, `${n} s`)));
  const start = (files) => files.length && add(files, Number(seconds.value));
  const choose = (label, attributes) => {
    const input = h("input", { type: "file", multiple: true, hidden: true, ...attributes, onchange: () => { start([...input.files].filter(isMedia)); input.value = ""; } });
    return [input, h("button", { type: "button", class: attributes.webkitdirectory ? "" : "main", onclick: () => input.click() }, label)];
  };
  const drop = h("section", { class: "drop", "aria-label": "Upload" }, h("div", {}, "Drop films, pictures or folders here"),
    h("div", { class: "row" }, choose("Choose files", { accept: "video/*,image/*", id: "files" }), choose("Choose a folder", { webkitdirectory: true }),
      h("label", {}, "Chunks of", seconds)));
  accept(drop, start, signal);
  const [work, grid, more] = [h("div", {}), h("ul", { class: "grid", "aria-label": "Files" }), h("div", { class: "row" })];
  const count = h("span", { class: "dim small num" });
  fill(view, h("div", { class: "head" }, h("h1", {}, "Films"), count), drop, work, grid, more);

  let shown = PAGE;
  async function load() {
    const files = (await get("v1/files?purpose=vision", signal)).data;
    count.textContent = files.length ? `${files.length} ${files.length === 1 ? "file" : "files"}, ${size(files.reduce((sum, file) => sum + file.bytes, 0))}` : "";
    if (!files.length) fill(grid, h("li", { class: "empty" }, h("p", {}, "No films yet. What you drop above is uploaded, cut into chunks and embedded; then search finds its moments.")));
    else fill(grid, files.slice(0, shown).map(card));
    fill(more, files.length > shown && h("button", { type: "button", onclick: () => { shown += PAGE; load().catch(failed); } }, `Show more of ${files.length}`));
  }
  let finished = -1;
  const update = () => {
    fill(work, jobs.length ? list() : null);
    const now = jobs.filter((job) => job.film).length * 1000 + jobs.filter((job) => ["done", "failed"].includes(job.state)).length;
    if (now !== finished) { finished = now; load().catch(failed); }
  };
  let asked = 0;
  changed.addEventListener("change", () => { asked ||= requestAnimationFrame(() => { asked = 0; if (!signal.aborted) update(); }); }, { signal });
  update();
}

const isMedia = (file) => /^(video|image)\//.test(file.type) || /\.(mp4|mkv|mov|avi|webm|ts|m4v|mpg|flv|heic|avif)$/i.test(file.name);

function accept(drop, start, signal) {
  const over = (on) => (event) => { event.preventDefault(); drop.classList.toggle("over", on); };
  drop.addEventListener("dragover", over(true));
  drop.addEventListener("dragleave", over(false));
  drop.addEventListener("drop", async (event) => {
    over(false)(event);
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    start(entries.length ? (await Promise.all(entries.map(walk))).flat().filter(isMedia) : [...event.dataTransfer.files]);
  }, { signal });
}

async function walk(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const batch = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!batch.length) return (await Promise.all(found.map(walk))).flat();
    found.push(...batch);
  }
}

function card(file) {
  const shot = h("div", { class: "shot" });
  show(shot, async (wanted) => await frame(file, 1, wanted) || stored(file.id, [0]).then((chunk) => chunk && thumbnail(chunk)));
  return h("li", { class: "card" }, shot, h("div", { class: "words" },
    h("a", { class: "name", href: `#/films/${file.id}`, title: file.filename }, file.filename),
    h("span", { class: "dim small num" }, `${file.media_type === "image" ? "Picture" : "Film"} · ${size(file.bytes)}${file.sensor_name ? ` · ${file.sensor_name}` : ""}`)));
}

async function chunksOf(id, signal) {
  const found = [];
  for (let more = true; more && found.length < MOST_CHUNKS;) {
    const page = await get(`v1/search/assets/${id}?after=${found.length}&limit=1000&thumbnails=true`, signal);
    found.push(...page.chunks);
    more = page.more;
  }
  return found;
}

// Chunks as this page's own request told them, for a service without an index.
function ownChunks(id) {
  const job = jobs.find((each) => each.film?.id === id && each.chunks.length);
  return (job?.chunks || []).map((chunk, index) => ({ chunk: index, start: Number(chunk.start_time), end: Number(chunk.end_time), thumbnail: chunk.thumbnail }))
    .filter((chunk) => Number.isFinite(chunk.start)).sort((a, b) => a.start - b.start);
}

export async function film(view, { path: [id], query }, signal) {
  const file = (await get("v1/files?purpose=vision", signal)).data.find((each) => each.id === id);
  if (!file) return fill(view, h("h1", {}, "No such film"), h("p", {}, "It was deleted, or never there. ", h("a", { href: "#/films" }, "All films")));
  const image = file.media_type === "image";
  const player = image ? h("img", { class: "still", alt: `The picture ${file.filename}` }) : h("video", { controls: true, preload: "metadata", playsinline: true, "aria-label": file.filename });
  const seconds = h("select", { "aria-label": "Seconds per chunk" }, LENGTHS.map((n) => h("option", { value: n, selected: n === 5 }, `${n} s`)));
  const about = h("div", {}, facts({ Size: size(file.bytes), Recorded: file.creation_time, Sensor: file.sensor_name, Id: h("code", {}, file.id) }));
  const strip = new Timeline({
    picture: async (chunk, wanted) => thumbnail(chunk) || (image ? content(file) : frame(file, (chunk.start + chunk.end) / 2, wanted)),
    choose: (chunk) => { if (!image && chunk.start !== null) { player.currentTime = chunk.start; player.play().catch(() => {}); } },
  });
  signal.addEventListener("abort", () => strip.close());
  const words = h("p", { class: "dim small", role: "status" });
  const box = h("input", { type: "search", placeholder: "Where in this film? For example: a red car", "aria-label": "Search in this film", value: query.get("q") || "" });
  const search = h("form", { class: "searchbox", role: "search", onsubmit: (event) => { event.preventDefault(); heat(box.value); } }, box, h("button", {}, "Show heat"));
  const work = h("div", {});
  fill(view,
    h("div", { class: "head" }, h("h1", {}, file.filename), h("div", { class: "row" },
      !image && h("label", {}, "Chunks of ", seconds),
      h("button", { type: "button", onclick: () => embed(file, Number(seconds.value)) }, "Embed"),
      h("button", { type: "button", class: "danger", onclick: () => erase(file) }, "Delete"))),
    work,
    h("div", { class: "film" }, player, h("div", { class: "panel" }, about)),
    strip.element, words, !image && search);

  player.addEventListener("error", () => { words.textContent = "This browser cannot play the film; the service can embed it all the same."; });
  content(file).then((url) => {
    player.src = url;
    if (query.has("t") && !image) player.currentTime = Number(query.get("t"));
  }).catch(failed);
  if (!image) player.addEventListener("timeupdate", () => strip.follow(player.currentTime), { signal });
  get(`v1/files/${id}/media`, signal).then((media) => fill(about, facts({
    Size: size(file.bytes), Picture: `${media.width} × ${media.height}`, Codec: media.codec,
    Length: media.duration === null ? null : clock(media.duration), "Frame rate": media.frame_rate && `${Number(media.frame_rate).toFixed(2).replace(/\.00$/, "")} fps`,
    Recorded: file.creation_time, Sensor: file.sensor_name, Id: h("code", {}, file.id),
  }))).catch(() => {});

  async function load() {
    let [chunks, why] = [[], "Not embedded yet: press Embed."];
    try { chunks = await chunksOf(id, signal); } catch (error) {
      if (error.status !== 404) why = error.message;
      chunks = ownChunks(id);
    }
    if (signal.aborted) return;
    strip.element.hidden = !chunks.length;
    strip.set(chunks);
    words.textContent = chunks.length ? `${chunks.length} chunks. Click one to play from there; arrow keys move.` : why;
    if (query.has("t")) strip.follow(Number(query.get("t")));
    if (box.value && chunks.length) heat(box.value);
  }
  async function heat(text) {
    if (!text.trim()) return strip.heat(new Map());
    try {
      const answer = await post("v1/search", { text, assets: [id], top_k: MOST_CHUNKS, thumbnails: false }, signal);
      strip.heat(new Map(answer.hits.map((hit) => [hit.chunk, hit.score])));
      const best = answer.hits[0];
      if (best) words.textContent = `Best: ${best.start === null ? `chunk ${best.chunk}` : `${clock(best.start)} to ${clock(best.end)}`}, score ${best.score.toFixed(3)}`;
    } catch (error) { failed(error); }
  }
  let before = "";
  const update = () => {
    const mine = jobs.find((job) => job.film?.id === id);
    fill(work, mine && !["done"].includes(mine.state) ? list() : null);
    const now = mine ? mine.state : "";
    if (now === "done" && before && before !== "done") setTimeout(() => load().catch(failed), 1200);  // the indexer follows within a second
    before = now;
  };
  changed.addEventListener("change", update, { signal });
  update();
  await load();
}

async function erase(file) {
  if (!(await ask(`Delete ${file.filename}?`, [], { submit: "Delete", danger: true, text: "The file goes, and its chunks leave the search index. This cannot be undone." }))) return;
  try {
    await remove(`v1/files/${file.id}`);
    note(`${file.filename} is deleted`);
    location.hash = "#/films";
  } catch (error) { failed(error); }
}
