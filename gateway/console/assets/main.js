// The console's frame: which page is shown, how the service fares, the key, light and dark.
import { address, askForKey, keyHeaders } from "./api.js";
import { every, fill, h } from "./dom.js";

const PAGES = {
  films: async () => { const page = await import("./films.js"); return (view, at, signal) => (at.path.length ? page.film : page.films)(view, at, signal); },
  search: async () => (await import("./search.js")).search,
  cameras: async () => (await import("./cameras.js")).cameras,
  fleet: async () => (await import("./fleet.js")).fleet,
  embeddings: async () => (await import("./embeddings.js")).embeddings,
};
const view = document.getElementById("view");
let left = new AbortController();

async function route(event) {
  left.abort();
  left = new AbortController();
  const { signal } = left;
  const [path, query] = (location.hash.slice(2) || "films").split("?");
  const [name, ...rest] = path.split("/").filter(Boolean).map(decodeURIComponent);
  const page = PAGES[name] ? name : "films";
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#/${page}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${page[0].toUpperCase()}${page.slice(1)} · rt-embed`;
  try {
    const shown = h("div", {});
    const draw = await PAGES[page]();
    if (signal.aborted) return;
    fill(view, shown);
    if (event) view.focus({ preventScroll: true });
    await draw(shown, { path: rest, query: new URLSearchParams(query || "") }, signal);
  } catch (error) {
    if (error.name === "AbortError" || signal.aborted) return;
    fill(view, h("div", { class: "empty", role: "alert" }, h("h1", {}, "That did not work"), h("p", { class: "bad" }, error.message || String(error)), h("p", {}, h("button", { type: "button", onclick: () => route() }, "Try again"))));
  }
}

async function health() {
  const box = document.getElementById("health");
  let [kind, words] = ["bad", "The service does not answer"];
  try {
    const answer = await fetch(address("v1/ready?detailed=true"), { headers: keyHeaders() });
    const told = await answer.json();
    const broken = (told.checks || []).find((check) => !check.healthy);
    [kind, words] = answer.ok ? ["good", "Ready"] : ["bad", broken ? `${broken.component}: ${broken.message}` : told.message || "Not ready"];
  } catch { /* said by the defaults */ }
  if (box.dataset.words === words) return;  // so that a screen reader is told of changes only
  box.dataset.words = words;
  fill(box, h("span", { class: `dot ${kind}`, "aria-hidden": "true" }), h("span", { class: "words" }, words));
}

function theme(next) {
  if (next) { localStorage.setItem("rt-embed-theme", next); document.documentElement.dataset.theme = next; }
}
theme(localStorage.getItem("rt-embed-theme"));
document.getElementById("theme").onclick = () => {
  const now = document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  theme(now === "dark" ? "light" : "dark");
};
document.getElementById("key").onclick = async () => { if (await askForKey()) route(); };
addEventListener("hashchange", route);
every(10, new AbortController().signal, health);
route();
