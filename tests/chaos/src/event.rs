//! Events that exist only once: each has a body of its own, which its number and the seed determine.

use crate::dice::Dice;

/// How large bodies are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sizes {
    /// All about 1 KiB.
    AboutOneKib,
    /// Most about 1 KiB, some tiny, a few up to 60 KiB.
    Varied,
}

/// Makes the events of one run.
#[derive(Debug, Clone, Copy)]
pub struct EventSource {
    /// Determines every body.
    pub seed: u64,
    /// How large they are.
    pub sizes: Sizes,
    /// One event in this many is answered 400 by the receiver each time, and has to become a dead letter.
    pub refused_one_in: Option<u64>,
    /// One event in this many has an ordering key, of which there are few.
    pub ordered_one_in: Option<u64>,
}

/// One event, as it is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its type: `chaos.a` or `chaos.b`.
    pub event_type: &'static str,
    /// The payload, to the byte.
    pub payload: String,
    /// The idempotency key.
    pub key: String,
    /// The ordering key, if it has one.
    pub ordering_key: Option<String>,
}

/// What a program that writes JSON anew would write differently, and what fits into no single byte.
const TEXTS: [&str; 6] = [
    r"plain",
    r"Grüße aus Köln, 東京 と 🚀",
    r"\u00e9scaped \/ \u2028 \ud83d\ude80",
    r"מימין לשמאל",
    r#"tab\tquote\"backslash\\"#,
    "\u{feff}\u{200d}\u{0301}",
];
const NUMBERS: [&str; 5] = ["1.50", "-0.0", "1e2", "12345678901234567890", "0.1"];

impl EventSource {
    /// Events of about 1 KiB, nothing special.
    #[must_use]
    pub fn plain(seed: u64) -> Self {
        Self {
            seed,
            sizes: Sizes::AboutOneKib,
            refused_one_in: None,
            ordered_one_in: None,
        }
    }

    /// The event with this number.
    #[must_use]
    pub fn event(&self, number: u64) -> Event {
        let mut dice = Dice::of(self.seed, number);
        let filling_bytes = match self.sizes {
            Sizes::AboutOneKib => 900,
            Sizes::Varied => match dice.below(50) {
                0 => dice.between(4_000, 60_000),
                1..=9 => dice.below(40),
                _ => dice.between(600, 1_300),
            },
        };
        let text = dice.pick(&TEXTS);
        let amount = dice.pick(&NUMBERS);
        let seed = self.seed;
        let filling: String = (0..filling_bytes)
            .map(|_| char::from(b'a' + (dice.next() % 26) as u8))
            .collect();
        // Blanks and the order of members are the publisher's, and must survive.
        let payload = format!(
            "{{\"number\":{number}, \"seed\" : \"{seed}\",\"text\":\"{text}\",\"amount\":{amount}, \"filling\":\"{filling}\" }}"
        );
        let is_ordered = self
            .ordered_one_in
            .is_some_and(|one_in| number.is_multiple_of(one_in));
        Event {
            event_type: self.event_type(number),
            payload,
            key: format!("chaos-{seed}-{number}"),
            ordering_key: is_ordered.then(|| format!("order-{}", dice.below(8))),
        }
    }

    /// The type of the event with this number.
    #[must_use]
    pub fn event_type(&self, number: u64) -> &'static str {
        if number.is_multiple_of(4) {
            "chaos.b"
        } else {
            "chaos.a"
        }
    }

    /// The number that is written in a payload; it may be one that was never used.
    #[must_use]
    pub fn number_of(payload: &[u8]) -> Option<u64> {
        let rest = payload.strip_prefix(b"{\"number\":")?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
    }

    /// Whether the receiver refuses this event for good.
    #[must_use]
    pub fn is_refused(&self, number: u64) -> bool {
        self.refused_one_in
            .is_some_and(|one_in| number % one_in == one_in - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_function_of_seed_and_number() {
        let source = EventSource {
            sizes: Sizes::Varied,
            ordered_one_in: Some(5),
            ..EventSource::plain(3)
        };
        for number in 0..200 {
            let event = source.event(number);
            assert_eq!(event, source.event(number));
            assert_ne!(event.payload, source.event(number + 1).payload);
            assert_ne!(event.payload, EventSource::plain(4).event(number).payload);
            assert_eq!(
                EventSource::number_of(event.payload.as_bytes()),
                Some(number)
            );
            serde_json::from_str::<serde_json::Value>(&event.payload).expect("JSON");
        }
    }

    #[test]
    fn writing_a_payload_anew_changes_it() {
        let payload = EventSource::plain(1).event(0).payload;
        let parsed: serde_json::Value = serde_json::from_str(&payload).expect("JSON");
        assert_ne!(parsed.to_string(), payload);
    }
}
