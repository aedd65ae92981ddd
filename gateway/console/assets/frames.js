// Pictures of films: the service's own thumbnails where chunks have one, else frames that this browser decodes.
import { content, get } from "./api.js";
import { h } from "./dom.js";

const WIDTH = 320;
const MOST_PICTURES = 800;
const PATIENCE = 15000;
const pictures = new Map();
const unplayable = new Set();
let player = null;
let line = Promise.resolve();

const within = (work, what) => Promise.race([work, new Promise((_, reject) => setTimeout(() => reject(new Error(what)), PATIENCE))]);
const happened = (target, name) => new Promise((resolve, reject) => {
  target.addEventListener(name, resolve, { once: true });
  target.addEventListener("error", () => reject(new Error("This browser cannot play it")), { once: true });
});

async function open(file) {
  if (player?.id === file.id) return player.video;
  if (player) player.video.removeAttribute("src");
  const video = h("video", { muted: true, preload: "auto", playsinline: true });
  player = { id: file.id, video };
  video.src = await content(file);
  await happened(video, "loadeddata");
  return video;
}

async function grab(file, seconds) {
  try {
    const video = await within(open(file), "The film does not load");
    if (video.currentTime !== seconds) {
      const sought = happened(video, "seeked");
      video.currentTime = Math.min(seconds, Math.max(0, video.duration - 0.05));
      await within(sought, "The film does not seek");
    }
    const canvas = h("canvas", { width: WIDTH, height: Math.max(1, Math.round(WIDTH * video.videoHeight / video.videoWidth)) });
    canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.8));
    return URL.createObjectURL(blob);
  } catch (error) {
    player = null;
    unplayable.add(file.id);
    throw error;
  }
}

// The address of a picture of that moment, or null where the browser cannot make one. `wanted` says whether it still is.
export async function frame(file, seconds, wanted = () => true) {
  if (file.media_type === "image") return content(file);
  const key = `${file.id}@${seconds.toFixed(2)}`;
  if (pictures.has(key)) return pictures.get(key);
  const turn = line.then(async () => {
    if (pictures.has(key)) return pictures.get(key);
    if (unplayable.has(file.id) || !wanted()) return null;
    const url = await grab(file, seconds).catch(() => null);
    if (url) keep(key, url);
    return url;
  });
  line = turn;
  return turn;
}

function keep(key, url) {
  pictures.set(key, url);
  if (pictures.size > MOST_PICTURES) {
    const [oldest, found] = pictures.entries().next().value;
    pictures.delete(oldest);
    URL.revokeObjectURL(found);
  }
}

export const thumbnail = (chunk) => (chunk.thumbnail ? `data:image/jpeg;base64,${chunk.thumbnail}` : null);

// The last of these chunks of a film or stream that the search index has, with its thumbnail; null where there is none.
export async function stored(id, chunks, signal) {
  try { return (await get(`v1/search/assets/${encodeURIComponent(id)}?chunks=${chunks}&thumbnails=true&limit=${chunks.length}`, signal)).chunks.at(-1) ?? null; }
  catch { return null; }  // no index, or not there yet
}

// Puts a picture into `box` once it comes into view.
export function show(box, source) {
  const seen = new IntersectionObserver(async ([entry]) => {
    if (!entry.isIntersecting) return;
    seen.disconnect();
    const url = await source(() => box.isConnected);
    if (url) box.prepend(h("img", { src: url, alt: "", loading: "lazy" }));
  }, { rootMargin: "200px" });
  seen.observe(box);
}
