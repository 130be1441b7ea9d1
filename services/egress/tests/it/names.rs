//! Names: resolved once, every answer judged, the judged address dialled.

use std::time::{Duration, Instant};

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use zyven_domain::target::NamePolicy;

use crate::support::dns::{NameServer, Reply, address, addresses_of, alias};
use crate::support::{Proxy, assert_echoes, echo};

const NAME: &str = "hooks.example.com";
/// Later than the budget of the test that uses it.
const LATE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_name_is_resolved_and_its_address_dialled() {
    let server = NameServer::start().await;
    server.has(NAME, &["127.0.0.1"]);
    let proxy = Proxy::asking(&server, &[]).await;
    let target = format!("{}:{}", NAME.to_uppercase(), echo().await.port());

    let mut tunnel = proxy.connect(target).await.opened();
    assert_echoes(&mut tunnel).await;

    let mut queries = server.queries();
    queries.sort_by_key(|(_, kind)| u16::from(*kind));
    assert_eq!(
        queries,
        [
            ("hooks.example.com.".to_owned(), RecordType::A),
            ("hooks.example.com.".to_owned(), RecordType::AAAA),
        ],
        "one look-up, fully qualified"
    );
}

#[tokio::test]
async fn one_denied_answer_condemns_the_name() {
    let server = NameServer::start().await;
    let proxy = Proxy::asking(&server, &[]).await;
    let port = echo().await.port();
    for (name, addresses) in [
        ("a.example.com", &["127.0.0.1", "10.0.0.1"][..]),
        ("b.example.com", &["10.0.0.1", "127.0.0.1"]),
        ("c.example.com", &["127.0.0.1", "169.254.169.254"]),
        ("d.example.com", &["127.0.0.1", "fd00:ec2::254"]),
        ("e.example.com", &["127.0.0.1", "::ffff:10.0.0.1"]),
        ("f.example.com", &["8.8.8.8", "192.168.0.1"]),
    ] {
        server.has(name, addresses);
        let answer = proxy.connect(format!("{name}:{port}")).await;
        answer.refused(403, "denied_ip");
        for ip in addresses {
            assert!(!answer.head.contains(ip) && !answer.body.contains(ip));
        }
    }
}

#[tokio::test]
async fn a_name_that_changes_its_mind_is_judged_anew_each_time() {
    let server = NameServer::start().await;
    server.replies(
        NAME,
        vec![
            addresses_of(NAME, &["127.0.0.1"]),
            addresses_of(NAME, &["169.254.169.254"]),
            addresses_of(NAME, &["127.0.0.1"]),
        ],
    );
    let proxy = Proxy::asking(&server, &[]).await;
    let target = format!("{NAME}:{}", echo().await.port());

    // Were there a second look-up between verdict and dialling, it would get the metadata service.
    let mut tunnel = proxy.connect(&target).await.opened();
    assert_echoes(&mut tunnel).await;
    proxy.connect(&target).await.refused(403, "denied_ip");
    proxy.connect(&target).await.opened();
}

#[tokio::test]
async fn aliases_are_followed_and_judged_by_where_they_end() {
    let server = NameServer::start().await;
    let chain = |ip| {
        Reply::Records(vec![
            alias(NAME, "cdn.example.net"),
            alias("cdn.example.net", "edge.example.net"),
            address("edge.example.net", ip),
        ])
    };
    server.replies(NAME, vec![chain("127.0.0.1"), chain("10.0.0.1")]);
    // Each step asked for on its own.
    let step = |name, of| vec![Reply::Records(vec![alias(name, of)])];
    server.replies(
        "one.example.com",
        step("one.example.com", "two.example.com"),
    );
    server.replies(
        "two.example.com",
        step("two.example.com", "three.example.com"),
    );
    server.has("three.example.com", &["192.168.0.1"]);
    let proxy = Proxy::asking(&server, &[]).await;
    let port = echo().await.port();

    proxy.connect(format!("{NAME}:{port}")).await.opened();
    proxy
        .connect(format!("{NAME}:{port}"))
        .await
        .refused(403, "denied_ip");
    proxy
        .connect(format!("one.example.com:{port}"))
        .await
        .refused(403, "denied_ip");
}

#[tokio::test]
async fn an_alias_for_localhost_is_denied_like_its_address() {
    let server = NameServer::start().await;
    server.replies(NAME, vec![Reply::Records(vec![alias(NAME, "localhost")])]);
    let proxy = Proxy::asking(&server, &[("ZYVEN_EGRESS_ALLOW_CIDRS", "")]).await;
    let answer = proxy.connect(format!("{NAME}:80")).await;
    assert!(
        ["denied_ip", "dns_not_found"].contains(&answer.reason()),
        "{}",
        answer.reason()
    );
}

#[tokio::test]
async fn failures_to_resolve_are_told_apart() {
    let server = NameServer::start().await;
    let proxy = Proxy::asking(&server, &[("ZYVEN_EGRESS_DNS_TIMEOUT", "1s")]).await;
    server.replies("empty.example.com", vec![Reply::Records(vec![])]);
    server.replies(
        "broken.example.com",
        vec![Reply::Code(ResponseCode::ServFail)],
    );
    server.replies(
        "forbidden.example.com",
        vec![Reply::Code(ResponseCode::Refused)],
    );
    server.replies("silent.example.com", vec![Reply::Silence]);
    let late = Reply::After(
        LATE,
        Box::new(addresses_of("slow.example.com", &["127.0.0.1"])),
    );
    server.replies("slow.example.com", vec![late]);
    let many: Vec<String> = (1..=33).map(|last| format!("8.8.4.{last}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    server.has("many.example.com", &many);

    for (name, status, reason) in [
        ("missing.example.com", 502, "dns_not_found"),
        ("empty.example.com", 502, "dns_not_found"),
        ("broken.example.com", 502, "dns_failed"),
        ("forbidden.example.com", 502, "dns_failed"),
        ("many.example.com", 502, "dns_failed"),
        ("silent.example.com", 504, "dns_timeout"),
        ("slow.example.com", 504, "dns_timeout"),
    ] {
        let began = Instant::now();
        let answer = proxy.connect(format!("{name}:443")).await;
        answer.refused(status, reason);
        assert!(began.elapsed() < LATE, "{name}");
    }
}

#[tokio::test]
async fn a_lost_datagram_is_asked_for_again() {
    let server = NameServer::start().await;
    server.replies(
        NAME,
        vec![Reply::Silence, addresses_of(NAME, &["127.0.0.1"])],
    );
    let proxy = Proxy::asking(&server, &[("ZYVEN_EGRESS_DNS_TIMEOUT", "500ms")]).await;
    let target = format!("{NAME}:{}", echo().await.port());
    proxy.connect(target).await.opened();
}

#[tokio::test]
async fn no_name_server_means_no_tunnel() {
    let proxy = Proxy::start(&[("ZYVEN_EGRESS_DNS_TIMEOUT", "300ms")]).await;
    let answer = proxy.connect(format!("{NAME}:443")).await;
    assert!(
        ["dns_failed", "dns_timeout"].contains(&answer.reason()),
        "{}",
        answer.reason()
    );
}

#[tokio::test]
async fn the_hosts_file_is_not_read() {
    let file = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    // Of `localhost` the resolver has an opinion of its own (RFC 6761).
    let mut names: Vec<&str> = file
        .lines()
        .filter_map(|line| line.split('#').next())
        .flat_map(|line| line.split_whitespace().skip(1))
        .filter(|name| *name != "localhost" && name.parse::<NamePolicy>().is_ok())
        .collect();
    names.push("in-no-file");
    let server = NameServer::start().await;
    let allow = names.join(",");
    let proxy = Proxy::asking(&server, &[("ZYVEN_EGRESS_ALLOW_NAMES", &allow)]).await;
    for name in names {
        let answer = proxy.connect(format!("{name}:80")).await;
        answer.refused(502, "dns_not_found");
        let asked = format!("{}.", name.to_lowercase());
        assert!(server.queries().iter().any(|(name, _)| *name == asked));
    }
}

#[tokio::test]
async fn a_permitted_name_is_resolved_without_search_domains() {
    let server = NameServer::start().await;
    server.has("receiver", &["127.0.0.1"]);
    server.has("other.corp.internal", &["10.0.0.1"]);
    let names = [("ZYVEN_EGRESS_ALLOW_NAMES", "receiver,corp.internal")];
    let proxy = Proxy::asking(&server, &names).await;
    let port = echo().await.port();

    proxy.connect(format!("receiver:{port}")).await.opened();
    assert!(server.queries().iter().all(|(name, _)| name == "receiver."));
    // The name is permitted, its address is judged all the same.
    proxy
        .connect(format!("other.corp.internal:{port}"))
        .await
        .refused(403, "denied_ip");
    proxy
        .connect(format!("sender:{port}"))
        .await
        .refused(403, "denied_host");
}
