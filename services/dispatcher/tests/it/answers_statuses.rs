//! Statuses, `Retry-After`, and what an endpoint's owner has said about them.

use std::time::{Duration, SystemTime};

use zyven_domain::id::EventId;
use zyven_testkit::{Answer, wait_until};

use crate::support::{PATIENCE, Stage, Terms};
use crate::wire::{WireServer, meet, meet_once, stage};

const DELIVERED: &str = "DELIVERED";
/// The last attempt failed in a way that is otherwise retried.
const RETRIED: &str = "attempts_exhausted";
const REJECTED: &str = "rejected";

fn with_status(status: &str) -> String {
    format!("HTTP/1.1 {status} Whatever\r\ncontent-length: 2\r\n\r\nok")
}

#[tokio::test]
async fn each_status_on_the_wire_has_its_verdict_and_leaves_its_connection_usable() {
    let (stage, dispatcher) = stage().await;
    for (status, expected) in [
        (200, DELIVERED),
        (201, DELIVERED),
        (202, DELIVERED),
        (206, DELIVERED),
        (299, DELIVERED),
        (300, RETRIED),
        (301, RETRIED),
        (307, RETRIED),
        (399, RETRIED),
        (400, REJECTED),
        (401, REJECTED),
        (404, REJECTED),
        (408, RETRIED),
        (409, REJECTED),
        (422, REJECTED),
        (425, RETRIED),
        (429, RETRIED),
        (499, REJECTED),
        (500, RETRIED),
        (502, RETRIED),
        (503, RETRIED),
        (504, RETRIED),
        (599, RETRIED),
        (600, RETRIED),
        (999, RETRIED),
    ] {
        let server = WireServer::saying(with_status(&status.to_string())).await;
        let outcome = meet(&stage, &server.url(), 5_000).await;
        assert_eq!(outcome.verdict, expected, "{status}: {outcome:?}");
        let attempt = outcome.attempt;
        assert_eq!(attempt.http_status, Some(status), "{attempt:?}");
        assert_eq!(attempt.error, None, "{attempt:?}");
        assert_eq!(attempt.body.as_deref(), Some(&b"ok"[..]), "{status}");
        let is_redirect = (300..=399).contains(&status);
        let detail = is_redirect.then_some("redirects are not followed");
        assert_eq!(attempt.detail.as_deref(), detail, "{status}");
        assert!(outcome.reused, "{status}");
        assert_eq!(server.accepted(), 1, "{status}");
    }
    dispatcher.stop().await;
}

#[tokio::test]
async fn statuses_that_have_no_body_end_with_their_head() {
    let (stage, dispatcher) = stage().await;
    for (status, expected) in [(204, DELIVERED), (304, RETRIED)] {
        // A length that a 204 must not and a 304 may have, and that neither keeps.
        for length in ["", "content-length: 5\r\n"] {
            let answer = format!("HTTP/1.1 {status} Whatever\r\n{length}\r\n");
            let server = WireServer::saying(answer).await;
            let outcome = meet(&stage, &server.url(), 5_000).await;
            assert_eq!(outcome.verdict, expected, "{status}: {outcome:?}");
            assert_eq!(outcome.attempt.http_status, Some(status));
            assert_eq!(outcome.attempt.body, None);
            assert!(outcome.reused, "{status} {length}");
        }
    }
    dispatcher.stop().await;
}

#[tokio::test]
async fn what_is_no_status_is_no_answer() {
    let (stage, dispatcher) = stage().await;
    for status in ["000", "099", "99", "2000", "20x", "-20", ""] {
        let server = WireServer::saying_once(with_status(status)).await;
        let (verdict, attempt) = meet_once(&stage, &server.url(), 5_000).await;
        assert_eq!(verdict, RETRIED, "{status}: {attempt:?}");
        assert_eq!(attempt.error.as_deref(), Some("protocol"), "{status}");
        assert_eq!(attempt.http_status, None, "{status}");
        let detail = attempt.detail.unwrap();
        assert!(detail.starts_with("the answer is not HTTP/1.1"), "{detail}");
    }
    dispatcher.stop().await;
}

#[tokio::test]
async fn interim_answers_are_passed_over() {
    let (stage, dispatcher) = stage().await;
    let interim = "HTTP/1.1 100 Continue\r\n\r\n\
        HTTP/1.1 102 Processing\r\n\r\n\
        HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\nx-interim: yes\r\n\r\n";
    for (status, expected) in [("200", DELIVERED), ("404", REJECTED)] {
        let server = WireServer::saying(format!("{interim}{}", with_status(status))).await;
        let outcome = meet(&stage, &server.url(), 5_000).await;
        assert_eq!(outcome.verdict, expected, "{outcome:?}");
        assert!(outcome.reused, "{status}");
        let headers = outcome.attempt.headers.unwrap();
        assert!(!headers.contains("x-interim"), "{headers}");
    }
    dispatcher.stop().await;
}

#[tokio::test]
async fn interim_answers_without_end_run_into_the_deadline() {
    let (stage, dispatcher) = stage().await;
    let server = WireServer::start(async |mut caller| {
        caller.read_request().await;
        for _ in 0..10_000 {
            caller.say("HTTP/1.1 103 Early Hints\r\n\r\n").await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let (verdict, attempt) = meet_once(&stage, &server.url(), 500).await;
    assert_eq!(verdict, RETRIED);
    assert_eq!(attempt.error.as_deref(), Some("timeout"));
    assert_eq!(attempt.detail.as_deref(), Some("no answer in time"));
    assert_eq!(attempt.http_status, None);
    dispatcher.stop().await;
}

#[tokio::test]
async fn switching_protocols_is_no_answer() {
    let (stage, dispatcher) = stage().await;
    let answer = "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n";
    let server = WireServer::saying(answer).await;
    let outcome = meet(&stage, &server.url(), 5_000).await;
    assert_eq!(outcome.verdict, RETRIED);
    assert_eq!(outcome.attempt.error.as_deref(), Some("protocol"));
    assert_eq!(
        outcome.attempt.detail.as_deref(),
        Some("the endpoint switched protocols with 101 Switching Protocols")
    );
    assert!(!outcome.reused);
    dispatcher.stop().await;
}

/// Milliseconds from the first attempt to the next, as they were settled.
async fn wait_ms(stage: &Stage, event: EventId) -> i64 {
    let delivery = stage.wait_for(event, "RETRY_SCHEDULED").await;
    assert_eq!(delivery.attempts, 1);
    let id = event.uuid();
    stage
        .sql
        .number(&format!(
            "SELECT (extract(epoch FROM o.due_at - (a.started_at + a.total_us * interval '1 microsecond')) * 1000)::bigint
               FROM zyven.outbox o JOIN zyven.attempt_log a USING (event_id)
              WHERE o.event_id = '{id}'"
        ))
        .await
}

#[tokio::test]
async fn retry_after_counts_in_each_form_with_the_statuses_it_belongs_to() {
    let stage = Stage::new().await;
    let dispatcher = stage.start();
    let usual_s = 480..=720;
    let date = |seconds| httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(seconds));
    for (status, wish, expected_s) in [
        (429, "3600".to_owned(), 3_600..=3_600),
        (503, "3600".to_owned(), 3_600..=3_600),
        (429, date(7_200), 7_150..=7_200),
        (503, date(7_200), 7_150..=7_200),
        // No shorter than the endpoint's own wait.
        (429, "1".to_owned(), usual_s.clone()),
        (
            503,
            "Sun, 06 Nov 1994 08:49:37 GMT".to_owned(),
            usual_s.clone(),
        ),
        // No longer than a day.
        (429, "86400".to_owned(), 86_400..=86_400),
        (429, "86401".to_owned(), 86_400..=86_400),
        (503, "99999999999999999999".to_owned(), 86_400..=86_400),
        (
            503,
            "Fri, 31 Dec 9999 23:59:59 GMT".to_owned(),
            86_400..=86_400,
        ),
        // No wish at all.
        (429, "soon".to_owned(), usual_s.clone()),
        (503, "-3600".to_owned(), usual_s.clone()),
        (503, "3600.5".to_owned(), usual_s.clone()),
        (503, String::new(), usual_s.clone()),
        // Statuses with which it has no meaning.
        (500, "3600".to_owned(), usual_s.clone()),
        (408, "3600".to_owned(), usual_s.clone()),
        (302, "3600".to_owned(), usual_s.clone()),
    ] {
        let answer = Answer::status(status).header("retry-after", &wish);
        stage.receiver.answer(answer);
        stage.fresh_endpoint("/hook").await;
        // Without a wish the wait is between 8 and 12 minutes.
        stage
            .sql
            .run("UPDATE zyven.endpoints SET retry_base_ms = 600000")
            .await;
        let event = stage.publish("{}").await;
        let wait_ms = wait_ms(&stage, event).await;
        // Settling comes after the attempt, by as much as the machine is slow.
        let expected_ms = expected_s.start() * 1_000..=expected_s.end() * 1_000 + 30_000;
        assert!(
            expected_ms.contains(&wait_ms),
            "{status} {wish}: {wait_ms} ms"
        );
    }
    dispatcher.stop().await;
}

#[tokio::test]
async fn an_endpoint_with_a_schedule_keeps_to_it() {
    let stage = Stage::new().await;
    let terms = Terms {
        attempts_max: 1,
        ..Terms::default()
    };
    stage.endpoint_at(&stage.receiver.url("/hook"), terms).await;
    stage
        .sql
        .run("UPDATE zyven.endpoints SET retry_schedule_ms = '{1, 1, 7200000}'")
        .await;
    stage.receiver.answer(Answer::status(500));
    let dispatcher = stage.start();
    let event = stage.publish("{}").await;
    let id = event.uuid();
    wait_until("it waits for the last attempt", PATIENCE, async || {
        let due_in_s = stage
            .sql
            .number(&format!(
                "SELECT extract(epoch FROM due_at - now())::bigint FROM zyven.outbox WHERE event_id = '{id}'"
            ))
            .await;
        // Two hours, a fifth more or less.
        if (5_700..=8_700).contains(&due_in_s) { Ok(()) } else { Err(due_in_s) }
    })
    .await;
    assert_eq!(stage.delivery(event).await.attempts, 3);
    stage
        .sql
        .run("UPDATE zyven.outbox SET due_at = now()")
        .await;
    stage.offer().await;
    assert_eq!(stage.wait_for_dead(event).await, "attempts_exhausted");
    assert_eq!(stage.receiver.request_count(), 4);
    dispatcher.stop().await;
}

#[tokio::test]
async fn an_endpoint_has_attempts_and_an_age_of_its_own() {
    let stage = Stage::new().await;
    stage.receiver.answer(Answer::status(500));
    let terms = Terms {
        attempts_max: 3,
        ..Terms::default()
    };
    stage.endpoint_at(&stage.receiver.url("/hook"), terms).await;
    let dispatcher = stage.start();
    let event = stage.publish("{}").await;
    assert_eq!(stage.wait_for_dead(event).await, "attempts_exhausted");
    assert_eq!(stage.delivery(event).await.attempts, 3);

    stage.retire_endpoints().await;
    stage.endpoint("/hook").await;
    // The second attempt would come between 8 and 12 minutes after the first, and be too late.
    stage
        .sql
        .run("UPDATE zyven.endpoints SET retry_base_ms = 600000, age_max_ms = 480000 WHERE status = 'enabled'")
        .await;
    let event = stage.publish("{}").await;
    assert_eq!(stage.wait_for_dead(event).await, "age_exceeded");
    assert_eq!(stage.delivery(event).await.attempts, 1);
    dispatcher.stop().await;
}

#[tokio::test]
async fn an_endpoints_own_statuses_are_retried() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    stage
        .sql
        .run("UPDATE zyven.endpoints SET retry_statuses = '{404, 409}'")
        .await;
    stage
        .receiver
        .answer_in_turn("/hook", [404, 409, 503, 200, 404, 403].map(Answer::status));
    let dispatcher = stage.start();
    let event = stage.publish("{}").await;
    let delivered = stage.wait_for(event, "DELIVERED").await;
    assert_eq!(delivered.attempts, 4);
    let event = stage.publish("{}").await;
    assert_eq!(stage.wait_for_dead(event).await, "rejected");
    assert_eq!(stage.delivery(event).await.attempts, 2);
    dispatcher.stop().await;
}
