//! Somebody has left a transaction open that locks a delivery.

use std::time::Duration;

use zyven_testkit::{Answer, wait_until};

use crate::support::{PATIENCE, Stage};

/// Locks one row, in a transaction of its own, until the client is told otherwise.
async fn lock(stage: &Stage, event: zyven_domain::id::EventId) -> tokio_postgres::Client {
    let client = stage.database.client().await;
    client
        .batch_execute(&format!(
            "BEGIN; SELECT FROM zyven.outbox WHERE event_id = '{}' FOR UPDATE",
            event.uuid()
        ))
        .await
        .unwrap();
    client
}

#[tokio::test]
async fn a_delivery_somebody_has_locked_is_claimed_later_and_keeps_no_other_waiting() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    let held = stage.publish_silently("{}").await;
    let locking = lock(&stage, held).await;
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(stage.publish_silently("{}").await);
    }
    stage.offer().await;
    let dispatcher = stage.start();
    for &event in &others {
        stage.wait_for(event, "DELIVERED").await;
    }
    assert_eq!(stage.delivery(held).await.attempts, 0);
    locking.batch_execute("COMMIT").await.unwrap();
    stage.wait_for(held, "DELIVERED").await;
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_result_whose_delivery_somebody_has_locked_is_recorded_later_and_keeps_no_other_waiting()
{
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    stage
        .receiver
        .answer(Answer::status(200).after(Duration::from_millis(1500)));
    let dispatcher = stage.start();
    let held = stage.publish("{}").await;
    stage.receiver.wait_for_requests(1, PATIENCE).await;
    let locking = lock(&stage, held).await;
    stage.receiver.answer(Answer::status(200));
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(stage.publish("{}").await);
    }
    for &event in &others {
        stage.wait_for(event, "DELIVERED").await;
    }
    // What is published while the result is held up is not kept waiting either.
    wait_until("its answer has come", PATIENCE, async || {
        dispatcher.count("zyven_dispatcher_settle_batch_size_count") >= 2
    })
    .await;
    let later = stage.publish("{}").await;
    stage.wait_for(later, "DELIVERED").await;
    assert_eq!(stage.delivery(held).await.state, "DISPATCHING");
    locking.batch_execute("COMMIT").await.unwrap();
    stage.wait_for(held, "DELIVERED").await;
    assert_eq!(stage.receiver.request_count(), 22, "nothing twice");
    dispatcher.stop().await;
}
