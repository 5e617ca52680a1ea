// The tables of the comparison that the run lies in, where it lies in one.
import { file, get, hasKey } from "./api.js";
import { byId, fill, make, show } from "./dom.js";

const REPORT = "/v1/comparison/report.html";

export async function showComparison() {
  let found;
  try {
    found = await get("/v1/comparison");
  } catch {
    return show(byId("comparison"), false);
  }
  byId("comparison-said").textContent = `On ${found.dataset}, ${found.date}. ${found.protocol}`;
  byId("comparison-verdict").replaceChildren(...found.verdict.map((line) => make("li", {}, line)));
  const headings = [{ text: "layout", kind: "text" }, ...found.metrics.map((text) => ({ text }))];
  fill(byId("comparison-table"), "Metrics by layout, with 95 % intervals", headings, found.summaries.map(({ layout, metrics }) =>
    make("tr", {}, make("th", { scope: "row", class: "text" }, layout), found.metrics.map((name) => cell(metrics[name])))));
  byId("comparison-report").replaceChildren(report());
  show(byId("comparison"), true);
}

function cell(metric) {
  const its = metric?.estimate;
  if (!its || its.value === null) return make("td", {}, "–");
  const between = its.low === null ? null : make("small", {}, `${its.low.toFixed(4)} to ${its.high.toFixed(4)}`);
  return make("td", {}, its.value.toFixed(4), between);
}

// A link sends no key, so that with keys the report is fetched and saved.
function report() {
  if (!hasKey()) return make("a", { href: REPORT }, "The whole report");
  const refused = make("span", { role: "alert" });
  const save = async () => {
    try {
      const address = URL.createObjectURL(await file(REPORT));
      make("a", { href: address, download: "report.html" }).click();
      URL.revokeObjectURL(address);
    } catch (error) {
      refused.textContent = ` ${error.message}`;
    }
  };
  return make("span", {}, make("button", { type: "button", click: save }, "Save the whole report"), refused);
}
