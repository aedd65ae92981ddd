// Building the page. Text from the service only ever becomes text nodes and attributes, never markup.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "value" || name === "checked" || name === "muted" || name === "currentTime") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const fill = (element, ...children) => element.replaceChildren(...children.flat(3).filter(Boolean));

export function note(text, kind = "") {
  const box = h("div", { class: `note ${kind}` }, h("span", {}, text));
  box.append(h("button", { class: "quiet", type: "button", onclick: () => box.remove() }, "Close"));
  const notes = document.getElementById("notes");
  notes.append(box);
  while (notes.childElementCount > 4) notes.firstElementChild.remove();
  setTimeout(() => box.remove(), kind === "bad" ? 30000 : 6000);
}

export const failed = (error) => {
  if (error.name !== "AbortError") note(error.message || String(error), "bad");
};

// A dialog with a form; resolves to its values by name, or to null when it was closed.
export function ask(title, fields, { submit = "OK", danger = false, text = "" } = {}) {
  return new Promise((resolve) => {
    const form = h("form", { method: "dialog" }, text && h("p", { class: "dim" }, text), fields,
      h("div", { class: "row" },
        h("button", { type: "button", onclick: () => box.close() }, "Cancel"),
        h("button", { class: danger ? "danger" : "main", value: "yes" }, submit)));
    const box = h("dialog", { "aria-label": title }, h("h2", {}, title), form);
    box.addEventListener("close", () => {
      const values = box.returnValue === "yes" ? Object.fromEntries(new FormData(form)) : null;
      box.remove();
      resolve(values);
    });
    document.body.append(box);
    box.showModal();
  });
}

export const field = (label, name, attributes = {}) => h("label", {}, label, h("input", { name, ...attributes }));

export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const rest = String(whole % 60).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

export function ago(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 90) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

export function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) [bytes, unit] = [bytes / 1000, unit + 1];
  return `${bytes < 10 && unit ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
}

export function table(caption, columns, rows) {
  return h("div", { class: "tablebox", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {}, h("thead", {}, h("tr", {}, columns.map(([name, , kind]) => h("th", { scope: "col", class: kind }, name)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, columns.map(([, cell, kind]) => h("td", { class: kind }, cell(row))))))));
}

export const facts = (pairs) => h("dl", { class: "facts" },
  Object.entries(pairs).filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));

export const dot = (kind) => h("span", { class: `dot ${kind}`, "aria-hidden": "true" });

// Calls `work` now and then every `seconds`, one at a time and only while the page is seen, until `signal` ends it.
export function every(seconds, signal, work) {
  let timer = 0;
  let busy = false;
  const turn = async () => {
    if (signal.aborted || document.hidden || busy) return;
    clearTimeout(timer);
    busy = true;
    await work().catch(() => {});
    busy = false;
    if (!signal.aborted) timer = setTimeout(turn, seconds * 1000);
  };
  document.addEventListener("visibilitychange", turn, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  turn();
  return turn;
}
