//! The accounts of a run: what was acknowledged, what arrived, what the database says, and whether they agree.
//!
//! A delivery is *taken* when the receiver has decided to answer it 2xx, whether or not that answer gets through:
//! from then on the receiver has processed it, and another arrival is a duplicate. An arrival that is answered
//! otherwise is followed by a retry, which is none.

mod account;
mod arrivals;
mod duplicates;
mod records;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use uuid::Uuid;
use zyven_testkit::Receiver;

use crate::event::EventSource;
use crate::fleet::{Endpoint, Fleet};

pub use account::Account;
pub use arrivals::Mood;
pub use duplicates::Source;

use arrivals::{Arrival, Treatment};

/// Between two looks at whether everything has settled.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Why a try of a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// The connection was refused, broke, or stayed silent.
    NoAnswer,
    /// 429 or 5xx.
    Status(u16),
}

/// See the module. Cheap to clone; all clones are one ledger.
#[derive(Clone)]
pub struct Ledger(Arc<Mutex<Pages>>);

struct Pages {
    source: EventSource,
    endpoints: Vec<Endpoint>,
    mood: Mood,
    events: BTreeMap<u64, Entry>,
    failures: BTreeMap<Failure, u64>,
    /// What must not be, in words; the first few, and how many there were.
    altered: Complaints,
    bad_signatures: Complaints,
    refused: Complaints,
    accepted_twice: Complaints,
    strange: Complaints,
}

/// An event, from the publisher's point of view.
#[derive(Default)]
struct Entry {
    failed_tries: u32,
    acknowledged: Option<(SystemTime, Uuid)>,
    arrivals: Vec<Arrival>,
}

/// Sentences about what went wrong, of which a few are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Complaints {
    /// How many there were.
    pub count: u64,
    /// The first of them.
    pub first: Vec<String>,
}

impl Complaints {
    const KEPT: usize = 5;

    fn add(&mut self, complaint: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < Self::KEPT {
            self.first.push(complaint());
        }
    }
}

impl Ledger {
    /// A ledger for these endpoints, which answers their requests from now on.
    #[must_use]
    pub fn open(source: EventSource, endpoints: Vec<Endpoint>, receiver: &Receiver) -> Self {
        let ledger = Self(Arc::new(Mutex::new(Pages {
            source,
            endpoints,
            mood: Mood::Well,
            events: BTreeMap::new(),
            failures: BTreeMap::new(),
            altered: Complaints::default(),
            bad_signatures: Complaints::default(),
            refused: Complaints::default(),
            accepted_twice: Complaints::default(),
            strange: Complaints::default(),
        })));
        let book = ledger.clone();
        receiver.answer_by(move |request| Some(book.pages().arrive(request, SystemTime::now())));
        ledger
    }

    /// How the receiver answers from now on.
    pub fn set_mood(&self, mood: Mood) {
        self.pages().mood = mood;
    }

    /// An event is about to be published.
    pub fn sent(&self, number: u64) {
        self.pages().events.entry(number).or_default();
    }

    /// A try of its request failed; it is repeated.
    pub fn failed(&self, number: u64, failure: Failure) {
        let mut pages = self.pages();
        pages.events.entry(number).or_default().failed_tries += 1;
        *pages.failures.entry(failure).or_default() += 1;
    }

    /// Its request was refused for good, which none of this run's should be.
    pub fn refused(&self, number: u64, why: &str) {
        self.pages()
            .refused
            .add(|| format!("event {number}: {why}"));
    }

    /// The API has answered 202 and said to how many endpoints it goes, or 200 to a repeated request.
    pub fn acknowledged(&self, number: u64, id: Uuid, deliveries: Option<u64>) {
        let mut pages = self.pages();
        let expected = pages.endpoints_of(number).count() as u64;
        if let Some(deliveries) = deliveries.filter(|count| *count != expected) {
            pages.strange.add(|| {
                format!("event {number} goes to {deliveries} endpoints instead of {expected}")
            });
        }
        let entry = pages.events.entry(number).or_default();
        let first = *entry.acknowledged.get_or_insert((SystemTime::now(), id));
        if first.1 != id {
            pages
                .accepted_twice
                .add(|| format!("event {number} is {} and {id}", first.1));
        }
    }

    /// How many events were acknowledged so far.
    #[must_use]
    pub fn acknowledged_count(&self) -> usize {
        let pages = self.pages();
        let entries = pages.events.values();
        entries.filter(|entry| entry.acknowledged.is_some()).count()
    }

    /// How many requests have arrived so far.
    #[must_use]
    pub fn arrivals_count(&self) -> usize {
        let pages = self.pages();
        pages
            .events
            .values()
            .map(|entry| entry.arrivals.len())
            .sum()
    }

    /// How many acknowledged deliveries have not arrived in full yet.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        let pages = self.pages();
        let numbers = pages.events.keys();
        numbers.map(|number| pages.outstanding_of(*number)).sum()
    }

    /// Waits until everything acknowledged has arrived and the outbox is empty. Returns whether that came to be
    /// before patience was over.
    pub async fn wait_until_settled(&self, fleet: &Fleet, patience: Duration) -> bool {
        let began = Instant::now();
        loop {
            if self.outstanding() == 0 && records::unfinished(fleet).await == 0 {
                return true;
            }
            if began.elapsed() > patience {
                return false;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// How many deliveries dispatchers have in hand, as PostgreSQL knows it.
    ///
    /// # Panics
    ///
    /// When PostgreSQL cannot be asked.
    pub async fn in_flight(fleet: &Fleet) -> u64 {
        records::leased(fleet).await
    }

    /// Compares everything with everything. To be asked when nothing moves any more.
    pub async fn close(&self, fleet: &Fleet) -> Account {
        let records = records::read(fleet).await;
        let check = fleet.check().await;
        account::draw_up(&self.pages(), &records, fleet.history(), check)
    }

    /// Nobody panics while holding it, and it is never held across an await.
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    /// The endpoints an event goes to, by their place in the list.
    fn endpoints_of(&self, number: u64) -> impl Iterator<Item = usize> {
        let event_type = self.source.event_type(number);
        let endpoints = self.endpoints.iter().enumerate();
        endpoints
            .filter(move |(_, endpoint)| {
                let mut types = endpoint.event_types.iter();
                types.any(|pattern| pattern == "*" || pattern == event_type)
            })
            .map(|(place, _)| place)
    }

    fn outstanding_of(&self, number: u64) -> usize {
        let entry = &self.events[&number];
        if entry.acknowledged.is_none() {
            return 0;
        }
        let is_done = |place| {
            let mut arrivals = entry.arrivals.iter();
            arrivals.any(|one| one.endpoint == place && one.treatment != Treatment::Failed)
        };
        self.endpoints_of(number)
            .filter(|place| !is_done(*place))
            .count()
    }
}
