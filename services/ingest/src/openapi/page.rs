//! The document as a page for people: no script, nothing from elsewhere, light or dark as the reader's system is.

mod curl;
mod described;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{DOCUMENT, JSON};
use described::{kind, members, paragraphs, words};

const STYLE: &str = include_str!("page/page.css");

/// What the page may do: use its own style, and nothing else.
pub(super) fn policy() -> String {
    let style = STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// The page of a document.
pub(super) fn render(document: &Value) -> String {
    let info = &document["info"];
    let tags = operations_by_tag(document);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (text(&info["title"])) " API" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { "Skip to the operations" }
                (contents(info, &tags))
                main id="main" {
                    header.intro {
                        h1 { (text(&info["title"])) " API" }
                        (paragraphs(text(&info["description"])))
                        p {
                            "The examples take the address and the key from "
                            code { "ZYVEN_API_URL" } " and " code { "ZYVEN_API_KEY" } "."
                        }
                    }
                    @for (tag, operations) in &tags {
                        section.tag {
                            h2 id=(anchor(text(&tag["name"]))) { (text(&tag["name"])) }
                            p { (words(text(&tag["description"]))) }
                            @for operation in operations { (self::operation(document, operation)) }
                        }
                    }
                    (schemas(document))
                }
            }
        }
    };
    page.into_string()
}

/// An operation with its place.
struct Placed<'a> {
    method: String,
    path: &'a str,
    said: &'a Value,
}

fn operations_by_tag(document: &Value) -> Vec<(&Value, Vec<Placed<'_>>)> {
    let tags = document["tags"].as_array().into_iter().flatten();
    let all = || {
        entries(&document["paths"]).flat_map(|(path, methods)| {
            entries(methods).map(move |(method, said)| Placed {
                method: method.to_ascii_uppercase(),
                path,
                said,
            })
        })
    };
    let of_tag = |tag: &Value| {
        all()
            .filter(|one| one.said["tags"][0] == tag["name"])
            .collect()
    };
    tags.map(|tag| (tag, of_tag(tag))).collect()
}

fn contents(info: &Value, tags: &[(&Value, Vec<Placed<'_>>)]) -> Markup {
    html! {
        nav aria-label="Operations" {
            p.title { strong { (text(&info["title"])) } " " (text(&info["version"])) }
            p { a href=(DOCUMENT) { "OpenAPI document" } }
            @for (tag, operations) in tags {
                p.group { a href={ "#" (anchor(text(&tag["name"]))) } { (text(&tag["name"])) } }
                ul {
                    @for operation in operations {
                        li {
                            a href={ "#" (text(&operation.said["operationId"])) } {
                                (method(&operation.method)) " " (text(&operation.said["summary"]))
                            }
                        }
                    }
                }
            }
            p.group { a href="#schemas" { "Schemas" } }
        }
    }
}

fn method(method: &str) -> Markup {
    html! { span.method.(method.to_ascii_lowercase()) { (method) } }
}

fn operation(document: &Value, operation: &Placed<'_>) -> Markup {
    let said = operation.said;
    let id = text(&said["operationId"]);
    html! {
        article.operation id=(id) aria-labelledby={ (id) "-title" } {
            h3 id={ (id) "-title" } { a href={ "#" (id) } { (text(&said["summary"])) } }
            p.route { (method(&operation.method)) " " code { (operation.path) } }
            div.columns {
                div {
                    (paragraphs(text(&said["description"])))
                    (parameters(&said["parameters"]))
                    (body(document, &said["requestBody"]))
                    (answers(document, &said["responses"]))
                }
                div.samples {
                    h4 { "Example" }
                    pre tabindex="0" { code { (curl::command(&operation.method, operation.path, said)) } }
                    (sample(&said["responses"]))
                }
            }
        }
    }
}

fn parameters(parameters: &Value) -> Markup {
    let Some(parameters) = parameters.as_array() else {
        return html! {};
    };
    html! {
        h4 { "Parameters" }
        dl.members {
            @for parameter in parameters {
                div {
                    dt {
                        code.name { (text(&parameter["name"])) }
                        " " span.kind { "in the " (text(&parameter["in"])) ", " (kind(&parameter["schema"])) }
                    }
                    dd { (words(text(&parameter["description"]))) }
                }
            }
        }
    }
}

fn body(document: &Value, body: &Value) -> Markup {
    html! {
        @for (media_type, content) in ways_to_write(body) {
            h4 { "Body" @if body["required"] == false { ", may be left out" } " " code { (media_type) } }
            p { (words(text(&body["description"]))) }
            @let schema = &content["schema"];
            @if schema["type"] == "array" {
                p { (kind(schema)) ". Each item:" }
                (members(document, &schema["items"]))
            } @else if schema["type"] == "object" {
                (members(document, schema))
            } @else {
                p { (words(text(&schema["description"]))) }
            }
        }
    }
}

fn answers(document: &Value, responses: &Value) -> Markup {
    let (good, bad): (Vec<_>, Vec<_>) =
        entries(responses).partition(|(status, _)| status.starts_with('2'));
    html! {
        h4 { "Answers" }
        dl.members {
            @for (status, answer) in good {
                div {
                    dt {
                        code.name { (status) }
                        @for (_, content) in entries(&answer["content"]) { " " span.kind { (kind(&content["schema"])) } }
                    }
                    dd { (words(text(&answer["description"]))) }
                }
            }
        }
        details {
            summary { "Problems" }
            dl.members {
                @for (status, answer) in bad {
                    div {
                        dt { code.name { (status) } }
                        dd { (words(text(&resolved(document, answer)["description"]))) }
                    }
                }
            }
        }
    }
}

/// What the first happy end looks like.
fn sample(responses: &Value) -> Markup {
    let answers = entries(responses).filter(|(status, _)| status.starts_with('2'));
    let mut bodies = answers.flat_map(|(status, answer)| {
        entries(&answer["content"]).map(move |(_, content)| (status, &content["example"]))
    });
    html! {
        @if let Some((status, example)) = bodies.next() {
            h4 { "Answer " code { (status) } }
            pre tabindex="0" { code { (pretty(example)) } }
        }
    }
}

fn schemas(document: &Value) -> Markup {
    html! {
        section.tag {
            h2 id="schemas" { "Schemas" }
            @for (name, schema) in entries(&document["components"]["schemas"]) {
                article.schema id={ "schema-" (name) } {
                    h3 { code { (name) } }
                    p { (words(text(&schema["description"]))) }
                    @if schema["type"] == "object" {
                        (members(document, schema))
                    } @else {
                        p.kind { (kind(schema)) }
                    }
                }
            }
        }
    }
}

/// What a reference leads to, or the value itself.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let place = value["$ref"]
        .as_str()
        .and_then(|place| place.strip_prefix('#'));
    place
        .and_then(|place| document.pointer(place))
        .unwrap_or(value)
}

/// The ways in which a body may be written, the usual one first.
fn ways_to_write(body: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let mut ways: Vec<_> = entries(&body["content"]).collect();
    ways.sort_by_key(|(media_type, _)| *media_type != JSON);
    ways.into_iter()
}

fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let members = value.as_object().into_iter().flat_map(Map::iter);
    members.map(|(name, member)| (name.as_str(), member))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn pretty(value: &Value) -> String {
    format!("{value:#}")
}

fn anchor(words: &str) -> String {
    words.to_ascii_lowercase().replace(' ', "-")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_document_says_is_text_and_never_markup() {
        let hostile = "</style><script>alert(1)</script>\"'`<b>`";
        let document = json!({
            "info": { "title": hostile, "description": hostile },
            "tags": [{ "name": hostile, "description": hostile }],
            "paths": { hostile: { "get": {
                "tags": [hostile], "operationId": hostile, "summary": hostile, "description": hostile,
                "parameters": [{ "name": hostile, "in": hostile, "description": hostile, "schema": { "type": hostile, "pattern": hostile } }],
                "requestBody": { "content": { hostile: { "schema": { "type": "object", "properties": { hostile: { "type": hostile, "enum": [hostile] } } } } } },
                "responses": { "200": { "description": hostile, "content": { hostile: { "example": hostile } } } },
            } } },
            "components": { "schemas": { hostile: { "type": "object", "description": hostile } } },
        });
        let page = render(&document);
        assert!(page.contains("&lt;script&gt;"), "{page}");
        assert!(!page.contains("<script") && !page.contains("<b>"), "{page}");
        assert_eq!(page.matches("</style>").count(), 1, "{page}");
    }
}
