// Triggers: saved sentences and pictures that new chunks are compared with, and their matches as they come.
import { events, get, post, remove } from "./api.js";
import { ask, clock, dot, every, facts, failed, field, fill, h, note } from "./dom.js";
import { thumbnail } from "./frames.js";

const SHOWN = 24;

export async function triggers(view, streams, signal) {
  const list = h("ul", { class: "jobs", "aria-label": "Saved triggers" });
  const add = h("button", { type: "button", onclick: () => addTrigger(streams()).then((added) => added && load(), failed) }, "Add a trigger");
  const cards = new Map();
  let watched = null;  // one at a time: a browser has few connections to one address

  const watch = (item) => {
    watched?.stop();
    watched = watched === item ? null : item;
    watched?.start();
  };
  async function load() {
    let found;
    try { found = (await get("v1/triggers", signal)).triggers; }
    catch (error) {
      if (error.name !== "AbortError") fill(list, h("li", { class: "dim" }, error.message));
      return;
    }
    const known = new Set(found.map((trigger) => trigger.id));
    for (const [id, item] of cards) if (!known.has(id)) { if (watched === item) watch(item); cards.delete(id); }
    for (const trigger of found) {
      if (!cards.has(trigger.id)) cards.set(trigger.id, card(trigger, streams, signal, watch, load));
      cards.get(trigger.id).show(trigger);
    }
    if (!found.length) fill(list, h("li", { class: "dim" }, "None. A trigger tells you when a camera sees what a sentence or picture describes."));
    else if ([...list.children].map((row) => row.dataset.trigger).join() !== [...known].join()) fill(list, [...cards.values()].map((item) => item.row));
  }
  fill(view, h("div", { class: "head" }, h("h2", {}, "Triggers"), add), list);
  every(5, signal, async () => { if (list.isConnected) await load(); });
}

async function addTrigger(streams) {
  const given = await ask("Add a trigger", [
    field("What to look for", "text", { maxlength: 1000, placeholder: "a forklift moving pallets" }),
    field("Or a picture", "picture", { type: "file", accept: "image/*" }),
    field("Name", "name", { maxlength: 200, placeholder: "as the sentence" }),
    field("Lowest score that matches", "threshold", { type: "number", min: -1, max: 1, step: 0.01, value: 0.25, required: true }),
    h("label", {}, "Camera", h("select", { name: "camera" }, h("option", { value: "" }, "All cameras"), streams.map((stream) => h("option", { value: stream.id }, stream.description || stream.id)))),
    field("Seconds without another match of the same camera", "cooldown", { type: "number", min: 0, max: 86400, value: 60, required: true }),
    field("Webhook", "webhook", { type: "url", pattern: "https?://.+", maxlength: 2048, placeholder: "A URL that each match is sent to" }),
    field("Secret that signs the webhook", "secret", { type: "password", autocomplete: "off", maxlength: 256 }),
  ], { submit: "Add", text: "Search for the sentence first to see what scores how much." });
  if (!given) return false;
  const text = given.text.trim();
  if (!text && !given.picture.size) throw new Error("Give a sentence or a picture");
  if (given.picture.size > 20e6) throw new Error("The picture is larger than 20 MB");
  const trigger = await post("v1/triggers", {
    name: given.name.trim() || text.slice(0, 200) || given.picture.name.slice(0, 200), ...(text ? { text } : { image: await dataUrl(given.picture) }),
    threshold: Number(given.threshold), cooldown: Number(given.cooldown), ...(given.camera ? { cameras: [given.camera] } : {}),
    ...(given.webhook ? { webhook: given.webhook } : {}), ...(given.webhook && given.secret ? { webhook_secret: given.secret } : {}),
  });
  note(`${trigger.name} is added`);
  return true;
}

const dataUrl = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(new Error(`${file.name} cannot be read`));
  reader.readAsDataURL(file);
});

function card(trigger, streams, signal, watch, reload) {
  const [about, matches] = [h("div", { class: "small" }), h("ol", { class: "grid", hidden: true, "aria-label": `Matches of ${trigger.name}` })];
  const toggle = h("button", { type: "button", "aria-expanded": "false" }, "Show matches");
  const erase = async () => {
    if (!(await ask(`Delete ${trigger.name}?`, [], { submit: "Delete", danger: true, text: "Its matches are forgotten, too." }))) return;
    try { await remove(`v1/triggers/${trigger.id}`); await reload(); } catch (error) { failed(error); }
  };
  const row = h("li", { class: "panel", "data-trigger": trigger.id }, h("div", { class: "head" }, h("b", {}, trigger.name), h("div", { class: "row" }, toggle, h("button", { type: "button", class: "danger", onclick: erase }, "Delete"))), about, matches);
  const named = (id) => streams().find((stream) => stream.id === id)?.description || id;
  let stopped = null;
  const item = {
    row,
    show(now) {
      const hook = now.webhook;
      fill(about, facts({
        Looks: now.text ? `for “${now.text}”` : `for a ${now.question === "image" ? "picture" : now.question === "like" ? "chunk" : "vector"}`, From: `score ${now.threshold}${now.cooldown ? `, once in ${now.cooldown} s for each camera` : ""}`,
        Where: (now.cameras ? now.cameras.map(named).join(", ") : "all cameras") + (now.files ? ", and files" : ""),
        Matches: now.matches ? `${now.matches}, the last at ${new Date(now.last_match || 0).toLocaleString()}` : "none yet",
        Webhook: hook && h("span", {}, dot(hook.error ? "bad" : "good"), ` ${hook.host}${hook.waiting ? `, ${hook.waiting} wait` : ""}${hook.given_up ? `, ${hook.given_up} given up` : ""}${hook.error ? `: ${hook.error}` : ""}`),
      }));
    },
    stop() {
      stopped?.abort();
      matches.hidden = true;
      toggle.textContent = "Show matches";
      toggle.setAttribute("aria-expanded", "false");
    },
    async start() {
      const mine = stopped = new AbortController();
      signal.addEventListener("abort", () => mine.abort(), { once: true });
      fill(matches, h("li", { class: "dim" }, "None yet"));
      matches.hidden = false;
      toggle.textContent = "Hide matches";
      toggle.setAttribute("aria-expanded", "true");
      let seen = 0;
      try {
        for await (const match of events(`v1/triggers/${trigger.id}/events?last=${SHOWN}`, undefined, mine.signal)) {
          if (!seen++) fill(matches);
          matches.prepend(shown(match));
          while (matches.childElementCount > SHOWN) matches.lastElementChild.remove();
        }
      } catch (error) { if (!mine.signal.aborted) failed(error); }
      if (!mine.signal.aborted) watch(item);  // the stream broke off: "Show matches" reads it again
    },
  };
  toggle.onclick = () => watch(item);
  return item;
}

function shown(match) {
  const picture = thumbnail(match);
  const when = match.start_time ? new Date(match.start_time).toLocaleString() : match.start !== null ? clock(match.start) : "";
  return h("li", { class: "card", "data-event": match.id }, h("div", { class: "shot" }, picture ? h("img", { src: picture, alt: `What ${match.name} saw` }) : "No picture", h("span", { class: "badge left" }, match.score.toFixed(3))),
    h("div", { class: "words" }, h("span", { class: "name", title: match.name }, match.name), h("span", { class: "dim small num" }, when)));
}
