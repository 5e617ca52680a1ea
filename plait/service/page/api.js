// What the page asks the service. The key, where one is needed, stays in this variable alone.
let key = null;
const DEADLINE_MS = "10000"; // a person waits longer than a shop does

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export function useKey(given) {
  key = given;
}

export function hasKey() {
  return key !== null;
}

async function sent(method, path, body) {
  const headers = { "plait-deadline-ms": DEADLINE_MS };
  if (key !== null) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), credentials: "omit" });
  } catch {
    throw new Refused(0, "The service cannot be reached.");
  }
  if (!response.ok) throw new Refused(response.status, await detailOf(response));
  return response;
}

async function detailOf(response) {
  try {
    const { title, detail } = await response.json();
    return `${title}: ${detail}`;
  } catch {
    return `The service answered with the status ${response.status}.`;
  }
}

export async function get(path, query = []) {
  const address = query.length ? `${path}?${new URLSearchParams(query)}` : path;
  return (await sent("GET", address)).json();
}

export async function post(path, body) {
  return (await sent("POST", path, body)).json();
}

export async function file(path) {
  return (await sent("GET", path)).blob();
}
