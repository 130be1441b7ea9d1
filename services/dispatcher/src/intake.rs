//! Taking work in: Redis proposes, PostgreSQL confirms, attempts begin.
//!
//! One task owns this. It hands back what has been settled and asks for more in the same call, so
//! under load the settlements set the pace and nothing is polled; while nothing happens it sleeps on
//! the doorbell.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};
use zyven_crash_points::CrashPoint;
use zyven_domain::lease;
use zyven_domain::retry::{DeadLetterReason, LaneSignal};
use zyven_queue::{ClaimedTicket, Completion, Doorbell, Learned, Next, Queue, QueueError};
use zyven_runtime::pace::{Backoff, Rest};
use zyven_runtime::shutdown::Shutdown;
use zyven_runtime::supervisor::Chain;
use zyven_runtime::traces::Tracer;
use zyven_store::{ClaimedDelivery, RefusedTicket, Settlement, Store, StoreError};

use crate::attempt::{Attempt, Lease, settle_item, ticket_of};
use crate::breakers::{self, Herald};
use crate::client::{Client, Reachability};
use crate::config::LAST_FLUSH_TIME_MAX;
use crate::endpoints::{Endpoint, Endpoints};
use crate::health::Health;
use crate::presence::Presence;
use crate::settle::Finished;
use crate::statistics::Statistics;

/// Most tickets taken at once: what PostgreSQL confirms and records best in one statement.
const BATCH_MAX: usize = 128;
/// What the ticket's lease in Redis lasts beyond that, to spare a claim that PostgreSQL would refuse.
const TICKET_LEASE_MARGIN: Duration = Duration::from_secs(2);
/// The longest sleep. A bell may be lost, and expired leases are found by claiming.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// How long a delivery waits whose endpoint's secret cannot be opened: an operator has to act.
const SEALED_WAIT: Duration = Duration::from_secs(30);
/// How long a delivery waits whose endpoint is paused, should its lane not know that yet.
const PAUSED_WAIT: Duration = Duration::from_secs(1);
/// How long a delivery waits at most before it is tried again whether one before it in its order is
/// finished. Its chain in Redis offers it in that moment, unless Redis has lost it.
const BLOCKED_WAIT_MAX: Duration = Duration::from_secs(5);
/// And at least: the one before it may itself be overdue, and without a ticket.
const BLOCKED_WAIT_MIN: Duration = Duration::from_millis(250);
/// Between two tries to tell Redis what is settled, while stopping.
const FAREWELL_WAIT: Duration = Duration::from_millis(100);

/// Waits after a failed step.
pub(crate) const BACKOFF: Backoff = Backoff {
    min: Duration::from_millis(50),
    max: Duration::from_secs(2),
};

/// Why a step did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IntakeError {
    #[error("could not exchange tickets: {}", Chain(.0))]
    Queue(#[from] QueueError),
    #[error("could not claim deliveries: {}", Chain(.0))]
    Store(#[from] StoreError),
}

/// What attempts share.
pub(crate) struct Workshop {
    pub(crate) client: Arc<Client>,
    pub(crate) statistics: Arc<Statistics>,
    pub(crate) presence: Presence,
    pub(crate) tracer: Tracer,
    /// Told when the grace time is over: attempts let go of what they hold.
    pub(crate) give_up: watch::Receiver<bool>,
}

pub(crate) struct Intake {
    pub(crate) store: Store,
    pub(crate) queue: Queue,
    pub(crate) doorbell: Doorbell,
    pub(crate) endpoints: Endpoints,
    pub(crate) workshop: Arc<Workshop>,
    pub(crate) health: Health,
    pub(crate) herald: Herald,
    pub(crate) in_flight_max: usize,
    pub(crate) shutdown: Shutdown,
    /// Where results go.
    pub(crate) finished: mpsc::UnboundedSender<Finished>,
    /// Where they come back as completions.
    pub(crate) settled: mpsc::UnboundedReceiver<Vec<Completion>>,
    pub(crate) progress: Progress,
}

/// What one step leaves to the next.
#[derive(Default)]
pub(crate) struct Progress {
    /// Deliveries that were claimed and are not settled yet.
    held: usize,
    /// What Redis has not been told yet.
    completions: Vec<Completion>,
    /// The part of it for nodes that did not answer. It goes with the next exchange and is no reason for one.
    kept_back: Vec<Completion>,
    /// When to look again although nobody rang.
    look_at: Option<Instant>,
    /// A claim of which nobody knows whether it happened.
    unclear: Option<Unclear>,
}

struct Unclear {
    lease_token: i64,
    tickets: Vec<ClaimedTicket>,
}

impl Intake {
    /// Waits until there may be something to do, and does it: one call to Redis, and one claim in
    /// PostgreSQL if that brought tickets. Returns early, with nothing done, when asked to stop.
    ///
    /// # Errors
    /// Redis or PostgreSQL could not be asked. What is not done yet is part of the next step.
    pub(crate) async fn step(&mut self) -> Result<Rest, IntakeError> {
        self.wait().await;
        if self.shutdown.is_requested() {
            return Ok(Rest::None);
        }
        let done = self.exchange_tickets().await;
        let Workshop {
            client, presence, ..
        } = &*self.workshop;
        let can_send = presence.is_fresh().then(|| client.reachability());
        let away = self.queue.away();
        self.health.note(&done, away.as_ref(), can_send);
        done.map(|()| Rest::None)
    }

    async fn exchange_tickets(&mut self) -> Result<(), IntakeError> {
        self.resolve_unclear().await?;
        let is_present = self.workshop.presence.is_fresh();
        let tickets_max = self.tickets_wanted(is_present, self.workshop.client.reachability());
        let lease = self.endpoints.longest_timeout() + lease::MARGIN + TICKET_LEASE_MARGIN;
        let progress = &mut self.progress;
        progress.completions.append(&mut progress.kept_back);
        let claimed = self
            .queue
            .claim(tickets_max, lease, &progress.completions)
            .await?;
        progress.completions.clear();
        progress.kept_back = claimed.kept_back;
        let pause = claimed.next_due_in.unwrap_or(SLEEP_MAX).min(SLEEP_MAX);
        progress.look_at = Some(Instant::now() + pause);
        for event in &claimed.events {
            breakers::note(event, &self.workshop.statistics, &self.herald);
        }
        if claimed.tickets.is_empty() {
            return Ok(());
        }
        self.confirm(claimed.tickets).await?;
        Ok(())
    }

    /// Returns when something was settled, somebody rang, something is due, or stopping is requested.
    async fn wait(&mut self) {
        self.collect_settled();
        if !self.progress.completions.is_empty() || self.progress.unclear.is_some() {
            return;
        }
        let now = Instant::now();
        let look_in = match self.progress.look_at {
            Some(look_at) => look_at.saturating_duration_since(now),
            None => Duration::ZERO,
        };
        // Each is read once: were one to change between two looks, nothing might be left to wake this.
        let is_present = self.workshop.presence.is_fresh();
        let reachability = self.workshop.client.reachability();
        let (rest, is_closed) = match reachability {
            Reachability::Closed(rest) => (rest.max(look_in), true),
            Reachability::Open | Reachability::Doubtful => (look_in, false),
        };
        // Nothing is claimed then, but Redis is told and asked how it is.
        let rest = match self.progress.look_at {
            Some(_) if !is_present => SLEEP_MAX,
            Some(_) | None => rest,
        };
        // Without room for a ticket only a settlement helps.
        let listens = !is_closed && self.tickets_wanted(is_present, reachability) > 0;
        if rest.is_zero() && listens {
            return;
        }
        // All branches may be dropped at any await: a message stays in its channel, a bell is kept.
        tokio::select! {
            biased;
            Some(completions) = self.settled.recv() => {
                self.take_settled(completions);
                self.collect_settled();
            }
            () = self.shutdown.requested() => {}
            _ = self.doorbell.wait(rest), if listens => {}
            () = sleep(rest), if is_closed || !is_present => {}
            () = self.workshop.presence.confirmed(), if !is_present => {}
        }
    }

    fn free(&self) -> usize {
        self.in_flight_max.saturating_sub(self.progress.held)
    }

    /// While no proxy is believed to work, a single delivery finds out whether one does again. While
    /// PostgreSQL does not confirm that this dispatcher lives, nothing could be sent.
    fn tickets_wanted(&self, is_present: bool, reachability: Reachability) -> usize {
        if !is_present {
            return 0;
        }
        match reachability {
            Reachability::Open => self.free().min(BATCH_MAX),
            Reachability::Doubtful if self.progress.held == 0 => 1,
            Reachability::Doubtful | Reachability::Closed(_) => 0,
        }
    }

    fn collect_settled(&mut self) {
        while let Ok(completions) = self.settled.try_recv() {
            self.take_settled(completions);
        }
    }

    fn take_settled(&mut self, completions: Vec<Completion>) {
        let progress = &mut self.progress;
        progress.held -= completions.len();
        self.workshop.statistics.in_flight.set(progress.held as i64);
        if progress.completions.is_empty() {
            progress.completions = completions;
        } else {
            progress.completions.extend(completions);
        }
    }

    /// PostgreSQL's say over what Redis proposed; then the attempts begin.
    async fn confirm(&mut self, tickets: Vec<ClaimedTicket>) -> Result<(), StoreError> {
        let ids = tickets.iter().map(|ticket| ticket.lane.endpoint_id);
        let timeout = match self.endpoints.refresh(ids).await {
            Ok(timeout) => timeout,
            Err(error) => {
                self.put_back(&tickets);
                return Err(error);
            }
        };
        let seqs: Vec<i64> = tickets.iter().map(|ticket| ticket.seq).collect();
        let lease_time = timeout + lease::MARGIN;
        let Some(token) = self.workshop.presence.next_token() else {
            self.put_back(&tickets);
            return Ok(());
        };
        let lease = Lease::of(token, lease_time);
        CrashPoint::DispatcherBeforeClaim.reached();
        let claim = match self.store.claim(&seqs, lease.token, lease_time).await {
            Ok(claim) => claim,
            Err(error) if error.is_certain() => {
                self.put_back(&tickets);
                return Err(error);
            }
            Err(error) => {
                self.progress.unclear = Some(Unclear {
                    lease_token: lease.token,
                    tickets,
                });
                return Err(error);
            }
        };
        CrashPoint::DispatcherAfterClaim.reached();
        for refused in &claim.refused {
            self.hand_back(&tickets, refused);
        }
        let statistics = &self.workshop.statistics;
        self.progress.held += claim.claimed.len();
        statistics.in_flight.set(self.progress.held as i64);
        statistics.claim_batch.observe(claim.claimed.len() as f64);
        for delivery in claim.claimed {
            self.begin(delivery, lease);
        }
        Ok(())
    }

    /// Starts the attempt, or settles the delivery at once if there must be none.
    fn begin(&self, delivery: ClaimedDelivery, lease: Lease) {
        let dead = |reason| Settlement::DeadLetter {
            record: None,
            reason,
        };
        let settlement = match (&delivery.payload, self.endpoints.get(delivery.endpoint_id)) {
            (None, _) => {
                tracing::error!(
                    event.id = %delivery.event_id,
                    delivery.id = %delivery.delivery_id,
                    "the payload of an unfinished delivery is no longer stored"
                );
                dead(DeadLetterReason::PayloadMissing)
            }
            (Some(_), _) if delivery.expires_in(Utc::now()) == Some(Duration::ZERO) => {
                dead(DeadLetterReason::Expired)
            }
            (Some(payload), Some(Endpoint::Open(destination))) => {
                let attempt = Attempt {
                    payload: payload.clone(),
                    delivery,
                    destination,
                    lease,
                };
                return self.spawn(attempt);
            }
            (Some(_), Some(Endpoint::Closed(reason))) => dead(reason),
            (Some(_), Some(Endpoint::Paused)) => Settlement::Release {
                due_in: PAUSED_WAIT,
            },
            (Some(_), Some(Endpoint::Sealed)) => Settlement::Release {
                due_in: SEALED_WAIT,
            },
            // Its ticket goes into its own lane, and the next claim asks about its endpoint.
            (Some(_), None) => Settlement::Release {
                due_in: Duration::ZERO,
            },
        };
        let verdict = match &settlement {
            Settlement::DeadLetter { reason, .. } => reason.as_str(),
            _ => "release",
        };
        tracing::info!(
            tenant.id = %delivery.tenant_id,
            event.id = %delivery.event_id,
            delivery.id = %delivery.delivery_id,
            endpoint.id = %delivery.endpoint_id,
            verdict,
            "not attempted"
        );
        finish(&self.finished, unattempted(&delivery, lease, settlement));
    }

    fn spawn(&self, attempt: Attempt) {
        let workshop = Arc::clone(&self.workshop);
        let finished = self.finished.clone();
        // Ends with its attempt, which has a deadline, or when the grace time is over.
        tokio::spawn(async move {
            let mut give_up = workshop.give_up.clone();
            let began = Instant::now();
            let outcome = tokio::select! {
                biased;
                outcome = attempt.make(&workshop) => outcome,
                _ = give_up.wait_for(|given_up| *given_up) => {
                    CrashPoint::DispatcherBeforeRelease.reached();
                    attempt.log_cut_off(began.elapsed());
                    let due_in = Duration::ZERO;
                    unattempted(&attempt.delivery, attempt.lease, Settlement::Release { due_in })
                }
            };
            finish(&finished, outcome);
        });
    }

    fn hand_back(&mut self, tickets: &[ClaimedTicket], refused: &RefusedTicket) {
        self.workshop.statistics.refused.increment();
        let (seq, next) = match *refused {
            RefusedTicket::Finished { seq } => (seq, Next::Done),
            RefusedTicket::Later {
                seq,
                due_in,
                is_retry: false,
            } => (seq, Next::Later(due_in)),
            RefusedTicket::Later { seq, due_in, .. } => (seq, Next::Retry(due_in)),
            RefusedTicket::Blocked { seq, due_in } => {
                let wait = due_in.clamp(BLOCKED_WAIT_MIN, BLOCKED_WAIT_MAX);
                (seq, Next::Blocked(wait))
            }
        };
        if let Some(ticket) = tickets.iter().find(|ticket| ticket.seq == seq) {
            self.progress.completions.push(unused(*ticket, next));
        }
    }

    fn put_back(&mut self, tickets: &[ClaimedTicket]) {
        let back = tickets.iter().map(|ticket| unused(*ticket, Next::Back));
        self.progress.completions.extend(back);
    }

    /// After a claim of which nobody knows whether it happened, PostgreSQL is told to forget it.
    /// Waiting for its leases to end would do as well, and delay every delivery in it by that long.
    async fn resolve_unclear(&mut self) -> Result<(), StoreError> {
        let Some(unclear) = &self.progress.unclear else {
            return Ok(());
        };
        let seqs: Vec<i64> = unclear.tickets.iter().map(|ticket| ticket.seq).collect();
        self.store.unclaim(&seqs, unclear.lease_token).await?;
        if let Some(unclear) = self.progress.unclear.take() {
            self.put_back(&unclear.tickets);
        }
        Ok(())
    }

    /// Finishes what is held, within `grace`; then lets go of the rest. To be called once no further
    /// step is made. Returns how many deliveries are left in the hands of nobody, until their leases end.
    pub(crate) async fn drain(mut self, grace: Duration, give_up: watch::Sender<bool>) -> usize {
        let held = self.progress.held;
        tracing::info!(held, "finishing what is under way");
        let grace_ends = Instant::now() + grace;
        self.settle_until(grace_ends).await;
        if self.progress.held > 0 {
            tracing::warn!(
                held = self.progress.held,
                "the grace time is over; releasing the rest"
            );
            give_up.send_replace(true);
        }
        let last_moment = Instant::now() + LAST_FLUSH_TIME_MAX;
        self.settle_until(last_moment).await;
        if timeout_at(last_moment, self.resolve_unclear())
            .await
            .is_err()
        {
            tracing::warn!("PostgreSQL is away: a claim ends with its lease");
        }
        self.tell_queue(last_moment).await;
        if self.progress.held > 0 {
            tracing::error!(
                held = self.progress.held,
                "results that could not be recorded in time: these deliveries are attempted again when their leases end"
            );
        }
        self.progress.held
            + self
                .progress
                .unclear
                .map_or(0, |unclear| unclear.tickets.len())
    }

    /// Passes completions on as they come, until nothing is held or the time is up.
    async fn settle_until(&mut self, deadline: Instant) {
        while self.progress.held > 0 {
            let Ok(Some(completions)) = timeout_at(deadline, self.settled.recv()).await else {
                return;
            };
            self.take_settled(completions);
            self.collect_settled();
            let told = self
                .queue
                .claim(0, lease::MARGIN, &self.progress.completions);
            if let Ok(Ok(claimed)) = timeout_at(deadline, told).await {
                self.progress.completions = claimed.kept_back;
            }
        }
    }

    async fn tell_queue(&mut self, deadline: Instant) {
        let progress = &mut self.progress;
        progress.completions.append(&mut progress.kept_back);
        while !progress.completions.is_empty() {
            let told = (self.queue).claim(0, lease::MARGIN, &progress.completions);
            match timeout_at(deadline, told).await {
                Ok(Ok(claimed)) => progress.completions = claimed.kept_back,
                Ok(Err(error)) => tracing::debug!(%error, "could not tell Redis what is settled"),
                Err(_) => return,
            }
            if progress.completions.is_empty() || Instant::now() + FAREWELL_WAIT >= deadline {
                return; // what is left, Redis finds out by its leases
            }
            sleep(FAREWELL_WAIT).await;
        }
    }
}

/// What becomes of a delivery whose endpoint has shown nothing.
fn unattempted(delivery: &ClaimedDelivery, lease: Lease, settlement: Settlement) -> Finished {
    Finished {
        item: settle_item(delivery, lease, settlement),
        disable_endpoint: None,
        ticket: ticket_of(delivery),
        lane: LaneSignal::Neutral,
    }
}

/// A ticket that led to no attempt.
fn unused(ticket: ClaimedTicket, next: Next) -> Completion {
    Completion {
        ticket,
        learned: Learned::NothingSent,
        next,
    }
}

fn finish(finished: &mpsc::UnboundedSender<Finished>, result: Finished) {
    // The receiver ends only when all senders are gone, or when the process gives up; then the lease
    // runs out.
    let _ = finished.send(result);
}
