//! The events of a batch: a JSON array of events or CloudEvents, or one JSON object per line.

use std::fmt;

use serde::de::{DeserializeSeed as _, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::draft::Draft;
use crate::body::Format;
use crate::fields::{self, Members};
use crate::problem::{Code, FieldError, Problem};

/// Most mistakes told of one batch. Whoever made more has made the same one more often.
const MISTAKES_MAX: usize = 100;

/// Each event's text, and the line it stands on if there are lines.
pub(super) struct Items<'a> {
    format: Format,
    items: Vec<Item<'a>>,
}

struct Item<'a> {
    text: &'a str,
    line: Option<usize>,
}

impl<'a> Items<'a> {
    pub(super) fn split(text: &'a str, format: Format, events_max: usize) -> Result<Self, Problem> {
        let items = match format {
            Format::Json | Format::CloudEvent | Format::CloudEvents | Format::Data => {
                let mut deserializer = serde_json::Deserializer::from_str(text);
                Array { events_max }
                    .deserialize(&mut deserializer)
                    .and_then(|items| deserializer.end().map(|()| items))
                    .map_err(|error| fields::problem_of(&error))?
            }
            Format::Lines => {
                let lines = text.lines().enumerate();
                let items: Vec<Item<'a>> = lines
                    .filter(|(_, text)| !text.trim_ascii().is_empty())
                    .take(events_max + 1)
                    .map(|(index, text)| Item {
                        text,
                        line: Some(index + 1),
                    })
                    .collect();
                if items.len() > events_max {
                    return Err(Problem::one_invalid("body", too_many(events_max)));
                }
                items
            }
        };
        Ok(Self { format, items })
    }

    /// The events, or every mistake in any of them: `[3].payload`.
    pub(super) fn drafts(self, payload_bytes_max: usize) -> Result<Vec<Draft<'a>>, Problem> {
        let mut drafts = Vec::with_capacity(self.items.len());
        let mut errors: Vec<FieldError> = Vec::new();
        for (index, item) in self.items.into_iter().enumerate() {
            match Members::parse_item(item.text, format!("[{index}].")) {
                Ok(mut members) => {
                    let draft =
                        Draft::read(self.format, item.text, &mut members, payload_bytes_max);
                    drafts.extend(draft);
                    errors.extend(members.into_errors());
                }
                Err(error) if error.is_data() => errors.push(FieldError {
                    field: format!("[{index}]"),
                    rule: fields::rule_of(&error).into(),
                }),
                // An array has been parsed as a whole, so this is a line.
                Err(error) => {
                    let (line, column) = (item.line.unwrap_or(1), error.column());
                    let rule = fields::rule_of(&error);
                    return Err(Problem::new(
                        Code::BodyNotJson,
                        format!("Line {line} of the body is not JSON: {rule} (column {column})."),
                    ));
                }
            }
            if errors.len() >= MISTAKES_MAX {
                errors.truncate(MISTAKES_MAX);
                break;
            }
        }
        if errors.is_empty() {
            Ok(drafts)
        } else {
            Err(Problem::invalid(errors))
        }
    }
}

fn too_many(events_max: usize) -> String {
    format!("must not have more than {events_max} events")
}

/// An array of values that stay text, with a limit on their number.
struct Array {
    events_max: usize,
}

impl<'de> serde::de::DeserializeSeed<'de> for Array {
    type Value = Vec<Item<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Array {
    type Value = Vec<Item<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(value) = values.next_element::<&'de RawValue>()? {
            if items.len() == self.events_max {
                return Err(A::Error::custom(too_many(self.events_max)));
            }
            items.push(Item {
                text: value.get(),
                line: None,
            });
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields_of(text: &str, format: Format) -> Result<usize, Problem> {
        Items::split(text, format, 3)?
            .drafts(100)
            .map(|drafts| drafts.len())
    }

    #[test]
    fn arrays_and_lines_hold_the_same_events() {
        let event = r#"{"type": "a", "payload": {}}"#;
        let array = format!("[{event} ,{event}]");
        assert_eq!(fields_of(&array, Format::Json).ok(), Some(2));
        let lines = format!("{event}\r\n\n  \n{event}");
        assert_eq!(fields_of(&lines, Format::Lines).ok(), Some(2));
        assert_eq!(fields_of("[]", Format::Json).ok(), Some(0));
        assert_eq!(fields_of("", Format::Lines).ok(), Some(0));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let refused = |text: &str, format| {
            let problem = fields_of(text, format).expect_err(text);
            let body = problem.into_answer();
            let code = body.extensions().get::<Code>().copied();
            (code, format!("{:?}", body.body()))
        };
        let (code, text) = refused(r#"[{"type": "a"}, 1, {"typ": 1}]"#, Format::Json);
        assert_eq!(code, Some(Code::Invalid));
        for field in ["[0].payload", "[1]", "[2].type", "[2].typ"] {
            assert!(text.contains(field), "{field} in {text}");
        }
        let (code, text) = refused("\n\n{oops}", Format::Lines);
        assert_eq!(code, Some(Code::BodyNotJson));
        assert!(text.contains("Line 3"), "{text}");
        for four in ["[1,1,1,1]", "1\n1\n1\n1"] {
            let format = if four.starts_with('[') {
                Format::Json
            } else {
                Format::Lines
            };
            let (code, text) = refused(four, format);
            assert_eq!(code, Some(Code::Invalid));
            assert!(text.contains("more than 3 events"), "{text}");
        }
        assert_eq!(refused("[{}", Format::Json).0, Some(Code::BodyNotJson));
        assert_eq!(refused("{}", Format::Json).0, Some(Code::Invalid));
    }
}
