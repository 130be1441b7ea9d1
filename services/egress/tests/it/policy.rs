//! Where the proxy refuses to go, addresses given as they are.

use crate::support::dns::NameServer;
use crate::support::{Proxy, assert_echoes, echo};

#[tokio::test]
async fn an_address_the_operator_opened_is_reached() {
    let proxy = Proxy::start(&[]).await;
    let mut tunnel = proxy.connect(echo().await).await.opened();
    assert_echoes(&mut tunnel).await;
}

#[tokio::test]
async fn without_an_allow_list_nothing_private_is_reached() {
    let proxy = Proxy::start(&[("ZYVEN_EGRESS_ALLOW_CIDRS", "")]).await;
    let echo = echo().await;
    let mapped = format!("[::ffff:127.0.0.1]:{}", echo.port());
    for target in [
        &echo.to_string(),
        &mapped,
        "10.0.0.1:443",
        "192.168.1.1:80",
        "100.64.0.1:80",
        "169.254.169.254:80",
        "[::1]:80",
        "[fd12::1]:443",
        "[fe80::1]:443",
        "[64:ff9b::a9fe:a9fe]:80",
        "[2002:7f00:1::]:80",
        "0.0.0.0:80",
    ] {
        proxy.connect(target).await.refused(403, "denied_ip");
    }
}

#[tokio::test]
async fn metadata_services_stay_closed_with_everything_allowed() {
    let proxy = Proxy::start(&[("ZYVEN_EGRESS_ALLOW_CIDRS", "0.0.0.0/0,::/0")]).await;
    for target in [
        "169.254.169.254:80",
        "168.63.129.16:80",
        "100.100.100.200:80",
        "192.0.0.192:80",
        "[fd00:ec2::254]:80",
        "[fd20:ce::254]:80",
        "[fd00:c1::a9fe:a9fe]:80",
        "[::ffff:169.254.169.254]:80",
        "[64:ff9b::a9fe:a9fe]:80",
    ] {
        proxy.connect(target).await.refused(403, "denied_ip");
    }
}

#[tokio::test]
async fn the_deny_list_beats_the_allow_list() {
    let proxy = Proxy::start(&[("ZYVEN_EGRESS_DENY_CIDRS", "127.0.0.1/32")]).await;
    proxy.connect(echo().await).await.refused(403, "denied_ip");
}

#[tokio::test]
async fn the_proxy_does_not_connect_to_itself() {
    let proxy = Proxy::start(&[]).await;
    proxy.connect(proxy.address).await.refused(403, "denied_ip");
    let mapped = format!("[::ffff:127.0.0.1]:{}", proxy.address.port());
    proxy.connect(mapped).await.refused(403, "denied_ip");
}

#[tokio::test]
async fn no_other_listener_of_the_process_is_reached_however_it_is_named() {
    let probes = echo().await;
    let server = NameServer::start().await;
    server.has("probes.example.com", &["127.0.0.1"]);
    server.has("mixed.example.com", &["127.0.0.2", "127.0.0.1"]);
    let name_server = server.address.to_string();
    let settings = [("ZYVEN_EGRESS_NAMESERVERS", name_server.as_str())];
    let proxy = Proxy::start_beside(&settings, vec![probes]).await;
    let port = probes.port();
    for target in [
        format!("127.0.0.1:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
        format!("probes.example.com:{port}"),
        format!("mixed.example.com:{port}"),
    ] {
        proxy.connect(target).await.refused(403, "denied_ip");
    }
    // It is the listener that is closed, not the address.
    proxy.connect(echo().await).await.opened();
}

#[tokio::test]
async fn a_denied_block_beats_an_allowed_name_and_an_allowed_block() {
    let server = NameServer::start().await;
    server.has("hooks.corp.internal", &["127.0.0.9"]);
    let name_server = server.address.to_string();
    let proxy = Proxy::start(&[
        ("ZYVEN_EGRESS_NAMESERVERS", &name_server),
        ("ZYVEN_EGRESS_ALLOW_NAMES", "corp.internal"),
        ("ZYVEN_EGRESS_ALLOW_CIDRS", "127.0.0.0/8,8.8.8.8"),
        ("ZYVEN_EGRESS_DENY_CIDRS", "127.0.0.8/29,8.8.8.0/24"),
    ])
    .await;
    for target in [
        "hooks.corp.internal:8080",
        "127.0.0.8:8080",
        "127.0.0.15:8080",
        "[::ffff:127.0.0.9]:8080",
        "8.8.8.8:443",
    ] {
        proxy.connect(target).await.refused(403, "denied_ip");
    }
    // Both neighbours of the denied block: permitted, and nobody listens there.
    for target in ["127.0.0.7:1025", "127.0.0.16:1025"] {
        proxy.connect(target).await.refused(502, "connect_failed");
    }
}

#[tokio::test]
async fn ports_of_other_services_and_private_names_are_refused_by_name() {
    let proxy = Proxy::start(&[]).await;
    proxy
        .connect("127.0.0.1:22")
        .await
        .refused(403, "denied_port");
    for target in [
        "localhost:80",
        "printer.local:80",
        "metadata.google.internal:80",
        "redis.default.svc.cluster.local:80",
        "backend:80",
    ] {
        proxy.connect(target).await.refused(403, "denied_host");
    }
}

#[tokio::test]
async fn other_spellings_of_an_address_are_no_authority() {
    let proxy = Proxy::start(&[]).await;
    for target in [
        "2130706433:80",
        "127.1:80",
        "0x7f.0.0.1:80",
        "0177.0.0.1:80",
        "127.0.0.1:080",
        "user@127.0.0.1:80",
        "127.0.0.1",
        "http://127.0.0.1:80/",
        "exam%70le.com:80",
        "example.com.:80",
        "/",
    ] {
        proxy
            .connect(target)
            .await
            .refused(400, "authority_invalid");
    }
}

#[tokio::test]
async fn a_refusal_says_what_kind_of_address_but_not_which() {
    let proxy = Proxy::start(&[]).await;
    let answer = proxy.connect("10.11.12.13:443").await;
    assert_eq!(
        answer.body,
        "only public addresses are delivered to (private)\n"
    );
    assert!(!answer.head.contains("10.11.12.13"));
}
