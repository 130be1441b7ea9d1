// One event: what it is, where it went, and every attempt that is on record.

import { h, put, announce } from "./dom.js";
import { get, isEmbedded, may, post, withQuery } from "./api.js";
import { badge, confirm, empty, facts, head, reasonField, repeat, table, when } from "./parts.js";
import { duration, exactMoment, micros, words } from "./format.js";
import { phases } from "./chart.js";

const EVERY_MS = 3000;
const DELIVERIES_SHOWN_MAX = 50;

function pretty(value) {
  return h("pre", { tabindex: "0" }, JSON.stringify(value, null, 2));
}

function attempt(one) {
  const isGood = one.status_after === "DELIVERED";
  const outcome = one.http_status ? `${one.http_status}` : words(one.error ?? "no answer");
  const kind = isGood ? "good" : one.status_after === "DEAD_LETTERED" ? "bad" : "warn";
  return h("li", { class: kind },
    h("div", { class: "what" }, h("strong", {}, `Attempt ${one.number}`), h("span", { class: `badge ${kind}` }, outcome),
      one.started_at && h("time", { datetime: one.started_at, class: "muted" }, exactMoment(one.started_at)),
      h("span", { class: "muted" }, `took ${micros(one.total_us)}`)),
    one.error_detail && h("p", { class: "bad-text" }, one.error_detail),
    one.total_us !== null && [phases(one), h("p", { class: "hint" },
      one.connect_us === null ? "connection reused" : `connected after ${micros(one.connect_us)}`,
      one.first_byte_us === null ? "" : ` · first byte after ${micros(one.first_byte_us)}`, ` · done after ${micros(one.total_us)}`)],
    h("p", { class: "muted" }, `Then: ${words(one.status_after)}`),
    (one.response_headers.length > 0 || one.response_body) && h("details", {}, h("summary", {}, "Answer"),
      one.response_headers.length > 0 && facts(one.response_headers.map(([name, value]) => [name, h("code", {}, value)])),
      one.response_body ? h("pre", { tabindex: "0" }, one.response_body) : h("p", { class: "muted" }, "The answer has no body.")));
}

function timeline(event, delivery, attempts) {
  const generations = new Set(attempts.map((one) => one.generation));
  const entries = [];
  let generation = 0;
  for (const one of attempts) {
    if (one.generation !== generation && generations.size > 1) {
      entries.push(h("li", {}, h("strong", {}, one.generation === 1 ? "First generation" : `Replayed: generation ${one.generation}`)));
    }
    generation = one.generation;
    entries.push(attempt(one));
  }
  const end = delivery.finished_at
    ? h("li", { class: delivery.status === "DELIVERED" ? "good" : "bad" }, h("strong", {}, words(delivery.status)),
      delivery.reason && `: ${words(delivery.reason)}`, h("div", { class: "muted" }, exactMoment(delivery.finished_at)))
    : h("li", { class: "" }, h("strong", {}, words(delivery.status)),
      delivery.next_attempt_at && h("div", { class: "muted" }, "next attempt at ", exactMoment(delivery.next_attempt_at)));
  return h("ol", { class: "timeline" },
    h("li", {}, h("strong", {}, "Accepted"), h("div", { class: "muted" }, exactMoment(event?.accepted_at ?? delivery.created_at))),
    entries, end);
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
    put(place, h("section", { class: "card" }, h("h2", {}, "Why it went where it went"), explained(told)));
  } catch { /* An API that does not explain. */ }
}

/** By what it was judged, if that is less than certain. */
const JUDGED_BY = {
  unchanged_configuration: "by the endpoint's settings, which are those of that time",
  present_configuration: "by the endpoint's settings of today, which were changed since",
};

function explained({ data, next_cursor: next }) {
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
  const breaker = lane && lane.breaker !== "closed" ? `breaker ${words(lane.breaker)}` : null;
  const told = [line, breaker].filter(Boolean).join(" · ");
  return (next || told) && h("p", { class: "sub" }, next && ["next attempt ", when(next)], next && told && " · ", told);
}

export async function event(place, { id, signal }) {
  const body = h("div");
  const deliveriesPlace = h("div");
  const why = h("div");
  put(place, body, deliveriesPlace, why);
  let shown = "";
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
    const state = JSON.stringify([found.status, page.data, attempts]);
    if (state === shown) return;
    shown = state;
    // What was unfolded stays so.
    for (const [index, one] of deliveriesPlace.querySelectorAll("details").entries()) opened.set(index, one.open);
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
          ["Type", found.type], ["Accepted", exactMoment(found.accepted_at)],
          ["Deliver at", found.deliver_at && exactMoment(found.deliver_at)], ["Expires at", found.expires_at && exactMoment(found.expires_at)],
          ["Ordering key", found.ordering_key], ["Source", found.source], ["Channels", found.channels.join(", ")],
          ["Trace", found.traceparent && h("code", {}, found.traceparent)], ["Deliveries", String(found.deliveries)],
        ])),
        h("section", { class: "card" }, h("h2", {}, "Payload"), pretty(found.payload))));
    put(deliveriesPlace, page.data.length === 0 && h("section", { class: "card" },
      empty("No endpoint wanted this event when it was accepted.")),
    page.data.map((one, index) => h("section", { class: "card", "aria-label": `Delivery ${one.id}` },
      h("div", { class: "head" }, h("h2", {}, "Delivery to ", h("a", { href: `#/endpoint/${one.endpoint}` }, names.get(one.endpoint) ?? one.endpoint)),
        actions(one, renew)),
      facts([["State", badge(one.status)], ["Id", h("code", {}, one.id)], one.generation > 1 && ["Generation", String(one.generation)],
        one.finished_at && ["Time to the end", duration(Date.parse(one.finished_at) - Date.parse(one.created_at))]]),
      h("h3", {}, "Timeline"), timeline(found, one, attempts[index].data))),
    page.next_cursor && h("p", { class: "muted" }, `The first ${DELIVERIES_SHOWN_MAX} deliveries are shown.`));
    for (const [index, one] of deliveriesPlace.querySelectorAll("details").entries()) one.open = opened.get(index) ?? false;
  };
  const names = new Map();
  await renew();
  explanation(id, why, signal);
  // Names of endpoints come when they come.
  const ids = [...new Set([...deliveriesPlace.querySelectorAll("h2 a")].map((one) => one.getAttribute("href").split("/").pop()))];
  await Promise.all(ids.slice(0, DELIVERIES_SHOWN_MAX).map(async (of) => {
    try { names.set(of, (await get(`endpoints/${of}`, { by: "page", signal })).url); } catch { /* deleted: its id is shown */ }
  }));
  shown = "";
  await repeat(signal, EVERY_MS, renew);
}
