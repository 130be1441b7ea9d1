// Numbers, times and states as people read them.

// Between a number and its unit no line ends.
const GAP = "\u00a0";
const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const number = (value) => whole.format(value);
export const compact = (value) => (Math.abs(value) < 100000 ? whole.format(value) : short.format(value));
export const percent = (part) => {
  if (part === null || part === undefined) return "–";
  // Never 100 % if something failed.
  const hundredths = part === 1 ? 10000 : Math.min(Math.round(part * 10000), 9999);
  return `${(hundredths / 100).toFixed(hundredths === 10000 ? 0 : 2)}${GAP}%`;
};

/** 850 ms, 1.2 s, 3 min 20 s, 2 h 5 min, 3 d 4 h */
export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1) return `<${GAP}1${GAP}ms`;
  if (ms < 1000) return `${Math.round(ms)}${GAP}ms`;
  const seconds = ms / 1000;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)}${GAP}s`;
  const pairs = [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]];
  const [large, name, small, rest] = pairs.find(([unit]) => seconds >= unit);
  const first = Math.floor(seconds / large);
  const second = Math.floor((seconds - first * large) / small);
  return second ? `${first}${GAP}${name} ${second}${GAP}${rest}` : `${first}${GAP}${name}`;
}

export const micros = (us) => (us === null || us === undefined ? "–" : us < 1000 ? `${us}${GAP}µs` : duration(us / 1000));

const two = (value) => String(value).padStart(2, "0");
export const clock = (date) => `${two(date.getHours())}:${two(date.getMinutes())}`;
const day = (date) => `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;

/** Local time to the second, with the day unless it is today. */
export function moment(text) {
  if (!text) return "–";
  const date = new Date(text);
  const time = `${clock(date)}:${two(date.getSeconds())}`;
  return day(date) === day(new Date()) ? time : `${day(date)} ${time}`;
}
export function exactMoment(text) {
  const date = new Date(text);
  const offset = -date.getTimezoneOffset();
  const zone = offset === 0 ? "UTC" : `UTC${offset < 0 ? "−" : "+"}${two(Math.floor(Math.abs(offset) / 60))}:${two(Math.abs(offset) % 60)}`;
  return `${day(date)} ${clock(date)}:${two(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, "0")} ${zone}`;
}
export const ago = (text) => (text ? `${duration(Math.max(0, Date.now() - Date.parse(text)))} ago` : "–");

/** evt_0199f2…8e0c1d: the beginning tells the time, the end tells which. */
export const shortId = (id) => (id.length > 20 ? `${id.slice(0, id.indexOf("_") + 5)}…${id.slice(-6)}` : id);

/** When whatever has this id was made, to a millisecond: ids begin with that time (UUIDv7, RFC 9562, section 5.7). */
export const madeAt = (id) => new Date(Number.parseInt(id.slice(id.indexOf("_") + 1).slice(0, 12), 16)).toISOString();

/** 1 goes, 2 go */
export const counts = (value, one, more) => `${whole.format(value)} ${value === 1 ? one : more}`;

export const STATES = ["RECEIVED", "DISPATCHING", "RETRY_SCHEDULED", "DELIVERED", "DEAD_LETTERED"];
const TONES = {
  RECEIVED: "", DISPATCHING: "calm", RETRY_SCHEDULED: "warn", DELIVERED: "good", DEAD_LETTERED: "bad", PARTIAL: "warn",
  enabled: "good", paused: "warn", disabled: "bad",
};
export const tone = (state) => TONES[state] ?? "";
/** Retry scheduled */
export const words = (name) => {
  const text = name.toLowerCase().replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
};
