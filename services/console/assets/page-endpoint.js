// One endpoint: how it does, how it is set, what it got lately.

import { h, put, announce } from "./dom.js";
import { get, may, post, withQuery } from "./api.js";
import { badge, confirm, empty, facts, failure, head, link, notice, repeat, table, when } from "./parts.js";
import { duration, exactMoment, number, words } from "./format.js";
import { breakerOf, explanations, isParked, waitingFor } from "./waiting.js";
import { chartWidth, figures } from "./page-overview.js";
import { deliveryColumns } from "./page-events.js";

const EVERY_MS = 5000;
const RECENT = 20;
/** How much of an answer's body is shown here; its event has all that is on record. */
const BODY_SHOWN_MAX = 300;
const UNFINISHED = "RECEIVED,DISPATCHING,RETRY_SCHEDULED";
const FAILED = "RETRY_SCHEDULED,DEAD_LETTERED";

/** What an endpoint's numbers of the last hour come to, in a word. */
export function health(endpoint, one) {
  if (endpoint.status !== "enabled") return badge(endpoint.status);
  if (!one || one.delivered + one.dead_lettered + one.waiting.deliveries === 0) return h("span", { class: "badge" }, "Idle");
  if (one.dead_lettered > 0 && one.delivered === 0) return h("span", { class: "badge bad" }, "Failing");
  if (one.dead_lettered > 0 || one.waiting.retrying > 0) return h("span", { class: "badge warn" }, "Troubled");
  return h("span", { class: "badge good" }, "Healthy");
}

/** Buttons for what can be done about an endpoint in the state it is in. */
export function controls(endpoint, renew) {
  if (!may("manage")) return null;
  const act = (verb, done, text) => h("button", { type: "button", "aria-label": `${text} ${endpoint.url}`, onclick: async (event) => {
    event.target.disabled = true;
    try {
      const now = await post(`endpoints/${endpoint.id}/${verb}`);
      // Only now is it seen: while it is disabled, that is all the API says.
      announce(verb === "enable" && now?.status === "paused" ? "Enabled, and still paused" : done);
    } catch (error) { announce(error.message); }
    event.target.disabled = false;
    await renew();
  } }, text);
  const disable = h("button", { type: "button", class: "danger", "aria-label": `Disable ${endpoint.url}`, onclick: () => confirm({
    title: "Disable this endpoint?",
    body: [h("p", {}, h("code", {}, endpoint.url)), h("p", {}, "It gets no new events, and deliveries that are on their way to it become dead letters. To let them wait instead, pause it.")],
    button: "Disable", danger: true,
    act: async () => { await post(`endpoints/${endpoint.id}/disable`); announce("Disabled"); await renew(); },
  }) }, "Disable…");
  const test = h("button", { type: "button", "aria-label": `Send a test event to ${endpoint.url}`, onclick: async (event) => {
    event.target.disabled = true;
    try {
      const made = await post(`endpoints/${endpoint.id}/test`);
      announce("A test event was sent");
      location.hash = `#/event/${made.event}`;
    } catch (error) { announce(error.message); event.target.disabled = false; }
  } }, "Test");
  return h("div", { class: "row" }, {
    enabled: [test, act("pause", "Paused", "Pause"), disable],
    paused: [act("resume", "Resumed", "Resume"), disable],
    disabled: [act("enable", "Enabled", "Enable")],
  }[endpoint.status] ?? []);
}

const limits = (endpoint) => [
  ["Requests at a time", endpoint.concurrency_max === null ? "as the deployment has it" : number(endpoint.concurrency_max)],
  ["Rate", endpoint.rate_per_minute === null ? "not limited" : `${number(endpoint.rate_per_minute)} a minute`],
  ["Timeout", duration(endpoint.timeout_ms)],
  ["Attempts", `at most ${number(endpoint.attempts_max)}, within ${duration(endpoint.age_max_ms)}`],
  ["Waits between", endpoint.retry_schedule_ms
    ? endpoint.retry_schedule_ms.map(duration).join(", ")
    : `from ${duration(endpoint.retry_base_ms)}, doubling up to ${duration(endpoint.retry_cap_ms)}`],
];

/** The latest of some attempts that failed; undefined if none did. */
const lastFailed = (attempts) => attempts.filter((one) => one.status_after !== "DELIVERED" && one.started_at !== null)
  .sort((one, other) => Date.parse(other.started_at) - Date.parse(one.started_at))[0];

/**
 * What an endpoint is in trouble with: what its newest unfinished delivery waits for, and the latest failed attempt of that one and of
 * the newest delivery that is retried or given up. Each is asked for anew only when it has changed.
 */
function troubles(id, signal) {
  const explain = explanations(signal);
  const newest = async (status) => (await get(withQuery("deliveries", { endpoint: id, status, limit: 1 }), { by: "page", signal })).data[0];
  let known = {};
  return async (statistics) => {
    const waiting = statistics.waiting.deliveries > 0 ? await newest(UNFINISHED) : undefined;
    const told = waiting ? await explain(waiting) : null;
    const failed = await newest(FAILED);
    const record = JSON.stringify(failed);
    if (failed && record !== known.record) {
      known = { record, attempts: (await get(`deliveries/${failed.id}/attempts`, { by: "page", signal })).data };
    }
    const of = (event) => (one) => ({ ...one, event });
    return { told, failure: lastFailed([...(failed ? known.attempts.map(of(failed.event)) : []), ...(told?.last_attempts ?? []).map(of(waiting?.event))]) };
  };
}

/** The section that says so; nothing where there is no trouble on record. */
function troubled({ told, failure: last }) {
  if (!told && !last) return null;
  const body = last?.response_body ?? last?.response_body_start;
  return h("section", { class: "card", "aria-label": "Trouble" }, h("h2", {}, "Trouble"), facts([
    ["Breaker", breakerOf(told)],
    ["The newest waits for", waitingFor(told)],
    ["Last failure", last && [h("span", { class: "badge bad" }, last.http_status ?? words(last.error ?? "no answer")), " ", when(last.started_at), ", ",
      link(last.event, "event"), last.error_detail && h("div", { class: "bad-text" }, last.error_detail),
      body && h("pre", { tabindex: "0" }, body.slice(0, BODY_SHOWN_MAX))]],
  ]));
}

export async function endpoint(place, { id, signal }) {
  const top = h("div");
  const numbers = h("div", {}, h("p", { class: "muted" }, "Loading…"));
  const recent = h("section", { class: "card" });
  const trouble = h("div");
  const state = h("span");
  let found;
  let statistics;
  // The list of all endpoints has the same word for it.
  const tell = () => put(state, statistics || found.status !== "enabled" ? health(found, statistics) : "");
  const renew = async () => {
    found = await get(`endpoints/${id}`, { by: "page", signal });
    put(top,
      head(found.url, h("span", {}, state, " ", h("code", {}, id)), controls(found, renew)),
      found.disabled_reason && notice(`Disabled: ${found.disabled_reason}`, "warn"),
      found.description && h("p", {}, found.description),
      h("div", { class: "grid" },
        h("section", { class: "card" }, h("h2", {}, "What it gets"), facts([
          ["Types", found.event_types.join(", ")], ["Channels", found.channels.join(", ") || "all"],
          ["Filter", found.filter && h("code", {}, found.filter)], ["Signed with", found.signing],
          ["Custom headers", found.headers.join(", ") || "none"], ["Authorization", found.auth?.type ? words(found.auth.type) : "none"],
          ["Client certificate", found.client_certificate ? `${found.client_certificate.subject}, until ${exactMoment(found.client_certificate.not_after)}` : "none"],
          ["Changed", exactMoment(found.updated_at)],
        ])),
        h("section", { class: "card" }, h("h2", {}, "Limits and retries"), facts(limits(found)))));
    tell();
  };
  put(place, top, trouble, h("h2", {}, "The last hour"), numbers, recent);
  await renew();
  const look = troubles(id, signal);
  const columns = (told) => deliveryColumns(new Map()).filter(([name]) => name !== "Endpoint").map((column) => (column[0] === "State"
    ? ["State", (one) => (one.status === "DISPATCHING" && isParked(told) ? h("span", { class: "badge warn" }, "Waiting in line") : column[1](one))] : column));
  await repeat(signal, EVERY_MS, async () => {
    try {
      let page;
      [statistics, page] = await Promise.all([
        get(withQuery("statistics", { endpoint: id }), { by: "page", signal }),
        get(withQuery("deliveries", { endpoint: id, limit: RECENT }), { by: "page", signal }),
      ]);
      const seen = await look(statistics);
      tell();
      put(trouble, troubled(seen));
      put(numbers, figures(statistics, chartWidth()));
      put(recent, h("div", { class: "head" }, h("h2", {}, "Latest deliveries"), h("a", { href: `#/events?endpoint=${id}` }, "All of them")),
        page.data.length ? table("Latest deliveries", columns(seen.told), page.data) : empty("It has not got anything yet."));
    } catch (error) {
      if (error.name !== "AbortError") put(numbers, failure(error));
      throw error;
    }
  });
}
