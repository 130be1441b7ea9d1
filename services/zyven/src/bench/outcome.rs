//! What a scenario came to: figures that several rounds of it can be added up from.

use std::time::Duration;

use serde::Serialize;

use super::latency::Percentiles;
use super::ledger::Counts;
use super::phase::Passed;
use super::plan::Plan;

/// One scenario, one round or several together.
#[derive(Clone)]
pub(super) struct Outcome {
    pub(super) plan: Plan,
    pub(super) rounds: u32,
    pub(super) passed: Passed,
    /// From the first request to the last answer.
    pub(super) sending: Duration,
    /// From then on until everything had arrived, or patience was at its end.
    pub(super) draining: Duration,
    pub(super) is_drained: bool,
    /// Events for the endpoint that never answers, acknowledged meanwhile.
    pub(super) dead_acknowledged: u64,
    pub(super) cost: Cost,
}

/// What it cost, from the first request until the stack was at rest again.
#[derive(Debug, Clone, Default)]
pub(super) struct Cost {
    pub(super) wall: Duration,
    /// `None`: unknown, or a process ended meanwhile.
    pub(super) stack_cpu_s: Option<f64>,
    /// Generator and receiver.
    pub(super) bench_cpu_s: Option<f64>,
    /// Everything else on the machine.
    pub(super) other_cpu_s: Option<f64>,
    pub(super) members: Vec<MemberCost>,
}

/// One process of the stack, with its descendants.
#[derive(Debug, Clone, Serialize)]
pub(super) struct MemberCost {
    pub(super) name: String,
    pub(super) cpu_s: Option<f64>,
    pub(super) memory_bytes_max: u64,
}

/// The same, as figures. Rates are per second, shares are parts of one.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figures {
    pub(super) events_per_s: Option<f64>,
    pub(super) deliveries_per_s: Option<f64>,
    /// From the intended moment of sending to the answer 202.
    pub(super) ack: Option<Percentiles>,
    /// From the intended moment of sending to the first complete request at the receiver.
    pub(super) arrival: Option<Percentiles>,
    /// From an arrival that was failed on purpose to the next one.
    pub(super) retry: Option<Percentiles>,
    /// How late the generator was itself (open loops).
    pub(super) lag: Option<Percentiles>,
    /// Of the whole stack, generator and receiver excluded.
    pub(super) cpu_s_per_1000_events: Option<f64>,
    pub(super) bench_cpu_s_per_1000_events: Option<f64>,
    /// Cores the stack kept busy.
    pub(super) stack_cores: Option<f64>,
    /// Cores that neither the stack nor generator and receiver kept busy, but somebody else.
    pub(super) other_cores: Option<f64>,
    pub(super) sending_s: f64,
    pub(super) draining_s: f64,
    pub(super) is_drained: bool,
    pub(super) requests: u64,
    pub(super) refused: u64,
    pub(super) unanswered: u64,
    pub(super) dead_acknowledged: u64,
    pub(super) counts: Counts,
    pub(super) processes: Vec<MemberCost>,
}

impl Outcome {
    /// Adds another round of the same scenario.
    pub(super) fn add(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.passed.add(&other.passed);
        self.sending += other.sending;
        self.draining += other.draining;
        self.is_drained &= other.is_drained;
        self.dead_acknowledged += other.dead_acknowledged;
        self.cost.add(&other.cost);
    }

    pub(super) fn figures(&self) -> Figures {
        let accounts = &self.passed.accounts;
        let counts = accounts.counts;
        let processed = counts.acknowledged + self.dead_acknowledged;
        let per_1000 = |cpu_s: Option<f64>| ratio(cpu_s? * 1_000.0, as_f64(processed));
        let cores = |cpu_s: Option<f64>| ratio(cpu_s?, self.cost.wall.as_secs_f64());
        let sent = (counts.sent > 0).then(|| as_f64(counts.acknowledged));
        Figures {
            events_per_s: sent.and_then(|sent| ratio(sent, self.sending.as_secs_f64())),
            deliveries_per_s: ratio(
                as_f64(counts.arrived),
                accounts.first_arrival_last_at.as_secs_f64(),
            ),
            ack: self.passed.ack.percentiles(),
            arrival: accounts.arrival.percentiles(),
            retry: accounts.retry.percentiles(),
            lag: self.passed.lag.percentiles(),
            cpu_s_per_1000_events: per_1000(self.cost.stack_cpu_s),
            bench_cpu_s_per_1000_events: per_1000(self.cost.bench_cpu_s),
            stack_cores: cores(self.cost.stack_cpu_s),
            other_cores: cores(self.cost.other_cpu_s),
            sending_s: self.sending.as_secs_f64(),
            draining_s: self.draining.as_secs_f64(),
            is_drained: self.is_drained,
            requests: self.passed.requests,
            refused: self.passed.refused,
            unanswered: self.passed.unanswered,
            dead_acknowledged: self.dead_acknowledged,
            counts,
            processes: self.cost.members.clone(),
        }
    }
}

impl Passed {
    fn add(&mut self, other: &Self) {
        self.ack.add(&other.ack);
        self.lag.add(&other.lag);
        self.requests += other.requests;
        self.refused += other.refused;
        self.unanswered += other.unanswered;
        let (accounts, more) = (&mut self.accounts, &other.accounts);
        accounts.arrival.add(&more.arrival);
        accounts.retry.add(&more.retry);
        // Times of rounds add up like their counts, so that rates are averages over all rounds.
        accounts.first_arrival_last_at += more.first_arrival_last_at;
        accounts.counts.add(&more.counts);
    }
}

impl Counts {
    fn add(&mut self, other: &Self) {
        // Named one by one, so that a new count is not forgotten here.
        let Self {
            sent,
            acknowledged,
            arrived,
            failed_on_purpose,
            missing,
            duplicates,
            altered,
            strays,
        } = other;
        self.sent += sent;
        self.acknowledged += acknowledged;
        self.arrived += arrived;
        self.failed_on_purpose += failed_on_purpose;
        self.missing += missing;
        self.duplicates += duplicates;
        self.altered += altered;
        self.strays += strays;
    }
}

impl Cost {
    fn add(&mut self, other: &Self) {
        let sum = |one: Option<f64>, other: Option<f64>| Some(one? + other?);
        self.wall += other.wall;
        self.stack_cpu_s = sum(self.stack_cpu_s, other.stack_cpu_s);
        self.bench_cpu_s = sum(self.bench_cpu_s, other.bench_cpu_s);
        self.other_cpu_s = sum(self.other_cpu_s, other.other_cpu_s);
        for (member, more) in self.members.iter_mut().zip(&other.members) {
            member.cpu_s = sum(member.cpu_s, more.cpu_s);
            member.memory_bytes_max = member.memory_bytes_max.max(more.memory_bytes_max);
        }
    }
}

/// `None` rather than infinity.
fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52 events")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

/// An outcome with round numbers, for tests of what is made of it.
#[cfg(test)]
pub(super) fn example(name: &str) -> Outcome {
    use super::latency::Latencies;
    use super::ledger::Ledger;
    use super::plan::{Length, Load, Share};

    let mut accounts = Ledger::new(1, Share::NONE).close();
    accounts.counts = Counts {
        sent: 2_000,
        acknowledged: 2_000,
        arrived: 4_000,
        ..Counts::default()
    };
    accounts.first_arrival_last_at = Duration::from_secs(4);
    accounts.arrival.record(Duration::from_millis(3));
    let mut ack = Latencies::new();
    ack.record(Duration::from_millis(1));
    Outcome {
        plan: Plan {
            name: name.to_owned(),
            load: Load::Closed { connections: 32 },
            fan_out: 2,
            fail_first: Share::NONE,
            dead_rate: None,
            batch_events: None,
            payload_bytes: 1_024,
            length: Length::For(Duration::from_secs(2)),
            warm_up: Duration::ZERO,
            idempotency_keys: true,
        },
        rounds: 1,
        passed: Passed {
            accounts,
            ack,
            lag: Latencies::new(),
            requests: 2_000,
            refused: 0,
            unanswered: 0,
        },
        sending: Duration::from_secs(2),
        draining: Duration::from_secs(2),
        is_drained: true,
        dead_acknowledged: 0,
        cost: Cost {
            wall: Duration::from_secs(5),
            stack_cpu_s: Some(0.5),
            bench_cpu_s: Some(0.1),
            other_cpu_s: Some(0.0),
            members: vec![MemberCost {
                name: "relay".to_owned(),
                cpu_s: Some(0.5),
                memory_bytes_max: 20 << 20,
            }],
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_costs_are_what_they_say() {
        let figures = example("one").figures();
        assert_eq!(figures.events_per_s, Some(1_000.0));
        assert_eq!(figures.deliveries_per_s, Some(1_000.0));
        assert_eq!(figures.cpu_s_per_1000_events, Some(0.25));
        assert_eq!(figures.bench_cpu_s_per_1000_events, Some(0.05));
        assert_eq!(figures.stack_cores, Some(0.1));
        assert_eq!(figures.lag, None);
    }

    #[test]
    fn events_for_a_dead_endpoint_share_the_cost() {
        let outcome = Outcome {
            dead_acknowledged: 2_000,
            ..example("dead")
        };
        let figures = outcome.figures();
        assert_eq!(figures.cpu_s_per_1000_events, Some(0.125));
        assert_eq!(figures.events_per_s, Some(1_000.0), "the healthy ones");
    }

    #[test]
    fn rounds_average_rates_and_keep_peaks() {
        let mut all = example("two rounds");
        let mut slower = example("two rounds");
        slower.sending = Duration::from_secs(6);
        slower.cost.members[0].memory_bytes_max = 30 << 20;
        slower.passed.accounts.counts.missing = 1;
        all.add(&slower);
        let figures = all.figures();
        assert_eq!((all.rounds, figures.events_per_s), (2, Some(500.0)));
        assert_eq!(figures.cpu_s_per_1000_events, Some(0.25));
        assert_eq!(figures.processes[0].memory_bytes_max, 30 << 20);
        assert_eq!(figures.counts.missing, 1);
    }

    #[test]
    fn nothing_sent_has_no_rates_but_a_load() {
        let mut outcome = example("idle");
        outcome.passed.accounts.counts = Counts::default();
        outcome.passed.accounts.first_arrival_last_at = Duration::ZERO;
        let figures = outcome.figures();
        assert_eq!(figures.cpu_s_per_1000_events, None);
        assert_eq!(figures.events_per_s, None);
        assert_eq!(figures.deliveries_per_s, None);
        assert_eq!(figures.stack_cores, Some(0.1));
    }

    #[test]
    fn an_unknown_cost_stays_unknown() {
        let (mut known, mut unknown) = (example("x"), example("x"));
        unknown.cost.stack_cpu_s = None;
        known.add(&unknown);
        assert_eq!(known.figures().cpu_s_per_1000_events, None);
    }
}
