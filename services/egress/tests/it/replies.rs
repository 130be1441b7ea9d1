//! Name servers that answer in every way a customer's can: families that contradict each other, chains
//! without end, replies that are too long, kept too long, or no replies at all.

use std::time::{Duration, Instant};

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::support::dns::{NameServer, Reply, Transport, address, addresses_of, alias, records_of};
use crate::support::{Proxy, SOON, assert_echoes, echo, echo_on};

const NAME: &str = "hooks.example.com";
const LOOPBACK: (&str, &str) = ("ZYVEN_EGRESS_ALLOW_CIDRS", "127.0.0.0/8,::1/128");
/// A budget that a test waits out.
const SHORT_BUDGET: (&str, &str) = ("ZYVEN_EGRESS_DNS_TIMEOUT", "1s");

#[tokio::test]
async fn one_familys_denied_answer_condemns_the_others() {
    let server = NameServer::start().await;
    let proxy = Proxy::asking(&server, &[LOOPBACK]).await;
    let port = echo().await.port();
    for (name, addresses) in [
        ("a.example.com", &["127.0.0.1", "fd12::1"][..]),
        ("b.example.com", &["10.0.0.1", "::1"]),
        ("c.example.com", &["127.0.0.1", "::1", "fe80::1"]),
        ("d.example.com", &["127.0.0.1", "64:ff9b::127.0.0.1"]),
        ("e.example.com", &["127.0.0.1", "::ffff:169.254.169.254"]),
        ("f.example.com", &["127.0.0.1", "2002:7f00:1::1"]),
    ] {
        server.has(name, addresses);
        let answer = proxy.connect(format!("{name}:{port}")).await;
        answer.refused(403, "denied_ip");
    }
}

#[tokio::test]
async fn a_name_with_ipv6_addresses_only_is_reached_and_judged() {
    let server = NameServer::start().await;
    server.has("six.example.com", &["::1"]);
    server.has("private.example.com", &["fd12::1"]);
    let proxy = Proxy::asking(&server, &[LOOPBACK]).await;

    match TcpListener::bind("[::1]:0").await {
        Ok(listener) => {
            let port = echo_on(listener).port();
            let answer = proxy.connect(format!("six.example.com:{port}")).await;
            assert_echoes(&mut answer.opened()).await;
        }
        // A machine without IPv6: resolved and permitted, it cannot be connected to.
        Err(_) => {
            let answer = proxy.connect("six.example.com:8080").await;
            answer.refused(502, "connect_failed");
        }
    }
    let answer = proxy.connect("private.example.com:8080").await;
    answer.refused(403, "denied_ip");
}

#[tokio::test]
async fn a_mapped_answer_is_the_ipv4_address_it_stands_for() {
    let server = NameServer::start().await;
    server.has("mapped.example.com", &["::ffff:127.0.0.1"]);
    server.has("private.example.com", &["::ffff:10.0.0.1"]);
    // All of IPv6 is opened, and that opens nothing of IPv4.
    let allow = ("ZYVEN_EGRESS_ALLOW_CIDRS", "127.0.0.0/8,::/0");
    let proxy = Proxy::asking(&server, &[allow]).await;
    let port = echo().await.port();

    let answer = proxy.connect(format!("mapped.example.com:{port}")).await;
    assert_echoes(&mut answer.opened()).await;
    let answer = proxy.connect(format!("private.example.com:{port}")).await;
    answer.refused(403, "denied_ip");
}

#[tokio::test]
async fn a_family_that_could_not_be_asked_is_not_dialled_and_stops_nobody() {
    let server = NameServer::start().await;
    let proxy = Proxy::asking(&server, &[LOOPBACK, SHORT_BUDGET]).await;
    let port = echo().await.port();
    for (name, other) in [
        ("silent.example.com", Reply::Silence),
        ("broken.example.com", Reply::Code(ResponseCode::ServFail)),
        ("missing.example.com", Reply::Code(ResponseCode::NXDomain)),
    ] {
        server.replies(name, vec![addresses_of(name, &["127.0.0.1"])]);
        server.replies_about(name, RecordType::AAAA, other);
        let answer = proxy.connect(format!("{name}:{port}")).await;
        assert_echoes(&mut answer.opened()).await;
    }
}

#[tokio::test]
async fn a_chain_of_aliases_without_end_is_given_up() {
    let server = NameServer::start().await;
    let step = |name: &str, of: &str| {
        server.replies(name, vec![Reply::Records(vec![alias(name, of)])]);
    };
    step("self.example.com", "self.example.com");
    step("ping.example.com", "pong.example.com");
    step("pong.example.com", "ping.example.com");
    for hop in 0..100 {
        step(
            &format!("h{hop}.example.com"),
            &format!("h{}.example.com", hop + 1),
        );
    }
    // The whole loop in one reply.
    let both = vec![
        alias("tick.example.com", "tock.example.com"),
        alias("tock.example.com", "tick.example.com"),
    ];
    server.replies("tick.example.com", vec![Reply::Records(both.clone())]);
    server.replies("tock.example.com", vec![Reply::Records(both)]);

    let proxy = Proxy::asking(&server, &[]).await;
    for name in ["self", "ping", "h0", "tick"] {
        let answer = proxy.connect(format!("{name}.example.com:443")).await;
        assert_eq!(answer.status, 502, "{name}: {}", answer.head);
        let reason = answer.reason();
        assert!(
            ["dns_failed", "dns_not_found"].contains(&reason),
            "{name}: {reason}"
        );
    }
    let asked = server.queries().len();
    assert!(asked < 100, "{asked} queries for four names");
}

#[tokio::test]
async fn a_chain_that_is_public_on_its_way_is_judged_by_where_it_ends() {
    let server = NameServer::start().await;
    let detour = vec![
        address(NAME, "127.0.0.1"),
        alias(NAME, "inside.example.net"),
        address("inside.example.net", "10.0.0.1"),
    ];
    server.replies(NAME, vec![Reply::Records(detour)]);
    // An address of somebody else in the same reply.
    let mixed = vec![
        address("mixed.example.com", "127.0.0.1"),
        address("another.example.com", "10.0.0.1"),
    ];
    server.replies("mixed.example.com", vec![Reply::Records(mixed)]);
    // The chain ends in a name that would be refused by itself.
    let metadata = vec![alias("cloud.example.com", "metadata.google.internal")];
    server.replies("cloud.example.com", vec![Reply::Records(metadata)]);
    server.has("metadata.google.internal", &["169.254.169.254"]);

    let proxy = Proxy::asking(&server, &[]).await;
    let port = echo().await.port();
    for name in [NAME, "mixed.example.com", "cloud.example.com"] {
        let answer = proxy.connect(format!("{name}:{port}")).await;
        answer.refused(403, "denied_ip");
    }
}

#[tokio::test]
async fn a_reply_that_is_cut_off_is_asked_for_again_over_tcp() {
    let server = NameServer::start().await;
    let over_tcp = |reply| vec![Reply::OverTcp(Box::new(reply))];
    server.replies(NAME, over_tcp(addresses_of(NAME, &["127.0.0.1"])));
    let private = "private.example.com";
    server.replies(private, over_tcp(addresses_of(private, &["10.0.0.1"])));
    let silent = "silent.example.com";
    server.replies(silent, over_tcp(Reply::Silence));
    let proxy = Proxy::asking(&server, &[]).await;
    let port = echo().await.port();

    let answer = proxy.connect(format!("{NAME}:{port}")).await;
    assert_echoes(&mut answer.opened()).await;
    assert_eq!(server.count(NAME, Transport::Tcp), 2, "both families");
    let answer = proxy.connect(format!("{private}:{port}")).await;
    answer.refused(403, "denied_ip");
    let answer = proxy.connect(format!("{silent}:{port}")).await;
    assert!([502, 504].contains(&answer.status), "{}", answer.head);
}

#[tokio::test]
async fn a_name_may_have_32_addresses_and_not_one_more() {
    let server = NameServer::start().await;
    let addresses: Vec<String> = (1..=32).map(|last| format!("127.0.0.{last}")).collect();
    let mut addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    server.has("full.example.com", &addresses);
    // The limit is for both families together.
    addresses.push("::1");
    server.has("more.example.com", &addresses);
    let proxy = Proxy::asking(&server, &[LOOPBACK]).await;
    let port = echo().await.port();

    let answer = proxy.connect(format!("full.example.com:{port}")).await;
    assert_echoes(&mut answer.opened()).await;
    let answer = proxy.connect(format!("more.example.com:{port}")).await;
    answer.refused(502, "dns_failed");
}

#[tokio::test]
async fn what_is_no_reply_is_no_answer() {
    let server = NameServer::start().await;
    let proxy = Proxy::asking(&server, &[SHORT_BUDGET]).await;
    let replies = [
        vec![],
        vec![0xff; 3],
        vec![0xff; 10],
        vec![0x81, 0x80, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
        vec![0xc0; 1200],
    ];
    for (number, garbage) in replies.into_iter().enumerate() {
        let name = format!("g{number}.example.com");
        server.replies(&name, vec![Reply::Garbage(garbage)]);
        let began = Instant::now();
        let answer = proxy.connect(format!("{name}:443")).await;
        assert!(
            ["dns_failed", "dns_timeout", "dns_not_found"].contains(&answer.reason()),
            "{name}: {}",
            answer.head
        );
        assert!(began.elapsed() < SOON, "{name}");
    }
    // It is still there for others.
    server.has(NAME, &["127.0.0.1"]);
    let target = format!("{NAME}:{}", echo().await.port());
    proxy.connect(target).await.opened();
}

/// How often the IPv4 addresses of a name were asked for.
fn asked(server: &NameServer, name: &str) -> usize {
    let wanted = (format!("{name}."), RecordType::A);
    server
        .queries()
        .iter()
        .filter(|query| **query == wanted)
        .count()
}

#[tokio::test]
async fn an_answer_is_kept_and_judged_anew_each_time() {
    let server = NameServer::start().await;
    server.replies(
        NAME,
        vec![Reply::Kept(3_600, records_of(NAME, &["127.0.0.1"]))],
    );
    let denied = "denied.example.com";
    server.replies(
        denied,
        vec![Reply::Kept(3_600, records_of(denied, &["10.0.0.1"]))],
    );
    let proxy = Proxy::asking(&server, &[]).await;
    let port = echo().await.port();
    for _ in 0..3 {
        proxy.connect(format!("{NAME}:{port}")).await.opened();
        let answer = proxy.connect(format!("{denied}:{port}")).await;
        answer.refused(403, "denied_ip");
    }
    assert_eq!((asked(&server, NAME), asked(&server, denied)), (1, 1));
}

#[tokio::test]
async fn no_answer_is_kept_for_longer_than_the_cap_whatever_its_ttl() {
    let server = NameServer::start().await;
    server.replies(
        NAME,
        vec![
            Reply::Kept(86_400, records_of(NAME, &["127.0.0.1"])),
            Reply::Kept(86_400, records_of(NAME, &["169.254.169.254"])),
        ],
    );
    let new = "new.example.com";
    server.replies(
        new,
        vec![
            Reply::Missing(86_400),
            Reply::Kept(86_400, records_of(new, &["127.0.0.1"])),
        ],
    );
    let proxy = Proxy::asking(&server, &[("ZYVEN_EGRESS_DNS_TTL_MAX", "1s")]).await;
    let port = echo().await.port();
    let until = async |name: &str, status: u16| {
        let seen = async {
            while proxy.connect(format!("{name}:{port}")).await.status != status {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(SOON, seen).await.unwrap();
    };

    proxy.connect(format!("{NAME}:{port}")).await.opened();
    until(NAME, 403).await;
    assert_eq!(asked(&server, NAME), 2);

    proxy
        .connect(format!("{new}:{port}"))
        .await
        .refused(502, "dns_not_found");
    until(new, 200).await;
    assert_eq!(asked(&server, new), 2, "the absence was believed meanwhile");
}
