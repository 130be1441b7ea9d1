// What an operator looks for when something is wrong: requests that never arrived, receivers that are left alone, sessions that are over.

import { createServer } from "node:http";

import { accessible, check } from "./checks.mjs";
import { until } from "./stack.mjs";

const { CONSOLE } = process.env;
/** What the breaker counts before it opens is 10 in a row: see ARCHITECTURE.md. */
const FAILURES = 12;

/** A port of this machine on which nobody listens. */
function closedPort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

const publish = async (call, type, more = {}) => (await call("POST", "/v1/events", { type, payload: {}, ...more })).id;
const deliveryOf = async (call, event) => (await call("GET", `/v1/events/${event}/deliveries`)).data[0];
const isDead = (call, event) => async () => (await deliveryOf(call, event)).status === "DEAD_LETTERED";

/** What is shown of a request is what the receiver was sent, and no secret is. */
async function requests(page, goTo, { call, receiver }, { events, endpoints }) {
  const where = "request";
  const { id } = await deliveryOf(call, events.flaky);
  const show = async () => {
    await goTo(page, `event/${events.flaky}`, (on) => on.getByText("Attempt 3"));
    await page.locator("summary", { hasText: "Request" }).nth(1).click();
    return page.locator("details[open]").innerText();
  };
  const before = await show();
  const headers = receiver.headers.get(events.flaky)[1];
  check(where, before.includes(`POST ${receiver.url}/flaky`), `does not say where to: ${before}`);
  for (const name of ["content-type", "webhook-id", "zyven-event-type", "zyven-delivery-id", "zyven-attempt"]) {
    check(where, before.includes(`${name}\n${headers[name]}`), `says something else of ${name} than ${headers[name]}: ${before}`);
  }
  check(where, headers["zyven-delivery-id"] === id && headers["zyven-attempt"] === "2", "the receiver got another request");
  const shown = Number(before.match(/webhook-timestamp\s+(\d+)/)?.[1]);
  check(where, Math.abs(shown - Number(headers["webhook-timestamp"])) <= 1, `is signed at ${shown} and not at ${headers["webhook-timestamp"]}`);
  check(where, /webhook-signature\s+not shown/.test(before), "does not say that the signature is not shown");
  check(where, !(await page.content()).includes(headers["webhook-signature"]), "shows the signature");
  await accessible(page, where);
  await call("PATCH", `/v1/endpoints/${endpoints.flaky}`, { url: `${receiver.url}/flaky/moved` });
  await page.reload();
  const after = await show();
  check(where, after.includes("The endpoint was changed since"), `does not say that the URL is another by now: ${after}`);
}

/** Where nothing was connected nothing was reused, and nothing was sent. */
async function unconnected(page, goTo, { call, receiver }) {
  const port = await closedPort();
  for (const [type, url, error] of [
    ["denied.made", receiver.url.replace("127.0.0.1", "127.0.0.2"), "Egress denied"],
    ["closed.made", `http://127.0.0.1:${port}/`, "Connect"],
  ]) {
    await call("POST", "/v1/endpoints", { url, event_types: [type], attempts_max: 1 });
    const event = await publish(call, type);
    await until(`${type} is given up`, isDead(call, event));
    await goTo(page, `event/${event}`, (on) => on.getByText("Attempt 1"));
    const text = await page.getByRole("region", { name: /^Delivery dlv_/ }).innerText();
    check(type, text.includes(error), `does not say ${error}: ${text}`);
    check(type, text.includes("not connected") && !text.includes("reused"), `is said to be connected: ${text}`);
    await page.locator("summary", { hasText: "Request" }).click();
    await page.getByText("Nothing of it was sent").waitFor();
    await goTo(page, `dead-letters?event_type=${type}`, (on) => on.getByRole("row", { name: /none/ }));
  }
}

/** A receiver that fails until it is left alone: its pages say so, in the list's words, and until when. */
async function leftAlone(page, goTo, { call, receiver }, picture) {
  const where = "breaker";
  const broken = (await call("POST", "/v1/endpoints", { url: `${receiver.url}/broken`, event_types: ["broken.*"], attempts_max: 1 })).id;
  const failed = [];
  for (let number = 0; number < FAILURES; number += 1) failed.push(await publish(call, "broken.once"));
  for (const event of failed.slice(0, 10)) await until(`${event} is given up`, isDead(call, event));
  const waiting = await publish(call, "broken.again");
  const { id } = await deliveryOf(call, waiting);
  const explained = async () => (await call("GET", `/v1/deliveries/${id}/explain`)).delivery;
  await until("the breaker is open", async () => (await explained()).code === "breaker_open");
  await goTo(page, `event/${waiting}`, (on) => on.getByText("is left alone").first());
  const card = await page.getByRole("region", { name: `Delivery ${id}` }).innerText();
  check(where, /Waits for\n.*left alone.* Not before \d\d:\d\d:\d\d/.test(card), `the card does not say what keeps it: ${card}`);
  check(where, !card.includes("next attempt at"), `the card names a time that has passed: ${card}`);
  await picture(page, "breaker-event");
  await goTo(page, "endpoints", (on) => on.getByRole("row", { name: /\/broken/ }));
  const word = await page.getByRole("row", { name: /\/broken/ }).locator(".badge").first().innerText();
  check(where, word === "Failing", `the list calls it ${word}`);
  await goTo(page, `endpoint/${broken}`, (on) => on.getByRole("region", { name: "Trouble" }));
  check(where, (await page.locator(".sub .badge").innerText()) === word, "its page has another word for it than the list");
  const keeps = await page.getByRole("region", { name: "Trouble" }).innerText();
  check(where, /Breaker\nOpen Nothing is sent until \d\d:\d\d:\d\d/.test(keeps), `does not tell of the breaker: ${keeps}`);
  check(where, /Last failure\n503 /.test(keeps) && keeps.includes("<img"), `does not tell of the last answer: ${keeps}`);
  check(where, (await page.getByRole("row", { name: /broken.again/ }).innerText()).includes("Waiting in line"), "what is parked is said to be dispatched");
  await accessible(page, where);
  await picture(page, "breaker-endpoint");
}

/** Dead letters by reason and time; those that somebody called off are counted apart. */
async function filters(page, goTo, { call }) {
  const where = "dead letters";
  const event = await publish(call, "order.placed");
  await call("POST", `/v1/events/${event}/cancel`, { reason: "by mistake" });
  await goTo(page, "dead-letters", (on) => on.getByRole("row", { name: /Cancelled/ }));
  await page.getByText(/cancelled, and among these/).waitFor();
  await page.getByLabel("Leave out cancelled ones").check();
  await page.getByRole("button", { name: "Search" }).click();
  await page.getByText(/cancelled, and left out/).waitFor();
  check(where, (await page.getByRole("cell", { name: "Cancelled", exact: true }).count()) === 0, "cancelled ones are still there");
  await page.getByLabel("Leave out cancelled ones").uncheck();
  await page.getByRole("combobox", { name: "Reason" }).selectOption("egress_denied");
  await page.getByRole("button", { name: "Search" }).click();
  await until("one row is left", async () => (await page.locator("tbody tr").count()) === 1);
  await page.getByRole("cell", { name: "Egress denied" }).waitFor();
  await page.getByLabel("Accepted before").fill("2026-01-01T00:00:00");
  await page.getByRole("button", { name: "Search" }).click();
  await page.getByText("There are no dead letters here").waitFor();
  check(where, (await page.getByRole("button", { name: /^Replay all/ }).count()) === 0, "a replay of all is offered that would not go by this time");
}

/** A search that is sent once more, or a page's name chosen again, asks again. */
async function again(page, goTo) {
  for (const [where, path] of [["events", "/v1/deliveries"], ["dead-letters", "/v1/deliveries"], ["audit", "/v1/audit-log"]]) {
    await goTo(page, where, (on) => on.locator("tbody tr"));
    for (const press of [page.getByRole("button", { name: "Search" }), page.locator(`nav a[href="#/${where}"]`)]) {
      const asked = page.waitForRequest((request) => request.url().includes(path));
      await press.click();
      await asked;
      await page.locator("tbody tr").first().waitFor();
    }
  }
}

async function ids(page, goTo, { call }, { events }) {
  const where = "ids";
  await goTo(page, "events", (on) => on.locator("tbody tr"));
  await page.getByLabel("Type or id").fill("evt_123");
  await page.keyboard.press("Enter");
  await page.getByRole("alert").getByText("32 hexadecimal digits; this one has 3").waitFor();
  await goTo(page, "audit?action=endpoint.", (on) => on.getByRole("cell", { name: /^first key/ }));
  // It was sent back long after it was accepted.
  const { accepted_at: accepted } = await call("GET", `/v1/events/${events.down[0]}`);
  const { created_at: begun, generation } = await deliveryOf(call, events.down[0]);
  check(where, generation > 1 && begun > accepted, "this event was not replayed");
  await goTo(page, "tail", (on) => on.locator("tbody tr"));
  const time = page.locator("tr", { has: page.locator(`a[href="#/event/${events.down[0]}"]`) }).locator('[data-name="Accepted"] time');
  const shown = await time.getAttribute("datetime");
  check(where, Math.abs(Date.parse(shown) - Date.parse(accepted)) < 1000, `says that it was accepted ${shown}, and it was ${accepted}`);
}

/** Nothing of an axis is cut, and one of nothing says nothing. */
async function axes(page) {
  const where = "axes";
  const [outside, labels] = await page.evaluate(async () => {
    const { latency } = await import("/assets/chart.js");
    const steps = (p95) => Array.from({ length: 60 }, (_, index) => ({ at: new Date(index * 60000).toISOString(), latency_ms: p95 ? { p50: p95, p95 } : null }));
    const chart = (p95) => latency({ steps: steps(p95), step_s: 60, latency_ms: p95 ? { p50: p95, p95 } : null }, 280);
    const texts = (of) => [...of.querySelectorAll("text.label")];
    const long = chart(80000);
    document.body.append(long);
    const cut = texts(long).filter((one) => one.getBBox().x < 0).map((one) => one.textContent);
    long.remove();
    return [cut, texts(chart(0)).map((one) => one.textContent)];
  });
  check(where, outside.length === 0, `are cut: ${outside}`);
  check(where, labels.join() === "0,,", `say ${labels} of nothing`);
}

/** Whoever logs in after the end of a session is where he was, and never elsewhere. */
async function sessions(open, logIn, { call, key }, { events }) {
  const where = "session";
  const made = await call("POST", "/v1/api-keys", { name: "for a while", scopes: ["read"] });
  const page = await open(1280, 900, "light");
  await logIn(page, made.key);
  await page.getByRole("heading", { name: "Overview" }).waitFor();
  await page.goto(`${CONSOLE}/#/keys`);
  await page.getByText("needs a key with the scope manage; this session's key has read").waitFor();
  await page.goto(`${CONSOLE}/#/event/${events.flaky}`);
  await page.getByText("Attempt 3").waitFor();
  await call("DELETE", `/v1/api-keys/${made.id}`);
  await page.getByText("Your session has ended").waitFor();
  await accessible(page, where);
  const submit = async (text) => {
    await page.getByLabel("API key").fill(text);
    await page.getByRole("button", { name: "Log in" }).click();
  };
  // A mistake on the way does not lose the place.
  await submit("hunter2");
  await page.getByRole("alert").waitFor();
  await submit(key);
  await page.getByText("Attempt 3").waitFor();
  check(where, page.url() === `${CONSOLE}/#/event/${events.flaky}`, `the login led to ${page.url()}`);
  for (const hash of ["#//evil.example", "#https://evil.example", "#/\\evil.example"]) {
    await page.context().clearCookies();
    await page.goto("about:blank");
    await page.goto(`${CONSOLE}/login${hash}`);
    await submit(key);
    await page.getByRole("button", { name: "Log out" }).waitFor();
    check(where, new URL(page.url()).origin === CONSOLE && new URL(page.url()).pathname === "/", `${hash} led to ${page.url()}`);
  }
  await page.context().close();
}

/** What the API refuses for a while does not take away what was shown, and is asked for again. */
async function away(open, logIn, { key }) {
  const where = "an API that is away";
  const page = await open(1280, 900, "light");
  await logIn(page, key);
  await page.getByRole("row", { name: /\/good/ }).waitFor();
  const fails = (route) => route.fulfill({ status: 502, contentType: "application/problem+json",
    body: JSON.stringify({ title: "The API does not answer", detail: "The console cannot reach the API.", code: "api_unavailable" }) });
  page.removeAllListeners("console");
  await page.route("**/api/v1/statistics*", fails);
  await page.getByRole("alert").getByText("cannot reach").waitFor();
  await page.getByText(/The numbers are those of \d\d:\d\d:\d\d/).waitFor();
  check(where, await page.getByRole("row", { name: /\/good/ }).isVisible(), "the numbers that were known are gone");
  await page.unroute("**/api/v1/statistics*");
  await page.getByRole("alert").waitFor({ state: "detached", timeout: 45_000 });
  // A tail that fails from the beginning begins later.
  await page.route("**/api/v1/endpoints*", fails);
  await page.goto(`${CONSOLE}/#/tail`);
  await page.getByRole("alert").getByText("cannot reach").waitFor();
  await page.unroute("**/api/v1/endpoints*");
  await page.getByRole("row", { name: /Delivered/ }).first().waitFor({ timeout: 45_000 });
  await page.context().close();
}

/** All of it; `page` is that of somebody who is logged in, and `goTo` shows one of the console's pages there. */
export async function troubles({ stack, filled, page, goTo, open, logIn, picture }) {
  await requests(page, goTo, stack, filled);
  await unconnected(page, goTo, stack);
  await leftAlone(page, goTo, stack, picture);
  await filters(page, goTo, stack);
  await again(page, goTo);
  await ids(page, goTo, stack, filled);
  await axes(page);
  await sessions(open, logIn, stack, filled);
  await away(open, logIn, stack);
}
