//! The check every payload passes before it is stored.
//!
//! The bytes are kept and sent exactly as they came; this walk only decides whether any reader would
//! understand them alike. That is I-JSON (RFC 7493): UTF-8, no duplicate member names, no lone
//! surrogates, numbers that fit a double. Zyven adds limits on nesting and on the length of numbers, and
//! refuses `\u0000`, which PostgreSQL's text cannot hold and C programs cut strings at.
//!
//! `zyven.check_payload(json)` in SQL decides alike.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Deepest nesting of arrays and objects.
pub const DEPTH_MAX: usize = 64;

/// Longest number, in bytes: more than any double needs, and enough for an integer of 256 bits.
pub const NUMBER_BYTES_MAX: usize = 128;
/// Longest exponent, in digits. What is not zero stays within a double, far below this.
const EXPONENT_DIGITS_MAX: usize = 3;

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

impl PayloadError {
    /// The rule and the place, where `whole` is what was validated: whoever sent it inside something else would count that.
    pub fn within(&self, whole: &str) -> String {
        let Self { rule, line, column } = self;
        format!("{rule} (line {line}, column {column} of {whole})")
    }
}

/// Accepts exactly one JSON value that every reader understands alike.
///
/// # Errors
/// The first broken rule and its place.
pub fn validate(payload: &[u8]) -> Result<(), PayloadError> {
    let mut deserializer = serde_json::Deserializer::from_slice(payload);
    let floats = Cell::new(false);
    let walk = Walk {
        depth: 0,
        floats: &floats,
    };
    walk.deserialize(&mut deserializer)
        .and_then(|()| deserializer.end())
        .map_err(|error| PayloadError {
            rule: rule_of(&error),
            line: error.line(),
            column: error.column(),
        })?;
    // A number that fits 64 bits has 20 digits at most, so without any other there is nothing to look for.
    if floats.get() {
        check_numbers(payload)
    } else {
        Ok(())
    }
}

/// Looks at each number as it is written, which the parser does not show. `payload` is JSON.
fn check_numbers(payload: &[u8]) -> Result<(), PayloadError> {
    let mut at = 0;
    while let Some(byte) = payload.get(at) {
        let length = match byte {
            b'"' => string_length(&payload[at..]),
            b'-' | b'0'..=b'9' => {
                let is_part =
                    |byte: &&u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
                let length = payload[at..].iter().take_while(is_part).count();
                check_number(&payload[at..at + length])
                    .map_err(|rule| broken_at(payload, at, rule))?;
                length
            }
            _ => 1,
        };
        at += length;
    }
    Ok(())
}

fn check_number(number: &[u8]) -> Result<(), String> {
    if number.len() > NUMBER_BYTES_MAX {
        return Err(format!(
            "numbers must not be longer than {NUMBER_BYTES_MAX} characters"
        ));
    }
    // Without an exponent, so few characters are neither too large nor too small.
    let is_exponent = |byte: &u8| matches!(byte, b'e' | b'E');
    let Some(exponent) = number.iter().position(is_exponent) else {
        return Ok(());
    };
    let is_zero = !number[..exponent]
        .iter()
        .any(|byte| matches!(byte, b'1'..=b'9'));
    let text = std::str::from_utf8(number).unwrap_or_default();
    // What is too large the parser has refused.
    if !is_zero && text.parse() == Ok(0.0) {
        return Err("numbers must not be so small that they are read as 0".to_owned());
    }
    // A zero may have any exponent as far as doubles go; PostgreSQL cannot hold all of them.
    let digits = text[exponent + 1..].trim_start_matches(['+', '-', '0']);
    if digits.len() > EXPONENT_DIGITS_MAX {
        return Err("exponents must not lie beyond 999".to_owned());
    }
    Ok(())
}

/// From the opening quote to behind the closing one.
fn string_length(text: &[u8]) -> usize {
    let mut at = 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

fn broken_at(payload: &[u8], at: usize, rule: String) -> PayloadError {
    let before = &payload[..at];
    let line_start = before
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |newline| newline + 1);
    PayloadError {
        rule,
        line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
        column: at - line_start + 1,
    }
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
struct Walk<'w> {
    depth: usize,
    /// Whether there was a number that is no 64-bit integer.
    floats: &'w Cell<bool>,
}

impl Walk<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == DEPTH_MAX {
            return Err(E::custom(format_args!(
                "arrays and objects must not nest deeper than {DEPTH_MAX}"
            )));
        }
        Ok(Self {
            depth: self.depth + 1,
            ..self
        })
    }
}

fn refuse_nul<E: serde::de::Error>(text: &str) -> Result<(), E> {
    if text.as_bytes().contains(&0) {
        return Err(E::custom("strings must not contain \\u0000"));
    }
    Ok(())
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
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
        self.floats.set(true);
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
    fn numbers_are_limited_to_what_a_double_and_128_characters_hold() {
        let long = |digits: usize| format!("[1,{}]", "7".repeat(digits));
        assert_eq!(rule(long(NUMBER_BYTES_MAX).as_bytes()), "");
        assert!(rule(long(NUMBER_BYTES_MAX + 1).as_bytes()).contains("longer than 128"));
        let fraction = format!("0.{}", "3".repeat(NUMBER_BYTES_MAX - 2));
        assert_eq!(rule(fraction.as_bytes()), "");
        assert!(rule(format!("{fraction}3").as_bytes()).contains("longer than 128"));
        for good in ["1e308", "5e-324", "-0", "0.0", "0e-999", "-0.00E+7", "1E2"] {
            assert_eq!(rule(good.as_bytes()), "", "{good}");
        }
        for bad in ["1e309", "-1e400", "1e99999999999"] {
            assert!(rule(bad.as_bytes()).contains("out of range"), "{bad}");
        }
        for bad in ["1e-324", "-1.5E-400", "1e-99999999999"] {
            assert!(rule(bad.as_bytes()).contains("read as 0"), "{bad}");
        }
        for bad in ["0e1000", "-0.00E-1000", "0e+0001073741823", "0e-16384"] {
            assert!(rule(bad.as_bytes()).contains("beyond 999"), "{bad}");
        }
        assert_eq!(rule(b"[0e999,0E+000999]"), "");
        // What looks like a number inside a string is none, escaped quotes or not.
        let quoted = format!(
            r#"[0.5,"1e-999","\"1e-999","\\",{{"1e-999":"{}"}}]"#,
            "7".repeat(200)
        );
        assert_eq!(rule(quoted.as_bytes()), "");
        let error = validate(b"{\n \"a\": [1,\n  1e-999]}").expect_err("too small");
        assert_eq!((error.line, error.column), (3, 3));
    }

    #[test]
    fn nesting_is_limited_to_64() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(rule(nested(DEPTH_MAX).as_bytes()), "");
        assert!(rule(nested(DEPTH_MAX + 1).as_bytes()).contains("deeper than 64"));
        assert!(!rule("[".repeat(250_000).as_bytes()).is_empty());
    }
}
