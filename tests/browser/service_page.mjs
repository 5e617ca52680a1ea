// Uses the service's page in headless Chromium as a person does, by day and night, narrow and wide.
//
//     node service_page.mjs PYTHON FOLDER_OF_PICTURES
//
// Fails where axe-core finds a fault, the page is wider than its screen, a script breaks, the policy is broken, a name
// is run as script, or an answer does not appear.
import { execFileSync, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import puppeteer from "puppeteer-core";

const [python, pictures] = process.argv.slice(2).map((each) => resolve(each));
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const SERVER = join(dirname(fileURLToPath(import.meta.url)), "served_page.py");
const WIDTHS = [1280, 768, 360], SCHEMES = ["light", "dark"];
const faults = [];
mkdirSync(pictures, { recursive: true });

// A service of one layout, and where it listens.
async function served(layout, trunk, ...more) {
  const child = spawn(python, [SERVER, mkdtempSync(join(tmpdir(), "plait-page-")), layout, trunk, ...more], { stdio: ["ignore", "pipe", "inherit"] });
  let key = "";
  for await (const line of createInterface({ input: child.stdout })) {
    if (line.startsWith("key ")) key = line.slice(4);
    const address = line.match(/http:\S+/);
    if (address) return { child, key, address: address[0] };
  }
  throw new Error(`no service of ${layout}`);
}

const browser = await puppeteer.launch({
  executablePath: execFileSync("which", [process.env.CHROMIUM ?? "chromium"], { encoding: "utf8" }).trim(),
  args: ["--no-sandbox", "--disable-gpu"],
  protocolTimeout: 600_000,
});

function expect(isSo, name, what) {
  if (!isSo) faults.push(`${name}: ${what}`);
}

async function look(page, name) {
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  expect(wide <= 0, name, `${wide} px wider than its screen`);
  await page.screenshot({ path: join(pictures, `${name}.png`), fullPage: true });
  const found = await page.evaluate(`${axe}; axe.run(document, { resultTypes: ["violations"] })`);
  for (const { id, help, nodes } of found.violations) {
    faults.push(`${name}: ${id}, ${help}: ${nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(" | ")}`);
  }
}

async function opened(address, name) {
  const page = await browser.newPage();
  page.on("pageerror", (error) => faults.push(`${name}: ${error.message}`));
  page.on("dialog", (dialog) => { faults.push(`${name}: a name was run as script`); dialog.dismiss(); });
  page.on("console", (message) => { if (/Content.Security|Trusted/i.test(message.text())) faults.push(`${name}: ${message.text()}`); });
  page.on("request", (request) => expect(request.url().startsWith(address), name, `asks elsewhere: ${request.url()}`));
  await page.goto(address, { waitUntil: "networkidle0" });
  return page;
}

async function written(page, field, text) {
  await page.$eval(field, (input) => { input.value = ""; });
  await page.type(field, text);
}

async function loaded(page, user) {
  await written(page, "#user", user);
  await page.keyboard.press("Enter");
  await page.waitForNetworkIdle();
}

async function picked(page, field, text) {
  await written(page, field, text);
  await page.waitForFunction((field) => document.querySelector(field).closest("div").parentElement.querySelector(".found button"), {}, field);
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.waitForNetworkIdle();
}

const texts = (page, selector) => page.$$eval(selector, (all) => all.map((each) => each.textContent));

async function usual(address, name) {
  const page = await opened(address, name);
  await loaded(page, "196");
  expect((await texts(page, "#events tbody tr")).length === 20, name, "the latest 20 events are not shown");
  const retrieves = !(await texts(page, "#recommended"))[0].includes("predicts no items");
  expect((await texts(page, "#recommended tbody tr")).length > 0 === retrieves, name, "nothing is recommended");
  await picked(page, "#score-search", "fargo");
  await picked(page, "#score-search", "<script>");
  expect((await texts(page, "#scored tbody tr")).length === (name.startsWith("item-") ? 0 : 2), name, "two items are not scored");
  const why = await page.$("#recommended tbody button, #scored tbody button");
  await why.focus();
  await page.keyboard.press("Enter");
  await page.waitForNetworkIdle();
  expect((await texts(page, "#why-events tbody tr")).length === 10, name, `no attention is shown: ${await texts(page, "#why-problem")}`);
  expect(await page.$eval("#why-chart canvas", (its) => its.width > 200), name, "no chart is drawn");
  const before = await texts(page, "#recommended tbody td");
  await page.$eval("#events tbody button", (its) => its.click());
  await page.waitForNetworkIdle();
  expect(`${await texts(page, "#recommended tbody td")}` !== `${before}` || !retrieves, name, "an event was dropped, and nothing moved");
  expect((await texts(page, ".moved")).length > 0, name, "no difference is shown");
  await page.$eval("#add-details", (its) => { its.open = true; });
  await picked(page, "#add-search", "heat");
  await written(page, "#add-rating", "5");
  await page.keyboard.press("Enter");
  await page.waitForNetworkIdle();
  expect((await texts(page, "#events tbody tr"))[0].includes("Heat"), name, "the added event is not the latest");
  expect((await texts(page, "#comparison-table tbody tr")).length > 1, name, "no table of the comparison");
  const wrong = (await texts(page, ".problem:not([hidden])")).filter((text) => text);
  expect(!wrong.length, name, `a problem is shown: ${wrong}`);
  for (const scheme of SCHEMES) {
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
    for (const width of WIDTHS) {
      await page.setViewport({ width, height: 900 });
      await new Promise((done) => setTimeout(done, 200));
      await look(page, `${name}-${width}-${scheme}`);
    }
  }
  await page.setViewport({ width: 1280, height: 900 });
  await page.$eval("#undo", (its) => its.click());
  await page.waitForNetworkIdle();
  expect(!(await texts(page, ".moved")).length, name, "changes that were undone still show");
  return page;
}

async function pasted(page, name) {
  await page.$eval("#paste-details", (its) => { its.open = true; });
  const rows = 'item_id,timestamp,rating\n"<script>alert(\'id\')</script>",1600000060,5\n201,1600000000,\n<b>none</b>,1600000120,2';
  await page.$eval("#paste", (its, rows) => { its.value = rows; }, rows);
  await page.$eval("#paste-form button", (its) => its.click());
  await page.waitForNetworkIdle();
  const shown = await texts(page, "#events tbody th");
  expect(shown.length === 3 && shown[0] === "<b>none</b>", name, `pasted rows are not shown in order: ${shown}`);
  await page.$eval("#paste", (its) => { its.value = "item_id\n1,2"; });
  await page.$eval("#paste-form button", (its) => its.click());
  await page.waitForSelector("#history-problem:not([hidden])");
  await loaded(page, "../a b/<i>");
  expect((await texts(page, "#history-said"))[0].startsWith("User ../a b/<i>: 9 events"), name, "a user of an odd id is not loaded");
  await loaded(page, "nobody");
  expect((await texts(page, "#history-problem"))[0].startsWith("unknown user"), name, "an unknown user is not told so");
}

// A large user model beside another: fields for what it is asked under, which are sent with its questions alone.
async function underConditions({ address }) {
  const name = "lum", page = await opened(address, name), sent = [];
  page.on("request", (request) => { if (request.method() === "POST") sent.push([new URL(request.url()).pathname, JSON.parse(request.postData())]); });
  await loaded(page, "196");
  expect((await texts(page, "#condition-fields label")).join() === "scenario,hour", name, "not a field for each condition");
  expect((await texts(page, "#condition-fields option")).join() === "unknown,<b>search</b>,home", name, "not a choice of scenarios");
  expect((await texts(page, "#recommended .under")).join() === "Asked under scenario unknown, hour unknown.", name, "what was asked under is not said");
  const before = await texts(page, "#recommended .side:first-child tbody td");
  sent.length = 0;
  const field = await page.waitForSelector("aria/scenario[role=\"combobox\"]");
  await field.select("<b>search</b>");
  await page.waitForNetworkIdle();
  await written(page, "aria/hour[role=\"textbox\"]", "9");
  await page.keyboard.press("Tab");
  await page.waitForNetworkIdle();
  expect((await texts(page, "#recommended .under")).join() === "Asked under scenario <b>search</b>, hour 9.", name, "a choice is not said");
  expect(`${await texts(page, "#recommended .side:first-child tbody td")}` !== `${before}`, name, "a choice moves nothing");
  const last = (model) => sent.filter(([path, body]) => path === "/v1/retrieve" && body.model === model).at(-1)?.[1].condition;
  expect(JSON.stringify(last("lum-seed0") ?? last("lum")) === '{"scenario":"<b>search</b>","hour":9}', name, `a choice is not sent: ${JSON.stringify(sent)}`);
  expect(last("lac") === undefined, name, "a model that is asked under nothing is sent a condition");
  await picked(page, "#score-search", "fargo");
  expect((await texts(page, "#scored .side:last-child tbody tr")).length === 1, name, "the other model scores nothing");
  const wrong = (await texts(page, ".problem:not([hidden])")).filter((text) => text);
  expect(!wrong.length, name, `a problem is shown: ${wrong}`);
  for (const scheme of SCHEMES) {
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
    for (const width of WIDTHS) {
      await page.setViewport({ width, height: 900 });
      await look(page, `${name}-${width}-${scheme}`);
    }
  }
  await page.close();
}

async function withKeys({ address, key }) {
  const name = "keys", page = await opened(address, name);
  await page.waitForSelector("#key-form:not([hidden])");
  await look(page, "keys-1280-light");
  await written(page, "#key", "wrong");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#key-refused:not([hidden])");
  await written(page, "#key", key);
  await page.keyboard.press("Enter");
  await page.waitForSelector("#asking:not([hidden])");
  await page.waitForNetworkIdle();
  await loaded(page, "197");
  expect((await texts(page, "#events tbody tr")).length === 3, name, "a key does not open histories");
  const kept = await page.evaluate(() => [localStorage.length, sessionStorage.length, document.cookie, document.querySelector("#key").value]);
  expect(`${kept}` === "0,0,,", name, `a key is kept: ${kept}`);
  await page.close();
}

const CASES = [["lac", "gpt"], ["interleaved", "hstu"], ["attn_lfa", "gpt"], ["item", "gpt"], ["genrank", "gpt"]]
  .filter(([layout]) => !process.env.ONLY || process.env.ONLY === layout); // ONLY=lac looks at one
for (const [layout, trunk] of CASES) {
  const { child, address } = await served(layout, trunk);
  const name = `${layout}-${trunk}`;
  try {
    const page = await usual(address, name);
    await pasted(page, name);
    await page.close();
  } catch (error) {
    faults.push(`${name}: ${error.message}`);
  }
  child.kill();
}
if (!process.env.ONLY || process.env.ONLY === "lum") {
  const asked = await served("lum", "gpt");
  await underConditions(asked).catch((error) => faults.push(`lum: ${error.message}`));
  asked.child.kill();
}
const guarded = await served("lac", "gpt", "keys");
await withKeys(guarded).catch((error) => faults.push(`keys: ${error.message}`));
guarded.child.kill();
await browser.close();
console.log(faults.join("\n"));
console.log(`${CASES.length + 2} services looked at, ${faults.length} faults`);
process.exit(faults.length ? 1 : 0);
