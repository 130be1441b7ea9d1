//! Redis: one lane of tickets per endpoint.
//!
//! # Who acts
//!
//! The relay *pushes* tickets: a ticket is the sequence number of an outbox row, the lane it is
//! for, and how long until it is due. A dispatcher *claims* tickets, asks Postgres whether each is
//! really to be done, does it, and hands them back as *completions* with its next claim. Between the
//! two a ticket lies in its endpoint's *lane*, then, while a dispatcher holds it, among the *leased*. Who explains what a
//! delivery waits for asks for a ticket's [`Whereabouts`], and changes nothing.
//!
//! | Key | Kind | Holds |
//! |---|---|---|
//! | `{zN}:v2:epoch` | string | a random id; its absence tells that Redis was emptied |
//! | `{zN}:v2:fresh:<lane>`, `{zN}:v2:retries:<lane>` | sorted set | tickets, by the millisecond they are due |
//! | `{zN}:v2:fresh_lanes:<tenant>`, `{zN}:v2:retries_lanes:<tenant>` | sorted set | lanes that can be served, by the microsecond of their turn |
//! | `{zN}:v2:fresh_tenants`, `{zN}:v2:retries_tenants` | sorted set | tenants that can be served, by the microsecond of their turn |
//! | `{zN}:v2:chain:<lane>:<ordering key>` | sorted set | sequence numbers that must go one after the other |
//! | `{zN}:v2:leased` | sorted set | `<lane>:<ticket>`, by the millisecond the lease ends, half a one sooner for a retry |
//! | `{zN}:v2:in_flight` | hash | how many members of `leased` belong to each lane, and to each tenant |
//! | `{zN}:v2:settings` | hash | a lane's limits, where its endpoint has some of its own |
//! | `{zN}:v2:state:<lane>` | string | a lane's breaker, ramp and tokens, where there is something to say |
//! | `{zN}:v2:retry_credit` | string | how many retries may be handed out before fresh tickets |
//! | `{zN}:v2:bell` | list | something is due: wakes a dispatcher that waits |
//! | `{z0}:v2:lead_bell` | list | a relay has given up its lead: wakes one that waits for it |
//!
//! `N` is the shard and `v2` the layout, so that programs of two versions do not disturb each other; all keys of an endpoint share its shard's hash tag, so a script never leaves one
//! slot of a Redis Cluster. One server has all shards, or the primary that Sentinels name, or each shard is on the
//! node of a cluster that has its slot.
//!
//! # What is promised
//!
//! - **Nothing here is the only copy of anything.** Every key may vanish at any instant, all or some of
//!   them. The worst that follows is that a ticket is late until the relay offers it again, that one is
//!   handed out which Postgres then refuses, or that a breaker has to learn again what it knew. Every
//!   operation may be repeated.
//! - **Fairness.** The tenant that was served longest ago is served first, and of its lanes the one that
//!   was served longest ago. No lane has more than its endpoint's limit or
//!   [`QueueConfig::lane_in_flight_max`] tickets out at once, no tenant more than
//!   [`QueueConfig::tenant_in_flight_max`], so an endpoint that hangs holds its own slots and a tenant
//!   with ten thousand of them its own share. While fresh tickets wait, at most a fifth of what is handed
//!   out are retries. Within a lane, tickets leave roughly in sequence order.
//! - **A breaker for each lane.** After [many failures](LaneEvent) a lane is left alone for a while, spending
//!   no attempts; then one probe decides, and after it the lane starts gently. The same gentleness follows a
//!   pause and an answer of 429.
//! - **Order within a key.** Of the tickets with one ordering key the smallest is handed out, and the next
//!   one when that is done. Whether it really may go is Postgres' to say.
//! - **No shared clock.** Callers say *in how long*; Redis' own clock makes a point in time of it.
//! - **No hanging.** Every operation returns within about [`OPERATION_TIME_MAX`], also when Redis is frozen or
//!   gone, and works again by itself once Redis does.
//!
//! # What is deliberately absent
//!
//! No payloads, no attempt counts: those are Postgres'. No destructive blocking pop of work:
//! a reader that is dropped amid one would lose an item. Nothing due later than [`NEAR_WINDOW`]: what
//! is far away stays in Postgres alone, so memory is bounded by the near future. A full Redis
//! (`maxmemory`) refuses pushes but still serves claims, so that it can drain.

mod claim;
mod connection;
mod depth;
mod doorbell;
mod failure;
mod keys;
mod lane;
mod locate;
mod place;
mod push;
mod site;
mod upkeep;
mod whereabouts;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use redis::Script;

use crate::connection::{Connections, Question};
use crate::keys::Shard;
use crate::place::Place;

pub use crate::connection::OPERATION_TIME_MAX;
pub use crate::depth::{Alike, Depth, LaneStanding, Standings};
pub use crate::doorbell::{Doorbell, Wake};
pub use crate::failure::{Failure, QueueError};
pub use crate::lane::{BreakerState, Lane, LaneSettings, LaneStatus, Rate};
pub use crate::place::Tls;
pub use crate::upkeep::Memory;
pub use crate::whereabouts::{TicketPlace, Whereabouts};

/// How near a ticket must be due to lie in Redis at all.
pub const NEAR_WINDOW: Duration = Duration::from_secs(15 * 60);

/// Most tickets one script touches: a thousand would keep Redis from everybody else for some
/// milliseconds. Longer pushes are split; a claim is cut to it.
pub const SCRIPT_TICKETS_MAX: usize = 500;

/// How long a ring for the lead stays for somebody who has not been listening: it costs one look.
const LEAD_BELL_FADES: Duration = Duration::from_secs(2);

/// Most shards. Far more than one Redis server can make use of.
pub const SHARDS_MAX: u16 = 64;

/// Where Redis is and how it is shared out.
#[derive(Clone)]
pub struct QueueConfig {
    /// `redis://[user:password@]host:port[/database]`, or
    /// `redis+sentinel://[user:password@]host:port,host:port/service[/database][?sentinel=user:password]`, or
    /// `redis+cluster://[user:password@]host:port,host:port`; `rediss` instead of `redis` for TLS.
    pub url: String,
    /// For URLs that begin with `rediss`.
    pub tls: Tls,
    /// Connections kept at most.
    pub pool_size: u32,
    /// Key spaces that may live on different nodes of a cluster; 1 unless there is a reason. Everybody must
    /// agree on it. After a change tickets may lie where nobody looks; the relay notices that the new
    /// shards have no epoch and offers everything again.
    pub shards: u16,
    /// Tickets of one endpoint that may be out at the same time, if it has no smaller limit of its own.
    /// Everybody must agree on it.
    pub lane_in_flight_max: u32,
    /// Tickets of one tenant that may be out at the same time, in each shard. Everybody must agree on it.
    pub tenant_in_flight_max: u32,
    /// How long a breaker stays open at first. Doubles each time a probe fails.
    pub breaker_open_min: Duration,
    /// How long a breaker stays open at most.
    pub breaker_open_max: Duration,
}

/// What is wrong with a URL, as a rule that repeats none of it; `None` if nothing is.
///
/// Nothing is connected, so a server that does not exist is well.
pub fn mistake_in(url: &str, tls: &Tls) -> Option<&'static str> {
    match Place::parse(url, tls) {
        Err(QueueError::Configuration(rule, _)) => Some(rule),
        Ok(_) | Err(_) => None,
    }
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379".to_owned(),
            tls: Tls::default(),
            pool_size: 4,
            shards: 1,
            lane_in_flight_max: 256,
            tenant_in_flight_max: 1024,
            breaker_open_min: Duration::from_secs(30),
            breaker_open_max: Duration::from_secs(600),
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
            .field("tenant_in_flight_max", &self.tenant_in_flight_max)
            .field("breaker_open_min", &self.breaker_open_min)
            .field("breaker_open_max", &self.breaker_open_max)
            .finish_non_exhaustive()
    }
}

/// A hint that an outbox row wants a dispatcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// Sequence number of the outbox row.
    pub seq: i64,
    /// The lane it belongs to.
    pub lane: Lane,
    /// Of the tickets of a lane with the same ordering key only one is out at a time, the smallest
    /// first; 0 for a ticket without.
    pub ordering_key: i64,
    /// Whether it is known to be the first unfinished one with its ordering key. Those that seem to come
    /// before it are then forgotten.
    pub is_first: bool,
    /// Whether the delivery was attempted before.
    pub is_retry: bool,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClaimedTicket {
    /// The lane it came from.
    pub lane: Lane,
    /// Sequence number of the outbox row.
    pub seq: i64,
    /// See [`Ticket::ordering_key`].
    pub ordering_key: i64,
}

/// What a claim brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "claimed tickets stay away from everybody else until their lease ends"]
pub struct Claimed {
    /// Tickets that are the caller's until the lease ends, or until it completes them.
    pub tickets: Vec<ClaimedTicket>,
    /// What the completions handed in have led to.
    pub events: Vec<LaneEvent>,
    /// Time until something more can be claimed, as far as is known now: zero if there is more already.
    /// `None` if nothing waits at all.
    pub next_due_in: Option<Duration>,
    /// Completions for shards that did not answer: hand them back with a later claim.
    pub kept_back: Vec<Completion>,
}

/// A breaker's move. It opens after 10 failures in a row, or when 7 in 10 of at least 10 attempts within a
/// minute have failed; it stays open when a probe fails, and closes when one succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneEvent {
    /// The lane is left alone for this long.
    Opened(Lane, Duration),
    /// It is left alone for this long again.
    ProbeFailed(Lane, Duration),
    /// The lane is served again, gently at first.
    Closed(Lane),
}

/// How a ticket is handed back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// What was claimed.
    pub ticket: ClaimedTicket,
    /// What the lane learns from it.
    pub learned: Learned,
    /// What becomes of the ticket.
    pub next: Next,
}

/// What an attempt says about its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// It takes deliveries.
    Succeeded,
    /// It does not, at present.
    Failed,
    /// It asks to be left alone for this long.
    Throttled(Duration),
    /// Nothing but that it is there: it answered about this one delivery.
    Answered,
    /// Nothing, as no request was sent: a limited rate is not charged.
    NothingSent,
    /// Nothing, as whoever held the ticket has died.
    OwnerDied,
}

/// What becomes of a ticket that is handed back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing more to do for it; the next ticket with its ordering key may go.
    Done,
    /// It wants another go after this wait, and was not attempted before. Beyond [`NEAR_WINDOW`] it is
    /// forgotten here: Postgres remembers it and the relay offers it when its time comes near.
    Later(Duration),
    /// The same for one that was attempted.
    Retry(Duration),
    /// It goes to the front of its lane, as if its lease had ended.
    First,
    /// An earlier delivery with its ordering key is unfinished: ask again after this wait, should it not
    /// have become the first by then.
    Blocked(Duration),
    /// Nobody has asked Postgres about it: it goes back to where it was, and may be handed out at once. Says nothing if
    /// the lease has ended, or went with what Redis lost.
    Back,
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

/// What scripts are told each time.
#[derive(Debug, Clone, Copy)]
struct Limits {
    lane_in_flight_max: u32,
    tenant_in_flight_max: u32,
    breaker_open_min: Duration,
    breaker_open_max: Duration,
}

/// The lanes. Cheap to clone; all clones share the connections.
#[derive(Clone)]
pub struct Queue {
    connections: Connections,
    shards: Arc<[Shard]>,
    limits: Limits,
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
            (
                config.tenant_in_flight_max == 0,
                "tenant_in_flight_max must be at least 1",
            ),
            (
                config.breaker_open_min.is_zero()
                    || config.breaker_open_max < config.breaker_open_min,
                "breaker_open_min must be more than nothing and at most breaker_open_max",
            ),
        ] {
            if is_wrong {
                return Err(QueueError::Configuration(rule, None));
            }
        }
        let shards: Arc<[Shard]> = (0..config.shards).map(Shard::new).collect();
        Ok(Self {
            connections: Connections::new(&config.url, &config.tls, config.pool_size, &shards)?,
            shards,
            limits: Limits {
                lane_in_flight_max: config.lane_in_flight_max,
                tenant_in_flight_max: config.tenant_in_flight_max,
                breaker_open_min: config.breaker_open_min,
                breaker_open_max: config.breaker_open_max,
            },
            first_shard: Arc::default(),
        })
    }

    /// A bell of one's own to wait on.
    pub fn doorbell(&self) -> Doorbell {
        let sites = self.connections.sites(&self.shards);
        Doorbell::new(sites.map(|(site, shards)| {
            let bells = shards.iter().map(|shard| shard.bell.clone()).collect();
            (site, bells)
        }))
    }

    /// A bell on which a relay waits that does not lead.
    pub fn lead_bell(&self) -> Doorbell {
        let bell = self.shards[0].lead_bell.clone();
        let sites = self.connections.sites(&self.shards).take(1);
        Doorbell::new(sites.map(|(site, _)| (site, vec![bell.clone()])))
    }

    /// Wakes a relay that waits for the lead. Should none wait, the ring is forgotten after a moment.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub async fn ring_for_lead(&self) -> Result<(), QueueError> {
        let shard = &self.shards[0];
        let mut ring = Question::command(shard, "RPUSH");
        let mut fade = Question::command(shard, "PEXPIRE");
        ring.arg(&shard.lead_bell).arg(1);
        fade.arg(&shard.lead_bell)
            .arg(push::whole_ms(LEAD_BELL_FADES));
        self.connections.ask(&[ring, fade]).await.map(drop)
    }

    /// Why one of several nodes of a cluster is left out for the moment: it does not answer, or refuses to write.
    /// Everything else goes on meanwhile, and the node is used again once it works. Always `None` for a single server, whose failures are errors.
    pub fn away(&self) -> Option<QueueError> {
        self.connections.away()
    }

    /// How often a node that was [away](Queue::away) has come back. What was pushed meanwhile has no
    /// ticket there.
    pub fn revivals(&self) -> u64 {
        self.connections.revivals()
    }

    /// How often Redis has failed in this way.
    pub fn failures(&self, failure: Failure) -> u64 {
        self.connections.failures(failure)
    }

    /// Has `note` told from now on how long each exchange waits for a connection: until one is free, or a new one is open,
    /// or the wait is given up. To be called once, for metrics; a second call changes nothing.
    pub fn note_connection_waits(&self, note: impl Fn(Duration) + Send + Sync + 'static) {
        self.connections.note_waits(note);
    }

    /// Whether Redis answers; of a cluster at least one node.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from answering.
    pub async fn health(&self) -> Result<(), QueueError> {
        let pings: Vec<Question> = (self.shards.iter())
            .map(|shard| Question::command(shard, "PING"))
            .collect();
        self.connections.ask(&pings).await.map(drop)
    }

    fn shard_of(&self, lane: Lane) -> usize {
        keys::shard_index(lane.endpoint_id, self.shards.len())
    }

    /// A call of a script with the arguments that all of them begin with.
    fn script(&self, script: &'static Script, shard: &Shard, arguments: usize) -> Question {
        let mut question = Question::script(shard, script, 4 + arguments);
        question
            .arg(&shard.prefix)
            .arg(self.limits.lane_in_flight_max)
            .arg(self.limits.tenant_in_flight_max)
            .arg(push::whole_ms(self.limits.breaker_open_max));
        question
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("shards", &self.shards.len())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
