// What every page must be, whatever it shows.

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const { PACKAGES, SNAPSHOTS, UPDATE } = process.env;
const require = createRequire(join(PACKAGES, "package.json"));
const AXE = readFileSync(require.resolve("axe-core"), "utf8");
// The Web Content Accessibility Guidelines, levels A and AA; contrast is among them.
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];

export const mistakes = [];
export function mistake(where, what) {
  mistakes.push(`${where}: ${what}`);
  console.error(`browser: ${where}: ${what}`);
}
export function check(where, isSo, what) {
  if (!isSo) mistake(where, what);
}

/** Everything a page complains about is a mistake: errors, refused scripts and styles, failed requests. */
export function watch(page, where, expected = () => false) {
  page.on("pageerror", (error) => mistake(where(), `an error: ${error.message}`));
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type()) && !expected(message.text())) mistake(where(), `says: ${message.text()}`);
  });
  page.on("dialog", (dialog) => { mistake(where(), `a dialog of a script: ${dialog.message()}`); dialog.dismiss(); });
}

export async function accessible(page, where) {
  // As a statement of the DevTools protocol, which the page's policy does not concern.
  await page.evaluate(AXE);
  const found = await page.evaluate((rules) => globalThis.axe.run(document, { runOnly: rules, resultTypes: ["violations"] }), RULES);
  for (const { id, help, nodes } of found.violations) {
    mistake(where, `${id}: ${help}: ${nodes.slice(0, 3).map((node) => `${node.target.join(" ")} ${node.failureSummary?.split("\n")[1] ?? ""}`).join(" | ")}`);
  }
}

export async function fits(page, where) {
  const [inner, wide] = await page.evaluate(() => [document.documentElement.clientWidth, document.documentElement.scrollWidth]);
  check(where, wide <= inner, `is ${wide} pixels wide on a screen of ${inner}`);
}

/** What differs from one run to the next, by its kind. */
function plain(text) {
  return text
    .replaceAll("\u00a0", " ")
    .replace(/\b(evt|dlv|ep|key|ten|aud|zyk)_[0-9a-f]+(…[0-9a-f]+|_…)?/g, "$1_ID")
    .replace(/127\.0\.0\.1:\d+/g, "127.0.0.1:PORT")
    // What a chart's axis says depends on the minute in which the deliveries fell.
    .replace(/^( *- 'img "[^']*'): .*$/gm, "$1")
    .replace(/\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?|\b\d\d:\d\d:\d\d(\.\d+)?|\b\d\d:\d\d\b/g, "TIME")
    .replaceAll("TIME UTC", "TIME")
    // Seconds since 1970.
    .replace(/\b[12]\d{9}\b/g, "SECONDS")
    .replace(/(< )?\b[\d.]+ (ms|µs|s|min|h|d)\b( [\d.]+ (s|min|h)\b)?/g, "DURATION")
    .replace(/\b[\d.]+ finished a second/g, "RATE finished a second")
    .replace(/(\n *- text: TIME)+/g, "");
}

/** Compares what a reader of the screen is told with what was written down. */
export async function snapshot(page, name) {
  const file = join(SNAPSHOTS, `${name}.yaml`);
  const seen = `${plain(await page.locator("body").ariaSnapshot())}\n`;
  if (UPDATE || !existsSync(file)) {
    writeFileSync(file, seen);
    check(name, UPDATE, `there was no ${file}; it was written, look at it`);
    return;
  }
  const known = readFileSync(file, "utf8");
  if (seen === known) return;
  const [one, other] = [known.split("\n"), seen.split("\n")];
  const at = one.findIndex((line, index) => line !== other[index]);
  mistake(name, `differs from ${file} in line ${at + 1}:\n  was ${one[at]}\n  is  ${other[at]}`);
}
