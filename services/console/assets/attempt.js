// One attempt of a delivery: what was sent, what was answered, and where the time went.

import { h } from "./dom.js";
import { facts } from "./parts.js";
import { exactMoment, micros, words } from "./format.js";
import { phases } from "./chart.js";

/** Errors that came before there was a connection to the receiver: nothing of the request was sent. */
const NOT_CONNECTED = ["dns", "connect", "tls", "proxy", "egress_denied", "invalid_url", "oauth"];
const hidden = () => h("span", { class: "muted" }, "not shown");

/** How the attempt came by its connection, if that is known: without an answer none may have been reused, nor made. */
function connection(one) {
  if (one.connect_us !== null) return `connected after ${micros(one.connect_us)}`;
  if (NOT_CONNECTED.includes(one.error)) return "not connected";
  return one.http_status === null ? null : "connection reused";
}

/** The seconds that were signed: those of the moment when the connection was usable. */
const signedAt = (one) => (one.started_at === null ? null
  : String(Math.floor((Date.parse(one.started_at) + (one.connect_us ?? 0) / 1000) / 1000)));

/** Where it went: the URL is not on record with the attempt, so it is the endpoint's of today. */
function target(one, endpoint) {
  if (!endpoint) {
    return h("p", { class: "muted" }, endpoint === null
      ? "POST to the endpoint's URL, which is no longer told: the endpoint is deleted."
      : "POST to the endpoint's URL, which is not known at the moment.");
  }
  const isChanged = one.started_at !== null && Date.parse(endpoint.updated_at) > Date.parse(one.started_at);
  return [
    h("p", {}, h("code", {}, `POST ${endpoint.url}`)),
    isChanged && h("p", { class: "muted" }, "The endpoint was changed since, ", exactMoment(endpoint.updated_at),
      ": URL and custom headers are those of today."),
  ];
}

/** The request's headers, as docs/receivers.md lists them. Values that are secret, or made of secrets, are nobody's to see here. */
function headers(one, delivery, event, endpoint) {
  const code = (value) => value && h("code", {}, value);
  return facts([
    ["content-type", code(event.content_type)],
    ["webhook-id", code(event.id)],
    ["webhook-timestamp", signedAt(one) && h("span", {}, code(signedAt(one)), h("span", { class: "muted" }, " reckoned from this record, to a second"))],
    ["webhook-signature", hidden()],
    ["zyven-event-type", code(event.type)],
    ["zyven-delivery-id", code(delivery.id)],
    ["zyven-attempt", code(String(one.number))],
    event.traceparent && ["traceparent", h("span", { class: "muted" }, "the event's, or that of a span below it")],
    endpoint?.auth && ["authorization", h("span", {}, `${words(endpoint.auth.type)}, `, hidden())],
    ...(endpoint?.headers ?? []).map((name) => [name.toLowerCase(), hidden()]),
  ]);
}

function request(one, delivery, event, endpoint) {
  const isSent = !NOT_CONNECTED.includes(one.error);
  return h("details", { "data-part": `request ${delivery.id} ${one.generation} ${one.number}` }, h("summary", {}, "Request"),
    !isSent && h("p", { class: "muted" }, "Nothing of it was sent. It would have been:"),
    target(one, endpoint), headers(one, delivery, event, endpoint),
    h("p", { class: "muted" }, "Its body is the payload above, byte for byte."));
}

function answer(one, delivery) {
  if (one.response_headers.length === 0 && !one.response_body) return null;
  return h("details", { "data-part": `answer ${delivery.id} ${one.generation} ${one.number}` }, h("summary", {}, "Answer"),
    one.response_headers.length > 0 && facts(one.response_headers.map(([name, value]) => [name, h("code", {}, value)])),
    one.response_body ? h("pre", { tabindex: "0" }, one.response_body) : h("p", { class: "muted" }, "The answer has no body."));
}

/** An entry of a delivery's timeline. `endpoint` is null once it is deleted, and undefined while it is not known. */
export function attempt(one, delivery, event, endpoint) {
  const isGood = one.status_after === "DELIVERED";
  const outcome = one.http_status ? `${one.http_status}` : words(one.error ?? "no answer");
  const kind = isGood ? "good" : one.status_after === "DEAD_LETTERED" ? "bad" : "warn";
  const times = [connection(one), one.first_byte_us !== null && `first byte after ${micros(one.first_byte_us)}`, `done after ${micros(one.total_us)}`];
  return h("li", { class: kind },
    h("div", { class: "what" }, h("strong", {}, `Attempt ${one.number}`), h("span", { class: `badge ${kind}` }, outcome),
      one.started_at && h("time", { datetime: one.started_at, class: "muted" }, exactMoment(one.started_at)),
      h("span", { class: "muted" }, `took ${micros(one.total_us)}`)),
    one.error_detail && h("p", { class: "bad-text" }, one.error_detail),
    one.total_us !== null && [phases(one), h("p", { class: "hint" }, times.filter(Boolean).join(" · "))],
    h("p", { class: "muted" }, `Then: ${words(one.status_after)}`),
    request(one, delivery, event, endpoint), answer(one, delivery));
}
