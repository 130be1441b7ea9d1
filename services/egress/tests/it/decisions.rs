//! One log line per decision.

use std::io::Write;
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;

use crate::support::dns::NameServer;
use crate::support::{Proxy, assert_echoes, echo};

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

// The runtime of a `tokio::test` has one thread, so the subscriber of this thread sees all tasks.
#[tokio::test]
async fn every_decision_is_one_line_without_an_address() {
    let captured = Captured::default();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_writer(captured.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let server = NameServer::start().await;
    server.has("good.example.com", &["127.0.0.1"]);
    server.has("bad.example.com", &["10.11.12.13"]);
    let proxy = Proxy::asking(&server, &[]).await;
    let port = echo().await.port();

    let mut tunnel = proxy
        .connect(format!("good.example.com:{port}"))
        .await
        .opened();
    assert_echoes(&mut tunnel).await;
    proxy
        .connect(format!("bad.example.com:{port}"))
        .await
        .refused(403, "denied_ip");
    proxy
        .send("GET /secret-path HTTP/1.1\r\n\r\n")
        .await
        .refused(405, "method_not_allowed");

    let lines = captured.decisions();
    let expected: [&[&str]; 3] = [
        &[
            "good.example.com",
            "open",
            "allowed",
            "loopback",
            "duration_ms",
        ],
        &[
            "bad.example.com",
            "refuse",
            "denied_ip",
            "private",
            "duration_ms",
        ],
        &["refuse", "method_not_allowed", "duration_ms"],
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, words) in lines.iter().zip(expected) {
        for word in words {
            assert!(line.contains(word), "{word} in {line}");
        }
        assert!(!line.contains("10.11.12.13") && !line.contains("secret-path"));
    }
}
