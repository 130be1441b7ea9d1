//! One event as it was sent, checked but not yet anybody's.

use bytes::Bytes;
use chrono::Utc;
use serde_json::value::RawValue;
use zyven_domain::event::{
    CHANNELS_MAX, Channel, DeliveryOptions, EventType, IdempotencyKey, OrderingKey, Source,
    TraceParent, body_fingerprint, key_fingerprint,
};
use zyven_domain::id::{EventId, TenantId};
use zyven_domain::payload;
use zyven_store::{Idempotency, NewEvent};

use crate::fields::{self, Members};

/// The members of an event. The payload is still the publisher's text.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    event_type: EventType,
    payload: &'a RawValue,
    channels: Vec<Channel>,
    source: Option<Source>,
    traceparent: Option<TraceParent>,
    options: DeliveryOptions,
    pub(super) key: Option<IdempotencyKey>,
}

impl<'a> Draft<'a> {
    /// Reads every member an event can have. Whether all was right, `members` knows.
    pub(super) fn read(members: &mut Members<'a>, payload_bytes_max: usize) -> Option<Self> {
        let event_type = members.text("type", EventType::parse);
        if event_type.is_none() {
            members.missing("type");
        }
        let payload = members.raw("payload");
        match payload {
            Some(payload) => check(members, payload, payload_bytes_max),
            None => members.missing("payload"),
        }
        let channels = members.texts("channels", 0..=CHANNELS_MAX, Channel::parse);
        let source = members.text("source", Source::parse);
        let traceparent = members.text("traceparent", TraceParent::parse);
        let options = options(members);
        let key = members.text("idempotency_key", IdempotencyKey::parse);
        let mut channels = channels.unwrap_or_default();
        channels.sort_unstable();
        channels.dedup();
        Some(Self {
            event_type: event_type?,
            payload: payload?,
            channels,
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
        let payload = body.slice_ref(self.payload.get().as_bytes());
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
            channels: self.channels,
            source: self.source,
            traceparent: self.traceparent.or_else(|| request_trace.cloned()),
            options: self.options,
            idempotency,
        }
    }
}

fn options(members: &mut Members<'_>) -> DeliveryOptions {
    let options = DeliveryOptions {
        deliver_at: members.text("deliver_at", fields::moment),
        expires_at: members.text("expires_at", fields::moment),
        ordering_key: members.text("ordering_key", OrderingKey::parse),
    };
    if let Err((option, rule)) = options.check(Utc::now()) {
        members.mistake(option, rule.0);
    }
    options
}

fn check(members: &mut Members<'_>, payload: &RawValue, bytes_max: usize) {
    let text = payload.get();
    if text.len() > bytes_max {
        members.mistake(
            "payload",
            format!("must not be larger than {bytes_max} bytes"),
        );
    } else if let Err(error) = payload::validate(text.as_bytes()) {
        members.mistake("payload", error.to_string());
    }
}
