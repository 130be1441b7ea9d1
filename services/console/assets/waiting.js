// What an unfinished delivery waits for, as the API explains it.

import { h } from "./dom.js";
import { get } from "./api.js";
import { when } from "./parts.js";
import { words } from "./format.js";

/** Between two explanations of a delivery of which nothing else has changed: what keeps its lane changes by itself. */
const EXPLAINED_FOR_MS = 10000;

/** A sentence, and when at the earliest it goes on; nothing about what is finished. `told` is what the API calls the explanation of a delivery. */
export function waitingFor(told) {
  if (!told || told.finished_at) return null;
  const next = told.next_attempt_at;
  // One that has passed keeps nothing, and says nothing about when.
  return [told.sentence, next && Date.parse(next) > Date.now() && h("span", { class: "muted" }, " Not before ", when(next))];
}

/** The breaker of an endpoint's lane in words; nothing while it is closed or not known. */
export function breakerOf(told) {
  const lane = told?.lane;
  if (!lane || lane.breaker === "closed") return null;
  return [h("span", { class: "badge bad" }, words(lane.breaker)), lane.breaker_until
    ? [" Nothing is sent until ", when(lane.breaker_until), "; then one probe decides."]
    : " One probe is to decide whether it is well again."];
}

/** Whether nothing of its endpoint's is under way, and nothing is about to be: it stands in line, whatever its state says. */
export const isParked = (told) => ["paused", "breaker_open"].includes(told?.code) && !(told.lane?.in_flight > 0);

/**
 * Explanations of deliveries that wait, renewed when `record` of one changes and now and then besides. An API that does
 * not explain is none that fails: null.
 */
export function explanations(signal) {
  const known = new Map();
  return async (delivery) => {
    if (delivery.finished_at) return null;
    const record = JSON.stringify(delivery);
    const before = known.get(delivery.id);
    if (before?.record === record && Date.now() - before.at < EXPLAINED_FOR_MS) return before.told;
    let told = null;
    try { told = (await get(`deliveries/${delivery.id}/explain`, { by: "page", signal })).delivery; } catch (error) {
      if (error.name === "AbortError") throw error;
    }
    known.set(delivery.id, { record, at: Date.now(), told });
    return told;
  };
}
