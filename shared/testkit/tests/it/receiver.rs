use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zyven_testkit::{Answer, Receiver, TestCa};

use crate::SOON;

/// One request on a connection of its own; everything that came back until the connection ended.
async fn exchange(receiver: &Receiver, path: &str, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(receiver.address()).await?;
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: here\r\nX-Marked: Yes\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer).await;
    read.map(|_bytes| String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn records_requests_to_the_byte() {
    let receiver = Receiver::start().await;
    let answer = exchange(&receiver, "/hook?a=b", "{\"a\" : 1.0}\n")
        .await
        .expect("answers");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let requests = receiver.wait_for_requests(1, SOON).await;
    let request = &requests[0];
    assert_eq!(request.method, "POST");
    assert_eq!(
        (request.path.as_str(), request.query.as_deref()),
        ("/hook", Some("a=b"))
    );
    assert_eq!(request.header("x-marked"), "Yes");
    assert_eq!(&request.body[..], b"{\"a\" : 1.0}\n");
    assert_eq!(request.connection, 1);
}

#[tokio::test]
async fn answers_in_turn_then_always_then_otherwise() {
    let receiver = Receiver::start().await;
    receiver.answer_in_turn(
        "/a",
        [
            Answer::status(503).header("retry-after", "1"),
            Answer::status(500),
        ],
    );
    receiver.answer_at("/a", Answer::status(202).body("taken"));
    receiver.answer(Answer::status(404));
    let mut seen = Vec::new();
    for path in ["/a", "/a", "/a", "/b"] {
        seen.push(exchange(&receiver, path, "").await.expect("answers")[9..12].to_owned());
    }
    assert_eq!(seen, ["503", "500", "202", "404"]);
    assert_eq!(receiver.wait_for_requests_at("/a", 3, SOON).await.len(), 3);
    receiver.answer_by(|request| (request.path == "/b").then(|| Answer::status(410)));
    assert!(
        exchange(&receiver, "/b", "")
            .await
            .expect("answers")
            .contains("410 Gone")
    );
}

#[tokio::test]
async fn misbehaves_as_it_is_told() {
    let receiver = Receiver::start().await;
    receiver.answer_at("/reset", Answer::reset());
    receiver.answer_at("/close", Answer::close());
    receiver.answer_at("/raw", Answer::raw("NOT HTTP\r\n\r\n"));
    receiver.answer_at("/short", Answer::cut_short(100, "only this"));
    receiver.answer_at(
        "/trickle",
        Answer::trickle("x", Duration::from_millis(1), 3),
    );
    receiver.answer_at("/hang", Answer::hang());

    let reset = exchange(&receiver, "/reset", "")
        .await
        .expect_err("the connection is reset");
    assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(
        exchange(&receiver, "/close", "")
            .await
            .expect("closes cleanly"),
        ""
    );
    assert_eq!(
        exchange(&receiver, "/raw", "")
            .await
            .expect("closes cleanly"),
        "NOT HTTP\r\n\r\n"
    );
    let short = exchange(&receiver, "/short", "")
        .await
        .expect("closes cleanly");
    assert!(
        short.contains("content-length: 100\r\n") && short.ends_with("only this"),
        "{short}"
    );
    let trickle = exchange(&receiver, "/trickle", "").await.expect("answers");
    assert_eq!(trickle.matches("1\r\nx\r\n").count(), 3, "{trickle}");
    let hang =
        tokio::time::timeout(Duration::from_millis(50), exchange(&receiver, "/hang", "")).await;
    assert!(hang.is_err(), "{hang:?}");
    assert_eq!(receiver.request_count(), 6);
}

#[tokio::test]
async fn an_endless_body_goes_on_for_as_long_as_it_is_read() {
    let receiver = Receiver::start().await;
    receiver.answer(Answer::endless());
    let mut stream = TcpStream::connect(receiver.address())
        .await
        .expect("connects");
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        .await
        .expect("writes");
    let mut bytes = vec![0; 4 * 1024 * 1024];
    stream.read_exact(&mut bytes).await.expect("four MiB come");
}

#[tokio::test]
async fn a_closed_receiver_refuses_and_cuts_until_it_is_opened_again() {
    let mut receiver = Receiver::start().await;
    receiver.answer(Answer::hang());
    let mut held = TcpStream::connect(receiver.address())
        .await
        .expect("connects");
    held.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        .await
        .expect("writes");
    receiver.wait_for_requests(1, SOON).await;
    receiver.close().await;
    assert!(!matches!(held.read(&mut [0]).await, Ok(1..)));
    assert!(exchange(&receiver, "/", "").await.is_err());
    receiver.reopen().await;
    receiver.answer(Answer::status(204));
    assert!(
        exchange(&receiver, "/", "")
            .await
            .expect("answers")
            .contains("204")
    );
}

#[tokio::test]
async fn speaks_tls_with_a_certificate_that_the_authority_vouches_for() {
    use std::sync::Arc;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::pki_types::ServerName;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

    let ca = TestCa::new();
    let receiver = Receiver::start_tls(&ca, &["127.0.0.1", "hooks.example.com"]).await;
    let mut roots = RootCertStore::empty();
    roots.add(ca.certificate_der()).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    for (name, trusted) in [
        ("127.0.0.1", true),
        ("hooks.example.com", true),
        ("other.example.com", false),
    ] {
        let stream = TcpStream::connect(receiver.address())
            .await
            .expect("connects");
        let name = ServerName::try_from(name).expect("a name");
        assert_eq!(
            connector.connect(name.clone(), stream).await.is_ok(),
            trusted,
            "{name:?}"
        );
    }
}
