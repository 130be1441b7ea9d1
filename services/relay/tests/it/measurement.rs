//! How long a rebuild takes, and what a backlog costs. Not tests: run them as docs/benchmarks.md has it.

use std::time::{Duration, Instant};

use zyven_relay::{HandOver, Sweep};
use zyven_runtime::metrics::Metrics;
use zyven_runtime::pace::Rest;
use zyven_testkit::wait_until;

use crate::stage::{NEVER, Stage, metric};

const BACKLOG: i32 = 1_000_000;
/// A machine that needs longer is of no interest.
const PATIENCE: Duration = Duration::from_secs(600);
const LEASE: Duration = Duration::from_secs(3_600);
/// Tickets that a dispatcher takes at most at once.
const BATCH: usize = 128;
/// Claims of one round.
const ROUND: i32 = 20_000;

#[tokio::test]
#[ignore = "a measurement, to be read by a person"]
async fn a_million_rows_are_handed_over_and_given_back_to_an_emptied_redis() {
    let stage = Stage::new().await;
    let metrics = Metrics::default();
    let term = stage.term(&metrics);
    let (mut hand_over, mut sweep) = (
        HandOver::new(term.clone(), NEVER),
        Sweep::new(term.clone(), NEVER),
    );
    sweep.rebuild().await.unwrap();
    stage.fill_outbox(BACKLOG).await;

    let started = Instant::now();
    while hand_over.step().await.unwrap() == Rest::None {}
    println!("handed over in {:?}", started.elapsed());

    stage.redis.flush().await;
    let started = Instant::now();
    sweep.rebuild().await.unwrap();
    println!("rebuilt in {:?}", started.elapsed());

    let started = Instant::now();
    sweep.scrub().await.unwrap();
    println!("scrubbed, without rests, in {:?}", started.elapsed());
    assert_eq!(
        metric(&metrics, "zyven_queue_tickets_waiting"),
        f64::from(BACKLOG)
    );
}

#[tokio::test]
#[ignore = "a measurement, to be read by a person"]
async fn a_million_rows_are_given_back_while_events_keep_coming() {
    let stage = Stage::new().await;
    stage.fill_outbox(BACKLOG).await;
    let relay = stage.relay().await;
    let backlog = u64::try_from(BACKLOG).unwrap();
    wait_until("all have tickets", PATIENCE, async || {
        stage
            .queue
            .depth()
            .await
            .is_ok_and(|depth| depth.waiting == backlog)
    })
    .await;
    let rebuilds = "zyven_relay_rebuild_seconds_count";
    let before = metric(&relay.metrics, rebuilds);

    stage.redis.flush().await;
    let started = Instant::now();
    let mut came = 0;
    while metric(&relay.metrics, rebuilds) == before {
        stage.accept(100).await;
        came += 100;
        assert!(started.elapsed() < PATIENCE, "it has no end");
    }
    let rows = backlog + came;
    wait_until("all have tickets again", PATIENCE, async || {
        stage
            .queue
            .depth()
            .await
            .is_ok_and(|depth| depth.waiting == rows)
    })
    .await;
    let took = started.elapsed();
    println!(
        "all of {rows} rows had a ticket again after {took:?}, of which {came} came meanwhile ({:.0}/s)",
        came as f64 / took.as_secs_f64()
    );
    relay.stop().await;
}

#[tokio::test]
#[ignore = "a measurement, to be read by a person"]
async fn claims_beside_a_backlog_of_a_million_against_claims_without_one() {
    let (full, empty) = (Claimant::new().await, Claimant::new().await);
    full.hand_over(BACKLOG).await;
    full.analyze().await;
    let mut ratios = Vec::new();
    for round in 0..5 {
        empty.hand_over(ROUND).await;
        empty.analyze().await;
        let (beside, without) = (full.claim().await, empty.claim().await);
        let ratio = beside / without;
        println!(
            "round {round}: {beside:.0} claims/s beside the backlog, {without:.0} without: {ratio:.2}"
        );
        ratios.push(ratio);
        empty.forget().await;
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "median {:.2} ({:.2} to {:.2})",
        ratios[2], ratios[0], ratios[4]
    );
}

/// Hands over rows and claims them, without delivering anything.
struct Claimant {
    stage: Stage,
    metrics: Metrics,
}

impl Claimant {
    async fn new() -> Self {
        Self {
            stage: Stage::new().await,
            metrics: Metrics::default(),
        }
    }

    async fn hand_over(&self, rows: i32) {
        self.stage.fill_outbox(rows).await;
        let term = self.stage.term(&self.metrics);
        let mut sweep = Sweep::new(term, NEVER);
        sweep.scrub().await.unwrap();
    }

    async fn analyze(&self) {
        (self
            .stage
            .sql
            .batch_execute("VACUUM ANALYZE zyven.outbox")
            .await)
            .unwrap();
    }

    async fn forget(&self) {
        (self.stage.sql.batch_execute("TRUNCATE zyven.outbox").await).unwrap();
        self.stage.redis.flush().await;
    }

    /// Claims a round in Redis and PostgreSQL; returns how many a second.
    async fn claim(&self) -> f64 {
        let (started, mut claimed, mut completions) = (Instant::now(), 0, Vec::new());
        while claimed < ROUND as usize {
            let taken = self
                .stage
                .queue
                .claim(BATCH, LEASE, &completions)
                .await
                .unwrap();
            let seqs: Vec<i64> = taken.tickets.iter().map(|ticket| ticket.seq).collect();
            assert!(!seqs.is_empty(), "{claimed} of {ROUND}");
            let token = i64::try_from(claimed + 1).unwrap();
            let confirmed = self.stage.store.claim(&seqs, token, LEASE).await.unwrap();
            assert_eq!(confirmed.claimed.len(), seqs.len());
            claimed += seqs.len();
            completions = taken.tickets.iter().map(crate::stage::done).collect();
        }
        claimed as f64 / started.elapsed().as_secs_f64()
    }
}
