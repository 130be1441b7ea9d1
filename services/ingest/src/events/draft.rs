//! One event as it was sent, checked but not yet anybody's.

mod cloud_event;

pub(super) use cloud_event::ID_BYTES_MAX as CLOUD_EVENT_ID_BYTES_MAX;

use bytes::Bytes;
use chrono::Utc;
use serde_json::value::RawValue;
use zyven_domain::event::{
    CHANNELS_MAX, Channel, ContentType, DeliveryOptions, EventType, IdempotencyKey, OrderingKey,
    Source, TraceParent, body_fingerprint, key_fingerprint,
};
use zyven_domain::id::{EventId, TenantId};
use zyven_domain::payload;
use zyven_store::{Idempotency, NewEvent};

use crate::body::Format;
use crate::fields::{self, Members};

/// What is said of a CloudEvent that was sent as an event of Zyven's own form.
const CLOUD_EVENT_AS_JSON: &str = "is a member of CloudEvents: send one with the content type application/cloudevents+json, or several as an array with application/cloudevents-batch+json";

/// The members of an event. The payload is still the publisher's text.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    event_type: EventType,
    payload: &'a str,
    content_type: ContentType,
    channels: Vec<Channel>,
    source: Option<Source>,
    traceparent: Option<TraceParent>,
    options: DeliveryOptions,
    pub(super) key: Option<IdempotencyKey>,
}

impl<'a> Draft<'a> {
    /// Reads an event that is all of `text`, which has these `members`. Whether all was right, they know.
    pub(super) fn read(
        format: Format,
        text: &'a str,
        members: &mut Members<'a>,
        payload_bytes_max: usize,
    ) -> Option<Self> {
        match format {
            Format::Json | Format::Lines => Self::of_members(members, payload_bytes_max),
            Format::CloudEvent | Format::CloudEvents | Format::Data => {
                Self::of_cloud_event(text, members, payload_bytes_max)
            }
        }
    }

    fn of_members(members: &mut Members<'a>, payload_bytes_max: usize) -> Option<Self> {
        if members.has("specversion") {
            // One word about what it is, rather than one about each of its attributes.
            members.forget();
            members.mistake("specversion", CLOUD_EVENT_AS_JSON);
            return None;
        }
        let event_type = members.required("type", EventType::parse_published);
        let payload = members.raw("payload").map(RawValue::get);
        match payload {
            Some(payload) => check(
                members,
                ("payload", "the payload"),
                payload,
                payload_bytes_max,
            ),
            None => members.missing("payload"),
        }
        let channels = match members.take_null("channels") {
            true => None,
            false => members.texts("channels", 0..=CHANNELS_MAX, Channel::parse),
        };
        let source = members.optional("source", Source::parse);
        let traceparent = members.optional("traceparent", TraceParent::parse);
        let options = DeliveryOptions {
            deliver_at: members.optional("deliver_at", fields::moment),
            expires_at: members.optional("expires_at", fields::moment),
            ordering_key: members.optional("ordering_key", OrderingKey::parse),
        };
        if let Err((option, rule)) = options.check(Utc::now()) {
            members.mistake(option, rule.0);
        }
        let key = members.optional("idempotency_key", IdempotencyKey::parse);
        Some(Self {
            event_type: event_type?,
            payload: payload?,
            content_type: ContentType::Json,
            channels: sorted(channels.unwrap_or_default()),
            source,
            traceparent,
            options,
            key,
        })
    }

    /// Makes the event. `body` must be the bytes that the payload was found in; they are shared, not
    /// copied. The event's own trace has precedence over that of its request.
    pub(super) fn into_event(
        self,
        tenant: TenantId,
        body: &Bytes,
        request_trace: Option<&TraceParent>,
    ) -> NewEvent {
        let payload = body.slice_ref(self.payload.as_bytes());
        let idempotency = self.key.map(|key| Idempotency {
            key: key_fingerprint(tenant, &key),
            body: body_fingerprint(
                &self.event_type,
                &self.channels,
                self.source.as_ref(),
                &self.options,
                &payload,
            ),
        });
        NewEvent {
            id: EventId::new(),
            tenant_id: tenant,
            event_type: self.event_type,
            payload,
            content_type: self.content_type,
            channels: self.channels,
            source: self.source,
            traceparent: self.traceparent.or_else(|| request_trace.cloned()),
            options: self.options,
            idempotency,
        }
    }
}

fn sorted(mut channels: Vec<Channel>) -> Vec<Channel> {
    channels.sort_unstable();
    channels.dedup();
    channels
}

/// Records what is wrong with a payload as a mistake of the member `name`. `whole` is what lines and columns are those of.
fn check(members: &mut Members<'_>, (name, whole): (&str, &str), payload: &str, bytes_max: usize) {
    if payload.len() > bytes_max {
        members.mistake(name, format!("must not be larger than {bytes_max} bytes"));
    } else if let Err(error) = payload::validate(payload.as_bytes()) {
        members.mistake(name, error.within(whole));
    }
}
