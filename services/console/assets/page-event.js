// One event: what it is, where it went, and every attempt that is on record.

import { h, put, announce } from "./dom.js";
import { get, isEmbedded, may, post, withQuery } from "./api.js";
import { badge, confirm, empty, facts, head, reasonField, repeat, table, when } from "./parts.js";
import { attempt } from "./attempt.js";
import { duration, exactMoment, words } from "./format.js";
import { explanations, waitingFor } from "./waiting.js";

const EVERY_MS = 3000;
const DELIVERIES_SHOWN_MAX = 50;
/** How much of a time is looked at to see whether it has changed: to the second. */
const SECONDS = "2026-01-31T12:00:00".length;
/** Most unfinished deliveries of which it is asked, one by one, what they wait for. */
const EXPLAINED_MAX = 10;

function pretty(value) {
  return h("pre", { tabindex: "0" }, JSON.stringify(value, null, 2));
}

/** From its acceptance to its end, or to what it waits for: `told` explains that, where the API does. */
function timeline(event, delivery, attempts, endpoint, told) {
  const generations = new Set(attempts.map((one) => one.generation));
  const entries = [];
  let generation = 0;
  for (const one of attempts) {
    if (one.generation !== generation && generations.size > 1) {
      entries.push(h("li", {}, h("strong", {}, one.generation === 1 ? "First generation" : `Replayed: generation ${one.generation}`)));
    }
    generation = one.generation;
    entries.push(attempt(one, delivery, event, endpoint));
  }
  return h("ol", { class: "timeline" },
    h("li", {}, h("strong", {}, "Accepted"), h("div", { class: "muted" }, exactMoment(event.accepted_at))),
    entries, end(delivery, told));
}

function end(delivery, told) {
  if (delivery.finished_at) {
    return h("li", { class: delivery.status === "DELIVERED" ? "good" : "bad" }, h("strong", {}, words(delivery.status)),
      delivery.reason && `: ${words(delivery.reason)}`, h("div", { class: "muted" }, exactMoment(delivery.finished_at)));
  }
  const next = delivery.next_attempt_at;
  const isAhead = next && Date.parse(next) > Date.now();
  return h("li", { class: "" }, h("strong", {}, words(delivery.status)),
    told ? h("div", { class: "muted" }, told.sentence)
      : next && h("div", { class: "muted" }, isAhead ? "next attempt at " : "due since ", exactMoment(next)));
}

function actions(delivery, renew) {
  const buttons = [];
  if (may("replay") && delivery.status === "DEAD_LETTERED") {
    buttons.push(h("button", { type: "button", class: "main", onclick: () => confirm({
      title: "Replay this dead letter?",
      body: h("p", {}, "It goes back to the start, with the same webhook-id; attempts and age count anew."),
      fields: [reasonField()], button: "Replay",
      act: async ({ reason }) => { await post(`deliveries/${delivery.id}/replay`, { reason }); announce("Replayed"); renew(); },
    }) }, "Replay…"));
  }
  if (may("replay") && !isEmbedded && !delivery.finished_at) {
    buttons.push(h("button", { type: "button", class: "danger", onclick: () => confirm({
      title: "Cancel this delivery?",
      body: h("p", {}, "It becomes a dead letter. A request that is under way cannot be called back."),
      fields: [reasonField()], button: "Cancel the delivery", danger: true,
      act: async ({ reason }) => { await post(`deliveries/${delivery.id}/cancel`, { reason }); announce("Cancelled"); renew(); },
    }) }, "Cancel delivery…"));
  }
  return buttons.length > 0 && h("div", { class: "row" }, buttons);
}

/** Why it did or did not go somewhere, where the API tells. */
async function explanation(id, place, signal) {
  try {
    const told = await get(`events/${id}/explain`, { by: "page", signal });
    put(place, h("section", { class: "card" }, h("h2", {}, "Why it went where it went"), judgements(told)));
  } catch { /* An API that does not explain. */ }
}

/** By what it was judged, if that is less than certain. */
const JUDGED_BY = {
  unchanged_configuration: "by the endpoint's settings, which are those of that time",
  present_configuration: "by the endpoint's settings of today, which were changed since",
};

function judgements({ data, next_cursor: next }) {
  return [
    table("Endpoints and the event", [
      ["Endpoint", (one) => h("a", { href: `#/endpoint/${one.endpoint}` }, one.url)],
      ["Event", (one) => [one.sentence, JUDGED_BY[one.judged_by] && h("p", { class: "sub" }, JUDGED_BY[one.judged_by])]],
      ["Delivery", ({ delivery }) => delivery && [badge(delivery.status), " ", delivery.sentence, waits(delivery)]],
    ], data),
    next && h("p", { class: "sub" }, "There are more endpoints: the API tells of all of them."),
  ];
}

/** What it waits for, in numbers. */
function waits({ next_attempt_at: next, lane }) {
  const line = lane?.position ? `${lane.position} of ${lane.fresh + lane.retries} in its endpoint's line` : null;
  const breaker = lane && lane.breaker !== "closed" ? `breaker ${words(lane.breaker).toLowerCase()}` : null;
  const told = [line, breaker].filter(Boolean).join(" · ");
  // One that has passed keeps nothing: the sentence says what does.
  const isAhead = next && Date.parse(next) > Date.now();
  return (isAhead || told) && h("p", { class: "sub" }, isAhead && ["next attempt ", when(next)], isAhead && told && " · ", told);
}

export async function event(place, { id, signal }) {
  const body = h("div");
  const deliveriesPlace = h("div");
  const why = h("div");
  put(place, body, deliveriesPlace, why);
  let shown = "";
  // The deliveries that the page's foot speaks of.
  let explained = "";
  const opened = new Map();
  // Whatever is recorded about an attempt changes its delivery as well.
  const known = new Map();
  const attemptsOf = async (one) => {
    const record = JSON.stringify(one);
    if (known.get(one.id)?.record !== record) {
      known.set(one.id, { record, attempts: await get(`deliveries/${one.id}/attempts`, { by: "page", signal }) });
    }
    return known.get(one.id).attempts;
  };
  const renew = async () => {
    const [found, page] = await Promise.all([
      get(`events/${id}`, { by: "page", signal, isExact: true }),
      get(withQuery(`events/${id}/deliveries`, { limit: DELIVERIES_SHOWN_MAX }), { by: "page", signal }),
    ]);
    const attempts = await Promise.all(page.data.map(attemptsOf));
    const unfinished = page.data.filter((one) => !one.finished_at).slice(0, EXPLAINED_MAX);
    const told = new Map(await Promise.all(unfinished.map(async (one) => [one.id, await explain(one)])));
    const state = JSON.stringify([found.status, page.data, attempts, [...told].map(([, one]) => [one?.code, one?.next_attempt_at?.slice(0, SECONDS)])]);
    if (state === shown) return;
    shown = state;
    const deliveries = JSON.stringify(page.data);
    if (deliveries !== explained) explanation(id, why, signal);
    explained = deliveries;
    // What was unfolded stays so.
    for (const one of deliveriesPlace.querySelectorAll("details")) opened.set(one.dataset.part, one.open);
    put(body,
      head(h("span", { class: "mono" }, id), h("span", {}, badge(found.status), " ", found.type),
        may("publish") && page.data.some((one) => !one.finished_at) && h("button", { type: "button", class: "danger", onclick: () => confirm({
          title: "Cancel this event?",
          body: h("p", {}, "Every delivery of it that is not finished becomes a dead letter."),
          fields: [reasonField()], button: "Cancel the event", danger: true,
          act: async ({ reason }) => {
            const done = await post(`events/${id}/cancel`, { reason });
            announce(`${done.cancelled} cancelled, ${done.finished} were finished`);
            await renew();
          },
        }) }, "Cancel event…")),
      h("div", { class: "grid" },
        h("section", { class: "card" }, h("h2", {}, "Event"), facts([
          ["Type", found.type], ["Content type", h("code", {}, found.content_type)], ["Accepted", exactMoment(found.accepted_at)],
          ["Deliver at", found.deliver_at && exactMoment(found.deliver_at)], ["Expires at", found.expires_at && exactMoment(found.expires_at)],
          ["Ordering key", found.ordering_key], ["Source", found.source], ["Channels", found.channels.join(", ")],
          ["Trace", found.traceparent && h("code", {}, found.traceparent)], ["Deliveries", String(found.deliveries)],
        ])),
        h("section", { class: "card" }, h("h2", {}, "Payload"), pretty(found.payload))));
    put(deliveriesPlace, page.data.length === 0 && h("section", { class: "card" },
      empty("No endpoint wanted this event when it was accepted.")),
    page.data.map((one, index) => h("section", { class: "card", "aria-label": `Delivery ${one.id}` },
      h("div", { class: "head" }, h("h2", {}, "Delivery to ", h("a", { href: `#/endpoint/${one.endpoint}` }, receivers.get(one.endpoint)?.url ?? one.endpoint)),
        actions(one, renew)),
      facts([["State", badge(one.status)], ["Waits for", waitingFor(told.get(one.id))], ["Id", h("code", {}, one.id)], one.generation > 1 && ["Generation", String(one.generation)],
        one.finished_at && ["Time to the end", duration(Date.parse(one.finished_at) - Date.parse(one.created_at))]]),
      h("h3", {}, "Timeline"), timeline(found, one, attempts[index].data, receivers.get(one.endpoint), told.get(one.id)))),
    page.next_cursor && h("p", { class: "muted" }, `The first ${DELIVERIES_SHOWN_MAX} deliveries are shown.`));
    for (const one of deliveriesPlace.querySelectorAll("details")) one.open = opened.get(one.dataset.part) ?? false;
  };
  const receivers = new Map();
  const explain = explanations(signal);
  await renew();
  // Endpoints come when they come.
  const ids = [...new Set([...deliveriesPlace.querySelectorAll("h2 a")].map((one) => one.getAttribute("href").split("/").pop()))];
  await Promise.all(ids.slice(0, DELIVERIES_SHOWN_MAX).map(async (of) => {
    try { receivers.set(of, await get(`endpoints/${of}`, { by: "page", signal })); } catch (error) {
      // Deleted: its id is shown.
      if (error.status === 404) receivers.set(of, null);
    }
  }));
  shown = "";
  await repeat(signal, EVERY_MS, renew);
}
