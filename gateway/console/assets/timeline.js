// A film's chunks as a strip: a picture and a bar of heat for each. Only what is in view is drawn.
import { clock, h } from "./dom.js";

const CELL = 96;
const [PICTURE, BAR, LABEL] = [56, 12, 18];
const HEIGHT = PICTURE + BAR + LABEL;

export class Timeline {
  // `picture(chunk, wanted)` resolves to an address; `choose(chunk)` is called when one is clicked.
  constructor({ picture, choose }) {
    this.picture = picture;
    this.choose = choose;
    this.chunks = [];
    this.scores = new Map();
    this.images = new Map();
    this.at = 0;
    this.canvas = h("canvas", { height: HEIGHT });
    this.room = h("div", { class: "room" });
    this.element = h("div", { class: "timeline", role: "slider", tabindex: "0", "aria-label": "Chunks of the film",
      "aria-valuemin": "0", "aria-valuemax": "0", "aria-valuenow": "0", onkeydown: (event) => this.key(event),
      onscroll: () => this.draw(), onclick: (event) => this.click(event) }, this.canvas, this.room);
    this.sized = new ResizeObserver(() => this.resize());
    this.sized.observe(this.element);
    this.style = getComputedStyle(document.documentElement);
  }

  close() { this.sized.disconnect(); }

  set(chunks) {
    this.chunks = chunks;
    this.room.style.width = `${chunks.length * CELL}px`;
    this.element.setAttribute("aria-valuemax", Math.max(0, chunks.length - 1));
    this.select(Math.min(this.at, Math.max(0, chunks.length - 1)), false);
  }

  heat(scores) {
    this.scores = scores;
    this.lowest = Math.min(...scores.values());
    this.highest = Math.max(...scores.values());
    this.draw();
  }

  resize() {
    const scale = devicePixelRatio || 1;
    this.width = this.element.clientWidth;
    Object.assign(this.canvas, { width: this.width * scale, height: HEIGHT * scale });
    Object.assign(this.canvas.style, { width: `${this.width}px`, height: `${HEIGHT}px` });
    this.draw();
  }

  draw() {
    if (!this.asked) this.asked = requestAnimationFrame(() => { this.asked = 0; this.paint(); });
  }

  paint() {
    if (!this.width) return;
    const scale = devicePixelRatio || 1;
    const pen = this.canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, this.width, HEIGHT);
    pen.font = "11.5px system-ui, sans-serif";
    const colour = (name) => this.style.getPropertyValue(name);
    const probe = getComputedStyle(this.element);
    const left = this.element.scrollLeft;
    const first = Math.max(0, Math.floor(left / CELL));
    const last = Math.min(this.chunks.length, Math.ceil((left + this.width) / CELL));
    for (let index = first; index < last; index++) {
      const x = index * CELL - left;
      const chunk = this.chunks[index];
      pen.fillStyle = "rgb(128 128 128 / .16)";
      pen.fillRect(x + 1, 1, CELL - 2, PICTURE);
      const image = this.image(chunk, index);
      if (image?.naturalWidth) cover(pen, image, x + 1, 1, CELL - 2, PICTURE);
      const score = this.scores.get(chunk.chunk);
      if (score !== undefined) {
        const part = (score - this.lowest) / Math.max(1e-6, this.highest - this.lowest);
        pen.fillStyle = `hsl(20 90% 55% / ${0.12 + 0.88 * part * part})`;
        pen.fillRect(x + 1, PICTURE + 3, CELL - 2, BAR - 5);
      }
      pen.fillStyle = probe.color;
      pen.fillText(chunk.start === null ? `#${chunk.chunk}` : clock(chunk.start), x + 5, HEIGHT - 5);
      if (index === this.at) {
        pen.strokeStyle = colour("--accent").startsWith("light-dark") ? "#3b8cff" : colour("--accent") || "#3b8cff";
        pen.lineWidth = 2.5;
        pen.strokeRect(x + 1.5, 1.5, CELL - 3, PICTURE - 1);
      }
    }
  }

  image(chunk, index) {
    const known = this.images.get(chunk.chunk);
    if (known !== undefined) return known;
    this.images.set(chunk.chunk, null);
    this.picture(chunk, () => this.inView(index)).then((url) => {
      if (!url) {
        if (!this.inView(index)) this.images.delete(chunk.chunk);  // asked for again when it is seen again
        return;
      }
      const image = new Image();
      image.onload = () => this.draw();
      image.src = url;
      this.images.set(chunk.chunk, image);
      if (this.images.size > 1200) this.images.delete(this.images.keys().next().value);
    });
    return null;
  }

  inView(index) {
    const x = index * CELL - this.element.scrollLeft;
    return this.element.isConnected && x > -2 * CELL && x < this.width + 2 * CELL;
  }

  select(index, choose = true) {
    this.at = index;
    const chunk = this.chunks[index];
    this.element.setAttribute("aria-valuenow", index);
    if (chunk) this.element.setAttribute("aria-valuetext", `Chunk ${chunk.chunk}` + (chunk.start === null ? "" : `, ${clock(chunk.start)} to ${clock(chunk.end)}`));
    const x = index * CELL;
    if (x < this.element.scrollLeft || x + CELL > this.element.scrollLeft + this.width) this.element.scrollLeft = x - CELL;
    this.draw();
    if (choose && chunk) this.choose(chunk);
  }

  // Marks the chunk that is being played.
  follow(seconds) {
    const index = this.chunks.findIndex((chunk) => chunk.start !== null && seconds >= chunk.start && seconds < chunk.end);
    if (index >= 0 && index !== this.at) this.select(index, false);
  }

  click(event) {
    const index = Math.floor((event.clientX - this.element.getBoundingClientRect().left + this.element.scrollLeft) / CELL);
    if (index >= 0 && index < this.chunks.length) this.select(index);
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.width / CELL));
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowUp: 1, ArrowDown: -1, PageDown: page, PageUp: -page }[event.key];
    const end = this.chunks.length - 1;
    const target = event.key === "Home" ? 0 : event.key === "End" ? end : step && Math.min(end, Math.max(0, this.at + step));
    if (target === undefined || end < 0) return;
    event.preventDefault();
    this.select(target);
  }
}

function cover(pen, image, x, y, width, height) {
  const scale = Math.max(width / image.naturalWidth, height / image.naturalHeight);
  const [w, h_] = [width / scale, height / scale];
  pen.drawImage(image, (image.naturalWidth - w) / 2, (image.naturalHeight - h_) / 2, w, h_, x, y, width, height);
}
