//! An event's payload.

use serde_json::Value;
use zyven_domain::payload::{DEPTH_MAX, validate};

/// An accepted payload is JSON that every reader understands.
pub(crate) fn payload(bytes: &[u8]) {
    if validate(bytes).is_err() {
        return;
    }
    let value: Value = serde_json::from_slice(bytes).expect("accepted payloads are JSON");
    assert!(depth(&value) <= DEPTH_MAX);
    assert!(!has_nul(&value), "PostgreSQL's jsonb has no place for NUL");
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(members) => members
            .iter()
            .any(|(name, value)| name.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}
