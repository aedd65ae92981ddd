// The service's public API, relative to the page's own address so that a proxy's path prefix does not matter.
import { ask, field } from "./dom.js";

const KEY = "rt-embed-key";
const KEY_ATTEMPTS = 5;
let asking = null;

export const apiKey = () => sessionStorage.getItem(KEY) || "";
export const address = (path) => new URL(path, document.baseURI).href.split("#")[0];

export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    Object.assign(this, { status, code, name: "ApiError" });
  }
}

export async function askForKey(why = "") {
  asking ||= ask("API key", [field("Key", "key", { type: "password", autocomplete: "off", value: apiKey() })],
    { submit: "Use it", text: why || "It is kept in this tab until the tab is closed." });
  const given = await asking;
  asking = null;
  if (!given) return false;
  if (given.key) sessionStorage.setItem(KEY, given.key.trim());
  else sessionStorage.removeItem(KEY);
  return true;
}

export const keyHeaders = () => (apiKey() ? { Authorization: `Bearer ${apiKey()}` } : {});

async function problem(response) {
  let told = {};
  try { told = await response.json(); } catch { /* no JSON: the status has to do */ }
  const text = told.message || (typeof told.detail === "string" && told.detail) || `The service answered ${response.status}`;
  return new ApiError(response.status, told.code || "", text);
}

export async function send(method, path, { body, signal, headers } = {}) {
  for (let attempt = 1; ; attempt++) {
    const key = apiKey();
    let response;
    try {
      response = await fetch(address(path), {
        method, signal,
        headers: { ...(body === undefined ? {} : { "Content-Type": "application/json" }), ...keyHeaders(), ...headers },
        body: body === undefined ? undefined : JSON.stringify(body),
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "Unreachable", "The service does not answer");
    }
    if (response.ok) return response;
    const error = await problem(response);
    const needsKey = response.status === 401 || (response.status === 403 && path.startsWith("v1/fleet/"));
    if (!needsKey || attempt === KEY_ATTEMPTS) throw error;
    if (apiKey() === key && !(await askForKey(error.message))) throw error;  // else another request has just asked
  }
}

export const get = async (path, signal) => (await send("GET", path, { signal })).json();
export const post = async (path, body, signal) => (await send("POST", path, { body, signal })).json();
export const remove = async (path) => { await send("DELETE", path); };

// The server-sent events of a request (POST with a body, else GET), each decoded; ends at [DONE].
export async function* events(path, body, signal) {
  const response = await send(body === undefined ? "GET" : "POST", path, { body, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) {
        const data = block.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
        if (data === "[DONE]") return;
        if (data) yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

const isImage = (file) => file.type.startsWith("image/") || /\.(jpe?g|png|webp|gif|bmp|heic|avif)$/i.test(file.name);

export function upload(file, told, signal) {
  return new Promise((resolve, reject) => {
    const form = new FormData();
    form.append("purpose", "vision");
    form.append("media_type", isImage(file) ? "image" : "video");
    form.append("file", file, file.name);
    const request = new XMLHttpRequest();
    request.open("POST", address("v1/files"));
    for (const [name, value] of Object.entries(keyHeaders())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => told(event.loaded, event.total);
    request.onerror = () => reject(new ApiError(0, "Unreachable", "The upload broke off"));
    request.onabort = () => reject(new DOMException("Cancelled", "AbortError"));
    request.onload = () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* told below */ }
      if (request.status === 200) resolve(answer);
      else reject(new ApiError(request.status, answer.code, answer.message || `The service answered ${request.status}`));
    };
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

const LARGEST_WITH_KEY = 500e6;
const blobs = new Map();

// Where <video> and <img> find a file. They cannot send a key, so with one the file is fetched into memory first.
export async function content(file) {
  const path = `v1/files/${encodeURIComponent(file.id)}/content`;
  if (!apiKey()) return address(path);
  if (file.bytes > LARGEST_WITH_KEY) throw new ApiError(0, "", "This film is too large to be played with an API key");
  if (!blobs.has(file.id)) {
    blobs.set(file.id, send("GET", path).then(async (answer) => URL.createObjectURL(await answer.blob())));
    blobs.get(file.id).catch(() => blobs.delete(file.id));
    if (blobs.size > 3) {
      const [oldest, url] = blobs.entries().next().value;
      blobs.delete(oldest);
      url.then((found) => URL.revokeObjectURL(found), () => {});
    }
  }
  return blobs.get(file.id);
}

let served = null;
export async function model() {
  served ||= get("v1/models").then((answer) => answer.data[0]);
  served.catch(() => { served = null; });
  const found = await served;
  if (!found) throw new ApiError(503, "", "No model is loaded yet");
  return found.id;
}

export function floats(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}
