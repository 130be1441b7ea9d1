//! What may die, and what then happens.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;
use zyven_testkit::{Answer, wait_until};

use crate::stack::{PATIENCE, Spread, Stack};

/// Publishes `count` events and returns their ids.
async fn publish_many(stack: &Stack, count: usize) -> HashSet<String> {
    let mut ids = HashSet::new();
    for number in 0..count {
        ids.insert(stack.publish("a.b", json!({ "number": number })).await);
    }
    ids
}

/// Waits until the receiver has had every one of `events`.
async fn wait_for_all(stack: &Stack, events: &HashSet<String>) {
    wait_until("every event has arrived", PATIENCE * 2, async || {
        let arrived: HashSet<String> = stack
            .receiver
            .requests()
            .iter()
            .map(|request| request.header("webhook-id").to_owned())
            .collect();
        let missing = events.difference(&arrived).count();
        if missing == 0 { Ok(()) } else { Err(missing) }
    })
    .await;
}

#[tokio::test]
async fn a_flushed_redis_delays_events_but_loses_none() {
    let stack = Stack::start(Spread::ProcessEach).await;
    stack
        .endpoint("/hook", json!({ "retry_base_ms": 2000 }))
        .await;
    // Failing at first, so that the flush finds tickets in Redis. After the tenth failure the breaker may
    // keep the others back, which is forgotten with the flush.
    stack.receiver.answer(Answer::status(503));
    let events = publish_many(&stack, 40).await;
    stack.receiver.wait_for_requests(10, PATIENCE).await;
    stack.redis.flush().await;
    stack.receiver.answer(Answer::status(200));
    wait_for_all(&stack, &events).await;
    let late = publish_many(&stack, 5).await;
    wait_for_all(&stack, &late).await;
    stack.assert_settled().await;
}

#[tokio::test]
async fn while_redis_is_away_events_are_accepted_and_delivered_afterwards() {
    let mut stack = Stack::start(Spread::ProcessEach).await;
    stack.endpoint("/hook", json!({})).await;
    stack.redis.kill();
    let events = publish_many(&stack, 20).await;
    stack.redis.restart().await;
    wait_for_all(&stack, &events).await;
    stack.assert_settled().await;
}

#[tokio::test]
async fn a_killed_relay_and_a_killed_dispatcher_lose_nothing() {
    let mut stack = Stack::start(Spread::ProcessEach).await;
    stack.endpoint("/hook", json!({ "timeout_ms": 1000 })).await;
    // Slow enough that the dispatcher dies with requests in its hands.
    stack
        .receiver
        .answer(Answer::status(200).after(Duration::from_millis(300)));
    let events = publish_many(&stack, 60).await;
    stack.receiver.wait_for_requests(1, PATIENCE).await;
    for name in ["dispatcher", "relay"] {
        stack.process(name).kill();
    }
    let more = publish_many(&stack, 10).await;
    for name in ["dispatcher", "relay"] {
        stack.start_service(name);
    }
    wait_for_all(&stack, &events).await;
    wait_for_all(&stack, &more).await;
    stack.assert_settled().await;
}

#[tokio::test]
async fn while_the_proxy_is_away_no_attempt_is_spent() {
    let mut stack = Stack::start(Spread::ProcessEach).await;
    stack.endpoint("/hook", json!({ "attempts_max": 1 })).await;
    let egress = stack.take_process("egress");
    drop(egress);
    let event = stack.publish("a", json!({})).await;
    stack.wait_for_state(&event, "DISPATCHING").await;
    stack.start_service("egress");
    stack.wait_for_state(&event, "DELIVERED").await;
    assert_eq!(stack.delivery(&event).await.1, 1, "attempts");
}

#[tokio::test]
async fn a_stopped_dispatcher_finishes_what_it_holds() {
    let mut stack = Stack::start(Spread::ProcessEach).await;
    stack.endpoint("/hook", json!({})).await;
    stack
        .receiver
        .answer(Answer::status(200).after(Duration::from_millis(700)));
    let events = publish_many(&stack, 10).await;
    stack.receiver.wait_for_requests(1, PATIENCE).await;
    let mut dispatcher = stack.take_process("dispatcher");
    dispatcher.terminate();
    let ended = dispatcher.ended(PATIENCE).await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    stack.start_service("dispatcher");
    wait_for_all(&stack, &events).await;
    stack.assert_settled().await;
    assert_eq!(
        stack.receiver.request_count(),
        events.len(),
        "nothing twice"
    );
}
