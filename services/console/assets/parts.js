// What several pages are made of.

import { h, put, announce } from "./dom.js";
import { get, withQuery } from "./api.js";
import { exactMoment, moment, shortId, tone, words } from "./format.js";

export const badge = (state) => h("span", { class: `badge ${tone(state)}` }, words(state));
export const when = (text) => (text ? h("time", { datetime: text, title: exactMoment(text) }, moment(text)) : "–");
export const link = (id, place) => h("a", { class: "id", href: `#/${place}/${id}`, title: id }, shortId(id));

/** The top of a page: title, what is below it, and what can be done. */
export const head = (title, sub, ...actions) => h("div", { class: "head" },
  h("div", {}, h("h1", {}, title), sub && h("p", { class: "sub" }, sub)),
  actions.length > 0 && h("div", { class: "row" }, actions));

export const notice = (text, kind = "") => h("p", { class: `notice ${kind}`, role: kind === "bad" ? "alert" : null }, text);
export const empty = (text) => h("p", { class: "empty" }, text);
export const failure = (error) => h("div", { class: "notice bad", role: "alert" }, error.message,
  error.errors?.length > 0 && h("ul", {}, error.errors.map(({ field, rule }) => h("li", {}, `${field} ${rule}`))));

/**
 * A table that becomes blocks on narrow screens. Columns: [name, cell of an item, class]; a column without a name
 * holds what can be done or chosen.
 */
export function table(caption, columns, items, rowAttributes = () => ({})) {
  return h("div", { class: "scroll" }, h("table", { class: "stack" },
    h("caption", { class: "unseen" }, caption),
    h("thead", {}, h("tr", {}, columns.map(([name, , kind]) => h("th", { scope: "col", class: kind },
      name || h("span", { class: "unseen" }, kind === "choose" ? "Chosen" : "Actions"))))),
    h("tbody", {}, items.map((item) => row(columns, item, rowAttributes(item))))));
}
export const row = (columns, item, attributes = {}) => h("tr", attributes, columns.map(([name, cell, kind]) =>
  h("td", { class: kind, "data-name": name || null }, inCell(cell(item)))));
// One element, so that name and value stand apart on narrow screens; nothing at all where there is nothing.
const inCell = (content) => {
  const isThere = [content].flat().some((one) => one || one === 0);
  return isThere ? h("div", { class: "cell" }, content) : null;
};

export const facts = (pairs) => h("dl", { class: "facts" }, pairs.filter(Boolean)
  .filter(([, value]) => value !== null && value !== undefined && value !== "")
  .map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));

/** A list that is fetched page by page: a button brings the next one. */
export function pages(place, path, parameters, show, nothing) {
  const list = h("div");
  const more = h("div", { class: "row" });
  let items = [];
  const load = async (cursor) => {
    put(more, h("p", { class: "muted", role: "status" }, "Loading…"));
    try {
      const page = await get(withQuery(path, { ...parameters, cursor }));
      items = items.concat(page.data);
      put(list, items.length ? show(items) : empty(nothing));
      put(more, page.next_cursor && h("button", { type: "button", onclick: () => load(page.next_cursor) }, "Show more"));
      if (cursor) announce(`${page.data.length} more`);
    } catch (error) {
      if (error.name === "AbortError") return;
      put(more, failure(error), h("button", { type: "button", onclick: () => load(cursor) }, "Try again"));
    }
  };
  put(place, list, more);
  return load();
}

/** All of a list that is short by its nature, up to so many. */
export async function all(path, most = 2000, options = {}) {
  const items = [];
  let cursor;
  do {
    const page = await get(withQuery(path, { limit: 200, cursor }), options);
    items.push(...page.data);
    cursor = page.next_cursor;
  } while (cursor && items.length < most);
  return items;
}

/** The URLs of up to so many endpoints by their ids. */
export const urls = async (most, options) => new Map((await all("endpoints", most, options)).map((one) => [one.id, one.url]));

/** Goes to a page of the console. To the one that is shown: asks for it again, which the browser alone would not. */
export function go(hash) {
  const before = location.href;
  location.hash = hash;
  if (location.href === before) document.dispatchEvent(new Event("show-again"));
}

/** The path of a page with the values that a form has; those without a value are left out. */
export function searched(page, values) {
  const wanted = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) if (value) wanted.set(name, value);
  return wanted.size ? `#/${page}?${wanted}` : `#/${page}`;
}

/** Fields for a time, and `since` and `until` as the API takes them. Local time, as every time on these pages. */
export function period(parameters) {
  const hours = choice("hours", [["", "as far as it is kept"], ["1", "1 hour"], ["24", "24 hours"], ["168", "7 days"]], parameters.get("hours"));
  const before = h("input", { name: "before", type: "datetime-local", step: 1, value: parameters.get("before") ?? "" });
  const within = Number(parameters.get("hours"));
  // What somebody has written into the address by hand need be no time.
  const until = before.value ? new Date(before.value) : null;
  const since = within ? new Date((until ?? Date.now()) - within * 3600000) : null;
  return { hours, before, since: since?.toISOString(), until: until?.toISOString() };
}

/** A labelled field. */
export function field(label, input, hint) {
  const id = `field-${++field.count}`;
  input.id = id;
  if (hint) input.setAttribute("aria-describedby", `${id}-hint`);
  return h("div", {}, h("label", { for: id }, label), input, hint && h("p", { class: "hint", id: `${id}-hint` }, hint));
}
field.count = 0;

export const choice = (name, options, chosen) => h("select", { name }, options.map(([value, text]) =>
  h("option", { value, selected: value === (chosen ?? "") }, text)));

/**
 * Asks before something is done. `act` gets the form's values and a stage: `stage.begun(title)` takes the questions away and
 * leaves `stage.place` for what is told until somebody closes the dialog, and `stage.isOpen()` says whether anybody looks.
 * Without that the dialog closes when it is done. What `act` throws is shown in the dialog, which stays open.
 */
export function confirm({ title, body, fields = [], button, danger = false, act }) {
  const place = h("div");
  const heading = h("h2", { id: "dialog-title" }, title);
  const questions = h("div", {}, body, fields);
  const submit = h("button", { type: "submit", class: danger ? "danger" : "main" }, button);
  const leave = h("button", { type: "button", onclick: () => dialog.close() }, "Cancel");
  const form = h("form", { method: "dialog" }, heading, questions, place, h("div", { class: "row" }, leave, submit));
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, form);
  let stays = false;
  const begun = (now) => {
    stays = true;
    put(heading, now);
    put(questions);
    submit.remove();
    put(leave, "Close");
    leave.focus();
  };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (submit.disabled || stays) return;
    submit.disabled = true;
    put(place, h("p", { class: "muted", role: "status" }, "Working…"));
    try {
      await act(Object.fromEntries(new FormData(form)), { place, begun, isOpen: () => dialog.open });
      if (!stays) dialog.close();
    } catch (error) {
      put(place, failure(error));
      submit.disabled = false;
    }
  });
  const asked = document.activeElement;
  dialog.addEventListener("close", () => { dialog.remove(); if (asked?.isConnected) asked.focus(); });
  document.body.append(dialog);
  dialog.showModal();
  (form.querySelector("input, textarea, select") ?? submit).focus();
  return dialog;
}

export const reasonField = () => field("Reason", h("input", { name: "reason", required: true, maxlength: 1000, autocomplete: "off" }),
  "Kept in the audit log.");

/** Repeats something while its page is shown and seen; a failure slows it down, and is told once. */
export function repeat(signal, everyMs, step) {
  let failures = 0;
  const turn = async () => {
    if (signal.aborted) return;
    if (!document.hidden) {
      try { await step(); failures = 0; }
      catch (error) { if (error.name !== "AbortError") failures += 1; }
    }
    setTimeout(turn, everyMs * Math.min(1 + failures, 6));
  };
  return turn();
}
