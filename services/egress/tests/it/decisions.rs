//! One log line and one count per decision.

use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::ResponseCode;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tracing_subscriber::fmt::MakeWriter;
use zyven_domain::target::EgressReason;

use crate::support::dns::{NameServer, Reply};
use crate::support::{BlackHole, Proxy, SOON, assert_echoes, echo, echo_on};

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The decision lines so far.
    fn decisions(&self) -> Vec<String> {
        self.text()
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
    let allow = ("ZYVEN_EGRESS_ALLOW_CIDRS", "127.0.0.0/8,10.98.0.0/16");
    let proxy = Proxy::asking(&server, &[allow]).await;
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
    let denied = "Printer.logged.example.local:8080";
    proxy.connect(denied).await.refused(403, "denied_host");
    let denied = "mail.logged.example:25";
    proxy.connect(denied).await.refused(403, "denied_port");
    let malformed = "b%64.logged.example:80";
    let answer = proxy.connect(malformed).await;
    answer.refused(400, "authority_invalid");
    proxy
        .send("GET /secret-path HTTP/1.1\r\n\r\n")
        .await
        .refused(405, "method_not_allowed");

    let opened = "the egress proxy delivers to addresses that are not public";
    let start = captured.text();
    let start = start.lines().find(|line| line.contains("10.98.0.0/16"));
    assert!(
        start.is_some_and(|line| line.contains(opened)),
        "what the operator opened is logged"
    );
    let all = captured.decisions();
    let lines: Vec<_> = all
        .iter()
        .filter(|line| line.contains(".logged.example"))
        .collect();
    let expected = [
        ["good.logged.example", "open", "allowed", "loopback"],
        ["bad.logged.example", "refuse", "denied_ip", "private"],
        [
            "\"printer.logged.example.local\"",
            "refuse",
            "denied_host",
            "8080",
        ],
        ["\"mail.logged.example\"", "refuse", "denied_port", "25"],
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

/// A proxy, a name server and an endpoint that bring about every reason there is.
async fn provoke_every_reason(proxy: &Proxy, server: &NameServer, hole: &BlackHole) {
    server.replies(
        "broken.example.com",
        vec![Reply::Code(ResponseCode::ServFail)],
    );
    server.replies("silent.example.com", vec![Reply::Silence]);
    let closed = tokio::net::TcpSocket::new_v4().unwrap();
    closed.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let closed = closed.local_addr().unwrap().to_string();
    let hole = hole.address.to_string();
    for (target, status, reason) in [
        ("127.1:80", 400, "authority_invalid"),
        ("localhost:80", 403, "denied_host"),
        ("127.0.0.1:22", 403, "denied_port"),
        ("10.0.0.1:80", 403, "denied_ip"),
        ("missing.example.com:80", 502, "dns_not_found"),
        ("broken.example.com:80", 502, "dns_failed"),
        ("silent.example.com:80", 504, "dns_timeout"),
        (closed.as_str(), 502, "connect_failed"),
        (hole.as_str(), 504, "connect_timeout"),
    ] {
        proxy.connect(target).await.refused(status, reason);
    }
    let padding = "x".repeat(9_000);
    for (head, status, reason) in [
        ("GET / HTTP/1.1\r\n\r\n", 405, "method_not_allowed"),
        ("CONNECT a.b:1 HTTP/1.1\r\n\r\n", 407, "credential_invalid"),
        ("hello\r\n\r\n", 400, "head_malformed"),
        ("CONNECT", 408, "head_timeout"),
        (padding.as_str(), 431, "head_too_large"),
    ] {
        proxy.send(head).await.refused(status, reason);
    }
    // One tunnel for each host, two in all.
    let (one, other) = (
        echo().await,
        echo_on(TcpListener::bind("127.0.0.2:0").await.unwrap()),
    );
    let first = proxy.connect(one).await.opened();
    proxy.connect(one).await.refused(503, "host_busy");
    let second = proxy.connect(other).await.opened();
    proxy.connect(other).await.refused(503, "overloaded");
    drop((first, second));
}

#[tokio::test]
async fn every_decision_is_counted_once_under_its_reason() {
    let server = NameServer::start().await;
    let limits = [
        ("ZYVEN_EGRESS_TUNNELS_PER_HOST_MAX", "1"),
        ("ZYVEN_EGRESS_TUNNELS_MAX", "2"),
        ("ZYVEN_EGRESS_HEAD_TIMEOUT", "1s"),
        ("ZYVEN_EGRESS_DNS_TIMEOUT", "1s"),
        ("ZYVEN_EGRESS_DIAL_TIMEOUT", "1s"),
    ];
    let proxy = Proxy::asking(&server, &limits).await;
    let hole = BlackHole::dig(Ipv4Addr::LOCALHOST).await;
    let line = |reason: &str, count: usize| {
        format!("zyven_egress_decisions_total{{reason=\"{reason}\"}} {count}")
    };
    let shows = |wanted: &str| proxy.metrics.render().lines().any(|line| line == wanted);
    for reason in EgressReason::ALL {
        assert!(
            shows(&line(reason.as_str(), 0)),
            "{reason} is there before it happens"
        );
    }

    provoke_every_reason(&proxy, &server, &hole).await;
    for reason in EgressReason::ALL {
        assert!(
            shows(&line(reason.as_str(), 1)),
            "{reason} in\n{}",
            proxy.metrics.render()
        );
    }
    assert!(shows(&line("allowed", 2)));
    let decisions = EgressReason::ALL.len() + 2;
    assert!(shows(&format!(
        "zyven_egress_decision_seconds_count {decisions}"
    )));
}

#[tokio::test]
async fn tunnels_are_counted_while_they_are_open_and_when_they_end() {
    let proxy = Proxy::start(&[]).await;
    let shows = |wanted: &str| proxy.metrics.render().lines().any(|line| line == wanted);
    let mut tunnel = proxy.connect(echo().await).await.opened();
    assert_echoes(&mut tunnel).await;
    assert!(shows("zyven_egress_tunnels 1"));
    drop(tunnel);
    let ended = async {
        while !shows("zyven_egress_tunnels_ended_total{end=\"finished\"} 1") {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, ended).await.unwrap();
    assert!(shows("zyven_egress_tunnels 0"));
    for direction in ["to_endpoint", "to_caller"] {
        assert!(shows(&format!(
            "zyven_egress_tunnel_bytes_total{{direction=\"{direction}\"}} 4"
        )));
    }
}
