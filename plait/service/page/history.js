// The history that is asked from: a user's or a pasted one, and what was changed in it.
import { get } from "./api.js";
import { announce, byId, fill, make, say, show } from "./dom.js";
import { learn, nameOf, named } from "./names.js";
import { picker } from "./picker.js";
import { inOrder, rowsOf } from "./rows.js";

const SHOWN = 20; // events, the latest

export class History {
  constructor(model, changed) {
    this.columns = model.columns;
    this.actions = model.actions;
    this.changed = changed;
    this.showsAll = false;
    this.chosen = null;
    this.begin(null, 0, []);
    this.listen();
  }

  begin(user, before, rows) {
    Object.assign(this, { user, before, loaded: rows, rows, isChanged: false });
  }

  // What says whose answer it is, now and as it was loaded.
  get whose() {
    return this.isChanged ? this.asRows(this.rows) : this.whoseLoaded;
  }

  get whoseLoaded() {
    return this.user === null ? this.asRows(this.loaded) : { user: this.user };
  }

  asRows(rows) {
    return this.before ? { history: rows, before: this.before } : { history: rows };
  }

  get isEmpty() {
    return this.rows.length === 0;
  }

  listen() {
    byId("paste-columns").textContent = this.names.join(", ");
    byId("user").addEventListener("input", () => this.suggest());
    byId("user-form").addEventListener("submit", (event) => { event.preventDefault(); this.load(byId("user").value.trim()); });
    byId("paste-form").addEventListener("submit", (event) => { event.preventDefault(); this.paste(byId("paste").value); });
    byId("undo").addEventListener("click", () => this.change(this.loaded, "All changes undone"));
    byId("show-all").addEventListener("click", () => { this.showsAll = true; this.render(); });
    byId("add-form").addEventListener("submit", (event) => { event.preventDefault(); this.add(); });
    picker(byId("add-item"), "Search the catalogue by id or title", "add-search", (item) => this.choose(item));
    byId("add-fields").replaceChildren(...this.names.slice(1).map((name) =>
      make("div", {}, make("label", { for: `add-${name}` }, name), make("input", { id: `add-${name}`, autocomplete: "off" }))));
  }

  get names() {
    const { item, time } = this.columns;
    return [item, ...(time === null ? [] : [time]), ...this.actions];
  }

  async suggest() {
    try {
      const { users } = await get("/v1/users", [["search", byId("user").value.trim()]]);
      byId("users").replaceChildren(...users.map((user) => make("option", { value: user })));
    } catch {
      byId("users").replaceChildren(); // loading says what is wrong
    }
  }

  async load(user) {
    await this.take(async () => {
      const { before, history } = await get(`/v1/users/${encodeURIComponent(user)}`);
      return [user, before, history.map(({ event }) => event)];
    });
  }

  async paste(text) {
    await this.take(async () => [null, 0, inOrder(rowsOf(text), this.columns.time)]);
  }

  async take(ask) {
    try {
      const [user, before, rows] = await ask();
      await learn(rows.map((row) => row[this.columns.item]));
      this.begin(user, before, rows);
      this.showsAll = false;
      say(byId("history-problem"), "");
      this.render();
      announce(`A history of ${rows.length} events`);
      this.changed({ isNew: true });
    } catch (error) {
      say(byId("history-problem"), error.message);
    }
  }

  change(rows, said) {
    this.rows = inOrder(rows, this.columns.time);
    this.isChanged = rows !== this.loaded;
    this.render();
    announce(said);
    this.changed({ isNew: false });
  }

  set(place, name, value) {
    const { [name]: _, ...rest } = this.rows[place];
    const row = value === "" ? rest : { ...rest, [name]: value };
    this.change(this.rows.with(place, row), `${name} of event ${place + 1} changed`);
  }

  drop(place) {
    this.change(this.rows.toSpliced(place, 1), `Event ${place + 1} dropped`);
    (byId("events").querySelector("button") ?? byId("undo")).focus();
  }

  choose(item) {
    this.chosen = item.id;
    byId("add-chosen").textContent = nameOf(item.id);
    const { time } = this.columns;
    if (time !== null && !this.isEmpty && byId(`add-${time}`).value === "") byId(`add-${time}`).value = this.rows.at(-1)[time];
  }

  add() {
    if (this.chosen === null) return say(byId("history-problem"), "Search an item first, and choose it.");
    const values = this.names.slice(1).map((name) => [name, byId(`add-${name}`).value.trim()]);
    const row = { [this.columns.item]: this.chosen, ...Object.fromEntries(values.filter(([, value]) => value !== "")) };
    say(byId("history-problem"), "");
    this.change([...this.rows, row], `${nameOf(this.chosen)} added`);
  }

  render() {
    const from = this.showsAll ? 0 : Math.max(0, this.rows.length - SHOWN);
    const others = [...new Set(this.rows.flatMap(Object.keys))].filter((name) => !this.names.includes(name));
    const headings = [
      { text: "#" }, { text: this.columns.item, kind: "title" }, { text: "change" },
      ...this.names.slice(1).map((text) => ({ text })), ...others.map((text) => ({ text }))];
    const rows = this.rows.map((row, place) => [row, place]).slice(from).reverse();
    fill(byId("events"), "Events, the latest first", headings, rows.map(([row, place]) => this.line(row, place, others)));
    show(byId("history"), true);
    show(byId("show-all"), from > 0);
    byId("show-all").textContent = `Show all ${this.rows.length} events`;
    byId("undo").disabled = !this.isChanged;
    byId("history-said").textContent = this.said;
  }

  get said() {
    const whose = this.user === null ? "The pasted history" : `User ${this.user}`;
    const dropped = this.before ? `, behind ${this.before} that the store has dropped` : "";
    return `${whose}: ${this.rows.length} events${dropped}${this.isChanged ? ". Changed here alone; nothing is stored." : "."}`;
  }

  line(row, place, others) {
    const id = row[this.columns.item], what = `event ${place + 1}, ${nameOf(id)}`;
    const fields = this.names.slice(1).map((name) => make("td", {}, this.field(row, place, name, what)));
    return make("tr", {},
      make("td", {}, String(place + 1)), make("th", { scope: "row", class: "title" }, named(id)),
      make("td", {}, make("button", { type: "button", "aria-label": `Drop ${what}`, click: () => this.drop(place) }, "Drop")),
      fields, others.map((name) => make("td", {}, String(row[name] ?? ""))));
  }

  field(row, place, name, what) {
    const kind = name === this.columns.time ? "time" : "number";
    const changed = (event) => this.set(place, name, event.target.value.trim());
    const input = make("input", { class: kind, "aria-label": `${name} of ${what}`, autocomplete: "off", change: changed });
    input.value = row[name] ?? "";
    return input;
  }
}
