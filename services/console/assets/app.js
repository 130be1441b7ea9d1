// Which page is shown: the part of the address behind the #.

import { h, put } from "./dom.js";
import { get, logOut, may, me } from "./api.js";
import { failure } from "./parts.js";
import { overview } from "./page-overview.js";
import { events } from "./page-events.js";
import { event } from "./page-event.js";
import { endpoints } from "./page-endpoints.js";
import { endpoint } from "./page-endpoint.js";
import { deadLetters } from "./page-dead-letters.js";
import { tail } from "./page-tail.js";
import { keys } from "./page-keys.js";
import { audit } from "./page-audit.js";

// Name in the address, title, page, the scope it needs; pages without a title are reached from others.
const PAGES = [
  ["", "Overview", overview, "read"],
  ["events", "Events", events, "read"],
  ["event", null, event, "read"],
  ["endpoints", "Endpoints", endpoints, "read"],
  ["endpoint", null, endpoint, "read"],
  ["dead-letters", "Dead letters", deadLetters, "read"],
  ["tail", "Live tail", tail, "read"],
  ["keys", "API keys", keys, "manage"],
  ["audit", "Audit log", audit, "manage"],
];
// Which entry is marked when a page without one is shown.
const BELONGS = { event: "events", endpoint: "endpoints" };

const main = document.getElementById("main");
let leaving = new AbortController();

/** #/events?status=X → ["events", "", parameters]; #/event/evt_… → ["event", "evt_…", parameters] */
function address() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name = "", id = ""] = path.split("/");
  return [name, id, new URLSearchParams(query)];
}

function showNavigation(name) {
  const current = BELONGS[name] ?? name;
  const nav = document.getElementById("nav");
  put(nav, PAGES.filter(([, title, , scope]) => title && may(scope)).map(([of, title]) =>
    h("a", { href: `#/${of}`, "aria-current": of === current ? "page" : null }, title)));
  // On narrow screens the row of pages is longer than the screen.
  const marked = nav.querySelector("[aria-current]");
  if (marked) nav.scrollLeft = marked.offsetLeft - (nav.clientWidth - marked.offsetWidth) / 2 - nav.offsetLeft;
}

async function show() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const [name, id, parameters] = address();
  const found = PAGES.find(([of]) => of === name);
  showNavigation(name);
  const place = h("div");
  put(main, place);
  document.title = `${found?.[1] ?? (id || "Not found")} · Zyven`;
  if (!found) {
    put(place, h("h1", {}, "Not found"), h("p", {}, "There is no such page. ", h("a", { href: "#/" }, "To the overview")));
    return;
  }
  try {
    await found[2](place, { id, parameters, signal });
  } catch (error) {
    if (error.name !== "AbortError" && !signal.aborted) {
      put(place, failure(error), h("button", { type: "button", onclick: show }, "Try again"));
    }
  }
}

document.getElementById("log-out").addEventListener("click", logOut);
document.getElementById("skip").addEventListener("click", (event) => {
  // The address belongs to the pages.
  event.preventDefault();
  main.focus();
});
window.addEventListener("hashchange", () => {
  show();
  window.scrollTo(0, 0);
  main.focus({ preventScroll: true });
});

try {
  Object.assign(me, await get("api-keys/current"));
  const who = document.getElementById("who");
  put(who, `${me.tenant_name} · ${me.name}`);
  who.title = `${me.tenant}, ${me.id}: ${me.scopes.join(", ")}`;
  await show();
} catch (error) {
  put(main, failure(error));
}
