// Which page is shown: the part of the address behind the #.

import { h, put } from "./dom.js";
import { get, isEmbedded, logOut, may, me, takeViewLink, useViewLink } from "./api.js";
import { failure, notice } from "./parts.js";
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
// Where the page is, for an address that a view link has been taken out of.
let here = "#/";
let hasEnded = false;

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
  here = location.hash || "#/";
  const [name, id, parameters] = address();
  const found = PAGES.find(([of, , , scope]) => of === name && may(scope));
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

/** Nothing more can be asked; what the page shows is no longer true. */
function end() {
  hasEnded = true;
  leaving.abort();
  document.querySelector("dialog")?.close();
  put(document.getElementById("nav"));
  put(main, notice("This view has ended. Reload the page that shows it.", "warn"));
}

/** The page around this one has brought another link. In time, and of the same tenant, whoever looks is not to be disturbed. */
async function renew(token) {
  const now = await get("api-keys/current", { link: token }).catch(() => null);
  const isSame = !hasEnded && now !== null && now.tenant === me.tenant && String(now.scopes) === String(me.scopes);
  useViewLink(token);
  if (isSame) return;
  // What stands in a dialog is about somebody else's deliveries.
  document.querySelector("dialog")?.close();
  await begin();
}

async function begin() {
  hasEnded = false;
  try {
    Object.assign(me, await get("api-keys/current"));
    const who = document.getElementById("who");
    if (who) {
      put(who, `${me.tenant_name} · ${me.name}`);
      who.title = `${me.tenant}, ${me.id}: ${me.scopes.join(", ")}`;
    }
    await show();
  } catch (error) {
    put(main, failure(error));
  }
}

document.getElementById("log-out")?.addEventListener("click", logOut);
document.getElementById("skip").addEventListener("click", (event) => {
  // The address belongs to the pages.
  event.preventDefault();
  main.focus();
});
document.addEventListener("view-ended", end);
window.addEventListener("hashchange", () => {
  const token = takeViewLink(here);
  if (token) {
    renew(token);
    return;
  }
  if (hasEnded) return;
  show();
  window.scrollTo(0, 0);
  main.focus({ preventScroll: true });
});

const link = takeViewLink(here);
if (link) useViewLink(link);
if (link || !isEmbedded) await begin();
else end();
