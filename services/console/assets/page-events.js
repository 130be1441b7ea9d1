// Events and where they went: one row for each delivery, the newest event first.

import { h, put } from "./dom.js";
import { get } from "./api.js";
import { all, badge, choice, field, head, link, pages, table, when } from "./parts.js";
import { STATES, words } from "./format.js";

export const deliveryColumns = (names) => [
  ["State", (one) => badge(one.status)],
  ["Event", (one) => link(one.event, "event")],
  ["Type", (one) => one.event_type ?? h("span", { class: "muted" }, "no longer kept"), "wide"],
  ["Endpoint", (one) => h("a", { href: `#/endpoint/${one.endpoint}`, title: one.endpoint }, names.get(one.endpoint) ?? "deleted"), "wide"],
  ["Attempts", (one) => one.attempts, "number"],
  ["Outcome", (one) => [one.http_status, one.http_status && one.reason ? " · " : "", one.reason && words(one.reason)]],
  ["Accepted", (one) => when(one.created_at), "time"],
  ["Then", (one) => (one.finished_at ? when(one.finished_at) : one.next_attempt_at ? ["next ", when(one.next_attempt_at)] : "–"), "time"],
];

/** Where an id that somebody has pasted leads to. */
async function find(text) {
  const id = text.trim();
  if (/^evt_[0-9a-f]{32}$/.test(id)) return `#/event/${id}`;
  if (/^ep_[0-9a-f]{32}$/.test(id)) return `#/endpoint/${id}`;
  if (/^dlv_[0-9a-f]{32}$/.test(id)) return `#/event/${(await get(`deliveries/${id}`)).event}`;
  return null;
}

export async function events(place, { parameters, signal }) {
  const names = new Map((await all("endpoints", 2000, { signal })).map((one) => [one.id, one.url]));
  const search = h("input", { name: "search", value: parameters.get("event_type") ?? "", placeholder: "invoice.paid, evt_…, dlv_…, ep_…",
    autocomplete: "off", spellcheck: "false", maxlength: 200 });
  const status = choice("status", [["", "any"], ...STATES.map((state) => [state, words(state)])], parameters.get("status"));
  const endpoint = choice("endpoint", [["", "any"], ...names], parameters.get("endpoint"));
  const hours = choice("hours", [["", "as far as it is kept"], ["1", "1 hour"], ["24", "24 hours"], ["168", "7 days"]], parameters.get("hours"));
  const told = h("div");
  const form = h("form", { class: "filters", role: "search" }, field("Type or id", search), field("State", status),
    field("Endpoint", endpoint), field("Within", hours),
    h("div", { class: "row" }, h("button", { class: "main" }, "Search"), h("a", { class: "button", href: "#/events" }, "Reset")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    put(told);
    try {
      const place = await find(search.value);
      if (place) { location.hash = place; return; }
    } catch (error) {
      put(told, h("p", { class: "notice bad", role: "alert" }, error.message));
      return;
    }
    const wanted = new URLSearchParams();
    for (const [name, value] of [["event_type", search.value.trim()], ["status", status.value], ["endpoint", endpoint.value], ["hours", hours.value]]) {
      if (value) wanted.set(name, value);
    }
    const query = wanted.toString();
    location.hash = query ? `#/events?${query}` : "#/events";
  });
  const list = h("section", { class: "card", "aria-label": "Deliveries" });
  put(place, head("Events", "Each event with each of its deliveries, the newest first", h("a", { class: "button", href: "#/tail" }, "Live tail")),
    form, told, list);
  const within = Number(parameters.get("hours"));
  await pages(list, "deliveries", {
    event_type: parameters.get("event_type"), status: parameters.get("status"), endpoint: parameters.get("endpoint"),
    since: within ? new Date(Date.now() - within * 3600000).toISOString() : null,
  }, (items) => table("Deliveries", deliveryColumns(names), items), "Nothing matches. Take a filter away, or wait for an event.");
}
