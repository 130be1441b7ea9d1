//! A seeded run: load, faults as planned, quiet, and the books.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zyven_testkit::Binary;

use crate::event::{EventSource, Sizes};
use crate::fleet::{Endpoint, Fleet, Shape};
use crate::history::Trouble;
use crate::ledger::{Account, Ledger, Mood};
use crate::load::Load;
use crate::plan::{Fault, Plan};
use crate::service::Service;

/// What a process may take beyond its grace time to end, on a busy machine.
const END_TIME_MAX: Duration = Duration::from_secs(30);
/// Between two looks at the processes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How a run is to be.
#[derive(Debug, Clone)]
pub struct Run {
    /// Determines plan and events.
    pub seed: u64,
    /// How long faults begin.
    pub length: Duration,
    /// The load.
    pub events_per_s: f64,
    /// How long everything may take to settle after the last fault.
    pub patience: Duration,
    /// The program, if it is not the one built beside this one.
    pub binary: Option<Binary>,
    /// Where to write what the processes have said, if anywhere.
    pub logs: Option<PathBuf>,
}

/// What it has come to.
#[derive(Debug, serde::Serialize)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// How many faults there were.
    pub faults: usize,
    /// How long it took to settle after the last one; `None` if it did not.
    pub settled_after: Option<Duration>,
    /// The books.
    pub account: Account,
    /// Processes that ended unasked, ended badly, or did not end when they were asked.
    pub misbehaved: Vec<String>,
    /// Lines of the processes' logs, by what they say without its particulars, and how often.
    pub said: BTreeMap<String, u64>,
    /// The most memory that a process of each service had, in KiB.
    pub memory_kib_max: BTreeMap<&'static str, u64>,
}

impl Run {
    /// The short form: every kind of fault once, in somewhat more than two minutes.
    #[must_use]
    pub fn short(seed: u64) -> Self {
        Self {
            seed,
            length: Plan::DECK_TIME,
            events_per_s: 40.0,
            patience: Duration::from_secs(240),
            binary: None,
            logs: None,
        }
    }

    /// Does it all, and tells of each fault with `tell`.
    pub async fn go(&self, tell: impl Fn(&str)) -> Outcome {
        let plan = Plan::new(self.seed, self.length);
        let mut stage = Stage::set(self, &plan).await;
        let publisher = stage.fleet.publisher();
        let load = Load {
            patience: self.length + self.patience,
            ..Load::new(stage.source, u64::MAX, self.events_per_s)
        };
        let ledger = stage.ledger.clone();
        let length = self.length;
        // Ends a while after the last fault has begun, when every request is answered or given up.
        let publishing = tokio::spawn(async move {
            let enough = tokio::time::sleep(length);
            load.run_until(&publisher, &ledger, enough).await;
        });
        stage.follow(&plan, &tell).await;
        tell("every trouble is over");
        let over_at = Instant::now();
        publishing.await.expect("publishing does not panic");
        let left = self.patience.saturating_sub(over_at.elapsed());
        let is_settled = stage.ledger.wait_until_settled(&stage.fleet, left).await;
        let settled_after = is_settled.then(|| over_at.elapsed());
        stage.look();
        let account = stage.ledger.close(&stage.fleet).await;
        let said = stage.said();
        if let Some(folder) = &self.logs {
            let written = stage.fleet.write_logs(folder);
            written.unwrap_or_else(|error| panic!("cannot write {}: {error}", folder.display()));
        }
        Outcome {
            seed: self.seed,
            faults: plan.faults.len(),
            settled_after,
            account,
            misbehaved: stage.misbehaved,
            said,
            memory_kib_max: stage.memory_kib_max,
        }
    }
}

/// A fleet with all that watches it.
struct Stage {
    fleet: Fleet,
    ledger: Ledger,
    source: EventSource,
    misbehaved: Vec<String>,
    memory_kib_max: BTreeMap<&'static str, u64>,
}

impl Stage {
    async fn set(run: &Run, plan: &Plan) -> Self {
        let shape = Shape {
            processes: plan.processes,
            redis: plan.redis,
            binary: run.binary.clone(),
            ..Shape::default()
        };
        // Breakers wait for no more than seconds, and stops end within seconds, so that a run sees many of both.
        let shape = shape
            .with("ZYVEN_BREAKER_OPEN_MIN", "500ms")
            .with("ZYVEN_BREAKER_OPEN_MAX", "3s")
            .with("ZYVEN_INGEST_GRACE", "3s")
            .with("ZYVEN_DISPATCHER_GRACE", "3s")
            .with("ZYVEN_EGRESS_GRACE", "3s");
        let fleet = Fleet::start(&shape).await;
        let source = EventSource {
            sizes: Sizes::Varied,
            refused_one_in: Some(50),
            ordered_one_in: Some(4),
            ..EventSource::plain(run.seed)
        };
        let endpoints = endpoints(&fleet).await;
        let ledger = Ledger::open(source, endpoints, &fleet.receiver);
        Self {
            fleet,
            ledger,
            source,
            misbehaved: Vec::new(),
            memory_kib_max: BTreeMap::new(),
        }
    }

    /// Begins and ends every fault at its time, or as soon after it as those before are done.
    async fn follow(&mut self, plan: &Plan, tell: &impl Fn(&str)) {
        let mut moments: Vec<(Duration, usize, bool)> = Vec::new();
        for (place, planned) in plan.faults.iter().enumerate() {
            moments.push((planned.at, place, true));
            moments.push((planned.at + planned.lasts, place, false));
        }
        // What takes no time begins before it ends.
        moments.sort_by_key(|(at, place, begins)| (*at, *place, !begins));
        let began = Instant::now();
        for (at, place, begins) in moments {
            while let Some(wait) = at.checked_sub(began.elapsed()) {
                tokio::time::sleep(wait.min(LOOK_EVERY)).await;
                self.look();
            }
            let fault = plan.faults[place].fault;
            if begins {
                tell(&format!(
                    "{:>7.1} s  {fault}",
                    began.elapsed().as_secs_f64()
                ));
                self.begin(fault).await;
            } else {
                self.end(fault).await;
            }
        }
    }

    /// Who has ended, how large everybody is. Requests are in the books and need not be kept twice.
    fn look(&mut self) {
        self.misbehaved.extend(self.fleet.ended_unasked());
        for (service, memory_kib) in self.fleet.memory_kib() {
            let most = self.memory_kib_max.entry(service.name()).or_default();
            *most = memory_kib.max(*most);
        }
        self.fleet.receiver.forget_requests();
    }

    async fn begin(&mut self, fault: Fault) {
        let fleet = &mut self.fleet;
        match fault {
            Fault::Kill(service, index) => fleet.kill(service, index).await,
            Fault::Terminate(service, index) => {
                // Before it listens for signals it would die of this one.
                fleet.wait_until_begun(service, index).await;
                fleet.ask_to_end(service, index);
            }
            Fault::Freeze(service, index) => fleet.freeze(service, index),
            Fault::CrashPostgres => fleet.crash_postgres().await,
            Fault::KillRedis => fleet.kill_redis(),
            Fault::FreezeRedis => fleet.freeze_redis(),
            Fault::FlushRedis => fleet.flush_redis().await,
            Fault::Cut(link) => fleet.disturb(link, |proxy| proxy.cut()),
            Fault::CutOnce(link) => fleet.disturb(link, |proxy| proxy.cut_once()),
            Fault::Pause(link) => fleet.disturb(link, |proxy| proxy.pause()),
            Fault::Delay(link, delay) => fleet.disturb(link, |proxy| proxy.delay(delay)),
            Fault::LoseReplies(link) => fleet.disturb(link, |proxy| proxy.lose_replies()),
            Fault::Receiver(mood) => {
                fleet.history_mut().began(Trouble::Receiver);
                self.ledger.set_mood(mood);
            }
            Fault::CloseReceiver => {
                fleet.history_mut().began(Trouble::Receiver);
                fleet.receiver.close().await;
            }
        }
    }

    async fn end(&mut self, fault: Fault) {
        let fleet = &mut self.fleet;
        match fault {
            Fault::Kill(service, index) => fleet.restart(service, index),
            Fault::Terminate(service, index) => {
                self.bury(service, index).await;
                self.fleet.restart(service, index);
            }
            Fault::Freeze(service, index) => fleet.thaw(service, index),
            Fault::CrashPostgres => fleet.restart_postgres().await,
            Fault::KillRedis => fleet.restart_redis().await,
            Fault::FreezeRedis => fleet.thaw_redis(),
            Fault::FlushRedis => {}
            Fault::Cut(link)
            | Fault::CutOnce(link)
            | Fault::Pause(link)
            | Fault::Delay(link, _)
            | Fault::LoseReplies(link) => fleet.heal(link),
            Fault::Receiver(_) => {
                self.ledger.set_mood(Mood::Well);
                fleet.history_mut().ended(Trouble::Receiver);
            }
            Fault::CloseReceiver => {
                fleet.receiver.reopen().await;
                fleet.history_mut().ended(Trouble::Receiver);
            }
        }
    }

    /// A process that was asked to end does so within its grace time, and says that all is well.
    async fn bury(&mut self, service: Service, index: usize) {
        let complaint = match self.fleet.ended(service, index, END_TIME_MAX).await {
            Some(status) if status.success() => return,
            Some(status) => format!("{service} {index} was asked to end and ended with {status}"),
            None => format!("{service} {index} does not end within {END_TIME_MAX:?}"),
        };
        let said = self.fleet.said(service, index);
        self.misbehaved.push(format!("{complaint}\n{said}"));
    }

    /// What all processes have said.
    fn said(&mut self) -> BTreeMap<String, u64> {
        let mut said = BTreeMap::new();
        for service in Service::ALL {
            for index in 0..self.fleet.count(service) {
                for line in self.fleet.said(service, index).lines() {
                    let gist = gist_of(line);
                    if line.contains("panicked") {
                        self.misbehaved.push(format!("{service} {index}: {line}"));
                    }
                    *said.entry(format!("{service}: {gist}")).or_default() += 1;
                }
            }
        }
        said
    }
}

/// A log line without what differs from one to the next.
fn gist_of(line: &str) -> String {
    match serde_json::from_str::<Value>(line) {
        Ok(line) => {
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            let error: String = text("error")
                .chars()
                .filter(|c| !c.is_ascii_digit())
                .collect();
            format!("{} {} {error}", text("level"), text("message"))
        }
        Err(_) => line.to_owned(),
    }
}

/// One for everything, one for some types, one that takes few at a time.
async fn endpoints(fleet: &Fleet) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for (path, more) in [
        ("/all", json!({})),
        ("/some", json!({ "event_types": ["chaos.b"] })),
        (
            "/few",
            json!({ "event_types": ["chaos.b"], "concurrency_max": 4 }),
        ),
    ] {
        let mut wanted = json!({
            "timeout_ms": 2_000, "retry_base_ms": 200, "retry_cap_ms": 2_000, "attempts_max": 100,
        });
        for (name, value) in more.as_object().expect("members") {
            wanted[name] = value.clone();
        }
        endpoints.push(fleet.endpoint(path, wanted).await);
    }
    endpoints
}

impl Outcome {
    /// Whether nothing is wrong.
    ///
    /// # Errors
    ///
    /// What is, in words.
    pub fn verdict(&self) -> Result<(), String> {
        let mut wrong = self.misbehaved.clone();
        if self.settled_after.is_none() {
            wrong.push("not everything has settled before patience was over".to_owned());
        }
        wrong.extend(self.account.verdict().err());
        // A stack that takes nothing loses nothing, either.
        let Account {
            sent,
            acknowledged,
            given_up,
            ..
        } = &self.account;
        if *acknowledged == 0 || *given_up > 0 {
            wrong.push(format!(
                "of {sent} events {acknowledged} were acknowledged; publishers gave {given_up} up"
            ));
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(wrong.join("\n  "))
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed                   {}", self.seed)?;
        writeln!(f, "faults                 {}", self.faults)?;
        match self.settled_after {
            Some(after) => writeln!(f, "settled after          {:.1} s", after.as_secs_f64())?,
            None => writeln!(f, "settled after          never")?,
        }
        write!(f, "{}", self.account)?;
        for (service, memory_kib) in &self.memory_kib_max {
            writeln!(
                f,
                "memory of {service:<12} {} MiB at most",
                memory_kib / 1024
            )?;
        }
        Ok(())
    }
}
