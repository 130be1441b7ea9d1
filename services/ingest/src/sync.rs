//! What the batcher and the line beside it wait and lock with, in one place: `tests/interleavings` compiles both once more, with a
//! scheduler's own in place of these, and tries the orders in which things can happen (ADR 0024).

pub(crate) use std::sync::{Mutex, MutexGuard};

pub(crate) use tokio::sync::{Notify, oneshot};
pub(crate) use tokio::time::{Instant, sleep, timeout, timeout_at};
