//! HTTP as it may come: in pieces, in a row, half closed, framed by somebody who means harm.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use zyven_testkit::wait_until;

use crate::support::{Api, SOON};
use crate::wire::{EVENT, JSON, Wire, publishing, request};

/// Much longer than an answer takes, much shorter than any deadline.
const A_WHILE: Duration = Duration::from_millis(300);

#[tokio::test]
async fn requests_in_a_row_are_answered_in_their_order_whatever_becomes_of_each() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let key = tenant.key.as_str();
    let chunked = "transfer-encoding: chunked\r\nContent-Type: application/json\r\n";
    let in_pieces = format!(
        "5\r\n{}\r\n{:x};ext=1\r\n{}\r\n0\r\n\r\n",
        &EVENT[..5],
        EVENT.len() - 5,
        &EVENT[5..]
    );
    let row = [
        (publishing(key), 202),
        (request("GET", "/v1/endpoints", key, "", ""), 200),
        // A body where none is expected is not taken for a request.
        (
            request(
                "GET",
                "/v1/endpoints",
                key,
                "content-length: 18\r\n",
                "GET / HTTP/1.1\r\n\r\n",
            ),
            200,
        ),
        (request("HEAD", "/v1/endpoints", key, "", ""), 200),
        (request("POST", "/v1/events", key, JSON, "{"), 400),
        (request("POST", "/v1/events", key, chunked, &in_pieces), 202),
        (request("OPTIONS", "/v1/events", key, "", ""), 405),
        (request("HEAD", "/v1/nothing", key, "", ""), 404),
        (request("POST", "/v1/events", "zyk_x", JSON, EVENT), 401),
        (
            request("DELETE", "/v1/events", key, JSON, &"x".repeat(9000)),
            405,
        ),
        (publishing(key), 202),
    ];
    let mut wire = Wire::to(api.address).await;
    let all: String = row.iter().map(|(text, _)| text.as_str()).collect();
    wire.send(all).await;
    for (text, status) in &row {
        let answer = wire.answer_to(text.starts_with("HEAD")).await;
        assert_eq!(answer.expect(text).status, *status, "{text}");
    }
    assert!(wire.silent_for(A_WHILE).await, "nothing is left over");
    assert_eq!(api.count("SELECT count(*) FROM zyven.events").await, 3);
}

#[tokio::test]
async fn a_request_that_two_parties_could_read_in_two_ways_is_refused_and_ends_its_connection() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let key = tenant.key.as_str();
    let good = publishing(key);
    let smuggled = publishing(key);
    let chunked = |lines: &str| {
        let body = format!("{:x}\r\n{EVENT}\r\n0\r\n\r\n{smuggled}", EVENT.len());
        request("POST", "/v1/events", key, &format!("{JSON}{lines}"), &body)
    };
    let cases = [
        ("no host", good.replace("host: zyven.test\r\n", ""), 400),
        (
            "two hosts",
            good.replace("host: zyven.test\r\n", "host: a\r\nhost: a\r\n"),
            400,
        ),
        ("no host's name", good.replace("zyven.test", "a b"), 400),
        (
            "a user before the host",
            good.replace("zyven.test", "a@b"),
            400,
        ),
        (
            "two lengths",
            good.replace(
                "content-length: 24",
                "content-length: 24\r\ncontent-length: 23",
            ),
            400,
        ),
        (
            "two lengths in a line",
            good.replace("content-length: 24", "content-length: 24, 23"),
            400,
        ),
        (
            "a signed length",
            good.replace("content-length: 24", "content-length: +24"),
            400,
        ),
        (
            "a length of words",
            good.replace("content-length: 24", "content-length: many"),
            400,
        ),
        (
            "a length beyond counting",
            good.replace("content-length: 24", "content-length: 99999999999999999999"),
            400,
        ),
        (
            "another coding",
            chunked("transfer-encoding: gzip, chunked\r\n"),
            400,
        ),
        (
            "chunked twice",
            chunked("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n"),
            400,
        ),
        (
            "chunked, not last",
            chunked("transfer-encoding: chunked, identity\r\n"),
            400,
        ),
        (
            "a disguised coding",
            chunked("transfer-encoding: xchunked\r\n"),
            400,
        ),
        (
            "a blank before the colon",
            good.replace("content-length:", "content-length :"),
            400,
        ),
        (
            "a folded line",
            good.replace("host: zyven.test", "host: zyven.test\r\n folded"),
            400,
        ),
        (
            "a bare line feed in a value",
            good.replace("zyven.test", "zyven\rtest"),
            400,
        ),
        (
            "a zero byte",
            good.replace("zyven.test", "zyven\0test"),
            400,
        ),
        (
            "a chunk without a size",
            chunked_with(key, "\r\n", &smuggled),
            400,
        ),
        (
            "a chunk of a negative size",
            chunked_with(key, "-1\r\n", &smuggled),
            400,
        ),
        (
            "a chunk beyond counting",
            chunked_with(key, "fffffffffffffffff\r\n", &smuggled),
            400,
        ),
        (
            "a chunk size with a prefix",
            chunked_with(key, "0x18\r\n", &smuggled),
            400,
        ),
    ];
    for (what, text, status) in cases {
        let mut wire = Wire::to(api.address).await;
        wire.send(&text).await;
        wire.send(&smuggled).await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        wire.closed().await;
    }
    assert_eq!(api.count("SELECT count(*) FROM zyven.events").await, 0);
}

fn chunked_with(key: &str, size: &str, after: &str) -> String {
    let lines = format!("{JSON}transfer-encoding: chunked\r\n");
    let body = format!("{size}{EVENT}\r\n0\r\n\r\n{after}");
    request("POST", "/v1/events", key, &lines, &body)
}

/// RFC 9112, section 6.3: the coding counts, not the length, and the connection ends.
#[tokio::test]
async fn a_length_beside_a_coding_is_not_believed() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let body = format!("{:x}\r\n{EVENT}\r\n0\r\n\r\n", EVENT.len());
    for lines in [
        "content-length: 3\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 3\r\n",
    ] {
        let mut wire = Wire::to(api.address).await;
        let lines = format!("{JSON}{lines}");
        wire.send(request("POST", "/v1/events", &tenant.key, &lines, &body))
            .await;
        wire.send(publishing(&tenant.key)).await;
        assert_eq!(wire.answer().await.status, 202);
        wire.closed().await;
    }
    assert_eq!(api.count("SELECT count(*) FROM zyven.events").await, 2);
}

#[tokio::test]
async fn headers_that_decide_something_are_taken_only_if_they_are_sent_once() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let good = publishing(&tenant.key);
    let auth = format!("authorization: Bearer {}\r\n", tenant.key);
    let doubled = |line: &str, other: &str| good.replace(line, &format!("{line}{other}"));
    let cases = [
        (doubled(&auth, &auth), 401, "unauthenticated"),
        (
            doubled(&auth, "authorization: Basic x\r\n"),
            401,
            "unauthenticated",
        ),
        (doubled(JSON, JSON), 415, "content_type_unsupported"),
        (
            doubled(JSON, "content-type: text/plain\r\n"),
            415,
            "content_type_unsupported",
        ),
        (
            doubled(
                JSON,
                "content-encoding: identity\r\ncontent-encoding: gzip\r\n",
            ),
            415,
            "content_encoding_unsupported",
        ),
        (
            doubled(JSON, "idempotency-key: a\r\nidempotency-key: a\r\n"),
            422,
            "invalid",
        ),
        (
            doubled(JSON, "idempotency-key: a\r\nidempotency-key: b\r\n"),
            422,
            "invalid",
        ),
    ];
    for (text, status, code) in cases {
        let mut wire = Wire::to(api.address).await;
        wire.send(&text).await;
        wire.answer().await.expect(status, code);
        wire.send(&good).await;
        assert_eq!(wire.answer().await.status, 202, "the connection is in step");
    }
}

#[tokio::test]
async fn trailers_are_read_over() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let lines =
        format!("{JSON}transfer-encoding: chunked\r\ntrailer: idempotency-key, authorization\r\n");
    let body = format!(
        "{:x}\r\n{EVENT}\r\n0\r\nidempotency-key: k\r\nauthorization: Bearer x\r\ncontent-encoding: gzip\r\n\r\n",
        EVENT.len()
    );
    let mut wire = Wire::to(api.address).await;
    for _ in 0..2 {
        wire.send(request("POST", "/v1/events", &tenant.key, &lines, &body))
            .await;
        assert_eq!(
            wire.answer().await.status,
            202,
            "a key in a trailer is no key"
        );
    }
    // Without an end they are waited for no longer than a body.
    let api = Api::with(&[("ZYVEN_INGEST_BODY_DEADLINE", "300ms")]).await;
    let tenant = api.tenant().await;
    let mut wire = Wire::to(api.address).await;
    let endless = format!("{:x}\r\n{EVENT}\r\n0\r\nx-a: 1\r\n", EVENT.len());
    wire.send(request("POST", "/v1/events", &tenant.key, &lines, &endless))
        .await;
    wire.answer().await.expect(408, "body_timeout");
    wire.closed().await;
}

#[tokio::test]
async fn a_client_that_asks_before_it_sends_is_asked_for_its_body_or_told_why_not() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let head = |key: &str, length: usize| {
        let lines = format!("{JSON}expect: 100-continue\r\ncontent-length: {length}\r\n");
        request("POST", "/v1/events", key, &lines, "")
    };
    let mut wire = Wire::to(api.address).await;
    wire.send(head(&tenant.key, EVENT.len())).await;
    assert_eq!(wire.answer().await.status, 100);
    wire.send(EVENT).await;
    assert_eq!(wire.answer().await.status, 202);

    for (key, length, status) in [("zyk_x", 24, 401), (&tenant.key[..], 300_000, 413)] {
        let mut wire = Wire::to(api.address).await;
        wire.send(head(key, length)).await;
        assert_eq!(wire.answer().await.status, status, "at once, without a 100");
        wire.closed().await;
    }
}

#[tokio::test]
async fn a_client_that_has_said_all_still_hears_the_answer() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let mut wire = Wire::to(api.address).await;
    wire.send(publishing(&tenant.key)).await;
    wire.send(publishing(&tenant.key)).await;
    wire.stream.shutdown().await.expect("half closed");
    for _ in 0..2 {
        assert_eq!(wire.answer().await.status, 202);
    }
    wire.closed().await;

    // It ends amid a body: that is an end, too, and it is told.
    let mut wire = Wire::to(api.address).await;
    let text = publishing(&tenant.key);
    wire.send(&text[..text.len() - 1]).await;
    wire.stream.shutdown().await.expect("half closed");
    wire.answer().await.expect(400, "body_not_json");
    wire.closed().await;

    // Amid a head there is nothing to answer.
    let mut wire = Wire::to(api.address).await;
    wire.send(&text[..40]).await;
    wire.stream.shutdown().await.expect("half closed");
    wire.maybe_answer().await;
}

#[tokio::test]
async fn http_1_0_is_spoken_without_a_host_and_ends_with_its_answer() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let text = publishing(&tenant.key)
        .replace("HTTP/1.1", "HTTP/1.0")
        .replace("host: zyven.test\r\n", "");
    let mut wire = Wire::to(api.address).await;
    wire.send(&text).await;
    assert_eq!(wire.answer().await.status, 202);
    wire.closed().await;
    let lines = format!("{JSON}transfer-encoding: chunked\r\n");
    let chunked = request("POST", "/v1/events", &tenant.key, &lines, "0\r\n\r\n");
    let mut wire = Wire::to(api.address).await;
    wire.send(chunked.replace("HTTP/1.1", "HTTP/1.0")).await;
    assert_eq!(wire.answer().await.status, 400);
    wire.closed().await;
}

#[tokio::test]
async fn methods_and_targets_nobody_uses_are_answered_like_any_other() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let key = tenant.key.as_str();
    let long = format!("/v1/events/evt_{}", "0".repeat(20_000));
    let too_long = format!("/{}", "a".repeat(zyven_ingest::HEAD_BYTES_MAX));
    let query = format!("/v1/endpoints?{}=1", "a".repeat(10_000));
    for (method, target, status) in [
        ("OPTIONS", "*", 404),
        ("OPTIONS", "/v1/endpoints", 405),
        ("TRACE", "/v1/endpoints", 405),
        ("CONNECT", "zyven.test:443", 404),
        ("BREW", "/v1/endpoints", 405),
        ("get", "/v1/endpoints", 405),
        ("GET", "http://elsewhere.test/v1/endpoints", 200),
        ("GET", "/v1/endpoints/../endpoints", 404),
        ("GET", "//v1/endpoints", 404),
        ("GET", "/v1/endpoints/%00", 404),
        ("GET", "/v1/endpoints/é", 404),
        ("GET", "/v1/endpoints?limit=%00", 422),
        ("GET", "/v1/endpoints?%ff=1", 422),
        ("GET", &query, 422),
        ("GET", &long, 404),
        ("GET", &too_long, 431),
        ("GET", "v1", 404),
        ("GET", "/v1/end points", 400),
    ] {
        let mut wire = Wire::to(api.address).await;
        wire.send(request(method, target, key, "", "")).await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, status, "{method} {target:.60}: {answer:?}");
    }
    // Another protocol altogether.
    for text in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\u{16}\u{3}\u{1}\r\n\r\n",
        "\r\n\r\n\r\n \r\n\r\n",
        "HELO\r\n\r\n",
    ] {
        let mut wire = Wire::to(api.address).await;
        wire.send(text).await;
        if let Some(answer) = wire.maybe_answer().await {
            assert_eq!(answer.status, 400, "{text:?}: {answer:?}");
            wire.closed().await;
        }
    }
}

/// Slowloris: something comes all the time, and never enough.
#[tokio::test]
async fn a_client_that_dribbles_is_not_waited_for() {
    let api = Api::with(&[
        ("ZYVEN_INGEST_HEAD_DEADLINE", "700ms"),
        ("ZYVEN_INGEST_BODY_DEADLINE", "700ms"),
    ])
    .await;
    let tenant = api.tenant().await;
    let text = publishing(&tenant.key);
    let head_ends = text.find("\r\n\r\n").expect("a head") + 4;
    for (sent_at_once, answered) in [(10, false), (head_ends, true)] {
        let mut wire = Wire::to(api.address).await;
        wire.send(&text[..sent_at_once]).await;
        let mut drops = text.as_bytes()[sent_at_once..].iter().cycle();
        let dribbling = async {
            loop {
                // Blanks in a body and letters in a head never complete anything.
                let byte = if answered {
                    b' '
                } else {
                    *drops.next().expect("endless").max(&b'a')
                };
                if wire.stream.write_all(&[byte]).await.is_err() {
                    break;
                }
                if !wire.silent_for(Duration::from_millis(50)).await {
                    break;
                }
            }
        };
        // 24 bytes of body would take more than a second.
        tokio::time::timeout(SOON, dribbling).await.expect("an end");
        match wire.maybe_answer().await {
            Some(answer) => answer.expect(408, "body_timeout"),
            None => assert!(!answered, "a body that is late is told so"),
        }
    }
}

#[tokio::test]
async fn a_client_that_takes_no_answers_is_not_waited_for() {
    let api = Api::with(&[
        ("ZYVEN_INGEST_HEAD_DEADLINE", "500ms"),
        ("ZYVEN_INGEST_CONNECTIONS_MAX", "1"),
    ])
    .await;
    let tenant = api.tenant().await;
    // More questions than all buffers on the way can hold answers to.
    let question = request("GET", "/v1/nothing", &tenant.key, "", "");
    let many = question.repeat(200);
    let mut deaf = Wire::to(api.address).await;
    let asking = async { while deaf.stream.write_all(many.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(60), asking)
        .await
        .expect("the connection is cut");
    wait_until("its place is free", SOON, async || {
        let mut next = Wire::to(api.address).await;
        next.send(&question).await;
        next.answer().await.status == 404
    })
    .await;
}

/// It has sent its request before it is told, so a careless close would reset the connection.
#[tokio::test]
async fn a_connection_too_many_hears_why_even_if_it_speaks_first() {
    let api = Api::with(&[("ZYVEN_INGEST_CONNECTIONS_MAX", "1")]).await;
    let tenant = api.tenant().await;
    let mut first = Wire::to(api.address).await;
    first
        .send(request("GET", "/v1/endpoints", &tenant.key, "", ""))
        .await;
    assert_eq!(first.answer().await.status, 200);
    let large = format!(r#"{{"type":"a","payload":"{}"}}"#, "x".repeat(200_000));
    for _ in 0..20 {
        let mut second = Wire::to(api.address).await;
        second
            .send(request("POST", "/v1/events", &tenant.key, JSON, &large))
            .await;
        let answer = second.answer().await;
        answer.expect(503, "overloaded");
        assert_eq!(answer.header("retry-after"), Some("1"));
        second.closed().await;
    }
    assert_eq!(api.metric("zyven_ingest_connections_refused_total"), 20.0);
    first.send(publishing(&tenant.key)).await;
    assert_eq!(
        first.answer().await.status,
        202,
        "the first one is not disturbed"
    );
}
