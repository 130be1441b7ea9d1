//! CloudEvents in structured mode (CloudEvents 1.0.2, JSON Event Format).
//!
//! The payload is the whole document as it came: nothing of it is lost, and all of it is signed (ADR 0039).
//! `zyven.check_cloud_event` in SQL has the same rules for attributes; a test compares the two.

use std::fmt::Display;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use zyven_domain::event::{
    CHANNELS_MAX, Channel, ContentType, DeliveryOptions, EventType, IdempotencyKey, OrderingKey,
    Source, TraceParent,
};

use super::{Draft, check, sorted};
use crate::fields::{self, Members};

/// The only version there is; 1.0.1 and 1.0.2 call themselves this, too.
const SPECVERSION: &str = "1.0";
/// Longest `id`. The specification has no limit; what identifies an event is short.
pub(crate) const ID_BYTES_MAX: usize = 1_024;

const DELIVER_AT: &str = "zyvendeliverat";
/// From the documented extension "Expiry Time".
const EXPIRES_AT: &str = "expirytime";
const ORDERING_KEY: &str = "zyvenorderingkey";
const CHANNELS: &str = "zyvenchannels";

impl<'a> Draft<'a> {
    /// Reads a CloudEvent. Whether all was right, `members` knows.
    pub(super) fn of_cloud_event(
        text: &'a str,
        members: &mut Members<'a>,
        payload_bytes_max: usize,
    ) -> Option<Self> {
        required(members, "specversion", |version| match version {
            SPECVERSION => Ok(()),
            _ => Err("must be \"1.0\""),
        });
        let id = required(members, "id", |id| match id.len() {
            1..=ID_BYTES_MAX => plain(id).map(|()| id.to_owned()),
            _ => Err("must be 1 to 1024 bytes"),
        });
        let source = required(members, "source", Source::parse);
        let event_type = required(members, "type", EventType::parse_published);
        described(members);
        let traceparent = members.optional("traceparent", TraceParent::parse);
        let options = options(members);
        let channels = members.optional(CHANNELS, channels);
        extensions(members);
        check(members, ("data", "the event"), text, payload_bytes_max);
        let (id, source) = (id?, source?);
        Some(Self {
            event_type: event_type?,
            payload: text,
            content_type: ContentType::CloudEvent,
            channels: sorted(channels.unwrap_or_default()),
            key: Some(key(&source, &id)),
            source: Some(source),
            traceparent,
            options,
        })
    }
}

/// `source` and `id` together identify an event (section 3.1.1 of the specification), so whoever sends
/// both again means the same one.
fn key(source: &Source, id: &str) -> IdempotencyKey {
    // A source has no line feed, so no two pairs are the same text.
    let digest = Sha256::digest(format!("{source}\n{id}"));
    IdempotencyKey::parse(&format!("cloudevents:{}", STANDARD.encode(digest)))
        .expect("Base64 is visible ASCII, and 32 bytes of it are short")
}

/// What is said of data, and data. Nothing of it matters to Zyven beyond being right.
fn described(members: &mut Members<'_>) {
    for name in ["subject", "datacontenttype", "dataschema"] {
        members.optional(name, |text| match text {
            "" => Err("must not be empty"),
            text => plain(text),
        });
    }
    members.optional("time", |text| {
        DateTime::parse_from_rfc3339(text)
            .map(drop)
            .map_err(|_| "must be a time such as 2026-01-31T12:00:00Z")
    });
    let data = members.raw("data");
    let binary = members.optional("data_base64", |text| {
        STANDARD
            .decode(text)
            .map(drop)
            .map_err(|_| "must be Base64, with padding")
    });
    if data.is_some() && binary.is_some() {
        members.mistake("data_base64", "must not be sent beside data");
    }
}

fn options(members: &mut Members<'_>) -> DeliveryOptions {
    let options = DeliveryOptions {
        deliver_at: members.optional(DELIVER_AT, fields::moment),
        expires_at: members.optional(EXPIRES_AT, fields::moment),
        ordering_key: members.optional(ORDERING_KEY, OrderingKey::parse),
    };
    if let Err((option, rule)) = options.check(Utc::now()) {
        let name = match option {
            "deliver_at" => DELIVER_AT,
            "expires_at" => EXPIRES_AT,
            other => other,
        };
        members.mistake(name, rule.0);
    }
    options
}

/// Names between commas; attributes cannot be lists.
fn channels(text: &str) -> Result<Vec<Channel>, String> {
    let channels: Result<Vec<Channel>, _> = text
        .split(',')
        .map(|name| Channel::parse(name.trim()))
        .collect();
    match channels {
        Ok(channels) if channels.len() <= CHANNELS_MAX => Ok(channels),
        Ok(_) => Err(format!("must not have more than {CHANNELS_MAX} names")),
        Err(rule) => Err(format!("is a list with commas, each name of which {rule}")),
    }
}

/// Everything else is an extension: a name of small letters and digits, and a value of one piece
/// (sections 3 and 3.3 of the specification).
fn extensions(members: &mut Members<'_>) {
    for name in members.names() {
        let value = members.raw(&name).map_or("null", RawValue::get);
        let broken = if is_attribute_name(&name) {
            extension(value).err()
        } else {
            Some("must have a name of a-z and 0-9 only, as attributes of CloudEvents do")
        };
        if let Some(rule) = broken {
            let name: String = name.chars().take(128).collect();
            members.mistake(&name, rule);
        }
    }
}

fn is_attribute_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

fn extension(value: &str) -> Result<(), &'static str> {
    if value.starts_with(['{', '[']) {
        return Err("must be a string, a number or a boolean: data is the place for more");
    }
    if value.starts_with('"') {
        let text: String =
            serde_json::from_str(value).map_err(|_| "must be a string without lone surrogates")?;
        plain(&text)?;
    }
    Ok(())
}

/// A member that must be there. Null is not there (JSON Event Format, section 2.2).
fn required<T, E: Display>(
    members: &mut Members<'_>,
    name: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Option<T> {
    let value = members.optional(name, parse);
    if value.is_none() {
        members.missing(name);
    }
    value
}

/// What the type "String" of the specification may hold.
fn plain(text: &str) -> Result<(), &'static str> {
    if text.chars().any(char::is_control) {
        Err("must not have control characters")
    } else {
        Ok(())
    }
}
