//! What people and programs get to see.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::io::Write as _;

use chrono::{DateTime, Utc};
use clap::builder::styling::{AnsiColor, Color, Style};
use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::Value;

use crate::failure::Failure;
use crate::time::written;

pub(crate) const GOOD: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Green)));
pub(crate) const BAD: Style = Style::new()
    .fg_color(Some(Color::Ansi(AnsiColor::Red)))
    .bold();
pub(crate) const FAINT: Style = Style::new().dimmed();
pub(crate) const STRONG: Style = Style::new().bold();

/// What stands for nothing.
const NOTHING: &str = "-";

/// Standard output and standard error, the one place that writes to them. Colours are left out where no terminal is, and
/// where NO_COLOR is set.
pub(crate) struct Output {
    json: bool,
}

/// A column: its head, and the member it shows.
pub(crate) type Column = (&'static str, &'static str);

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// A line on standard output. What comes from a server goes through [`shown`] first.
    pub(crate) fn line(&self, text: impl Display) -> Result<(), Failure> {
        let mut stdout = anstream::stdout().lock();
        writeln!(stdout, "{text}")
            .and_then(|()| stdout.flush())
            .map_err(Failure::Output)
    }

    /// A document on a line of its own.
    pub(crate) fn document(&self, document: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(document);
        self.json(&text.expect("documents have text keys and finite numbers only"))
    }

    /// A document that is text already, the same for every reader, but for what a terminal would obey: DEL and the controls behind
    /// it (U+007F to U+009F) may stand in JSON as they are, so they can only be part of strings, where they are escaped.
    pub(crate) fn json(&self, text: &str) -> Result<(), Failure> {
        self.line(escaped(text))
    }

    /// A line on standard error, which nobody's pipe waits for.
    pub(crate) fn note(&self, text: &str) {
        // Standard error may be gone; there is nobody else to tell.
        let _ = writeln!(anstream::stderr(), "{text}");
    }

    /// Rows with some of their members as columns; a sentence if there are none.
    pub(crate) fn table(
        &self,
        rows: &[Value],
        columns: &[Column],
        none: &str,
    ) -> Result<(), Failure> {
        if rows.is_empty() {
            return self.line(none);
        }
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(columns.iter().map(|(head, _)| *head));
        for row in rows {
            table.add_row(
                columns
                    .iter()
                    .map(|(_, member)| cell(member, &row[*member])),
            );
        }
        // Without the margins that are for frames.
        let lines = table.lines().map(|line| {
            let line = line.strip_prefix(' ').unwrap_or(&line);
            line.trim_end().to_owned()
        });
        let mut lines: Vec<String> = lines.collect();
        if let Some(head) = lines.first_mut() {
            *head = paint(STRONG, &*head);
        }
        self.line(lines.join("\n"))
    }

    /// All members of an object, one on each line; those of `first` come first.
    pub(crate) fn members(&self, object: &Value, first: &[&str]) -> Result<(), Failure> {
        self.line(members(object, first, 0).trim_end())
    }
}

/// The text in a style; without it where it is not wanted.
pub(crate) fn paint(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// A stranger's text without what a terminal would obey.
pub(crate) fn shown(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut safe, character| {
            if character.is_control() && !matches!(character, '\n' | '\t') {
                safe.extend(character.escape_default());
            } else {
                safe.push(character);
            }
            safe
        })
}

/// JSON as [`Output::json`] writes it.
pub(crate) fn escaped(json: &str) -> Cow<'_, str> {
    let is_obeyed = |character: char| matches!(character, '\u{7f}'..='\u{9f}');
    if !json.contains(is_obeyed) {
        return Cow::Borrowed(json);
    }
    let mut safe = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if is_obeyed(character) {
            // Writing to a string cannot fail.
            let _ = write!(safe, "\\u{:04x}", u32::from(character));
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

/// A value as a cell of a table, on one line.
fn cell(member: &str, value: &Value) -> String {
    match value {
        Value::Null => NOTHING.to_owned(),
        Value::String(text) if text.is_empty() => NOTHING.to_owned(),
        Value::String(text) if member.ends_with("_at") => time(text),
        Value::String(text) => shown(&to_the_microsecond(text)).replace(['\n', '\t'], " "),
        Value::Array(items) if items.is_empty() => NOTHING.to_owned(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| cell(member, item)).collect();
            items.join(" ")
        }
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => shown(&value.to_string()),
    }
}

/// A time to the second; any other text as it is.
fn time(text: &str) -> String {
    match text.parse::<DateTime<Utc>>() {
        Ok(moment) => moment.format("%Y-%m-%d %H:%M:%SZ").to_string(),
        Err(_) => shown(text),
    }
}

/// A time with more digits than anything of Zyven's is kept with, without those; any other text as it is.
fn to_the_microsecond(text: &str) -> Cow<'_, str> {
    const LONGEST: usize = "2026-01-31T12:00:00.123456Z".len();
    let is_longer = text.len() > LONGEST && text.as_bytes().get(19) == Some(&b'.');
    match text.parse::<DateTime<Utc>>() {
        Ok(moment) if is_longer => Cow::Owned(written(moment)),
        _ => Cow::Borrowed(text),
    }
}

/// Members as lines `name  value`; objects and lists of objects follow, indented.
fn members(value: &Value, first: &[&str], indent: usize) -> String {
    let mut text = String::new();
    let Some(object) = value.as_object() else {
        let _ = writeln!(text, "{:indent$}{}", "", cell("", value));
        return text;
    };
    let rest = object.keys().map(String::as_str);
    let rest = rest.filter(|name| !first.contains(name));
    let known = first
        .iter()
        .copied()
        .filter(|name| object.contains_key(*name));
    let names: Vec<&str> = known.chain(rest).collect();
    let width = names.iter().map(|name| name.chars().count()).max();
    let width = width.unwrap_or_default();
    for name in names {
        let value = &object[name];
        let label = shown(name);
        let below: Vec<&Value> = match value {
            Value::Array(items) => items.iter().filter(|item| item.is_object()).collect(),
            Value::Object(members) if !members.is_empty() => vec![value],
            _ => Vec::new(),
        };
        if below.is_empty() {
            let label = paint(FAINT, format!("{label:width$}"));
            let _ = writeln!(text, "{:indent$}{label}  {}", "", cell(name, value));
        } else {
            let _ = writeln!(text, "{:indent$}{}", "", paint(FAINT, label));
            for (number, item) in below.iter().enumerate() {
                if number > 0 {
                    text.push('\n');
                }
                text.push_str(&members(item, first, indent + 2));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        assert_eq!(shown("a\u{1b}[31mb\u{9b}c\r"), "a\\u{1b}[31mb\\u{9b}c\\r");
        assert_eq!(shown("é\n\t日"), "é\n\t日");
    }

    #[test]
    fn json_is_the_same_document_without_what_a_terminal_would_obey() {
        let plain = "{\"é\": \"日 \\u001b\"}";
        assert_eq!(escaped(plain), plain);
        let hostile = "[\"\u{7f}\u{9b}31m\u{9f}\u{a0}\"]";
        assert_eq!(escaped(hostile), "[\"\\u007f\\u009b31m\\u009f\u{a0}\"]");
        let value = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        assert_eq!(value(&escaped(hostile)), value(hostile));
    }

    #[test]
    fn cells_are_one_line_each() {
        assert_eq!(cell("a", &json!(null)), "-");
        assert_eq!(cell("a", &json!("x\ny")), "x y");
        assert_eq!(cell("a", &json!(["b.*", "c"])), "b.* c");
        let at = json!("2026-01-31T12:00:00.123456Z");
        assert_eq!(cell("created_at", &at), "2026-01-31 12:00:00Z");
        assert_eq!(cell("name", &at), "2026-01-31T12:00:00.123456Z");
        assert_eq!(cell("odd_at", &json!("soon")), "soon");
        let finer = json!("2026-11-29T02:00:26.176136168Z");
        assert_eq!(cell("until", &finer), "2026-11-29T02:00:26.176136Z");
        let prose = json!("2026-11-29T02:00:26.176136168Z it was");
        assert_eq!(
            cell("sentence", &prose),
            "2026-11-29T02:00:26.176136168Z it was"
        );
    }

    #[test]
    fn members_nobody_knows_are_shown_below_those_that_are_known() {
        let text = members(
            &json!({ "a": 1, "zz": "last", "rows": [{ "x": 1 }, { "x": 2, "sub": { "y": true } }] }),
            &["zz"],
            0,
        );
        let plain = anstream::adapter::strip_str(&text).to_string();
        let expected = [
            "zz    last",
            "a     1",
            "rows",
            "  x  1",
            "",
            "  sub",
            "    y  true",
            "  x    2\n",
        ];
        assert_eq!(plain, expected.join("\n"));
    }
}
