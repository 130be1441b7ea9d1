// Sends every published GitHub webhook example through a running Zyven, and checks what arrives with the official
// Standard Webhooks library: every signature, every byte, nothing missing, nothing twice.
//
// The endpoint's secret is rotated twice before anything is sent, the second time to a key pair. So every request comes
// within two overlaps, and receivers with the first secret, with the second one and with the public key must all verify it.
//
// scripts/real-input.sh has started PostgreSQL and Redis and set the environment; this starts `zyven all`.

import { spawn, spawnSync } from "node:child_process";
import { createPublicKey, verify } from "node:crypto";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

import { examples } from "./examples.mjs";

const { PROGRAM: program, API, PROBE, PACKAGES } = process.env;
const require = createRequire(join(PACKAGES, "package.json"));
const { Webhook } = require("standardwebhooks");
const EXAMPLES = dirname(require.resolve("@octokit/webhooks-examples/package.json"));

const READY_MS_MAX = 30_000;
const ARRIVAL_MS_MAX = 120_000;
const STOP_MS_MAX = 60_000;
const POSTS_AT_ONCE = 16;

const settings = Object.fromEntries(Object.entries(process.env).filter(([name]) => name.startsWith("ZYVEN_")));
const environment = { PATH: process.env.PATH, HOME: process.env.HOME, ...settings };

function fail(message) {
  console.error(`real input: ${message}`);
  process.exit(1);
}
process.on("uncaughtException", (error) => fail(`${error.stack}${error.cause ? `\n${error.cause}` : ""}`));

// Whether look() became true within ms_max.
async function within(ms_max, look) {
  const end = Date.now() + ms_max;
  while (!(await look())) {
    if (Date.now() > end) return false;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return true;
}

function run(...args) {
  const done = spawnSync(program, args, { env: environment, encoding: "utf8" });
  if (done.status !== 0) fail(`zyven ${args.join(" ")} ended with ${done.status ?? done.signal}:\n${done.stderr}`);
  return done.stdout;
}

function startStack() {
  const stack = spawn(program, ["all"], { env: environment, stdio: ["ignore", "ignore", "pipe"] });
  stack.log = "";
  stack.stderr.on("data", (piece) => (stack.log = (stack.log + piece).slice(-20_000)));
  stack.ended = new Promise((resolve) => stack.on("close", (code, signal) => resolve(code ?? signal)));
  stack.ended.then((code) => {
    if (!stack.stopping) fail(`zyven all ended by itself with ${code}:\n${stack.log}`);
  });
  // Whatever ends this process ends the stack. A signal by itself would end it without saying so.
  process.on("exit", () => stack.kill("SIGKILL"));
  for (const [signal, code] of [["SIGINT", 130], ["SIGTERM", 143]]) process.on(signal, () => process.exit(code));
  return stack;
}

async function api(key, path, body, headers = {}) {
  for (;;) {
    const response = await fetch(`${API}${path}`, {
      method: "POST",
      headers: { authorization: `Bearer ${key}`, "content-type": "application/json", ...headers },
      body,
    });
    const text = await response.text();
    if (response.status === 429 || response.status === 503) {
      const wait_s = Number(response.headers.get("retry-after") ?? 1);
      await new Promise((resolve) => setTimeout(resolve, wait_s * 1000));
      continue;
    }
    if (!response.ok) fail(`POST ${path} was answered ${response.status}: ${text}`);
    return JSON.parse(text);
  }
}

// Records what arrives; judged at the end, when all ids and the secret are known.
function startReceiver() {
  const arrived = [];
  const server = createServer(async (request, response) => {
    const pieces = [];
    for await (const piece of request) pieces.push(piece);
    arrived.push({ headers: request.headers, body: Buffer.concat(pieces), at: Date.now() });
    response.writeHead(204).end();
  });
  return new Promise((resolve) => {
    server.listen(0, "127.0.0.1", () => resolve({ arrived, server, port: server.address().port }));
  });
}

async function postAll(key, events) {
  const queue = events.map((event, index) => ({ event, index }));
  const poster = async () => {
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      const { event, index } = next;
      const head = Buffer.from(`{"type": "github.${event.event}", "payload": `);
      const body = Buffer.concat([head, event.payload, Buffer.from("}")]);
      event.id = (await api(key, "/v1/events", body, { "idempotency-key": `real-input-${index}` })).id;
    }
  };
  await Promise.all(Array.from({ length: POSTS_AT_ONCE }, poster));
}

// What the library does, for signatures that it does not know yet: v1a, Ed25519 with a public key (whpk_…).
class PublicKeyWebhook {
  constructor(publicKey) {
    const x = Buffer.from(publicKey.replace(/^whpk_/, ""), "base64").toString("base64url");
    this.key = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
  }

  verify(body, headers) {
    const signed = Buffer.concat([Buffer.from(`${headers["webhook-id"]}.${headers["webhook-timestamp"]}.`), body]);
    const signatures = headers["webhook-signature"].split(" ").filter((signature) => signature.startsWith("v1a,"));
    const fits = (signature) => verify(null, signed, this.key, Buffer.from(signature.slice(4), "base64"));
    if (!signatures.some(fits)) throw new Error("No matching signature found");
  }
}

// Returns the counts; every mistake is printed.
function judge(events, arrived, webhooks) {
  const byId = new Map(events.map((event) => [event.id, event]));
  const seen = new Set();
  const counts = { unverified: 0, altered: 0, unknown: 0, duplicates: 0, mislabelled: 0 };
  const note = (kind, what) => {
    counts[kind] += 1;
    console.error(`real input: ${kind}: ${what}`);
  };
  for (const { headers, body } of arrived) {
    const id = headers["webhook-id"];
    const event = byId.get(id);
    if (event === undefined) {
      note("unknown", id);
      continue;
    }
    if (seen.has(id)) note("duplicates", `${id} ${event.origin}`);
    seen.add(id);
    for (const [name, webhook] of Object.entries(webhooks)) {
      try {
        webhook.verify(body, headers);
      } catch (error) {
        note("unverified", `${id} ${event.origin}, with the ${name}: ${error.message}`);
      }
    }
    if (!body.equals(event.payload)) note("altered", `${id} ${event.origin}`);
    if (headers["zyven-event-type"] !== `github.${event.event}`) note("mislabelled", `${id} ${event.origin}`);
  }
  const missing = events.filter(({ id }) => !seen.has(id));
  for (const { id, origin } of missing) console.error(`real input: missing: ${id} ${origin}`);
  return { ...counts, missing: missing.length };
}

// The check must be able to fail: one changed byte, and every receiver refuses.
function proveThatReceiversLook({ headers, body }, webhooks) {
  const changed = Buffer.from(body);
  changed[changed.length - 2] ^= 1;
  for (const [name, webhook] of Object.entries(webhooks)) {
    let accepted = true;
    try {
      webhook.verify(changed, headers);
    } catch {
      accepted = false;
    }
    if (accepted) fail(`a receiver with the ${name} accepts a changed body; its verdicts mean nothing`);
  }
}

const events = examples(EXAMPLES);
run("migrate");
const { api_key: key } = JSON.parse(run("admin", "create-tenant", "real input", "--json"));
const stack = startStack();
const isReady = () => fetch(`${PROBE}/readyz`).then((answer) => answer.ok, () => false);
if (!(await within(READY_MS_MAX, isReady))) fail(`zyven all does not get ready:\n${stack.log}`);
const { arrived, server, port } = await startReceiver();
const endpoint = { url: `http://127.0.0.1:${port}/`, event_types: ["*"] };
const first = await api(key, "/v1/endpoints", JSON.stringify(endpoint));
const rotate = (body) => api(key, `/v1/endpoints/${first.id}/rotate-secret`, JSON.stringify(body));
const second = await rotate({ overlap_s: 3600 });
const pair = await rotate({ overlap_s: 3600, signing: "ed25519" });
const webhooks = {
  "first secret": new Webhook(first.secret),
  "second secret": new Webhook(second.secret),
  "public key": new PublicKeyWebhook(pair.public_key),
};

const started = Date.now();
await postAll(key, events);
const posted_ms = Date.now() - started;
// What has not come by then is missing, and the verdict says so.
await within(ARRIVAL_MS_MAX, () => arrived.length >= events.length);
const arrived_ms = Date.now() - started;

stack.stopping = true;
stack.kill("SIGTERM");
await within(STOP_MS_MAX, () => stack.exitCode !== null || stack.signalCode !== null);
server.close();
server.closeAllConnections();
if (stack.exitCode !== 0) fail(`zyven all ended with ${stack.exitCode ?? stack.signalCode ?? "nothing yet"}:\n${stack.log}`);

const counts = judge(events, arrived, webhooks);
if (arrived.length > 0) proveThatReceiversLook(arrived[0], webhooks);
const bytes = events.reduce((sum, { payload }) => sum + payload.length, 0);
const kinds = new Set(events.map(({ event }) => event)).size;
console.log(`real input: ${events.length} GitHub examples of ${kinds} event types, ${bytes} bytes`);
console.log(`real input: posted in ${posted_ms} ms, all arrived after ${arrived_ms} ms, ${arrived.length} requests`);
console.log(`real input: ${Object.entries(counts).map(([kind, count]) => `${kind} ${count}`).join(", ")}`);
if (Object.values(counts).some((count) => count > 0)) fail("not everything arrived as it was sent");
console.log("real input: every request verified with the first secret, the second secret and the public key, every payload byte for byte");
process.exit(0);
