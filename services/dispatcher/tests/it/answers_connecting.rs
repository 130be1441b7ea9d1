//! Endpoints that no request reaches: names, sockets, certificates.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::{TcpSocket, TcpStream};
use zyven_testkit::{Receiver, TestCa, self_signed_server_config};

use crate::support::{Proxy, Stage};
use crate::tls::CaFile;
use crate::wire::{Caller, NameServer, WireServer, meet_once, stage};

const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// The last attempt failed in a way that is otherwise retried.
const RETRIED: &str = "attempts_exhausted";

/// A listener whose queue is full: the kernel drops whoever knocks, as a firewall would.
async fn deaf_listener() -> (SocketAddr, tokio::net::TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(ANYWHERE).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let waiting = TcpStream::connect(address).await.unwrap();
    (address, listener, vec![waiting])
}

#[tokio::test]
async fn an_address_that_does_not_answer_is_given_up_by_the_proxy_ahead_of_any_deadline() {
    let (address, _listener, _waiting) = deaf_listener().await;
    let url = format!("http://{address}/");
    let (patient, dispatcher) = stage().await;
    let (verdict, attempt) = meet_once(&patient, &url, 500).await;
    assert_eq!(verdict, RETRIED);
    assert_eq!(attempt.error.as_deref(), Some("connect"));
    let detail = attempt.detail.as_deref();
    assert_eq!(detail, Some("no address accepted the connection in time"));
    dispatcher.stop().await;

    let settings = [("ZYVEN_EGRESS_CONNECT_TIMEOUT", "200ms")];
    let proxy = Proxy::start_with(ANYWHERE, &settings).await;
    let hasty = Stage::behind(proxy, Receiver::start().await).await;
    let dispatcher = hasty.start();
    let (verdict, attempt) = meet_once(&hasty, &url, 20_000).await;
    assert_eq!(verdict, RETRIED);
    assert_eq!(attempt.error.as_deref(), Some("connect"));
    assert!(
        attempt
            .detail
            .is_some_and(|detail| !detail.contains("127.0.0.1"))
    );
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_an_ordinary_failure() {
    for server in [
        NameServer::knowing_nothing().await,
        NameServer::failing().await,
        NameServer::silent().await,
    ] {
        let settings = [
            ("ZYVEN_EGRESS_NAMESERVERS", &*server.address.to_string()),
            ("ZYVEN_EGRESS_DNS_TIMEOUT", "500ms"),
        ];
        let proxy = Proxy::start_with(ANYWHERE, &settings).await;
        let stage = Stage::behind(proxy, Receiver::start().await).await;
        let dispatcher = stage.start();
        let (verdict, attempt) = meet_once(&stage, "https://hooks.example.com/", 20_000).await;
        assert_eq!(verdict, RETRIED);
        assert_eq!(attempt.error.as_deref(), Some("dns"), "{attempt:?}");
        assert!(attempt.detail.is_some());
        dispatcher.stop().await;
    }
}

#[tokio::test]
async fn a_name_server_slower_than_the_deadline_is_given_up_ahead_of_it() {
    let server = NameServer::silent().await;
    let settings = [("ZYVEN_EGRESS_NAMESERVERS", &*server.address.to_string())];
    let proxy = Proxy::start_with(ANYWHERE, &settings).await;
    let stage = Stage::behind(proxy, Receiver::start().await).await;
    let dispatcher = stage.start();
    let (verdict, attempt) = meet_once(&stage, "https://hooks.example.com/", 500).await;
    assert_eq!(verdict, RETRIED);
    assert_eq!(attempt.error.as_deref(), Some("dns"));
    let detail = attempt.detail.as_deref();
    assert_eq!(detail, Some("the name servers did not answer in time"));
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_tls_handshake_that_hangs_is_timed_out() {
    let (stage, dispatcher) = stage().await;
    let server = WireServer::start(Caller::linger).await;
    let url = format!("https://{}/", server.address);
    let (verdict, attempt) = meet_once(&stage, &url, 500).await;
    assert_eq!(verdict, RETRIED);
    assert_eq!(attempt.error.as_deref(), Some("timeout"));
    assert_eq!(attempt.detail.as_deref(), Some("no connection in time"));
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_tls_handshake_with_somebody_who_speaks_no_tls_fails() {
    let (stage, dispatcher) = stage().await;
    for (bytes, detail) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            "the TLS handshake failed: ",
        ),
        (&[0xff; 1_000], "the TLS handshake failed: "),
        // An alert: handshake failure.
        (&[0x15, 3, 3, 0, 2, 2, 40], "the TLS handshake failed: "),
        (&[0x16, 3, 3], "the connection ended amid the TLS handshake"),
        (&[], "the connection ended amid the TLS handshake"),
    ] {
        let server = WireServer::start(move |mut caller: Caller| async move {
            caller.say(bytes).await;
        })
        .await;
        let url = format!("https://{}/", server.address);
        let (verdict, attempt) = meet_once(&stage, &url, 5_000).await;
        assert_eq!(verdict, RETRIED, "{bytes:?}");
        assert_eq!(attempt.error.as_deref(), Some("tls"), "{attempt:?}");
        let found = attempt.detail.unwrap();
        assert!(found.starts_with(detail), "{bytes:?}: {found}");
    }
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_for_the_endpoint_now_is_refused() {
    let ca = TestCa::new();
    let file = CaFile::holding(&ca.certificate_pem());
    let stage = Stage::new().await;
    let dispatcher = stage.start_with(file.trusted_by(stage.config()));
    let mut http2_only = ca.server_config(&["127.0.0.1"]);
    Arc::make_mut(&mut http2_only).alpn_protocols = vec![b"h2".to_vec()];
    for (flaw, config, detail) in [
        ("none", ca.server_config(&["127.0.0.1"]), None),
        (
            "another name",
            ca.server_config(&["hooks.example.com"]),
            Some("not valid for"),
        ),
        (
            "expired",
            ca.expired_server_config(&["127.0.0.1"]),
            Some("expired"),
        ),
        (
            "self-signed",
            self_signed_server_config(&["127.0.0.1"]),
            Some("invalid peer certificate"),
        ),
        (
            "unknown authority",
            TestCa::new().server_config(&["127.0.0.1"]),
            Some("invalid peer certificate"),
        ),
        ("HTTP/2 only", http2_only, Some("NoApplicationProtocol")),
    ] {
        let receiver = Receiver::start_tls_with(config).await;
        let (verdict, attempt) = meet_once(&stage, &receiver.url("/hook"), 5_000).await;
        let Some(detail) = detail else {
            assert_eq!(verdict, "DELIVERED", "{attempt:?}");
            continue;
        };
        assert_eq!(verdict, RETRIED, "{flaw}");
        assert_eq!(attempt.error.as_deref(), Some("tls"), "{flaw}: {attempt:?}");
        let found = attempt.detail.unwrap();
        assert!(found.contains(detail), "{flaw}: {found}");
        assert_eq!(receiver.request_count(), 0, "{flaw}");
    }
    dispatcher.stop().await;
}
