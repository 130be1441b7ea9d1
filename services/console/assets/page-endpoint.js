// One endpoint: how it does, how it is set, what it got lately.

import { h, put, announce } from "./dom.js";
import { get, may, post, withQuery } from "./api.js";
import { badge, confirm, empty, facts, failure, head, notice, repeat, table } from "./parts.js";
import { duration, exactMoment, number, words } from "./format.js";
import { chartWidth, figures } from "./page-overview.js";
import { deliveryColumns } from "./page-events.js";

const EVERY_MS = 5000;
const RECENT = 20;

/** Buttons for what can be done about an endpoint in the state it is in. */
export function controls(endpoint, renew) {
  if (!may("manage")) return null;
  const act = (verb, done, text) => h("button", { type: "button", "aria-label": `${text} ${endpoint.url}`, onclick: async (event) => {
    event.target.disabled = true;
    try { await post(`endpoints/${endpoint.id}/${verb}`); announce(done); }
    catch (error) { announce(error.message); }
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

export async function endpoint(place, { id, signal }) {
  const top = h("div");
  const numbers = h("div", {}, h("p", { class: "muted" }, "Loading…"));
  const recent = h("section", { class: "card" });
  const renew = async () => {
    const found = await get(`endpoints/${id}`, { by: "page", signal });
    put(top,
      head(found.url, h("span", {}, badge(found.status), " ", h("code", {}, id)), controls(found, renew)),
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
    return found;
  };
  put(place, top, h("h2", {}, "The last hour"), numbers, recent);
  const found = await renew();
  const names = new Map([[id, found.url]]);
  const columns = deliveryColumns(names).filter(([name]) => name !== "Endpoint");
  await repeat(signal, EVERY_MS, async () => {
    try {
      const [statistics, page] = await Promise.all([
        get(withQuery("statistics", { endpoint: id }), { by: "page", signal }),
        get(withQuery("deliveries", { endpoint: id, limit: RECENT }), { by: "page", signal }),
      ]);
      put(numbers, figures(statistics, chartWidth()));
      put(recent, h("div", { class: "head" }, h("h2", {}, "Latest deliveries"), h("a", { href: `#/events?endpoint=${id}` }, "All of them")),
        page.data.length ? table("Latest deliveries", columns, page.data) : empty("It has not got anything yet."));
    } catch (error) {
      if (error.name !== "AbortError") put(numbers, failure(error));
      throw error;
    }
  });
}
