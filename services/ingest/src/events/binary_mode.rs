//! CloudEvents in binary mode: attributes in `ce-` headers, data in the body (CloudEvents 1.0.2, HTTP
//! Protocol Binding, section 3.1).
//!
//! Such a request is written down as the same event in structured mode, which is what is stored, signed
//! and sent (ADR 0039). From there on there is one kind of CloudEvent.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode;
use serde_json::json;
use serde_json::value::RawValue;
use zyven_domain::payload;

use crate::body::{self, Format, Received, Room};
use crate::fields;
use crate::problem::{Code, FieldError, Problem};

const PREFIX: &str = "ce-";
const SPECVERSION: HeaderName = HeaderName::from_static("ce-specversion");

/// Names that are no attributes: the body is the data, and `Content-Type` says of what type it is.
const NO_ATTRIBUTES: [&str; 3] = ["data", "data_base64", "datacontenttype"];

/// Whether the headers hold an event, which the binding recognises by what the body is not.
pub(super) fn is_meant(headers: &HeaderMap) -> bool {
    let is_structured = |value: &HeaderValue| {
        let start = value.as_bytes().get(.."application/cloudevents".len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(b"application/cloudevents"))
    };
    headers.contains_key(SPECVERSION) && !headers.get(CONTENT_TYPE).is_some_and(is_structured)
}

/// Writes headers and body down as one document. What the attributes must be is left to its reader.
///
/// # Errors
/// A header that says nothing clear, data that calls itself JSON and is not, or a document of more than
/// `bytes_max` bytes.
pub(super) fn unfold(
    headers: &HeaderMap,
    received: &Received,
    bytes_max: usize,
    room: &Room,
) -> Result<Received, Problem> {
    let mut document = attributes(headers)?;
    let content_type = match headers.get(CONTENT_TYPE) {
        Some(_) => {
            let value = body::only(headers, &CONTENT_TYPE)
                .ok_or_else(|| Problem::one_invalid("Content-Type", "must be sent once"))?;
            let text = value
                .to_str()
                .map_err(|_| Problem::one_invalid("Content-Type", "must be visible ASCII"))?;
            Some(text)
        }
        None => None,
    };
    if let Some(content_type) = content_type {
        member(
            &mut document,
            "datacontenttype",
            &json!(content_type).to_string(),
        );
    }
    if !received.bytes.is_empty() {
        if content_type.is_none_or(is_json) {
            member(&mut document, "data", json_data(received)?);
        } else {
            // Nothing in Base64 needs escaping.
            let data = format!("\"{}\"", STANDARD.encode(&received.bytes));
            member(&mut document, "data_base64", &data);
        }
    }
    document.push('}');
    if document.len() > bytes_max {
        return Err(Problem::new(
            Code::BodyTooLarge,
            format!(
                "The event must not be larger than {bytes_max} bytes in structured mode, where data that is not JSON grows by a third; it is {}.",
                document.len()
            ),
        ));
    }
    document.shrink_to_fit();
    // What is kept from here on is the document, which counts instead of the body.
    let share = room.share(document.len()).ok_or_else(body::no_room)?;
    Ok(Received {
        bytes: Bytes::from(document),
        format: Format::CloudEvent,
        share,
    })
}

/// Where the publisher wrote what stands in the document's member `field`.
pub(super) fn as_sent(error: FieldError) -> FieldError {
    let field = match error.field.as_str() {
        "datacontenttype" => "Content-Type".to_owned(),
        // The body, and what is no attribute: a header has its own name already.
        "data" | "data_base64" => error.field,
        name if name.starts_with(|first: char| first.is_ascii_uppercase()) => error.field,
        name => format!("{PREFIX}{name}"),
    };
    FieldError { field, ..error }
}

/// The body as the member `data`: one JSON value and nothing behind it, so it cannot become two members.
fn json_data(received: &Received) -> Result<&str, Problem> {
    let data = received.text()?;
    serde_json::from_str::<&RawValue>(data).map_err(|error| fields::problem_of(&error))?;
    // Looked at here as well as in the document, as its publisher knows no other lines and columns.
    payload::validate(data.as_bytes())
        .map_err(|error| Problem::one_invalid("data", error.within("the body")))?;
    Ok(data)
}

/// A document that is still open, with every attribute that has a header, in the order of their names:
/// on its way a request's headers may have changed places, and it still is the same event.
fn attributes(headers: &HeaderMap) -> Result<String, Problem> {
    let mut attributes: Vec<(&str, String)> = Vec::new();
    let mut errors: Vec<FieldError> = Vec::new();
    for header in headers.keys() {
        let Some(name) = header.as_str().strip_prefix(PREFIX) else {
            continue;
        };
        let value = if NO_ATTRIBUTES.contains(&name) {
            Err("is no attribute: send data as the body, and its type as Content-Type")
        } else {
            body::only(headers, header)
                .ok_or("must be sent once")
                .and_then(text_of)
        };
        match value {
            Ok(value) => attributes.push((name, value)),
            Err(rule) => errors.push(FieldError {
                field: header.to_string(),
                rule: rule.into(),
            }),
        }
    }
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    attributes.sort_unstable();
    let mut document = String::with_capacity(512);
    document.push('{');
    for (name, value) in attributes {
        member(&mut document, name, &json!(value).to_string());
    }
    Ok(document)
}

/// Appends one member. `name` is part of a header's name, or a constant: nothing in it needs escaping.
fn member(document: &mut String, name: &str, json: &str) {
    if document.len() > 1 {
        document.push(',');
    }
    document.push('"');
    document.push_str(name);
    document.push_str("\":");
    document.push_str(json);
}

/// What a header says (section 3.1.3.2): perhaps in quotes, perhaps percent-encoded UTF-8.
fn text_of(value: &HeaderValue) -> Result<String, &'static str> {
    let text = value
        .to_str()
        .map_err(|_| "must be visible ASCII characters, others percent-encoded")?;
    let quoted = text
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let text = quoted.map_or_else(|| text.to_owned(), unescaped);
    percent_decode(text.as_bytes())
        .decode_utf8()
        .map(String::from)
        .map_err(|_| "must be UTF-8 where it is percent-encoded")
}

/// The inside of a quoted string (RFC 9110, section 5.6.4).
fn unescaped(text: &str) -> String {
    let mut characters = text.chars();
    let mut plain = String::with_capacity(text.len());
    while let Some(character) = characters.next() {
        let next = match character {
            '\\' => characters.next(),
            other => Some(other),
        };
        plain.extend(next);
    }
    plain
}

/// Whether data of this media type is JSON (JSON Event Format, section 3.1).
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default();
    let essence = essence.trim().to_ascii_lowercase();
    essence.ends_with("/json") || essence.ends_with("+json")
}
