// Looks at pages in headless Chromium, by day and night, narrow and wide, and printed.
//
//     node check.mjs FOLDER_OF_PAGES FOLDER_OF_PICTURES
//
// Fails where axe-core finds a fault, a page is wider than its screen, a script breaks, or print leaves out a table.
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import puppeteer from "puppeteer-core";

const [pages, pictures] = process.argv.slice(2).map((folder) => resolve(folder));
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const WIDTHS = [1280, 768, 360];
const faults = [];
mkdirSync(pictures, { recursive: true });

const browser = await puppeteer.launch({
  executablePath: execFileSync("which", [process.env.CHROMIUM ?? "chromium"], { encoding: "utf8" }).trim(),
  args: ["--no-sandbox", "--disable-gpu"],
  protocolTimeout: 600_000,
});

async function look(page, name) {
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  if (wide > 0) faults.push(`${name}: ${wide} px wider than its screen`);
  const missed = await page.evaluate(() =>
    [...document.querySelectorAll(".more")].filter((note) => {
      const box = note.previousElementSibling;
      const goesOn = box.scrollWidth > box.clientWidth;
      return box.checkVisibility() && goesOn !== note.checkVisibility();
    }).length);
  if (missed) faults.push(`${name}: ${missed} tables do not say rightly whether they go on`);
  const cut = await page.$$eval(".more.goes-on", (notes) => notes.filter((note) => note.checkVisibility()).length);
  if (name.startsWith("usual-1280") && cut) faults.push(`${name}: ${cut} tables do not fit`);
  const outside = await page.$$eval("svg.chart text", (texts) =>
    texts.filter((text) => {
      const box = text.getBoundingClientRect(), picture = text.ownerSVGElement.getBoundingClientRect();
      return box.width && (box.left < picture.left - 1 || box.right > picture.right + 1 || box.bottom > picture.bottom + 1);
    }).map((text) => text.textContent));
  if (outside.length) faults.push(`${name}: a picture cuts ${outside.join(" | ")}`);
  await page.evaluate(axe);
  const found = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  for (const { id, help, nodes } of found.violations) {
    faults.push(`${name}: ${id}, ${help}: ${nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(" | ")}`);
  }
}

const files = readdirSync(pages).filter((file) => file.endsWith(".html")).sort();
for (const file of files) {
  const page = await browser.newPage();
  page.on("pageerror", (error) => faults.push(`${file}: ${error.message}`));
  page.on("dialog", (dialog) => { faults.push(`${file}: a name was run as script`); dialog.dismiss(); });
  for (const scheme of ["light", "dark"]) {
    for (const width of WIDTHS) {
      const name = `${basename(file, ".html")}-${width}-${scheme}`;
      await page.setViewport({ width, height: 900 });
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      await page.goto(pathToFileURL(join(pages, file)).href, { waitUntil: "load" });
      await look(page, name);
      await page.screenshot({ path: join(pictures, `${name}.png`), fullPage: true });
    }
  }
  const button = await page.$("table.sortable thead button");
  if (button) {
    await button.evaluate((its) => its.click());
    const sorted = await page.$eval("th[aria-sort]", (its) => its.ariaSort);
    if (sorted !== "ascending") faults.push(`${file}: the table was not sorted`);
    const above = await page.$$eval("tr.fixed + tr:not(.fixed)", (rows) => rows.length);
    if (above) faults.push(`${file}: a baseline or the oracle stands above a layout`);
  }
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
  await page.emulateMediaType("print");
  const folded = await page.$$eval("table, pre", (all) => all.filter((its) => !its.getBoundingClientRect().height).length);
  if (folded) faults.push(`${file}: ${folded} tables or texts are not printed`);
  await page.emulateMediaType(null);
  await page.pdf({ path: join(pictures, `${basename(file, ".html")}.pdf`), preferCSSPageSize: true, printBackground: true });
  await page.close();
}
await browser.close();
if (!files.length) faults.push(`no pages in ${pages}`);
console.log(faults.join("\n"));
console.log(`${files.length} pages looked at, ${faults.length} faults`);
process.exit(faults.length ? 1 : 0);
