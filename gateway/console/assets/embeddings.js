// Trying the model: how like each other texts and pictures are, and a film's chunks as a map.
import { floats, get, model, post } from "./api.js";
import { clock, failed, fill, h, note } from "./dom.js";

const MOST = 12;

export async function embeddings(view, _, signal) {
  const files = (await get("v1/files?purpose=vision", signal)).data.filter((file) => file.media_type === "video");
  const texts = h("textarea", { rows: 4, id: "texts", value: "a dog in the snow\na cat on a sofa\na red car" });
  const pictures = [];
  const strip = h("div", { class: "row" });
  const chooser = h("input", { type: "file", accept: "image/*", multiple: true, hidden: true, onchange: () => take([...chooser.files]) });
  const result = h("div", { role: "status" });
  const film = h("select", { id: "film" }, files.map((file) => h("option", { value: file.id }, file.filename)));
  const map = h("div", {});
  fill(view, h("div", { class: "head" }, h("h1", {}, "Embeddings")),
    h("section", { class: "panel", "aria-label": "Similarity" }, h("label", { for: "texts" }, `Texts, one a line; up to ${MOST} with pictures`), texts, strip,
      h("p", { class: "row" }, h("button", { type: "button", class: "main", onclick: () => compare().catch(failed) }, "Compare"), chooser, h("button", { type: "button", onclick: () => chooser.click() }, "Add pictures")), result),
    h("section", { class: "panel", "aria-label": "Map" }, h("h2", {}, "A film as a map"), h("p", { class: "dim small" }, "Each dot is a chunk; near dots look alike. The colour runs from the film's start to its end. Two principal components of the indexed vectors."),
      files.length ? h("p", { class: "row" }, h("label", {}, "Film", film), h("button", { type: "button", onclick: () => draw().catch(failed) }, "Draw")) : h("p", { class: "dim" }, "There are no films yet."), map));

  async function take(chosen) {
    for (const file of chosen.slice(0, MOST)) {
      if (file.size > 20e6) { note(`${file.name} is larger than 20 MB`, "bad"); continue; }
      const url = await new Promise((resolve) => { const reader = new FileReader(); reader.onload = () => resolve(reader.result); reader.readAsDataURL(file); });
      pictures.push({ name: file.name, url });
    }
    fill(strip, pictures.map((each) => h("button", { type: "button", "aria-label": `Remove ${each.name}`, onclick: () => { pictures.splice(pictures.indexOf(each), 1); take([]); } }, each.name, " ×")));
  }

  async function compare() {
    const lines = texts.value.split("\n").map((line) => line.trim()).filter(Boolean);
    const items = [...lines.map((text) => ({ name: text, input: text })), ...pictures.map((each) => ({ ...each, input: each.url }))].slice(0, MOST);
    if (items.length < 2) return note("Give at least two texts or pictures", "bad");
    const answer = await post("v1/embeddings", { model: await model(), input: items.map((item) => item.input), encoding_format: "base64" }, signal);
    const vectors = answer.data.sort((a, b) => a.index - b.index).map((each) => floats(each.embedding));
    const label = (item) => (item.url ? h("img", { src: item.url, alt: item.name }) : item.name);
    const rows = items.map((item, i) => h("tr", {}, h("th", { scope: "row", title: item.name }, label(item)), vectors.map((other) => {
      const score = cosine(vectors[i], other);
      const cell = h("td", {}, score.toFixed(3));
      cell.style.background = `hsl(210 80% 50% / ${Math.max(0, score) ** 2 * 0.35})`;
      return cell;
    })));
    fill(result, h("div", { class: "tablebox matrix", tabindex: "0", role: "region", "aria-label": "Cosine similarity" },
      h("table", {}, h("thead", {}, h("tr", {}, h("td", {}), items.map((item) => h("th", { scope: "col", title: item.name }, label(item))))), h("tbody", {}, rows))));
  }

  async function draw() {
    const chunks = [];
    for (let more = true; more && chunks.length < 5000;) {
      const page = await get(`v1/search/assets/${film.value}?embeddings=true&encoding_format=base64&after=${chunks.length}&limit=500`, signal);
      chunks.push(...page.chunks);
      more = page.more;
    }
    const points = project(chunks.map((chunk) => floats(chunk.embedding)));
    const canvas = h("canvas", { class: "map", role: "img", "aria-label": `Map of ${chunks.length} chunks` });
    const words = h("p", { class: "dim small num" }, `${chunks.length} chunks. Point at a dot for its time; click to play from there.`);
    fill(map, canvas, words);
    plot(canvas, points, chunks, words, (chunk) => { location.hash = `#/films/${film.value}?t=${chunk.start ?? 0}`; });
  }
}

function cosine(a, b) {
  let [dot, first, second] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) { dot += a[i] * b[i]; first += a[i] * a[i]; second += b[i] * b[i]; }
  return dot / Math.sqrt(first * second || 1);
}

// Two principal components, by power iteration on the centred vectors.
export function project(vectors) {
  const count = vectors.length;
  const dimension = vectors[0].length;
  const mean = new Float64Array(dimension);
  for (const vector of vectors) for (let i = 0; i < dimension; i++) mean[i] += vector[i] / count;
  const rows = vectors.map((vector) => Float64Array.from(vector, (value, i) => value - mean[i]));
  const axes = [];
  for (let component = 0; component < 2; component++) {
    let axis = Float64Array.from({ length: dimension }, (_, i) => Math.sin(i + 1 + component));
    for (let turn = 0; turn < 40; turn++) {
      const next = new Float64Array(dimension);
      for (const row of rows) { let along = 0; for (let i = 0; i < dimension; i++) along += row[i] * axis[i]; for (let i = 0; i < dimension; i++) next[i] += along * row[i]; }
      for (const other of axes) { let along = 0; for (let i = 0; i < dimension; i++) along += next[i] * other[i]; for (let i = 0; i < dimension; i++) next[i] -= along * other[i]; }
      const length = Math.hypot(...next) || 1;
      axis = next.map((value) => value / length);
    }
    axes.push(axis);
  }
  return rows.map((row) => axes.map((axis) => row.reduce((sum, value, i) => sum + value * axis[i], 0)));
}

function plot(canvas, points, chunks, words, choose) {
  const scale = devicePixelRatio || 1;
  const [width, height, edge] = [canvas.clientWidth, canvas.clientHeight, 24];
  Object.assign(canvas, { width: width * scale, height: height * scale });
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const range = [0, 1].map((axis) => { const values = points.map((point) => point[axis]); return [Math.min(...values), Math.max(...values)]; });
  const place = (value, [low, high], room) => edge + (value - low) / Math.max(1e-9, high - low) * (room - 2 * edge);
  const spots = points.map(([x, y]) => [place(x, range[0], width), height - place(y, range[1], height)]);
  spots.forEach(([x, y], i) => {
    pen.fillStyle = `hsl(${220 + 130 * i / Math.max(1, spots.length - 1)} 75% 55% / .85)`;
    pen.beginPath(); pen.arc(x, y, 5, 0, 2 * Math.PI); pen.fill();
  });
  const nearest = (event) => {
    const [x, y] = [event.offsetX, event.offsetY];
    const best = spots.map((spot, i) => [Math.hypot(spot[0] - x, spot[1] - y), i]).sort((a, b) => a[0] - b[0])[0];
    return best && best[0] < 14 ? chunks[best[1]] : null;
  };
  canvas.onpointermove = (event) => { const found = nearest(event); canvas.style.cursor = found ? "pointer" : ""; if (found) words.textContent = found.start === null ? `Chunk ${found.chunk}` : `Chunk ${found.chunk}: ${clock(found.start)} to ${clock(found.end)}`; };
  canvas.onclick = (event) => { const found = nearest(event); if (found) choose(found); };
}
