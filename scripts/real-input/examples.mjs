// GitHub's published webhook examples, each as the exact bytes that stand in the package's files.
//
// JSON.parse followed by JSON.stringify would give other bytes (blanks, escapes, numbers), and with them we would not
// notice a pipeline that does the same. So the files are walked, and each example is a slice of its file.

import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

const BLANK = /[ \t\r\n]*/y;
const STRING = /"(?:[^"\\]|\\.)*"/y;
const SCALAR = /true|false|null|-?[0-9][0-9.eE+-]*/y;

// Walks one JSON text and calls visit(path, start, end) for every value, inner ones first. Positions are bytes, because
// the text is decoded as Latin-1: one character per byte.
function walk(text, visit) {
  let at = 0;
  const match = (pattern) => {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    if (found === null) throw new Error(`no JSON at byte ${at}`);
    at = pattern.lastIndex;
    return found[0];
  };
  const value = (path) => {
    match(BLANK);
    const start = at;
    if (text[at] === "{" || text[at] === "[") {
      const close = text[at] === "{" ? "}" : "]";
      at += 1;
      match(BLANK);
      for (let index = 0; text[at] !== close; index += 1) {
        if (index > 0) match(/,/y);
        match(BLANK);
        let step = index;
        if (close === "}") {
          step = JSON.parse(match(STRING));
          match(BLANK);
          match(/:/y);
        }
        value([...path, step]);
        match(BLANK);
      }
      at += 1;
    } else {
      match(text[at] === '"' ? STRING : SCALAR);
    }
    visit(path, start, at);
  };
  value([]);
  match(BLANK);
  if (at !== text.length) throw new Error(`bytes after the end, from ${at}`);
}

// All examples: { origin, event, payload (a Buffer) }.
export function examples(folder) {
  const found = [];
  for (const source of readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isDirectory())) {
    const bytes = readFileSync(join(folder, source.name, "index.json"));
    const events = JSON.parse(bytes);
    walk(bytes.toString("latin1"), (path, start, end) => {
      if (path.length !== 3 || path[1] !== "examples") return;
      const payload = bytes.subarray(start, end);
      const { name } = events[path[0]];
      const origin = `${source.name}/${name}[${path[2]}]`;
      // The slice is the example, or the walk is wrong.
      if (JSON.stringify(JSON.parse(payload)) !== JSON.stringify(events[path[0]].examples[path[2]])) {
        throw new Error(`${origin} was cut out wrongly`);
      }
      found.push({ origin, event: name, payload });
    });
    const expected = events.reduce((sum, { examples }) => sum + examples.length, 0);
    const actual = found.filter(({ origin }) => origin.startsWith(`${source.name}/`)).length;
    if (expected !== actual) throw new Error(`${source.name}: ${actual} examples found of ${expected}`);
  }
  return found;
}
