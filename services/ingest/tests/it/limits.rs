//! Too large, of the wrong kind, too slow, too many.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use zyven_ingest::{HEAD_BYTES_MAX, HEAD_LINES_MAX};

use crate::support::{Answer, Api, SOON, exchange_raw};

#[tokio::test]
async fn a_body_may_be_as_large_as_the_limit_and_not_a_byte_more() {
    let api = Api::with(&[("ZYVEN_INGEST_BODY_BYTES_MAX", "2000")]).await;
    let tenant = api.tenant().await;
    let of_size = |bytes: usize| {
        let frame = r#"{"type":"a","payload":""}"#.len();
        format!(
            r#"{{"type":"a","payload":"{}"}}"#,
            "x".repeat(bytes - frame)
        )
    };
    tenant.publish_text(&of_size(2000)).await.expect(202);
    tenant
        .publish_text(&of_size(2001))
        .await
        .expect_problem(413, "body_too_large");
    // So large that the client is still sending when the answer is clear.
    let huge = "x".repeat(8_000_000);
    tenant
        .publish_text(&huge)
        .await
        .expect_problem(413, "body_too_large");

    // Without a length, the limit is met on the way.
    for (bytes, status) in [(2000, 202), (2001, 413)] {
        let pieces: Vec<Result<String, std::io::Error>> = of_size(bytes)
            .as_bytes()
            .chunks(700)
            .map(|piece| Ok(String::from_utf8_lossy(piece).into_owned()))
            .collect();
        let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
        Answer::of(tenant.publishing("").body(body))
            .await
            .expect(status);
    }
}

#[tokio::test]
async fn only_plain_json_is_taken() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let text = r#"{"type": "a", "payload": 1}"#;
    for kind in [
        "text/plain",
        "application/x-ndjson",
        "application/json; charset=latin1",
        "",
    ] {
        let request = tenant
            .request(reqwest::Method::POST, "/v1/events")
            .header("content-type", kind)
            .body(text);
        let answer = Answer::of(request).await;
        answer.expect_problem(415, "content_type_unsupported");
    }
    let request = tenant
        .request(reqwest::Method::POST, "/v1/events")
        .body(text);
    let answer = Answer::of(request).await;
    answer.expect_problem(415, "content_type_unsupported");
    for encoding in ["gzip", "br", "identity, gzip"] {
        let request = tenant.publishing(text).header("content-encoding", encoding);
        let answer = Answer::of(request).await;
        answer.expect_problem(415, "content_encoding_unsupported");
    }
    let request = tenant
        .publishing(text)
        .header("content-encoding", "identity");
    Answer::of(request).await.expect(202);
}

#[tokio::test]
async fn a_head_that_does_not_end_is_not_waited_for() {
    let api = Api::with(&[("ZYVEN_INGEST_HEAD_DEADLINE", "200ms")]).await;
    // exchange_raw returns when the server has closed the connection.
    let answer = exchange_raw(api.address, b"POST /v1/events HTTP/1.1\r\nhost: x\r\nx-a: ").await;
    assert!(!answer.contains("200 OK"), "{answer}");
    let silent = exchange_raw(api.address, b"").await;
    assert_eq!(silent, "");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_408() {
    let api = Api::with(&[("ZYVEN_INGEST_BODY_DEADLINE", "200ms")]).await;
    let tenant = api.tenant().await;
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 100\r\n\r\n{{\"type\"",
        tenant.key
    );
    let answer = exchange_raw(api.address, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("\"code\":\"body_timeout\""), "{answer}");
}

#[tokio::test]
async fn heads_are_bounded() {
    let api = Api::start().await;
    // As large as allowed, and a byte more.
    for (bytes, status) in [(HEAD_BYTES_MAX, "401"), (HEAD_BYTES_MAX + 1, "431")] {
        let start = "GET /v1/endpoints HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-a: ";
        let filling = "x".repeat(bytes - start.len() - "\r\n\r\n".len());
        let answer =
            exchange_raw(api.address, format!("{start}{filling}\r\n\r\n").as_bytes()).await;
        let line = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&line), "{bytes}: {answer}");
    }
    for (lines, status) in [(HEAD_LINES_MAX, "401"), (HEAD_LINES_MAX + 1, "431")] {
        let filling: String = (2..lines).map(|n| format!("x-{n}: 1\r\n")).collect();
        let text =
            format!("GET /v1/endpoints HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{filling}\r\n");
        let answer = exchange_raw(api.address, text.as_bytes()).await;
        let line = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&line), "{lines}: {answer}");
    }
    let answer = exchange_raw(api.address, b"\x16\x03\x01 nonsense\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 400 ") || answer.is_empty(),
        "{answer}"
    );
}

#[tokio::test]
async fn a_connection_too_many_is_told_so() {
    let api = Api::with(&[("ZYVEN_INGEST_CONNECTIONS_MAX", "1")]).await;
    let mut first = TcpStream::connect(api.address).await.expect("connected");
    let request = b"GET /v1/endpoints HTTP/1.1\r\nhost: x\r\n\r\n";
    first.write_all(request).await.expect("sent");
    let mut answer = [0; 12];
    first.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 401");

    let refused = exchange_raw(api.address, b"").await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(refused.contains("retry-after: 1\r\n"), "{refused}");
    let (head, body) = refused.split_once("\r\n\r\n").expect("a body");
    assert!(
        head.contains(&format!("content-length: {}\r\n", body.len())),
        "{refused}"
    );
    let problem: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(problem["code"], "overloaded");

    drop(first);
    zyven_testkit::wait_until("there is room again", SOON, async || {
        let answer = api.http.get(api.url("/v1/endpoints")).send().await;
        answer.is_ok_and(|answer| answer.status() == 401)
    })
    .await;
}

#[tokio::test]
async fn one_connection_carries_many_requests_and_pipelines() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let body = r#"{"type":"a","payload":1}"#;
    let one = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        tenant.key,
        body.len()
    );
    let last = one.replace("host: x\r\n", "host: x\r\nconnection: close\r\n");
    let answers = exchange_raw(api.address, format!("{one}{one}{last}").as_bytes()).await;
    assert_eq!(
        answers.matches("HTTP/1.1 202 Accepted").count(),
        3,
        "{answers}"
    );
}

#[tokio::test]
async fn bodies_in_memory_are_bounded() {
    let api = Api::with(&[
        ("ZYVEN_INGEST_BODY_BYTES_MAX", "100KiB"),
        ("ZYVEN_INGEST_BATCH_BYTES_MAX", "100KiB"),
        ("ZYVEN_INGEST_BODIES_BYTES_MAX", "100KiB"),
    ])
    .await;
    let tenant = api.tenant().await;
    let mut slow = TcpStream::connect(api.address).await.expect("connected");
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 102400\r\n\r\n",
        tenant.key
    );
    slow.write_all(head.as_bytes()).await.expect("sent");
    zyven_testkit::wait_until("the room is taken", SOON, async || {
        api.metric("zyven_ingest_bodies_bytes") > 0.0
    })
    .await;
    let text = r#"{"type": "a", "payload": 1}"#;
    let refused = tenant
        .publish_text(text)
        .await
        .expect_problem(503, "overloaded");
    assert_eq!(refused.header("retry-after"), Some("1"));
    drop(slow);
    zyven_testkit::wait_until("there is room again", Duration::from_secs(20), async || {
        tenant.publish_text(text).await.status == 202
    })
    .await;
}
