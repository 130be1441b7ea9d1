//! Faults under load, and a ledger that says what they have cost.
//!
//! # Who acts
//!
//! A [`Fleet`] is a whole stack of real processes on servers of its own, with a proxy that can misbehave between
//! every pair of parts. [`Load`] publishes events that exist only once, at a given rate, and repeats what failed
//! with the same idempotency key, as the API's documentation asks publishers to. The [`Ledger`] hears of every
//! acknowledgement and every arrival. In the end it compares what the receiver got with what the database says, and
//! attributes each duplicate to the source in `docs/guarantees.md` that the fleet's [`History`] explains it by.
//!
//! # What is promised
//!
//! - What happens to an event is decided by nobody in here: the program under test is the real one, on real
//!   PostgreSQL with `fsync` on, real Redis, and real sockets.
//! - Everything that is random comes from one seed ([`Dice`]). The same seed makes the same events.
//! - Nothing is given the benefit of the doubt. What the ledger cannot explain is reported as unexplained.
//!
//! # What is deliberately absent
//!
//! No knowledge of Zyven's insides but its tables and its documented settings, and none of its crates: a
//! signature is verified by a second implementation.

mod dice;
mod event;
mod faults;
mod fleet;
mod history;
mod ledger;
mod load;
mod plan;
mod run;
mod service;

pub use dice::Dice;
pub use event::{Event, EventSource, Sizes};
pub use faults::{Counted, Faults, Row, Table};
pub use fleet::{Endpoint, Fleet, RedisKind, Shape};
pub use history::{Disturbance, History, Trouble};
pub use ledger::{Account, Ledger, Mood, Source};
pub use load::{Load, Publisher};
pub use plan::{Fault, Plan, Planned};
pub use run::{Outcome, Run};
pub use service::{Link, Service};
