//! What a delivery costs. Not a test: run it with `--run-ignored all --no-capture`, in release mode.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use zyven_testkit::wait_until;

use crate::support::{PATIENCE, Proxy, Stage, config};

const DELIVERIES: usize = 20_000;
/// What /proc counts in, on every Linux.
const TICKS_PER_S: f64 = 100.0;

/// Threads of its own, so that their CPU time can be told apart.
fn runtime(name: &str) -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name(name)
        .enable_all()
        .build()
        .unwrap()
}

/// CPU seconds of this process so far, by name of thread.
fn cpu_s() -> BTreeMap<String, f64> {
    let mut cpu_s = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let Ok(stat) = std::fs::read_to_string(task.unwrap().path().join("stat")) else {
            continue;
        };
        let (start, fields) = stat.rsplit_once(") ").unwrap();
        let name = start.split_once('(').unwrap().1;
        let ticks =
            |field: usize| -> f64 { fields.split(' ').nth(field).unwrap().parse().unwrap() };
        *cpu_s.entry(name.to_owned()).or_default() += (ticks(11) + ticks(12)) / TICKS_PER_S;
    }
    cpu_s
}

#[test]
#[ignore = "a measurement, to be read by a person"]
fn cpu_seconds_per_thousand_deliveries() {
    let (dispatcher_threads, proxy_threads, outside) =
        (runtime("dispatcher"), runtime("proxy"), runtime("outside"));
    for endpoints in [1, 10] {
        let (stage, proxy) = outside.block_on(async {
            let proxy = proxy_threads.spawn(Proxy::start()).await.unwrap();
            let stage = Stage::new().await;
            for number in 0..endpoints {
                stage.endpoint(&format!("/hook/{number}")).await;
            }
            let (tenant, events) = (stage.tenant, DELIVERIES / endpoints);
            stage
                .sql
                .run(&format!(
                    "SELECT count(zyven.publish('{tenant}', 'invoice.paid', json_build_object('n', n, 'text', repeat('x', 1000))))
                       FROM generate_series(1, {events}) AS n;
                     ANALYZE zyven.outbox"
                ))
                .await;
            stage.offer().await;
            (stage, proxy)
        });
        let (before, began) = (cpu_s(), Instant::now());
        let dispatcher = {
            let _entered = dispatcher_threads.enter();
            stage.start_with(config(&[proxy.address]))
        };
        outside.block_on(async {
            wait_until("all are delivered", 4 * PATIENCE, async || {
                match stage.sql.number("SELECT count(*) FROM zyven.outbox").await {
                    0 => Ok(()),
                    left => Err(left),
                }
            })
            .await;
            let (elapsed, after) = (began.elapsed(), cpu_s());
            let per_thousand = |name: &str| {
                let used = after[name] - before.get(name).copied().unwrap_or_default();
                used * 1_000.0 / DELIVERIES as f64
            };
            println!(
                "{endpoints:>3} endpoints: CPU-s per 1,000: dispatcher {:.4}, proxy {:.4}; {:.0} deliveries/s; {} connections; {:?} per claim, {:?} per settlement",
                per_thousand("dispatcher"),
                per_thousand("proxy"),
                DELIVERIES as f64 / elapsed.as_secs_f64(),
                stage.receiver.connection_count(),
                DELIVERIES as u64 / dispatcher.count("zyven_dispatcher_claim_batch_size_count"),
                DELIVERIES as u64 / dispatcher.count("zyven_dispatcher_settle_batch_size_count"),
            );
            assert_eq!(stage.receiver.request_count(), DELIVERIES);
            dispatcher.stop().await;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, to be read by a person"]
async fn from_push_to_arrival_at_low_load() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    let dispatcher = stage.start();
    stage.first_attempt().await;
    let mut latencies = Vec::new();
    for sent in 1..=300_usize {
        stage.publish_silently("{}").await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        let pushed = Instant::now();
        stage.offer().await;
        let requests = stage.receiver.wait_for_requests(sent + 1, PATIENCE).await;
        latencies.push(requests[sent].arrived_at - pushed);
    }
    latencies.sort_unstable();
    println!(
        "push to arrival: p50 {:?}, p90 {:?}, p99 {:?}",
        latencies[150], latencies[270], latencies[297]
    );
    dispatcher.stop().await;
}
