//! What a publisher may ask of an event's delivery: not before, not after, in this order.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};

use super::RuleBroken;

/// Longest ordering key, in bytes.
pub const ORDERING_KEY_BYTES_MAX: usize = 128;
/// How far ahead an event may be accepted. The payload is kept for as long as a delivery waits,
/// whatever the retention; this bounds how long that is.
pub const DELIVER_AHEAD_MAX: TimeDelta = TimeDelta::days(30);

bounded_text!(
    /// Events of one key reach an endpoint one after the other, in the order of their acceptance.
    OrderingKey,
    "must be 1 to 128 visible ASCII characters",
    |text| {
        (1..=ORDERING_KEY_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic())
    }
);

impl OrderingKey {
    /// What the outbox keeps of it: 63 bits of SHA-256, never 0, which means "no key". Two keys with
    /// one number share their order, which harms neither. `zyven.ordering_number(text)` in SQL
    /// computes the same.
    pub fn number(&self) -> i64 {
        let digest = Sha256::digest(self.0.as_bytes());
        let mut first = [0_u8; 8];
        first.copy_from_slice(&digest[..8]);
        (i64::from_be_bytes(first) & i64::MAX).max(1)
    }
}

/// The options of one event. The default asks for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryOptions {
    /// No attempt begins earlier. A moment that has passed is no wish: a request that is repeated
    /// after it must still find its event.
    pub deliver_at: Option<DateTime<Utc>>,
    /// No attempt begins later; the delivery becomes a dead letter instead.
    pub expires_at: Option<DateTime<Utc>>,
    /// See [`OrderingKey`].
    pub ordering_key: Option<OrderingKey>,
}

impl DeliveryOptions {
    /// The first broken rule with the name of its option, for an event that is accepted at `now`.
    ///
    /// # Errors
    /// Name and rule, as a sentence to show to whoever sent the event.
    pub fn check(&self, now: DateTime<Utc>) -> Result<(), (&'static str, RuleBroken)> {
        let broken = |option, rule| Err((option, RuleBroken(rule)));
        if self
            .deliver_at
            .is_some_and(|at| at > now + DELIVER_AHEAD_MAX)
        {
            return broken("deliver_at", "must be at most 30 days ahead");
        }
        if self.deliver_at.is_some() && self.ordering_key.is_some() {
            return broken(
                "deliver_at",
                "does not go together with ordering_key: an event that waits would hold up all that follow it",
            );
        }
        let earliest = self.deliver_at.map_or(now, |at| at.max(now));
        if self.expires_at.is_some_and(|at| at <= earliest) {
            return broken(
                "expires_at",
                "must be in the future, and after deliver_at if there is one",
            );
        }
        Ok(())
    }

    /// Part of an event's fingerprint: one line, or nothing if nothing is asked for. It begins with a
    /// character that no JSON text begins with, so it cannot be taken for part of a payload.
    pub(super) fn fingerprint_line(&self) -> String {
        if *self == Self::default() {
            return String::new();
        }
        let us = |moment: Option<DateTime<Utc>>| {
            moment.map_or(String::new(), |at| at.timestamp_micros().to_string())
        };
        format!(
            "@{},{},{}\n",
            us(self.deliver_at),
            us(self.expires_at),
            self.ordering_key.as_ref().map_or("", OrderingKey::as_str),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> OrderingKey {
        OrderingKey::parse(text).unwrap_or_else(|rule| panic!("{text}: {rule}"))
    }

    #[test]
    fn ordering_keys_are_bounded_and_visible() {
        for good in ["a", "customer/17", &"x".repeat(128)] {
            assert!(OrderingKey::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "ä", "a\n", &"x".repeat(129)] {
            assert!(OrderingKey::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_keys_number_is_positive_and_its_own() {
        let numbers: Vec<i64> = (0..1_000).map(|n| key(&format!("k{n}")).number()).collect();
        assert!(numbers.iter().all(|number| *number > 0));
        let mut distinct = numbers.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), numbers.len());
    }

    #[test]
    fn options_are_checked_against_each_other_and_the_moment() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("a moment");
        let at = |offset_s: i64| Some(now + TimeDelta::seconds(offset_s));
        let month = DELIVER_AHEAD_MAX.num_seconds();
        let asked = |deliver_at, expires_at, ordered: bool| {
            let options = DeliveryOptions {
                deliver_at,
                expires_at,
                ordering_key: ordered.then(|| key("k")),
            };
            options.check(now).map_err(|(option, _)| option)
        };
        assert_eq!(asked(None, None, true), Ok(()));
        assert_eq!(asked(at(-1), None, false), Ok(()), "a moment that passed");
        assert_eq!(asked(at(month), None, false), Ok(()));
        assert_eq!(asked(at(month + 1), None, false), Err("deliver_at"));
        assert_eq!(asked(at(1), None, true), Err("deliver_at"));
        assert_eq!(asked(None, at(1), true), Ok(()));
        assert_eq!(asked(None, at(0), false), Err("expires_at"));
        assert_eq!(asked(at(10), at(11), false), Ok(()));
        assert_eq!(asked(at(10), at(10), false), Err("expires_at"));
        assert_eq!(asked(at(-10), at(0), false), Err("expires_at"));
        assert_eq!(asked(at(-10), at(1), false), Ok(()));
    }

    #[test]
    fn each_option_has_its_place_in_the_line() {
        assert_eq!(DeliveryOptions::default().fingerprint_line(), "");
        let moment = DateTime::from_timestamp_micros(17);
        let line = |options: DeliveryOptions| options.fingerprint_line();
        let nothing = DeliveryOptions::default;
        assert_eq!(
            line(DeliveryOptions {
                deliver_at: moment,
                ..nothing()
            }),
            "@17,,\n"
        );
        assert_eq!(
            line(DeliveryOptions {
                expires_at: moment,
                ..nothing()
            }),
            "@,17,\n"
        );
        let ordering_key = Some(key("a,b"));
        assert_eq!(
            line(DeliveryOptions {
                ordering_key,
                ..nothing()
            }),
            "@,,a,b\n"
        );
    }
}
