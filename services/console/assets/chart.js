// Charts as SVG elements. Each says in words what it shows, for those who do not see it.

import { s, h } from "./dom.js";
import { clock, compact, duration } from "./format.js";

const HEIGHT = 180;
const BOTTOM = 22;
const TOP = 10;
/** Least room for what an axis says, and what a letter of it takes at most: no label is cut, however long. */
const LEFT_MIN = 46;
const LETTER = 6.2;
const GAP = 6;

/** A round number not below value. */
export function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 4, 5, 6, 8, 10].map((times) => times * power).find((round) => round >= value * 0.9999);
}

/** The chart without its content, and where that begins. */
function frame(title, width, highest, label, steps) {
  const plain = HEIGHT - BOTTOM - TOP;
  const labels = [0, 0.5, 1].map((part) => [part, label(highest * part)]);
  const left = Math.max(LEFT_MIN, Math.ceil(Math.max(...labels.map(([, text]) => text.length)) * LETTER) + GAP);
  const lines = labels.map(([part, text]) => {
    const y = TOP + plain * (1 - part);
    return [
      s("line", { class: "axis", x1: left, x2: width, y1: y, y2: y }),
      s("text", { class: "label", x: left - GAP, y: y + 4, "text-anchor": "end" }, text),
    ];
  });
  const every = Math.ceil(steps.length / Math.max(2, Math.floor(width / 110)));
  const each = (width - left) / steps.length;
  const times = steps.map((step, index) => index % every === 0
    && s("text", { x: left + each * index, y: HEIGHT - 5, "text-anchor": index ? "middle" : "start" }, clock(new Date(step.at))));
  return { left, each, chart: s("svg", { class: "chart", viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": title }, lines, times) };
}

/** The part of the window that is counted in part only. */
function uncounted({ chart, left, each }, statistics) {
  if (!statistics.complete_since) return;
  const part = (Date.parse(statistics.complete_since) - Date.parse(statistics.since))
    / (statistics.steps.length * statistics.step_s * 1000);
  const wide = Math.min(Math.max(part, 0), 1) * each * statistics.steps.length;
  chart.prepend(s("rect", { class: "uncounted", x: left, y: TOP, width: wide, height: HEIGHT - TOP - BOTTOM }));
}

/** Delivered and dead-lettered, one above the other, by step. */
export function throughput(statistics, width) {
  const { steps } = statistics;
  const highest = ceiling(Math.max(...steps.map((step) => step.delivered + step.dead_lettered)));
  const title = `Finished deliveries: ${statistics.delivered} delivered, ${statistics.dead_lettered} dead letters`;
  const drawn = frame(title, width, highest, (value) => (Number.isInteger(value) ? compact(value) : ""), steps);
  uncounted(drawn, statistics);
  const { chart, left, each } = drawn;
  const scale = (HEIGHT - BOTTOM - TOP) / highest;
  steps.forEach((step, index) => {
    const x = left + each * index + each * 0.12;
    const good = step.delivered * scale;
    const bad = step.dead_lettered * scale;
    const bar = (height, from, kind) => height > 0 && s("rect", {
      class: kind, x, width: each * 0.76, height: Math.max(height, 1), y: HEIGHT - BOTTOM - from - Math.max(height, 1),
    });
    const text = `${clock(new Date(step.at))}: ${step.delivered} delivered, ${step.dead_lettered} dead letters`;
    chart.append(s("g", {}, s("title", {}, text), bar(good, 0, "fill-good"), bar(bad, good, "fill-bad"),
      s("rect", { x: left + each * index, y: TOP, width: each, height: HEIGHT - TOP - BOTTOM, fill: "transparent" })));
  });
  return chart;
}

/** Quantiles of the time from being due to being delivered. */
export function latency(statistics, width) {
  const { steps } = statistics;
  const highest = ceiling(Math.max(...steps.map((step) => step.latency_ms?.p95 ?? 0)));
  const all = statistics.latency_ms;
  const title = all
    ? `Time to delivery: half within ${duration(all.p50)}, 95 in 100 within ${duration(all.p95)}`
    : "Time to delivery: nothing was delivered";
  // Where nothing was delivered an axis would say something of nothing.
  const label = (value) => (value === 0 ? "0" : all && value >= 1 ? duration(value) : "");
  const drawn = frame(title, width, highest, label, steps);
  uncounted(drawn, statistics);
  const { chart, left, each } = drawn;
  const scale = (HEIGHT - BOTTOM - TOP) / highest;
  for (const [quantile, kind] of [["p95", "line-2"], ["p50", "line"]]) {
    let path = "";
    let isDown = false;
    steps.forEach((step, index) => {
      const value = step.latency_ms?.[quantile];
      if (value === undefined) { isDown = false; return; }
      const x = left + each * (index + 0.5);
      const y = HEIGHT - BOTTOM - value * scale;
      // A step between two without deliveries is a short line, or nobody would see it.
      path += isDown ? `L${x} ${y}` : `M${x - each * 0.3} ${y}L${x + each * 0.3} ${y}`;
      isDown = true;
    });
    chart.append(s("path", { class: kind, d: path || "M0 0" }));
  }
  return chart;
}

export function legend(...entries) {
  const sign = (kind) => s("svg", { viewBox: "0 0 22 14", "aria-hidden": "true" }, kind.startsWith("line")
    ? s("path", { class: kind, d: "M0 7L22 7" })
    : s("rect", { class: kind, width: 22, height: 14, rx: 3 }));
  return h("ul", { class: "legend" }, entries.map(([kind, text]) => h("li", {}, sign(kind), text)));
}

/** Where an attempt's time went: to the connection, to the first byte, to the end. */
export function phases(attempt) {
  const total = Math.max(attempt.total_us ?? 0, 1);
  const connect = Math.min(attempt.connect_us ?? 0, total);
  const first = Math.min(Math.max(attempt.first_byte_us ?? total, connect), total);
  const part = (from, to, kind) => to > from && s("rect", {
    class: kind, x: (from / total) * 300, width: ((to - from) / total) * 300, height: 8,
  });
  return s("svg", { class: "phases", viewBox: "0 0 300 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    part(0, connect, "fill-mute"), part(connect, first, "fill-plain"), part(first, total, "fill-good"));
}
