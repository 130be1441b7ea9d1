// What was given up: look, choose, see what a replay would do, replay.

import { h, put, announce } from "./dom.js";
import { get, may, post, withQuery } from "./api.js";
import { all, choice, confirm, empty, failure, field, go, head, link, notice, period, reasonField, searched, table, when } from "./parts.js";
import { counts, number, words } from "./format.js";

const PAGE = 100;
/** Most that may be chosen for one replay, and most that one replay of all sends back: the API's own limits. */
const CHOSEN_MAX = 1000;
const ALL_MAX = 10000;
/** What the API gives as the reason of a dead letter: docs/lifecycle.md has what each means. */
const REASONS = ["attempts_exhausted", "age_exceeded", "rejected", "gone", "egress_denied", "invalid_url", "endpoint_disabled", "endpoint_deleted",
  "payload_missing", "expired", "cancelled"];
/** Pages that are looked through for something to show when cancelled ones are left out. */
const PAGES_MAX = 5;
/** Between two questions how far a replay has come: less often the longer it takes. */
const REST_MS = 500;
const REST_MS_MAX = 10000;

/** Counts by a name, the largest first. */
function counted(items, name) {
  const counts = new Map();
  for (const item of items) counts.set(name(item), (counts.get(name(item)) ?? 0) + 1);
  return [...counts].sort(([, one], [, other]) => other - one);
}

/** What a replay of these would do: what the API would leave out, and where the others go. */
async function dryRun(chosen, endpoints) {
  const { refused } = await post("replays", { deliveries: chosen.map((one) => one.id), reason: "dry run", dry_run: true });
  const without = new Set(refused.map((one) => one.delivery));
  const open = chosen.filter((one) => !without.has(one.id));
  const lost = open.filter((one) => !endpoints.has(one.endpoint) || endpoints.get(one.endpoint).status === "disabled");
  return { open, refused, lost, paused: open.filter((one) => endpoints.get(one.endpoint)?.status === "paused") };
}

/** Each with the reason why it is left out, or as many as one can read. */
function leftOut(refused) {
  return h("ul", {}, refused.slice(0, 20).map((one) => h("li", {}, h("code", {}, one.delivery), `: ${one.reason}`)),
    refused.length > 20 && h("li", {}, `and ${number(refused.length - 20)} more`));
}

/** What every replay asks of whoever decides it. */
const questions = () => [reasonField(), field("Deliveries per second", h("input", { name: "rate", type: "number", min: 1, max: 10000, value: 50, required: true }),
  "So many become due each second, so that a receiver that has just come back is not knocked over.")];

/** Sends them back, shows how far they come, and says what was left out; all of that stays until the dialog is closed. */
async function replay(wanted, { reason, rate }, stage, load) {
  const begun = await post("replays", { ...wanted, reason, rate_per_s: Number(rate) });
  const way = h("div");
  stage.begun(`${counts(begun.deliveries, "dead letter is", "dead letters are")} sent back`);
  put(stage.place, way, begun.refused.length > 0 && [
    notice(`${counts(begun.deliveries, "was", "were")} sent back, ${number(begun.refused.length)} left out:`, "bad"), leftOut(begun.refused)]);
  announce(`${number(begun.deliveries)} replayed`);
  // In the list behind the dialog they are no longer.
  await load();
  if (begun.id !== null) await watch(begun, way, stage);
}

/** Shows how far a replay has come, until it is through or the dialog is closed: it goes on without anybody who looks. So that it
 * cannot be told for a while is no failure of it. */
async function watch(begun, place, stage) {
  const bar = h("progress", { max: begun.deliveries, value: 0, "aria-label": "Replaying" });
  const told = h("p", { role: "status" });
  const hint = h("p", { class: "muted" }, `Replay ${begun.id} goes on if this is closed.`);
  put(place, bar, told, hint);
  for (let rest = REST_MS; stage.isOpen(); rest = Math.min(rest * 1.5, REST_MS_MAX)) {
    try {
      const now = await get(`replays/${begun.id}`, { by: "page" });
      bar.value = now.deliveries - now.waiting;
      told.textContent = `${number(now.delivered)} delivered, ${counts(now.waiting, "waits", "wait")}, ${number(now.dead_lettered)} given up again`;
      if (now.waiting === 0) {
        hint.textContent = `Replay ${begun.id} is through.`;
        return;
      }
    } catch (error) {
      told.textContent = `How far it has come is not known at the moment: ${error.message}`;
    }
    await new Promise((resolve) => { setTimeout(resolve, rest); });
  }
}

/** Asks what a replay of all that fit would do, and does it if that is wanted. */
async function replayAllOf(wanted, where, load) {
  const tried = await post("replays", { ...wanted, reason: "dry run", dry_run: true });
  if (tried.deliveries === 0) {
    announce("There is nothing to replay");
    return;
  }
  confirm({
    title: `Replay ${number(tried.deliveries)} dead letter${tried.deliveries === 1 ? "" : "s"}?`,
    body: [
      h("p", {}, `Nothing has been sent yet. All of them, ${where}, go back to the start: given up from `,
        when(tried.oldest_at), " to ", when(tried.newest_at), "."),
      !["cancelled", "expired"].includes(wanted.dead_reason)
        && h("p", { class: "muted" }, "Those that were cancelled or have expired are left out. Choose them, or search for that reason."),
      tried.deliveries === ALL_MAX && notice(`There may be more: ${number(ALL_MAX)} at a time, the oldest first.`),
    ],
    fields: questions(),
    button: "Replay now",
    act: (answers, stage) => replay({ ...wanted, deliveries_max: tried.deliveries }, answers, stage, load),
  });
}

/** The form that searches, and what it has found in the address: `wanted` as the API takes it for a list. */
function search(endpoints, parameters) {
  const endpoint = choice("endpoint", [["", "any"], ...endpoints.map((one) => [one.id, one.url])], parameters.get("endpoint"));
  const type = h("input", { name: "type", value: parameters.get("event_type") ?? "", placeholder: "invoice.paid", autocomplete: "off", maxlength: 128 });
  const reason = choice("dead_reason", [["", "any"], ...REASONS.map((name) => [name, words(name)])], parameters.get("dead_reason"));
  const { hours, before, since, until } = period(parameters);
  const without = h("input", { type: "checkbox", name: "without", checked: parameters.get("without") === "cancelled" });
  const form = h("form", { class: "filters", role: "search" }, field("Endpoint", endpoint), field("Type", type), field("Reason", reason),
    field("Accepted within", hours), field("Accepted before", before), h("label", { class: "check" }, without, "Leave out cancelled ones"),
    h("div", { class: "row" }, h("button", { class: "main" }, "Search"), h("a", { class: "button", href: "#/dead-letters" }, "Reset")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    go(searched("dead-letters", { endpoint: endpoint.value, event_type: type.value.trim(), dead_reason: reason.value, hours: hours.value,
      before: before.value, without: without.checked && "cancelled" }));
  });
  const narrowed = Object.fromEntries(["endpoint", "event_type", "dead_reason"].map((name) => [name, parameters.get(name)]).filter(([, value]) => value));
  return { form, narrowed, since, until, isWithout: parameters.get("without") === "cancelled" };
}

/** A page; where cancelled ones are left out, as many pages as it takes to find something, within bounds. */
async function lookThrough({ narrowed, since, until, isWithout }, from, signal) {
  const found = [];
  let [cancelled, next] = [0, from];
  for (let turn = 0; turn < PAGES_MAX; turn += 1) {
    const page = await get(withQuery("deliveries", { status: "DEAD_LETTERED", limit: PAGE, cursor: next, ...narrowed, since, until }), { signal });
    const others = page.data.filter((one) => one.reason !== "cancelled");
    cancelled += page.data.length - others.length;
    found.push(...(isWithout ? others : page.data));
    next = page.next_cursor;
    if (found.length > 0 || !next) break;
  }
  return { found, cancelled, next_cursor: next };
}

export async function deadLetters(place, { parameters, signal }) {
  const found = await all("endpoints", 2000, { signal });
  const endpoints = new Map(found.map((one) => [one.id, one]));
  const chosen = new Map();
  const asked = search(found, parameters);
  const replayChosen = h("button", { type: "button", class: "main", disabled: true }, "Replay…");
  const count = h("span", { class: "muted", role: "status" });
  const choosing = h("div", { class: "row choosing", hidden: true });
  const list = h("div");
  const more = h("div", { class: "row" });
  const wanted = asked.narrowed;
  // A replay of all goes by the time when they were given up, this list by the time when their events were accepted.
  const replayAll = may("replay") && !asked.since && !asked.until && h("button", { type: "button", onclick: async () => {
    try { await replayAllOf(wanted, Object.keys(wanted).length ? "that fit the search" : "whatever endpoint they are for", () => load()); }
    catch (error) { if (!signal.aborted) put(more, failure(error)); }
  } }, Object.keys(wanted).length ? "Replay all that fit…" : "Replay all…");
  put(place, head("Dead letters", "Deliveries that were given up, of the newest event first", replayAll), asked.form,
    h("section", { class: "card", "aria-label": "Dead letters" }, choosing, list, more));

  let items = [];
  // Of those that were looked through.
  let cancelled = 0;
  const tell = () => {
    replayChosen.disabled = chosen.size === 0 || chosen.size > CHOSEN_MAX;
    everything.checked = items.length > 0 && items.every((one) => chosen.has(one.id));
    replayChosen.textContent = chosen.size ? `Replay ${number(chosen.size)}…` : "Replay…";
    count.textContent = chosen.size
      ? `${number(chosen.size)} of ${number(items.length)} chosen${chosen.size > CHOSEN_MAX ? `; ${number(CHOSEN_MAX)} at a time` : ""}` : "";
  };
  const box = (one) => h("input", { type: "checkbox", checked: chosen.has(one.id), "aria-label": `Choose ${one.id}`, onchange: (event) => {
    if (event.target.checked) chosen.set(one.id, one); else chosen.delete(one.id);
    tell();
  } });
  const everything = h("input", { type: "checkbox", onchange: () => {
    for (const one of items) if (everything.checked) chosen.set(one.id, one); else chosen.delete(one.id);
    for (const one of list.querySelectorAll("tbody input")) one.checked = everything.checked;
    tell();
  } });
  put(choosing, h("label", { class: "check" }, everything, "Choose all that are shown"), replayChosen, count);
  const draw = () => put(list, cancelled > 0 && h("p", { class: "muted" }, counts(cancelled, "was cancelled, ", "were cancelled, "),
    asked.isWithout ? "and left out." : "and among these."), items.length === 0 ? empty(asked.isWithout && cancelled > 0 ? "There are no others here." : "There are no dead letters here.") : [
    table("Dead letters", [
      ...(may("replay") ? [["", box, "choose"]] : []),
      ["Reason", (one) => h("span", { class: "badge bad" }, words(one.reason ?? "unknown"))],
      ["Event", (one) => link(one.event, "event")],
      ["Type", (one) => one.event_type ?? h("span", { class: "muted" }, "no longer kept"), "wide"],
      ["Endpoint", (one) => h("a", { href: `#/endpoint/${one.endpoint}` }, endpoints.get(one.endpoint)?.url ?? "deleted"), "wide"],
      ["Attempts", (one) => one.attempts, "number"],
      ["Answer", (one) => one.http_status ?? (one.attempts > 0 ? "none" : "–"), "number"],
      ["Given up", (one) => when(one.finished_at), "time"],
    ], items)]);
  const load = async (cursor) => {
    put(more, h("p", { class: "muted", role: "status" }, "Loading…"));
    try {
      const page = await lookThrough(asked, cursor, signal);
      items = cursor ? items.concat(page.found) : page.found;
      cancelled = (cursor ? cancelled : 0) + page.cancelled;
      choosing.hidden = items.length === 0 || !may("replay");
      draw();
      put(more, page.next_cursor && h("button", { type: "button", onclick: () => load(page.next_cursor) }, "Show more"));
      tell();
    } catch (error) {
      if (error.name !== "AbortError") put(more, failure(error), h("button", { type: "button", onclick: () => load(cursor) }, "Try again"));
    }
  };

  replayChosen.addEventListener("click", async () => {
    replayChosen.disabled = true;
    replayChosen.textContent = "Looking…";
    let looked;
    try { looked = await dryRun([...chosen.values()], endpoints); } catch (error) {
      if (!signal.aborted) put(more, failure(error));
      return;
    } finally { tell(); }
    if (signal.aborted) return;
    const { open, refused, lost, paused } = looked;
    if (open.length === 0) {
      announce("None of those chosen can be replayed any more");
      chosen.clear();
      await load();
      return;
    }
    confirm({
      title: `Replay ${number(open.length)} dead letter${open.length === 1 ? "" : "s"}?`,
      body: [
        h("p", {}, "Nothing has been sent yet. This is what would happen:"),
        h("ul", {}, counted(open, (one) => one.endpoint).map(([id, times]) => h("li", {}, `${number(times)} to `, h("code", {}, endpoints.get(id)?.url ?? `${id} (deleted)`))),
          counted(open, (one) => one.reason ?? "unknown").map(([reason, times]) => h("li", {}, `${counts(times, "was", "were")} given up as: ${words(reason)}`))),
        refused.length > 0 && [notice(`${number(refused.length)} of those chosen cannot be replayed and are left out:`, "warn"), leftOut(refused)],
        lost.length > 0 && notice(`${counts(lost.length, "goes to an endpoint that is", "go to endpoints that are")} disabled or deleted, and would become ${lost.length === 1 ? "a dead letter" : "dead letters"} again.`, "warn"),
        paused.length > 0 && notice(`${counts(paused.length, "goes to a paused endpoint and waits until that is", "go to paused endpoints and wait until those are")} resumed.`),
      ],
      fields: questions(), button: "Replay now",
      act: (answers, stage) => replay({ deliveries: open.map((one) => one.id) }, answers, stage, () => { chosen.clear(); return load(); }),
    });
  });
  await load();
}
