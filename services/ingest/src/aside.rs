//! Events that would keep others waiting, in a line of their own.
//!
//! A batch is one statement for the events of many publishers, and takes as long as the slowest of them. Two kinds are
//! slow through no fault of the database: those whose tenant has many filters for large payloads, which the statement
//! asks one after the other; and those whose idempotency key is held by somebody else's transaction that stays open.
//! Either would stop every publisher. They are stored here: tenant by tenant in turns, by one task, so that they have one
//! connection and others of their kind to wait for, and nobody else. The reasoning is in ADR 0028.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use zyven_domain::id::TenantId;
use zyven_store::{NewEvent, Store};

use crate::batcher::{Job, Refusal, Writer};
use crate::config::FLUSH_EVENTS_MAX;
use crate::statistics::Statistics;
use crate::sync::{Instant, Mutex, MutexGuard, Notify, sleep};

/// Bytes that the filters of one request may go through in a statement that others share: 20 ms at most.
const SHARED_WORK_MAX: u64 = 256 << 10;
/// And those of all requests in it.
const SHARED_WORK_SUM_MAX: u64 = 1 << 20;
/// Bytes that the filters of one tenant may go through in one turn, unless one request needs more.
const TURN_WORK_MAX: u64 = 8 << 20;
/// Bytes that the filters of one request may go through at all: 10 s at most, for which publishers are kept waiting.
const REQUEST_WORK_MAX: u64 = 128 << 20;
/// How long a tenant's events go aside after one of them was held up: it costs the others a second to find out.
const SUSPECT_TIME: Duration = Duration::from_secs(30);
/// Between two tries when everybody here is held up.
const REST: Duration = Duration::from_millis(50);

/// Why an event is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Its tenant's filters have much to go through.
    Filters(u64),
    /// Somebody holds its key, or did a moment ago.
    HeldUp,
}

/// The line. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Aside {
    line: Arc<Line>,
}

struct Line {
    // Held to put in or to take out, never across an await.
    waiting: Mutex<Waiting>,
    arrived: Notify,
    tenant_events_max: usize,
}

#[derive(Default)]
struct Waiting {
    /// Tenants in the order of their turns, each with its jobs in the order of their arrival.
    tenants: VecDeque<(TenantId, VecDeque<(Job, u64)>)>,
    /// Tenants one of whose events was held up, until when.
    suspects: HashMap<TenantId, Instant>,
    events: usize,
    closed: bool,
}

impl Aside {
    /// A line in which each tenant may have a quarter of `events_max` events.
    pub(crate) fn new(events_max: usize) -> Self {
        Self {
            line: Arc::new(Line {
                waiting: Mutex::default(),
                arrived: Notify::new(),
                tenant_events_max: events_max / 4,
            }),
        }
    }

    /// Takes out of `jobs` those that would keep the others waiting.
    pub(crate) async fn sort_out(
        &self,
        store: &Store,
        statistics: &Statistics,
        jobs: Vec<Job>,
    ) -> Vec<Job> {
        // Asked of all at once: a route that nobody remembers costs one question, and not one for each request. Without an
        // answer the batch meets the same trouble in a moment, and deals with it.
        let events: Vec<&NewEvent> = jobs.iter().flat_map(|job| &job.events).collect();
        let work = store.filter_work(&events).await.unwrap_or_default();
        let mut work = work.into_iter();
        let mut shared = Vec::with_capacity(jobs.len());
        let mut sum = 0;
        for job in jobs {
            let work: u64 = work.by_ref().take(job.events.len()).sum();
            let Some(tenant) = tenant_of(&job) else {
                continue;
            };
            if self.is_suspect(tenant) {
                self.take_over(job, Reason::HeldUp, statistics);
                continue;
            }
            if work > REQUEST_WORK_MAX {
                job.refuse(Refusal::TooCostly);
            } else if work > SHARED_WORK_MAX || sum + work > SHARED_WORK_SUM_MAX {
                self.take_over(job, Reason::Filters(work), statistics);
            } else {
                sum += work;
                shared.push(job);
            }
        }
        shared
    }

    /// Lets a job wait here for its turn.
    pub(crate) fn take_over(&self, job: Job, reason: Reason, statistics: &Statistics) {
        let Some(tenant) = tenant_of(&job) else {
            return;
        };
        let mut waiting = self.lock();
        let work = match reason {
            Reason::Filters(work) => work,
            Reason::HeldUp => {
                let until = Instant::now() + SUSPECT_TIME;
                waiting.suspects.insert(tenant, until);
                0
            }
        };
        let taken = waiting.put(tenant, job, work, self.line.tenant_events_max);
        drop(waiting);
        match taken {
            Ok(events) => {
                statistics.set_aside(reason).add(events as u64);
                self.line.arrived.notify_one();
            }
            Err(job) => job.refuse(Refusal::Overloaded),
        }
    }

    /// Events that wait here.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().events
    }

    /// Lets the writer end once nobody waits. To be called when nobody can come any more.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.line.arrived.notify_one();
    }

    /// Stores what comes, a tenant at a time, until closed and empty.
    pub(crate) async fn run(self, writer: Writer) {
        loop {
            let arrived = self.line.arrived.notified();
            let (jobs, is_over) = {
                let mut waiting = self.lock();
                (waiting.next(Instant::now()), waiting.closed)
            };
            if !jobs.is_empty() {
                let held_up = self.held_up();
                writer.store(jobs).await;
                if self.held_up() > held_up {
                    sleep(REST).await;
                }
            } else if is_over {
                return;
            } else {
                arrived.await;
            }
        }
    }

    fn is_suspect(&self, tenant: TenantId) -> bool {
        let mut waiting = self.lock();
        match waiting.suspects.get(&tenant) {
            None => false,
            Some(until) if *until > Instant::now() => true,
            Some(_) => {
                waiting.suspects.remove(&tenant);
                false
            }
        }
    }

    fn held_up(&self) -> usize {
        let waiting = self.lock();
        let jobs = waiting.tenants.iter().flat_map(|(_, jobs)| jobs);
        jobs.filter(|(_, work)| *work == 0).count()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.line
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// All events of a request are its caller's.
fn tenant_of(job: &Job) -> Option<TenantId> {
    job.events.first().map(|event| event.tenant_id)
}

impl Waiting {
    /// How many events came in, or the job if its tenant has too many here already.
    fn put(
        &mut self,
        tenant: TenantId,
        job: Job,
        work: u64,
        events_max: usize,
    ) -> Result<usize, Job> {
        let events = job.events.len();
        let index = self.tenants.iter().position(|(id, _)| *id == tenant);
        let Some(index) = index else {
            self.tenants
                .push_back((tenant, VecDeque::from([(job, work)])));
            self.events += events;
            return Ok(events);
        };
        let jobs = &mut self.tenants[index].1;
        let own: usize = jobs.iter().map(|(job, _)| job.events.len()).sum();
        if own + events > events_max {
            return Err(job);
        }
        jobs.push_back((job, work));
        self.events += events;
        Ok(events)
    }

    /// What the tenant whose turn it is has stored by one statement. What is past its deadline is dropped: its
    /// publisher was told to come again.
    fn next(&mut self, now: Instant) -> Vec<Job> {
        let mut turn = Vec::new();
        let (mut events, mut work) = (0, 0);
        let Some((tenant, mut jobs)) = self.tenants.pop_front() else {
            return turn;
        };
        while let Some((job, its_work)) = jobs.pop_front() {
            // One that was held up goes alone: it may be so again.
            let fits = events + job.events.len() <= FLUSH_EVENTS_MAX
                && work + its_work <= TURN_WORK_MAX
                && its_work > 0;
            if !turn.is_empty() && !fits {
                jobs.push_front((job, its_work));
                break;
            }
            self.events -= job.events.len();
            if job.deadline > now {
                events += job.events.len();
                work += its_work;
                turn.push(job);
                if its_work == 0 {
                    break;
                }
            }
        }
        if !jobs.is_empty() {
            self.tenants.push_back((tenant, jobs));
        } else if turn.is_empty() && !self.tenants.is_empty() {
            return self.next(now);
        }
        turn
    }
}
