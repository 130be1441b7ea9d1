//! The relay: gives every unfinished delivery a ticket in Redis.
//!
//! # Who acts
//!
//! Ingest commits outbox rows and rings the doorbell. [`HandOver`] reads the rows behind its cursor in
//! sequence order and pushes their tickets. It remembers the numbers it did not see ([`gaps`]), because
//! a slow transaction may still commit them. [`Sweep`] walks the whole outbox now and then and offers
//! whatever should have a ticket; when Redis has lost its epoch it begins a new one and walks at full
//! speed, which is the rebuild. It also tells lanes the limits their endpoints have. [`Watch`] listens for
//! dispatchers' beats, and [`Reclaim`] takes from the dead what they held. [`Maintenance`] cares for partitions and retention by a cron schedule.
//!
//! Any number of relays may run. One *leads* for a few seconds at a time, by a lease in PostgreSQL; the
//! others wait for it to fail. The statement that renews the lead also finds whatever else there may be to do, so
//! that a relay without work asks PostgreSQL little more than that (ADR 0041).
//!
//! # What is promised
//!
//! - With PostgreSQL and Redis up, every outbox row that is due has a ticket within one sweep, whatever
//!   was lost. In ordinary times it has one within a poll of its commit.
//! - Two leaders at the same time, a leader that dies between any two steps, a step done twice: all
//!   harmless. Pushing is idempotent, and nothing is ever decided here.
//! - PostgreSQL or Redis being away never ends the service. It backs off, says so once, tells its
//!   readiness the truth, and goes on where it was.
//!
//! # What is deliberately absent
//!
//! The relay changes no outbox row: a hand-over is one watermark, not an update per row. It holds no
//! transaction open, uses no LISTEN, and knows nothing of payloads.

mod config;
pub mod gaps;
mod hand_over;
mod horizon;
mod limits;
mod maintenance;
mod reclaim;
mod statistics;
mod sweep;
mod term;
mod watch;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;
use zyven_queue::{Queue, QueueError};
use zyven_runtime::doorbell::Doorbell;
use zyven_runtime::metrics::Metrics;
use zyven_runtime::pace::{self, Backoff, Rest};
use zyven_runtime::probes::{Condition, Readiness};
use zyven_runtime::shutdown::{Shutdown, Trigger};
use zyven_runtime::supervisor::Chain;
use zyven_store::{DispatcherBeat, Leadership, Store, StoreError};

pub use config::{Config, event_retention};
pub use hand_over::HandOver;
pub use maintenance::Maintenance;
pub use reclaim::Reclaim;
pub use statistics::Statistics;
pub use sweep::Sweep;
pub use term::Term;
pub use watch::Watch;

/// How long one claim to the lead lasts. A leader that dies is replaced within this and one poll.
const LEAD: Duration = Duration::from_secs(3);
/// How often the leader renews its claim, and how often the others try.
const LEAD_POLL: Duration = Duration::from_secs(1);

/// Short, because all that waits behind it is late already.
const BACKOFF: Backoff = Backoff {
    min: Duration::from_millis(50),
    max: Duration::from_secs(1),
};
/// Maintenance is in no hurry.
const MAINTENANCE_BACKOFF: Backoff = Backoff {
    min: Duration::from_secs(1),
    max: Duration::from_secs(60),
};

/// What the relay works with. The caller makes and owns it.
pub struct Dependencies {
    /// PostgreSQL.
    pub store: Store,
    /// Redis.
    pub queue: Queue,
    /// Where ingest says that there is something new.
    pub doorbell: Doorbell,
    /// Where to count.
    pub metrics: Metrics,
    /// Where to say whether it works.
    pub readiness: Readiness,
}

/// A step that did not happen. It is tried again. Displays its causes too, as it is only ever shown.
#[derive(Debug)]
pub enum RelayError {
    /// PostgreSQL's part of it.
    Store(StoreError),
    /// Redis' part of it.
    Queue(QueueError),
}

/// Runs until shutdown is requested. The steps under way are finished then, which takes a few seconds
/// at most unless PostgreSQL hangs. Nothing else ends it.
///
/// The process is not ready from the call on, not only from the first poll on.
pub fn run(
    config: Config,
    dependencies: Dependencies,
    shutdown: Shutdown,
) -> impl Future<Output = ()> + Send {
    let Dependencies {
        store,
        queue,
        doorbell,
        metrics,
        readiness,
    } = dependencies;
    let relay = Relay {
        holder: format!("{}-{}", std::process::id(), Uuid::now_v7().simple()),
        statistics: Statistics::new(&metrics).with_failures_of(&queue, &metrics),
        watch: Mutex::default(),
        hand_over_works: readiness.condition("relay_hand_over"),
        queue_is_filled: readiness.condition("relay_queue_filled"),
        doorbell,
        config,
        store,
        queue,
    };
    let relay = Arc::new(relay);
    let mut bell = relay.queue.lead_bell();
    let listen = async move |at_most| {
        bell.wait(at_most).await;
    };
    pace::run_with_alarm(
        "relay",
        shutdown.clone(),
        BACKOFF,
        listen,
        async move || relay.lead_if_possible(&shutdown).await,
    )
}

struct Relay {
    holder: String,
    config: Config,
    store: Store,
    queue: Queue,
    statistics: Statistics,
    /// Of followers as well: a new leader knows by then who has been silent. Never held across an await.
    watch: Mutex<Watch>,
    hand_over_works: Condition,
    queue_is_filled: Condition,
    doorbell: Doorbell,
}

/// What a relay has found by looking around.
struct Look {
    leadership: Leadership,
    /// Until when the lead lasts, if it has it; from before it was asked for.
    leads_until: Instant,
    /// Who has been silent for too long.
    silent: Vec<DispatcherBeat>,
    have_endpoints_changed: bool,
    has_rows: bool,
}

impl Relay {
    /// One try for the lead, and the term that follows if it succeeds.
    async fn lead_if_possible(self: &Arc<Self>, shutdown: &Shutdown) -> Result<Rest, RelayError> {
        let look = self.reported(self.look(None).await)?;
        match look.leadership {
            Leadership::Leader => {
                tracing::info!(holder = %self.holder, "leading");
                self.statistics.is_leading.set(1);
                // Boxed: it holds the futures of a whole term.
                Box::pin(self.serve(look, shutdown)).await;
                // What only a leader looks at is nobody's to show any more.
                self.statistics.show_nothing();
                self.store.resign_relay_lease(&self.holder).await?;
                // Whoever does not hear it looks within LEAD_POLL.
                if let Err(error) = self.queue.ring_for_lead().await {
                    tracing::debug!(%error, "nobody was told that the lead is free");
                }
                Ok(Rest::None)
            }
            Leadership::Follower => {
                // Whoever waits must be able to take over.
                self.reported(self.queue.health().await.map_err(RelayError::from))?;
                self.hand_over_works.ready();
                self.queue_is_filled.ready();
                Ok(Rest::For(LEAD_POLL))
            }
        }
    }

    /// Tries to lead, and looks around. Behind a look that failed nobody can have beaten either: what is not heard
    /// meanwhile is no evidence.
    async fn look(&self, after_seq: Option<i64>) -> Result<Look, RelayError> {
        let began = Instant::now();
        let looked = (self.store)
            .relay_look(&self.holder, LEAD, limits::CHANGED_WITHIN, after_seq)
            .await;
        match looked {
            Ok(look) => Ok(Look {
                leadership: look.leadership,
                leads_until: began + LEAD,
                silent: self.watch().look(&look.beats, began, Instant::now()),
                have_endpoints_changed: look.have_endpoints_changed,
                has_rows: look.has_rows,
            }),
            Err(error) => {
                self.watch().interrupt();
                Err(error.into())
            }
        }
    }

    /// Leads from a look that took the lead, until that is lost or shutdown is requested.
    async fn serve(self: &Arc<Self>, look: Look, shutdown: &Shutdown) {
        let (end, ended) = Shutdown::new();
        let term = Arc::new(Term::new(
            self.store.clone(),
            self.queue.clone(),
            self.statistics.clone(),
        ));
        tokio::join!(
            self.keep_leading(look, &term, end, shutdown),
            Arc::clone(self).hand_over(Arc::clone(&term), ended.clone()),
            Arc::clone(self).sweep(Arc::clone(&term), ended.clone()),
            // Boxed: together they would be larger than a future should be.
            Box::pin(reclaim(Arc::clone(&term), ended.clone())),
            Arc::clone(self).maintain(ended.clone()),
            Arc::clone(self).watch_horizon(ended),
        );
    }

    async fn hand_over(self: Arc<Self>, term: Arc<Term>, ended: Shutdown) {
        let mut hand_over = HandOver::new(Arc::clone(&term), self.config.poll_interval);
        let (relay, rung) = (Arc::clone(&self), Arc::clone(&term));
        // Either may be dropped at any moment: a ring stays in its socket, news in their place.
        let listen = async move |at_most| {
            tokio::select! {
                _ = relay.doorbell.rung(at_most) => {}
                () = rung.news().notified() => {}
            }
        };
        pace::run_with_alarm("relay hand-over", ended, BACKOFF, listen, async move || {
            let step = self.reported(hand_over.step().await);
            if step.is_ok() && term.has_epoch() {
                self.hand_over_works.ready();
            }
            step
        })
        .await;
    }

    async fn sweep(self: Arc<Self>, term: Arc<Term>, ended: Shutdown) {
        let mut sweep = Sweep::new(Arc::clone(&term), self.config.scrub_interval);
        let listen = async move |at_most| pace::notified(term.alarm(), at_most).await;
        pace::run_with_alarm("relay sweep", ended, BACKOFF, listen, async move || {
            let step = sweep.step().await;
            match &step {
                Err(error) => self.queue_is_filled.not_ready(error.to_string()),
                Ok(_) if sweep.is_rebuilding() => self
                    .queue_is_filled
                    .not_ready("Redis was emptied and is being filled again"),
                Ok(_) => match self.queue.away() {
                    None => self.queue_is_filled.ready(),
                    Some(error) => {
                        let error = RelayError::from(error);
                        let reason = format!("a node of Redis is left out: {error}");
                        self.queue_is_filled.not_ready(reason);
                    }
                },
            }
            step
        })
        .await;
    }

    async fn maintain(self: Arc<Self>, ended: Shutdown) {
        let mut maintenance = Maintenance::new(
            self.config.clone(),
            self.store.clone(),
            self.statistics.clone(),
        );
        pace::run(
            "relay maintenance",
            ended,
            MAINTENANCE_BACKOFF,
            async move || maintenance.step().await,
        )
        .await;
    }

    async fn watch_horizon(self: Arc<Self>, ended: Shutdown) {
        pace::run(
            "relay horizon",
            ended,
            MAINTENANCE_BACKOFF,
            async move || horizon::step(&self.store, &self.statistics).await,
        )
        .await;
    }

    /// Renews the lead, sees to what it finds on the way, and ends the term (by dropping `end`) when it is lost.
    async fn keep_leading(&self, look: Look, term: &Term, end: Trigger, shutdown: &Shutdown) {
        let mut leads_until = look.leads_until;
        // Of the endpoints the sweep tells everything by itself at first.
        self.bury(&look.silent, term).await;
        loop {
            tokio::select! {
                () = shutdown.requested() => break,
                () = tokio::time::sleep(LEAD_POLL) => {}
            }
            match self.look(term.looked_after()).await {
                Ok(look) => {
                    match look.leadership {
                        Leadership::Leader => leads_until = look.leads_until,
                        Leadership::Follower => {
                            tracing::warn!(holder = %self.holder, "another relay has taken the lead");
                            break;
                        }
                    }
                    if look.have_endpoints_changed {
                        term.note_changed_endpoints();
                    }
                    if look.has_rows {
                        term.news().notify_one();
                    }
                    self.bury(&look.silent, term).await;
                }
                // The other tasks meet the same error and say so; one that rests is woken for that. Going on is
                // harmless until somebody else may lead, and pointless after.
                Err(_) if Instant::now() < leads_until => term.news().notify_one(),
                Err(error) => {
                    tracing::warn!(%error, "the lead has run out");
                    break;
                }
            }
        }
        drop(end);
    }

    /// Declares those dead who have been silent for too long. The look that found them has renewed the lead:
    /// PostgreSQL takes writes, so it would have taken beats.
    async fn bury(&self, silent: &[DispatcherBeat], term: &Term) {
        for silent in silent {
            match self.store.declare_dead(silent.number, silent.beat).await {
                Ok(true) => {
                    tracing::warn!(dispatcher = %silent.number, "a dispatcher has fallen silent and is declared dead");
                    self.statistics.dispatchers_lost.increment();
                    term.death().notify_one();
                }
                // It has said something after all, or has left.
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "could not declare a dispatcher dead"),
            }
        }
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        // Forgetting what was heard is harmless, and half of it is never written.
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reported<T>(&self, outcome: Result<T, RelayError>) -> Result<T, RelayError> {
        if let Err(error) = &outcome {
            self.hand_over_works.not_ready(error.to_string());
        }
        outcome
    }
}

async fn reclaim(term: Arc<Term>, ended: Shutdown) {
    let mut reclaim = Reclaim::new(Arc::clone(&term), ended.clone());
    let listen = async move |at_most| pace::notified(term.death(), at_most).await;
    pace::run_with_alarm("relay reclaim", ended, BACKOFF, listen, async move || {
        reclaim.step().await
    })
    .await;
}

impl fmt::Display for RelayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => Chain(error).fmt(f),
            Self::Queue(error) => Chain(error).fmt(f),
        }
    }
}

impl std::error::Error for RelayError {}

impl From<StoreError> for RelayError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<QueueError> for RelayError {
    fn from(error: QueueError) -> Self {
        Self::Queue(error)
    }
}
