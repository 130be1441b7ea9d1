// How it goes: throughput, success, latency, and what waits where.

import { h, put } from "./dom.js";
import { get, withQuery } from "./api.js";
import { empty, failure, head, notice, repeat, table, urls, when } from "./parts.js";
import { compact, duration, number, percent } from "./format.js";
import { latency, legend, throughput } from "./chart.js";

const EVERY_MS = 5000;
const WINDOWS = [["15", "15 minutes"], ["60", "1 hour"], ["360", "6 hours"], ["1440", "24 hours"]];

const since = (text) => (text ? duration(Math.max(0, Date.now() - Date.parse(text))) : "–");
const atLeast = (value, isComplete) => (isComplete ? compact(value) : `≥ ${compact(value)}`);

export const tile = (name, value, hint) => h("div", { class: "tile" }, h("dt", {}, name),
  h("dd", {}, value, hint && h("p", { class: "hint" }, hint)));

/** The tiles and charts of some statistics, for all endpoints or one. */
export function figures(statistics, width) {
  const seconds = Math.max(1, (Date.parse(statistics.until) - Date.parse(statistics.since)) / 1000);
  const ended = statistics.delivered + statistics.dead_lettered;
  const rate = ended / seconds;
  const { waiting } = statistics;
  return [
    statistics.complete_since && notice(["There were more deliveries than are counted. Before ",
      when(statistics.complete_since), " the charts show a part of them."]),
    h("dl", { class: "tiles" },
      tile("Delivered", compact(statistics.delivered), `${rate < 10 ? rate.toFixed(2) : compact(Math.round(rate))} finished a second`),
      tile("Success", percent(statistics.success_rate), `${number(statistics.attempts)} requests`),
      tile("Time to delivery", duration(statistics.latency_ms?.p50), statistics.latency_ms
        ? `95\u00a0%: ${duration(statistics.latency_ms.p95)} · 99\u00a0%: ${duration(statistics.latency_ms.p99)}` : "nothing delivered"),
      tile("Waiting", atLeast(waiting.deliveries, statistics.waiting_is_complete),
        `${compact(waiting.retrying)} to be retried · ${compact(waiting.in_hand)} in hand`),
      tile("Oldest due", since(waiting.oldest_due_at), "since it could have been sent"),
      tile("Dead letters", atLeast(statistics.dead_letters, statistics.dead_letters_is_complete), "not replayed yet")),
    h("div", { class: "grid" },
      h("section", { class: "card" }, h("h2", {}, "Finished deliveries"), throughput(statistics, width),
        legend(["fill-good", "Delivered"], ["fill-bad", "Dead letters"])),
      h("section", { class: "card" }, h("h2", {}, "Time to delivery"), latency(statistics, width),
        legend(["line", "half of them"], ["line-2", "95 in 100"]))),
  ];
}

/** How wide a chart is drawn: letters keep their size whatever the screen. */
export function chartWidth() {
  const wide = document.getElementById("main").clientWidth - 60;
  return Math.max(280, wide > 960 ? Math.floor(wide / 2) - 30 : wide);
}

const COLUMNS = (names) => [
  ["Endpoint", (one) => h("a", { href: `#/endpoint/${one.endpoint}`, title: one.endpoint }, names.get(one.endpoint) ?? one.endpoint), "wide"],
  ["Delivered", (one) => number(one.delivered), "number"],
  ["Dead", (one) => h("span", { class: one.dead_lettered ? "bad-text" : "" }, number(one.dead_lettered)), "number"],
  ["Success", (one) => percent(one.success_rate), "number"],
  ["95 % within", (one) => duration(one.latency_ms?.p95), "number"],
  ["Waiting", (one) => number(one.waiting.deliveries), "number"],
  ["To be retried", (one) => number(one.waiting.retrying), "number"],
  ["Oldest due", (one) => since(one.waiting.oldest_due_at), "number"],
];

export async function overview(place, { parameters, signal }) {
  const minutes = parameters.get("minutes") ?? "60";
  const select = h("select", { "aria-label": "Period", onchange: () => { location.hash = `#/?minutes=${select.value}`; } },
    WINDOWS.map(([value, text]) => h("option", { value, selected: value === minutes }, text)));
  const body = h("div", { "aria-busy": "true" }, h("p", { class: "muted" }, "Loading…"));
  const told = h("div");
  put(place, head("Overview", "All endpoints, renewed every 5 seconds", select), told, body);
  let names = null;
  await repeat(signal, EVERY_MS, async () => {
    let statistics;
    try {
      names ??= await urls(1000, { by: "page", signal });
      statistics = await get(withQuery("statistics", { minutes }), { by: "page", signal });
    } catch (error) {
      // What was last known stays, and is said to be old.
      if (error.name !== "AbortError") put(told, failure(error), body.dataset.at && notice(["The numbers are those of ", when(body.dataset.at), "."], "warn"));
      if (!body.dataset.at) put(body);
      throw error;
    }
    put(told);
    body.dataset.at = statistics.until;
    body.removeAttribute("aria-busy");
    put(body, figures(statistics, chartWidth()),
      h("section", { class: "card" }, h("h2", {}, "By endpoint"), statistics.endpoints.length
        ? table("Deliveries by endpoint", COLUMNS(names), statistics.endpoints.slice(0, 50))
        : empty(names.size ? "Nothing was delivered and nothing waits." : ["There is no endpoint yet. ",
          h("a", { href: "#/endpoints" }, "Endpoints")])));
  });
}
