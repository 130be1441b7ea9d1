//! Reading the members of a JSON object, collecting every mistake.
//!
//! Values stay the text they came as until somebody asks for them, which is what keeps a payload's
//! bytes exact, and what lets a mistake be named with its field.

use std::borrow::Cow;
use std::fmt::Display;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use zyven_domain::retry::DeadLetterReason;

use crate::problem::{Code, FieldError, Problem};

/// Most members of an object that is not a payload: more than any request knows.
const MEMBERS_MAX: usize = 64;

/// The members of one object, not yet asked for, and the mistakes found so far.
#[derive(Debug)]
pub(crate) struct Members<'a> {
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
    /// What stands before each field's name in a mistake: `[3].` for an item of a batch.
    prefix: String,
    errors: Vec<FieldError>,
}

impl<'a> Members<'a> {
    /// Parses one object, which is all of `text`.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Problem> {
        Self::parse_item(text, String::new()).map_err(|error| problem_of(&error))
    }

    /// Parses an object found inside a bigger text; mistakes name `prefix` before their field.
    pub(crate) fn parse_item(text: &'a str, prefix: String) -> Result<Self, serde_json::Error> {
        serde_json::from_str::<Raw<'a>>(text).map(|Raw(members)| Self {
            members,
            prefix,
            errors: Vec::new(),
        })
    }

    /// The member's text, once.
    pub(crate) fn raw(&mut self, name: &str) -> Option<&'a RawValue> {
        let index = self.members.iter().position(|(known, _)| known == name)?;
        Some(self.members.swap_remove(index).1)
    }

    /// A string that `parse` takes. `None` if absent, or after a mistake was recorded.
    pub(crate) fn text<T, E: Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let raw = self.raw(name)?;
        let Ok(Text(text)) = serde_json::from_str::<Text<'a>>(raw.get()) else {
            self.mistake(name, "must be a string");
            return None;
        };
        self.checked(name, parse(&text))
    }

    /// The same where null says that there is none, as programs write it that have no other way to.
    pub(crate) fn optional<T, E: Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        if self.take_null(name) {
            return None;
        }
        self.text(name, parse)
    }

    /// An array of strings, each of which `parse` takes, with bounds on their number.
    pub(crate) fn texts<T, E: Display>(
        &mut self,
        name: &str,
        count: std::ops::RangeInclusive<usize>,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let raw = self.raw(name)?;
        let Ok(texts) = serde_json::from_str::<Vec<Text<'a>>>(raw.get()) else {
            self.mistake(name, "must be an array of strings");
            return None;
        };
        let parsed = texts.iter().map(|Text(text)| parse(text));
        self.items(name, count, parsed)
    }

    /// A whole number within bounds, both included.
    pub(crate) fn number(
        &mut self,
        name: &str,
        bounds: std::ops::RangeInclusive<u64>,
    ) -> Option<u64> {
        let raw = self.raw(name)?;
        match serde_json::from_str::<u64>(raw.get()) {
            Ok(number) if bounds.contains(&number) => Some(number),
            Ok(_) | Err(_) => {
                let rule = format!(
                    "must be a whole number from {} to {}",
                    bounds.start(),
                    bounds.end()
                );
                self.mistake(name, rule);
                None
            }
        }
    }

    /// An array of whole numbers, each of which `parse` takes, with bounds on their number.
    pub(crate) fn numbers<T, E: Display>(
        &mut self,
        name: &str,
        count: std::ops::RangeInclusive<usize>,
        parse: impl Fn(u64) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let raw = self.raw(name)?;
        let Ok(numbers) = serde_json::from_str::<Vec<u64>>(raw.get()) else {
            self.mistake(name, "must be an array of whole numbers");
            return None;
        };
        self.items(name, count, numbers.into_iter().map(parse))
    }

    /// A string that must be there and that `parse` takes.
    pub(crate) fn required<T, E: Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let value = self.text(name, parse);
        if value.is_none() {
            self.missing(name);
        }
        value
    }

    /// An object whose members `read` asks for. `None` if absent, or after a mistake was recorded: its
    /// own, or one inside, which is named with the way to it (`auth.token`).
    pub(crate) fn object<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&mut Members<'a>) -> Option<T>,
    ) -> Option<T> {
        let raw = self.raw(name)?;
        let mut members = match Self::parse_item(raw.get(), format!("{}{name}.", self.prefix)) {
            Ok(members) => members,
            Err(error) => {
                self.mistake(name, rule_of(&error));
                return None;
            }
        };
        let value = read(&mut members);
        let errors = members.into_errors();
        let is_right = errors.is_empty();
        self.errors.extend(errors);
        value.filter(|_| is_right)
    }

    /// The names of the members that nobody has asked for yet, in no particular order.
    pub(crate) fn names(&self) -> Vec<String> {
        let names = self
            .members
            .iter()
            .map(|(name, _)| name.clone().into_owned());
        names.collect()
    }

    /// Whether the member is there and nobody has asked for it yet.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.members.iter().any(|(known, _)| known == name)
    }

    /// Whether the member is there and null, in which case it is used up.
    pub(crate) fn take_null(&mut self, name: &str) -> bool {
        let is_null = |(known, raw): &(Cow<'a, str>, &'a RawValue)| {
            known == name && raw.get().trim() == "null"
        };
        match self.members.iter().position(is_null) {
            Some(index) => {
                self.members.swap_remove(index);
                true
            }
            None => false,
        }
    }

    /// True or false.
    pub(crate) fn flag(&mut self, name: &str) -> Option<bool> {
        let raw = self.raw(name)?;
        let flag = serde_json::from_str(raw.get()).ok();
        if flag.is_none() {
            self.mistake(name, "must be true or false");
        }
        flag
    }

    /// Asks for none of the members that nobody has asked for yet.
    pub(crate) fn forget(&mut self) {
        self.members.clear();
    }

    /// Records that a member must be there.
    pub(crate) fn missing(&mut self, name: &str) {
        if !self.has_mistake(name) {
            self.mistake(name, "is missing");
        }
    }

    pub(crate) fn mistake(&mut self, name: &str, rule: impl Into<Cow<'static, str>>) {
        self.errors.push(FieldError {
            field: format!("{}{name}", self.prefix),
            rule: rule.into(),
        });
    }

    /// True if nothing was wrong so far and every member was asked for.
    pub(crate) fn is_right(&self) -> bool {
        self.errors.is_empty() && self.members.is_empty()
    }

    /// Every mistake; members that nobody has asked for are among them.
    pub(crate) fn into_errors(mut self) -> Vec<FieldError> {
        for (name, _) in std::mem::take(&mut self.members) {
            let name: String = name.chars().take(128).collect();
            self.mistake(&name, "is not a member of this request");
        }
        self.errors
    }

    /// The end of reading.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        let errors = self.into_errors();
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Problem::invalid(errors))
        }
    }

    /// The items of an array, or `None` after a mistake was recorded for each that is wrong.
    fn items<T, E: Display>(
        &mut self,
        name: &str,
        count: std::ops::RangeInclusive<usize>,
        parsed: impl ExactSizeIterator<Item = Result<T, E>>,
    ) -> Option<Vec<T>> {
        if !count.contains(&parsed.len()) {
            let rule = format!("must have {} to {} items", count.start(), count.end());
            self.mistake(name, rule);
            return None;
        }
        // Collected first: every mistake is wanted, not only the first one.
        let items: Vec<Option<T>> = parsed
            .enumerate()
            .map(|(index, item)| self.checked(&format!("{name}[{index}]"), item))
            .collect();
        items.into_iter().collect()
    }

    /// What was parsed, or a mistake of the member `name`.
    pub(crate) fn checked<T, E: Display>(&mut self, name: &str, parsed: Result<T, E>) -> Option<T> {
        match parsed {
            Ok(value) => Some(value),
            Err(rule) => {
                self.mistake(name, rule.to_string());
                None
            }
        }
    }

    fn has_mistake(&self, name: &str) -> bool {
        let field = format!("{}{name}", self.prefix);
        self.errors.iter().any(|error| {
            error
                .field
                .strip_prefix(&field)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
        })
    }
}

/// Why a delivery was given up.
pub(crate) fn dead_reason(text: &str) -> Result<DeadLetterReason, String> {
    let mut all = DeadLetterReason::ALL.into_iter();
    all.find(|reason| reason.as_str() == text).ok_or_else(|| {
        let names = DeadLetterReason::ALL.map(DeadLetterReason::as_str);
        format!("must be one of {}", names.join(", "))
    })
}

/// A time, to the microsecond: what is beyond that is cut off, for the database would not keep it.
pub(crate) fn moment(text: &str) -> Result<DateTime<Utc>, &'static str> {
    DateTime::parse_from_rfc3339(text)
        .ok()
        .and_then(|moment| DateTime::from_timestamp_micros(moment.timestamp_micros()))
        .ok_or("must be a time such as 2026-01-31T12:00:00Z")
}

/// Why somebody decided something, for the audit.
pub(crate) fn reason(text: &str, chars_max: usize) -> Result<String, String> {
    let trimmed = text.trim();
    if (1..=chars_max).contains(&trimmed.chars().count()) && !trimmed.contains('\0') {
        Ok(trimmed.to_owned())
    } else {
        Err(format!(
            "must say why, in at most {chars_max} characters, without U+0000"
        ))
    }
}

/// Text that is not JSON at all is one problem, JSON of the wrong shape another.
pub(crate) fn problem_of(error: &serde_json::Error) -> Problem {
    if error.is_data() {
        Problem::one_invalid("body", rule_of(error))
    } else {
        let (rule, line, column) = (rule_of(error), error.line(), error.column());
        Problem::new(
            Code::BodyNotJson,
            format!("The body is not JSON: {rule} (line {line}, column {column} of the body)."),
        )
    }
}

/// What serde_json says, without the place it appends. Of a value of another kind only what was expected: the kinds have names of
/// the parser's own, and the value may be a secret.
pub(crate) fn rule_of(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let end = text.rfind(" at line ").unwrap_or(text.len());
    let rule = &text[..end];
    let expected = rule
        .strip_prefix("invalid type: ")
        .and_then(|kinds| kinds.rsplit_once(", expected "));
    match expected {
        Some((_, expected)) => format!("must be {expected}"),
        None => rule.to_owned(),
    }
}

/// A string, borrowed unless it contains escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The members as they stand.
struct Raw<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Raw<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw<'de>, A::Error> {
                let mut members: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::with_capacity(4);
                while let Some(Text(name)) = map.next_key::<Text<'de>>()? {
                    let value = map.next_value::<&'de RawValue>()?;
                    if members.iter().any(|(known, _)| *known == name) {
                        return Err(A::Error::custom(format_args!(
                            "must not have two members of the same name ({:?})",
                            name.chars().take(40).collect::<String>()
                        )));
                    }
                    if members.len() == MEMBERS_MAX {
                        return Err(A::Error::custom(format_args!(
                            "must not have more than {MEMBERS_MAX} members"
                        )));
                    }
                    members.push((name, value));
                }
                Ok(Raw(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(text: &str) -> Members<'_> {
        Members::parse(text).unwrap_or_else(|problem| panic!("{problem:?}"))
    }

    fn fields(members: Members<'_>) -> Vec<String> {
        let errors = members.into_errors();
        errors.into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn every_mistake_is_collected_with_its_field() {
        let mut given = members(r#"{"a": 1, "b": ["x", "", "y", ""], "n": 1.5, "é\u0021": null}"#);
        let not_empty = |text: &str| {
            if text.is_empty() {
                Err("is empty")
            } else {
                Ok(())
            }
        };
        assert_eq!(given.text("a", not_empty), None);
        assert_eq!(given.texts("b", 0..=5, not_empty), None);
        assert_eq!(given.number("n", 0..=2), None);
        given.missing("c");
        given.missing("b");
        assert_eq!(fields(given), ["a", "b[1]", "b[3]", "n", "c", "é!"]);
    }

    #[test]
    fn values_keep_their_text() {
        let mut given = members("{\"p\" :  [1.0,  2 ] , \"t\":\"\\u0041\"}");
        assert_eq!(given.raw("p").map(RawValue::get), Some("[1.0,  2 ]"));
        let kept = |text: &str| Ok::<_, &str>(text.to_owned());
        assert_eq!(given.text("t", kept).as_deref(), Some("A"));
        assert!(given.finish().is_ok());
    }

    #[test]
    fn null_says_that_an_optional_member_is_not_there() {
        let mut given = members(r#"{"a": null, "b": null, "c": "null"}"#);
        let kept = |text: &str| Ok::<_, &str>(text.to_owned());
        assert_eq!(given.optional("a", kept), None);
        assert_eq!(given.text("b", kept), None);
        assert_eq!(given.optional("c", kept).as_deref(), Some("null"));
        assert_eq!(fields(given), ["b"], "only what may be null");
    }

    #[test]
    fn what_is_of_another_kind_is_told_in_words_of_the_api_and_without_its_value() {
        for other in ["1", "[]", "true", "null", r#""a, expected b""#] {
            let problem = Members::parse(other).expect_err(other);
            let told = format!("{:?}", problem.into_answer().body());
            assert!(told.contains("must be a JSON object"), "{told}");
            let text = format!(r#"{{"a": {other}}}"#);
            let mut outer = members(&text);
            assert_eq!(outer.object("a", |_| Some(())), None);
            let errors = outer.into_errors();
            assert_eq!(errors[0].rule, "must be a JSON object");
        }
    }

    #[test]
    fn what_is_no_object_is_told_from_what_is_no_json() {
        let code = |text: &str| Members::parse(text).map(|_| ()).map_err(|p| p.code);
        for not_json in ["", "{", "{\"a\": tru}", "{} x", "{'a': 1}"] {
            assert_eq!(code(not_json), Err(Code::BodyNotJson), "{not_json}");
        }
        for wrong in ["1", "[]", "\"x\"", "null", r#"{"a": 1, "\u0061": 2}"#] {
            assert_eq!(code(wrong), Err(Code::Invalid), "{wrong}");
        }
        assert_eq!(code(" {} \n"), Ok(()));
    }
}
