// Real processes with something to look at: endpoints that take, fail and wait, and events for them.

import { spawn, spawnSync } from "node:child_process";
import { createServer } from "node:http";

const READY_MS_MAX = 30_000;
const { PROGRAM: program, API, PROBE, CONSOLE_PROBE } = process.env;
const settings = Object.fromEntries(Object.entries(process.env).filter(([name]) => name.startsWith("ZYVEN_") && !name.startsWith("ZYVEN_TEST_")));
const environment = { PATH: process.env.PATH, HOME: process.env.HOME, ...settings };

/** What nobody must ever see as more than text. */
export const HOSTILE = "<img src=x onerror=\"document.title='taken over'\"><script>document.title='taken over'</script>";

export function fail(message) {
  console.error(`browser: ${message}`);
  process.exit(1);
}

/** Looks until look() returns something, and returns that. */
export async function until(what, look, ms_max = READY_MS_MAX) {
  const end = Date.now() + ms_max;
  for (;;) {
    const seen = await look();
    if (seen) return seen;
    if (Date.now() > end) fail(`in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

function run(...args) {
  const done = spawnSync(program, args, { env: environment, encoding: "utf8" });
  if (done.status !== 0) fail(`zyven ${args.join(" ")} ended with ${done.status ?? done.signal}:\n${done.stderr}`);
  return done.stdout;
}

function start(name, more = {}) {
  const child = spawn(program, [name], { env: { ...environment, ...more }, stdio: ["ignore", "ignore", "pipe"] });
  child.log = "";
  child.stderr.on("data", (piece) => { child.log = (child.log + piece).slice(-20_000); });
  child.ended = new Promise((resolve) => child.on("close", resolve));
  child.ended.then((code) => { if (!child.stopping) fail(`zyven ${name} ended by itself with ${code}:\n${child.log}`); });
  // Whatever ends this process ends the child.
  process.on("exit", () => child.kill("SIGKILL"));
  return child;
}

async function isReady(url) {
  try { return (await fetch(`${url}/readyz`)).ok; } catch { return false; }
}

/** Answers by path; what is down can be mended. Remembers what each try of an event came with. */
function startReceiver() {
  const receiver = { isMended: false, headers: new Map() };
  const server = createServer(async (request, response) => {
    for await (const piece of request) void piece;
    const event = request.headers["webhook-id"];
    const tries = [...(receiver.headers.get(event) ?? []), request.headers];
    receiver.headers.set(event, tries);
    const isDown = request.url === "/broken" || (request.url === "/down" && !receiver.isMended) || (request.url === "/flaky" && tries.length <= 2);
    // Each attempt has a connection of its own, and says nothing that differs from day to day.
    response.sendDate = false;
    response.setHeader("connection", "close");
    if (isDown) response.writeHead(503, { "content-type": "text/html", "x-note": "<b>out of order</b>" }).end(HOSTILE);
    else response.writeHead(200, { "content-type": "text/plain" }).end("thanks\n");
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => {
    resolve(Object.assign(receiver, { url: `http://127.0.0.1:${server.address().port}`, close: () => server.close() }));
  }));
}

/** An application of another origin than the console's; whoever tests says what its one page is. */
function startApplication() {
  const application = { html: "" };
  const server = createServer((request, response) => response.writeHead(200, { "content-type": "text/html" }).end(application.html));
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => {
    resolve(Object.assign(application, { url: `http://localhost:${server.address().port}`, close: () => server.close() }));
  }));
}

export async function startStack() {
  for (const [signal, code] of [["SIGINT", 130], ["SIGTERM", 143]]) process.on(signal, () => process.exit(code));
  run("migrate");
  const { api_key: key } = JSON.parse(run("admin", "create-tenant", "Acme Corporation", "--json"));
  const application = await startApplication();
  const forConsole = { ZYVEN_PROBE_LISTEN: CONSOLE_PROBE, ZYVEN_CONSOLE_FRAME_ANCESTORS: application.url };
  // Long enough for whoever looks at several pages while a breaker is open.
  const processes = [start("all", { ZYVEN_BREAKER_OPEN_MIN: "2m" }), start("console", forConsole)];
  await until("the stack is ready", () => isReady(PROBE));
  await until("the console is ready", () => isReady(`http://${CONSOLE_PROBE}`));
  const receiver = await startReceiver();
  const call = async (method, path, body) => {
    const answer = await fetch(`${API}${path}`, {
      method, headers: { authorization: `Bearer ${key}`, ...(body && { "content-type": "application/json" }) },
      body: body && JSON.stringify(body),
    });
    const text = await answer.text();
    if (!answer.ok) fail(`${method} ${path} was answered ${answer.status}: ${text}`);
    return text ? JSON.parse(text) : null;
  };
  return { key, call, receiver, application, processes, stop: async () => {
    receiver.close();
    application.close();
    for (const child of processes) { child.stopping = true; child.kill("SIGTERM"); }
    await Promise.all(processes.map((child) => child.ended));
  } };
}

/** Endpoints and events; returns their ids when all that can end has ended. */
export async function fill({ call, receiver }) {
  const endpoint = async (path, event_types, more = {}) =>
    (await call("POST", "/v1/endpoints", { url: receiver.url + path, event_types, ...more })).id;
  const good = await endpoint("/good", ["invoice.*", "customer.*"], { description: "Accounting" });
  const flaky = await endpoint("/flaky", ["payment.*"], { retry_base_ms: 50, description: "Fails twice, then answers" });
  const down = await endpoint("/down", ["shipment.*"], { retry_base_ms: 50, attempts_max: 2, description: HOSTILE, rate_per_minute: 6000 });
  const paused = await endpoint("/paused", ["order.*"], { concurrency_max: 4, headers: { "X-Tenant": "acme" } });
  await call("POST", `/v1/endpoints/${paused}/pause`);
  const publish = async (type, payload, more = {}) => (await call("POST", "/v1/events", { type, payload, ...more })).id;
  const events = { good: [], down: [] };
  for (let number = 1; number <= 12; number += 1) {
    events.good.push(await publish("invoice.paid", { invoice: `INV-${1000 + number}`, amount: 4200, currency: "EUR" }));
  }
  events.flaky = await publish("payment.failed", { note: HOSTILE, reference: "PAY-77", large: 12 }, { source: "billing", ordering_key: "PAY-77" });
  for (let number = 1; number <= 3; number += 1) events.down.push(await publish("shipment.sent", { shipment: number }));
  events.waiting = await publish("order.placed", { order: 1 });
  events.nobody = await publish("nobody.listens", {});
  const ended = async (event) => ["DELIVERED", "DEAD_LETTERED"].includes((await call("GET", `/v1/events/${event}`)).status);
  for (const event of [...events.good, events.flaky, ...events.down]) await until(`${event} ends`, () => ended(event));
  return { endpoints: { good, flaky, down, paused }, events };
}
