//! What the dispatcher makes of each way to answer.

use std::time::Duration;

use zyven_testkit::{Answer, wait_until};

use crate::support::{PATIENCE, Stage, Terms};
use crate::wire::WireServer;

/// A receiver that always answers like this, and an endpoint for it.
async fn stage_with(answer: Answer, terms: Terms) -> Stage {
    let stage = Stage::new().await;
    stage.receiver.answer(answer);
    stage.endpoint_at(&stage.receiver.url("/hook"), terms).await;
    stage
}

#[tokio::test]
async fn any_2xx_is_a_delivery_and_its_answer_is_kept() {
    let answer = Answer::status(204).header("x-request", "42");
    let stage = stage_with(answer, Terms::default()).await;
    let dispatcher = stage.start();
    let (event, attempt) = stage.first_attempt().await;
    assert_eq!(attempt.http_status, Some(204));
    assert_eq!(attempt.error, None);
    assert!(attempt.headers.unwrap().contains("x-request: 42\n"));
    assert_eq!(stage.delivery(event).await.state, "DELIVERED");
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_never_followed() {
    let stage = Stage::new().await;
    let target = stage.receiver.url("/elsewhere");
    let answer = Answer::status(302).header("location", &target);
    stage.receiver.answer_at("/hook", answer);
    let terms = Terms {
        attempts_max: 2,
        ..Terms::default()
    };
    stage.endpoint_at(&stage.receiver.url("/hook"), terms).await;
    let dispatcher = stage.start();
    let (event, attempt) = stage.first_attempt().await;
    assert_eq!(attempt.http_status, Some(302));
    assert_eq!(stage.wait_for_dead(event).await, "attempts_exhausted");
    assert_eq!(stage.receiver.requests_at("/hook").len(), 2);
    assert_eq!(stage.receiver.requests_at("/elsewhere").len(), 0);
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_404_is_final() {
    let stage = stage_with(Answer::status(404), Terms::default()).await;
    let dispatcher = stage.start();
    let event = stage.publish("{}").await;
    assert_eq!(stage.wait_for_dead(event).await, "rejected");
    assert_eq!(stage.receiver.request_count(), 1);
    assert_eq!(
        dispatcher.count("zyven_dispatcher_dead_letters_total{reason=\"rejected\"}"),
        1
    );
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_410_disables_the_endpoint_and_what_follows_is_not_sent() {
    let stage = stage_with(Answer::status(410), Terms::default()).await;
    let dispatcher = stage.start();
    // Accepted before the endpoint is disabled: afterwards nothing is routed to it any more.
    let first = stage.publish_silently("1").await;
    let second = stage.publish_silently("2").await;
    let seq = stage.sql.number("SELECT min(seq) FROM zyven.outbox").await;
    stage.offer_up_to(seq).await;
    assert_eq!(stage.wait_for_dead(first).await, "gone");
    wait_until("the endpoint is disabled", PATIENCE, async || {
        let status = stage
            .sql
            .text("SELECT concat_ws(': ', status, disabled_reason) FROM zyven.endpoints")
            .await;
        status == "disabled: the endpoint answered 410 Gone"
    })
    .await;
    let audited =
        "SELECT concat_ws(' ', actor, action) FROM zyven.audit_log WHERE action LIKE '%able'";
    assert_eq!(stage.sql.text(audited).await, "dispatcher endpoint.disable");
    // What the cache knows is at most a second old.
    dispatcher.stop().await;
    let dispatcher = stage.start();
    stage.offer().await;
    assert_eq!(stage.wait_for_dead(second).await, "endpoint_disabled");
    assert_eq!(stage.delivery(second).await.attempts, 0);
    assert_eq!(stage.receiver.request_count(), 1);
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_late_410_does_not_disable_an_endpoint_that_has_changed_meanwhile() {
    let stage = Stage::new().await;
    let (asked, mut question) = tokio::sync::mpsc::channel(1);
    let (release, released) = tokio::sync::watch::channel(false);
    let server = WireServer::start(move |mut caller| {
        let (asked, mut released) = (asked.clone(), released.clone());
        async move {
            caller.read_request().await;
            let _ = asked.try_send(());
            let _ = released.wait_for(|released| *released).await;
            caller
                .say("HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n")
                .await;
        }
    })
    .await;
    stage.endpoint_at(&server.url(), Terms::default()).await;
    let dispatcher = stage.start();
    let event = stage.publish("{}").await;
    question.recv().await.unwrap();
    let url = stage.receiver.url("/moved");
    stage
        .sql
        .run(&format!("UPDATE zyven.endpoints SET url = '{url}'"))
        .await;
    // What is sent until the dispatcher knows better waits at the old one, too.
    wait_until("the new URL is used", PATIENCE, async || {
        stage.publish("{}").await;
        !stage.receiver.requests_at("/moved").is_empty()
    })
    .await;
    release.send(true).unwrap();
    // The delivery itself was told that it is gone.
    assert_eq!(stage.wait_for_dead(event).await, "gone");
    // Stopping waits for all that follows from it.
    dispatcher.stop().await;
    let status = stage
        .sql
        .text("SELECT status::text FROM zyven.endpoints")
        .await;
    assert_eq!(status, "enabled");
}

#[tokio::test]
async fn an_endpoint_that_never_answers_is_timed_out() {
    let terms = Terms {
        timeout_ms: 200,
        attempts_max: 1,
    };
    let stage = stage_with(Answer::hang(), terms).await;
    let dispatcher = stage.start();
    let (event, attempt) = stage.first_attempt().await;
    assert_eq!(attempt.error.as_deref(), Some("timeout"));
    assert_eq!(attempt.detail.as_deref(), Some("no answer in time"));
    assert_eq!(stage.wait_for_dead(event).await, "attempts_exhausted");
    dispatcher.stop().await;
}

#[tokio::test]
async fn the_deadline_covers_the_body() {
    let terms = Terms {
        timeout_ms: 300,
        attempts_max: 1,
    };
    let drops = Answer::trickle("drop", Duration::from_millis(50), 1_000);
    let stage = stage_with(drops, terms).await;
    let dispatcher = stage.start();
    let (_, attempt) = stage.first_attempt().await;
    assert_eq!(attempt.error.as_deref(), Some("timeout"));
    assert_eq!(attempt.http_status, None);
    assert_eq!(
        attempt.detail.as_deref(),
        Some("the answer did not end in time (the status was 200)")
    );
    assert!(attempt.body.unwrap().starts_with(b"drop"));
    dispatcher.stop().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_a_failure() {
    for answer in [
        Answer::cut_short(1_000, "only this"),
        Answer::reset(),
        Answer::close(),
    ] {
        let terms = Terms {
            attempts_max: 1,
            ..Terms::default()
        };
        let stage = stage_with(answer.clone(), terms).await;
        let dispatcher = stage.start();
        let (event, attempt) = stage.first_attempt().await;
        assert_eq!(attempt.error.as_deref(), Some("reset"), "{answer:?}");
        assert_eq!(stage.wait_for_dead(event).await, "attempts_exhausted");
        assert_eq!(stage.receiver.request_count(), 1, "{answer:?}");
        dispatcher.stop().await;
    }
}

#[tokio::test]
async fn of_an_endless_body_a_little_is_read_and_the_answer_counts() {
    let stage = stage_with(Answer::endless(), Terms::default()).await;
    let dispatcher = stage.start();
    let (first, attempt) = stage.first_attempt().await;
    assert_eq!(attempt.http_status, Some(200));
    assert_eq!(attempt.body.unwrap(), [b'z'; 1_024]);
    assert_eq!(stage.delivery(first).await.state, "DELIVERED");
    // The rest of the answer is still on its way: that connection must not carry another request.
    let (_, attempt) = stage.first_attempt().await;
    assert!(!attempt.reused);
    assert_eq!(stage.receiver.connection_count(), 2);
    dispatcher.stop().await;
}

#[tokio::test]
async fn kept_headers_are_bounded_and_readable() {
    let answer = Answer::raw(
        [
            &b"HTTP/1.1 200 OK\r\nx-latin: caf\xe9\r\nx-long: "[..],
            &vec![b'y'; 20_000],
            b"\r\ncontent-length: 0\r\n\r\n",
        ]
        .concat(),
    );
    let stage = stage_with(answer, Terms::default()).await;
    let dispatcher = stage.start();
    let (_, attempt) = stage.first_attempt().await;
    let headers = attempt.headers.unwrap();
    assert!(headers.starts_with("x-latin: caf\u{fffd}\n"), "{headers}");
    assert!(headers.len() <= 4_096);
    dispatcher.stop().await;
}
