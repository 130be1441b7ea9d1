//! What a ticket costs. Not a test: run it with `--run-ignored all --no-capture`, in release mode.

use std::time::{Duration, Instant};

use zyven_queue::Lane;

use crate::support::{LEASE, NOW, Stage, done, new_lane, ticket};

const TICKETS: i64 = 200_000;
const BATCH: usize = 64;

async fn redis_cpu_s(stage: &Stage) -> f64 {
    let mut redis = stage.redis.connection().await;
    let info: String = redis::cmd("INFO")
        .arg("cpu")
        .query_async(&mut redis)
        .await
        .unwrap();
    info.lines()
        .filter(|line| line.starts_with("used_cpu_user:") || line.starts_with("used_cpu_sys:"))
        .filter_map(|line| line.split_once(':')?.1.trim().parse::<f64>().ok())
        .sum()
}

#[tokio::test]
#[ignore = "a measurement, to be read by a person"]
async fn cpu_seconds_of_redis_per_thousand_tickets() {
    for lanes in [1_usize, 16, 1_000, 10_000] {
        let stage = Stage::with(|config| config.lane_in_flight_max = 64).await;
        let endpoints: Vec<Lane> = (0..lanes).map(|_| new_lane()).collect();
        let (cpu_s, started) = (redis_cpu_s(&stage).await, Instant::now());
        let mut pushed: Vec<_> = Vec::with_capacity(BATCH);
        let (mut completions, mut completed) = (Vec::new(), 0);
        for seq in 1..=TICKETS {
            let endpoint = endpoints[usize::try_from(seq).unwrap() % lanes];
            pushed.push(ticket(endpoint, seq, NOW));
            if pushed.len() == BATCH || seq == TICKETS {
                let _ = stage.queue.push(&pushed, &stage.epoch).await.unwrap();
                pushed.clear();
                let claimed = stage.queue.claim(BATCH, LEASE, &completions).await.unwrap();
                completions = done(&claimed.tickets);
                completed += completions.len();
            }
        }
        stage.give_back(&completions).await;
        let elapsed = started.elapsed();
        let per_thousand = (redis_cpu_s(&stage).await - cpu_s) * 1_000.0 / TICKETS as f64;
        println!(
            "{lanes:>6} lanes: {per_thousand:.4} CPU-s of Redis per 1,000; {:.0} tickets/s; {completed} completed",
            TICKETS as f64 / elapsed.as_secs_f64()
        );
    }
}

#[tokio::test]
#[ignore = "a measurement, to be read by a person"]
async fn a_million_tickets() {
    let stage = Stage::new().await;
    let endpoints: Vec<Lane> = (0..100).map(|_| new_lane()).collect();
    let started = Instant::now();
    let mut slowest = Duration::ZERO;
    for page in 0..1_000_i64 {
        let tickets: Vec<_> = (page * 1_000..(page + 1) * 1_000)
            .map(|seq| ticket(endpoints[usize::try_from(seq).unwrap() % 100], seq, NOW))
            .collect();
        let asked = Instant::now();
        let _ = stage.queue.push(&tickets, &stage.epoch).await.unwrap();
        slowest = slowest.max(asked.elapsed());
    }
    println!(
        "1,000,000 tickets pushed in {:?}, slowest thousand {slowest:?}",
        started.elapsed()
    );
}
