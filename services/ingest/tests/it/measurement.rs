//! What accepting costs. Not a test: run it with `--run-ignored all --no-capture`, in release mode.
//!
//! The API runs in a process of its own, so that its CPU time can be told from the publishers'.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use zyven_domain::api_key::Scopes;
use zyven_domain::id::{EndpointId, TenantId};
use zyven_domain::secret_box::KeyRing;
use zyven_ingest::{Config, Deps};
use zyven_runtime::config::Source;
use zyven_runtime::inherited::Origin;
use zyven_runtime::metrics::Metrics;
use zyven_runtime::probes::Readiness;
use zyven_runtime::shutdown::Shutdown;
use zyven_runtime::traces::Tracer;
use zyven_store::{DatabaseTls, Store, StoreConfig};
use zyven_testkit::{Postgres, TestDatabase, child};

use crate::support::MASTER_KEYS;

const DATABASE_URL: &str = "ZYVEN_TEST_MEASURED_DATABASE_URL";
const WRITERS: &str = "ZYVEN_TEST_MEASURED_WRITERS";
const ADDRESS: &str = "listening on ";
const SERVER_TEST: &str = "measurement::the_measured_process";
const WARM_UP: Duration = Duration::from_secs(2);
const MEASURED: Duration = Duration::from_secs(6);

fn store(url: &str) -> Store {
    let config = StoreConfig {
        url: url.to_owned(),
        tls: DatabaseTls::default(),
        pool_size: 8,
    };
    Store::connect(&config).expect("a store")
}

/// The other process: does nothing unless it is started by the measurement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "part of a measurement"]
async fn the_measured_process() {
    let Ok(url) = std::env::var(DATABASE_URL) else {
        return;
    };
    let writers = std::env::var(WRITERS).expect("a number");
    let mut source = Source::from_pairs([("ZYVEN_INGEST_WRITERS", writers)]);
    let config = Config::read(&mut source).expect("good settings");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    println!("\n{ADDRESS}{}", listener.local_addr().expect("an address"));
    let metrics = Metrics::default();
    let deps = Deps {
        queue: None,
        store: store(&url),
        ring: KeyRing::parse(MASTER_KEYS).expect("a key ring"),
        metrics: metrics.clone(),
        tracer: Tracer::default(),
        readiness: Readiness::default(),
        origin: Origin::Own,
    };
    // Until it is killed.
    let (_trigger, shutdown) = Shutdown::new();
    let served = zyven_ingest::run(listener, config, deps, shutdown).await;
    served.expect("it serves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, to be read by a person"]
async fn accepting_in_a_closed_loop() {
    let settings = [
        "fsync=on",
        "full_page_writes=on",
        "shared_buffers=512MB",
        "max_wal_size=4GB",
    ];
    let server = Postgres::private_with(&settings).await;
    println!(
        "writers connections  events/s  ack p50/p99 ms  ingest CPU-s/1,000  all of PostgreSQL"
    );
    for writers in ["1", "2"] {
        for connections in [1, 32, 128] {
            let database = server.database().await;
            println!("{}", measure(&database, writers, connections).await);
        }
    }
}

/// One line of the table.
async fn measure(database: &TestDatabase, writers: &str, connections: usize) -> String {
    let tenant = TenantId::new();
    let (key, row) =
        zyven_ingest::new_api_key(tenant, "k", Scopes::all(), None).expect("random bytes");
    store(&database.url())
        .create_tenant("t", &row)
        .await
        .expect("a tenant");
    let client = database.client().await;
    client
        .execute(
            "INSERT INTO zyven.endpoints (id, tenant_id, url, event_types)
             VALUES ($1, $2, 'http://192.0.2.1/', '{*}')",
            &[&EndpointId::new().uuid(), &tenant.uuid()],
        )
        .await
        .expect("an endpoint");

    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args(["--exact", SERVER_TEST, "--ignored", "--nocapture"])
        .env(DATABASE_URL, database.url())
        .env(WRITERS, writers)
        .stdout(Stdio::piped());
    let mut api = child::start(command).expect("started");
    let output = BufReader::new(api.stdout.take().expect("piped"));
    let address = output
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix(ADDRESS).map(str::to_owned))
        .expect("it tells its address");

    let stop = Arc::new(AtomicBool::new(false));
    let counting = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let publishers: Vec<_> = (0..connections)
        .map(|number| {
            let (address, key) = (address.clone(), key.expose());
            let (stop, counting, count) = (stop.clone(), counting.clone(), count.clone());
            tokio::spawn(
                async move { publish(number, &address, &key, &stop, &counting, &count).await },
            )
        })
        .collect();
    tokio::time::sleep(WARM_UP).await;
    let cpu_before = (cpu_s(api.id()), postgres_cpu_s());
    let started = Instant::now();
    counting.store(true, Ordering::Relaxed);
    tokio::time::sleep(MEASURED).await;
    counting.store(false, Ordering::Relaxed);
    let (events, elapsed) = (count.load(Ordering::Relaxed) as f64, started.elapsed());
    let cpu = (
        cpu_s(api.id()) - cpu_before.0,
        postgres_cpu_s() - cpu_before.1,
    );
    stop.store(true, Ordering::Relaxed);
    let mut latencies: Vec<Duration> = Vec::new();
    for publisher in publishers {
        latencies.extend(publisher.await.expect("no panic"));
    }
    child::end(&mut api);
    latencies.sort_unstable();
    let percentile = |p: usize| latencies[latencies.len() * p / 100].as_secs_f64() * 1e3;
    format!(
        "{writers:>7} {connections:>11} {:>9.0}  {:>6.2} / {:>5.2}  {:>18.4}  {:>17.4}",
        events / elapsed.as_secs_f64(),
        percentile(50),
        percentile(99),
        cpu.0 / events * 1e3,
        cpu.1 / events * 1e3,
    )
}

async fn publish(
    number: usize,
    address: &str,
    key: &str,
    stop: &AtomicBool,
    counting: &AtomicBool,
    count: &AtomicU64,
) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.set_nodelay(true).expect("set");
    let body = format!(
        r#"{{"type":"invoice.paid","payload":{{"text":"{}"}}}}"#,
        "x".repeat(1000)
    );
    let mut latencies = Vec::new();
    let mut answer = [0; 4096];
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let request = format!(
            "POST /v1/events HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\n\
             content-type: application/json\r\nidempotency-key: {number}-{round}\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let sent = Instant::now();
        stream.write_all(request.as_bytes()).await.expect("sent");
        let bytes = stream.read(&mut answer).await.expect("an answer");
        assert!(
            answer[..bytes].starts_with(b"HTTP/1.1 202"),
            "{}",
            String::from_utf8_lossy(&answer[..bytes])
        );
        if counting.load(Ordering::Relaxed) {
            latencies.push(sent.elapsed());
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
    latencies
}

/// User and system time of a process, in ticks of 10 ms: fields 14 and 15 of proc(5)'s stat.
fn cpu_s(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |index: usize| {
        fields
            .get(index)
            .and_then(|f| f.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / 100.0
}

/// Of every PostgreSQL process on this machine; others should be idle meanwhile.
fn postgres_cpu_s() -> f64 {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return 0.0;
    };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.trim() == "postgres")
        })
        .map(cpu_s)
        .sum()
}
