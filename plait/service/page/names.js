// What people call items, asked for once.
import { get } from "./api.js";
import { make } from "./dom.js";

const titles = new Map();
const MOST = 100; // ids in one address

export async function learn(ids) {
  const unknown = [...new Set(ids.map(String))].filter((id) => !titles.has(id));
  for (let at = 0; at < unknown.length; at += MOST) {
    const { items } = await get("/v1/items", unknown.slice(at, at + MOST).map((id) => ["id", id]));
    remember(items);
  }
}

export function remember(items) {
  for (const { id, title } of items) titles.set(id, title);
}

export function nameOf(id) {
  return titles.get(String(id)) ?? String(id);
}

// The title with the id below it; the id alone where there is no title.
export function named(id) {
  const title = titles.get(String(id));
  return title ? [title, make("small", {}, String(id))] : [String(id)];
}
