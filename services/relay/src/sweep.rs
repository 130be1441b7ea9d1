//! Walking over the whole outbox: slowly, to replace lost tickets; as fast as it goes, when Redis was
//! emptied.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use zyven_crash_points::CrashPoint;
use zyven_domain::id::EndpointId;
use zyven_runtime::pace::Rest;
use zyven_runtime::supervisor::Chain;
use zyven_store::{OutboxRow, Store};

use crate::RelayError;
use crate::term::{Offered, Term};

/// While nothing is wrong, walking takes one part of the time and resting the other nine: a backlog
/// of a million rows is then walked over in about a minute.
const REST_PER_WORK: u32 = 9;

/// How often to see whether Redis still has its epoch. A walk would notice too, but with nothing but
/// retries in the outbox that is up to a whole walk later.
const EPOCH_INTERVAL: Duration = Duration::from_secs(1);

/// Who has been due for less is on its way. Also the unit of the gauge.
const OVERDUE_MIN: Duration = Duration::from_secs(1);

/// How often to see how full Redis is.
const MEMORY_INTERVAL: Duration = Duration::from_secs(10);

/// Offers every row that should have a ticket, page by page, again and again.
pub struct Sweep {
    term: Arc<Term>,
    interval: Duration,
    walk: Option<Walk>,
    next_walk_at: Instant,
    epoch_seen_at: Option<Instant>,
    memory_seen_at: Option<Instant>,
    /// How often a node of Redis had come back when the last walk for that began.
    revivals_seen: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// Nothing is wrong, as far as is known.
    Scrub,
    /// This relay is new, and Redis has an epoch: whether everything has a ticket is unknown.
    TakeOver,
    /// Redis was emptied.
    Rebuild,
}

struct Walk {
    reason: Reason,
    started: Instant,
    position: i64,
    /// The page at `position`, if it was read ahead.
    ahead: Option<Vec<OutboxRow>>,
    rows: u64,
    waiting_for_retry: u64,
    added: u64,
    /// By endpoint: the longest that a delivery nobody holds has been due.
    overdue: HashMap<EndpointId, Duration>,
}

impl Sweep {
    /// A sweep that begins at once, at full speed: a new leader trusts nothing.
    pub fn new(term: Arc<Term>, interval: Duration) -> Self {
        Self {
            revivals_seen: term.queue.revivals(),
            term,
            interval,
            walk: None,
            next_walk_at: Instant::now(),
            epoch_seen_at: None,
            memory_seen_at: None,
        }
    }

    /// Looks after the epoch, then walks one page.
    ///
    /// # Errors
    ///
    /// PostgreSQL or Redis did not do their part. The next step does it again.
    pub async fn step(&mut self) -> Result<Rest, RelayError> {
        if self.is_epoch_in_doubt() {
            self.look_after_epoch().await?;
        }
        self.tell_changed_limits().await?;
        self.look_after_revivals().await?;
        self.watch_memory().await;
        match &self.walk {
            None if Instant::now() < self.next_walk_at => Ok(Rest::For(self.rest())),
            None => {
                self.term.statistics.lanes_mended.add(self.mend().await?);
                if let Some(epoch) = self.term.epoch() {
                    self.tell_all_limits(&epoch).await?;
                }
                self.walk = Some(Walk::new(Reason::Scrub));
                Ok(Rest::None)
            }
            Some(_) => self.walk_a_page().await,
        }
    }

    /// Walks over the whole outbox once, without rests.
    ///
    /// # Errors
    ///
    /// See [`Sweep::step`].
    pub async fn scrub(&mut self) -> Result<(), RelayError> {
        self.next_walk_at = Instant::now();
        self.step().await?;
        self.finish_walk().await
    }

    /// Begins a new epoch and gives every outbox row its ticket, whatever Redis holds.
    ///
    /// # Errors
    ///
    /// See [`Sweep::step`].
    pub async fn rebuild(&mut self) -> Result<(), RelayError> {
        self.begin_epoch().await?;
        self.finish_walk().await
    }

    async fn finish_walk(&mut self) -> Result<(), RelayError> {
        while self.walk.is_some() {
            self.step().await?;
        }
        Ok(())
    }

    /// True from finding Redis emptied until everything has a ticket again.
    pub fn is_rebuilding(&self) -> bool {
        self.walk
            .as_ref()
            .is_some_and(|walk| walk.reason == Reason::Rebuild)
    }

    fn is_epoch_in_doubt(&self) -> bool {
        !self.term.has_epoch()
            || self
                .epoch_seen_at
                .is_none_or(|seen| seen.elapsed() >= EPOCH_INTERVAL)
    }

    async fn look_after_epoch(&mut self) -> Result<(), RelayError> {
        let epoch = self.term.queue.epoch().await?;
        match (epoch, self.term.epoch()) {
            (None, _) => self.begin_epoch().await?,
            (Some(theirs), Some(ours)) if theirs == ours => {}
            (Some(theirs), _) => {
                // Begun by a leader before us, or by one that believes to be one still. Two that
                // answer each other with ever new epochs would keep Redis closed.
                tracing::info!(epoch = %theirs, "taking over the epoch that Redis has");
                self.tell_all_limits(&theirs).await?;
                self.start_over(theirs, Reason::TakeOver);
            }
        }
        self.epoch_seen_at = Some(Instant::now());
        Ok(())
    }

    /// A node that was left out lacks what was pushed meanwhile. It has its epoch, or the look at that has
    /// noticed.
    async fn look_after_revivals(&mut self) -> Result<(), RelayError> {
        let revivals = self.term.queue.revivals();
        let walks_fast = (self.walk.as_ref()).is_some_and(|walk| walk.reason != Reason::Scrub);
        // One after the other: a node that comes and goes must not keep a walk from its end.
        if revivals != self.revivals_seen && !walks_fast {
            if let Some(epoch) = self.term.epoch() {
                self.tell_all_limits(&epoch).await?;
                self.start_over(epoch, Reason::TakeOver);
            }
            self.revivals_seen = revivals;
        }
        Ok(())
    }

    /// Shows how full Redis is. That it may not be asked keeps nobody from working.
    async fn watch_memory(&mut self) {
        let is_fresh = |seen: Instant| seen.elapsed() < MEMORY_INTERVAL;
        if self.memory_seen_at.is_some_and(is_fresh) {
            return;
        }
        self.memory_seen_at = Some(Instant::now());
        match self.term.queue.memory().await {
            Ok(memory) => self.term.statistics.show_memory(memory),
            Err(error) => tracing::debug!(%error, "cannot see how full Redis is"),
        }
    }

    async fn begin_epoch(&mut self) -> Result<(), RelayError> {
        let epoch = self.term.queue.begin_epoch().await?;
        self.term.statistics.epochs_lost.increment();
        tracing::warn!(%epoch, "Redis has no epoch: giving everything a ticket again");
        self.epoch_seen_at = Some(Instant::now());
        // Nothing has a ticket yet, so no lane is served before it knows what it may do.
        self.tell_all_limits(&epoch).await?;
        self.start_over(epoch, Reason::Rebuild);
        Ok(())
    }

    /// An epoch that is lost meanwhile is noticed by the next look.
    async fn tell_all_limits(&self, epoch: &zyven_queue::Epoch) -> Result<(), RelayError> {
        let Term { store, queue, .. } = &*self.term;
        let told = self.term.limits.tell_all(store, queue, epoch);
        told.await.map(drop)
    }

    /// Without an epoch there is nobody to be told; whoever begins one tells all.
    async fn tell_changed_limits(&self) -> Result<(), RelayError> {
        let Term {
            store,
            queue,
            limits,
            ..
        } = &*self.term;
        match self.term.epoch() {
            Some(epoch) if limits.take_change() => {
                limits.tell_changed(store, queue, &epoch).await.map(drop)
            }
            Some(_) | None => Ok(()),
        }
    }

    fn start_over(&mut self, epoch: zyven_queue::Epoch, reason: Reason) {
        self.term.begin_walk(epoch);
        self.walk = Some(Walk::new(reason));
    }

    async fn walk_a_page(&mut self) -> Result<Rest, RelayError> {
        let Some(walk) = &mut self.walk else {
            return Ok(Rest::None);
        };
        let started = Instant::now();
        let store = &self.term.store;
        let mut page = match walk.ahead.take() {
            Some(page) => page,
            None => store.outbox_page(walk.position).await?,
        };
        let is_full = page.len() == Store::OUTBOX_PAGE_ROWS_MAX;
        let last_seq = page.last().map_or(walk.position, |row| row.seq);
        // What has not been handed over yet is not lost either.
        let handed_over = self.term.handed_over();
        page.retain(|row| row.seq <= handed_over);
        let goes_on = is_full && last_seq <= handed_over;

        // At full speed PostgreSQL reads the next page while Redis takes this one.
        let read_ahead = async {
            if goes_on && walk.reason != Reason::Scrub {
                store.outbox_page(last_seq).await.map(Some)
            } else {
                Ok(None)
            }
        };
        let (offered, ahead) = tokio::join!(self.term.offer(&page), read_ahead);
        let Offered::Accepted { added, .. } = offered? else {
            self.walk = None; // what it has done is lost; the next step looks after the epoch
            return Ok(Rest::None);
        };
        walk.position = last_seq;
        walk.rows += page.len() as u64;
        let retries = page.iter().filter(|row| row.waits_for_retry);
        walk.waiting_for_retry += retries.count() as u64;
        walk.added += added as u64;
        for row in (page.iter()).filter(|row| !row.leased && row.overdue >= OVERDUE_MIN) {
            let longest = walk.overdue.entry(row.endpoint_id).or_default();
            *longest = row.overdue.max(*longest);
        }
        walk.ahead = ahead?;
        if !goes_on {
            self.end_walk().await?;
            return Ok(Rest::None);
        }
        CrashPoint::RelayAmidWalk.reached();
        Ok(match walk.reason {
            Reason::Scrub => Rest::For(started.elapsed() * REST_PER_WORK),
            Reason::TakeOver | Reason::Rebuild => Rest::None,
        })
    }

    async fn end_walk(&mut self) -> Result<(), RelayError> {
        let Some(walk) = self.walk.take() else {
            return Ok(());
        };
        let statistics = &self.term.statistics;
        let took = walk.started.elapsed();
        match walk.reason {
            Reason::Scrub => {
                statistics.scrub_seconds.observe_duration(took);
                statistics.scrub_tickets_restored.add(walk.added);
            }
            Reason::TakeOver => statistics.scrub_tickets_restored.add(walk.added),
            Reason::Rebuild => {
                statistics.rebuild_seconds.observe_duration(took);
                statistics.rebuild_tickets.add(walk.added);
                tracing::warn!(
                    rows = walk.rows,
                    tickets = walk.added,
                    duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                    "Redis was filled again"
                );
            }
        }
        statistics.outbox_rows.set(walk.rows as i64);
        // What was not handed over yet was left out, so there is no third state.
        let dispatching = walk.rows - walk.waiting_for_retry;
        statistics.dispatching.set(dispatching as i64);
        (statistics.retry_scheduled).set(walk.waiting_for_retry as i64);
        let overdue = self.longest_overdue(walk.overdue).await;
        statistics.oldest_due.set(overdue.as_secs() as i64);
        self.next_walk_at = walk.started + self.interval;
        statistics.show(self.term.queue.depth().await?);
        Ok(())
    }

    /// Of what is not meant to wait: an endpoint that is paused or fails is no trouble of Zyven's. Who cannot be asked about hints
    /// counts all.
    async fn longest_overdue(&self, mut overdue: HashMap<EndpointId, Duration>) -> Duration {
        if !overdue.is_empty() {
            match self.term.store.endpoints_left_alone().await {
                Ok(left_alone) => {
                    for endpoint in left_alone {
                        overdue.remove(&endpoint);
                    }
                }
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "cannot see which endpoints are left alone");
                }
            }
        }
        overdue.into_values().max().unwrap_or_default()
    }

    async fn mend(&self) -> Result<u64, RelayError> {
        let mended = self.term.queue.mend().await?;
        if mended > 0 {
            tracing::warn!(lanes = mended, "corrected counts of tickets in flight");
        }
        Ok(mended)
    }

    fn rest(&self) -> Duration {
        self.next_walk_at
            .saturating_duration_since(Instant::now())
            .min(EPOCH_INTERVAL)
    }
}

impl Walk {
    fn new(reason: Reason) -> Self {
        Self {
            reason,
            started: Instant::now(),
            position: i64::MIN,
            ahead: None,
            rows: 0,
            waiting_for_retry: 0,
            added: 0,
            overdue: HashMap::new(),
        }
    }
}
