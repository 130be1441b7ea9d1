//! How long a decision takes: the proxy's own limits, and the time its caller has.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use crate::support::dns::{NameServer, Reply, addresses_of};
use crate::support::{BlackHole, Proxy, SOON, assert_echoes, echo, echo_on};

const NAME: &str = "hooks.example.com";
/// Longer than the proxy keeps a caller that asks without a word.
const A_WHILE: Duration = Duration::from_millis(1_000);
/// More time than any decision here takes.
const AMPLE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_caller_gets_its_answer_within_the_time_it_has() {
    let server = NameServer::start().await;
    server.replies(NAME, vec![Reply::Silence]);
    let hole = BlackHole::dig(Ipv4Addr::LOCALHOST).await;
    let ample = [
        ("ZYVEN_EGRESS_DNS_TIMEOUT", "60s"),
        ("ZYVEN_EGRESS_CONNECT_TIMEOUT", "60s"),
        ("ZYVEN_EGRESS_DIAL_TIMEOUT", "60s"),
    ];
    let proxy = Proxy::asking(&server, &ample).await;
    let began = Instant::now();
    let within = Duration::from_millis(200);
    let unresolved = proxy.connect_within(format!("{NAME}:443"), within).await;
    unresolved.refused(504, "dns_timeout");
    let unreached = proxy.connect_within(hole.address, within).await;
    unreached.refused(504, "connect_timeout");
    let no_time = proxy.connect_within(hole.address, Duration::ZERO).await;
    no_time.refused(504, "connect_timeout");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_caller_with_time_to_spare_does_not_loosen_the_proxys_own_limits() {
    let server = NameServer::start().await;
    server.replies(NAME, vec![Reply::Silence]);
    let hole = BlackHole::dig(Ipv4Addr::LOCALHOST).await;
    let limits = [
        ("ZYVEN_EGRESS_DNS_TIMEOUT", "200ms"),
        ("ZYVEN_EGRESS_DIAL_TIMEOUT", "200ms"),
    ];
    let proxy = Proxy::asking(&server, &limits).await;
    let began = Instant::now();
    let unresolved = proxy.connect_within(format!("{NAME}:443"), AMPLE).await;
    unresolved.refused(504, "dns_timeout");
    let unreached = proxy.connect_within(hole.address, AMPLE).await;
    unreached.refused(504, "connect_timeout");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn only_a_caller_that_has_a_time_hears_that_the_decision_takes_a_while() {
    let server = NameServer::start().await;
    let later = |then| Reply::After(A_WHILE, Box::new(then));
    server.replies(NAME, vec![later(addresses_of(NAME, &["127.0.0.1"]))]);
    server.replies(
        "denied.example.com",
        vec![later(addresses_of("denied.example.com", &["10.0.0.1"]))],
    );
    let proxy = Proxy::asking(&server, &[("ZYVEN_EGRESS_DNS_TIMEOUT", "10s")]).await;
    let echo = echo().await;
    let target = format!("{NAME}:{}", echo.port());

    let asked = proxy.connect_within(&target, AMPLE).await;
    assert_eq!(asked.interim, 1);
    assert_echoes(&mut asked.opened()).await;
    let refused = proxy.connect_within("denied.example.com:443", AMPLE).await;
    assert_eq!(refused.interim, 1);
    refused.refused(403, "denied_ip");

    let did_not_ask = proxy.connect(&target).await;
    assert_eq!(did_not_ask.interim, 0);
    assert_echoes(&mut did_not_ask.opened()).await;
}

#[tokio::test]
async fn a_decision_that_is_made_at_once_is_the_only_answer() {
    let proxy = Proxy::start(&[]).await;
    let echo = echo().await;
    // A machine under load may need several tries until both are decided at once.
    loop {
        let began = Instant::now();
        let opened = proxy.connect_within(echo, AMPLE).await;
        let refused = proxy.connect_within("10.0.0.1:443", AMPLE).await;
        if began.elapsed() < Duration::from_millis(500) {
            assert_eq!((opened.interim, refused.interim), (0, 0));
            refused.refused(403, "denied_ip");
            return assert_echoes(&mut opened.opened()).await;
        }
    }
}

#[tokio::test]
async fn a_time_that_is_no_number_is_no_request() {
    let proxy = Proxy::start(&[]).await;
    let head = "CONNECT 127.0.0.1:80 HTTP/1.1\r\nx-zyven-egress-within-ms: soon\r\n\r\n";
    proxy.send(head).await.refused(400, "head_malformed");
}

#[tokio::test]
async fn an_address_that_refuses_or_hangs_leaves_the_next_one_its_turn() {
    let server = NameServer::start().await;
    let proxy = Proxy::asking(&server, &[("ZYVEN_EGRESS_CONNECT_TIMEOUT", "200ms")]).await;

    server.has("refused.example.com", &["127.0.0.2", "127.0.0.1"]);
    let port = echo().await.port();
    let answer = proxy.connect(format!("refused.example.com:{port}")).await;
    assert_echoes(&mut answer.opened()).await;

    server.has("hung.example.com", &["127.0.0.2", "127.0.0.1"]);
    let hole = BlackHole::dig(Ipv4Addr::new(127, 0, 0, 2)).await;
    let port = hole.address.port();
    echo_on(TcpListener::bind(("127.0.0.1", port)).await.unwrap());
    let answer = proxy.connect(format!("hung.example.com:{port}")).await;
    assert_echoes(&mut answer.opened()).await;
}

#[tokio::test]
async fn a_host_has_a_limit_for_all_its_addresses_and_each_has_one_of_its_own() {
    let server = NameServer::start().await;
    let hole = BlackHole::dig(Ipv4Addr::UNSPECIFIED).await;
    let port = hole.address.port();
    let addresses: Vec<String> = (1..=30).map(|last| format!("127.0.0.{last}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    server.has("many.example.com", &addresses);
    server.has("one.example.com", &addresses[..1]);

    // Thirty times the limit of one address would be a minute.
    let limits = [
        ("ZYVEN_EGRESS_CONNECT_TIMEOUT", "2s"),
        ("ZYVEN_EGRESS_DIAL_TIMEOUT", "300ms"),
    ];
    let began = Instant::now();
    let proxy = Proxy::asking(&server, &limits).await;
    let answer = proxy.connect(format!("many.example.com:{port}")).await;
    answer.refused(504, "connect_timeout");
    let limits = [
        ("ZYVEN_EGRESS_CONNECT_TIMEOUT", "300ms"),
        ("ZYVEN_EGRESS_DIAL_TIMEOUT", "60s"),
    ];
    let proxy = Proxy::asking(&server, &limits).await;
    let answer = proxy.connect(format!("one.example.com:{port}")).await;
    answer.refused(504, "connect_timeout");
    assert!(began.elapsed() < SOON);
}
