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
  // What it is about is on the page that is left.
  document.querySelector("dialog")?.close();
  leaving = new AbortController();
  const { signal } = leaving;
  here = location.hash || "#/";
  const [name, id, parameters] = address();
  const page = PAGES.find(([of]) => of === name);
  const found = page && may(page[3]) ? page : null;
  showNavigation(name);
  const place = h("div");
  put(main, place);
  document.title = `${page?.[1] ?? (id || "Not found")} · Zyven`;
  // Whoever looks at an embedded view cannot bring another key.
  if (page && !found && !isEmbedded) {
    put(place, h("h1", {}, page[1]), notice(`This page needs a key with the scope ${page[3]}; this session's key has ${me.scopes.join(", ")}.`, "warn"),
      h("p", {}, h("a", { href: "#/" }, "To the overview")));
    return;
  }
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

const NO_LINK = "This view was opened without a view link: its address has to end in #token=zyv_…";
const BAD_LINK = "This view link is not valid, or has ended. Reload the page that shows it.";
const ENDED = "This view has ended. Reload the page that shows it.";
/** How long before its end the page around this one is told, so that it can bring another link. */
const NOTICE_MS = 60000;
/** Between two questions whether it has ended, should the clocks disagree. */
const ASK_AGAIN_MS = 5000;
let ending = null;

/** Nothing more can be asked; what the page shows is no longer true. */
function end(why) {
  hasEnded = true;
  leaving.abort();
  clearTimeout(ending);
  document.querySelector("dialog")?.close();
  put(document.getElementById("nav"));
  put(main, notice(why, "warn"));
  tell("view-ended");
}

/** Tells the page around this one; there is nothing in it that others may not read. */
function tell(what) {
  if (isEmbedded && parent !== window) parent.postMessage({ zyven: what }, "*");
}

/** Finds the end of a view link when it comes, whatever page is shown: not every page asks by itself. */
function awaitEnd() {
  clearTimeout(ending);
  if (!isEmbedded) return;
  const left = Date.parse(me.expires_at) - Date.now();
  if (left > NOTICE_MS) {
    ending = setTimeout(() => { tell("view-ends-soon"); awaitEnd(); }, left - NOTICE_MS);
    return;
  }
  // An answer of 401 ends the view.
  ending = setTimeout(() => get("api-keys/current").catch(() => null).then(awaitEnd), Math.max(left, ASK_AGAIN_MS));
}

/** The page around this one has brought another link. In time, and of the same tenant, whoever looks is not to be disturbed. */
async function renew(token) {
  let now = null;
  try {
    now = await get("api-keys/current", { link: token });
  } catch (error) {
    // Too much to do, or nobody there: what is shown is good still, and so may the link be.
    if (error.status !== 401 && !hasEnded) {
      setTimeout(() => renew(token), ASK_AGAIN_MS);
      return;
    }
  }
  const isSame = !hasEnded && now !== null && now.tenant === me.tenant && String(now.scopes) === String(me.scopes);
  useViewLink(token);
  if (isSame) {
    Object.assign(me, now);
    awaitEnd();
    return;
  }
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
    awaitEnd();
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
document.addEventListener("show-again", () => { if (!hasEnded) show(); });
document.addEventListener("click", (event) => {
  // A link to the page that is shown: browsers do nothing then.
  const link = event.target.closest?.("a[href^='#/']");
  if (link && link.href === location.href && !event.ctrlKey && !event.metaKey && !event.shiftKey) document.dispatchEvent(new Event("show-again"));
});
document.addEventListener("view-ended", () => end(me.tenant ? ENDED : BAD_LINK));
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
else end(NO_LINK);
