//! Examples of answers, made up from their schemas: whoever adds a member to an answer has it in the example, too.

use serde_json::{Map, Value, json};

/// What a schema without a better idea of its own is shown with.
const TIME: &str = "2026-01-31T12:00:00.123456Z";
/// Deeper than any answer goes.
const DEPTH_MAX: usize = 16;

/// What becomes of members that may be absent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Optional {
    Shown,
    /// In lists: what only the answer has that made a thing is in none of them.
    LeftOut,
}

/// Makes examples of what a document describes.
pub(super) struct Examples<'a> {
    schemas: &'a Value,
}

impl Examples<'_> {
    /// Gives an example to each happy end of each operation that has a body and no example yet.
    pub(super) fn fill(document: &mut Value) {
        let schemas = document["components"]["schemas"].clone();
        let examples = Examples { schemas: &schemas };
        let paths = document["paths"].as_object_mut().into_iter();
        let operations = paths
            .flat_map(Map::values_mut)
            .filter_map(Value::as_object_mut)
            .flat_map(Map::values_mut);
        for operation in operations {
            let responses = operation["responses"].as_object_mut().into_iter();
            for response in responses.flat_map(Map::values_mut) {
                let Some(content) = response.get_mut("content").and_then(Value::as_object_mut)
                else {
                    continue;
                };
                for media in content.values_mut() {
                    let example = examples.of(&media["schema"], Optional::Shown, DEPTH_MAX);
                    media["example"] = example;
                }
            }
        }
    }

    /// An instance of the schema: its own example, or one made of what it consists of.
    fn of(&self, schema: &Value, optional: Optional, depth: usize) -> Value {
        let Some(depth) = depth.checked_sub(1) else {
            return Value::Null;
        };
        if let Some(example) = schema["examples"].get(0) {
            return example.clone();
        }
        if let Some(name) = schema["$ref"]
            .as_str()
            .and_then(|place| place.rsplit('/').next())
        {
            return self.of(&self.schemas[name], optional, depth);
        }
        if let Some(constant) = schema.get("const").or_else(|| schema["enum"].get(0)) {
            return constant.clone();
        }
        for several in ["anyOf", "oneOf", "allOf"] {
            if let Some(first) = schema[several].get(0) {
                return self.of(first, optional, depth);
            }
        }
        let kind = schema["type"].as_str().or(schema["type"][0].as_str());
        match kind {
            Some("object") => self.object(schema, optional, depth),
            Some("array") => json!([self.of(&schema["items"], Optional::LeftOut, depth)]),
            Some("integer") => json!(schema["minimum"].as_u64().unwrap_or_default().max(1)),
            Some("number") => json!(1.0),
            Some("boolean") => json!(true),
            Some("string") if schema["format"] == "date-time" => json!(TIME),
            Some("string") => json!("…"),
            Some(_) | None => json!({}),
        }
    }

    fn object(&self, schema: &Value, optional: Optional, depth: usize) -> Value {
        let required = schema["required"].as_array();
        let is_always_there =
            |name: &str| required.is_some_and(|names| names.iter().any(|known| known == name));
        let members = schema["properties"].as_object().into_iter().flatten();
        members
            .filter(|(name, _)| optional == Optional::Shown || is_always_there(name))
            .map(|(name, member)| (name.clone(), self.of(member, optional, depth)))
            .collect::<Map<String, Value>>()
            .into()
    }
}
