// Who changed what.

import { h, put } from "./dom.js";
import { all, choice, facts, field, go, head, pages, searched, table, when } from "./parts.js";
import { shortId } from "./format.js";

const ACTIONS = [["", "any"], ["endpoint.", "endpoints"], ["endpoint_secret.", "signing secrets"], ["endpoint_credential.", "credentials"],
  ["api_key.", "API keys"], ["event_type.", "event types"], ["delivery.", "replays and cancellations"], ["tenant.", "the tenant"]];

const shown = (value) => (value === null || value === undefined ? "nothing" : typeof value === "string" ? value : JSON.stringify(value));

/** From what to what, or whatever else is told. */
function details(told) {
  const entries = Object.entries(told ?? {});
  if (entries.length === 0) return h("span", { class: "muted" }, "–");
  return h("details", {}, h("summary", {}, entries.map(([name]) => name).join(", ")), facts(entries.map(([name, value]) => [name,
    value !== null && typeof value === "object" && ("from" in value || "to" in value)
      ? `${shown(value.from)} → ${shown(value.to)}` : shown(value)])));
}

/** Most keys whose names are looked up: as many as may be in use, and as many again that were. */
const KEYS_MAX = 2000;

/** Who or what it was: a key has a name beside its id, which is what one searches by. */
const named = (names) => (id) => (names.has(id)
  ? [names.get(id), h("div", { class: "id muted", title: id }, shortId(id))] : h("span", { class: "mono" }, id));

export async function audit(place, { parameters, signal }) {
  const action = choice("action", ACTIONS, parameters.get("action"));
  const actor = h("input", { name: "actor", value: parameters.get("actor") ?? "", placeholder: "key_…, dispatcher, zyven admin", autocomplete: "off", maxlength: 200 });
  const subject = h("input", { name: "subject", value: parameters.get("subject") ?? "", placeholder: "ep_…, dlv_…", autocomplete: "off", maxlength: 200 });
  const form = h("form", { class: "filters", role: "search" }, field("About", action), field("Done by", actor), field("Done to", subject),
    h("div", { class: "row" }, h("button", { class: "main" }, "Search"), h("a", { class: "button", href: "#/audit" }, "Reset")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    go(searched("audit", { action: action.value, actor: actor.value.trim(), subject: subject.value.trim() }));
  });
  const list = h("section", { class: "card", "aria-label": "Entries" });
  put(place, head("Audit log", "Every administrative action, the latest first"), form, list);
  const keys = await all("api-keys", KEYS_MAX, { signal });
  const shownAs = named(new Map(keys.map((key) => [key.id, key.name])));
  await pages(list, "audit-log", { action: parameters.get("action"), actor: parameters.get("actor"), subject: parameters.get("subject") },
    (items) => table("Audit log", [
      ["When", (one) => when(one.done_at), "time"],
      ["Action", (one) => one.action],
      ["Done by", (one) => shownAs(one.actor), "wide"],
      ["Done to", (one) => shownAs(one.subject), "wide"],
      ["Details", (one) => details(one.details), "wide"],
    ], items), "Nothing was done that this filter shows.");
}
