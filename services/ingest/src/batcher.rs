//! Natural micro-batches: events wait in one bounded queue, and the writer that comes back from the
//! database takes everything that is waiting. Under light load an event is alone and leaves at once,
//! under heavy load a batch grows while the one before it is being committed.
//!
//! A small batch costs several times as much per event as a big one, so a second writer does not run
//! after every event that comes while the first is busy: it waits until a good batch is there, or
//! until the first is so late that something must be wrong with it.
//!
//! What would keep others waiting shares no statement with them: see [`crate::aside`].
//!
//! An event in the queue is stored even if its publisher has hung up, because nobody can tell whether
//! it has. One whose deadline passed while it waited is not: its publisher was told to come again.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use zyven_crash_points::CrashPoint;
use zyven_runtime::doorbell::Bell;
use zyven_runtime::pace::Backoff;
use zyven_runtime::supervisor::Chain;
use zyven_store::{Accepted, NewEvent, Store, StoreError};

use crate::aside::{Aside, Reason};
use crate::body::Share;
use crate::config::{FLUSH_BYTES_MAX, FLUSH_EVENTS_MAX};
use crate::statistics::Statistics;
use crate::sync::{Instant, Mutex, MutexGuard, Notify, oneshot, sleep, timeout, timeout_at};

/// Between two tries to store the same batch.
const BACKOFF: Backoff = Backoff {
    min: Duration::from_millis(25),
    max: Duration::from_secs(1),
};

/// Events that are worth another writer while one is busy: the cost per event hardly falls beyond.
const GOOD_BATCH_EVENTS: usize = FLUSH_EVENTS_MAX / 2;
/// An event that has waited this long is worth another writer, too: a commit takes a few milliseconds
/// unless a connection hangs.
const STALLED: Duration = Duration::from_millis(20);

/// Why events were not stored, as far as their publisher needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The queue is full. Nothing happened.
    Overloaded,
    /// The database did not answer in time. Nobody knows what happened.
    Unavailable,
    /// The filters that would have to be asked would take too long. Nothing happened.
    TooCostly,
    /// The database refused the statement.
    Internal,
}

type Verdict = Result<Vec<Accepted>, Refusal>;

/// The events of one request.
pub(crate) struct Job {
    pub(crate) events: Vec<NewEvent>,
    pub(crate) arrived_at: Instant,
    pub(crate) deadline: Instant,
    pub(crate) reply: oneshot::Sender<Verdict>,
    /// Given back when the bytes are gone.
    pub(crate) share: Share,
}

impl Job {
    pub(crate) fn refuse(self, refusal: Refusal) {
        // A publisher that has hung up is none of our concern.
        let _ = self.reply.send(Err(refusal));
    }
}

/// The way in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Batcher {
    queue: Arc<Queue>,
    deadline: Duration,
}

struct Queue {
    // Held to push, to take or to count, never across an await.
    jobs: Mutex<Waiting>,
    /// Told when a writer should have a look; a permit is kept if none is listening.
    arrived: Notify,
    events_max: usize,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    events: usize,
    /// Writers that are storing something.
    busy: usize,
    closed: bool,
}

/// What a writer finds when it looks.
enum Look {
    Take(Vec<Job>),
    /// Nothing for it at present; if given, it should look again after this time.
    Wait(Option<Duration>),
    End,
}

impl Batcher {
    pub(crate) fn new(events_max: usize, deadline: Duration) -> Self {
        Self {
            queue: Arc::new(Queue {
                jobs: Mutex::default(),
                arrived: Notify::new(),
                events_max,
            }),
            deadline,
        }
    }

    /// Stores `events` in one transaction, together with others' that wait at the same time, and
    /// returns what became of each. Dropping the future takes nothing back.
    pub(crate) async fn store(&self, events: Vec<NewEvent>, share: Share) -> Verdict {
        let arrived_at = Instant::now();
        let deadline = arrived_at + self.deadline;
        let (reply, verdict) = oneshot::channel();
        self.queue.push(Job {
            events,
            arrived_at,
            deadline,
            reply,
            share,
        })?;
        match timeout_at(deadline, verdict).await {
            Ok(Ok(verdict)) => verdict,
            // The writers were cut off at the end of their grace time, or are still at it.
            Ok(Err(_)) | Err(_) => Err(Refusal::Unavailable),
        }
    }

    /// Events that wait for a writer.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.lock().events
    }

    /// Lets writers end once the queue is empty. Jobs that come later are refused.
    pub(crate) fn close(&self) {
        self.queue.lock().closed = true;
        self.queue.arrived.notify_waiters();
        self.queue.arrived.notify_one();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Job) -> Result<(), Refusal> {
        let mut waiting = self.lock();
        if waiting.closed || waiting.events + job.events.len() > self.events_max {
            return Err(Refusal::Overloaded);
        }
        // Each of these is one condition under which a writer acts; anything else would wake one in
        // vain. The first job in line starts the time after which it is stalled.
        let is_news = waiting.busy == 0 || waiting.jobs.is_empty();
        waiting.events += job.events.len();
        waiting.jobs.push_back(job);
        let is_good_batch = waiting.events >= GOOD_BATCH_EVENTS;
        drop(waiting);
        if is_news || is_good_batch {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// As many jobs as make one batch, at least one; `None` once closed and empty. Whoever took jobs
    /// calls [`Queue::stored`] when done with them.
    async fn take(&self) -> Option<Vec<Job>> {
        loop {
            let arrived = self.arrived.notified();
            let look = self.lock().look(Instant::now());
            match look {
                Look::Take(jobs) => {
                    if self.lock().events > 0 {
                        // Whether that is worth another writer, it finds out itself.
                        self.arrived.notify_one();
                    }
                    return Some(jobs);
                }
                Look::Wait(None) => arrived.await,
                Look::Wait(Some(at_most)) => {
                    // Which of the two it was makes no difference to the next look.
                    let _ = timeout(at_most, arrived).await;
                }
                Look::End => {
                    self.arrived.notify_one();
                    return None;
                }
            }
        }
    }

    fn stored(&self) {
        self.lock().busy -= 1;
    }
}

impl Waiting {
    fn look(&mut self, now: Instant) -> Look {
        let Some(first) = self.jobs.front() else {
            return if self.closed {
                Look::End
            } else {
                Look::Wait(None)
            };
        };
        let waited = now.saturating_duration_since(first.arrived_at);
        let is_my_turn =
            self.busy == 0 || self.events >= GOOD_BATCH_EVENTS || waited >= STALLED || self.closed;
        if !is_my_turn {
            return Look::Wait(Some(STALLED - waited));
        }
        let jobs = self.take_batch(now);
        if jobs.is_empty() {
            // All were past their deadline.
            return Look::Wait(Some(Duration::ZERO));
        }
        self.busy += 1;
        Look::Take(jobs)
    }

    fn take_batch(&mut self, now: Instant) -> Vec<Job> {
        let mut batch: Vec<Job> = Vec::new();
        let (mut events, mut bytes) = (0, 0);
        while let Some(next) = self.jobs.front() {
            let next_events = next.events.len();
            let next_bytes: usize = next.events.iter().map(|event| event.payload.len()).sum();
            let fits =
                events + next_events <= FLUSH_EVENTS_MAX && bytes + next_bytes <= FLUSH_BYTES_MAX;
            if !batch.is_empty() && !fits {
                break;
            }
            let Some(job) = self.jobs.pop_front() else {
                break;
            };
            self.events -= next_events;
            if job.deadline > now {
                events += next_events;
                bytes += next_bytes;
                batch.push(job);
            }
        }
        batch
    }
}

/// What a writer works with.
#[derive(Clone)]
pub(crate) struct Writer {
    pub(crate) store: Store,
    pub(crate) bell: Bell,
    pub(crate) statistics: Arc<Statistics>,
    /// Where those go who would keep others waiting.
    pub(crate) aside: Aside,
}

impl Writer {
    /// Stores what comes until the batcher is closed and empty.
    pub(crate) async fn run(self, batcher: Batcher) {
        while let Some(jobs) = batcher.queue.take().await {
            self.flush(jobs).await;
            batcher.queue.stored();
        }
    }

    /// Stores one batch, without those who would keep the others waiting.
    async fn flush(&self, jobs: Vec<Job>) {
        let jobs = self
            .aside
            .sort_out(&self.store, &self.statistics, jobs)
            .await;
        if !jobs.is_empty() {
            self.store(jobs).await;
        }
    }

    /// Stores one batch, trying again as long as anybody may be waiting for it, and answers.
    pub(crate) async fn store(&self, jobs: Vec<Job>) {
        let batch = Batch::of(jobs);
        self.statistics
            .batch_events
            .observe(batch.events.len() as f64);
        let mut failures = 0;
        loop {
            CrashPoint::IngestBeforeCommit.reached();
            let error = match self.store.accept(&batch.events).await {
                Ok(accepted) => return self.answer(batch, accepted),
                Err(error) => error,
            };
            if error.is_of_the_content() || !error.is_transient() {
                return self.tell_apart(batch, &error).await;
            }
            failures += 1;
            let wait = BACKOFF.wait(failures);
            if Instant::now() + wait >= batch.deadline {
                self.give_up(&error);
                self.statistics.note_storing_failed();
                return batch.refuse(Refusal::Unavailable);
            }
            if failures == 1 {
                tracing::warn!(error = %Chain(&error), events = batch.events.len(),
                    "events cannot be stored at the moment; trying again");
            }
            sleep(wait).await;
        }
    }

    /// One request must not fail, or wait, for another one's sake.
    async fn tell_apart(&self, batch: Batch, error: &StoreError) {
        let mut jobs = batch.into_jobs();
        if jobs.len() > 1 {
            tracing::warn!(error = %Chain(error), "a batch cannot be stored; storing its requests one by one");
            for job in jobs {
                Box::pin(self.flush(vec![job])).await;
            }
            return;
        }
        let Some(job) = jobs.pop() else {
            return;
        };
        if error.is_of_the_content() {
            self.aside.take_over(job, Reason::HeldUp, &self.statistics);
        } else {
            self.give_up(error);
            job.refuse(Refusal::Internal);
        }
    }

    fn give_up(&self, error: &StoreError) {
        self.statistics.batches_failed.increment();
        tracing::error!(error = %Chain(error), "events were not stored");
    }

    fn answer(&self, batch: Batch, accepted: Vec<Accepted>) {
        CrashPoint::IngestAfterCommit.reached();
        let new = |result: &&Accepted| matches!(result, Accepted::New { .. });
        let deliveries: usize = accepted
            .iter()
            .map(|result| match result {
                Accepted::New { deliveries } => *deliveries,
                Accepted::Repeated { .. } | Accepted::Conflict { .. } => 0,
            })
            .sum();
        if deliveries > 0 {
            self.bell.ring();
        }
        self.statistics
            .accepted
            .add(accepted.iter().filter(new).count() as u64);
        self.statistics.deliveries.add(deliveries as u64);
        let mut results = accepted.into_iter();
        for waiter in batch.waiters {
            let own: Vec<Accepted> = results.by_ref().take(waiter.events).collect();
            // A publisher that has hung up is none of our concern: its events are stored.
            let _ = waiter.reply.send(Ok(own));
        }
    }
}

/// Jobs laid end to end.
struct Batch {
    events: Vec<NewEvent>,
    waiters: Vec<Waiter>,
    /// The last of the jobs' deadlines: until then somebody may be waiting.
    deadline: Instant,
}

struct Waiter {
    events: usize,
    arrived_at: Instant,
    deadline: Instant,
    reply: oneshot::Sender<Verdict>,
    share: Share,
}

impl Batch {
    fn of(jobs: Vec<Job>) -> Self {
        let mut batch = Self {
            events: Vec::with_capacity(jobs.iter().map(|job| job.events.len()).sum()),
            waiters: Vec::with_capacity(jobs.len()),
            deadline: Instant::now(),
        };
        for mut job in jobs {
            batch.deadline = batch.deadline.max(job.deadline);
            batch.waiters.push(Waiter {
                events: job.events.len(),
                arrived_at: job.arrived_at,
                deadline: job.deadline,
                reply: job.reply,
                share: job.share,
            });
            batch.events.append(&mut job.events);
        }
        batch
    }

    fn into_jobs(mut self) -> Vec<Job> {
        let mut jobs = Vec::with_capacity(self.waiters.len());
        for waiter in self.waiters {
            jobs.push(Job {
                events: self.events.drain(..waiter.events).collect(),
                arrived_at: waiter.arrived_at,
                deadline: waiter.deadline,
                reply: waiter.reply,
                share: waiter.share,
            });
        }
        jobs
    }

    fn refuse(self, refusal: Refusal) {
        for waiter in self.waiters {
            let _ = waiter.reply.send(Err(refusal));
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use zyven_domain::event::{ContentType, DeliveryOptions, EventType};
    use zyven_domain::id::{EventId, TenantId};

    use super::*;
    use crate::body::Room;

    fn job(events: usize, deadline: Instant) -> Job {
        let event = || NewEvent {
            id: EventId::new(),
            tenant_id: TenantId::new(),
            event_type: EventType::parse("a").expect("a type"),
            payload: Bytes::from_static(b"{}"),
            content_type: ContentType::Json,
            channels: Vec::new(),
            source: None,
            traceparent: None,
            options: DeliveryOptions::default(),
            idempotency: None,
        };
        Job {
            events: (0..events).map(|_| event()).collect(),
            arrived_at: Instant::now(),
            deadline,
            reply: oneshot::channel().0,
            share: Room::new(1).empty_share(),
        }
    }

    fn batcher(events_max: usize) -> Batcher {
        Batcher::new(events_max, Duration::from_secs(10))
    }

    #[tokio::test]
    async fn a_writer_takes_what_is_waiting_up_to_a_batch() {
        let batcher = batcher(1_000);
        let later = Instant::now() + Duration::from_secs(10);
        for events in [1, 100, 27, 1, 500, 3] {
            assert!(batcher.queue.push(job(events, later)).is_ok());
        }
        assert_eq!(batcher.waiting(), 632);
        let mut taken = Vec::new();
        for _ in 0..4 {
            let jobs = batcher.queue.take().await.expect("jobs");
            batcher.queue.stored();
            taken.push(jobs.iter().map(|job| job.events.len()).collect::<Vec<_>>());
        }
        assert_eq!(taken, [vec![1, 100, 27], vec![1], vec![500], vec![3]]);
        assert_eq!(batcher.waiting(), 0);
    }

    #[test]
    fn a_second_writer_waits_for_a_good_batch_or_a_stalled_event() {
        let now = Instant::now();
        let waiting = |busy: usize, events: usize| {
            let mut waiting = Waiting {
                busy,
                ..Waiting::default()
            };
            waiting.events = events;
            waiting.jobs.extend((0..events).map(|_| Job {
                arrived_at: now,
                ..job(1, now + Duration::from_secs(10))
            }));
            waiting
        };
        let taken = |busy, events, waited| match waiting(busy, events).look(now + waited) {
            Look::Take(jobs) => Ok(jobs.len()),
            Look::Wait(at_most) => Err(at_most),
            Look::End => panic!("nobody has closed it"),
        };
        let moment = Duration::from_millis(1);
        assert_eq!(taken(0, 1, Duration::ZERO), Ok(1), "nobody is busy");
        assert_eq!(taken(1, 1, moment), Err(Some(STALLED - moment)));
        let few = GOOD_BATCH_EVENTS - 1;
        assert_eq!(taken(1, few, moment), Err(Some(STALLED - moment)));
        assert_eq!(taken(1, few + 1, moment), Ok(few + 1), "a good batch");
        assert_eq!(taken(1, 1, STALLED), Ok(1), "the other one is late");
        assert_eq!(taken(1, 0, moment), Err(None));
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_a_closed_one_is_emptied_first() {
        let batcher = batcher(10);
        let later = Instant::now() + Duration::from_secs(10);
        assert!(batcher.queue.push(job(8, later)).is_ok());
        let refused = batcher.queue.push(job(3, later));
        assert_eq!(refused.err(), Some(Refusal::Overloaded));
        batcher.close();
        assert!(batcher.queue.push(job(1, later)).is_err());
        assert!(batcher.queue.take().await.is_some());
        assert!(batcher.queue.take().await.is_none());
        assert!(batcher.queue.take().await.is_none(), "for every writer");
    }

    #[tokio::test]
    async fn what_waited_past_its_deadline_is_not_stored() {
        let batcher = batcher(10);
        let now = Instant::now();
        assert!(batcher.queue.push(job(1, now)).is_ok());
        assert!(
            batcher
                .queue
                .push(job(2, now + Duration::from_secs(10)))
                .is_ok()
        );
        let jobs = batcher.queue.take().await.expect("the second job");
        assert_eq!(jobs.len(), 1);
        assert_eq!(jobs[0].events.len(), 2);
        assert_eq!(batcher.waiting(), 0);
    }
}
