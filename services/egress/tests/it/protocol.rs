//! What callers must say, and how fast.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::dns::NameServer;
use crate::support::{Answer, CREDENTIAL, Proxy, connect_request, echo};

#[tokio::test]
async fn a_caller_without_the_credential_causes_no_look_up() {
    let server = NameServer::start().await;
    server.has("hooks.example.com", &["127.0.0.1"]);
    let proxy = Proxy::asking(&server, &[]).await;
    let target = "hooks.example.com:443";

    let heads = [
        format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"),
        connect_request(target, "another-credential-for-tests"),
        connect_request(target, ""),
        format!("CONNECT {target} HTTP/1.1\r\nProxy-Authorization: Bearer {CREDENTIAL}\r\n\r\n"),
        format!("CONNECT {target} HTTP/1.1\r\nAuthorization: Basic eDp5\r\n\r\n"),
    ];
    for head in heads {
        let answer = proxy.send(&head).await;
        answer.refused(407, "credential_invalid");
        assert!(answer.head.contains("proxy-authenticate: Basic"));
    }
    assert_eq!(server.queries(), []);

    // Nor does it learn what the policy says about a target.
    let denied = connect_request("localhost:22", "another-credential-for-tests");
    proxy.send(&denied).await.refused(407, "credential_invalid");
}

#[tokio::test]
async fn anything_but_connect_is_not_allowed() {
    let proxy = Proxy::start(&[]).await;
    for head in [
        "GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 0\r\n\r\n",
        "connect example.com:443 HTTP/1.1\r\n\r\n",
    ] {
        proxy.send(head).await.refused(405, "method_not_allowed");
    }
}

#[tokio::test]
async fn what_is_not_http_is_told_so() {
    let proxy = Proxy::start(&[]).await;
    for head in [
        "CONNECT example.com:443 HTTP/1.0\r\n\r\n",
        "hello\r\n\r\n",
        "\u{16}\u{3}\u{1} binary\r\n\r\n",
    ] {
        proxy.send(head).await.refused(400, "head_malformed");
    }
    let target = echo().await.to_string();
    let talks_ahead = connect_request(&target, CREDENTIAL) + "early";
    proxy
        .send(&talks_ahead)
        .await
        .refused(400, "head_malformed");
}

#[tokio::test]
async fn a_head_is_limited_in_size() {
    let proxy = Proxy::start(&[]).await;
    let padding = "x".repeat(9 * 1024);
    let head = format!("CONNECT example.com:443 HTTP/1.1\r\nPadding: {padding}\r\n\r\n");
    proxy.send(&head).await.refused(431, "head_too_large");
    // The answer arrives although most of the head was never read.
    let huge = "x".repeat(60 * 1024);
    let head = format!("CONNECT example.com:443 HTTP/1.1\r\nPadding: {huge}\r\n\r\n");
    proxy.send(&head).await.refused(431, "head_too_large");
}

#[tokio::test]
async fn a_head_is_limited_in_time() {
    let proxy = Proxy::start(&[("ZYVEN_EGRESS_HEAD_TIMEOUT", "50ms")]).await;
    proxy
        .send("CONNECT example.com:443 HT")
        .await
        .refused(408, "head_timeout");
    proxy.send("").await.refused(408, "head_timeout");
}

#[tokio::test]
async fn a_head_may_come_in_pieces() {
    let proxy = Proxy::start(&[]).await;
    let head = connect_request(&echo().await.to_string(), CREDENTIAL);
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in head.as_bytes() {
        stream.write_all(&[*byte]).await.unwrap();
    }
    Answer::read(stream).await.opened();
}

#[tokio::test]
async fn an_endpoint_that_does_not_listen_is_a_failed_connection() {
    let proxy = Proxy::start(&[]).await;
    // Bound and never listening: refused, and nobody else can take the port meanwhile.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let target = socket.local_addr().unwrap();
    let answer = proxy.connect(target).await;
    answer.refused(502, "connect_failed");
    assert!(!answer.body.contains("127.0.0.1"), "{}", answer.body);
}
