//! JSON Schemas: compiled once, and what does not fit them, told in words.
//!
//! A schema is a stranger's program that runs over strangers' data, for every event. So it is bounded
//! when it is registered, by [`rules`]: nothing is fetched, nothing refers to itself, and its size with
//! every reference followed has a limit. Regular expressions run on an engine whose time grows with the
//! text and not faster. What a payload says is not repeated in what is told about it.

mod rules;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jsonschema::error::ValidationErrorKind;
use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;
use zyven_domain::event::EventType;
use zyven_domain::id::TenantId;
use zyven_store::{CheckedType, SchemaMode, Store};

use crate::problem::{Code, FieldError, Problem};

/// Most mistakes told of one payload.
pub(crate) const MISTAKES_MAX: usize = 20;
/// Longest place and longest rule that are told, in characters.
const WORDS_CHARS_MAX: usize = 200;
/// Compiled size of one regular expression.
const PATTERN_BYTES_MAX: usize = 64 * 1024;
/// Schemas kept compiled. When there are more, all go, and come back as they are needed.
const COMPILED_MAX: usize = 512;

/// A payload's bytes times a schema's weight up to which a check is made in place: well below a
/// millisecond. What may take longer goes to a thread that may stand still.
const WORK_IN_PLACE_MAX: u64 = 1 << 20;

/// A payload's values times a schema's weight up to which each mistake is told with its place. The crate
/// collects all there are before it gives the first, and so many may there be, a third of a KiB each.
const MISTAKES_COLLECTED_MAX: u64 = 1 << 15;

/// A schema ready to be applied.
pub(crate) struct Schema {
    validator: Validator,
    /// See [`rules::read`].
    weight: u64,
}

impl Schema {
    /// Compiles a text, or says which rule it breaks.
    pub(crate) fn compile(text: &str) -> Result<Self, String> {
        let (schema, weight) = rules::read(text)?;
        jsonschema::options()
            .offline()
            // As the specification has it: an annotation.
            .should_validate_formats(false)
            .with_pattern_options(
                PatternOptions::regex()
                    .size_limit(PATTERN_BYTES_MAX)
                    .dfa_size_limit(PATTERN_BYTES_MAX),
            )
            .build(&schema)
            .map(|validator| Self { validator, weight })
            .map_err(|error| shortened(&not_a_schema(&error)))
    }

    /// What does not fit, at most [`MISTAKES_MAX`]; fields begin with `payload`.
    fn mistakes(&self, payload: &[u8]) -> Vec<FieldError> {
        let Ok(payload) = serde_json::from_slice::<Value>(payload) else {
            // It has been validated, and nests less deep than the parser goes.
            return vec![FieldError {
                field: "payload".to_owned(),
                rule: "could not be read for its schema".into(),
            }];
        };
        if self.validator.is_valid(&payload) {
            return Vec::new();
        }
        if self.weight.saturating_mul(values(&payload)) > MISTAKES_COLLECTED_MAX {
            return vec![FieldError {
                field: "payload".to_owned(),
                rule: "does not fit its schema; it is too large to tell where".into(),
            }];
        }
        let errors = self.validator.iter_errors(&payload).take(MISTAKES_MAX);
        errors.map(|error| mistake(&error)).collect()
    }
}

/// How many values there are in `value`, itself included. It nests as deep as payloads may.
fn values(value: &Value) -> u64 {
    1 + match value {
        Value::Array(items) => items.iter().map(values).sum(),
        Value::Object(members) => members.values().map(values).sum(),
        _ => 0,
    }
}

fn mistake(error: &ValidationError<'_>) -> FieldError {
    let place = error.instance_path().as_str();
    let rule = error.masked_with("the value").to_string();
    FieldError {
        field: shortened(&format!("payload{place}")),
        rule: shortened(&rule).into(),
    }
}

/// What is wrong with a schema, and where in it.
fn not_a_schema(error: &ValidationError<'_>) -> String {
    // What breaks the specification's own schema of schemas is an instance of that. What cannot be compiled is no instance of
    // anything, and is said by its place as a schema.
    let place = match error.instance_path().as_str() {
        "" => error.schema_path().as_str(),
        place => place,
    };
    match error.kind() {
        // What the alternatives are only the specification says, in a keyword of its own.
        ValidationErrorKind::AnyOf { .. } | ValidationErrorKind::OneOfNotValid { .. } => {
            format!(
                "is not a JSON Schema at {place}: {} is nothing that may stand there",
                error.instance()
            )
        }
        _ => format!("is not a JSON Schema at {place}: {error}"),
    }
}

fn shortened(words: &str) -> String {
    if words.chars().count() <= WORDS_CHARS_MAX {
        return words.to_owned();
    }
    let kept: String = words.chars().take(WORDS_CHARS_MAX - 1).collect();
    kept + "…"
}

/// What is to become of an event whose type has a schema.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    /// Why it must not be accepted.
    pub(crate) refusals: Vec<FieldError>,
    /// What its publisher should know although it is accepted.
    pub(crate) warnings: Vec<FieldError>,
}

struct Compiled {
    mode: SchemaMode,
    schema: Schema,
}

/// The schemas in use. Which version of a type counts, the caller's key knows; a version never changes,
/// so what is kept here is never stale.
pub(crate) struct Schemas {
    store: Store,
    // Held to look up or insert, never across an await.
    compiled: Mutex<HashMap<i64, Arc<Compiled>>>,
    /// Held by whoever compiles: a burst of events of a type that is new here compiles it once.
    compiling: tokio::sync::Mutex<()>,
}

impl Schemas {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            compiled: Mutex::default(),
            compiling: tokio::sync::Mutex::default(),
        }
    }

    /// Judges a payload. `checked` are the tenant's types with a schema, in the order of their names.
    pub(crate) async fn judge(
        &self,
        tenant: TenantId,
        checked: &[CheckedType],
        event_type: &EventType,
        payload: &bytes::Bytes,
    ) -> Result<Judged, Problem> {
        let name = event_type.as_str();
        let Ok(index) = checked.binary_search_by(|known| known.name.as_str().cmp(name)) else {
            return Ok(Judged::default());
        };
        let Some(compiled) = self
            .find(tenant, event_type, checked[index].version)
            .await?
        else {
            return Ok(Judged::default());
        };
        let mode = compiled.mode;
        let work = compiled.schema.weight.saturating_mul(payload.len() as u64);
        let mistakes = if work <= WORK_IN_PLACE_MAX {
            compiled.schema.mistakes(payload)
        } else {
            let payload = payload.clone();
            tokio::task::spawn_blocking(move || compiled.schema.mistakes(&payload))
                .await
                .map_err(|error| internal(tenant, name, &error.to_string()))?
        };
        Ok(match mode {
            SchemaMode::Off => Judged::default(),
            SchemaMode::Warn => Judged {
                warnings: mistakes,
                ..Judged::default()
            },
            SchemaMode::Reject => Judged {
                refusals: mistakes,
                ..Judged::default()
            },
        })
    }

    async fn find(
        &self,
        tenant: TenantId,
        event_type: &EventType,
        version: i64,
    ) -> Result<Option<Arc<Compiled>>, Problem> {
        if let Some(known) = self.known(version) {
            return Ok(Some(known));
        }
        let _turn = self.compiling.lock().await;
        if let Some(known) = self.known(version) {
            return Ok(Some(known));
        }
        // The type may have changed since the key was looked up: then the newer state counts.
        let Some(found) = self.store.schema_in_force(tenant, event_type).await? else {
            return Ok(None);
        };
        if let Some(known) = self.known(found.version) {
            return Ok(Some(known));
        }
        let schema = tokio::task::spawn_blocking(move || Schema::compile(&found.schema))
            .await
            .map_err(|error| internal(tenant, event_type.as_str(), &error.to_string()))?
            .map_err(|rule| internal(tenant, event_type.as_str(), &rule))?;
        let compiled = Arc::new(Compiled {
            mode: found.mode,
            schema,
        });
        self.keep(found.version, &compiled);
        Ok(Some(compiled))
    }

    fn known(&self, version: i64) -> Option<Arc<Compiled>> {
        let compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        compiled.get(&version).cloned()
    }

    fn keep(&self, version: i64, new: &Arc<Compiled>) {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if compiled.len() >= COMPILED_MAX {
            compiled.clear();
        }
        compiled.insert(version, Arc::clone(new));
    }
}

/// A schema that was taken once and cannot be applied now. Its events are refused rather than let through.
fn internal(tenant: TenantId, event_type: &str, error: &str) -> Problem {
    tracing::error!(tenant.id = %tenant, event.r#type = event_type, error, "a schema cannot be applied");
    Problem::new(
        Code::Internal,
        "The type's schema cannot be applied; the failure is in the log.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(schema: &str, payload: &str) -> Vec<(String, String)> {
        let schema = Schema::compile(schema).unwrap_or_else(|rule| panic!("{rule}"));
        let mistakes = schema.mistakes(payload.as_bytes());
        let told = mistakes
            .into_iter()
            .map(|mistake| (mistake.field, mistake.rule.into_owned()));
        told.collect()
    }

    #[test]
    fn what_does_not_fit_is_told_with_its_place_and_without_its_value() {
        let schema = r#"{"type": "object", "required": ["id"],
                         "properties": {"id": {"type": "integer"}, "tags": {"items": {"enum": ["a"]}}}}"#;
        assert!(told(schema, r#"{"id": 1, "tags": ["a"]}"#).is_empty());
        let told = told(
            schema,
            r#"{"id": "secret-4711", "tags": ["a", "secret-4711"]}"#,
        );
        let places: Vec<&str> = told.iter().map(|(place, _)| place.as_str()).collect();
        assert_eq!(places, ["payload/id", "payload/tags/1"]);
        assert!(told[0].1.contains("integer"), "{told:?}");
        assert!(
            told.iter().all(|(_, rule)| !rule.contains("4711")),
            "{told:?}"
        );
    }

    #[test]
    fn mistakes_and_their_words_are_bounded() {
        let many = format!("[{}1]", "1,".repeat(5_000));
        assert_eq!(
            told(r#"{"items": {"type": "string"}}"#, &many).len(),
            MISTAKES_MAX
        );
        let name = "x".repeat(5_000);
        let told = told(
            r#"{"additionalProperties": false}"#,
            &format!("{{\"{name}\": 1}}"),
        );
        assert!(told[0].1.chars().count() <= WORDS_CHARS_MAX, "{told:?}");
    }

    #[test]
    fn both_drafts_are_known_and_format_is_an_annotation() {
        let tuple = |schema: &str| told(schema, "[\"x\"]").len();
        let draft = |uri: &str, keyword: &str| {
            format!(r#"{{"$schema": "{uri}", "{keyword}": [{{"type": "integer"}}]}}"#)
        };
        let new = "https://json-schema.org/draft/2020-12/schema";
        let old = "http://json-schema.org/draft-07/schema#";
        assert_eq!(tuple(&draft(new, "prefixItems")), 1);
        assert_eq!(tuple(&draft(old, "items")), 1);
        assert_eq!(tuple(r#"{"prefixItems": [{"type": "integer"}]}"#), 1);
        assert!(told(r#"{"format": "email"}"#, "\"no\"").is_empty());
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        for bad in [
            r#"{"type": "strnig"}"#,
            r#"{"minimum": "1"}"#,
            r#"{"pattern": "("}"#,
            r#"{"pattern": "(a)\\1"}"#,
            r#"{"pattern": "(?=a)b"}"#,
            r#"{"pattern": "(\\p{L}{100}){100}"}"#,
            r#"{"properties": {"a": 7}}"#,
        ] {
            assert!(Schema::compile(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_schema_is_told_with_its_place() {
        for (bad, place) in [
            (
                r#"{"properties": {"a": {"type": "objekt"}}}"#,
                "/properties/a/type: \"objekt\" ",
            ),
            (r#"{"type": "objekt"}"#, "/type: \"objekt\" "),
            (
                r#"{"properties": {"a/b": {"minimum": "1"}}}"#,
                "/properties/a~1b/minimum: ",
            ),
            (r#"{"items": {"pattern": "("}}"#, "/items/pattern: "),
        ] {
            let told = Schema::compile(bad).err().unwrap_or_default();
            let expected = format!("is not a JSON Schema at {place}");
            assert!(told.starts_with(&expected), "{bad}: {told}");
            assert!(!told.contains("anyOf"), "{bad}: {told}");
        }
    }

    /// A few lines of schema and a payload within its bounds: a million mistakes, were all collected.
    #[test]
    fn where_mistakes_could_be_too_many_only_one_is_told() {
        let schema = |count: usize| {
            let strings = vec![r#"{"type": "string"}"#; count].join(",");
            format!(r#"{{"items": {{"allOf": [{strings}]}}}}"#)
        };
        let payload = |items: usize| format!("[{}1]", "1,".repeat(items - 1));
        // The array and 63 items, times the schema, its items and 510 strings: 2^15.
        let just = told(&schema(510), &payload(63));
        assert_eq!((just.len(), &*just[0].0), (MISTAKES_MAX, "payload/0"));
        let beyond = told(&schema(510), &payload(64));
        assert_eq!(beyond.len(), 1, "{beyond:?}");
        assert_eq!(beyond[0].0, "payload");
        assert_eq!(told(&schema(1_990), &payload(130_000)).len(), 1);
        let good = format!("[{}\"\"]", "\"\",".repeat(1_000));
        assert!(told(&schema(510), &good).is_empty());
    }

    /// A pattern that takes an engine with backtracking for ever.
    #[test]
    fn a_pattern_takes_time_in_proportion_to_the_text() {
        let text = format!("\"{}!\"", "a".repeat(200_000));
        let began = std::time::Instant::now();
        assert_eq!(told(r#"{"pattern": "^(a+)+$"}"#, &text).len(), 1);
        assert!(began.elapsed() < std::time::Duration::from_secs(20));
    }
}
