//! Answers at the wrong moment: too early, too late, too many, unasked.

use std::time::Duration;

use zyven_testkit::wait_until;

use crate::support::{Logged, PATIENCE, Stage, Terms, config};
use crate::wire::{Caller, WireServer, meet, meet_once, stage};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const NO: &str = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno";
/// More than all buffers between dispatcher and endpoint hold, so that some of it is still here when
/// the answer arrives.
const HUGE_BYTES: usize = 16 * 1024 * 1024;

/// Longer than any wait between two stages of an exchange below, shorter than two of them.
const TIMEOUT_MS: u64 = 600;
const STAGE: Duration = Duration::from_millis(400);

/// How an endpoint goes on after an answer it gave before it had read the request.
#[derive(Debug, Clone, Copy)]
enum Then {
    Close,
    Reset,
    Ignore,
    ReadOn,
}

async fn attempt_with_huge_payload(stage: &Stage) -> (String, Logged) {
    let event = stage.publish_silently("{}").await;
    let id = event.uuid();
    stage
        .sql
        .run(&format!(
            "UPDATE zyven.events SET payload = convert_to(repeat('x', {HUGE_BYTES}), 'UTF8') WHERE id = '{id}'"
        ))
        .await;
    stage.offer().await;
    let attempt = wait_until("it was answered", PATIENCE, async || {
        stage.attempts(event).await.into_iter().next()
    })
    .await;
    let delivery = stage.delivery(event).await;
    (delivery.reason.unwrap_or(delivery.state), attempt)
}

/// With threads, so that the endpoint can answer and go while the dispatcher is amid a write.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_answer_before_the_request_was_read_counts_and_its_connection_is_not_reused() {
    let (stage, dispatcher) = stage().await;
    for then in [
        Then::Close,
        Then::Reset,
        Then::Close,
        Then::Reset,
        Then::Ignore,
        Then::ReadOn,
    ] {
        for (answer, status, expected) in [(OK, 200, "DELIVERED"), (NO, 413, "rejected")] {
            let server = WireServer::start(move |mut caller: Caller| async move {
                caller.read_head().await;
                caller.say(answer).await;
                match then {
                    Then::Close => {}
                    Then::Reset => caller.reset(),
                    // Until the test is over: whoever has the answer closes first.
                    Then::Ignore => tokio::time::sleep(PATIENCE).await,
                    Then::ReadOn => caller.linger().await,
                }
            })
            .await;
            stage.retire_endpoints().await;
            stage.endpoint_at(&server.url(), Terms::default()).await;
            let (verdict, attempt) = attempt_with_huge_payload(&stage).await;
            assert_eq!(verdict, expected, "{then:?}: {attempt:?}");
            assert_eq!(attempt.http_status, Some(status), "{then:?}: {attempt:?}");
            assert_eq!(attempt.error, None, "{then:?}: {attempt:?}");
            let (_, next) = stage.first_attempt().await;
            assert_eq!(next.http_status, Some(status), "{then:?}: {next:?}");
            assert!(!next.reused, "{then:?}");
            assert_eq!(server.accepted(), 2, "{then:?}");
        }
    }
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_second_answer_is_never_taken_for_that_of_the_next_request() {
    let (stage, dispatcher) = stage().await;
    // At once, and with a body that a status without one must not have.
    for answers in [
        format!("{OK}{NO}"),
        format!("{OK}\r\n\r\n{NO}"),
        format!("{OK}x"),
        "HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nno".to_owned(),
    ] {
        let server = WireServer::saying(answers.clone()).await;
        let outcome = meet(&stage, &server.url(), 5_000).await;
        assert_eq!(outcome.verdict, "DELIVERED", "{answers}: {outcome:?}");
        assert!(!outcome.reused, "{answers}");
        assert_eq!(server.accepted(), 2, "{answers}");
    }
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_connection_on_which_the_endpoint_speaks_unasked_is_closed() {
    let (stage, dispatcher) = stage().await;
    let server = WireServer::start(async |mut caller: Caller| {
        while caller.read_request().await {
            caller.say(OK).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            caller.say(NO).await;
        }
    })
    .await;
    let (verdict, _) = meet_once(&stage, &server.url(), 5_000).await;
    assert_eq!(verdict, "DELIVERED");
    // It was kept, and is found out when idle connections are looked over.
    wait_until("no connection is idle", PATIENCE, async || {
        dispatcher.count("zyven_dispatcher_idle_connections") == 0
    })
    .await;
    let (event, attempt) = stage.first_attempt().await;
    assert_eq!(attempt.http_status, Some(200));
    assert!(!attempt.reused);
    assert_eq!(stage.delivery(event).await.state, "DELIVERED");
    dispatcher.stop().await;
}

#[tokio::test]
async fn an_answer_that_was_here_before_the_request_is_no_answer() {
    let stage = Stage::new().await;
    // The proxy is scripted, so that its own answer and the endpoint's arrive as one. With a head of
    // 512 bytes the endpoint's is found by the HTTP client, with a shorter one by the handshake.
    let padding = "y".repeat(512 - "HTTP/1.1 200 OK\r\nx: \r\n\r\n".len());
    for padding in [String::new(), padding] {
        let answers = format!("HTTP/1.1 200 OK\r\nx: {padding}\r\n\r\n{OK}");
        let proxy = WireServer::saying(answers).await;
        let dispatcher = stage.start_with(config(&[proxy.address]));
        let (verdict, attempt) = meet_once(&stage, "http://hooks.example.com/", 5_000).await;
        assert_eq!(verdict, "attempts_exhausted");
        assert_eq!(attempt.error.as_deref(), Some("protocol"), "{attempt:?}");
        let detail = "the endpoint spoke before it was asked";
        assert_eq!(attempt.detail.as_deref(), Some(detail));
        assert_eq!(attempt.http_status, None);
        dispatcher.stop().await;
    }
}

#[tokio::test]
async fn an_answer_that_comes_byte_by_byte_in_time_counts() {
    let (stage, dispatcher) = stage().await;
    let server = WireServer::start(async |mut caller: Caller| {
        while caller.read_request().await {
            for byte in OK.bytes() {
                caller.say([byte]).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    })
    .await;
    let outcome = meet(&stage, &server.url(), 20_000).await;
    assert_eq!(outcome.verdict, "DELIVERED", "{outcome:?}");
    assert!(outcome.reused);
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_head_that_drips_beyond_the_deadline_is_timed_out() {
    let (stage, dispatcher) = stage().await;
    let server = WireServer::start(async |mut caller: Caller| {
        caller.read_request().await;
        caller.say("HTTP/1.1 200 OK\r\n").await;
        for number in 0..10_000 {
            caller.say(format!("x-{number}: y\r\n")).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let (verdict, attempt) = meet_once(&stage, &server.url(), TIMEOUT_MS).await;
    assert_eq!(verdict, "attempts_exhausted");
    assert_eq!(attempt.error.as_deref(), Some("timeout"));
    assert_eq!(attempt.detail.as_deref(), Some("no answer in time"));
    assert_eq!(attempt.http_status, None);
    dispatcher.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_never_reads_the_request_is_timed_out() {
    let (stage, dispatcher) = stage().await;
    let server =
        WireServer::start(async |_caller: Caller| tokio::time::sleep(PATIENCE).await).await;
    let terms = Terms {
        timeout_ms: 2_000,
        attempts_max: 1,
    };
    stage.endpoint_at(&server.url(), terms).await;
    let (verdict, attempt) = attempt_with_huge_payload(&stage).await;
    assert_eq!(verdict, "attempts_exhausted");
    assert_eq!(attempt.error.as_deref(), Some("timeout"));
    assert_eq!(attempt.detail.as_deref(), Some("no answer in time"));
    dispatcher.stop().await;
}

#[tokio::test]
async fn one_deadline_covers_connecting_head_and_body() {
    let stage = Stage::new().await;
    // Proxy and endpoint in one, so that the tunnel can be late.
    for (tunnel, head, body, detail) in [
        (STAGE, STAGE, Duration::ZERO, "no answer in time"),
        (
            STAGE,
            Duration::ZERO,
            STAGE,
            "the answer did not end in time (the status was 200)",
        ),
        (
            Duration::ZERO,
            STAGE,
            STAGE,
            "the answer did not end in time (the status was 200)",
        ),
    ] {
        let proxy = WireServer::start(move |mut caller: Caller| async move {
            let (start, end) = OK.split_at(OK.len() - 1);
            if !caller.read_request().await {
                return;
            }
            tokio::time::sleep(tunnel).await;
            caller.say("HTTP/1.1 200 OK\r\n\r\n").await;
            caller.read_request().await;
            tokio::time::sleep(head).await;
            caller.say(start).await;
            tokio::time::sleep(body).await;
            caller.say(end).await;
            caller.linger().await;
        })
        .await;
        let dispatcher = stage.start_with(config(&[proxy.address]));
        let (verdict, attempt) = meet_once(&stage, "http://hooks.example.com/", TIMEOUT_MS).await;
        let delays = (tunnel, head, body);
        assert_eq!(verdict, "attempts_exhausted", "{delays:?}: {attempt:?}");
        assert_eq!(attempt.error.as_deref(), Some("timeout"), "{delays:?}");
        assert_eq!(attempt.detail.as_deref(), Some(detail), "{delays:?}");
        assert_eq!(attempt.http_status, None, "{delays:?}");
        dispatcher.stop().await;
    }
}
