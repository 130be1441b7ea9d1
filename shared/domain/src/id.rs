//! Typed ids. Inside they are UUIDv7 (RFC 9562), so they sort by the time they were made; outside
//! they carry their kind as a prefix: `evt_0193…`, 32 lower-case hexadecimal digits, no hyphens.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The text is not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be \"{prefix}\" followed by 32 hexadecimal digits{}", Other(*.other))]
pub struct ParseIdError {
    prefix: &'static str,
    /// What it looks like instead.
    other: Option<Kind>,
}

/// A prefix, and whose ids have it.
type Kind = (&'static str, &'static str);

/// Every kind of id, for whoever has taken one for another.
const KINDS: [Kind; 6] = [
    (TenantId::PREFIX, "a tenant's"),
    (ApiKeyId::PREFIX, "an API key's"),
    (EndpointId::PREFIX, "an endpoint's"),
    (EventId::PREFIX, "an event's"),
    (DeliveryId::PREFIX, "a delivery's"),
    (AuditId::PREFIX, "an audit entry's"),
];

/// The end of a sentence about an id of the wrong kind.
struct Other(Option<Kind>);

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some((prefix, whose)) => write!(f, "; \"{prefix}…\" is {whose} id"),
            None => Ok(()),
        }
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// What every id of this kind starts with.
            pub const PREFIX: &'static str = $prefix;

            /// A fresh id; its first 48 bits are now, in milliseconds since 1970.
            #[expect(clippy::new_without_default, reason = "an id is made, never a default")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// Takes over an id read from the database.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The id as the database keeps it.
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", Self::PREFIX, self.0.as_simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse(text, Self::PREFIX).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// Who owns keys, endpoints, events and everything that follows from them.
    TenantId, "ten_"
);
id!(
    /// An API key's row. Not the key: that is `zyk_…` and only its hash is kept.
    ApiKeyId, "key_"
);
id!(
    /// A tenant's destination.
    EndpointId, "ep_"
);
id!(
    /// An accepted event. Sent to receivers as `webhook-id`.
    EventId, "evt_"
);
id!(
    /// One event for one endpoint.
    DeliveryId, "dlv_"
);

id!(
    /// An entry of the audit log.
    AuditId, "aud_"
);

impl DeliveryId {
    /// The delivery of `event` to `endpoint`: the same id wherever and however often it is computed,
    /// so a repeated insert is recognised as a repetition.
    ///
    /// The first 48 bits are the event's time, which puts a delivery into the same time partition as
    /// its event; the rest is SHA-256 over both ids, with UUIDv8 version and variant bits
    /// (RFC 9562, section 5.8). `zyven.delivery_id(uuid, uuid)` in SQL computes the same.
    pub fn derive(event: EventId, endpoint: EndpointId) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(event.0.as_bytes());
        hasher.update(endpoint.0.as_bytes());
        let digest = hasher.finalize();
        let mut bytes = [0_u8; 16];
        bytes[..6].copy_from_slice(&event.0.as_bytes()[..6]);
        bytes[6..].copy_from_slice(&digest[..10]);
        bytes[6] = 0x80 | (bytes[6] & 0x0f);
        bytes[8] = 0x80 | (bytes[8] & 0x3f);
        Self(Uuid::from_bytes(bytes))
    }
}

impl EventId {
    /// When the event was accepted, in milliseconds since 1970.
    pub fn timestamp_ms(self) -> u64 {
        let bytes = self.0.as_bytes();
        bytes[..6]
            .iter()
            .fold(0, |ms, byte| (ms << 8) | u64::from(*byte))
    }
}

fn parse(text: &str, prefix: &'static str) -> Result<Uuid, ParseIdError> {
    let refused = || ParseIdError {
        prefix,
        other: KINDS
            .into_iter()
            .find(|(other, _)| *other != prefix && text.starts_with(other)),
    };
    let digits = text.strip_prefix(prefix).ok_or_else(refused)?;
    let well_formed = digits.len() == 32
        && digits
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !well_formed {
        return Err(refused());
    }
    Uuid::try_parse(digits).map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_form() {
        let id = EventId::new();
        assert_eq!(id.to_string().parse::<EventId>(), Ok(id));
        assert!(id.to_string().starts_with("evt_"));
    }

    #[test]
    fn an_id_of_another_kind_or_shape_is_refused() {
        let event = EventId::new().to_string();
        let refusal = event.parse::<EndpointId>().map_err(|rule| rule.to_string());
        let rule = "must be \"ep_\" followed by 32 hexadecimal digits; \"evt_…\" is an event's id";
        assert_eq!(refusal, Err(rule.to_owned()));
        let rule = "must be \"ep_\" followed by 32 hexadecimal digits";
        let refusal = "ep_1".parse::<EndpointId>();
        assert_eq!(
            refusal.map_err(|rule| rule.to_string()),
            Err(rule.to_owned())
        );
        for bad in [
            "",
            "evt_",
            "evt_0193",
            &event.to_uppercase(),
            &format!("{event}0"),
            "evt_{0193}",
        ] {
            assert!(bad.parse::<EventId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_derived_delivery_id_keeps_the_events_time_and_differs_by_endpoint() {
        let (event, one, other) = (EventId::new(), EndpointId::new(), EndpointId::new());
        let delivery = DeliveryId::derive(event, one);
        assert_eq!(delivery, DeliveryId::derive(event, one));
        assert_ne!(delivery, DeliveryId::derive(event, other));
        assert_eq!(
            delivery.uuid().as_bytes()[..6],
            event.uuid().as_bytes()[..6]
        );
        assert_eq!(delivery.uuid().get_version_num(), 8);
    }
}
