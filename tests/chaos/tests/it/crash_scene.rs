//! What the tests of the crash table share: a fleet of `zyven-crash`, its load and its books.
//!
//! The table is "what may die" in ARCHITECTURE.md. Each test brings one row about, at a crash point where chance would not do, and ends
//! with the ledger: everything acknowledged has become what it should, to the byte, and duplicates are within that row's bound.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use zyven_chaos::{Account, EventSource, Fleet, Ledger, Load, Service, Shape, Sizes};
use zyven_testkit::{Binary, ReceivedRequest, wait_until};

/// Some leases have to end, and the machine may have other things to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Deliveries that a dispatcher of these fleets has in hand at most.
pub(crate) const IN_FLIGHT_MAX: u64 = 32;
/// What a test publishes that wants to know how many there are.
pub(crate) const EVENTS: u64 = 300;
/// What is published at most while something goes wrong: each publisher goes on asking until it has its answer.
const EVENTS_MAX: u64 = 600;
/// Few enough for a busy machine: what is late because of that looks like what is late because of a fault.
const EVENTS_PER_S: f64 = 50.0;
const SIGABRT: i32 = 6;

pub(crate) struct Scene {
    pub(crate) fleet: Fleet,
    pub(crate) ledger: Ledger,
    source: EventSource,
    /// The first number of the next events.
    next: u64,
}

/// Events that are being published, until it is enough.
pub(crate) struct Flow {
    enough: oneshot::Sender<()>,
    publishing: JoinHandle<()>,
}

impl Flow {
    /// Publishes no further events, and returns when each of those that were begun is acknowledged, however often its request had to be
    /// repeated.
    pub(crate) async fn end(self) {
        // Nobody hears it if all that may be published is.
        let _ = self.enough.send(());
        self.publishing.await.expect("publishing ends");
    }
}

/// One of each service, with crash points, on a Redis that keeps nothing.
pub(crate) fn shape() -> Shape {
    let shape = Shape {
        binary: Some(Binary::find_with_crash_points()),
        ..Shape::default()
    };
    shape
        .with("ZYVEN_DISPATCHER_IN_FLIGHT_MAX", &IN_FLIGHT_MAX.to_string())
        // An endpoint that fails for a moment is not to wait for half a minute.
        .with("ZYVEN_BREAKER_OPEN_MIN", "100ms")
        .with("ZYVEN_BREAKER_OPEN_MAX", "200ms")
}

/// Bodies of all sizes; some events go to a second endpoint.
pub(crate) fn events() -> EventSource {
    EventSource {
        sizes: Sizes::Varied,
        ..EventSource::plain(25)
    }
}

impl Scene {
    /// The usual fleet, whose endpoint takes everything.
    pub(crate) async fn open() -> Self {
        Self::of(&shape(), events(), &[json!({})]).await
    }

    /// A fleet with one endpoint for each of `endpoints`, which say what is special about them.
    pub(crate) async fn of(shape: &Shape, source: EventSource, endpoints: &[Value]) -> Self {
        let fleet = Fleet::start(shape).await;
        let mut made = Vec::new();
        for (number, special) in endpoints.iter().enumerate() {
            let mut wanted = json!({ "retry_base_ms": 200 });
            for (name, value) in special.as_object().expect("members") {
                wanted[name] = value.clone();
            }
            made.push(fleet.endpoint(&format!("/{number}"), wanted).await);
        }
        Self {
            ledger: Ledger::open(source, made, &fleet.receiver),
            fleet,
            source,
            next: 0,
        }
    }

    /// Another life of a service, which ends at this passage.
    pub(crate) async fn crash_at(&mut self, service: Service, passage: &str) {
        let setting = [("ZYVEN_CRASH_POINT", passage)];
        self.fleet.restart_with(service, 0, &setting);
        self.fleet.wait_until_ready(service, 0).await;
    }

    /// Returns when the service has ended at `passage`.
    pub(crate) async fn wait_until_crashed(&mut self, service: Service, passage: &str) {
        let Some(status) = self.fleet.ended(service, 0, PATIENCE).await else {
            panic!(
                "{service} does not come by {passage}; {} requests have arrived\n{}",
                self.ledger.arrivals_count(),
                self.said()
            );
        };
        let said = self.fleet.said(service, 0);
        assert_eq!(status.signal(), Some(SIGABRT), "{status}:\n{said}");
        self.assert_crashed(service, passage);
    }

    /// It has ended there, and not somewhere else.
    pub(crate) fn assert_crashed(&self, service: Service, passage: &str) {
        let said = self.fleet.said(service, 0);
        let last_words = format!("crash point {passage}: aborting");
        assert!(
            said.contains(&last_words),
            "{last_words} is not in:\n{said}"
        );
    }

    /// Returns when the process has stopped at `passage`.
    pub(crate) async fn wait_until_frozen(&mut self, service: Service, passage: &str) {
        let last_words = format!("crash point {passage}: stopping");
        wait_until(&last_words, PATIENCE, async || {
            let said = self.fleet.said(service, 0);
            if said.contains(&last_words) {
                Ok(())
            } else {
                Err(said)
            }
        })
        .await;
        // It has stopped itself, or is about to; the history has to know.
        self.fleet.freeze(service, 0);
    }

    /// Events come, one after the other, from now on.
    pub(crate) fn begin_publishing(&mut self) -> Flow {
        let load = self.load(EVENTS_MAX);
        let (publisher, ledger) = (self.fleet.publisher(), self.ledger.clone());
        let (enough, is_enough) = oneshot::channel();
        let publishing = tokio::spawn(async move {
            let enough = async { drop(is_enough.await) };
            load.run_until(&publisher, &ledger, enough).await;
        });
        Flow { enough, publishing }
    }

    /// Publishes so many events.
    pub(crate) async fn publish(&mut self, events: u64) {
        let before = self.ledger.acknowledged_count() as u64;
        let load = self.load(events);
        load.run(&self.fleet.publisher(), &self.ledger).await;
        assert_eq!(self.ledger.acknowledged_count() as u64, before + events);
    }

    fn load(&mut self, events_max: u64) -> Load {
        let mut load = Load::new(self.source, events_max, EVENTS_PER_S);
        load.first = self.next;
        self.next += events_max;
        load
    }

    /// Returns when so many events are acknowledged.
    pub(crate) async fn wait_for_acknowledgements(&self, count: usize) {
        wait_until(
            &format!("{count} events are acknowledged"),
            PATIENCE,
            async || {
                let acknowledged = self.ledger.acknowledged_count();
                if acknowledged >= count {
                    Ok(())
                } else {
                    Err(acknowledged)
                }
            },
        )
        .await;
    }

    /// Returns when this many requests have arrived.
    pub(crate) async fn wait_for_arrivals(&self, count: usize) {
        wait_until(
            &format!("{count} requests have arrived"),
            PATIENCE,
            async || {
                let arrived = self.ledger.arrivals_count();
                if arrived >= count {
                    Ok(())
                } else {
                    Err(arrived)
                }
            },
        )
        .await;
    }

    /// Returns when no delivery waits for the relay.
    pub(crate) async fn wait_until_handed_over(&self) {
        const RECEIVED: &str = "SELECT count(*) FROM zyven.deliveries WHERE state = 'RECEIVED'";
        wait_until("everything is handed over", PATIENCE, async || {
            let left = self.count(RECEIVED).await;
            if left == 0 { Ok(()) } else { Err(left) }
        })
        .await;
    }

    /// What one `SELECT count(*)` says.
    pub(crate) async fn count(&self, sql: &str) -> u64 {
        let client = self.fleet.sql().await;
        let row = client.query_one(sql, &[]).await.expect("a count");
        row.get::<_, i64>(0).unsigned_abs()
    }

    /// What one `SELECT` of event ids says, as they are written in `webhook-id`.
    pub(crate) async fn ids(&self, sql: &str) -> Vec<String> {
        let client = self.fleet.sql().await;
        let rows = client.query(sql, &[]).await.expect("ids");
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Requests by `webhook-id`, in order of their arrival.
    pub(crate) fn arrivals(&self) -> BTreeMap<String, Vec<ReceivedRequest>> {
        let mut arrivals: BTreeMap<String, Vec<ReceivedRequest>> = BTreeMap::new();
        for request in self.fleet.receiver.requests() {
            let id = request.header("webhook-id").to_owned();
            arrivals.entry(id).or_default().push(request);
        }
        arrivals
    }

    /// Everything that processes had to say, for whoever has to find out what went wrong.
    pub(crate) fn said(&self) -> String {
        let said = Service::ALL.map(|service| {
            let said = self.fleet.said(service, 0);
            format!("{service} said:\n{said}")
        });
        said.join("\n")
    }

    /// Waits until nothing moves any more, and has the books balanced: everything published is acknowledged, stored once, and has
    /// become what it should; no process has ended but those that were to.
    pub(crate) async fn balance(&mut self) -> Account {
        let settled = self.ledger.wait_until_settled(&self.fleet, PATIENCE).await;
        let account = self.ledger.close(&self.fleet).await;
        let said = self.said();
        assert!(settled, "{account}\n{said}");
        assert_eq!(account.verdict(), Ok(()), "{account}\n{said}");
        assert_eq!(account.acknowledged, account.sent, "{account}");
        let stored = self.count("SELECT count(*) FROM zyven.events").await;
        assert_eq!(stored, account.sent, "each event is stored once");
        let dead_letters: u64 = account.dead_letters.values().sum();
        for (state, expected) in [
            ("DELIVERED", account.delivered),
            ("DEAD_LETTERED", dead_letters),
        ] {
            let shown = format!("SELECT count(*) FROM zyven.deliveries WHERE state = '{state}'");
            assert_eq!(self.count(&shown).await, expected, "{state} in public");
        }
        assert_eq!(self.fleet.ended_unasked(), Vec::<String>::new());
        account
    }
}
