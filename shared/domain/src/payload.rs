//! The check every payload passes before it is stored.
//!
//! The bytes are kept and sent exactly as they came; this walk only decides whether any reader would
//! understand them alike. That is I-JSON (RFC 7493): UTF-8, no duplicate member names, no lone
//! surrogates, numbers that fit a double. Zyven adds a nesting limit and refuses `\u0000`, which
//! PostgreSQL's text cannot hold and C programs cut strings at.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Deepest nesting of arrays and objects.
pub const DEPTH_MAX: usize = 64;

/// Why a payload is refused. Displays as the broken rule and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule} (line {line}, column {column})")]
pub struct PayloadError {
    /// The rule, as a sentence.
    pub rule: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in bytes, from 1.
    pub column: usize,
}

/// Accepts exactly one JSON value that every reader understands alike.
///
/// # Errors
/// The first broken rule and its place.
pub fn validate(payload: &[u8]) -> Result<(), PayloadError> {
    let mut deserializer = serde_json::Deserializer::from_slice(payload);
    Walk { depth: 0 }
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end())
        .map_err(|error| PayloadError {
            rule: rule_of(&error),
            line: error.line(),
            column: error.column(),
        })
}

/// serde_json appends " at line 1 column 2" to what it says; the place is reported separately.
fn rule_of(error: &serde_json::Error) -> String {
    let text = error.to_string();
    // serde_json looks for a surrogate's second half and words its absence in two ways.
    if text.contains("hex escape") && !text.contains("invalid") {
        return "strings must not contain lone surrogates".to_owned();
    }
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

#[derive(Clone, Copy)]
struct Walk {
    depth: usize,
}

impl Walk {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == DEPTH_MAX {
            return Err(E::custom(format_args!(
                "arrays and objects must not nest deeper than {DEPTH_MAX}"
            )));
        }
        Ok(Self {
            depth: self.depth + 1,
        })
    }
}

fn refuse_nul<E: serde::de::Error>(text: &str) -> Result<(), E> {
    if text.as_bytes().contains(&0) {
        return Err(E::custom("strings must not contain \\u0000"));
    }
    Ok(())
}

impl<'de> DeserializeSeed<'de> for Walk {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        refuse_nul(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while items.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        let mut names: Vec<Name<'de>> = Vec::new();
        while let Some(name) = members.next_key::<Name<'de>>()? {
            refuse_nul(&name.0)?;
            members.next_value_seed(inner)?;
            names.push(name);
        }
        // Sorting once is cheaper than hashing each name, and immune to chosen collisions.
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(serde::de::Error::custom(format_args!(
                "the member name {:?} occurs twice in one object",
                shortened(&pair[0].0)
            )));
        }
        Ok(())
    }
}

fn shortened(name: &str) -> String {
    name.chars().take(40).collect()
}

/// A member name, borrowed from the payload unless it contains escapes.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Name<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member name")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(payload: &[u8]) -> String {
        match validate(payload) {
            Ok(()) => String::new(),
            Err(error) => error.rule,
        }
    }

    #[test]
    fn any_plain_value_passes() {
        for good in [
            "null",
            " true ",
            "0",
            "-1.5e300",
            "\"\"",
            "[]",
            "{\"a\":{\"a\":1},\"b\":[1,2]}",
            "\"\\ud83d\\ude00\"",
            "18446744073709551615",
        ] {
            assert_eq!(validate(good.as_bytes()), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_readers_would_disagree_about_is_refused() {
        let expectations: [(&[u8], &str); 10] = [
            (b"", "EOF"),
            (b"{} {}", "trailing"),
            (b"{\"a\":1,\"a\":2}", "occurs twice"),
            (b"{\"a\":1,\"\\u0061\":2}", "occurs twice"),
            (b"\"\\ud800\"", "surrogate"),
            (b"\"\\u0000\"", "\\u0000"),
            (b"{\"\\u0000\":1}", "\\u0000"),
            (b"1e400", "out of range"),
            (b"\"\xff\"", "unicode"),
            (b"NaN", "expected"),
        ];
        for (payload, part) in expectations {
            let rule = rule(payload);
            assert!(
                !rule.is_empty() && rule.to_lowercase().contains(&part.to_lowercase()),
                "{}: {rule}",
                String::from_utf8_lossy(payload)
            );
        }
    }

    #[test]
    fn nesting_is_limited_to_64() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(rule(nested(DEPTH_MAX).as_bytes()), "");
        assert!(rule(nested(DEPTH_MAX + 1).as_bytes()).contains("deeper than 64"));
        assert!(!rule("[".repeat(250_000).as_bytes()).is_empty());
    }
}
