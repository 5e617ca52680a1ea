// What models are asked under: a field for each condition, and what was chosen.
import { get } from "./api.js";
import { announce, byId, make, say, show } from "./dom.js";

export class Conditions {
  constructor(changed) {
    Object.assign(this, { changed, chosen: new Map(), isNumber: new Map(), turn: 0 });
  }

  // A field for each condition that any of these models is asked under; what was chosen stays.
  async showFor(models) {
    const turn = ++this.turn, asked = models.filter(({ reads_condition }) => reads_condition);
    try {
      const found = await Promise.all(asked.map(({ named }) => get("/v1/conditions", Object.entries(named))));
      if (turn !== this.turn) return;
      const together = joined(found.flatMap(({ conditions }) => conditions));
      byId("condition-fields").replaceChildren(...together.map((each, place) => this.field(each, `condition-${place}`)));
      say(byId("conditions-problem"), "");
      show(byId("conditions"), together.length > 0);
    } catch (error) {
      if (turn === this.turn) say(byId("conditions-problem"), error.message);
    }
  }

  field({ name, kind, values, more }, id) {
    this.isNumber.set(name, kind === "number");
    const change = (event) => this.choose(name, event.target.value.trim());
    const input = kind !== "number" && !more ? select(id, values, change) : typed(id, kind, values, change);
    input.value = this.chosen.get(name) ?? "";
    return make("div", { class: "field" }, make("label", { for: id }, name), input,
      input.tagName === "INPUT" && values.length ? make("datalist", { id: `${id}-values` }, values.map((value) => make("option", { value }))) : null);
  }

  choose(name, text) {
    if (text === "") this.chosen.delete(name);
    else this.chosen.set(name, text);
    announce(`Asked under ${name} ${text || "unknown"}`);
    this.changed();
  }

  // What a request to a model says of it; nothing where the model is asked under none.
  of(model) {
    if (!model.reads_condition) return {};
    const mine = model.conditions.filter((name) => this.chosen.has(name));
    return { condition: Object.fromEntries(mine.map((name) => [name, this.value(name)])) };
  }

  value(name) {
    const text = this.chosen.get(name);
    return this.isNumber.get(name) && Number.isFinite(Number(text)) ? Number(text) : text;
  }
}

// What an answer was asked under, in words; null where its model is asked under nothing.
export function under(model, { condition }) {
  if (condition === undefined) return null;
  const said = model.conditions.map((name) => `${name} ${condition[name] ?? "unknown"}`);
  return make("p", { class: "note under" }, `Asked under ${said.join(", ")}.`);
}

// Conditions of one name are one, with the values of all.
function joined(conditions) {
  const found = new Map();
  for (const each of conditions) {
    const known = found.get(each.name);
    const values = known ? [...new Set([...known.values, ...each.values])] : each.values;
    found.set(each.name, { ...each, values, more: Math.max(each.more, known?.more ?? 0) });
  }
  return [...found.values()];
}

function select(id, values, change) {
  return make("select", { id, change }, make("option", { value: "" }, "unknown"), values.map((value) => make("option", { value }, value)));
}

function typed(id, kind, values, change) {
  const mode = kind === "number" ? { inputmode: "decimal" } : { list: values.length ? `${id}-values` : null };
  return make("input", { id, autocomplete: "off", placeholder: "unknown", change, ...mode });
}
