use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use zyven_runtime::metrics::Metrics;
use zyven_runtime::probes::{self, Readiness};
use zyven_runtime::process;
use zyven_runtime::shutdown::{Shutdown, Trigger};

use crate::child::SOON;

/// The probes of a process.
struct Probes {
    address: SocketAddr,
    readiness: Readiness,
    metrics: Metrics,
    /// Asks the process to stop.
    process: Trigger,
    /// Asks the probes to stop, which come last.
    server: Trigger,
    running: JoinHandle<Result<(), Infallible>>,
}

impl Probes {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (process, stop) = Shutdown::new();
        let (server, shutdown) = Shutdown::new();
        let (readiness, metrics) = (Readiness::new(stop), Metrics::new());
        let serve = probes::serve(listener, readiness.clone(), metrics.clone(), shutdown);
        Self {
            address,
            readiness,
            metrics,
            process,
            server,
            running: tokio::spawn(serve),
        }
    }

    async fn get(&self, path: &str) -> (u16, String, String) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}{path}", self.address);
        let answer = client.get(url).send().await.unwrap();
        let content_type = answer.headers()["content-type"]
            .to_str()
            .unwrap()
            .to_owned();
        (
            answer.status().as_u16(),
            content_type,
            answer.text().await.unwrap(),
        )
    }

    async fn get_json(&self, path: &str) -> (u16, Value) {
        let (status, content_type, body) = self.get(path).await;
        assert_eq!(content_type, "application/json");
        (status, serde_json::from_str(&body).unwrap())
    }

    async fn stop(self) {
        self.server.request();
        timeout(SOON, self.running).await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test]
async fn readiness_gives_its_reasons_and_health_does_not_depend_on_it() {
    let probes = Probes::start().await;
    let postgres = probes.readiness.check("postgres");
    let redis = probes.readiness.check("redis");
    let starting = json!({"postgres": "starting", "redis": "starting"});
    assert_eq!(
        probes.get_json("/readyz").await,
        (503, json!({"status": "not ready", "reasons": starting}))
    );
    assert_eq!(
        probes.get_json("/healthz").await,
        (200, json!({"status": "ok"}))
    );

    postgres.ready();
    redis.clone().ready();
    assert!(probes.readiness.is_ready());
    let ready = (200, json!({"status": "ready"}));
    assert_eq!(probes.get_json("/readyz").await, ready);

    postgres.not_ready("connection \"refused\"");
    let away = json!({"postgres": "connection \"refused\""});
    assert_eq!(
        probes.get_json("/readyz").await,
        (503, json!({"status": "not ready", "reasons": away}))
    );
    postgres.ready();
    assert_eq!(probes.get_json("/readyz").await, ready);

    probes.process.request();
    let stopping = json!({"shutdown": "stopping"});
    assert_eq!(
        probes.get_json("/readyz").await,
        (503, json!({"status": "not ready", "reasons": stopping}))
    );
    assert_eq!(probes.get_json("/healthz").await.0, 200);
    probes.stop().await;
}

#[tokio::test]
async fn metrics_are_served_in_prometheus_format() {
    let probes = Probes::start().await;
    process::register(&probes.metrics);
    probes
        .metrics
        .counter("zyven_test_total", "Tests.")
        .increment();
    let (status, content_type, page) = probes.get("/metrics").await;
    assert_eq!(status, 200);
    assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
    assert!(page.contains("# TYPE zyven_test_total counter\nzyven_test_total 1\n"));
    let fact = |name: &str| -> f64 {
        let line = page.lines().find_map(|line| line.strip_prefix(name));
        line.expect(name).trim().parse().unwrap()
    };
    assert!(fact("process_resident_memory_bytes ") > 500.0 * 1024.0);
    assert!(fact("process_cpu_seconds_total ") >= 0.0);
    assert!(fact("process_open_fds ") >= 3.0);
    assert!(fact("process_start_time_seconds ") > 1.7e9);
    probes.stop().await;
}

/// What the server does with a request written by hand.
async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let probes = Probes::start().await;
    for (line, status) in [
        ("GET / HTTP/1.1", "404"),
        ("POST /metrics HTTP/1.1", "405"),
        ("HEAD /healthz HTTP/1.1", "200"),
    ] {
        let request = format!("{line}\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = exchange(probes.address, &request).await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{answer}");
    }
    probes.stop().await;
}

/// With time paused: it jumps ahead as soon as everybody waits.
#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_closed() {
    let probes = Probes::start().await;
    let began = tokio::time::Instant::now();
    exchange(probes.address, "GET /healthz HTT").await;
    assert!(began.elapsed() >= Duration::from_secs(5));
    probes.stop().await;
}

#[tokio::test(start_paused = true)]
async fn silent_connections_do_not_keep_a_probe_out_for_good() {
    let probes = Probes::start().await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(probes.address).await.unwrap());
    }
    let request = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = exchange(probes.address, request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    probes.stop().await;
}

#[tokio::test]
async fn an_open_connection_does_not_delay_the_stop() {
    let probes = Probes::start().await;
    let mut idle = TcpStream::connect(probes.address).await.unwrap();
    let request = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    idle.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(idle.read_u8().await.unwrap(), b'H');
    probes.stop().await;
}
