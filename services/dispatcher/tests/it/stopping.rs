//! Asked to stop.

use std::time::Duration;

use zyven_testkit::Answer;

use crate::support::{PATIENCE, Stage};

#[tokio::test]
async fn requests_under_way_are_finished_and_nothing_new_is_begun() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    stage
        .receiver
        .answer(Answer::status(200).after(Duration::from_millis(500)));
    let dispatcher = stage.start();
    let under_way = stage.publish("1").await;
    stage.receiver.wait_for_requests(1, PATIENCE).await;
    dispatcher.ask_to_stop();
    let too_late = stage.publish("2").await;
    dispatcher.stop().await;
    assert_eq!(stage.delivery(under_way).await.state, "DELIVERED");
    assert_eq!(stage.receiver.request_count(), 1);
    assert_eq!(stage.delivery(too_late).await.attempts, 0);
    // Redis knows as well: no lease is left to run out.
    assert_eq!(stage.queue.depth().await.unwrap().leased, 0);
}

#[tokio::test]
async fn what_outlasts_the_grace_time_is_given_back_uncounted() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    stage.receiver.answer(Answer::hang());
    let mut config = stage.config();
    config.grace = Duration::from_millis(100);
    let dispatcher = stage.start_with(config);
    let event = stage.publish("{}").await;
    stage.receiver.wait_for_requests(1, PATIENCE).await;
    dispatcher.stop().await;
    assert_eq!(stage.delivery(event).await.attempts, 0);
    let leased = "SELECT count(*) FROM zyven.outbox WHERE lease_token <> 0 OR due_at > now()";
    assert_eq!(stage.sql.number(leased).await, 0);

    // The next dispatcher takes it at once.
    stage.receiver.answer(Answer::status(200));
    let next = stage.start();
    assert_eq!(stage.wait_for(event, "DELIVERED").await.attempts, 1);
    next.stop().await;
}

#[tokio::test]
async fn an_idle_dispatcher_stops_at_once() {
    let stage = Stage::new().await;
    let dispatcher = stage.start();
    let began = std::time::Instant::now();
    dispatcher.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5));
}
