// Events as rows of the log's columns: read from text, and put in order.

export function rowsOf(text) {
  const trimmed = text.trim();
  const rows = trimmed.startsWith("[") || trimmed.startsWith("{") ? fromJson(trimmed) : fromCsv(trimmed);
  if (!rows.length) throw new Error("There are no rows. Give one for each event.");
  return rows;
}

function fromJson(text) {
  let found;
  try {
    found = JSON.parse(text);
  } catch {
    throw new Error("That is no JSON. Give a list of objects, one for each event.");
  }
  const rows = Array.isArray(found) ? found : [found];
  const isRow = (row) => row !== null && typeof row === "object" && !Array.isArray(row);
  if (!rows.every(isRow)) throw new Error("Give a list of objects, one for each event.");
  return rows;
}

function fromCsv(text) {
  const [headings, ...lines] = fieldsOf(text);
  const names = headings.map((name) => name.trim());
  if (!lines.length) throw new Error("Give a line of column names, and below it a line for each event.");
  return lines.map((fields, nth) => {
    if (fields.length !== names.length) throw new Error(`Line ${nth + 2} has ${fields.length} fields, and the first one ${names.length}.`);
    return Object.fromEntries(names.map((name, place) => [name, fields[place].trim()]).filter(([, value]) => value !== ""));
  });
}

// The lines of RFC 4180, whose fields may stand in quotes. Tabs part fields where the first line has any.
function fieldsOf(text) {
  const comma = text.split("\n", 1)[0].includes("\t") ? "\t" : ",";
  const lines = [];
  let fields = [], field = "", isQuoted = false;
  const endField = () => { fields.push(field); field = ""; };
  const endLine = () => { endField(); if (fields.length > 1 || fields[0].trim() !== "") lines.push(fields); fields = []; };
  for (let at = 0; at < text.length; at++) {
    const sign = text[at];
    if (isQuoted && sign === '"' && text[at + 1] === '"') { field += '"'; at++; }
    else if (sign === '"') isQuoted = !isQuoted;
    else if (isQuoted) field += sign;
    else if (sign === comma) endField();
    else if (sign === "\n") endLine();
    else if (sign !== "\r") field += sign;
  }
  if (isQuoted) throw new Error("A quotation mark is not closed.");
  endLine();
  return lines;
}

// Earlier events first; those of one time stay as they are.
export function inOrder(rows, time) {
  if (time === null) return rows;
  const before = (a, b) => {
    const [first, second] = [a[time], b[time]];
    const difference = Number(first) - Number(second);
    return Number.isNaN(difference) ? String(first).localeCompare(String(second), "en") : difference;
  };
  return rows.toSorted(before);
}
