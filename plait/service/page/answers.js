// Recommendations and scores of one model or two, each beside how far it moved since the history was loaded.
import { post } from "./api.js";
import { under } from "./conditions.js";
import { byId, fill, make, moved, number, show } from "./dom.js";
import { learn, named, nameOf } from "./names.js";
import { picker } from "./picker.js";

const SHOWN = 10, COMPARED = 100; // items that are shown; of the loaded history, to tell how far they moved

export class Answers {
  constructor(history, conditions, why) {
    Object.assign(this, { history, conditions, why, models: [], scored: [], turn: 0 });
    this.loaded = new Map(); // of each model, by item: what was answered of the loaded history
    picker(byId("score-item"), "Search the catalogue by id or title", "score-search", (item) => this.score(item.id));
  }

  // Asks everything again, where the history or the models changed. An older turn's answers are not shown.
  async refresh({ isNew }) {
    const turn = ++this.turn;
    if (isNew) this.loaded.clear();
    show(byId("moved-said"), this.history.isChanged);
    if (this.history.isEmpty) return this.clear();
    await Promise.all([
      this.filled("recommended", turn, (model) => this.recommendations(model)),
      this.filled("scored", turn, (model) => this.scores(model)),
    ]);
  }

  clear() {
    for (const id of ["recommended", "scored"]) byId(id).replaceChildren(make("p", { class: "note" }, "No event is left to ask from."));
  }

  async score(id) {
    if (!this.scored.includes(id)) this.scored = [...this.scored, id];
    await this.filled("scored", this.turn, (model) => this.scores(model));
  }

  async filled(id, turn, side) {
    const made = await Promise.all(this.models.map(async (model) => {
      const inner = await side(model).catch((error) => [make("p", { class: "problem", role: "alert" }, error.message)]);
      return inner === null ? null : make("div", { class: "side" }, make("h3", {}, model.title), inner);
    }));
    if (turn !== this.turn) return;
    const root = byId(id);
    root.classList.toggle("two", this.models.length > 1);
    root.replaceChildren(...made.filter((element) => element !== null));
  }

  async recommendations(model) {
    if (!model.can_retrieve) return [make("p", { class: "note" }, "This layout predicts no items. Score items below.")];
    const asked = { with_actions: model.can_score, ...model.named, ...this.conditions.of(model) };
    const before = await this.before(model, `retrieve ${JSON.stringify(asked)}`, () => post("/v1/retrieve", { ...this.history.whoseLoaded, ...asked, k: COMPARED }));
    const found = this.history.isChanged ? await post("/v1/retrieve", { ...this.history.whose, ...asked, k: SHOWN }) : before.answer;
    const items = found.items.slice(0, SHOWN);
    await learn(items);
    const columns = Object.keys(found.actions ?? {});
    const table = make("table");
    const rows = items.map((id, place) => this.line(model, id, [
      ["score", found.scores[place], before.of("score", id)],
      ...columns.map((name) => [name, found.actions[name][place], before.of(name, id)])], place, before));
    fill(table, `Recommended by ${model.title}`, this.headings(["score", ...columns], true), rows);
    return [under(model, asked), notice(found), scrolled(`Recommended by ${model.title}`, table)];
  }

  async scores(model) {
    if (!this.scored.length) return null;
    if (!model.can_score) return [make("p", { class: "note" }, "This layout scores no given item.")];
    const asked = { items: this.scored, ...model.named, ...this.conditions.of(model) };
    const before = await this.before(model, `score ${JSON.stringify(asked)}`, () => post("/v1/score", { ...this.history.whoseLoaded, ...asked }));
    const found = this.history.isChanged ? await post("/v1/score", { ...this.history.whose, ...asked }) : before.answer;
    const columns = Object.keys(found.actions), table = make("table");
    const rows = found.items.map((id, place) => found.status[place] === "ok"
      ? this.line(model, id, columns.map((name) => [name, found.actions[name][place], before.of(name, id)]), null, null)
      : make("tr", {}, make("th", { scope: "row", class: "title" }, named(id)), make("td", { colspan: columns.length + 1 }, found.status[place])));
    fill(table, `Scored by ${model.title}`, this.headings(columns, false), rows);
    return [under(model, asked), notice(found), scrolled(`Scored by ${model.title}`, table)];
  }

  async before(model, kind, ask) {
    const name = `${model.title} ${kind}`;
    if (!this.loaded.has(name)) {
      const asking = ask().then((answer) => compared(answer));
      this.loaded.set(name, asking);
      asking.catch(() => this.loaded.delete(name));
    }
    return this.loaded.get(name);
  }

  headings(columns, isRanked) {
    const ranks = isRanked ? [{ text: "rank" }] : [];
    return [...ranks, { text: "item", kind: "title" }, { text: "why" }, ...columns.map((text) => ({ text }))];
  }

  line(model, id, numbers, place, before) {
    const cells = numbers.map(([, now, then]) => make("td", {}, number(now), this.history.isChanged ? moved(now, then) : null));
    const label = `Why ${nameOf(id)}, by ${model.title}`;
    const asked = model.can_score ? id : null;
    const button = make("button", { type: "button", "aria-label": label, click: () => this.why(model, asked, id) }, "Why");
    const why = model.reads_condition ? "–" : button; // of an answer under a condition nobody tells why
    const rank = place === null ? null : make("td", {}, String(place + 1), this.history.isChanged ? rankMoved(place, before.places.get(String(id))) : null);
    return make("tr", {}, rank, make("th", { scope: "row", class: "title" }, named(id)), make("td", {}, why), cells);
  }
}

function compared(answer) {
  const places = new Map(answer.items.map((id, place) => [String(id), place]));
  const of = (column, id) => {
    const values = column === "score" ? answer.scores : answer.actions?.[column];
    return places.has(String(id)) ? values?.[places.get(String(id))] : undefined;
  };
  return { answer, places, of };
}

function rankMoved(now, then) {
  if (then === undefined) return make("small", {}, "new");
  return now === then ? null : make("small", {}, `was ${then + 1}`);
}

function notice(found) {
  return found.answered_by === "model" ? null : make("p", { class: "note" }, `Counts answered, not the model: ${found.why}.`);
}

function scrolled(label, table) {
  return make("div", { class: "scroll", role: "region", "aria-label": label, tabindex: "0" }, table);
}
