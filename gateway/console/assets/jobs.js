// Uploads and embeddings under way. They go on while people look at other pages of the console.
import { events, get, model, upload } from "./api.js";
import { clock, h, size } from "./dom.js";

export const jobs = [];
export const changed = new EventTarget();
const tell = () => changed.dispatchEvent(new Event("change"));
let line = Promise.resolve();

window.addEventListener("beforeunload", (event) => {
  if (jobs.some((job) => job.state === "uploading" || job.state === "embedding")) event.preventDefault();
});

export function add(files, seconds) {
  for (const file of files) start({ name: file.name, file, seconds });
}

export const embed = (film, seconds) => start({ name: film.filename, film, seconds });

function start(wanted) {
  const job = { state: "waiting", done: 0, planned: 0, part: 0, words: "Waiting", chunks: [], stop: new AbortController(), ...wanted };
  jobs.unshift(job);
  while (jobs.length > 200 && ["done", "failed"].includes(jobs.at(-1).state)) jobs.pop();
  line = line.then(() => run(job));  // one after another: each has the whole connection, and the fleet is kept busy all the same
  tell();
}

async function run(job) {
  try {
    if (job.stop.signal.aborted) throw new DOMException("Cancelled", "AbortError");
    if (!job.film) await send(job);
    await follow(job);
    Object.assign(job, { state: "done", part: 1, words: `${job.done} ${job.done === 1 ? "chunk" : "chunks"} in ${clock((performance.now() - job.began) / 1000)}` });
  } catch (error) {
    Object.assign(job, { state: "failed", words: error.name === "AbortError" ? "Cancelled" : error.message });
  }
  tell();
}

async function send(job) {
  job.state = "uploading";
  const began = performance.now();
  job.film = await upload(job.file, (sent, total) => {
    const rate = sent / Math.max(1, performance.now() - began) * 1000;
    job.part = sent / total;
    job.words = sent < total ? `Uploading ${size(sent)} of ${size(total)}, ${size(rate)}/s, ${clock((total - sent) / rate)} left` : "Looking into the file";
    tell();
  }, job.stop.signal);
  job.file = null;
}

async function follow(job) {
  Object.assign(job, { state: "embedding", part: 0, words: "Waiting for a worker", began: performance.now() });
  tell();
  const image = job.film.media_type === "image";
  const body = { id: job.film.id, model: await model(), stream: true, chunk_duration: image ? 0 : job.seconds, encoding_format: "binary", thumbnails: true, stream_options: { include_progress: true } };
  for await (const event of events("v1/generate_video_embeddings", body, job.stop.signal)) {
    if (event.progress) job.planned = event.progress.chunks_planned;
    job.request = event.id;
    if (!event.progress && !event.chunk_responses) throw new Error(await reason(job.request));
    const found = event.chunk_responses || [];
    job.done += found.length;
    for (const chunk of found) job.chunks.push(chunk);
    if (found.length) progress(job);
  }
  if (job.done < job.planned) throw new Error(await reason(job.request));
}

async function reason(request) {
  const status = await get(`v1/requests/${request}`).catch(() => ({}));
  return status.error?.message || (typeof status.error === "string" && status.error) || "The service could not embed it; the worker's log says why";
}

function progress(job) {
  const rate = job.done / Math.max(0.001, (performance.now() - job.began) / 1000);
  job.part = job.planned ? job.done / job.planned : 0;
  job.words = `${job.done} of ${job.planned || "?"} chunks, ${rate.toFixed(1)}/s, ${clock(Math.max(0, job.planned - job.done) / rate)} left`;
  tell();
}

export function list() {
  return h("ul", { class: "jobs", "aria-label": "Uploads and embeddings" }, jobs.slice(0, 30).map((job) => h("li", { class: "panel job", "data-state": job.state },
    h("span", { class: "name", title: job.name }, job.name),
    h("div", { class: "middle" },
      h("progress", { max: 1, value: job.part, "aria-label": `Progress of ${job.name}`, hidden: job.state === "failed" }),
      h("span", { class: `small num ${job.state === "failed" ? "bad" : "dim"}` }, job.words)),
    ["done", "failed"].includes(job.state)
      ? h("button", { class: "quiet", type: "button", "aria-label": `Take ${job.name} off this list`, onclick: () => { jobs.splice(jobs.indexOf(job), 1); tell(); } }, "Clear")
      : h("button", { class: "quiet", type: "button", "aria-label": `Cancel ${job.name}`, onclick: () => job.stop.abort() }, "Cancel"))));
}
