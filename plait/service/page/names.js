// What people call items, asked for once.
import { get } from "./api.js";
import { make } from "./dom.js";

const titles = new Map(), asked = new Set(); // what each catalogue was asked
const MOST = 100, MOST_FOUND = 20; // ids in one address; items of a search
let catalogues = [[]]; // what names each model that is shown, in an address

// The models whose catalogues are asked from now on.
export function askCatalogues(models) {
  catalogues = models.map(({ named }) => Object.entries(named));
}

export async function learn(ids) {
  for (const of of catalogues) {
    const unknown = [...new Set(ids.map(String))].filter((id) => !titles.get(id) && !asked.has(`${of} ${id}`));
    for (let at = 0; at < unknown.length; at += MOST) {
      const some = unknown.slice(at, at + MOST);
      const { items } = await get("/v1/items", [...some.map((id) => ["id", id]), ...of]);
      some.forEach((id) => asked.add(`${of} ${id}`));
      remember(items);
    }
  }
}

// What any of the catalogues has, the first one's items first.
export async function found(text) {
  const lists = await Promise.all(catalogues.map((of) => get("/v1/items", [["search", text], ["k", MOST_FOUND], ...of])));
  const items = new Map(lists.flatMap(({ items }) => items).reverse().map((item) => [item.id, item]));
  remember([...items.values()]);
  return [...items.values()].reverse().slice(0, MOST_FOUND);
}

function remember(items) {
  for (const { id, title } of items) if (title !== null || !titles.has(id)) titles.set(id, title);
}

export function nameOf(id) {
  return titles.get(String(id)) ?? String(id);
}

// The title with the id below it; the id alone where there is no title.
export function named(id) {
  const title = titles.get(String(id));
  return title ? [title, make("small", {}, String(id))] : [String(id)];
}
