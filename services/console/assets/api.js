// Asking the API, by way of the console, which adds the session's key. An embedded page shows its view link instead.

/** What the API or the console refuses: its problem document. */
export class Problem extends Error {
  constructor(status, document) {
    super(document.detail || document.title || `The answer was ${status}.`);
    this.status = status;
    this.code = document.code;
    this.errors = document.errors ?? [];
  }
}

/** Numbers that a double does not hold stay as they were written, where the browser can do that. */
function exactly(key, value, context) {
  const isInexact = typeof value === "number" && context?.source !== undefined && String(value) !== context.source;
  return isInexact && JSON.rawJSON ? JSON.rawJSON(context.source) : value;
}

/** Whether an application shows this page to its customers. */
export const isEmbedded = document.body.classList.contains("embedded");
/** In memory only. */
let viewLink = "";

/**
 * Takes a view link out of the address (#token=zyv_…), so that neither the history nor somebody who looks has it, and puts
 * `instead` there. Null if there is none. Nothing is asked with it before it is used.
 */
export function takeViewLink(instead) {
  const token = isEmbedded && new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return null;
  history.replaceState(null, "", instead);
  return token;
}

export function useViewLink(token) {
  viewLink = token;
}

async function ask(method, path, options = {}) {
  const { body, by = "person", signal, isExact = false, link = viewLink } = options;
  const headers = { "x-zyven-console": by };
  if (isEmbedded) headers.authorization = `Bearer ${link}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(`/api/v1/${path}`, {
      method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body),
      credentials: isEmbedded ? "omit" : "same-origin", cache: "no-store", redirect: "error",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "The console does not answer. Is it still running?", code: "unreachable" });
  }
  if (answer.status === 401 && options.link === undefined) {
    // Another link has come since.
    if (isEmbedded && link !== viewLink) return ask(method, path, options);
    if (isEmbedded) document.dispatchEvent(new Event("view-ended"));
    // The login leads back to where this was, which the part behind the # tells.
    else location.assign(`/login?ended${location.hash}`);
    // Nobody is to go on with a page that is being left.
    return new Promise(() => {});
  }
  if (answer.status === 204) return null;
  let content = {};
  try { content = JSON.parse(await answer.text(), isExact ? exactly : undefined); } catch { /* not JSON: the status says enough */ }
  if (!answer.ok) throw new Problem(answer.status, content);
  return content;
}

/** A path with parameters; those without a value are left out. */
export function withQuery(path, parameters) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== null && value !== "") query.set(name, value);
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

export const get = (path, options) => ask("GET", path, options);
export const post = (path, body) => ask("POST", path, { body });
export const remove = (path) => ask("DELETE", path);

/** What the session's key is and may. Set once, at the start. */
export const me = { scopes: [] };
export const may = (scope) => me.scopes.includes(scope);

/** Leaves: the session ends here and there. */
export async function logOut() {
  await fetch("/logout", { method: "POST", credentials: "same-origin", redirect: "manual" });
  location.assign("/login");
}
