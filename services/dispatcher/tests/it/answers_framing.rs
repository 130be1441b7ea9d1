//! Heads and bodies on the wire: what is still an answer, and what its connection is good for then.

use crate::support::Logged;
use crate::wire::{Caller, WireServer, meet, meet_once, stage};

const DELIVERED: &str = "DELIVERED";
/// The last attempt failed in a way that is otherwise retried.
const RETRIED: &str = "attempts_exhausted";
const KIB: usize = 1024;

/// Whether the next request may use the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connection {
    Kept,
    Closed,
}
use Connection::{Closed, Kept};

fn headers(count: usize) -> String {
    (0..count)
        .map(|number| format!("x-{number}: y\r\n"))
        .collect()
}

/// An answer whose head has exactly this many bytes.
fn head_of(bytes: usize) -> String {
    let (start, end) = ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: ", "\r\n\r\n");
    let filling = "y".repeat(bytes - start.len() - end.len());
    format!("{start}{filling}{end}ok")
}

fn body_of(bytes: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n");
    [head.into_bytes(), vec![b'x'; bytes]].concat()
}

fn chunked(body: impl AsRef<[u8]>) -> Vec<u8> {
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    [&head[..], body.as_ref()].concat()
}

/// Legal, and a sign of somebody who forges answers (RFC 9112, section 6.3).
fn chunked_with_length() -> Vec<u8> {
    b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_vec()
}

fn plain(head: &str) -> Vec<u8> {
    format!("{head}\r\ncontent-length: 2\r\n\r\nok").into_bytes()
}

#[tokio::test]
async fn an_answer_counts_in_every_form_that_http_has_for_it() {
    let (stage, dispatcher) = stage().await;
    for (form, answer, connection) in [
        ("a length", plain("HTTP/1.1 200 OK"), Kept),
        ("no reason", plain("HTTP/1.1 200"), Kept),
        (
            "a reason in Latin-1",
            b"HTTP/1.1 200 D\xe9j\xe0\r\ncontent-length: 2\r\n\r\nok".to_vec(),
            Kept,
        ),
        (
            "a header in Latin-1",
            b"HTTP/1.1 200 OK\r\nx: caf\xe9\xff\r\ncontent-length: 2\r\n\r\nok".to_vec(),
            Kept,
        ),
        (
            "the same length twice",
            plain("HTTP/1.1 200 OK\r\ncontent-length: 2"),
            Kept,
        ),
        ("empty lines before", plain("\r\n\r\nHTTP/1.1 200 OK"), Kept),
        ("HTTP/1.0", plain("HTTP/1.0 200 OK"), Closed),
        (
            "HTTP/1.0, kept alive",
            plain("HTTP/1.0 200 OK\r\nconnection: keep-alive"),
            Kept,
        ),
        (
            "close",
            plain("HTTP/1.1 200 OK\r\nconnection: close"),
            Closed,
        ),
        (
            "close among others",
            plain("HTTP/1.1 200 OK\r\nconnection: x, Close"),
            Closed,
        ),
        ("chunks", chunked("1\r\no\r\n1\r\nk\r\n0\r\n\r\n"), Kept),
        ("a length besides chunks", chunked_with_length(), Closed),
        (
            "chunks with extensions and trailers",
            chunked("2;a=b\r\nok\r\n0\r\nx-trailer: 1\r\n\r\n"),
            Kept,
        ),
        (
            "100 headers",
            plain(&format!("HTTP/1.1 200 OK\r\n{}", headers(99).trim_end())),
            Kept,
        ),
        ("a head of 64 KiB", head_of(64 * KIB).into_bytes(), Kept),
    ] {
        let server = WireServer::saying(answer).await;
        let outcome = meet(&stage, &server.url(), 5_000).await;
        assert_eq!(outcome.verdict, DELIVERED, "{form}: {outcome:?}");
        assert_eq!(outcome.attempt.body.as_deref(), Some(&b"ok"[..]), "{form}");
        assert_eq!(outcome.reused, connection == Kept, "{form}: {connection:?}");
    }
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_body_without_a_length_ends_with_its_connection() {
    let (stage, dispatcher) = stage().await;
    let server = WireServer::saying_once("HTTP/1.1 200 OK\r\n\r\nok").await;
    let outcome = meet(&stage, &server.url(), 5_000).await;
    assert_eq!(outcome.verdict, DELIVERED, "{outcome:?}");
    assert_eq!(outcome.attempt.body.as_deref(), Some(&b"ok"[..]));
    assert!(!outcome.reused);

    // The proxy passes on what was said and closes, whichever way the endpoint ended it.
    let server = WireServer::start(async |mut caller: Caller| {
        caller.read_request().await;
        caller.say("HTTP/1.1 200 OK\r\n\r\nok").await;
        caller.reset();
    })
    .await;
    let outcome = meet(&stage, &server.url(), 5_000).await;
    assert_eq!(outcome.verdict, DELIVERED, "{outcome:?}");
    assert!(!outcome.reused);
    dispatcher.stop().await;
}

fn assert_malformed(form: &str, verdict: &str, attempt: &Logged, detail: &str) {
    assert_eq!(verdict, RETRIED, "{form}: {attempt:?}");
    assert_eq!(
        attempt.error.as_deref(),
        Some("protocol"),
        "{form}: {attempt:?}"
    );
    assert_eq!(attempt.http_status, None, "{form}");
    let found = attempt.detail.as_deref().unwrap_or_default();
    assert!(found.starts_with(detail), "{form}: {found}");
}

#[tokio::test]
async fn a_head_that_is_not_http_is_no_answer() {
    let (stage, dispatcher) = stage().await;
    for (form, answer) in [
        ("HTTP/0.9", b"<html>ok</html>\r\n\r\n".to_vec()),
        ("HTTP/1.2", plain("HTTP/1.2 200 OK")),
        ("HTTP/2.0", plain("HTTP/2.0 200 OK")),
        ("an HTTP/2 frame", b"\0\0\0\x04\0\0\0\0\0".to_vec()),
        ("another protocol", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        ("zeros", vec![0; 1_000]),
        ("a header without a colon", plain("HTTP/1.1 200 OK\r\nxxx")),
        (
            "a blank before the colon",
            plain("HTTP/1.1 200 OK\r\nx : y"),
        ),
        ("a folded header", plain("HTTP/1.1 200 OK\r\nx: a\r\n b")),
        ("a zero in a header", plain("HTTP/1.1 200 OK\r\nx: a\0b")),
        ("a name that is not ASCII", plain("HTTP/1.1 200 OK\r\né: a")),
        ("two lengths", plain("HTTP/1.1 200 OK\r\ncontent-length: 3")),
        (
            "a length with a sign",
            plain("HTTP/1.1 200 OK\r\ncontent-length: +2"),
        ),
        (
            "a negative length",
            plain("HTTP/1.1 200 OK\r\ncontent-length: -2"),
        ),
        (
            "an endless length",
            plain("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999"),
        ),
        (
            "chunks in HTTP/1.0",
            b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_vec(),
        ),
    ] {
        let server = WireServer::saying(answer).await;
        let (verdict, attempt) = meet_once(&stage, &server.url(), 5_000).await;
        assert_malformed(form, &verdict, &attempt, "the answer is not HTTP/1.1");
        // It answers every request, so a connection that was kept would have no second one beside it.
        let (_, second) = stage.first_attempt().await;
        assert!(!second.reused, "{form}");
    }
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_no_answer() {
    let (stage, dispatcher) = stage().await;
    for (form, answer) in [
        (
            "101 headers",
            plain(&format!("HTTP/1.1 200 OK\r\n{}", headers(100).trim_end())),
        ),
        (
            "10,000 headers",
            plain(&format!(
                "HTTP/1.1 200 OK\r\n{}",
                headers(10_000).trim_end()
            )),
        ),
        ("64 KiB and a byte", head_of(64 * KIB + 1).into_bytes()),
        ("a megabyte", head_of(KIB * KIB).into_bytes()),
    ] {
        let server = WireServer::saying(answer).await;
        let outcome = meet(&stage, &server.url(), 5_000).await;
        let detail = "the head of the answer is larger than 64 KiB or has more than 100 headers";
        assert_malformed(form, &outcome.verdict, &outcome.attempt, detail);
        assert!(!outcome.reused, "{form}");
    }
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_body_that_is_broken_is_no_answer_whatever_the_status_said() {
    let (stage, dispatcher) = stage().await;
    let long = "x".repeat(100_000);
    for (form, answer) in [
        ("no size", chunked("zz\r\n")),
        ("no end of the chunk", chunked("2\r\nokXX\r\n0\r\n\r\n")),
        ("a size that overflows", chunked("fffffffffffffffff1\r\nok")),
        (
            "an extension of 100 kB",
            chunked(format!("2;{long}\r\nok\r\n0\r\n\r\n")),
        ),
        (
            "trailers of 100 kB",
            chunked(format!("2\r\nok\r\n0\r\nx: {long}\r\n\r\n")),
        ),
    ] {
        let server = WireServer::saying(answer).await;
        let outcome = meet(&stage, &server.url(), 5_000).await;
        let detail = "the body of the answer is not framed as HTTP/1.1 has it (the status was 200)";
        assert_malformed(form, &outcome.verdict, &outcome.attempt, detail);
        assert!(!outcome.reused, "{form}");
    }
    dispatcher.stop().await;
}

#[tokio::test]
async fn an_answer_that_ends_too_soon_is_no_answer() {
    let (stage, dispatcher) = stage().await;
    for (form, answer, status) in [
        ("nothing", "", ""),
        ("a part of the head", "HTTP/1.1 20", ""),
        ("an interim answer", "HTTP/1.1 100 Continue\r\n\r\n", ""),
        (
            "a head",
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n",
            " (the status was 200)",
        ),
        (
            "a part of the body",
            "HTTP/1.1 503 No\r\ncontent-length: 3\r\n\r\nno",
            " (the status was 503)",
        ),
        (
            "a part of the chunks",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
            " (the status was 200)",
        ),
    ] {
        let closing = WireServer::saying_once(answer).await;
        let resetting = WireServer::start(move |mut caller: Caller| async move {
            caller.read_request().await;
            caller.say(answer).await;
            caller.reset();
        })
        .await;
        for (end, server) in [("closed", closing), ("reset", resetting)] {
            let outcome = meet(&stage, &server.url(), 5_000).await;
            assert_eq!(outcome.verdict, RETRIED, "{form}, {end}: {outcome:?}");
            let attempt = outcome.attempt;
            assert_eq!(
                attempt.error.as_deref(),
                Some("reset"),
                "{form}, {end}: {attempt:?}"
            );
            assert_eq!(attempt.http_status, None, "{form}, {end}");
            let detail = format!("the connection ended before the answer was complete{status}");
            assert_eq!(attempt.detail, Some(detail), "{form}, {end}");
            // Nothing was sent twice within an attempt: these connections were fresh.
            assert_eq!(server.accepted(), 2, "{form}, {end}");
        }
    }
    dispatcher.stop().await;
}

#[tokio::test]
async fn of_a_body_64_kib_are_read_and_the_first_kib_is_kept() {
    let (stage, dispatcher) = stage().await;
    for (bytes, connection) in [
        (KIB, Kept),
        (KIB + 1, Kept),
        (64 * KIB, Kept),
        (64 * KIB + 1, Closed),
        (KIB * KIB, Closed),
    ] {
        let server = WireServer::saying(body_of(bytes)).await;
        let outcome = meet(&stage, &server.url(), 5_000).await;
        assert_eq!(outcome.verdict, DELIVERED, "{bytes}: {outcome:?}");
        assert_eq!(outcome.attempt.body.unwrap(), [b'x'; KIB], "{bytes}");
        assert_eq!(outcome.reused, connection == Kept, "{bytes}");
    }
    dispatcher.stop().await;
}

#[tokio::test]
async fn nothing_is_waited_for_behind_the_first_64_kib_of_a_body() {
    let (stage, dispatcher) = stage().await;
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
    for (sent_bytes, timeout_ms, expected) in [
        (64 * KIB, 1_000, RETRIED),
        // Were it waited for more, there would be time enough to notice.
        (64 * KIB + 1, 20_000, DELIVERED),
    ] {
        let answer = [head.as_bytes(), &vec![b'x'; sent_bytes]].concat();
        let server = WireServer::saying(answer).await;
        let (verdict, attempt) = meet_once(&stage, &server.url(), timeout_ms).await;
        assert_eq!(verdict, expected, "{sent_bytes}: {attempt:?}");
    }
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_compressed_body_stays_as_it_is() {
    let (stage, dispatcher) = stage().await;
    // The start of a gzip stream that would grow a thousandfold, and something that is no gzip at all.
    let gzip = [
        &b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xed\xc1\x01\x01\0\0\0\x80"[..],
        &[0; 500],
    ]
    .concat();
    for body in [gzip, b"not compressed\0".to_vec()] {
        for encoding in ["gzip", "br", "zstd", "gzip, gzip"] {
            let length = body.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-encoding: {encoding}\r\ncontent-length: {length}\r\n\r\n"
            );
            let server = WireServer::saying([head.as_bytes(), &body].concat()).await;
            let outcome = meet(&stage, &server.url(), 5_000).await;
            assert_eq!(outcome.verdict, DELIVERED, "{encoding}: {outcome:?}");
            assert_eq!(outcome.attempt.body.unwrap(), body, "{encoding}");
            assert!(outcome.reused, "{encoding}");
        }
    }
    dispatcher.stop().await;
}
