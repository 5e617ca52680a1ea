// A field that searches the catalogue, and a button for every item that it finds.
import { announce, make } from "./dom.js";
import { found } from "./names.js";

const WAIT_MS = 200;

export function picker(root, label, id, pick) {
  const input = make("input", { id, type: "search", autocomplete: "off", spellcheck: "false" });
  const list = make("ul", { class: "found" });
  const problem = make("p", { class: "problem", role: "alert", hidden: true });
  root.replaceChildren(make("div", { class: "search" }, make("label", { for: id }, label), input, problem, list));
  let asked = 0, timer = null;

  async function search() {
    const mine = ++asked, text = input.value.trim();
    if (!text) return list.replaceChildren();
    try {
      const items = await found(text);
      if (mine !== asked) return;
      problem.hidden = true;
      list.replaceChildren(...items.map(choice));
      announce(items.length ? `${items.length} items found` : "No item found");
      if (!items.length) list.append(make("li", { class: "note" }, "No item is called so."));
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
    }
  }

  function choice(item) {
    const said = item.title ? [item.title, " ", make("small", { class: "quiet" }, item.id)] : [item.id];
    const chosen = () => { list.replaceChildren(); input.value = ""; input.focus(); pick(item); };
    return make("li", {}, make("button", { type: "button", click: chosen }, said));
  }

  input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(search, WAIT_MS); });
}
