//! The events: built once, then copied with another number in the right place.
//!
//! Each payload carries its *sequence* (which event of a phase it is) and the phase's *tag*. So a
//! receiver knows what every byte must be, and comparing is cheaper than a checksum.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

/// Digits of a sequence.
const SEQUENCE_DIGITS: usize = 12;
const SEQUENCE_END: &str = "000000000000";
const BEFORE_SEQUENCE: &str = r#"{"sequence":""#;
const BEFORE_TAG: &str = r#"", "tag":""#;
/// An unusual but valid spelling: whoever parses and prints a payload on its way betrays himself.
const BEFORE_TEXT: &str = r#"",  "amount": 1.50, "name": "Z\u00fcrich/\/Zürich", "text":""#;
const AFTER_TEXT: &str = "\"}";
const TAG_DIGITS: usize = 16;
/// Where the digits of the sequence stand in a payload.
const SEQUENCE_AT: usize = BEFORE_SEQUENCE.len();
const TAG_AT: usize = SEQUENCE_AT + SEQUENCE_DIGITS + BEFORE_TAG.len();

/// The smallest payload there is room in for what must be in it.
pub(super) const PAYLOAD_BYTES_MIN: usize = 128;

/// Tells one phase of one run from every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag(u64);

/// Makes every event of a phase, and recognises it when it comes back.
pub(super) struct Template {
    tag: String,
    event_type: String,
    payload: Vec<u8>,
    idempotency_keys: bool,
}

/// What a request's body turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// The payload of this event, byte for byte.
    Event { sequence: u64 },
    /// An event of another phase.
    Stray,
    /// Not what was sent.
    Altered,
}

impl Tag {
    /// One that no earlier run has used: the time in microseconds.
    pub(super) fn of_this_moment() -> Self {
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self(u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX))
    }
}

impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Template {
    /// Payloads have exactly `payload_bytes`, at least [`PAYLOAD_BYTES_MIN`].
    pub(super) fn new(
        tag: Tag,
        event_type: &str,
        payload_bytes: usize,
        idempotency_keys: bool,
    ) -> Self {
        let tag = tag.to_string();
        let mut payload = [BEFORE_SEQUENCE, SEQUENCE_END, BEFORE_TAG, &tag, BEFORE_TEXT]
            .concat()
            .into_bytes();
        let text_bytes = payload_bytes.saturating_sub(payload.len() + AFTER_TEXT.len());
        payload.extend(filler().take(text_bytes));
        payload.extend_from_slice(AFTER_TEXT.as_bytes());
        Self {
            tag,
            event_type: event_type.to_owned(),
            payload,
            idempotency_keys,
        }
    }

    /// The body of a request for one event.
    pub(super) fn event(&self, sequence: u64) -> Bytes {
        let mut body = Vec::with_capacity(self.payload.len() + self.event_type.len() + 64);
        self.write_event(&mut body, sequence, false);
        body.into()
    }

    /// The body of a batch: `count` events from `first` on.
    pub(super) fn batch(&self, first: u64, count: usize) -> Bytes {
        let event_bytes = self.payload.len() + self.event_type.len() + 128;
        let mut body = Vec::with_capacity(count * event_bytes);
        body.push(b'[');
        for sequence in (first..).take(count) {
            if sequence > first {
                body.push(b',');
            }
            self.write_event(&mut body, sequence, self.idempotency_keys);
        }
        body.push(b']');
        body.into()
    }

    /// The idempotency key of an event, if it has one.
    pub(super) fn idempotency_key(&self, sequence: u64) -> Option<String> {
        self.idempotency_keys
            .then(|| format!("bench-{}-{sequence}", self.tag))
    }

    fn write_event(&self, body: &mut Vec<u8>, sequence: u64, with_key: bool) {
        body.extend_from_slice(br#"{"type":""#);
        body.extend_from_slice(self.event_type.as_bytes());
        if let Some(key) = self.idempotency_key(sequence).filter(|_| with_key) {
            body.extend_from_slice(br#"","idempotency_key":""#);
            body.extend_from_slice(key.as_bytes());
        }
        body.extend_from_slice(br#"","payload":"#);
        let payload_at = body.len();
        body.extend_from_slice(&self.payload);
        body.push(b'}');
        write_digits(
            &mut body[payload_at + SEQUENCE_AT..][..SEQUENCE_DIGITS],
            sequence,
        );
    }

    /// Compares every byte.
    pub(super) fn recognise(&self, body: &[u8]) -> Seen {
        let tag = TAG_AT..TAG_AT + TAG_DIGITS;
        match body.get(tag.clone()) {
            None => return Seen::Altered,
            Some(other) if other != &self.payload[tag] => {
                let is_tag = other.iter().all(u8::is_ascii_hexdigit);
                return if is_tag { Seen::Stray } else { Seen::Altered };
            }
            Some(_) => {}
        }
        let digits = &body[SEQUENCE_AT..][..SEQUENCE_DIGITS];
        let after = SEQUENCE_AT + SEQUENCE_DIGITS;
        let is_same = body[..SEQUENCE_AT] == self.payload[..SEQUENCE_AT]
            && body[after..] == self.payload[after..];
        match read_digits(digits) {
            Some(sequence) if is_same => Seen::Event { sequence },
            _ => Seen::Altered,
        }
    }
}

fn write_digits(place: &mut [u8], number: u64) {
    let mut rest = number;
    for digit in place.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).expect("a digit");
        rest /= 10;
    }
}

fn read_digits(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number: u64, digit| {
        digit
            .is_ascii_digit()
            .then(|| number * 10 + u64::from(digit - b'0'))
    })
}

/// Words without end, always the same, which a compressor finds about as dull as real payloads.
fn filler() -> impl Iterator<Item = u8> {
    const WORDS: [&str; 16] = [
        "invoice",
        "customer",
        "paid",
        "2026-01-17",
        "EUR",
        "4200",
        "pending",
        "shipment",
        "address",
        "street",
        "order",
        "total",
        "true",
        "description",
        "quantity",
        "reference",
    ];
    let mut state: u64 = 0x5a59_5645_4e00_0001;
    std::iter::from_fn(move || {
        // Knuth's linear congruential generator; its upper bits are good enough for prose.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let word = WORDS[usize::try_from(state >> 60).expect("below 16")];
        let number = (state >> 40) & 0xffff;
        Some(format!("{word} {number:x} "))
    })
    .flat_map(String::into_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(payload_bytes: usize) -> Template {
        Template::new(Tag(7), "bench.test", payload_bytes, true)
    }

    fn payload_of(event: &serde_json::Value, body: &[u8]) -> Vec<u8> {
        assert_eq!(event["type"], "bench.test");
        let start = body
            .windows(BEFORE_SEQUENCE.len())
            .position(|window| window == BEFORE_SEQUENCE.as_bytes())
            .expect("a payload");
        body[start..body.len() - 1].to_vec()
    }

    #[test]
    fn payloads_are_valid_json_of_the_size_that_was_asked_for() {
        for payload_bytes in [PAYLOAD_BYTES_MIN, 1_024, 65_536] {
            let body = template(payload_bytes).event(123_456_789_012);
            let event: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(event["payload"]["sequence"], "123456789012");
            assert_eq!(payload_of(&event, &body).len(), payload_bytes);
        }
    }

    #[test]
    fn what_comes_back_is_recognised_and_what_was_changed_is_not() {
        let template = template(256);
        let body = template.event(42);
        let payload = payload_of(&serde_json::from_slice(&body).expect("JSON"), &body);
        assert_eq!(template.recognise(&payload), Seen::Event { sequence: 42 });
        for at in 0..payload.len() {
            let mut changed = payload.clone();
            changed[at] ^= 0x40;
            assert_ne!(
                template.recognise(&changed),
                Seen::Event { sequence: 42 },
                "byte {at}"
            );
        }
        assert_eq!(
            template.recognise(&payload[..payload.len() - 1]),
            Seen::Altered
        );
        assert_eq!(
            template.recognise(&[&payload[..], b" "].concat()),
            Seen::Altered
        );
        assert_eq!(template.recognise(b""), Seen::Altered);
    }

    #[test]
    fn printing_a_payload_anew_would_be_noticed() {
        let template = template(256);
        let event: serde_json::Value = serde_json::from_slice(&template.event(1)).expect("JSON");
        let printed = event["payload"].to_string();
        assert_ne!(
            template.recognise(printed.as_bytes()),
            Seen::Event { sequence: 1 }
        );
    }

    #[test]
    fn an_event_of_another_phase_is_a_stray() {
        let body = Template::new(Tag(6), "bench.test", 256, true).event(42);
        let payload = payload_of(&serde_json::from_slice(&body).expect("JSON"), &body);
        assert_eq!(template(256).recognise(&payload), Seen::Stray);
    }

    #[test]
    fn a_batch_is_an_array_of_events_that_follow_each_other() {
        let batch: Vec<serde_json::Value> =
            serde_json::from_slice(&template(128).batch(5, 3)).expect("JSON");
        let sequences: Vec<_> = batch
            .iter()
            .map(|event| &event["payload"]["sequence"])
            .collect();
        assert_eq!(sequences, ["000000000005", "000000000006", "000000000007"]);
        assert_eq!(batch[0]["idempotency_key"], "bench-0000000000000007-5");
    }
}
