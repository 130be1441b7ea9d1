//! Events that nobody wants any more after some moment.

use std::time::Duration;

use zyven_domain::id::EventId;
use zyven_testkit::{Answer, wait_until};

use crate::support::{PATIENCE, Stage, Terms};

/// Publishes an event that expires in this time, and offers it: at once, or when it has expired on
/// PostgreSQL's clock.
async fn expiring(stage: &Stage, expires_in: &str, has_expired: bool) -> EventId {
    let tenant = stage.tenant;
    let sql = format!(
        "SELECT zyven.publish('{tenant}', 'a', '{{}}', expires_at => clock_timestamp() + interval '{expires_in}')"
    );
    let event = stage.sql.text(&sql).await.parse().unwrap();
    if has_expired {
        wait_until("the event has expired", PATIENCE, async || {
            let left = "SELECT count(*) FROM zyven.events WHERE expires_at > clock_timestamp()";
            (stage.sql.number(left).await == 0).then_some(())
        })
        .await;
    }
    stage.offer().await;
    event
}

#[tokio::test]
async fn no_attempt_begins_after_the_expiry() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    let event = expiring(&stage, "200 ms", true).await;
    let dispatcher = stage.start();
    assert_eq!(stage.wait_for_dead(event).await, "expired");
    assert_eq!(stage.delivery(event).await.attempts, 0);
    assert_eq!(stage.receiver.requests().len(), 0);
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_retry_that_would_come_after_the_expiry_is_given_up_at_once() {
    let stage = Stage::new().await;
    let url = stage.receiver.url("/hook");
    stage.endpoint_at(&url, Terms::default()).await;
    stage
        .sql
        .run("UPDATE zyven.endpoints SET retry_base_ms = 7200000, retry_cap_ms = 7200000")
        .await;
    stage.receiver.answer(Answer::status(503));
    let event = expiring(&stage, "1 hour", false).await;
    let dispatcher = stage.start();
    assert_eq!(stage.wait_for_dead(event).await, "expired");
    assert_eq!(stage.delivery(event).await.attempts, 1);
    dispatcher.stop().await;
}

#[tokio::test]
async fn before_its_expiry_an_event_is_delivered_like_any_other() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    let event = expiring(&stage, "1 hour", false).await;
    let dispatcher = stage.start();
    stage
        .receiver
        .wait_for_requests(1, Duration::from_secs(30))
        .await;
    stage.wait_for(event, "DELIVERED").await;
    dispatcher.stop().await;
}
