// All endpoints with how they do, and what can be done about them.

import { h, put } from "./dom.js";
import { get } from "./api.js";
import { all, empty, head, repeat, table } from "./parts.js";
import { duration, number, percent } from "./format.js";
import { controls, health } from "./page-endpoint.js";

const EVERY_MS = 5000;

export async function endpoints(place, { signal }) {
  const list = h("section", { class: "card", "aria-label": "Endpoints" }, h("p", { class: "muted" }, "Loading…"));
  put(place, head("Endpoints", "With their deliveries of the last hour"), list);
  let shown = "";
  const renew = async () => {
    const [found, statistics] = await Promise.all([
      all("endpoints", 1000, { by: "page", signal }), get("statistics", { by: "page", signal }),
    ]);
    const numbers = new Map(statistics.endpoints.map((one) => [one.endpoint, one]));
    const state = JSON.stringify([found, statistics.endpoints]);
    // A row that is just being used is not replaced for nothing.
    if (state === shown || list.contains(document.activeElement) && document.activeElement.matches("button")) return;
    shown = state;
    const of = (endpoint) => numbers.get(endpoint.id);
    put(list, found.length === 0
      ? empty(["There is no endpoint yet. Make one with ", h("code", {}, "POST /v1/endpoints"), "."])
      : table("Endpoints", [
        ["Health", (one) => health(one, of(one))],
        ["Endpoint", (one) => [h("a", { href: `#/endpoint/${one.id}` }, one.url), one.description && h("div", { class: "muted" }, one.description)], "wide"],
        ["Types", (one) => one.event_types.join(", "), "wide"],
        ["Success", (one) => percent(of(one)?.success_rate), "number"],
        ["95 % within", (one) => duration(of(one)?.latency_ms?.p95), "number"],
        ["Waiting", (one) => number(of(one)?.waiting.deliveries ?? 0), "number"],
        ["", (one) => controls(one, renewNow), "actions"],
      ], found));
  };
  const renewNow = async () => { shown = ""; document.activeElement?.blur(); await renew(); };
  await renew();
  await repeat(signal, EVERY_MS, renew);
}
