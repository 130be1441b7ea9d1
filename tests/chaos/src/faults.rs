//! A table of single faults: the same load each time, one fault after a third of it, counted after quiet.
//!
//! Each row starts a fleet of its own. Endpoints and breakers have short waits, which the table says, because what
//! is asked is how late something comes beyond its due time, not how long a policy makes it wait.

use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use zyven_testkit::Binary;

use crate::event::EventSource;
use crate::fleet::{Fleet, RedisKind, Shape};
use crate::history::Trouble;
use crate::ledger::{Account, Ledger, Mood};
use crate::load::Load;
use crate::service::Service;

/// Nothing may come later than this beyond its due time once the fault is over.
const LATE_MAX: Duration = Duration::from_secs(5);
/// What a process may take to end: the longest grace time is the dispatcher's 25 s, and 4 s to put its results on record.
const END_TIME_MAX: Duration = Duration::from_secs(29);
/// How long everything may take to settle.
const PATIENCE: Duration = Duration::from_secs(240);
/// How long the receiver answers after a request, so that some are always in flight.
const ANSWER_TIME: Duration = Duration::from_millis(20);

/// The rows of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// FLUSHALL.
    Flush,
    /// The receiver is down for 20 s, and Redis is emptied amid that.
    FlushWhileReceiverIsDown,
    /// Redis is killed and comes back empty after 5 s.
    RedisBackEmpty,
    /// Redis is killed and comes back with its append-only file after 5 s.
    RedisBackWithFile,
    /// Every service is killed, and is back after 3 s.
    KillAll,
    /// One dispatcher of two is killed and never comes back.
    KillDispatcher,
    /// PostgreSQL is stopped at once, and back after 5 s.
    PostgresStopped,
    /// Redis is frozen for 15 s.
    RedisFrozen,
    /// The receiver refuses connections for 20 s.
    ReceiverRefuses,
    /// Every service is asked to end, and started again when it has.
    TerminateAll,
    /// Every service is asked to end while a second one of it runs, one after the other.
    RollingRestart,
}

impl Row {
    /// The table, in its order.
    pub const ALL: [Self; 11] = [
        Self::Flush,
        Self::FlushWhileReceiverIsDown,
        Self::RedisBackEmpty,
        Self::RedisBackWithFile,
        Self::KillAll,
        Self::KillDispatcher,
        Self::PostgresStopped,
        Self::RedisFrozen,
        Self::ReceiverRefuses,
        Self::TerminateAll,
        Self::RollingRestart,
    ];

    /// Its number in the table.
    #[must_use]
    pub fn number(self) -> &'static str {
        match self {
            Self::Flush => "1",
            Self::FlushWhileReceiverIsDown => "1b",
            Self::RedisBackEmpty => "2",
            Self::RedisBackWithFile => "3",
            Self::KillAll => "4",
            Self::KillDispatcher => "4b",
            Self::PostgresStopped => "5",
            Self::RedisFrozen => "6",
            Self::ReceiverRefuses => "7",
            Self::TerminateAll => "8",
            Self::RollingRestart => "8b",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Flush => "Redis emptied (FLUSHALL)",
            Self::FlushWhileReceiverIsDown => "receiver down for 20 s, Redis emptied amid that",
            Self::RedisBackEmpty => "Redis killed, back empty after 5 s",
            Self::RedisBackWithFile => "Redis killed, back with its append-only file after 5 s",
            Self::KillAll => "all four services killed, back after 3 s",
            Self::KillDispatcher => "one of two dispatchers killed, and never back",
            Self::PostgresStopped => "PostgreSQL stopped at once, back after 5 s",
            Self::RedisFrozen => "Redis frozen for 15 s",
            Self::ReceiverRefuses => "receiver refuses connections for 20 s",
            Self::TerminateAll => {
                "SIGTERM to all four services, started again when they have ended, ingest on the same socket"
            }
            Self::RollingRestart => {
                "SIGTERM to each of two of every service in turn, ingest on the same sockets"
            }
        }
    }

    fn shape(self) -> Shape {
        let shape = Shape::default();
        match self {
            Self::RedisBackWithFile => Shape {
                redis: RedisKind::AppendOnly,
                ..shape
            },
            Self::KillDispatcher => shape.with_many(Service::Dispatcher, 2),
            Self::TerminateAll => Shape {
                keeps_sockets: true,
                ..shape
            },
            Self::RollingRestart => Shape {
                processes: [2; 4],
                keeps_sockets: true,
                ..shape
            },
            _ => shape,
        }
    }
}

/// How the table is made.
#[derive(Debug, Clone)]
pub struct Faults {
    /// Determines the events.
    pub seed: u64,
    /// How many events each row has.
    pub events: u64,
    /// How fast they come.
    pub events_per_s: f64,
    /// The program, if it is not the one built beside this one.
    pub binary: Option<Binary>,
    /// Where to write what the processes have said, if anywhere: a folder for each row.
    pub logs: Option<PathBuf>,
}

/// What a row has come to.
#[derive(Debug, serde::Serialize)]
pub struct Counted {
    /// Its number in the table.
    pub number: &'static str,
    /// What was done.
    pub fault: &'static str,
    /// Deliveries that were under a lease when it was done.
    pub in_flight: u64,
    /// How long the slowest process took to end after SIGTERM, if there was one.
    pub exit_time: Option<Duration>,
    /// Whether everything was delivered without a restart beyond the fault itself.
    pub is_recovered: bool,
    /// The books.
    pub account: Account,
    /// Goals that were missed.
    pub missed: Vec<String>,
}

impl Faults {
    /// Makes one row.
    pub async fn row(&self, row: Row) -> Counted {
        let shape = Shape {
            binary: self.binary.clone(),
            ..row.shape()
        };
        let shape = shape
            .with("ZYVEN_BREAKER_OPEN_MIN", "1s")
            .with("ZYVEN_BREAKER_OPEN_MAX", "2s");
        let mut fleet = Fleet::start(&shape).await;
        let source = EventSource::plain(self.seed);
        let policy = json!({ "retry_base_ms": 500, "retry_cap_ms": 2_000, "attempts_max": 100 });
        let endpoints = vec![fleet.endpoint("/hook", policy).await];
        let ledger = Ledger::open(source, endpoints, &fleet.receiver);
        ledger.set_mood(Mood::Slow(ANSWER_TIME));
        let publishing = tokio::spawn({
            let (publisher, ledger) = (fleet.publisher(), ledger.clone());
            // Whatever is due is sent, so that no first try is spared the fault.
            let load = Load {
                requests_max: 2_048,
                ..Load::new(source, self.events, self.events_per_s)
            };
            async move { load.run(&publisher, &ledger).await }
        });
        let third = Duration::from_secs_f64(self.events as f64 / self.events_per_s / 3.0);
        tokio::time::sleep(third).await;
        let mut done = Done::default();
        done.commit(row, &mut fleet).await;
        publishing.await.expect("publishing does not panic");
        let is_recovered = ledger.wait_until_settled(&fleet, PATIENCE).await;
        let account = ledger.close(&fleet).await;
        if let Some(folder) = &self.logs {
            let written = fleet.write_logs(&folder.join(row.number()));
            written.unwrap_or_else(|error| panic!("cannot write {}: {error}", folder.display()));
        }
        let mut counted = Counted {
            number: row.number(),
            fault: row.title(),
            in_flight: done.in_flight,
            exit_time: done.exit_time,
            is_recovered,
            account,
            missed: done.missed,
        };
        counted.judge(row);
        counted
    }
}

/// What was seen while the fault was committed.
#[derive(Default)]
struct Done {
    in_flight: u64,
    exit_time: Option<Duration>,
    missed: Vec<String>,
}

impl Done {
    async fn commit(&mut self, row: Row, fleet: &mut Fleet) {
        let pause = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        self.in_flight = Ledger::in_flight(fleet).await;
        match row {
            Row::Flush => fleet.flush_redis().await,
            Row::FlushWhileReceiverIsDown | Row::ReceiverRefuses => {
                fleet.history_mut().began(Trouble::Receiver);
                fleet.receiver.close().await;
                pause(10).await;
                if row == Row::FlushWhileReceiverIsDown {
                    fleet.flush_redis().await;
                }
                pause(10).await;
                fleet.receiver.reopen().await;
                fleet.history_mut().ended(Trouble::Receiver);
            }
            Row::RedisBackEmpty | Row::RedisBackWithFile => {
                fleet.kill_redis();
                pause(5).await;
                fleet.restart_redis().await;
            }
            Row::KillAll => {
                fleet.kill(Service::Dispatcher, 0).await;
                // What the dead one held is known exactly.
                self.in_flight = Ledger::in_flight(fleet).await;
                for service in [Service::Ingest, Service::Relay, Service::Egress] {
                    fleet.kill(service, 0).await;
                }
                pause(3).await;
                for service in Service::ALL {
                    fleet.restart(service, 0);
                }
            }
            Row::KillDispatcher => {
                fleet.kill(Service::Dispatcher, 0).await;
                // That is how it stays: the fault is the moment of the death.
                fleet
                    .history_mut()
                    .ended(Trouble::Killed(Service::Dispatcher, 0));
            }
            Row::PostgresStopped => {
                fleet.crash_postgres().await;
                pause(5).await;
                fleet.restart_postgres().await;
            }
            Row::RedisFrozen => {
                fleet.freeze_redis();
                pause(15).await;
                fleet.thaw_redis();
            }
            Row::TerminateAll => {
                for service in Service::ALL {
                    fleet.ask_to_end(service, 0);
                }
                let asked_at = Instant::now();
                for service in Service::ALL {
                    self.bury(fleet, service, 0, asked_at).await;
                    fleet.restart(service, 0);
                }
            }
            Row::RollingRestart => {
                for service in Service::ALL {
                    for index in 0..2 {
                        fleet.ask_to_end(service, index);
                        self.bury(fleet, service, index, Instant::now()).await;
                        fleet.restart(service, index);
                        fleet.wait_until_ready(service, index).await;
                    }
                }
            }
        }
    }

    async fn bury(&mut self, fleet: &mut Fleet, service: Service, index: usize, asked_at: Instant) {
        let status = fleet.ended(service, index, END_TIME_MAX).await;
        let took = asked_at.elapsed();
        self.exit_time = self.exit_time.max(Some(took));
        if status.is_none_or(|status| !status.success()) {
            self.missed.push(format!(
                "{service} {index} ended with {status:?} after {took:?}"
            ));
        }
    }
}

impl Counted {
    fn judge(&mut self, row: Row) {
        let account = &self.account;
        let mut missed = Vec::new();
        if !self.is_recovered {
            missed.push("it does not recover by itself".to_owned());
        }
        missed.extend(account.verdict().err());
        if account.given_up > 0 {
            missed.push(format!("{} requests failed for good", account.given_up));
        }
        if account.latest > LATE_MAX {
            missed.push(format!(
                "the latest came {:.1} s after its due time",
                account.latest.as_secs_f64()
            ));
        }
        let duplicates = account.duplicates_count();
        if duplicates > self.in_flight {
            missed.push(format!(
                "{duplicates} duplicates, {} in flight",
                self.in_flight
            ));
        }
        if matches!(row, Row::TerminateAll | Row::RollingRestart) && account.first_try_failures > 0
        {
            missed.push(format!("{} requests failed", account.first_try_failures));
        }
        self.missed.extend(missed);
    }
}

/// The rows, as Markdown.
pub struct Table<'a>(pub &'a [Counted]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("| # | Fault | acknowledged | missing | duplicates (in flight) | client errors: first tries, for good | recovered by itself | latest beyond its due time | exit after SIGTERM | goals |\n")?;
        f.write_str("|---|---|---|---|---|---|---|---|---|---|\n")?;
        for row in self.0 {
            let account = &row.account;
            let exit = row.exit_time.map_or("–".to_owned(), |time| {
                format!("{:.1} s", time.as_secs_f64())
            });
            let mut goals = String::new();
            match row.missed.len() {
                0 => goals.push_str("met"),
                count => write!(goals, "**{count} missed**")?,
            }
            writeln!(
                f,
                "| {} | {} | {} | {} | {} ({}) | {}, {} | {} | {:.1} s | {exit} | {goals} |",
                row.number,
                row.fault,
                account.acknowledged,
                account.missing.count,
                account.duplicates_count(),
                row.in_flight,
                account.first_try_failures,
                account.given_up,
                if row.is_recovered { "yes" } else { "**no**" },
                account.latest.as_secs_f64(),
            )?;
        }
        Ok(())
    }
}
