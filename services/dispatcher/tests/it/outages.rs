//! PostgreSQL and Redis come and go, and leases are lost.

use std::time::Duration;

use zyven_testkit::{Answer, ChaosProxy, wait_until};

use crate::support::{PATIENCE, Stage};

/// Somebody else claims what this dispatcher holds.
const STEAL: &str =
    "UPDATE zyven.outbox SET lease_token = 42, leased_until = now() + interval '1 hour'";

#[tokio::test]
async fn a_late_2xx_is_recorded_although_the_lease_was_lost() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    stage
        .receiver
        .answer(Answer::status(200).after(Duration::from_millis(500)));
    let dispatcher = stage.start();
    let event = stage.publish("{}").await;
    stage.receiver.wait_for_requests(1, PATIENCE).await;
    stage.sql.run(STEAL).await;
    let delivered = stage.wait_for(event, "DELIVERED").await;
    assert_eq!(delivered.http_status, Some(200));
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_late_failure_is_not_recorded_if_the_lease_was_lost() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    stage
        .receiver
        .answer(Answer::status(500).after(Duration::from_millis(500)));
    let dispatcher = stage.start();
    let event = stage.publish("{}").await;
    stage.receiver.wait_for_requests(1, PATIENCE).await;
    stage.sql.run(STEAL).await;
    wait_until("the result was refused", PATIENCE, async || {
        dispatcher.count("zyven_dispatcher_superseded_total") == 1
    })
    .await;
    assert_eq!(stage.attempts(event).await, []);
    let mine = "SELECT count(*) FROM zyven.outbox WHERE lease_token = 42 AND attempts = 1";
    assert_eq!(stage.sql.number(mine).await, 1);
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_result_waits_for_postgres_and_the_request_is_not_repeated() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    stage
        .receiver
        .answer(Answer::status(200).after(Duration::from_millis(300)));
    let chaos = ChaosProxy::start(stage.database.address()).await;
    let dispatcher = stage.start_at(&stage.database.url_through(chaos.address()), stage.config());
    let event = stage.publish("{}").await;
    stage.receiver.wait_for_requests(1, PATIENCE).await;
    chaos.cut();
    wait_until("recording has failed", PATIENCE, async || {
        // The batch was counted when it was first tried.
        dispatcher.count("zyven_dispatcher_settle_batch_size_count") == 1
    })
    .await;
    assert_eq!(stage.delivery(event).await.state, "DISPATCHING");
    chaos.heal();
    stage.wait_for(event, "DELIVERED").await;
    assert_eq!(stage.receiver.request_count(), 1);
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_claim_of_unknown_outcome_is_taken_back_instead_of_waiting_for_its_lease() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    let chaos = ChaosProxy::start(stage.database.address()).await;
    let dispatcher = stage.start_at(&stage.database.url_through(chaos.address()), stage.config());
    // Connections, prepared statements and the endpoint's cache are warm now.
    stage.first_attempt().await;
    chaos.lose_replies();
    let event = stage.publish("{}").await;
    let leased = async || {
        stage
            .sql
            .number("SELECT count(*) FROM zyven.outbox WHERE lease_token <> 0")
            .await
            == 1
    };
    // On a very slow machine the cache has gone cold, and it is the endpoint's answer that is lost.
    let _ = tokio::time::timeout(
        Duration::from_secs(3),
        wait_until("PostgreSQL has leased it", PATIENCE, leased),
    )
    .await;
    let healed = std::time::Instant::now();
    chaos.cut_once();
    chaos.heal();
    let delivered = stage.wait_for(event, "DELIVERED").await;
    // The lease would have lasted ten seconds.
    assert!(
        healed.elapsed() < Duration::from_secs(8),
        "{:?}",
        healed.elapsed()
    );
    assert_eq!(delivered.attempts, 1);
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_dispatcher_that_starts_before_its_servers_delivers_once_they_are_there() {
    let mut stage = Stage::new().await;
    stage.endpoint("/hook").await;
    stage.redis.kill();
    let chaos = ChaosProxy::start(stage.database.address()).await;
    chaos.cut();
    let dispatcher = stage.start_at(&stage.database.url_through(chaos.address()), stage.config());
    let event = stage.publish_silently("{}").await;
    wait_until("it says what is missing", PATIENCE, async || {
        dispatcher.misses("dispatcher_redis")
    })
    .await;
    stage.redis.restart().await;
    stage.epoch = stage.queue.begin_epoch().await.unwrap();
    stage.offer().await;
    wait_until("it says what is missing now", PATIENCE, async || {
        dispatcher.misses("dispatcher_postgres")
    })
    .await;
    chaos.heal();
    stage.wait_for(event, "DELIVERED").await;
    wait_until("it is ready", PATIENCE, async || dispatcher.is_ready()).await;
    dispatcher.stop().await;
}
