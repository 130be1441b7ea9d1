//! The probes, over a real socket.

use tokio::net::TcpListener;
use zyven_runtime::metrics::Metrics;
use zyven_runtime::probes::{self, Readiness};
use zyven_runtime::shutdown::Shutdown;

#[tokio::test]
async fn probes_tell_the_truth() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (readiness, metrics) = (Readiness::default(), Metrics::default());
    let (trigger, shutdown) = Shutdown::new();
    let server = tokio::spawn(probes::run(
        listener,
        readiness.clone(),
        metrics.clone(),
        shutdown,
    ));
    let get = async |path: &str| {
        let answer = reqwest::get(format!("{url}{path}"))
            .await
            .expect("an answer");
        (
            answer.status().as_u16(),
            answer.text().await.expect("a body"),
        )
    };

    let database = readiness.condition("database");
    assert_eq!(get("/healthz").await, (200, "ok\n".to_owned()));
    let (status, body) = get("/readyz").await;
    assert_eq!(status, 503);
    assert!(body.contains("\"database\":\"starting\""), "{body}");
    database.ready();
    assert_eq!(get("/readyz").await.0, 200);
    database.not_ready("connection refused");
    assert!(get("/readyz").await.1.contains("connection refused"));

    metrics.counter("things_total", "Things", &[]).add(7);
    assert!(get("/metrics").await.1.contains("\nthings_total 7\n"));

    trigger.request();
    server.await.expect("no panic").expect("an orderly end");
}
