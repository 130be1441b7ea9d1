// What was given up: look, choose, see what a replay would do, replay.

import { h, put, announce } from "./dom.js";
import { get, may, post, withQuery } from "./api.js";
import { all, choice, confirm, empty, failure, field, head, link, notice, reasonField, table, when } from "./parts.js";
import { number, words } from "./format.js";

const PAGE = 100;
/** Replays that are asked for at the same time. */
const AT_A_TIME = 4;
/** Most that one replay of all sends back: the API's own limit. */
const ALL_MAX = 10000;
/** Between two questions how far a replay has come: less often the longer it takes. */
const REST_MS = 500;
const REST_MS_MAX = 10000;

/** Counts by a name, the largest first. */
function counted(items, name) {
  const counts = new Map();
  for (const item of items) counts.set(name(item), (counts.get(name(item)) ?? 0) + 1);
  return [...counts].sort(([, one], [, other]) => other - one);
}

/** What a replay of these would do, from what the API says of them now. */
async function dryRun(chosen, endpoints) {
  const now = [];
  await fewAtATime(chosen, async (one) => {
    try { now.push(await get(`deliveries/${one.id}`)); } catch (error) { if (error.status !== 404) throw error; }
  });
  const open = now.filter((one) => one?.status === "DEAD_LETTERED");
  const lost = open.filter((one) => !endpoints.has(one.endpoint) || endpoints.get(one.endpoint).status === "disabled");
  return { open, changed: chosen.length - open.length, lost, paused: open.filter((one) => endpoints.get(one.endpoint)?.status === "paused") };
}

/** Does something with each, a few at a time, until there are no more or somebody says stop. */
async function fewAtATime(items, act, isStopped = () => false) {
  const left = [...items];
  const worker = async () => {
    for (let one = left.shift(); one && !isStopped(); one = left.shift()) await act(one);
  };
  await Promise.all(Array.from({ length: AT_A_TIME }, worker));
}

/** Replays one after the other; tells how far it is. Whoever closes the dialog stops it. */
async function replayEach(deliveries, reason, place, dialog) {
  const refused = [];
  let done = 0;
  const bar = h("progress", { max: deliveries.length, value: 0, "aria-label": "Replaying" });
  const told = h("p", { class: "muted" }, `0 of ${deliveries.length}`);
  put(place, bar, told);
  let isStopped = false;
  dialog.addEventListener("close", () => { isStopped = true; });
  await fewAtATime(deliveries, async (one) => {
    try { await post(`deliveries/${one.id}/replay`, { reason }); } catch (error) { refused.push([one, error.message]); }
    done += 1;
    bar.value = done;
    told.textContent = `${done} of ${deliveries.length}`;
  }, () => isStopped);
  if (isStopped) announce(`Stopped: ${done - refused.length} of ${deliveries.length} replayed`);
  return { replayed: done - refused.length, refused };
}

/** Shows how far a replay has come, until it is through or the dialog is closed: it goes on without anybody who looks. So that it
 * cannot be told for a while is no failure of it. */
async function watch(begun, place, dialog) {
  const bar = h("progress", { max: begun.deliveries, value: 0, "aria-label": "Replaying" });
  const told = h("p", { class: "muted", role: "status" });
  put(place, bar, told, notice(`Replay ${begun.id} goes on if this is closed.`));
  for (let rest = REST_MS; dialog.open; rest = Math.min(rest * 1.5, REST_MS_MAX)) {
    try {
      const now = await get(`replays/${begun.id}`);
      bar.value = now.deliveries - now.waiting;
      told.textContent = `${number(now.delivered)} delivered, ${number(now.waiting)} wait, ${number(now.dead_lettered)} given up again`;
      if (now.waiting === 0) return;
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
      h("p", { class: "muted" }, "Those that were cancelled or have expired are left out. Choose them one by one."),
      tried.deliveries === ALL_MAX && notice(`There may be more: ${number(ALL_MAX)} at a time, the oldest first.`),
    ],
    fields: [reasonField(), field("Deliveries per second", h("input", { name: "rate", type: "number", min: 1, max: 10000, value: 50, required: true }),
      "So many become due each second, so that a receiver that has just come back is not knocked over.")],
    button: "Replay now",
    act: async ({ reason, rate }, told, dialog) => {
      const begun = await post("replays", { ...wanted, reason, rate_per_s: Number(rate), deliveries_max: tried.deliveries });
      if (begun.id !== null) await watch(begun, told, dialog);
      announce(`${number(begun.deliveries)} replayed`);
      await load();
    },
  });
}

export async function deadLetters(place, { parameters, signal }) {
  const found = await all("endpoints", 2000, { signal });
  const endpoints = new Map(found.map((one) => [one.id, one]));
  const chosen = new Map();
  const filter = choice("endpoint", [["", "any"], ...found.map((one) => [one.id, one.url])], parameters.get("endpoint"));
  const type = h("input", { name: "type", value: parameters.get("event_type") ?? "", placeholder: "invoice.paid", autocomplete: "off", maxlength: 128 });
  const form = h("form", { class: "filters", role: "search" }, field("Endpoint", filter), field("Type", type),
    h("div", { class: "row" }, h("button", { class: "main" }, "Search"), h("a", { class: "button", href: "#/dead-letters" }, "Reset")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const wanted = new URLSearchParams();
    if (filter.value) wanted.set("endpoint", filter.value);
    if (type.value.trim()) wanted.set("event_type", type.value.trim());
    location.hash = wanted.size ? `#/dead-letters?${wanted}` : "#/dead-letters";
  });
  const replay = h("button", { type: "button", class: "main", disabled: true }, "Replay…");
  const count = h("span", { class: "muted", role: "status" });
  const choosing = h("div", { class: "row choosing", hidden: true });
  const list = h("div");
  const more = h("div", { class: "row" });
  const wanted = Object.fromEntries(["endpoint", "event_type"].map((name) => [name, parameters.get(name)]).filter(([, value]) => value));
  const replayAll = may("replay") && h("button", { type: "button", onclick: async () => {
    try { await replayAllOf(wanted, Object.keys(wanted).length ? "that fit the search" : "whatever endpoint they are for", () => load()); }
    catch (error) { if (!signal.aborted) put(more, failure(error)); }
  } }, Object.keys(wanted).length ? "Replay all that fit…" : "Replay all…");
  put(place, head("Dead letters", "Deliveries that were given up, of the newest event first", replayAll), form,
    h("section", { class: "card", "aria-label": "Dead letters" }, choosing, list, more));

  let items = [];
  const tell = () => {
    replay.disabled = chosen.size === 0;
    everything.checked = items.length > 0 && items.every((one) => chosen.has(one.id));
    replay.textContent = chosen.size ? `Replay ${number(chosen.size)}…` : "Replay…";
    count.textContent = chosen.size ? `${number(chosen.size)} of ${number(items.length)} chosen` : "";
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
  put(choosing, h("label", { class: "check" }, everything, "Choose all that are shown"), replay, count);
  const draw = () => put(list, items.length === 0 ? empty("There are no dead letters here.") : [
    table("Dead letters", [
      ...(may("replay") ? [["", box, "choose"]] : []),
      ["Reason", (one) => h("span", { class: "badge bad" }, words(one.reason ?? "unknown"))],
      ["Event", (one) => link(one.event, "event")],
      ["Type", (one) => one.event_type ?? h("span", { class: "muted" }, "no longer kept"), "wide"],
      ["Endpoint", (one) => h("a", { href: `#/endpoint/${one.endpoint}` }, endpoints.get(one.endpoint)?.url ?? "deleted"), "wide"],
      ["Attempts", (one) => one.attempts, "number"],
      ["Answer", (one) => one.http_status ?? "–", "number"],
      ["Given up", (one) => when(one.finished_at), "time"],
    ], items)]);
  const load = async (cursor) => {
    put(more, h("p", { class: "muted", role: "status" }, "Loading…"));
    try {
      const page = await get(withQuery("deliveries", { status: "DEAD_LETTERED", limit: PAGE, cursor,
        endpoint: parameters.get("endpoint"), event_type: parameters.get("event_type") }), { signal });
      items = cursor ? items.concat(page.data) : page.data;
      choosing.hidden = items.length === 0 || !may("replay");
      draw();
      put(more, page.next_cursor && h("button", { type: "button", onclick: () => load(page.next_cursor) }, "Show more"));
      tell();
    } catch (error) {
      if (error.name !== "AbortError") put(more, failure(error), h("button", { type: "button", onclick: () => load(cursor) }, "Try again"));
    }
  };

  replay.addEventListener("click", async () => {
    replay.disabled = true;
    replay.textContent = "Looking…";
    let looked;
    try { looked = await dryRun([...chosen.values()], endpoints); } catch (error) {
      if (!signal.aborted) put(more, failure(error));
      return;
    } finally { tell(); }
    if (signal.aborted) return;
    const { open, changed, lost, paused } = looked;
    confirm({
      title: `Replay ${number(open.length)} dead letter${open.length === 1 ? "" : "s"}?`,
      body: [
        h("p", {}, "Nothing has been sent yet. This is what would happen:"),
        h("ul", {}, counted(open, (one) => one.endpoint).map(([id, times]) => h("li", {}, `${number(times)} to `, h("code", {}, endpoints.get(id)?.url ?? `${id} (deleted)`))),
          counted(open, (one) => one.reason ?? "unknown").map(([reason, times]) => h("li", {}, `${number(times)} given up as: ${words(reason)}`))),
        changed > 0 && notice(`${number(changed)} of those chosen are no dead letters any more and are left out.`, "warn"),
        lost.length > 0 && notice(`${number(lost.length)} go to endpoints that are disabled or deleted, and would become dead letters again.`, "warn"),
        paused.length > 0 && notice(`${number(paused.length)} go to paused endpoints and wait until those are resumed.`),
      ],
      fields: [reasonField()], button: "Replay now",
      act: async ({ reason }, told, dialog) => {
        const { replayed, refused } = await replayEach(open, reason, told, dialog);
        if (dialog.open) announce(`${number(replayed)} replayed`);
        chosen.clear();
        await load();
        if (refused.length > 0) {
          dialog.dataset.stays = "yes";
          put(told, notice(`${number(replayed)} replayed, ${number(refused.length)} refused:`, "bad"),
            h("ul", {}, refused.slice(0, 20).map(([one, why]) => h("li", {}, h("code", {}, one.id), ` ${why}`))));
        }
      },
    });
  });
  await load();
}
