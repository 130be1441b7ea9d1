// Events and where they went: one row for each delivery, the newest event first.

import { h, put } from "./dom.js";
import { get } from "./api.js";
import { all, badge, choice, field, go, head, link, pages, period, searched, table, when } from "./parts.js";
import { STATES, madeAt, words } from "./format.js";

/** What its last attempt came to, as far as a list tells: of an unfinished one, that it failed and not how. */
function outcome(one) {
  if (one.status === "RETRY_SCHEDULED" && one.attempts > 0) return `attempt ${one.attempts} failed`;
  return [one.http_status, one.http_status && one.reason ? " · " : "", one.reason && words(one.reason)];
}

/** When it ended or is to go on. A time that has passed is none: what keeps the delivery since, its event's page tells. */
function then(one) {
  if (one.finished_at) return when(one.finished_at);
  const next = one.next_attempt_at;
  if (next && Date.parse(next) > Date.now()) return ["next ", when(next)];
  return one.status === "RETRY_SCHEDULED" ? ["due since ", when(next)] : "–";
}

export const deliveryColumns = (names) => [
  ["State", (one) => badge(one.status)],
  ["Event", (one) => link(one.event, "event")],
  ["Type", (one) => one.event_type ?? h("span", { class: "muted" }, "no longer kept"), "wide"],
  ["Endpoint", (one) => h("a", { href: `#/endpoint/${one.endpoint}`, title: one.endpoint }, names.get(one.endpoint) ?? "deleted"), "wide"],
  ["Attempts", (one) => one.attempts, "number"],
  ["Outcome", outcome],
  // Not created_at, which begins anew with a replay.
  ["Accepted", (one) => when(madeAt(one.event)), "time"],
  ["Then", then, "time"],
];

/** Looks like an id, and no type is likely to: a kind and nothing but digits. */
const LIKE_AN_ID = /^(evt|dlv|ep)_[0-9a-f]*$/i;
const ID_DIGITS = 32;

/** Where an id that somebody has pasted leads to; null if it is none. */
async function find(text) {
  const id = text.trim().toLowerCase();
  if (!LIKE_AN_ID.test(id)) return null;
  const [kind, digits] = id.split("_");
  if (digits.length !== ID_DIGITS) {
    throw new Error(`An id is ${kind}_ and ${ID_DIGITS} hexadecimal digits; this one has ${digits.length}.`);
  }
  if (kind === "evt") return `#/event/${id}`;
  if (kind === "ep") return `#/endpoint/${id}`;
  return `#/event/${(await get(`deliveries/${id}`)).event}`;
}

export async function events(place, { parameters, signal }) {
  const names = new Map((await all("endpoints", 2000, { signal })).map((one) => [one.id, one.url]));
  const search = h("input", { name: "search", value: parameters.get("event_type") ?? "", placeholder: "invoice.paid, evt_…, dlv_…, ep_…",
    autocomplete: "off", spellcheck: "false", maxlength: 200 });
  const status = choice("status", [["", "any"], ...STATES.map((state) => [state, words(state)])], parameters.get("status"));
  const endpoint = choice("endpoint", [["", "any"], ...names], parameters.get("endpoint"));
  const { hours, before, since, until } = period(parameters);
  const told = h("div");
  const form = h("form", { class: "filters", role: "search" }, field("Type or id", search), field("State", status),
    field("Endpoint", endpoint), field("Within", hours), field("Before", before),
    h("div", { class: "row" }, h("button", { class: "main" }, "Search"), h("a", { class: "button", href: "#/events" }, "Reset")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    put(told);
    try {
      const place = await find(search.value);
      if (place) { go(place); return; }
    } catch (error) {
      put(told, h("p", { class: "notice bad", role: "alert" }, error.message));
      return;
    }
    go(searched("events", { event_type: search.value.trim(), status: status.value, endpoint: endpoint.value, hours: hours.value, before: before.value }));
  });
  const list = h("section", { class: "card", "aria-label": "Deliveries" });
  put(place, head("Events", "Each event with each of its deliveries, the newest first", h("a", { class: "button", href: "#/tail" }, "Live tail")),
    form, told, list);
  await pages(list, "deliveries", {
    event_type: parameters.get("event_type"), status: parameters.get("status"), endpoint: parameters.get("endpoint"),
    since, until,
  }, (items) => table("Deliveries", deliveryColumns(names), items), "Nothing matches. Take a filter away, or wait for an event.");
}
