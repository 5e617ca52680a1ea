// What the token that answers attends to in the history: a chart, and the same as a table.
import { post } from "./api.js";
import { announce, byId, fill, make, say, show } from "./dom.js";
import { named, nameOf } from "./names.js";

const SHOWN = 10, HEIGHT = 220;
let chart = null, drawn = null;

export class Why {
  constructor(history) {
    Object.assign(this, { history, turn: 0, found: null, asked: null });
    byId("why-place").addEventListener("change", () => this.render(false));
    byId("why-all").addEventListener("click", () => this.render(true));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn && plot(...drawn));
    new ResizeObserver(() => chart && chart.setSize({ width: byId("why-chart").clientWidth, height: HEIGHT })).observe(byId("why-chart"));
  }

  async ask(model, item, shownItem, isAgain = false) {
    const turn = ++this.turn, { history } = this;
    this.asked = [model, item, shownItem];
    const body = { ...history.whose, ...model.named, ...(item === null ? {} : { item }) };
    try {
      const found = await post("/v1/why", body);
      if (turn !== this.turn) return;
      this.found = found;
      this.rows = history.rows;
      this.before = history.before;
      say(byId("why-problem"), "");
      byId("why-said").textContent = said(model, item, shownItem);
      this.choices();
      this.render(false);
      if (!isAgain) byId("why-heading").focus();
    } catch (error) {
      if (turn !== this.turn) return;
      show(byId("why"), false);
      say(byId("why-problem"), error.message);
      if (!isAgain) byId("why-heading").focus();
    }
  }

  again() {
    if (this.asked === null || this.history.isEmpty) return this.clear();
    return this.ask(...this.asked, true);
  }

  clear() {
    this.turn++;
    this.asked = null;
    show(byId("why"), false);
    say(byId("why-problem"), "");
    byId("why-said").textContent = "Press Why beside an item: what the model attends to in the history appears here.";
  }

  // Places of one kind have a mean; a softmax's shares and other weights have none together.
  choices() {
    const { places } = this.found, kinds = new Set(places.map(({ softmax }) => softmax));
    const mean = kinds.size === 1 && places.length > 1 ? [make("option", { value: "mean" }, "mean of all")] : [];
    byId("why-place").replaceChildren(...mean, ...places.map(({ name }, place) => make("option", { value: place }, name)));
  }

  render(showsAll) {
    const chosen = byId("why-place").value, isMean = chosen === "mean";
    const { places, heads, tokens } = this.found;
    const isShare = places[isMean ? 0 : Number(chosen)].softmax;
    const used = isMean ? this.found.weights : [this.found.weights[Number(chosen)]];
    const scale = (isShare ? 100 / heads : 1) / used.length;
    const perToken = tokens.map((_, at) => scale * used.reduce((sum, weights) => sum + weights[at], 0));
    const { events, own } = byEvent(tokens, perToken, this.before);
    const unit = isShare ? "%" : "weight";
    byId("why-rest").textContent = rest(isShare, own);
    byId("why-chart").setAttribute("aria-label", `Chart of the ${isShare ? "shares" : "weights"} by event; the table below says the same`);
    show(byId("why"), true);
    drawn = [events.map(({ place }) => place + 1), events.map(({ weight }) => weight), isShare ? "share, %" : "weight"];
    plot(...drawn);
    this.table(events, unit, showsAll);
  }

  table(events, unit, showsAll) {
    const digits = unit === "%" ? 1 : 4;
    const ranked = events.toSorted((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
    const shown = showsAll ? ranked : ranked.slice(0, SHOWN);
    const item = this.history.columns.item, hasParts = events.some(({ parts }) => parts.length > 1);
    const headings = [{ text: "event" }, { text: "item", kind: "title" }, { text: unit }, ...(hasParts ? [{ text: "by token", kind: "text" }] : [])];
    fill(byId("why-events"), "Attention by event, most first", headings, shown.map(({ place, weight, parts }) => make("tr", {},
      make("td", {}, String(place + 1)),
      make("th", { scope: "row", class: "title" }, this.rows[place] ? named(this.rows[place][item]) : "–"),
      make("td", {}, weight.toFixed(digits).replace("-", "−")),
      hasParts ? make("td", { class: "text" }, parts.map(([shows, part]) => `${shows} ${part.toFixed(digits).replace("-", "−")}`).join(", ")) : null)));
    show(byId("why-all"), !showsAll && ranked.length > SHOWN);
    byId("why-all").textContent = `Show all ${ranked.length} events that it sees`;
    announce(`Attention to ${ranked.length} events`);
  }
}

function said(model, item, shownItem) {
  return item === null
    ? `${model.title} predicts what comes next without being told an item. This is what it attends to, for ${nameOf(shownItem)} as for every other.`
    : `What ${model.title} attends to when it predicts the actions on ${nameOf(item)}.`;
}

function rest(isShare, own) {
  const exact = "Summed over heads, in full precision, not estimated.";
  if (!isShare) return `This trunk has no softmax: weights have any sign, and need not sum to anything. ${exact}`;
  return own > 0.05 ? `${own.toFixed(1)} % stays with the item that is asked about. ${exact}` : `Shares of all events sum to 100 %. ${exact}`;
}

// Sums over the tokens of each event; what stays with the event to come is apart.
function byEvent(tokens, weights, before) {
  const events = new Map();
  let own = 0;
  tokens.forEach(({ event, shows }, at) => {
    if (event === null) { own += weights[at]; return; }
    const found = events.get(event) ?? { place: event - before, weight: 0, parts: [] };
    found.weight += weights[at];
    found.parts.push([shows, weights[at]]);
    events.set(event, found);
  });
  return { events: [...events.values()], own };
}

function plot(xs, ys, label) {
  const root = byId("why-chart"), style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  if (chart) chart.destroy();
  const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--rule"), width: 1 }, ticks: { stroke: colour("--rule"), width: 1 } };
  const whole = { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] };
  chart = new uPlot({
    width: root.clientWidth, height: HEIGHT, legend: { show: false }, cursor: { show: false },
    scales: { x: { time: false, range: [xs[0] - 0.7, xs.at(-1) + 0.7] }, y: { range: (_, low, high) => [Math.min(0, low), Math.max(high, 0) || 1] } },
    axes: [{ ...axis, ...whole, label: "event of the history" }, { ...axis, label, size: 60 }],
    series: [{}, { stroke: colour("--bar"), fill: colour("--bar"), paths: uPlot.paths.bars({ size: [0.8, 40] }), points: { show: false } }],
  }, [xs, ys], root);
}
