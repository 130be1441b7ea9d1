//! What the points do in `zyven-crash`.

use std::fmt;
use std::io::Write as _;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::CrashPoint;

/// What happens where, in this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Orders {
    /// Where it ends.
    pub abort: Option<Passage>,
    /// Where it stops.
    pub freeze: Option<Passage>,
}

/// The n-th time that the process comes by a point, from 1. Written as `relay.after_push:3`; the number may be left out if it is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passage {
    point: CrashPoint,
    number: NonZeroU64,
}

/// The text names no passage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParsePassageError;

/// An order that is waiting for its passage.
struct Awaited {
    passage: Passage,
    passed: AtomicU64,
}

struct Armed {
    abort: Option<Awaited>,
    freeze: Option<Awaited>,
}

static ARMED: OnceLock<Armed> = OnceLock::new();

impl Orders {
    /// Puts the orders into force, once per process. Passages count from here.
    pub fn arm(self) {
        let awaited = |passage: Passage| Awaited {
            passage,
            passed: AtomicU64::new(0),
        };
        // Whoever arms a second time has no say.
        let _ = ARMED.set(Armed {
            abort: self.abort.map(awaited),
            freeze: self.freeze.map(awaited),
        });
    }
}

impl CrashPoint {
    /// Says that the process comes by; if this is the passage that was ordered, it goes no further.
    pub fn reached(self) {
        let Some(armed) = ARMED.get() else {
            return;
        };
        if let Some(awaited) = &armed.freeze
            && awaited.is_now(self)
        {
            say(awaited.passage, "stopping");
            stop();
        }
        if let Some(awaited) = &armed.abort
            && awaited.is_now(self)
        {
            say(awaited.passage, "aborting");
            std::process::abort();
        }
    }

    fn name(self) -> &'static str {
        let found = Self::NAMES.iter().find(|(point, _)| *point == self);
        found.map_or("", |(_, name)| name)
    }
}

impl Awaited {
    fn is_now(&self, point: CrashPoint) -> bool {
        point == self.passage.point
            && self.passed.fetch_add(1, Ordering::Relaxed) + 1 == self.passage.number.get()
    }
}

/// Straight to standard error: what a log has in its buffer dies with the process.
fn say(passage: Passage, what: &str) {
    let _ = writeln!(std::io::stderr(), "crash point {passage}: {what}");
}

/// Every thread of the process stands still until SIGCONT; its sockets stay open.
fn stop() {
    #[expect(
        unsafe_code,
        reason = "the standard library cannot send a signal to its own process"
    )]
    // SAFETY: a plain system call without pointers.
    unsafe {
        libc::raise(libc::SIGSTOP);
    }
}

impl FromStr for Passage {
    type Err = ParsePassageError;

    fn from_str(text: &str) -> Result<Self, ParsePassageError> {
        let (name, number) = text.split_once(':').unwrap_or((text, "1"));
        let found = CrashPoint::NAMES.iter().find(|(_, known)| *known == name);
        let (point, _) = found.ok_or(ParsePassageError)?;
        Ok(Self {
            point: *point,
            number: number.parse().map_err(|_| ParsePassageError)?,
        })
    }
}

impl fmt::Display for Passage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.point.name(), self.number)
    }
}

impl fmt::Display for ParsePassageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "must be a crash point and a number from 1, such as relay.after_push:3; there are",
        )?;
        for (number, (_, name)) in CrashPoint::NAMES.iter().enumerate() {
            let separator = if number == 0 { " " } else { ", " };
            write!(f, "{separator}{name}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ParsePassageError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passage_is_a_known_point_and_a_number_from_1() {
        for (text, shown) in [
            ("relay.after_push", "relay.after_push:1"),
            ("relay.after_push:1", "relay.after_push:1"),
            ("settle.after_buried:12", "settle.after_buried:12"),
        ] {
            let passage: Passage = text.parse().expect("a passage");
            assert_eq!(passage.to_string(), shown);
        }
        for text in [
            "",
            "relay",
            "relay.after_push:0",
            "relay.after_push:",
            "relay.after_push:x",
            "relay.after_push:-1",
            " relay.after_push",
        ] {
            assert_eq!(text.parse::<Passage>(), Err(ParsePassageError), "{text}");
        }
    }

    #[test]
    fn the_mistake_names_every_point() {
        let text = ParsePassageError.to_string();
        for (_, name) in CrashPoint::NAMES {
            assert!(text.contains(name), "{name} in {text}");
        }
    }
}
