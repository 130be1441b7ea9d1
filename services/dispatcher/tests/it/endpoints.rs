//! What an endpoint's owner changes.

use zyven_testkit::wait_until;

use crate::support::{PATIENCE, Stage, Terms};

#[tokio::test]
async fn deliveries_to_deleted_and_disabled_endpoints_are_given_up_unattempted() {
    for (change, reason) in [
        ("deleted_at = now()", "endpoint_deleted"),
        (
            "status = 'disabled', disabled_reason = 'by its owner'",
            "endpoint_disabled",
        ),
        ("url = 'http://user@example.com/'", "invalid_url"),
        ("url = 'http://localhost/'", "invalid_url"),
    ] {
        let stage = Stage::new().await;
        stage.endpoint("/hook").await;
        let event = stage.publish_silently("{}").await;
        stage
            .sql
            .run(&format!("UPDATE zyven.endpoints SET {change}"))
            .await;
        stage.offer().await;
        let dispatcher = stage.start();
        assert_eq!(stage.wait_for_dead(event).await, reason);
        assert_eq!(stage.delivery(event).await.attempts, 0);
        assert_eq!(stage.attempts(event).await, []);
        assert_eq!(stage.receiver.request_count(), 0);
        dispatcher.stop().await;
    }
}

#[tokio::test]
async fn a_payload_that_is_no_longer_stored_is_a_dead_letter_with_that_reason() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    let event = stage.publish_silently("{}").await;
    stage.sql.run("DELETE FROM zyven.events").await;
    stage.offer().await;
    let dispatcher = stage.start();
    assert_eq!(stage.wait_for_dead(event).await, "payload_missing");
    assert_eq!(stage.receiver.request_count(), 0);
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_changed_url_takes_effect_without_a_restart() {
    let stage = Stage::new().await;
    stage.endpoint("/old").await;
    let dispatcher = stage.start();
    stage.first_attempt().await;
    let url = stage.receiver.url("/new");
    stage
        .sql
        .run(&format!("UPDATE zyven.endpoints SET url = '{url}'"))
        .await;
    wait_until("the new URL is used", PATIENCE, async || {
        stage.first_attempt().await;
        !stage.receiver.requests_at("/new").is_empty()
    })
    .await;
    dispatcher.stop().await;
}

#[tokio::test]
async fn while_a_secret_rotates_both_signatures_are_sent() {
    let stage = Stage::new().await;
    let endpoint = stage.endpoint("/hook").await;
    stage
        .sql
        .run("UPDATE zyven.endpoint_secrets SET expires_at = now() + interval '1 hour'")
        .await;
    stage.add_secret(endpoint).await;
    let dispatcher = stage.start();
    stage.first_attempt().await;
    let requests = stage.receiver.wait_for_requests(1, PATIENCE).await;
    let signatures: Vec<&str> = requests[0].header("webhook-signature").split(' ').collect();
    assert_eq!(signatures.len(), 2);
    assert!(
        signatures
            .iter()
            .all(|signature| signature.starts_with("v1,"))
    );
    dispatcher.stop().await;
}

#[tokio::test]
async fn without_a_secret_that_opens_nothing_is_sent_and_nothing_is_lost() {
    let stage = Stage::new().await;
    stage
        .endpoint_at(&stage.receiver.url("/hook"), Terms::default())
        .await;
    stage
        .sql
        .run("UPDATE zyven.endpoint_secrets SET envelope = '\\x00'")
        .await;
    let dispatcher = stage.start();
    let event = stage.publish("{}").await;
    stage.wait_until_put_off().await;
    assert_eq!(stage.delivery(event).await.attempts, 0);
    assert_eq!(stage.receiver.request_count(), 0);
    dispatcher.stop().await;
}

/// Redis suggests: a ticket may name an endpoint that never existed, for a row that is another's.
#[tokio::test]
async fn a_ticket_in_the_wrong_lane_costs_the_delivery_nothing() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    let event = stage.publish_silently("{}").await;
    stage.offer_in_a_strange_lane().await;
    let dispatcher = stage.start();
    let delivery = stage.wait_for(event, "DELIVERED").await;
    assert_eq!(delivery.attempts, 1);
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_missing_payload_is_named_even_if_the_endpoint_is_closed_too() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    let event = stage.publish_silently("{}").await;
    stage
        .sql
        .run("DELETE FROM zyven.events; UPDATE zyven.endpoints SET deleted_at = now()")
        .await;
    stage.offer().await;
    let dispatcher = stage.start();
    assert_eq!(stage.wait_for_dead(event).await, "payload_missing");
    dispatcher.stop().await;
}
