// A layout: its tokens and what they predict, who sees whom, and its audit.
import { get } from "./api.js";
import { byId, draw, make } from "./dom.js";

const SIDE = 16, TOP = 36;

export async function showLayouts(models) {
  const sides = await Promise.all(models.map(async (model) => {
    try {
      return side(model.title, await get("/v1/layout", Object.entries({ ...model.named })));
    } catch (error) {
      return make("p", { class: "problem", role: "alert" }, error.message);
    }
  }));
  byId("layout").classList.toggle("two", models.length > 1);
  byId("layout").replaceChildren(...sides);
}

function side(title, found) {
  const audit = Object.entries(found.audit).flatMap(([name, said]) => [make("dt", {}, name), make("dd", {}, said)]);
  return make("div", { class: "side" },
    make("h3", {}, title), make("p", {}, make("code", {}, found.layout)),
    make("p", { class: "note" }, "Tokens of three events, and above each what it predicts:"),
    scrolled(`Tokens of ${title}`, sequence(found)),
    make("p", { class: "note" }, "Mask: which token sees which, candidates x0 and x1 included:"),
    scrolled(`Mask of ${title}`, mask(title, found)), make("dl", {}, audit));
}

function scrolled(label, inner) {
  return make("div", { class: "scroll", role: "region", "aria-label": label, tabindex: "0" }, inner);
}

function sequence({ tokens, predicts }) {
  return make("ol", { class: "sequence" }, predicts.map((predicted, at) => make("li", {},
    make("span", {}, make("span", { class: "sr" }, "predicts "), predicted ? chips(predicted.split(", ")) : "nothing"),
    make("span", { "aria-hidden": "true" }, "↑"),
    make("span", {}, make("span", { class: "sr" }, "from a token that shows "), chips(tokens[at].split(" "))))));
}

function chips(facts) {
  const kinds = { i: "item", a: "action" };
  return facts.map((fact) => make("span", { class: `chip ${kinds[fact[0]] ?? "other"}` }, fact));
}

function mask(title, { tokens, mask }) {
  const left = 26 + 7.4 * (3 + Math.max(...tokens.map((token) => token.length))), extent = tokens.length * SIDE;
  const [width, height] = [Math.round(left + extent + 4), TOP + extent + 4];
  const at = (place) => (place + 0.5) * SIDE;
  const svg = draw("svg", { class: "mask", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": spoken(title, tokens, mask) },
    draw("text", { x: left + extent / 2, y: 12, "text-anchor": "middle" }, "is seen"),
    draw("text", { transform: `translate(12,${TOP + extent / 2}) rotate(-90)`, "text-anchor": "middle" }, "sees"));
  tokens.forEach((token, row) => {
    svg.append(
      draw("text", { x: left + at(row), y: 29, "text-anchor": "middle" }, String(row)),
      draw("text", { class: "mono", x: left - 6, y: TOP + at(row) + 4, "text-anchor": "end" }, `${row} ${token}`),
      ...[...mask[row]].map((sees, column) => sees === "1"
        ? draw("rect", { class: "sees", x: left + column * SIDE + 1, y: TOP + row * SIDE + 1, width: SIDE - 2, height: SIDE - 2, rx: 2 })
        : draw("circle", { class: "blind", cx: left + at(column), cy: TOP + at(row), r: 1.5 })));
  });
  return svg;
}

function spoken(title, tokens, mask) {
  const lines = tokens.map((token, row) => {
    const seen = tokens.filter((_, column) => mask[row][column] === "1");
    return `${token} sees ${seen.length ? seen.join("; ") : "nothing"}`;
  });
  return `Mask of ${title}. ${lines.join(". ")}.`;
}
