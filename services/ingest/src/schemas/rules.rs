//! Which schemas are taken: what is bounded before anything is compiled.

use std::collections::HashMap;

use serde_json::{Map, Value};
use zyven_domain::payload;

/// Longest schema, in bytes.
const SCHEMA_BYTES_MAX: usize = 64 * 1024;
/// Heaviest schema: its subschemas, with each reference counted as what it refers to, and what they
/// list. With the payload's size, a bound on the work of one check.
const WEIGHT_MAX: u64 = 2_000;
/// What a regular expression weighs wherever it is applied: as many subschemas take about as long.
const PATTERN_WEIGHT: u64 = 50;
/// Most regular expressions: each takes memory once compiled.
const PATTERNS_MAX: u64 = 32;
/// What `$schema` may say; nothing means the first.
const DRAFTS: [&str; 2] = [
    "https://json-schema.org/draft/2020-12/schema",
    "http://json-schema.org/draft-07/schema",
];

/// Keywords whose value is a schema.
const ONE: [&str; 10] = [
    "additionalItems",
    "additionalProperties",
    "contains",
    "else",
    "if",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];
/// Keywords whose value is an array of schemas.
const MANY: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
/// Keywords whose value has a schema for each name, and that are applied.
const NAMED: [&str; 4] = [
    "dependencies",
    "dependentSchemas",
    "patternProperties",
    "properties",
];
/// Keywords whose value has a schema for each name, and that only references lead to.
const DEFINITIONS: [&str; 2] = ["$defs", "definitions"];
/// Keywords that make it depend on the way taken, or on a base, what a reference means.
const REFUSED: [&str; 5] = [
    "$dynamicAnchor",
    "$dynamicRef",
    "$recursiveAnchor",
    "$recursiveRef",
    "$vocabulary",
];

/// Reads a schema and checks everything that compiling it does not.
/// Returns it with its weight.
pub(super) fn read(text: &str) -> Result<(Value, u64), String> {
    if text.len() > SCHEMA_BYTES_MAX {
        return Err(format!("must not be larger than {SCHEMA_BYTES_MAX} bytes"));
    }
    payload::validate(text.as_bytes()).map_err(|error| error.within("the schema"))?;
    let schema: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let Value::Object(root) = &schema else {
        return Err("must be a JSON object".to_owned());
    };
    if let Some(named) = root.get("$schema") {
        let draft = named.as_str().unwrap_or_default().trim_end_matches('#');
        if !DRAFTS.contains(&draft) {
            return Err(format!("$schema must be {} or {}#", DRAFTS[0], DRAFTS[1]));
        }
    }
    let mut walk = Walk {
        root: &schema,
        targets: HashMap::new(),
        patterns: 0,
    };
    walk.everywhere(&schema, true)?;
    let weight = walk.weight(&schema)?;
    if weight > WEIGHT_MAX {
        return Err(format!(
            "must not weigh more than {WEIGHT_MAX}: its subschemas, each reference counted as what it refers to, the values of enum, the names that are required, and {PATTERN_WEIGHT} for each regular expression"
        ));
    }
    Ok((schema, weight))
}

/// What is known of the target of a reference.
#[derive(Clone, Copy)]
enum Target {
    /// It is being weighed: whoever meets it again has found a circle.
    Open,
    Weighs(u64),
}

struct Walk<'a> {
    root: &'a Value,
    targets: HashMap<&'a str, Target>,
    patterns: u64,
}

impl<'a> Walk<'a> {
    /// Looks at every subschema once, definitions that nothing refers to included.
    fn everywhere(&mut self, schema: &'a Value, is_root: bool) -> Result<(), String> {
        let Value::Object(members) = schema else {
            return Ok(());
        };
        if let Some(keyword) = REFUSED.iter().find(|name| members.contains_key(**name)) {
            return Err(format!("must not use {keyword}"));
        }
        if !is_root && (members.contains_key("$id") || members.contains_key("$schema")) {
            return Err("must have $id and $schema at its top only".to_owned());
        }
        self.patterns += patterns(members);
        if self.patterns > PATTERNS_MAX {
            return Err(format!(
                "must not have more than {PATTERNS_MAX} regular expressions"
            ));
        }
        let definitions = DEFINITIONS.iter().filter_map(|name| members.get(*name));
        let defined = definitions
            .filter_map(Value::as_object)
            .flat_map(Map::values);
        for subschema in applied(members).chain(defined) {
            self.everywhere(subschema, false)?;
        }
        Ok(())
    }

    /// How many subschemas are applied at most, once, with every reference followed; and what each of
    /// them has to go through by itself.
    fn weight(&mut self, schema: &'a Value) -> Result<u64, String> {
        let Value::Object(members) = schema else {
            return Ok(1);
        };
        let mut weight: u64 = 1 + listed(members) + PATTERN_WEIGHT * patterns(members);
        for subschema in applied(members) {
            weight = weight.saturating_add(self.weight(subschema)?);
        }
        if let Some(reference) = members.get("$ref") {
            let reference = reference.as_str().ok_or("$ref must be a string")?;
            weight = weight.saturating_add(self.target(reference)?);
        }
        // To know what is left over, everything beside it may have to be looked at again.
        let looks_again = ["unevaluatedItems", "unevaluatedProperties"];
        if looks_again.iter().any(|name| members.contains_key(*name)) {
            weight = weight.saturating_mul(2);
        }
        Ok(weight)
    }

    fn target(&mut self, reference: &'a str) -> Result<u64, String> {
        match self.targets.get(reference) {
            Some(Target::Weighs(weight)) => return Ok(*weight),
            Some(Target::Open) => {
                return Err(format!(
                    "must not refer to itself, which {} does",
                    super::shortened(reference)
                ));
            }
            None => {}
        }
        let pointer = reference
            .strip_prefix('#')
            .filter(|pointer| pointer.is_empty() || pointer.starts_with('/'))
            .filter(|pointer| !pointer.contains('%'));
        let Some(found) = pointer.and_then(|pointer| self.root.pointer(pointer)) else {
            return Err(format!(
                "$ref must be # and a JSON pointer to a place in this schema, such as #/$defs/name, which {:?} is not",
                super::shortened(reference)
            ));
        };
        self.targets.insert(reference, Target::Open);
        let weight = self.weight(found)?;
        self.targets.insert(reference, Target::Weighs(weight));
        Ok(weight)
    }
}

/// Regular expressions that belong to this subschema itself.
fn patterns(members: &Map<String, Value>) -> u64 {
    let named = members.get("patternProperties").and_then(Value::as_object);
    u64::from(members.contains_key("pattern")) + named.map_or(0, |named| named.len() as u64)
}

/// What this subschema itself may compare one value with, or find missing in it.
fn listed(members: &Map<String, Value>) -> u64 {
    let of_one = ["enum", "required"]
        .iter()
        .filter_map(|name| members.get(*name));
    let of_many = ["dependencies", "dependentRequired"]
        .iter()
        .filter_map(|name| members.get(*name)?.as_object())
        .flat_map(Map::values);
    of_one
        .chain(of_many)
        .filter_map(Value::as_array)
        .map(|list| list.len() as u64)
        .sum()
}

/// The schemas that are applied wherever this one is, to the same value or to a part of it.
fn applied(members: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    let one = ONE.iter().filter_map(|name| members.get(*name));
    let many = MANY
        .iter()
        .chain(["items"].iter())
        .filter_map(|name| members.get(*name))
        .flat_map(|value| match value {
            Value::Array(schemas) => schemas.as_slice(),
            other => std::slice::from_ref(other),
        });
    let named = NAMED
        .iter()
        .filter_map(|name| members.get(*name))
        .filter_map(Value::as_object)
        .flat_map(Map::values);
    one.chain(many).chain(named)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn broken(schema: &Value) -> String {
        read(&schema.to_string()).err().unwrap_or_default()
    }

    #[test]
    fn references_lead_to_places_in_the_schema() {
        let text = json!({ "type": "string" });
        for good in [
            json!({ "$defs": { "a": text }, "$ref": "#/$defs/a" }),
            json!({ "properties": { "a": text, "b": { "$ref": "#/properties/a" } } }),
            json!({ "$id": "https://example.com/a", "$defs": { "a/b": text }, "$ref": "#/$defs/a~1b" }),
            json!({ "const": { "$ref": "https://elsewhere.example" }, "enum": [{ "$ref": 7 }] }),
            json!({ "properties": { "$ref": text, "$dynamicRef": text } }),
        ] {
            assert_eq!(broken(&good), "", "{good}");
        }
        for elsewhere in [
            "https://example.com/schema",
            "other.json",
            "file:///etc/passwd",
            "#/$defs/none",
            "#anchor",
            "",
            "#/%24defs/a",
        ] {
            let schema = json!({ "$defs": { "a": text }, "items": { "$ref": elsewhere } });
            assert!(broken(&schema).contains("$ref must be #"), "{elsewhere}");
        }
        assert!(broken(&json!({ "$ref": 7 })).contains("string"));
    }

    #[test]
    fn nothing_refers_to_itself() {
        for circle in [
            json!({ "$ref": "#" }),
            json!({ "items": { "$ref": "#" } }),
            json!({ "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "not": { "$ref": "#/$defs/a" } } }, "$ref": "#/$defs/a" }),
        ] {
            assert!(broken(&circle).contains("refer to itself"), "{circle}");
        }
        for keyword in REFUSED {
            let nested = json!({ "properties": { "a": { keyword: "x" } } });
            assert!(broken(&nested).contains(keyword), "{keyword}");
        }
        assert!(broken(&json!({ "items": { "$id": "x" } })).contains("$id"));
    }

    /// Thirty definitions, each twice the one before: a thousand million subschemas in two kilobytes.
    #[test]
    fn the_size_with_every_reference_followed_is_bounded() {
        let doubling = |count: usize| {
            let mut defs = json!({ "d0": {} });
            for n in 1..count {
                let last = json!({ "$ref": format!("#/$defs/d{}", n - 1) });
                defs[format!("d{n}")] = json!({ "allOf": [last, last] });
            }
            json!({ "$defs": defs, "$ref": format!("#/$defs/d{}", count - 1) })
        };
        assert_eq!(broken(&doubling(8)), "");
        assert!(broken(&doubling(30)).contains("subschemas"));
        let flat = |count| json!({ "allOf": vec![json!({}); count] });
        let max = usize::try_from(WEIGHT_MAX).expect("small");
        assert_eq!(broken(&flat(max - 1)), "");
        assert!(broken(&flat(max)).contains("subschemas"));
        let patterns = |count| json!({ "allOf": vec![json!({ "pattern": "a" }); count] });
        let max = usize::try_from(PATTERNS_MAX).expect("small");
        assert_eq!(broken(&patterns(max)), "");
        assert!(broken(&patterns(max + 1)).contains("more than 32 regular expressions"));
    }

    /// One definition is little. Wherever it is referred to, it costs what it lists.
    #[test]
    fn what_a_subschema_goes_through_is_counted_wherever_it_is_applied() {
        let names: Vec<String> = (0..99).map(|n| n.to_string()).collect();
        for (listing, applied_max) in [
            (json!({ "enum": names }), 19),
            (json!({ "required": names }), 19),
            (json!({ "dependentRequired": { "a": names } }), 19),
            (json!({ "dependencies": { "a": names } }), 19),
            (json!({ "pattern": "a" }), 38),
            (json!({ "patternProperties": { "a": true } }), 37),
        ] {
            let applied = |times| {
                let here = json!({ "$ref": "#/$defs/a" });
                json!({ "$defs": { "a": listing }, "allOf": vec![here; times] })
            };
            assert_eq!(broken(&applied(applied_max)), "", "{listing}");
            assert!(
                broken(&applied(applied_max + 1)).contains("weigh"),
                "{listing}"
            );
        }
    }

    #[test]
    fn size_depth_draft_and_form_are_bounded() {
        let long = |bytes: usize| json!({ "title": "x".repeat(bytes - r#"{"title":""}"#.len()) });
        assert_eq!(broken(&long(SCHEMA_BYTES_MAX)), "");
        assert!(broken(&long(SCHEMA_BYTES_MAX + 1)).contains("larger than 65536"));
        assert!(broken(&json!(true)).contains("object"));
        for draft in ["https://json-schema.org/draft/2019-09/schema", "x"] {
            assert!(
                broken(&json!({ "$schema": draft })).contains("$schema must be"),
                "{draft}"
            );
        }
        let deep = "{\"not\":".repeat(65) + "{}" + &"}".repeat(65);
        assert!(read(&deep).is_err());
        assert!(read(r#"{"a": 1, "a": 2}"#).is_err());
    }
}
