// The fleet: who works, what waits, what was asked for, and what was given up.
import { get, post } from "./api.js";
import { ago, ask, dot, every, failed, fill, h, note, table } from "./dom.js";

const STATES = ["", "running", "done", "failed", "cancelled"];

export async function fleet(view, _, signal) {
  const parts = Object.fromEntries(["problem", "tiles", "workers", "lanes", "search", "requests", "letters"].map((name) => [name, h("div", { id: `fleet-${name}` })]));
  const state = h("select", { "aria-label": "Requests in this state" }, STATES.map((name) => h("option", { value: name }, name || "all")));
  state.style.width = "auto";
  state.onchange = () => look();
  fill(view, h("div", { class: "head" }, h("h1", {}, "Fleet"), h("span", { class: "dim small" }, "Refreshes every 3 s while it is in view")),
    parts.problem, parts.tiles, h("h2", {}, "Workers"), parts.workers, h("h2", {}, "Queues"), parts.lanes, parts.search,
    h("div", { class: "head" }, h("h2", {}, "Requests"), h("label", { class: "row" }, "State", state)), parts.requests, h("h2", {}, "Dead letters"), parts.letters);
  const chosen = new Set();
  let told = "";

  async function once() {
    const wanted = state.value ? `&state=${state.value}` : "";
    const [now, requests, letters, index] = await Promise.all([get("v1/fleet", signal), get(`v1/fleet/requests?limit=50${wanted}`, signal), get("v1/fleet/dead-letters", signal),
      get("v1/search", signal).catch(() => null)]);
    fill(parts.problem, now.problem && h("p", { class: "panel bad", role: "alert" }, now.problem));
    const waiting = now.lanes.reduce((sum, lane) => sum + lane.waiting, 0);
    fill(parts.tiles, h("div", { class: "tiles" }, tile(now.workers.filter((worker) => worker.state === "ready" && worker.healthy).length, `of ${now.workers.length} workers ready`), tile(waiting, "jobs wait"),
      tile(now.lanes.reduce((sum, lane) => sum + lane.pending, 0), "jobs run"), tile(now.outbox.waiting + now.outbox.pending, "messages to send"), index && tile((index.chunks || index.indexers.reduce((sum, each) => sum + each.indexed, 0)).toLocaleString("en"), "chunks indexed, about"), tile(now.dead_letters, "dead letters")));
    fill(parts.workers, now.workers.length ? table("Workers", WORKERS, now.workers) : h("p", { class: "dim" }, "No worker is running."));
    const outbox = { lane: "messages", model: "", waiting: now.outbox.waiting, pending: now.outbox.pending, oldest_s: now.outbox.oldest_s, workers: now.outbox.publishers };
    fill(parts.lanes, table("Queues", LANES, [...now.lanes, outbox]), h("p", { class: "dim small num" }, `Messages: ${now.outbox.sent} sent, ${now.outbox.refused} refused, ${now.outbox.dropped} dropped`));
    fill(parts.search, index && [h("h2", {}, "Search index"), table("Indexers", INDEXERS, index.indexers),
      h("p", { class: "dim small num" }, index.lag_messages === null ? "How far indexers are behind is not known." : `${index.lag_messages} messages wait to be indexed${index.lag_seconds ? `; the oldest is ${ago(index.lag_seconds)} old` : ""}.`)]);
    fill(parts.requests, requests.data.length ? table("Requests", REQUESTS, requests.data) : h("p", { class: "dim" }, "None."));
    const now_told = JSON.stringify(letters.data.map((letter) => letter.id));
    if (now_told !== told) { told = now_told; showLetters(letters); }
  }
  const look = () => once().catch((error) => { if (error.name !== "AbortError") fill(parts.problem, h("p", { class: "panel bad", role: "alert" }, error.message)); });

  function showLetters({ data, total }) {
    for (const id of chosen) if (!data.some((letter) => letter.id === id)) chosen.delete(id);
    if (!data.length) return fill(parts.letters, h("p", { class: "dim" }, "None: every job and message was dealt with."));
    const buttons = [h("button", { type: "button", onclick: () => act("requeue") }, "Requeue"), h("button", { type: "button", class: "danger", onclick: () => act("drop") }, "Drop")];
    const update = () => buttons.forEach((button) => { button.disabled = !chosen.size; });
    const pick = (letter) => {
      const box = h("input", { type: "checkbox", checked: chosen.has(letter.id), "aria-label": `Choose ${letter.id}`, onchange: () => { box.checked ? chosen.add(letter.id) : chosen.delete(letter.id); update(); } });
      return box;
    };
    fill(parts.letters, table("Dead letters", [["Choose", pick], ...LETTERS], data), h("div", { class: "row" }, buttons, total > data.length && h("span", { class: "dim small" }, `${data.length} of ${total} shown`)));
    parts.letters.lastElementChild.style.marginTop = "8px";
    update();
  }

  async function act(what) {
    const ids = [...chosen];
    const many = `${ids.length} dead ${ids.length === 1 ? "letter" : "letters"}`;
    const text = what === "drop" ? "They are deleted for good." : "They go back into their queues, and their requests run again.";
    if (!(await ask(`${what === "drop" ? "Drop" : "Requeue"} ${many}?`, [], { submit: what === "drop" ? "Drop" : "Requeue", danger: what === "drop", text }))) return;
    try {
      const { results } = await post(`v1/fleet/dead-letters/${what}`, { ids });
      for (const each of results) note(`${each.id}: ${each.outcome}`, each.done ? "" : "bad");
      chosen.clear();
      await look();
    } catch (error) { failed(error); }
  }
  every(3, signal, look);
}

const tile = (number, words) => h("div", { class: "tile" }, h("b", {}, String(number)), h("span", {}, words));
const health = (worker) => (worker.state !== "ready" ? "warn" : worker.healthy ? "good" : "bad");
const WORKERS = [
  ["Worker", (w) => [dot(health(w)), " ", w.name]], ["State", (w) => (w.healthy ? w.state : "not well")], ["Model", (w) => w.model || "–"], ["Runs on", (w) => w.gpu || w.backend || "–"],
  ["Running", (w) => w.jobs_running, "right"], ["Done", (w) => w.jobs_done.toLocaleString("en"), "right"], ["Batch", (w) => w.batch_size || "–", "right"], ["Up", (w) => ago(Date.now() / 1000 - w.started), "right"], ["Note", (w) => w.detail, "wrap"],
];
const LANES = [
  ["Queue", (l) => l.lane], ["Model", (l) => l.model || "–"], ["Waiting", (l) => l.waiting, "right"], ["Taken", (l) => l.pending, "right"], ["Oldest", (l) => ago(l.oldest_s), "right"],
  ["Taken by", (l) => l.workers.filter((w) => w.pending).map((w) => `${w.name}: ${w.pending}`).join(", ") || "–", "wrap"],
];
const INDEXERS = [["Indexer", (i) => [dot(i.state === "indexing" ? "good" : "warn"), " ", i.name]], ["State", (i) => i.state], ["Reads", (i) => `${i.bus} ${i.topic}`], ["Indexed", (i) => i.indexed.toLocaleString("en"), "right"], ["Refused", (i) => i.refused, "right"], ["Note", (i) => i.detail, "wrap"]];
const REQUESTS = [
  ["Request", (r) => h("code", { title: r.id }, r.id.slice(0, 8))], ["Lane", (r) => r.lane], ["State", (r) => h("span", { class: r.state === "failed" ? "bad" : r.state === "done" ? "good" : "" }, r.state)],
  ["Chunks", (r) => (r.chunks_planned ? `${r.chunks_done} of ${r.chunks_planned}` : r.chunks_done), "right"], ["Age", (r) => ago(r.age_s), "right"], ["Took", (r) => ago(r.ran_s), "right"], ["Model", (r) => r.model],
];
const LETTERS = [["Letter", (l) => h("code", {}, l.id)], ["Queue", (l) => l.lane || "messages"], ["Request", (l) => h("code", { title: l.request }, l.request.slice(0, 8))], ["Tries", (l) => l.deliveries ?? "–", "right"], ["Age", (l) => ago(l.age_s), "right"], ["Why", (l) => l.error, "wrap"]];
