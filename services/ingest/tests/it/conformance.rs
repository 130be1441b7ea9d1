//! Every answer that a test receives is held against the API's own description of itself.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use jsonschema::Validator;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use zyven_ingest::Config;
use zyven_runtime::config::Source;

/// The document with the default limits.
pub(crate) static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let mut source = Source::from_pairs::<String, String>([]);
    let config = Config::read(&mut source).expect("defaults are valid");
    zyven_ingest::openapi(&config.limits)
});

/// The same, with answers that have no other members than those described. The document itself does not say so, for clients
/// have to bear with more.
static STRICT: LazyLock<Value> = LazyLock::new(|| {
    let mut document = DOCUMENT.clone();
    let schemas = document["components"]["schemas"].as_object_mut();
    for schema in schemas.expect("schemas").values_mut() {
        if schema["properties"].is_object() && schema.get("additionalProperties").is_none() {
            schema["additionalProperties"] = json!(false);
        }
    }
    document
});

static VALIDATORS: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> = LazyLock::new(Mutex::default);

/// An operation of the document, with the path of its description.
pub(crate) fn operation(method: &str, path: &str) -> Option<(&'static str, &'static Value)> {
    let asked: Vec<&str> = path.split('/').collect();
    let fits = |template: &str| {
        let parts: Vec<&str> = template.split('/').collect();
        let pairs = || parts.iter().zip(&asked);
        parts.len() == asked.len()
            && pairs().all(|(part, asked)| part.starts_with('{') || part == asked)
    };
    let paths = STRICT["paths"].as_object().expect("paths");
    let mut found: Vec<_> = paths
        .iter()
        .filter(|(template, _)| fits(template))
        .filter_map(|(template, methods)| {
            Some((template.as_str(), methods.get(method.to_ascii_lowercase())?))
        })
        .collect();
    // A path as it is written comes before one with a place for an id (OpenAPI 3.1, section 4.8.8.1).
    found.sort_by_key(|(template, _)| template.matches('{').count());
    found.into_iter().next()
}

/// What a reference leads to, or the value itself.
pub(crate) fn resolved(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str() {
        Some(place) => STRICT
            .pointer(place.trim_start_matches('#'))
            .unwrap_or_else(|| panic!("{place} leads nowhere")),
        None => value,
    }
}

/// The reasons for which `instance` does not fit the schema, which may refer to others of the document.
pub(crate) fn mismatches(schema: &Value, instance: &Value) -> Vec<String> {
    let name = schema.to_string();
    let mut validators = VALIDATORS.lock().unwrap_or_else(PoisonError::into_inner);
    let validator = Arc::clone(validators.entry(name).or_insert_with(|| {
        let whole = json!({ "allOf": [schema], "components": STRICT["components"] });
        Arc::new(jsonschema::validator_for(&whole).expect("a schema"))
    }));
    drop(validators);
    let errors = validator.iter_errors(instance);
    errors
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

/// Asserts that the answer is one that its operation is described with. Other methods and paths have no description.
#[track_caller]
pub(crate) fn check(method: &str, path: &str, status: u16, headers: &HeaderMap, text: &str) {
    let Some((template, operation)) = operation(method, path) else {
        return;
    };
    let about = format!("{method} {template} answered {status} {text:.300}");
    let answer = &operation["responses"][status.to_string()];
    assert!(!answer.is_null(), "not described: {about}");
    let answer = resolved(answer);
    for (name, header) in answer["headers"].as_object().expect("headers") {
        if resolved(header)["required"] == false {
            continue;
        }
        assert!(headers.contains_key(name), "no header {name}: {about}");
    }
    let sent = headers
        .get("content-type")
        .map(|value| value.to_str().expect("a text"));
    let Some(contents) = answer["content"].as_object() else {
        assert_eq!((sent, text), (None, ""), "a body is not described: {about}");
        return;
    };
    let content = sent.and_then(|sent| contents.get(sent));
    let content = content.unwrap_or_else(|| panic!("{sent:?} is not described: {about}"));
    let body = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {about}"));
    let mismatches = mismatches(&content["schema"], &body);
    assert!(mismatches.is_empty(), "{mismatches:#?}: {about}");
}
