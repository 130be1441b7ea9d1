// The console as somebody sees and uses it. scripts/browser.sh has set the environment.

import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

import { accessible, check, fits, mistakes, snapshot, watch } from "./checks.mjs";
import { embedded } from "./embedded.mjs";
import { troubles } from "./troubles.mjs";
import { HOSTILE, fail, fill, startStack, until } from "./stack.mjs";

const { API, CHROMIUM, CONSOLE, PACKAGES } = process.env;
const { chromium } = createRequire(join(PACKAGES, "package.json"))("playwright-core");
const PICTURES = join(PACKAGES, "pictures");
const SIZES = [["wide", 1600, 1000], ["narrow", 360, 740]];
const SCHEMES = ["light", "dark"];

process.on("uncaughtException", (error) => fail(error.stack));
process.on("unhandledRejection", (error) => fail(error?.stack ?? String(error)));
mkdirSync(PICTURES, { recursive: true });

const stack = await startStack();
const filled = await fill(stack);
const { endpoints, events } = filled;
const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });

let place = "login";
async function open(width, height, colorScheme) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme, timezoneId: "UTC", locale: "en-GB", reducedMotion: "reduce" });
  await context.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
  });
  const page = await context.newPage();
  page.setDefaultTimeout(60_000);
  // A login that is refused, an API that explains nothing yet.
  watch(page, () => place, (text) => /status of 401|status of 404/.test(text));
  return page;
}

async function logIn(page, key) {
  await page.goto(`${CONSOLE}/login`);
  await page.getByLabel("API key").fill(key);
  await page.getByRole("button", { name: "Log in" }).click();
}

/** Goes to a page of the console and waits until it shows what it has. */
async function goTo(page, where, ready) {
  place = where;
  await page.goto(`${CONSOLE}/#/${where}`);
  await (await ready(page)).first().waitFor();
  await page.waitForLoadState("networkidle").catch(() => {});
}

const PAGES = [
  ["overview", "", (page) => page.getByRole("row", { name: /\/good/ })],
  ["events", "events", (page) => page.getByRole("row", { name: /Retry|Delivered|Dead/ })],
  ["event", `event/${events.flaky}`, async (page) => {
    await page.getByText("Attempt 3").waitFor();
    await page.getByRole("link", { name: /\/flaky$/ }).first().waitFor();
    return page.getByRole("heading", { name: "Why it went where it went" });
  }],
  ["event-nobody", `event/${events.nobody}`, async (page) => {
    await page.getByText("No endpoint wanted").waitFor();
    return page.getByRole("heading", { name: "Why it went where it went" });
  }],
  ["endpoints", "endpoints", (page) => page.getByRole("row", { name: /\/paused/ })],
  ["endpoint", `endpoint/${endpoints.down}`, (page) => page.getByRole("heading", { name: "Latest deliveries" })],
  ["dead-letters", "dead-letters", (page) => page.getByRole("row", { name: /Attempts exhausted/ })],
  ["dead-letters-none", `dead-letters?endpoint=${endpoints.good}`, (page) => page.getByText("There are no dead letters")],
  ["tail", "tail", (page) => page.getByRole("row", { name: /Delivered/ })],
  ["keys", "keys", (page) => page.getByRole("row", { name: /this session/ })],
  ["audit", "audit?action=endpoint.", (page) => page.getByRole("row", { name: /endpoint.pause/ })],
  ["not-found", "nowhere", (page) => page.getByRole("heading", { name: "Not found" })],
  ["event-unknown", `event/evt_${"0".repeat(32)}`, (page) => page.getByRole("alert")],
];

/** The API's own page, which is no part of the console: everything on it, with what is folded away. */
async function reference(page, where) {
  place = "reference";
  await page.goto(`${API}/docs`);
  await page.getByRole("heading", { name: "Publish an event" }).waitFor();
  const style = await page.locator("main").evaluate((main) => getComputedStyle(main).maxWidth);
  check(where, style !== "none", "its style was refused");
  await page.evaluate(() => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
  await accessible(page, where);
  await fits(page, where);
  await page.getByRole("link", { name: "Replay a dead letter" }).first().click();
  check(where, new URL(page.url()).hash === "#replayDelivery", "its contents do not lead to an operation");
}

// Every page in every size and colour -------------------------------------------------------------------

for (const [size, width, height] of SIZES) {
  for (const scheme of SCHEMES) {
    const page = await open(width, height, scheme);
    const picture = (name) => page.screenshot({ path: join(PICTURES, `${name}-${size}-${scheme}.png`), fullPage: true });
    await reference(page, `reference ${size} ${scheme}`);
    await picture("reference");
    place = "login";
    await logIn(page, "hunter2");
    await page.getByRole("alert").waitFor();
    await picture("login");
    await accessible(page, `login ${size} ${scheme}`);
    await fits(page, `login ${size}`);
    if (size === "wide" && scheme === "light") await snapshot(page, "login");
    await logIn(page, stack.key);
    await page.getByRole("heading", { name: "Overview" }).waitFor();
    for (const [name, where, ready] of PAGES) {
      await goTo(page, where, ready);
      // A request and an answer.
      if (name === "event") for (const summary of await page.locator("summary").all().then((all) => all.slice(0, 2))) await summary.click();
      // What sticks to the top is to be there in the picture, too.
      await page.evaluate(() => window.scrollTo(0, 0));
      await picture(name);
      await accessible(page, `${name} ${size} ${scheme}`);
      await fits(page, `${name} ${size}`);
      if (size === "wide" && scheme === "light") await snapshot(page, name);
    }
    await page.context().close();
  }
}

place = "embedded";
await embedded({ stack, events, open, picture: (page, name) => page.screenshot({ path: join(PICTURES, `${name}.png`) }) });

// What is done ------------------------------------------------------------------------------------------

const page = await open(1280, 900, "light");
await logIn(page, stack.key);
await page.getByRole("heading", { name: "Overview" }).waitFor();

place = "secrets";
const kept = await page.evaluate(() => [document.cookie, localStorage.length, sessionStorage.length, document.documentElement.outerHTML]);
check(place, kept[0] === "" && kept[1] === 0 && kept[2] === 0, "a script can read a cookie, or something is stored");
check(place, !kept[3].includes(stack.key.split("_").pop()), "the key is in the page");

place = "keyboard";
await page.keyboard.press("Tab");
check(place, await page.locator("#skip").evaluate((one) => one === document.activeElement), "the first stop is not the skip link");
await page.keyboard.press("Enter");
check(place, await page.locator("main").evaluate((one) => one === document.activeElement), "skipping does not lead to the content");
await page.getByRole("link", { name: "Events", exact: true }).focus();
await page.keyboard.press("Enter");
await page.getByRole("heading", { name: "Events" }).waitFor();
await page.getByLabel("Type or id").focus();
await page.keyboard.type("payment.failed");
await page.keyboard.press("Enter");
await page.getByRole("cell", { name: "payment.failed" }).waitFor();
await until("one row is left", async () => (await page.locator("tbody tr").count()) === 1);

place = "search";
const { data: [delivery] } = await stack.call("GET", `/v1/events/${events.flaky}/deliveries`);
await page.getByLabel("Type or id").fill(delivery.id);
await page.keyboard.press("Enter");
await page.getByText("Attempt 3").waitFor();
check(place, page.url().endsWith(events.flaky), "a delivery's id does not lead to its event");

place = "hostile";
await page.locator("summary", { hasText: "Answer" }).first().click();
await page.getByText(HOSTILE).first().waitFor();
check(place, !(await page.title()).includes("taken over"), "somebody else's markup was run");
check(place, (await page.locator("main img, main script").count()) === 0, "somebody else's markup became elements");

place = "pause and resume";
await goTo(page, "endpoints", PAGES[4][2]);
const status = async () => (await stack.call("GET", `/v1/endpoints/${endpoints.good}`)).status;
await page.getByRole("button", { name: /^Pause .*\/good/ }).click();
await page.getByRole("button", { name: /^Resume .*\/good/ }).waitFor();
check(place, (await status()) === "paused", "it is not paused");
await page.getByRole("button", { name: /^Resume .*\/good/ }).click();
await page.getByRole("button", { name: /^Pause .*\/good/ }).waitFor();
check(place, (await status()) === "enabled", "it is not enabled");

place = "disable";
await page.getByRole("button", { name: /^Disable .*\/paused/ }).click();
await page.getByRole("dialog").waitFor();
await accessible(page, place);
await page.keyboard.press("Escape");
await page.getByRole("dialog").waitFor({ state: "detached" });
check(place, await page.getByRole("button", { name: /^Disable .*\/paused/ }).evaluate((one) => one === document.activeElement), "the focus does not come back");

place = "test event";
await page.getByRole("button", { name: /^Send a test event to .*\/good/ }).click();
await page.getByText("zyven.test").first().waitFor();

place = "replay";
await goTo(page, "dead-letters", PAGES[6][2]);
stack.receiver.isMended = true;
const dialog = page.getByRole("dialog");
await page.getByRole("button", { name: "Replay all…" }).click();
await dialog.getByRole("heading", { name: "Replay 3 dead letters?" }).waitFor();
await page.screenshot({ path: join(PICTURES, "replay-all-dialog.png") });
await accessible(page, place);
await page.keyboard.press("Escape");
await dialog.waitFor({ state: "detached" });
await page.getByLabel("Choose all that are shown").check();
await page.getByLabel(/^Choose dlv_/).first().uncheck();
const posted = [];
page.on("request", (request) => { if (request.method() === "POST") posted.push(new URL(request.url()).pathname); });
await page.getByRole("button", { name: "Replay 2…" }).click();
await dialog.getByText("Nothing has been sent yet").waitFor();
check(place, (await dialog.innerText()).includes("2 to "), "the dry run does not say how many go where");
await page.screenshot({ path: join(PICTURES, "replay-dialog.png") });
await accessible(page, place);
const untouched = await stack.call("GET", `/v1/events/${events.down[0]}`);
check(place, untouched.status === "DEAD_LETTERED", "a dry run has replayed something");
// Meanwhile somebody else replays one of the two.
const [{ id: overtaken }] = (await stack.call("GET", `/v1/events/${events.down[0]}/deliveries`)).data;
await stack.call("POST", `/v1/deliveries/${overtaken}/replay`, { reason: "sooner" });
await dialog.getByLabel("Reason").fill("the receiver is mended");
await dialog.getByRole("button", { name: "Replay now" }).click();
await dialog.getByText("1 was sent back, 1 left out:").waitFor();
await dialog.getByText("1 delivered, 0 wait, 0 given up again").waitFor();
const result = await dialog.innerText();
check(place, !result.includes("Nothing has been sent yet") && !result.includes("Cancel"), `the dialog contradicts itself: ${result}`);
check(place, (await dialog.getByRole("button").allInnerTexts()).join() === "Close", "the way out is not called so");
check(place, (await dialog.innerText()).includes(`${overtaken}: it `), "the dialog does not say why one is left out");
check(place, posted.join(" ") === "/api/v1/replays /api/v1/replays", `a dry run and a replay are two requests, not ${posted.join(" ")}`);
await page.screenshot({ path: join(PICTURES, "replay-left-out.png") });
await accessible(page, place);
await page.keyboard.press("Escape");
await dialog.waitFor({ state: "detached" });
await page.getByRole("button", { name: "Replay all…" }).click();
await dialog.getByRole("heading", { name: "Replay 1 dead letter?" }).waitFor();
await dialog.getByLabel("Reason").fill("the receiver is mended");
await dialog.getByRole("button", { name: "Replay now" }).click();
await dialog.getByText("1 delivered, 0 wait, 0 given up again").waitFor();
await dialog.getByText("is through").waitFor();
await dialog.getByRole("button", { name: "Close" }).click();
await dialog.waitFor({ state: "detached" });
for (const event of events.down) {
  await until(`${event} is delivered`, async () => (await stack.call("GET", `/v1/events/${event}`)).status === "DELIVERED");
}
await goTo(page, "audit?action=delivery.", (on) => on.getByRole("row", { name: /delivery.replay/ }));
await goTo(page, `event/${events.down[0]}`, (on) => on.getByText("Replayed: generation 2"));

place = "cancel";
await goTo(page, `event/${events.waiting}`, (on) => on.getByRole("button", { name: "Cancel event…" }));
await page.getByRole("button", { name: "Cancel event…" }).click();
await page.getByLabel("Reason").fill("sent by mistake");
await page.getByRole("button", { name: "Cancel the event" }).click();
await page.getByText(": Cancelled").waitFor();

place = "live tail";
await goTo(page, "tail", PAGES[8][2]);
const live = (await stack.call("POST", "/v1/events", { type: "customer.created", payload: {} })).id;
await page.locator(`a[href="#/event/${live}"]`).waitFor();
await page.locator("tr", { has: page.locator(`a[href="#/event/${live}"]`) }).getByText("Delivered").waitFor();

place = "keys";
await goTo(page, "keys", PAGES[9][2]);
await page.getByLabel("Name").fill("billing service");
await page.getByLabel(/^publish:/).check();
await page.getByRole("button", { name: "Make a key" }).click();
const shown = await page.getByLabel("The new key").inputValue();
check(place, shown.startsWith("zyk_"), "the key is not shown");
await accessible(page, place);
await page.getByRole("button", { name: "I have it" }).click();
check(place, !(await page.content()).includes(shown.split("_").pop()), "the key is still shown");
await page.getByRole("button", { name: "Revoke billing service" }).click();
await page.getByRole("dialog").getByRole("button", { name: "Revoke" }).click();
await page.getByRole("row", { name: /billing service/ }).getByRole("cell", { name: "Revoked", exact: true }).waitFor();

place = "logging out";
await page.getByRole("button", { name: "Log out" }).click();
await page.getByLabel("API key").waitFor();
await page.goto(`${CONSOLE}/#/keys`);
await page.getByLabel("API key").waitFor();

place = "troubles";
await logIn(page, stack.key);
await page.getByRole("heading", { name: "Overview" }).waitFor();
await page.getByRole("row", { name: /\/good/ }).waitFor();
await troubles({ stack, filled, page, goTo, open, logIn, picture: (of, name) => of.screenshot({ path: join(PICTURES, `${name}.png`), fullPage: true }) });

await browser.close();
await stack.stop();
if (mistakes.length > 0) fail(`${mistakes.length} mistake(s); the pictures are in ${PICTURES}`);
console.error(`browser: ${PAGES.length} pages in ${SIZES.length * SCHEMES.length} looks are in order; the pictures are in ${PICTURES}`);
process.exit(0);
