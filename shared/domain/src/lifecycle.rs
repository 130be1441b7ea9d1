//! The lifecycle of a delivery: five states, nine moves, one function.
//!
//! ```text
//!             hand over          deliver
//!  RECEIVED ─────────► DISPATCHING ─────► DELIVERED
//!     ▲                 │   ▲    │            ▲
//!     │ replay    retry │   │    │ give up    │ a 2xx that arrived after
//!     │                 ▼   │ claim           │ its lease had been lost
//!     │          RETRY_SCHEDULED ─────────────┘
//!     │                 │        │
//!     └─ DEAD_LETTERED ◄┴────────┘
//!           ▲
//!           │ cancel, from any unfinished state
//! ```
//!
//! The same rule is enforced by the trigger `outbox_moves_along_the_lifecycle` and the constraints of
//! `zyven.outbox` and `zyven.finished_deliveries`; a test in the store crate compares every pair of
//! states in both.

use std::fmt;
use std::str::FromStr;

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeliveryState {
    /// Committed to PostgreSQL, not yet in the queue.
    Received,
    /// In the queue, or in the hands of a dispatcher.
    Dispatching,
    /// The last attempt failed in a way worth repeating; waits for its due time.
    RetryScheduled,
    /// The endpoint answered 2xx.
    Delivered,
    /// Zyven has stopped trying: retries exhausted, or a permanent failure.
    DeadLettered,
}

impl DeliveryState {
    /// Every state, in the order of a delivery's life.
    pub const ALL: [Self; 5] = [
        Self::Received,
        Self::Dispatching,
        Self::RetryScheduled,
        Self::Delivered,
        Self::DeadLettered,
    ];

    /// The name used in SQL, the API, logs and documentation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Received => "RECEIVED",
            Self::Dispatching => "DISPATCHING",
            Self::RetryScheduled => "RETRY_SCHEDULED",
            Self::Delivered => "DELIVERED",
            Self::DeadLettered => "DEAD_LETTERED",
        }
    }

    /// True for states in which the delivery has no outbox row any more.
    pub const fn is_finished(self) -> bool {
        match self {
            Self::Received | Self::Dispatching | Self::RetryScheduled => false,
            Self::Delivered | Self::DeadLettered => true,
        }
    }
}

impl fmt::Display for DeliveryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one of RECEIVED, DISPATCHING, RETRY_SCHEDULED, DELIVERED, DEAD_LETTERED")]
pub struct ParseStateError;

impl FromStr for DeliveryState {
    type Err = ParseStateError;

    fn from_str(text: &str) -> Result<Self, ParseStateError> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or(ParseStateError)
    }
}

/// What can happen to a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Move {
    /// The relay put its ticket into Redis.
    HandOver,
    /// A dispatcher took a lease on it.
    Claim,
    /// A dispatcher gave the lease back without having spent an attempt.
    Release,
    /// The endpoint answered 2xx. Whoever reports it: a success is a success, even if the lease on
    /// which it was made has been lost meanwhile.
    Deliver,
    /// An attempt failed in a retryable way.
    ScheduleRetry,
    /// An attempt failed for good, or the last permitted attempt failed.
    GiveUp,
    /// An age limit passed or the endpoint went away while a retry was waiting.
    Abandon,
    /// Somebody called it off while nobody was attempting it.
    Cancel,
    /// An operator sent a dead letter back to the start.
    Replay,
}

impl Move {
    /// Every move.
    pub const ALL: [Self; 9] = [
        Self::HandOver,
        Self::Claim,
        Self::Release,
        Self::Deliver,
        Self::ScheduleRetry,
        Self::GiveUp,
        Self::Abandon,
        Self::Cancel,
        Self::Replay,
    ];
}

/// The state after `step`, or `None` where the lifecycle does not permit it.
pub const fn after(state: DeliveryState, step: Move) -> Option<DeliveryState> {
    use DeliveryState::{DeadLettered, Delivered, Dispatching, Received, RetryScheduled};
    match (state, step) {
        (Received, Move::HandOver | Move::Claim)
        | (RetryScheduled, Move::Claim)
        | (Dispatching, Move::HandOver | Move::Claim | Move::Release) => Some(Dispatching),
        (Dispatching | RetryScheduled, Move::Deliver) => Some(Delivered),
        (Dispatching, Move::ScheduleRetry) => Some(RetryScheduled),
        (Dispatching, Move::GiveUp)
        | (RetryScheduled, Move::Abandon)
        | (Received | Dispatching | RetryScheduled, Move::Cancel) => Some(DeadLettered),
        (DeadLettered, Move::Replay) => Some(Received),
        (Received, Move::Release | Move::Deliver | Move::ScheduleRetry | Move::GiveUp)
        | (Received, Move::Abandon | Move::Replay)
        | (Dispatching, Move::Abandon | Move::Replay)
        | (RetryScheduled, Move::HandOver | Move::Release | Move::ScheduleRetry)
        | (RetryScheduled, Move::GiveUp | Move::Replay)
        | (DeadLettered, Move::HandOver | Move::Claim | Move::Release | Move::Deliver)
        | (DeadLettered, Move::ScheduleRetry | Move::GiveUp | Move::Abandon | Move::Cancel)
        | (Delivered, _) => None,
    }
}

/// True if some move leads from `from` to `to`.
pub fn permits(from: DeliveryState, to: DeliveryState) -> bool {
    Move::ALL
        .into_iter()
        .any(|step| after(from, step) == Some(to))
}

#[cfg(test)]
mod tests {
    use super::DeliveryState::{DeadLettered, Delivered, Dispatching, Received, RetryScheduled};
    use super::*;

    #[test]
    fn exactly_these_pairs_are_permitted() {
        let permitted = [
            (Received, Dispatching),
            (Received, DeadLettered),
            (Dispatching, Dispatching),
            (Dispatching, Delivered),
            (Dispatching, RetryScheduled),
            (Dispatching, DeadLettered),
            (RetryScheduled, Dispatching),
            (RetryScheduled, Delivered),
            (RetryScheduled, DeadLettered),
            (DeadLettered, Received),
        ];
        for from in DeliveryState::ALL {
            for to in DeliveryState::ALL {
                assert_eq!(
                    permits(from, to),
                    permitted.contains(&(from, to)),
                    "{from} → {to}"
                );
            }
        }
    }

    #[test]
    fn nothing_leaves_delivered() {
        for step in Move::ALL {
            assert_eq!(after(Delivered, step), None, "{step:?}");
        }
    }

    #[test]
    fn every_state_survives_its_name() {
        for state in DeliveryState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert_eq!("received".parse::<DeliveryState>(), Err(ParseStateError));
    }
}
