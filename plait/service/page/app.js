// The page: what is served, a history, and what models say of it.
import { Answers } from "./answers.js";
import { get, useKey } from "./api.js";
import { showComparison } from "./comparison.js";
import { Conditions } from "./conditions.js";
import { byId, make, say, show } from "./dom.js";
import { History } from "./history.js";
import { showLayouts } from "./layout.js";
import { askCatalogues } from "./names.js";
import { Why } from "./why.js";

let isBuilt = false;

async function start() {
  let found;
  try {
    found = await get("/v1/models");
  } catch (error) {
    return refused(error);
  }
  say(byId("key-refused"), "");
  show(byId("key-form"), false);
  show(byId("asking"), true);
  if (!isBuilt) build(found.models.map((model) => titled(model, found.models.length > 1)));
}

function refused(error) {
  const wantsKey = error.status === 401 || error.status === 403;
  const isFirst = error.status === 401 && byId("key-form").hidden;
  byId("served").textContent = wantsKey ? "This service asks for a key." : "";
  show(byId("key-form"), wantsKey);
  say(byId("key-refused"), isFirst ? "" : error.message);
  if (wantsKey) byId("key").focus();
}

// One of several models is asked by its name.
function titled(model, isOneOfSeveral) {
  const name = model.name ?? model.model;
  return { ...model, title: `${name} ${model.version}`, named: isOneOfSeveral ? { model: name } : {} };
}

function build(models) {
  isBuilt = true;
  const items = models[0].items.toLocaleString("en");
  byId("served").textContent = `Serves ${models.map(({ title }) => title).join(", ")}: ${items} items.`;
  const history = new History(models[0], (what) => changed(what));
  const why = new Why(history);
  const conditions = new Conditions(() => { if (!history.isEmpty) changed({ isNew: false }); });
  const answers = new Answers(history, conditions, (...asked) => why.ask(...asked));
  const sides = chosen(models, (some) => { beside(some); if (!history.isEmpty) changed({ isNew: false }); });

  function beside(some) {
    answers.models = some;
    askCatalogues(some);
    showLayouts(some);
    conditions.showFor(some);
  }

  async function changed({ isNew }) {
    show(byId("answers"), true);
    if (isNew) why.clear();
    await Promise.all([answers.refresh({ isNew }), isNew ? null : why.again()]);
  }

  beside(sides);
  showComparison();
  history.suggest();
}

// The models side by side: the first two, or others that are picked.
function chosen(models, pick) {
  if (models.length < 2) return models;
  const selects = [byId("first-model"), byId("second-model")];
  selects.forEach((select, at) => {
    select.replaceChildren(...models.map(({ title }, place) => make("option", { value: place }, title)));
    select.value = String(at);
    select.addEventListener("change", () => pick(selects.map(({ value }) => models[Number(value)])));
  });
  show(byId("models"), true);
  return models.slice(0, 2);
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key").value.trim());
  byId("key").value = "";
  start();
});
start();
