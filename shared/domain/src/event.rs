//! The bounded strings an event is described with, and the patterns endpoints subscribe by.

use std::fmt;

use sha2::{Digest, Sha256};

/// Longest event type, in bytes.
pub const EVENT_TYPE_BYTES_MAX: usize = 128;
/// Longest channel, in bytes.
pub const CHANNEL_BYTES_MAX: usize = 128;
/// What the types of Zyven's own events begin with: see [`EventType::is_operational`].
pub const OPERATIONAL_PREFIX: &str = "zyven.";
/// Most channels of one event or endpoint.
pub const CHANNELS_MAX: usize = 10;
/// Most patterns of one endpoint.
pub const PATTERNS_MAX: usize = 100;
/// Longest idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// Longest source, in bytes.
pub const SOURCE_BYTES_MAX: usize = 255;

/// A text breaks the rule of the field it was given for. Displays as the rule, without the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RuleBroken(pub &'static str);

macro_rules! bounded_text {
    ($(#[$doc:meta])* $name:ident, $rule:literal, $accepts:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// Takes `text` if it keeps the rule.
            ///
            /// # Errors
            /// The rule, as a sentence to show to whoever sent the text.
            pub fn parse(text: &str) -> Result<Self, RuleBroken> {
                let accepts: fn(&str) -> bool = $accepts;
                if accepts(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(RuleBroken($rule))
                }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

bounded_text!(
    /// What kind of fact an event is, for example `invoice.paid`.
    EventType,
    "must be 1 to 128 characters of a-z, A-Z, 0-9, underscore, full stop and hyphen",
    |text| is_name(text, EVENT_TYPE_BYTES_MAX)
);
bounded_text!(
    /// A label that narrows who gets an event: an endpoint with channels gets only events that carry
    /// at least one of them.
    Channel,
    "must be 1 to 128 characters of a-z, A-Z, 0-9, underscore, full stop and hyphen",
    |text| is_name(text, CHANNEL_BYTES_MAX)
);
bounded_text!(
    /// A publisher's own name for a request, so that a repetition is recognised.
    IdempotencyKey,
    "must be 1 to 255 visible ASCII characters",
    |text| {
        (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic())
    }
);
bounded_text!(
    /// Where an event comes from, in the publisher's words (a CloudEvents `source` fits).
    Source,
    "must be 1 to 255 visible ASCII characters",
    |text| {
        (1..=SOURCE_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic())
    }
);
bounded_text!(
    /// A W3C Trace Context `traceparent` of version 00.
    TraceParent,
    "must be a W3C traceparent of version 00, such as 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    is_trace_parent
);
bounded_text!(
    /// What an endpoint subscribes to: an event type, `prefix.*` for everything below a prefix, or `*`
    /// for everything.
    Pattern,
    "must be an event type, a prefix followed by \".*\", or \"*\"",
    |text| {
        text == "*" || is_name(text.strip_suffix(".*").unwrap_or(text), EVENT_TYPE_BYTES_MAX - 2)
    }
);

mod content_type;
mod options;

pub use content_type::{ContentType, ParseContentTypeError};
pub use options::{DELIVER_AHEAD_MAX, DeliveryOptions, ORDERING_KEY_BYTES_MAX, OrderingKey};

/// The types of operational events, and that of test events; a test of the store holds them against SQL.
pub const OPERATIONAL_TYPES: [&str; 4] = [
    "zyven.delivery.dead_lettered",
    "zyven.endpoint.breaker_opened",
    "zyven.endpoint.disabled",
    "zyven.test",
];

impl Pattern {
    /// Takes `text` if an endpoint may subscribe to it: nobody but Zyven makes operational events, so a pattern for them that none
    /// of their types fits is a mistake.
    ///
    /// # Errors
    /// The rule, as a sentence to show to whoever sent the text.
    pub fn parse_subscribed(text: &str) -> Result<Self, RuleBroken> {
        let pattern = Self::parse(text)?;
        let fits = |own: &str| {
            EventType::parse(own).is_ok_and(|own| own.patterns().iter().any(|one| one == text))
        };
        if text.starts_with(OPERATIONAL_PREFIX) && !OPERATIONAL_TYPES.into_iter().any(fits) {
            return Err(RuleBroken(
                "must fit an operational event: zyven.delivery.dead_lettered, zyven.endpoint.disabled or zyven.endpoint.breaker_opened",
            ));
        }
        Ok(pattern)
    }
}

impl EventType {
    /// Takes `text` if a publisher may give it to an event.
    ///
    /// # Errors
    /// The rule, as a sentence to show to whoever sent the text.
    pub fn parse_published(text: &str) -> Result<Self, RuleBroken> {
        let event_type = Self::parse(text)?;
        if event_type.is_operational() {
            return Err(RuleBroken(
                "must not begin with \"zyven.\": such types are Zyven's own",
            ));
        }
        Ok(event_type)
    }

    /// Whether only Zyven makes events of this type: what befalls deliveries and endpoints, and test events.
    /// `zyven.is_operational(text)` in SQL computes the same.
    pub fn is_operational(&self) -> bool {
        self.0.starts_with(OPERATIONAL_PREFIX)
    }

    /// Every pattern that matches this type: the type itself, each of its prefixes with `.*`, and
    /// `*`, which does not stand for [operational](Self::is_operational) types: whoever takes everything has not
    /// asked for those. `zyven.patterns_of(text)` in SQL computes the same.
    pub fn patterns(&self) -> Vec<String> {
        let mut patterns = vec![self.0.clone()];
        let stops = self.0.bytes().enumerate().filter(|(_, b)| *b == b'.');
        for (stop, _) in stops {
            // A leading full stop has no prefix before it; a pattern never starts with ".*".
            if stop > 0 && stop + 1 < self.0.len() {
                patterns.push(format!("{}.*", &self.0[..stop]));
            }
        }
        if !self.is_operational() {
            patterns.push("*".to_owned());
        }
        patterns
    }
}

/// 128 bits of SHA-256: what the database keeps instead of a key or a body. Cut in half because it
/// is indexed for every event; to make two of one's own requests collide still takes 2^64 attempts,
/// and nobody else's can be made to (the tenant is part of the hash).
pub type Fingerprint = uuid::Uuid;

/// The fingerprint under which an idempotency key of a tenant is stored.
/// `zyven.key_fingerprint(uuid, text)` in SQL computes the same.
pub fn key_fingerprint(tenant: crate::id::TenantId, key: &IdempotencyKey) -> Fingerprint {
    fingerprint(&[tenant.uuid().as_bytes(), key.0.as_bytes()])
}

/// The fingerprint of what a request says, for telling a repetition from a different event under the
/// same key. `channels` must be sorted. None of the texts before the payload can contain a line feed,
/// so the concatenation is unambiguous. `zyven.body_fingerprint(…)` in SQL computes the same.
pub fn body_fingerprint(
    event_type: &EventType,
    channels: &[Channel],
    source: Option<&Source>,
    options: &DeliveryOptions,
    payload: &[u8],
) -> Fingerprint {
    let channels: Vec<&str> = channels.iter().map(Channel::as_str).collect();
    fingerprint(&[
        event_type.0.as_bytes(),
        b"\n",
        channels.join(",").as_bytes(),
        b"\n",
        source.map_or("", Source::as_str).as_bytes(),
        b"\n",
        options.fingerprint_line().as_bytes(),
        payload,
    ])
}

fn fingerprint(parts: &[&[u8]]) -> Fingerprint {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    let digest = hasher.finalize();
    let mut half = [0_u8; 16];
    half.copy_from_slice(&digest[..16]);
    uuid::Uuid::from_bytes(half)
}

fn is_name(text: &str, bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

fn is_trace_parent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &str, length| {
        part.len() == length
            && part
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let set = |part: &str| part.bytes().any(|byte| byte != b'0');
    matches!(parts.as_slice(), ["00", trace, parent, flags]
        if hex(trace, 32) && set(trace) && hex(parent, 16) && set(parent) && hex(flags, 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_types_are_bounded_and_plain() {
        for good in ["a", "invoice.paid", "A_b-9.c", &"x".repeat(128)] {
            assert!(EventType::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a\n", "ä", "a*", "a/b", &"x".repeat(129)] {
            assert!(EventType::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn patterns_are_exact_prefix_or_all() {
        for good in ["*", "invoice.*", "invoice.paid", "a.b.*"] {
            assert!(Pattern::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "**", ".*", "inv*", "*.paid", "a.*.b", "a.**"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pattern_for_operational_events_fits_one_of_them() {
        for good in [
            "*",
            "a.*",
            "zyven.*",
            "zyven.endpoint.*",
            "zyven.endpoint.disabled",
        ] {
            assert!(Pattern::parse_subscribed(good).is_ok(), "{good}");
        }
        for bad in [
            "zyven.endpoint.dissabled",
            "zyven.endpoints.*",
            "zyven.endpoint",
            "**",
        ] {
            assert!(Pattern::parse_subscribed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn types_of_zyvens_own_are_not_for_publishers() {
        for own in ["zyven.", "zyven.test", "zyven.endpoint.disabled"] {
            assert!(EventType::parse(own).is_ok_and(|own| own.is_operational()));
            assert!(EventType::parse_published(own).is_err(), "{own}");
        }
        for theirs in ["zyven", "zyvenish.a", "Zyven.a", "a.zyven.b"] {
            assert!(EventType::parse_published(theirs).is_ok(), "{theirs}");
        }
    }

    #[test]
    fn a_type_names_every_pattern_that_matches_it() {
        let patterns = |text: &str| EventType::parse(text).map(|t| t.patterns());
        let expect = |text: &str, expected: &[&str]| {
            let expected: Vec<String> = expected.iter().map(|&e| e.to_owned()).collect();
            assert_eq!(patterns(text), Ok(expected), "{text}");
        };
        expect("a", &["a", "*"]);
        expect("zyven.a.b", &["zyven.a.b", "zyven.*", "zyven.a.*"]);
        expect("a.b.c", &["a.b.c", "a.*", "a.b.*", "*"]);
        expect(".a.", &[".a.", "*"]);
    }

    #[test]
    fn fingerprints_differ_where_the_event_differs() {
        let kind = |text| EventType::parse(text).unwrap_or_else(|e| panic!("{e}"));
        let source = Source::parse("erp").ok();
        let none = DeliveryOptions::default();
        let ordered = DeliveryOptions {
            ordering_key: OrderingKey::parse("k").ok(),
            ..DeliveryOptions::default()
        };
        let base = body_fingerprint(&kind("a"), &[], None, &none, b"{}");
        for (same, event_type, source, options, payload) in [
            (true, "a", None, &none, &b"{}"[..]),
            (false, "b", None, &none, b"{}"),
            (false, "a", None, &none, b"{ }"),
            (false, "a", source.as_ref(), &none, b"{}"),
            (false, "a", None, &ordered, b"{}"),
        ] {
            let other = body_fingerprint(&kind(event_type), &[], source, options, payload);
            assert_eq!(base == other, same, "{event_type} {source:?} {options:?}");
        }
    }

    #[test]
    fn a_traceparent_is_checked_to_the_letter() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(TraceParent::parse(good).is_ok());
        for bad in [
            &good[1..],
            &good.replace("00-0", "01-0"),
            &good.to_uppercase(),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            &format!("{good}-x"),
        ] {
            assert!(TraceParent::parse(bad).is_err(), "{bad}");
        }
    }
}
