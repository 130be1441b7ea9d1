//! One phase of a scenario: sending for a while, and waiting until everything has arrived.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::Error;
use super::api::{self, Answer, Api, Connection};
use super::latency::Latencies;
use super::ledger::{Accounts, Ledger, Reply};
use super::pace::Schedule;
use super::plan::{Length, Load, Plan, Share};
use super::template::Template;

/// Requests of an open loop under way at the same time. One more waits, and its latency counts.
const OPEN_REQUESTS_MAX: usize = 512;
/// Longest pause after an answer that asks for one.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Pause after a request without an answer.
const UNANSWERED_PAUSE: Duration = Duration::from_millis(100);

/// What sender and receiver share. Both live on one thread, and no borrow is held across an await.
pub(super) struct Phase {
    pub(super) template: Template,
    pub(super) ledger: RefCell<Ledger>,
    started: Instant,
    batch_events: Option<usize>,
    settled: Notify,
    ack: RefCell<Latencies>,
    lag: RefCell<Latencies>,
    refused: Cell<u64>,
    unanswered: Cell<u64>,
    requests: Cell<u64>,
}

/// What came out of it.
#[derive(Clone)]
pub(super) struct Passed {
    pub(super) accounts: Accounts,
    /// From the intended moment of sending to the answer.
    pub(super) ack: Latencies,
    /// How late the generator itself was, in open loops.
    pub(super) lag: Latencies,
    pub(super) requests: u64,
    /// Events answered 429 or 5xx.
    pub(super) refused: u64,
    /// Events whose request got no answer.
    pub(super) unanswered: u64,
}

impl Phase {
    /// Time begins now.
    pub(super) fn new(
        template: Template,
        plan: &Plan,
        endpoints: usize,
        fail_first: Share,
    ) -> Rc<Self> {
        Rc::new(Self {
            template,
            ledger: RefCell::new(Ledger::new(endpoints, fail_first)),
            started: Instant::now(),
            batch_events: plan.batch_events,
            settled: Notify::new(),
            ack: RefCell::new(Latencies::new()),
            lag: RefCell::new(Latencies::new()),
            refused: Cell::new(0),
            unanswered: Cell::new(0),
            requests: Cell::new(0),
        })
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn arrive(
        &self,
        endpoint: usize,
        sequence: u64,
        id: Option<Uuid>,
        at: Duration,
    ) -> Reply {
        let mut ledger = self.ledger.borrow_mut();
        let reply = ledger.arrive(endpoint, sequence, id, at);
        if ledger.is_settled() {
            self.settled.notify_one();
        }
        reply
    }

    /// Sends as the plan says. Returns when the last request was answered.
    ///
    /// # Errors
    ///
    /// The API says that a request is wrong: the others would be as well.
    pub(super) async fn send(
        self: &Rc<Self>,
        api: &Rc<Api>,
        load: Load,
        length: Length,
    ) -> Result<(), Error> {
        match load {
            Load::Closed { connections } => self.send_closed(api, connections, length).await,
            Load::Open { events_per_s } => self.send_open(api, events_per_s, length).await,
            Load::Idle => {
                if let Length::For(duration) = length {
                    tokio::time::sleep(duration).await;
                }
                Ok(())
            }
        }
    }

    /// Waits until everything acknowledged was taken. False: some was not within `limit`.
    pub(super) async fn drain(&self, limit: Duration) -> bool {
        let settled = async {
            while !self.ledger.borrow().is_settled() {
                self.settled.notified().await;
            }
        };
        tokio::time::timeout(limit, settled).await.is_ok()
    }

    /// Events acknowledged so far.
    pub(super) fn acknowledged(&self) -> u64 {
        self.ledger.borrow().acknowledged()
    }

    /// Closes the books. Whatever arrives later is not counted any more.
    pub(super) fn close(&self) -> Passed {
        let nothing = Ledger::new(0, Share::NONE);
        Passed {
            accounts: self.ledger.replace(nothing).close(),
            ack: self.ack.replace(Latencies::new()),
            lag: self.lag.replace(Latencies::new()),
            requests: self.requests.get(),
            refused: self.refused.get(),
            unanswered: self.unanswered.get(),
        }
    }

    async fn send_closed(
        self: &Rc<Self>,
        api: &Rc<Api>,
        connections: usize,
        length: Length,
    ) -> Result<(), Error> {
        // Dropped with this future, and everything in it with it.
        let mut senders = JoinSet::new();
        for _ in 0..connections {
            let (phase, api) = (Rc::clone(self), Rc::clone(api));
            senders.spawn_local(async move {
                let mut connection = None;
                while let Some(count) = phase.next_count(length) {
                    let now = phase.elapsed();
                    phase.post(&api, &mut connection, now, count).await?;
                }
                Ok(())
            });
        }
        while let Some(ended) = senders.join_next().await {
            flatten(ended)?;
        }
        Ok(())
    }

    /// Events of the next request; `None`: it is enough.
    fn next_count(&self, length: Length) -> Option<usize> {
        let wanted = self.batch_events.unwrap_or(1);
        match length {
            Length::For(duration) => (self.elapsed() < duration).then_some(wanted),
            Length::Events(events) => {
                let left = events.saturating_sub(self.ledger.borrow().sent());
                let left = usize::try_from(left).unwrap_or(usize::MAX);
                (left > 0).then_some(wanted.min(left))
            }
        }
    }

    async fn send_open(
        self: &Rc<Self>,
        api: &Rc<Api>,
        events_per_s: f64,
        length: Length,
    ) -> Result<(), Error> {
        let count = self.batch_events.unwrap_or(1);
        let schedule = Schedule::new(events_per_s, count);
        let mut due = schedule.start(self.started, schedule.requests(length));
        let idle: Rc<RefCell<Vec<Connection>>> = Rc::default();
        let mut senders = JoinSet::new();
        while let Some(at) = due.recv().await {
            while let Some(ended) = senders.try_join_next() {
                flatten(ended)?;
            }
            if senders.len() >= OPEN_REQUESTS_MAX {
                senders.join_next().await.map_or(Ok(()), flatten)?;
            }
            self.lag
                .borrow_mut()
                .record(self.elapsed().saturating_sub(at));
            let (phase, api, idle) = (Rc::clone(self), Rc::clone(api), Rc::clone(&idle));
            senders.spawn_local(async move {
                let mut connection = alive(&mut idle.borrow_mut());
                phase.post(&api, &mut connection, at, count).await?;
                idle.borrow_mut().extend(connection);
                Ok(())
            });
        }
        while let Some(ended) = senders.join_next().await {
            flatten(ended)?;
        }
        Ok(())
    }

    /// One request and its answer. `at`: when it should be sent.
    async fn post(
        &self,
        api: &Api,
        connection: &mut Option<Connection>,
        at: Duration,
        count: usize,
    ) -> Result<(), Error> {
        let first = self.ledger.borrow_mut().send(count, at);
        let request = if self.batch_events.is_some() {
            api.publish_batch(self.template.batch(first, count))
        } else {
            api.publish(
                self.template.event(first),
                self.template.idempotency_key(first),
            )
        };
        self.requests.set(self.requests.get() + 1);
        let exchange = async {
            let mut open = match connection.take() {
                Some(open) => open,
                None => api.connect().await?,
            };
            let answer = open.exchange(request).await?;
            *connection = Some(open);
            Ok::<Answer, api::Unanswered>(answer)
        };
        let Ok(answer) = exchange.await else {
            self.unanswered.set(self.unanswered.get() + count as u64);
            tokio::time::sleep(UNANSWERED_PAUSE).await;
            return Ok(());
        };
        let taken = self.elapsed().saturating_sub(at);
        match answer.status {
            StatusCode::ACCEPTED | StatusCode::OK => {
                self.ack.borrow_mut().record(taken);
                self.acknowledge(first, count, &answer)
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                self.refused.set(self.refused.get() + count as u64);
                tokio::time::sleep(answer.retry_after.unwrap_or_default().min(PAUSE_MAX)).await;
                Ok(())
            }
            _ => Err(self.refusal(&answer)),
        }
    }

    fn refusal(&self, answer: &Answer) -> Error {
        let path = if self.batch_events.is_some() {
            "/v1/events/batch"
        } else {
            "/v1/events"
        };
        api::refused((Method::POST, path), answer)
    }

    fn acknowledge(&self, first: u64, count: usize, answer: &Answer) -> Result<(), Error> {
        let ids = api::event_ids(&answer.body);
        if ids.len() != count {
            return Err(self.refusal(answer));
        }
        let mut ledger = self.ledger.borrow_mut();
        for (sequence, id) in (first..).zip(ids) {
            ledger.acknowledge(sequence, id);
        }
        if ledger.is_settled() {
            self.settled.notify_one();
        }
        Ok(())
    }
}

/// The one used last, if the API has not closed it meanwhile: surplus ones of a busy moment grow old.
fn alive(idle: &mut Vec<Connection>) -> Option<Connection> {
    std::iter::from_fn(|| idle.pop()).find(Connection::is_open)
}

/// A sender never panics and is aborted only together with whoever would ask.
fn flatten(ended: Result<Result<(), Error>, tokio::task::JoinError>) -> Result<(), Error> {
    ended.unwrap_or_else(|error| Err(Error::Sender(error)))
}
