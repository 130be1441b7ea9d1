//! Schemas in words.

use maud::{Markup, PreEscaped, html};
use serde_json::Value;

use super::{entries, resolved, text};

/// Paragraphs with an empty line between them.
pub(super) fn paragraphs(said: &str) -> Markup {
    html! { @for paragraph in said.split("\n\n") { p { (words(paragraph)) } } }
}

/// Words among which `code` stands between backticks.
pub(super) fn words(said: &str) -> Markup {
    html! {
        @for (number, part) in said.split('`').enumerate() {
            @if number % 2 == 0 { (part) } @else { code { (part) } }
        }
    }
}

/// The members of an object, those that are always there first.
pub(super) fn members(document: &Value, schema: &Value) -> Markup {
    let schema = resolved(document, schema);
    let required: Vec<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let members = &schema["properties"];
    let first = required.iter().map(|name| (*name, &members[*name]));
    let others = entries(members).filter(|(name, _)| !required.contains(name));
    html! {
        dl.members {
            @for (name, member) in first.chain(others) {
                div {
                    dt {
                        code.name { (name) }
                        " " span.kind { (kind(member)) }
                        @if !required.contains(&name) { " " span.optional { "optional" } }
                    }
                    dd {
                        (words(about(document, member)))
                        @for (number, variant) in variants(member).enumerate() {
                            details {
                                summary { "Variant " (number + 1) ": " (words(text(&variant["description"]))) }
                                (self::members(document, variant))
                            }
                        }
                        @if member["type"] == "object" && member["properties"].is_object() {
                            (self::members(document, member))
                        }
                    }
                }
            }
        }
    }
}

/// What is said of the member, or of what it refers to.
fn about<'a>(document: &'a Value, member: &'a Value) -> &'a str {
    let own = text(&member["description"]);
    if own.is_empty() {
        text(&resolved(document, member)["description"])
    } else {
        own
    }
}

/// The objects a member may be, if there are several.
fn variants(member: &Value) -> impl Iterator<Item = &Value> {
    let either = member["anyOf"].as_array().into_iter().flatten();
    let deeper = either.flat_map(|one| one["anyOf"].as_array().into_iter().flatten().chain([one]));
    deeper.filter(|one| one["properties"].is_object())
}

/// Type and bounds in one line.
pub(super) fn kind(schema: &Value) -> Markup {
    if let Some(name) = schema["$ref"]
        .as_str()
        .and_then(|place| place.rsplit('/').next())
    {
        return html! { a href={ "#schema-" (name) } { (name) } };
    }
    for several in ["anyOf", "allOf"] {
        if let Some(parts) = schema[several].as_array() {
            let mut kinds: Vec<String> =
                parts.iter().map(|part| kind(part).into_string()).collect();
            // Several objects are one kind of value.
            kinds.dedup();
            return PreEscaped(kinds.join(" or "));
        }
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    let is_array = types.contains(&"array");
    html! {
        @if types.is_empty() { "any value" }
        (types.join(" or "))
        @if is_array && schema["items"].is_object() { " of " (kind(&schema["items"])) }
        @for bound in bounds(schema) { ", " (bound) }
        @if let Some(words) = schema["enum"].as_array() {
            ": "
            @for (number, word) in words.iter().filter_map(Value::as_str).enumerate() {
                @if number > 0 { ", " }
                code { (word) }
            }
        }
        @if let Some(pattern) = schema["pattern"].as_str() { ", " code.pattern { (pattern) } }
        @if schema.get("default").is_some() { ", by default " code { (schema["default"].to_string()) } }
    }
}

fn bounds(schema: &Value) -> Vec<String> {
    let mut bounds = Vec::new();
    if let Some(format) = schema["format"]
        .as_str()
        .filter(|format| !format.contains("int"))
    {
        bounds.push(format.to_owned());
    }
    for (least, most, what) in [
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " items"),
        ("minProperties", "maxProperties", " members"),
    ] {
        match (schema[least].as_u64(), schema[most].as_u64()) {
            (Some(least), Some(most)) if least == most => bounds.push(format!("{least}{what}")),
            (Some(least), Some(most)) => bounds.push(format!("{least} to {most}{what}")),
            (None, Some(most)) => bounds.push(format!("at most {most}{what}")),
            (Some(_) | None, None) => {}
        }
    }
    bounds
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bounds_are_words() {
        let said = |schema: Value| kind(&schema).into_string();
        assert_eq!(
            said(json!({ "type": "integer", "minimum": 1, "maximum": 9, "default": 3 })),
            "integer, 1 to 9, by default <code>3</code>"
        );
        assert_eq!(
            said(json!({ "type": ["array", "null"], "items": { "$ref": "#/a/B" }, "maxItems": 2 })),
            "array or null of <a href=\"#schema-B\">B</a>, at most 2 items"
        );
        assert_eq!(said(json!({})), "any value");
        let several =
            json!({ "anyOf": [{ "type": "object" }, { "type": "object" }, { "type": "null" }] });
        assert_eq!(said(several), "object or null");
    }

    #[test]
    fn backticks_make_code() {
        assert_eq!(
            words("a `<b>` c").into_string(),
            "a <code>&lt;b&gt;</code> c"
        );
    }
}
