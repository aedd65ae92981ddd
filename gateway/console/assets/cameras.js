// Cameras: add one and see at once why it cannot be used, start, stop, and watch what comes of it.
import { events, get, model, post, remove, send } from "./api.js";
import { ago, ask, dot, every, facts, failed, field, fill, h, note } from "./dom.js";
import { stored, thumbnail } from "./frames.js";
import { triggers } from "./triggers.js";

const KINDS = { running: "good", ended: "", idle: "", waiting: "warn", connecting: "warn", reconnecting: "bad" };
const MARKS = 40;

export async function cameras(view, _, signal) {
  const grid = h("ul", { class: "grid cameras", "aria-label": "Cameras" });
  fill(view, h("div", { class: "head" }, h("h1", {}, "Cameras"), h("button", { type: "button", class: "main", onclick: () => addCamera().then((added) => added && load(), failed) }, "Add a camera")), grid);
  const saved = h("section", { "aria-label": "Triggers" });
  view.append(saved);
  let streams = [];
  async function load() {
    streams = await get("v1/streams/get-stream-info", signal);
    fill(grid, streams.length ? streams.map((stream) => card(stream, signal, load)) : h("li", { class: "empty" }, h("p", {}, "No cameras. Add one by its RTSP address; a worker connects to it first and says so if that fails.")));
  }
  await load();
  await triggers(saved, () => streams, signal);
}

async function addCamera() {
  const given = await ask("Add a camera", [
    field("Address", "url", { required: true, placeholder: "rtsp://camera.example.com:554/live", pattern: "rtsps?://.+", maxlength: 256 }),
    field("Name", "name", { required: true, maxlength: 256, pattern: "[A-Za-z0-9_.\\-\"' ,]+", title: "Letters, digits, space and _.-\"'," }),
    field("User", "username", { autocomplete: "off", maxlength: 256 }), field("Password", "password", { type: "password", autocomplete: "off", maxlength: 256 }),
    field("Seconds per chunk", "seconds", { type: "number", min: 1, max: 3600, value: 5 }),
  ], { submit: "Test and add" });
  if (!given) return false;
  note("Connecting to the camera");
  const { results, errors } = await post("v1/streams/add", { streams: [{ liveStreamUrl: given.url, description: given.name, sensor_name: given.name, username: given.username, password: given.password }] });
  if (errors.length) throw new Error(errors[0].error);
  await begin(results[0].id, Number(given.seconds));
  note(`${given.name} is added`);
  return true;
}

// Starts embedding. The session goes on without a reader, so the events are left to whoever wants them.
async function begin(id, seconds) {
  const stop = new AbortController();
  await send("POST", "v1/generate_video_embeddings", { body: { id, model: await model(), stream: true, chunk_duration: seconds, thumbnails: true }, signal: stop.signal });
  stop.abort();
}

function card(stream, signal, reload) {
  const name = stream.description || stream.id;
  const path = encodeURIComponent(stream.id);
  const [shot, state, about, marks] = [h("div", { class: "shot" }, "No picture"), h("p", { class: "row small" }), h("div", { class: "small num" }), h("div", { class: "ticks", role: "img", "aria-label": "Chunks lately" })];
  const follow = h("button", { type: "button" }, "Watch events");
  const toggle = h("button", { type: "button" }, "Start");
  const lines = h("pre", { hidden: true, tabindex: "0", "aria-label": `Events of ${name}` });
  const lately = [];
  let [before, running] = [null, false];

  const picture = (chunk) => thumbnail(chunk) && fill(shot, h("img", { src: thumbnail(chunk), alt: `Last picture of ${name}` }));

  async function look() {
    const status = await get(`v1/streams/${path}/status`, signal);
    running = !["idle", "ended"].includes(status.state);
    fill(state, dot(KINDS[status.state]), h("b", {}, status.state), status.detail && h("span", { class: "dim" }, status.detail));
    toggle.textContent = running ? "Stop" : "Start";
    follow.hidden = !running;
    if (before !== null) lately.push(Math.max(0, status.chunks - before));
    before = status.chunks;
    fill(marks, lately.slice(-MARKS).map((count) => h("i", { class: count ? "" : "none" })));
    const last = running && status.chunks ? await stored(stream.id, [status.chunks - 1, Math.max(0, status.chunks - 2)], signal) : null;
    if (last) picture(last);
    const late = last?.end_time ? Math.max(0, (Date.now() - Date.parse(last.end_time)) / 1000) : null;
    fill(about, facts({
      Chunks: running ? `${status.chunks} of ${status.chunk_duration} s` : null, Dropped: status.chunks_dropped || null, Failed: status.chunks_failed || null,
      "Last chunk": late === null ? null : `ended ${ago(late)} ago`, Reconnections: status.reconnections || null, Transport: status.transport, Clock: status.clock, Worker: status.worker,
    }));
  }
  toggle.onclick = async () => {
    try {
      if (running) await remove(`v1/generate_video_embeddings/${path}`);
      else {
        const given = await ask(`Start ${name}`, [field("Seconds per chunk", "seconds", { type: "number", min: 1, max: 3600, value: 5 })], { submit: "Start" });
        if (given) await begin(stream.id, Number(given.seconds));
      }
      await look();
    } catch (error) { failed(error); }
  };
  follow.onclick = async () => {
    if (!(await ask(`Watch the events of ${name}`, [], { submit: "Watch", text: "A stream's events have one reader. While this page reads them no other client can, and the next one goes on after what was shown here." }))) return;
    lines.hidden = false;
    follow.disabled = true;
    try {
      for await (const event of events("v1/generate_video_embeddings", { id: stream.id, model: await model(), stream: true, chunk_duration: 5, encoding_format: "binary", thumbnails: true }, signal)) {
        for (const chunk of event.chunk_responses || []) {
          lines.prepend(`${chunk.start_time} to ${chunk.end_time}\n`);
          picture(chunk);
        }
        while (lines.childNodes.length > 12) lines.lastChild.remove();
      }
    } catch (error) { failed(error); }
    follow.disabled = false;
  };
  const erase = async () => {
    if (!(await ask(`Remove ${name}?`, [], { submit: "Remove", danger: true, text: "Embedding stops, and its chunks leave the search index." }))) return;
    try { await remove(`v1/streams/delete/${path}`); await reload(); } catch (error) { failed(error); }
  };
  const item = h("li", { class: "card", "data-stream": stream.id }, shot, h("div", { class: "words" }, h("span", { class: "name", title: name }, name), h("span", { class: "dim small" }, shown(stream.liveStreamUrl)),
    state, about, marks, lines, h("div", { class: "row" }, toggle, follow, h("button", { type: "button", class: "danger", onclick: erase }, "Remove"))));
  every(3, signal, async () => { if (item.isConnected) await look(); });
  return item;
}

const shown = (url) => url.replace(/\/\/[^/@]*@/, "//");
