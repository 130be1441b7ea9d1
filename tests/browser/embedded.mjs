// The view that an application embeds for its customers: a page of another origin with the console's in a frame.

import { accessible, check, fits, snapshot } from "./checks.mjs";
import { until } from "./stack.mjs";

const { CONSOLE } = process.env;
const ENDED = "This view has ended. Reload the page that shows it.";
const NO_LINK = "This view was opened without a view link";
const BAD_LINK = "This view link is not valid, or has ended.";
/** A little more than the minute before whose end the page around the view is told. */
const SHORT_S = 64;

/** Everything a customer does, on pages that `open` makes; `picture` is given each look and its name. */
export async function embedded({ stack, events, open, picture }) {
  const { application, call, receiver } = stack;
  const link = async (scopes, expires_in_s = 3600) => (await call("POST", "/v1/view-links", { scopes, expires_in_s })).token;
  const framed = (token, theme = "light") => `<!doctype html><html lang="en"><title>Shop</title><h1>Shop</h1>
    <script>
      window.told = [];
      addEventListener("message", (event) => { if (event.source === document.getElementById("view").contentWindow) told.push(event.data.zyven); });
    </script>
    <iframe id="view" title="Deliveries" width="1000" height="800" src="${CONSOLE}/embed?theme=${theme}#token=${token}"></iframe></html>`;
  const frameOf = async (page) => (await page.locator("#view").elementHandle()).contentFrame();
  const show = async (page, html) => {
    application.html = html;
    await page.goto(application.url);
    return frameOf(page);
  };

  // One whose time runs out while all else is looked at, on a page that asks for nothing by itself.
  const short = await open(1100, 950, "light");
  const passing = await show(short, framed(await link(["read"], SHORT_S)));
  await passing.getByRole("link", { name: "Events", exact: true }).click();
  await passing.getByRole("row", { name: /Retry|Delivered|Dead/ }).first().waitFor();

  // What a link to read shows.
  const where = "embedded";
  const page = await open(1100, 950, "dark");
  const frame = await show(page, framed(await link(["read"])));
  await frame.getByRole("heading", { name: "Overview" }).waitFor();
  await frame.getByRole("link", { name: "Events", exact: true }).click();
  await frame.getByRole("row", { name: /Retry|Delivered|Dead/ }).first().waitFor();
  check(where, !frame.url().includes("zyv_"), "the link stays in the address");
  // Browsers may keep storage from frames of other sites altogether: asking for it would throw.
  const [cookie, markup] = await frame.evaluate(() => [document.cookie, document.documentElement.outerHTML]);
  check(where, cookie === "", "a script can read a cookie");
  check(where, !markup.includes("zyv_"), "the link is in the page");
  check(where, (await page.context().cookies()).length === 0, "a cookie was set");
  check(where, (await frame.getByRole("button", { name: "Log out" }).count()) === 0, "one can log out of nothing");
  check(where, (await frame.getByRole("link", { name: /API keys|Audit log/ }).count()) === 0, "pages are offered that the link does not open");
  check(where, (await frame.evaluate(() => getComputedStyle(document.documentElement).colorScheme)) === "light", "it has not the colours that were asked for");
  await accessible(frame, where);
  await fits(frame, where);
  await snapshot(frame, where);
  await picture(page, where);
  await frame.evaluate(() => { location.hash = "#/keys"; });
  await frame.getByRole("heading", { name: "Not found" }).waitFor();
  await frame.evaluate((event) => { location.hash = `#/event/${event}`; }, events.flaky);
  await frame.getByText("Attempt 3").waitFor();
  check(where, (await frame.getByRole("button", { name: /Replay|Cancel/ }).count()) === 0, "something can be done with a link to read");

  // With a link to replay, something is done.
  const lost = (await call("POST", "/v1/events", { type: "shipment.sent", payload: {} })).id;
  const isIn = (status) => async () => (await call("GET", `/v1/events/${lost}`)).status === status;
  await until(`${lost} is given up`, isIn("DEAD_LETTERED"));
  const acting = await show(page, framed(await link(["read", "replay"]), "dark"));
  await acting.getByRole("link", { name: "Dead letters" }).click();
  await acting.getByLabel(/^Choose dlv_/).first().check();
  await accessible(acting, `${where} dark`);
  await picture(page, `${where}-replay`);
  receiver.isMended = true;
  await acting.getByRole("button", { name: "Replay 1…" }).click();
  await acting.getByRole("dialog").getByLabel("Reason").fill("we are back");
  await acting.getByRole("button", { name: "Replay now" }).click();
  await acting.getByRole("dialog").getByText("1 delivered").waitFor();
  await acting.getByRole("dialog").getByRole("button", { name: "Close" }).click();
  await until(`${lost} is delivered`, isIn("DELIVERED"));
  receiver.isMended = false;

  // It ends with its key, and begins again where it was when the application brings another link.
  const giver = await call("POST", "/v1/api-keys", { name: "shop", scopes: ["read", "manage"] });
  const made = await fetch(`${process.env.API}/v1/view-links`, { method: "POST", headers: { authorization: `Bearer ${giver.key}` } });
  const ending = await show(page, framed((await made.json()).token));
  await ending.getByRole("row", { name: /\/good/ }).waitFor();
  await call("DELETE", `/v1/api-keys/${giver.id}`);
  await ending.getByText(ENDED).waitFor();
  await accessible(ending, `${where} ended`);
  const bring = (src) => page.locator("#view").evaluate((view, to) => { view.src = to; }, src);
  const address = async (scopes) => framed(await link(scopes)).match(/src="([^"]+)"/)[1];
  await bring(await address(["read"]));
  await ending.getByRole("row", { name: /\/good/ }).waitFor();
  check(where, !ending.url().includes("zyv_"), "another link stays in the address");
  // In time and with the same scopes it disturbs nobody; with others the view begins anew.
  await ending.evaluate(() => { document.querySelector("h1").dataset.seen = "yes"; });
  const asked = page.waitForResponse((answer) => answer.url().endsWith("/api-keys/current"));
  await bring(await address(["read"]));
  await asked;
  check(where, (await ending.locator("h1[data-seen]").count()) === 1, "a link in time has disturbed somebody");
  await bring(await address(["read", "replay"]));
  await ending.locator("h1:not([data-seen])").waitFor();
  // Without any link there was never a view, and with a bad one it is not said that there was.
  const without = await show(page, framed(""));
  await without.getByText(NO_LINK).waitFor();
  const bad = await show(page, framed("zyv_nonsense"));
  await bad.getByText(BAD_LINK).waitFor();
  await page.context().close();

  // Nobody has asked for anything in the short view since: its end comes all the same, and the page around it was told before.
  await passing.getByText(ENDED).waitFor({ timeout: 2 * SHORT_S * 1000 });
  check(where, (await passing.getByRole("row").count()) === 0, "what is no longer true is still shown");
  await until("the page around is told", async () => (await short.evaluate(() => globalThis.told.join())) === "view-ends-soon,view-ended");
  await short.context().close();

  // A page that is not on the list is shown nothing.
  const stranger = await open(1100, 950, "light");
  stranger.removeAllListeners("console");
  application.html = framed(await link(["read"]));
  await stranger.goto(application.url.replace("localhost", "127.0.0.1"));
  await until("the frame is refused", async () => (await frameOf(stranger)).url().startsWith("chrome-error:"));
  await stranger.context().close();
}
