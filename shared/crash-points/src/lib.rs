//! Named places at which a test can end the program, or stop it: between any two steps whose order matters.
//!
//! The code says `CrashPoint::RelayAfterPush.reached()` where a relay has pushed and not yet recorded that it has. In the
//! program `zyven` this is nothing: no code, no name, no setting. In `zyven-crash`, which is built from the same sources with
//! the feature `armed`, the setting `ZYVEN_CRASH_POINT=relay.after_push:3` ends the process the third time it comes by, as
//! `kill -9` would: no destructor runs, no buffer is written, no connection is closed in good order. `ZYVEN_FREEZE_POINT` stops it
//! instead, sockets open, until somebody sends SIGCONT.
//!
//! Why this is a crate of its own, and why there are two programs, is in `docs/adr/0025-crash-points.md`. The points are placed
//! so that each row of "what may die" in ARCHITECTURE.md can be brought about; `tests/chaos` does that.
//!
//! What is deliberately absent: sleeping, failing or anything else that the program itself would have to handle. A point says
//! where a process ends, and nothing about what it does.

#[cfg(feature = "armed")]
mod armed;

#[cfg(feature = "armed")]
pub use armed::{Orders, ParsePassageError, Passage};

/// The points, with the names that settings know them by.
macro_rules! crash_points {
    ($($(#[doc = $meaning:literal])+ $point:ident = $name:literal,)+) => {
        /// A place that processes come by.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum CrashPoint {
            $($(#[doc = $meaning])+ $point,)+
        }

        #[cfg(feature = "armed")]
        impl CrashPoint {
            const NAMES: &[(Self, &str)] = &[$((Self::$point, $name),)+];
        }
    };
}

crash_points! {
    /// A batch of events is about to be stored (T0).
    IngestBeforeCommit = "ingest.before_commit",
    /// It is committed. No relay was rung for, and no publisher has an answer.
    IngestAfterCommit = "ingest.after_commit",
    /// New rows were read. Their tickets are about to be pushed.
    RelayBeforePush = "relay.before_push",
    /// New rows have their tickets. Neither cursor nor watermark have moved.
    RelayAfterPush = "relay.after_push",
    /// A walk over the outbox has offered one page, and there are more.
    RelayAmidWalk = "relay.amid_walk",
    /// Redis has handed out tickets. PostgreSQL has not been asked.
    DispatcherBeforeClaim = "dispatcher.before_claim",
    /// PostgreSQL has confirmed them (T2). No attempt has begun.
    DispatcherAfterClaim = "dispatcher.after_claim",
    /// There is a connection to the endpoint, and the request is about to be written.
    DispatcherBeforeRequest = "dispatcher.before_request",
    /// The request, or a part of it if it is long, was written. No answer was read.
    DispatcherAmidRequest = "dispatcher.amid_request",
    /// The answer is here and judged. Nothing of it is on record.
    DispatcherAfterAnswer = "dispatcher.after_answer",
    /// The grace time is over: a delivery is about to be given back.
    DispatcherBeforeRelease = "dispatcher.before_release",
    /// Successes are on record (T3). Redis does not know.
    SettleAfterDelivered = "settle.after_delivered",
    /// Failures that will be retried are on record (T4). Redis does not know.
    SettleAfterRetried = "settle.after_retried",
    /// Dead letters are on record (T5). Redis does not know.
    SettleAfterBuried = "settle.after_buried",
    /// Leases were given back. Redis does not know.
    SettleAfterReleased = "settle.after_released",
}

#[cfg(not(feature = "armed"))]
impl CrashPoint {
    /// Says that the process comes by. Nothing, in this build.
    #[inline(always)]
    pub const fn reached(self) {}
}
