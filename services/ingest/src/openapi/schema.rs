//! JSON Schemas of what requests may carry, written beside the code that reads it, with the same constants.
//!
//! Schemas of answers are not written but derived: see [`super::values`].

use std::ops::RangeInclusive;

use serde_json::{Map, Value, json};

/// A JSON Schema (2020-12) that is being described.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Schema(Map<String, Value>);

/// Any JSON value.
pub(crate) fn anything() -> Schema {
    Schema(Map::new())
}

/// A string.
pub(crate) fn text() -> Schema {
    anything().with("type", "string")
}

/// An object whose members are somebody else's business.
pub(crate) fn any_object() -> Schema {
    anything().with("type", "object")
}

/// A string that is one of these.
pub(crate) fn one_of(texts: impl IntoIterator<Item = &'static str>) -> Schema {
    let texts: Vec<&str> = texts.into_iter().collect();
    text().with("enum", texts)
}

/// A time as RFC 3339 has it.
pub(crate) fn time() -> Schema {
    text()
        .with("format", "date-time")
        .example("2030-01-31T12:00:00Z")
}

/// A whole number within bounds, both included.
pub(crate) fn number(bounds: RangeInclusive<u64>) -> Schema {
    anything()
        .with("type", "integer")
        .with("minimum", *bounds.start())
        .with("maximum", *bounds.end())
}

/// True or false.
pub(crate) fn flag() -> Schema {
    anything().with("type", "boolean")
}

/// An array with bounds on the number of its items.
pub(crate) fn list(items: Schema, count: RangeInclusive<usize>) -> Schema {
    anything()
        .with("type", "array")
        .with("items", items)
        .with("minItems", *count.start())
        .with("maxItems", *count.end())
}

/// An object of any names, with the rules for a name and for a value.
pub(crate) fn dictionary(name: Schema, value: Schema, entries_max: usize) -> Schema {
    anything()
        .with("type", "object")
        .with("propertyNames", name)
        .with("additionalProperties", value)
        .with("maxProperties", entries_max)
}

/// Any of these.
pub(crate) fn any_of(schemas: impl IntoIterator<Item = Schema>) -> Schema {
    let schemas: Vec<Value> = schemas.into_iter().map(Value::from).collect();
    anything().with("anyOf", schemas)
}

/// An object without members so far, and without any that are not described: Zyven refuses those.
pub(crate) fn object() -> Schema {
    anything()
        .with("type", "object")
        .with("properties", Map::new())
        .with("additionalProperties", false)
}

impl Schema {
    /// What it is, for people. `code` is the only markup.
    pub(crate) fn about(self, words: impl Into<String>) -> Self {
        self.with("description", words.into())
    }

    /// Bounds on the number of characters, both included.
    pub(crate) fn chars(self, bounds: RangeInclusive<usize>) -> Self {
        let least = *bounds.start();
        let bounded = self.with("maxLength", *bounds.end());
        match least {
            0 => bounded,
            _ => bounded.with("minLength", least),
        }
    }

    /// A regular expression (ECMA-262) for all of the string.
    pub(crate) fn pattern(self, pattern: impl Into<String>) -> Self {
        self.with("pattern", pattern.into())
    }

    /// A format of the registry. An annotation: nobody refuses by it alone.
    pub(crate) fn format(self, format: &str) -> Self {
        self.with("format", format)
    }

    /// But not this value.
    pub(crate) fn except(self, value: impl Into<Value>) -> Self {
        self.with("not", json!({ "const": value.into() }))
    }

    /// What is taken if the member is absent.
    pub(crate) fn default(self, value: impl Into<Value>) -> Self {
        self.with("default", value)
    }

    /// A value that people learn from.
    pub(crate) fn example(self, value: impl Into<Value>) -> Self {
        self.with("examples", vec![value.into()])
    }

    /// Is shown in no answer.
    pub(crate) fn write_only(self) -> Self {
        self.with("writeOnly", true)
    }

    /// The same, or null.
    pub(crate) fn or_null(mut self) -> Self {
        match self.0.get("type").cloned() {
            Some(kind) => {
                if let Some(Value::Array(known)) = self.0.get_mut("enum") {
                    known.push(Value::Null);
                }
                self.with("type", json!([kind, "null"]))
            }
            None => {
                let description = self.0.remove("description");
                let mut either = any_of([self, anything().with("type", "null")]);
                if let Some(description) = description {
                    either.0.insert("description".to_owned(), description);
                }
                either
            }
        }
    }

    /// Another member of an object, which must be there.
    pub(crate) fn required(mut self, name: &'static str, schema: Schema) -> Self {
        let names = self.0.entry("required").or_insert_with(|| json!([]));
        if let Value::Array(names) = names {
            names.push(name.into());
        }
        self.optional(name, schema)
    }

    /// Another member of an object, which may be absent.
    pub(crate) fn optional(mut self, name: &'static str, schema: Schema) -> Self {
        let members = self.0.entry("properties").or_insert_with(|| json!({}));
        if let Value::Object(members) = members {
            members.insert(name.to_owned(), schema.into());
        }
        self
    }

    /// And members of other names, with the rules for a name, whatever its member is, and for a value.
    pub(crate) fn others(self, name: Schema, value: Schema) -> Self {
        self.with("propertyNames", name)
            .with("additionalProperties", value)
    }

    fn with(mut self, keyword: &str, value: impl Into<Value>) -> Self {
        self.0.insert(keyword.to_owned(), value.into());
        self
    }
}

impl From<Schema> for Value {
    fn from(schema: Schema) -> Self {
        Self::Object(schema.0)
    }
}

impl From<Schema> for schemars::Schema {
    fn from(schema: Schema) -> Self {
        schema.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_added_to_whatever_there_is() {
        let of = |schema: Schema| Value::from(schema.or_null());
        assert_eq!(of(flag()), json!({ "type": ["boolean", "null"] }));
        assert_eq!(
            of(one_of(["a"])),
            json!({ "type": ["string", "null"], "enum": ["a", null] })
        );
        assert_eq!(
            of(any_of([flag()]).about("x")),
            json!({ "description": "x", "anyOf": [{ "anyOf": [{ "type": "boolean" }] }, { "type": "null" }] })
        );
    }

    #[test]
    fn an_object_has_the_members_that_were_named_and_no_others() {
        let described = object()
            .required("a", text().chars(1..=2))
            .optional("b", number(0..=9));
        assert_eq!(
            Value::from(described),
            json!({
                "type": "object", "additionalProperties": false, "required": ["a"],
                "properties": {
                    "a": { "type": "string", "minLength": 1, "maxLength": 2 },
                    "b": { "type": "integer", "minimum": 0, "maximum": 9 },
                },
            })
        );
    }
}
