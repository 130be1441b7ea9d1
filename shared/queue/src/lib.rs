//! Redis: one lane of tickets per endpoint.
//!
//! # Who acts
//!
//! The relay *pushes* tickets: a ticket is the sequence number of an outbox row, the endpoint it is
//! for, and how long until it is due. A dispatcher *claims* tickets, asks Postgres whether each is
//! really to be done, does it, and hands them back as *completions* with its next claim. Between the
//! two a ticket lies in its endpoint's *lane*, then, while a dispatcher holds it, among the *leased*.
//!
//! | Key | Kind | Holds |
//! |---|---|---|
//! | `{zN}:epoch` | string | a random id; its absence tells that Redis was emptied |
//! | `{zN}:lane:<endpoint>` | sorted set | sequence numbers, by the millisecond they are due |
//! | `{zN}:ring` | sorted set | lanes that can be served, by the microsecond of their turn |
//! | `{zN}:leased` | sorted set | `<endpoint>:<sequence number>`, by the millisecond the lease ends |
//! | `{zN}:in_flight` | hash | how many members of `leased` belong to each lane |
//! | `{zN}:bell` | list | something is due: wakes a dispatcher that waits |
//!
//! `N` is the shard; all keys of an endpoint share its shard's hash tag, so a script never leaves one
//! slot of a Redis Cluster. This client speaks to one server, though: there is no slot routing here.
//!
//! # What is promised
//!
//! - **Nothing here is the only copy of anything.** Every key may vanish at any instant, all or some of
//!   them. The worst that follows is that a ticket is late until the relay offers it again, or that
//!   one is handed out which Postgres then refuses. Every operation may be repeated.
//! - **Fairness.** The lane that was served longest ago is served first, and no lane has more than
//!   [`QueueConfig::lane_in_flight_max`] tickets out at once, so an endpoint that hangs holds its own
//!   slots and nobody else's. Within a lane, tickets leave roughly in sequence order.
//! - **No shared clock.** Callers say *in how long*; Redis' own clock makes a point in time of it.
//! - **No hanging.** Every operation returns within about [`OPERATION_TIME_MAX`], also when Redis is frozen or
//!   gone, and works again by itself once Redis does.
//!
//! # What is deliberately absent
//!
//! No payloads, no attempt counts, no state: those are Postgres'. No destructive blocking pop of work:
//! a reader that is dropped amid one would lose an item. Nothing due later than [`NEAR_WINDOW`]: what
//! is far away stays in Postgres alone, so memory is bounded by the near future. A full Redis
//! (`maxmemory`) refuses pushes but still serves claims, so that it can drain.

mod claim;
mod connection;
mod doorbell;
mod keys;
mod push;
mod upkeep;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use zyven_domain::id::EndpointId;

use crate::connection::{Connections, Question};
use crate::keys::Shard;

pub use crate::connection::{OPERATION_TIME_MAX, QueueError};
pub use crate::doorbell::{Doorbell, Wake};
pub use crate::upkeep::Depth;

/// How near a ticket must be due to lie in Redis at all.
pub const NEAR_WINDOW: Duration = Duration::from_secs(15 * 60);

/// Most tickets one script touches: a thousand would keep Redis from everybody else for some
/// milliseconds. Longer pushes are split; a claim is cut to it.
pub const SCRIPT_TICKETS_MAX: usize = 500;

/// Most shards. Far more than one Redis server can make use of.
pub const SHARDS_MAX: u16 = 64;

/// Where Redis is and how it is shared out.
#[derive(Clone)]
pub struct QueueConfig {
    /// `redis://[user:password@]host:port[/database]`.
    pub url: String,
    /// Connections kept at most.
    pub pool_size: u32,
    /// Key spaces that may live on different nodes one day; 1 unless there is a reason. Everybody must
    /// agree on it. After a change tickets may lie where nobody looks; the relay notices that the new
    /// shards have no epoch and offers everything again.
    pub shards: u16,
    /// Tickets of one endpoint that may be out at the same time. Everybody must agree on it.
    pub lane_in_flight_max: u32,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379".to_owned(),
            pool_size: 4,
            shards: 1,
            lane_in_flight_max: 256,
        }
    }
}

impl fmt::Debug for QueueConfig {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueConfig")
            .field("pool_size", &self.pool_size)
            .field("shards", &self.shards)
            .field("lane_in_flight_max", &self.lane_in_flight_max)
            .finish_non_exhaustive()
    }
}

/// A hint that an outbox row wants a dispatcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// Sequence number of the outbox row.
    pub seq: i64,
    /// The lane it belongs to.
    pub endpoint_id: EndpointId,
    /// Time until it is due, from now; zero for what is due or overdue.
    pub due_in: Duration,
}

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "EpochLost means that Redis has forgotten everything and must be filled again"]
pub enum Pushed {
    /// All tickets are where they belong.
    Accepted {
        /// How many of them were not there before, or were there for a later time.
        added: usize,
    },
    /// At least one shard does not know the caller's epoch: Redis was emptied, or somebody else has
    /// begun a new epoch. The tickets of that shard were not written.
    EpochLost,
}

/// A ticket the caller now holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClaimedTicket {
    /// Sequence number of the outbox row.
    pub seq: i64,
    /// The lane it came from.
    pub endpoint_id: EndpointId,
}

/// What a claim brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "claimed tickets stay away from everybody else until their lease ends"]
pub struct Claimed {
    /// Tickets that are the caller's until the lease ends, or until it completes them.
    pub tickets: Vec<ClaimedTicket>,
    /// Time until something more can be claimed, as far as is known now: zero if there is more already.
    /// `None` if nothing waits at all.
    pub next_due_in: Option<Duration>,
}

/// How a ticket is handed back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// Nothing more to do for it, or nothing that Redis needs to know.
    Done(i64, EndpointId),
    /// It wants another go later. Beyond [`NEAR_WINDOW`] that is the same as `Done`: Postgres remembers
    /// it and the relay offers it when its time comes near.
    Later {
        /// Sequence number of the outbox row.
        seq: i64,
        /// The lane it came from.
        endpoint_id: EndpointId,
        /// Time until it is due again.
        due_in: Duration,
    },
}

/// Names one filling of Redis. A push under another epoch than the one Redis holds is refused, so that an
/// emptied Redis is never mistaken for one in which everything has a ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch(pub(crate) String);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The lanes. Cheap to clone; all clones share the connections.
#[derive(Clone)]
pub struct Queue {
    connections: Connections,
    shards: Arc<[Shard]>,
    lane_in_flight_max: u32,
    /// Which shard is asked for the odd ticket next, so that none is always last.
    first_shard: Arc<AtomicUsize>,
}

impl Queue {
    /// Prepares the connections without making any, so it does not fail while Redis is away. Must be
    /// called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`QueueError::Configuration`] if the URL or a number cannot be used.
    pub fn connect(config: &QueueConfig) -> Result<Self, QueueError> {
        for (is_wrong, rule) in [
            (
                config.shards == 0 || config.shards > SHARDS_MAX,
                "shards must be 1 to 64",
            ),
            (config.pool_size == 0, "pool_size must be at least 1"),
            (
                config.lane_in_flight_max == 0,
                "lane_in_flight_max must be at least 1",
            ),
        ] {
            if is_wrong {
                return Err(QueueError::Configuration(rule, None));
            }
        }
        Ok(Self {
            connections: Connections::new(&config.url, config.pool_size)?,
            shards: (0..config.shards).map(Shard::new).collect(),
            lane_in_flight_max: config.lane_in_flight_max,
            first_shard: Arc::default(),
        })
    }

    /// A bell of one's own to wait on.
    pub fn doorbell(&self) -> Doorbell {
        let bells = self.shards.iter().map(|shard| shard.bell.clone()).collect();
        Doorbell::new(self.connections.client(), bells)
    }

    /// Whether Redis answers.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from answering.
    pub async fn health(&self) -> Result<(), QueueError> {
        let ping = Question::command("PING");
        self.connections.ask(&[ping]).await.map(drop)
    }

    fn shard_of(&self, endpoint_id: EndpointId) -> usize {
        keys::shard_index(endpoint_id, self.shards.len())
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("shards", &self.shards.len())
            .field("lane_in_flight_max", &self.lane_in_flight_max)
            .finish_non_exhaustive()
    }
}
