//! Orders in which things can happen at the same time, tried one after the other.
//!
//! # What is explored
//!
//! The sources of ingest's batcher and of the line beside it, compiled here once more. They wait and lock with what `crate::sync` offers: in
//! ingest that is the standard library and tokio, here it is a scheduler (shuttle) that decides at every such point who
//! goes on, and a clock that the scheduler moves. A run that fails is printed as a schedule that can be run again.
//!
//! # What is not
//!
//! PostgreSQL, whose place a [`Store`] takes that commits, forgets and loses answers as the scheduler likes: nobody can
//! schedule the real one. That the real one recognises a repeated batch is held by the store's own tests. Memory
//! orderings are not explored either; the batcher has no atomics.
//!
//! This is a crate of its own because a feature of ingest would be unified into the real program (ADR 0024).

// The unit tests in sources of services are theirs.
#![cfg(not(test))]

// The batcher's imports find here what takes the place of the real things.
extern crate self as zyven_runtime;
extern crate self as zyven_store;

#[path = "../../../services/ingest/src/aside.rs"]
mod aside;
#[path = "../../../services/ingest/src/batcher.rs"]
mod batcher;
mod body;
mod clock;
mod exploration;
mod statistics;
mod store;
mod sync;

mod config {
    /// Small, so that few publishers reach them.
    pub(crate) const FLUSH_EVENTS_MAX: usize = 4;
    pub(crate) const FLUSH_BYTES_MAX: usize = 64;
}

/// The relay's bell.
pub mod doorbell {
    /// Nobody listens.
    #[derive(Clone, Debug)]
    pub struct Bell;

    impl Bell {
        /// As if somebody did.
        pub fn ring(&self) {}
    }
}

pub use exploration::{Time, publish_and_stop};
pub use real_runtime::{pace, supervisor};
pub use real_store::{Accepted, NewEvent, StoreError};
pub use store::Store;
