// API keys: which there are, a new one, taking one back.

import { h, put, announce } from "./dom.js";
import { me, post, remove } from "./api.js";
import { confirm, failure, field, head, notice, pages, table, when } from "./parts.js";

const SCOPES = [["publish", "publish events"], ["read", "read events, deliveries, endpoints"], ["manage", "change endpoints and keys"], ["replay", "replay and cancel"]];

function state(key) {
  if (key.revoked_at) return h("span", { class: "badge bad" }, "Revoked");
  if (key.expires_at && Date.parse(key.expires_at) <= Date.now()) return h("span", { class: "badge" }, "Expired");
  return h("span", { class: "badge good" }, "Good");
}

export async function keys(place) {
  const list = h("section", { class: "card", "aria-label": "Keys" });
  const made = h("div");
  const revoke = (key) => h("button", { type: "button", class: "danger", "aria-label": `Revoke ${key.name}`, onclick: () => confirm({
    title: "Revoke this key?",
    body: [h("p", {}, `${key.name}, zyk_${key.public_id}_…`), h("p", {}, "It is refused within two seconds, for good."),
      key.id === me.id && notice("It is the key of this session: you will be logged out.", "warn")],
    button: "Revoke", danger: true,
    act: async () => { await remove(`api-keys/${key.id}`); announce("Revoked"); await show(); },
  }) }, "Revoke…");
  const show = () => pages(list, "api-keys", { limit: 100 }, (items) => table("API keys", [
    ["State", state],
    ["Name", (key) => [key.name, key.id === me.id && h("span", { class: "muted" }, " (this session)")], "wide"],
    ["Key", (key) => h("span", { class: "id" }, `zyk_${key.public_id}_…`)],
    ["Scopes", (key) => key.scopes.join(", ")],
    ["Made", (key) => when(key.created_at), "time"],
    ["Ends", (key) => (key.revoked_at ? ["revoked ", when(key.revoked_at)] : when(key.expires_at)), "time"],
    ["", (key) => !key.revoked_at && revoke(key), "actions"],
  ], items), "There are no keys.");

  const name = h("input", { name: "name", required: true, maxlength: 200, autocomplete: "off" });
  const ends = h("input", { name: "ends", type: "datetime-local" });
  const told = h("div");
  const form = h("form", { class: "form" }, field("Name", name, "What it is for, for example: billing service"),
    h("fieldset", {}, h("legend", {}, "Scopes"), SCOPES.filter(([scope]) => me.scopes.includes(scope)).map(([scope, text]) =>
      h("label", { class: "check" }, h("input", { type: "checkbox", name: "scope", value: scope }), `${scope}: ${text}`))),
    field("Ends at", ends, "Left empty, it does not end by itself."), told, h("button", { class: "main" }, "Make a key"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    put(told);
    try {
      const key = await post("api-keys", { name: name.value, scopes: new FormData(form).getAll("scope"),
        ...(ends.value && { expires_at: new Date(ends.value).toISOString() }) });
      const text = h("input", { readonly: true, value: key.key, class: "mono", "aria-label": "The new key" });
      put(made, h("div", { class: "notice good", role: "status" }, h("p", {}, h("strong", {}, `The key "${key.name}".`), " Copy it now: nobody can show it again."),
        h("div", { class: "row" }, text, h("button", { type: "button", onclick: async () => {
          try { await navigator.clipboard.writeText(key.key); announce("Copied"); } catch { text.select(); announce("Select and copy it yourself: the browser does not let the page."); }
        } }, "Copy"), h("button", { type: "button", class: "quiet", onclick: () => put(made) }, "I have it"))));
      form.reset();
      text.focus();
      text.select();
      await show();
    } catch (error) { put(told, failure(error)); }
  });
  put(place, head("API keys", "Credentials of this tenant"), made, list,
    h("section", { class: "card" }, h("h2", {}, "A new key"), form));
  await show();
}
