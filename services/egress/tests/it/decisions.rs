//! One log line and one count per decision.

use std::io::Write;
use std::sync::{Arc, Mutex};

use tokio::time::timeout;
use tracing_subscriber::fmt::MakeWriter;

use crate::support::dns::NameServer;
use crate::support::{Proxy, SOON, assert_echoes, echo};

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    /// The decision lines so far.
    fn decisions(&self) -> Vec<String> {
        String::from_utf8(self.0.lock().unwrap().clone())
            .unwrap()
            .lines()
            .filter(|line| line.contains("zyven_egress::decision"))
            .map(str::to_owned)
            .collect()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Captured {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn every_decision_is_one_line_without_an_address() {
    let captured = Captured::default();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_writer(captured.clone())
        .finish();
    // For the process: other tests may run in it, and no other test asks about names of this zone.
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let server = NameServer::start().await;
    server.has("good.logged.example", &["127.0.0.1"]);
    server.has("bad.logged.example", &["10.11.12.13"]);
    let proxy = Proxy::asking(&server, &[]).await;
    let port = echo().await.port();

    let mut tunnel = proxy
        .connect(format!("good.logged.example:{port}"))
        .await
        .opened();
    assert_echoes(&mut tunnel).await;
    proxy
        .connect(format!("bad.logged.example:{port}"))
        .await
        .refused(403, "denied_ip");
    proxy
        .send("GET /secret-path HTTP/1.1\r\n\r\n")
        .await
        .refused(405, "method_not_allowed");

    let all = captured.decisions();
    let lines: Vec<_> = all
        .iter()
        .filter(|line| line.contains(".logged.example"))
        .collect();
    let expected = [
        ["good.logged.example", "open", "allowed", "loopback"],
        ["bad.logged.example", "refuse", "denied_ip", "private"],
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, words) in lines.iter().zip(expected) {
        for word in words.into_iter().chain(["duration_ms"]) {
            assert!(line.contains(word), "{word} in {line}");
        }
        assert!(!line.contains("10.11.12.13"), "{line}");
    }
    assert!(all.iter().any(|line| line.contains("method_not_allowed")));
    assert!(!all.iter().any(|line| line.contains("secret-path")));
}

#[tokio::test]
async fn every_decision_is_counted_under_its_reason() {
    let proxy = Proxy::start(&[("ZYVEN_EGRESS_TUNNELS_PER_HOST_MAX", "1")]).await;
    let counts = |line: &str| proxy.metrics.render().lines().any(|shown| shown == line);
    let mut tunnel = proxy.connect(echo().await).await.opened();
    assert_echoes(&mut tunnel).await;
    assert!(
        counts("zyven_egress_decisions_total{reason=\"denied_ip\"} 0"),
        "there before it happens"
    );
    proxy
        .connect("127.0.0.1:80")
        .await
        .refused(503, "host_busy");
    for _ in 0..2 {
        proxy.connect("10.0.0.1:80").await.refused(403, "denied_ip");
    }
    for line in [
        "zyven_egress_decisions_total{reason=\"allowed\"} 1",
        "zyven_egress_decisions_total{reason=\"host_busy\"} 1",
        "zyven_egress_decisions_total{reason=\"denied_ip\"} 2",
        "zyven_egress_decision_seconds_count 4",
        "zyven_egress_tunnels 1",
    ] {
        assert!(counts(line), "{line} in\n{}", proxy.metrics.render());
    }

    drop(tunnel);
    let ended = async {
        while !counts("zyven_egress_tunnels_ended_total{end=\"finished\"} 1") {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, ended).await.unwrap();
    assert!(counts(
        "zyven_egress_tunnel_bytes_total{direction=\"to_endpoint\"} 4"
    ));
}
