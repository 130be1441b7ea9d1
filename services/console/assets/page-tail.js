// What happens just now: new deliveries and changes of those shown, as they come.

import { h, put, announce } from "./dom.js";
import { get, withQuery } from "./api.js";
import { empty, failure, head, notice, repeat, row, urls } from "./parts.js";
import { deliveryColumns } from "./page-events.js";

const EVERY_MS = 2000;
const SHOWN_MAX = 100;

export async function tail(place, { signal }) {
  // By endpoint; asked for with the first deliveries, so that an API that is away just then is asked again.
  const names = new Map();
  let isNamed = false;
  const columns = deliveryColumns(names);
  const body = h("tbody");
  const told = h("div");
  const nothing = h("div", { hidden: true }, empty("Waiting for events. Publish one, and it appears here."));
  let isPaused = false;
  const pause = h("button", { type: "button", "aria-pressed": "false", onclick: () => {
    isPaused = !isPaused;
    pause.setAttribute("aria-pressed", String(isPaused));
    pause.textContent = isPaused ? "Go on" : "Hold";
    announce(isPaused ? "Held" : "Going on");
  } }, "Hold");
  put(place, head("Live tail", "Deliveries of the newest events first, renewed every 2 seconds. A retry or replay changes its row where that stands", pause), told,
    h("section", { class: "card", "aria-label": "Latest deliveries" }, nothing,
      h("div", { class: "scroll" }, h("table", { class: "stack" }, h("caption", { class: "unseen" }, "Latest deliveries"),
        h("thead", {}, h("tr", {}, columns.map(([name, , kind]) => h("th", { scope: "col", class: kind }, name)))), body))));
  // By delivery: what was shown of it, and its row.
  const shown = new Map();
  let isFirst = true;
  await repeat(signal, EVERY_MS, async () => {
    if (isPaused) return;
    let page;
    try {
      if (!isNamed) for (const [id, url] of await urls(2000, { by: "page", signal })) names.set(id, url);
      isNamed = true;
      page = await get(withQuery("deliveries", { limit: SHOWN_MAX }), { by: "page", signal });
      put(told);
    } catch (error) {
      if (error.name !== "AbortError") put(told, failure(error));
      throw error;
    }
    const rows = page.data.map((one) => {
      const state = JSON.stringify(one);
      const known = shown.get(one.id);
      if (known?.state === state) return known.row;
      const made = row(columns, one, { class: isFirst ? null : "fresh" });
      shown.set(one.id, { state, row: made });
      return made;
    });
    isFirst = false;
    const ids = new Set(page.data.map((one) => one.id));
    for (const id of shown.keys()) if (!ids.has(id)) shown.delete(id);
    // Rows that stay keep their place and whoever has the focus in them.
    if (rows.length !== body.children.length || rows.some((one, index) => one !== body.children[index])) {
      const focused = document.activeElement;
      body.replaceChildren(...rows);
      if (focused?.isConnected && body.contains(focused)) focused.focus({ preventScroll: true });
    }
    nothing.hidden = rows.length > 0;
    if (rows.length === SHOWN_MAX && page.next_cursor) put(told, notice(`The ${SHOWN_MAX} of the newest events are shown. Retries and replays of older ones are under Events.`));
  });
}
