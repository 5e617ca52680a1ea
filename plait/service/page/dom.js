// Elements. Texts of users and catalogues become text nodes, never markup.
const SVG = "http://www.w3.org/2000/svg";

export function byId(id) {
  return document.getElementById(id);
}

export function make(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function draw(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export function show(element, isShown) {
  element.hidden = !isShown;
}

export function say(element, text) {
  element.textContent = text;
  show(element, text !== "");
}

export function announce(text) {
  byId("status").textContent = text;
}

// A table with a caption for screen readers, headings [{text, kind}], and rows of elements.
export function fill(table, caption, headings, rows) {
  const heads = headings.map(({ text, kind }) => make("th", { scope: "col", class: kind }, text));
  table.replaceChildren(
    make("caption", { class: "sr" }, caption), make("thead", {}, make("tr", {}, heads)), make("tbody", {}, rows));
}

export function number(value, digits = 3) {
  return value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−");
}

// How far a number moved since the history was loaded; nothing where it did not, or where nobody knows.
export function moved(now, before, digits = 3) {
  if (now === null || before === null || before === undefined) return null;
  const by = now - before;
  if (Math.abs(by) < 0.5 * 10 ** -digits) return null;
  const sign = by > 0 ? "+" : "−";
  return make("span", { class: `moved ${by > 0 ? "up" : "down"}` }, `${sign}${Math.abs(by).toFixed(digits)}`);
}
