//! In PostgreSQL's place: commits, refuses, fails and loses answers as the scheduler likes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use shuttle::future::yield_now;
use shuttle::rand::{Rng, thread_rng};
use zyven_domain::id::{EventId, TenantId};

use crate::config::{FLUSH_BYTES_MAX, FLUSH_EVENTS_MAX};
use crate::sync::Notify;
use crate::{Accepted, NewEvent, StoreError};

/// What no statement that contains it survives.
pub(crate) const BAD: &[u8] = b"bad";
/// What has filters that go through more than others should wait for.
pub(crate) const COSTLY: &[u8] = b"costly";

/// The batcher's view of the database.
#[derive(Clone, Debug)]
pub struct Store {
    database: Arc<Mutex<Database>>,
    publisher_left: Arc<Notify>,
}

#[derive(Debug)]
pub(crate) struct Database {
    /// Each event with the number that is its answer.
    pub(crate) committed: BTreeMap<EventId, usize>,
    /// Everything that was ever part of a statement.
    pub(crate) seen: BTreeSet<EventId>,
    /// Statements under way, and the most there were.
    busy: usize,
    pub(crate) busy_max: usize,
    /// How many statements may still fail for no fault of theirs.
    failures_left: usize,
    /// How many statements may still hang until everybody else has been answered. None after one was refused: the
    /// requests in it are stored one after the other then, and wait for each other.
    hangs_left: usize,
    /// Publishers, each a tenant of its own, and those who want nothing more.
    publishers: usize,
    gone: BTreeSet<TenantId>,
}

impl Store {
    pub(crate) fn new(publishers: usize, failures: usize, hangs: usize) -> Self {
        Self {
            database: Arc::new(Mutex::new(Database {
                committed: BTreeMap::new(),
                seen: BTreeSet::new(),
                busy: 0,
                busy_max: 0,
                failures_left: failures,
                hangs_left: hangs,
                publishers,
                gone: BTreeSet::new(),
            })),
            publisher_left: Arc::new(Notify::new()),
        }
    }

    /// Never held across a point at which another task may go on.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut Database) -> T) -> T {
        look(&mut self.database.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// As the real one: all of a batch or nothing, and a batch that was committed before is recognised.
    ///
    /// # Errors
    /// Transient ones, with or without a commit behind them; a lasting one for a bad payload.
    pub async fn accept(&self, events: &[NewEvent]) -> Result<Vec<Accepted>, StoreError> {
        check_bounds(events);
        self.look(|database| {
            database.seen.extend(events.iter().map(|event| event.id));
            database.busy += 1;
            database.busy_max = database.busy_max.max(database.busy);
        });
        yield_now().await;
        // Those who are set aside do wait for each other.
        let is_aside = events.iter().any(|event| event.payload == COSTLY);
        assert!(!is_aside || events.iter().all(|event| event.payload == COSTLY));
        if !is_aside && self.look(Database::hangs) {
            self.hang(events).await;
        }
        let outcome = self.look(|database| database.execute(events));
        yield_now().await;
        self.look(|database| database.busy -= 1);
        outcome
    }

    /// As the real one: what filters go through, for each event.
    ///
    /// # Errors
    /// None.
    pub async fn filter_work(&self, events: &[&NewEvent]) -> Result<Vec<u64>, StoreError> {
        yield_now().await;
        let work = events.iter().map(|event| match event.payload == COSTLY {
            true => 1 << 20,
            false => 0,
        });
        Ok(work.collect())
    }

    /// Until nobody is left but those whose events these are: whoever else waits must not wait for them.
    async fn hang(&self, events: &[NewEvent]) {
        let own: BTreeSet<TenantId> = events.iter().map(|event| event.tenant_id).collect();
        loop {
            let left = self.publisher_left.notified();
            let alone =
                self.look(|database| database.gone.union(&own).count() == database.publishers);
            if alone {
                return;
            }
            left.await;
        }
    }

    /// A publisher wants nothing more.
    pub(crate) fn note_gone(&self, publisher: TenantId) {
        self.look(|database| database.gone.insert(publisher));
        self.publisher_left.notify_waiters();
    }
}

/// One request may be larger than a batch; two together may not.
fn check_bounds(events: &[NewEvent]) {
    let bytes: usize = events.iter().map(|event| event.payload.len()).sum();
    let is_one_request = events
        .windows(2)
        .all(|two| two[0].tenant_id == two[1].tenant_id);
    assert!(!events.is_empty(), "an empty statement");
    assert!(
        is_one_request || (events.len() <= FLUSH_EVENTS_MAX && bytes <= FLUSH_BYTES_MAX),
        "{} events of {bytes} bytes in one statement",
        events.len()
    );
}

impl Database {
    fn hangs(&mut self) -> bool {
        let hangs = self.hangs_left > 0 && thread_rng().gen_bool(0.2);
        self.hangs_left -= usize::from(hangs);
        hangs
    }

    fn execute(&mut self, events: &[NewEvent]) -> Result<Vec<Accepted>, StoreError> {
        if events.iter().any(|event| event.payload == BAD) {
            self.hangs_left = 0;
            return Err(StoreError::Unreadable {
                doing: "accepting events",
                what: "a bad payload".to_owned(),
            });
        }
        let fails = self.failures_left > 0 && thread_rng().gen_bool(0.4);
        let commits = !fails || thread_rng().gen_bool(0.5);
        let mut answers = Vec::with_capacity(events.len());
        if commits {
            for event in events {
                let number = self.committed.len() + 1;
                let deliveries = *self.committed.entry(event.id).or_insert(number);
                answers.push(Accepted::New { deliveries });
            }
        }
        if fails {
            self.failures_left -= 1;
            return Err(StoreError::RoutingUnsettled(0));
        }
        Ok(answers)
    }
}
