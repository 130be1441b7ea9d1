//! A dispatcher dies, or seems to: what it held is delivered by others within seconds.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::json;
use zyven_testkit::{Answer, Postgres, Running, wait_until};

use crate::stack::{PATIENCE, Spread, Stack, free_port};

/// Leases last this and five seconds more, tickets another two.
const TIMEOUT_MS: u64 = 30_000;
/// Bounds what comes back early on a slow machine, and is far from what a lease lasts. On an idle machine it is
/// less than five seconds.
const EARLY: Duration = Duration::from_secs(15);

/// How often each event has arrived.
fn arrivals(stack: &Stack) -> HashMap<String, usize> {
    let mut arrivals = HashMap::new();
    for request in stack.receiver.requests() {
        *arrivals
            .entry(request.header("webhook-id").to_owned())
            .or_default() += 1;
    }
    arrivals
}

async fn wait_for_arrivals(stack: &Stack, events: &[String], times: usize) {
    let description = format!("each event has arrived {times} times");
    wait_until(&description, PATIENCE * 2, async || {
        let arrivals = arrivals(stack);
        let late = events
            .iter()
            .filter(|event| arrivals.get(*event).copied().unwrap_or(0) < times)
            .count();
        if late == 0 { Ok(()) } else { Err(late) }
    })
    .await;
}

/// Publishes events that hang in the hands of the only dispatcher, which is returned.
async fn hold(stack: &mut Stack, count: usize) -> (Vec<String>, Running) {
    stack.receiver.answer(Answer::hang());
    let mut events = Vec::new();
    for number in 0..count {
        events.push(stack.publish("a.b", json!({ "number": number })).await);
    }
    stack.receiver.wait_for_requests(count, PATIENCE).await;
    stack.receiver.answer(Answer::status(200));
    (events, stack.take_process("dispatcher"))
}

async fn assert_delivered_by_the_second_attempt(stack: &Stack, events: &[String]) {
    for event in events {
        stack.wait_for_state(event, "DELIVERED").await;
        assert_eq!(stack.delivery(event).await.1, 2, "attempts");
    }
    stack.assert_settled().await;
    assert_eq!(arrivals(stack).values().max(), Some(&2));
}

#[tokio::test]
async fn what_a_killed_dispatcher_held_is_delivered_by_another_long_before_its_leases_end() {
    let mut stack = Stack::start(Spread::ProcessEach).await;
    stack
        .endpoint("/hook", json!({ "timeout_ms": TIMEOUT_MS }))
        .await;
    let (events, mut dispatcher) = hold(&mut stack, 20).await;
    stack.start_another("dispatcher", &[]).await;
    dispatcher.kill();
    let died_at = Instant::now();
    wait_for_arrivals(&stack, &events, 2).await;
    let took = died_at.elapsed();
    println!(
        "all of it arrived again {} ms after the kill",
        took.as_millis()
    );
    assert!(took < EARLY, "{took:?}");
    assert_delivered_by_the_second_attempt(&stack, &events).await;
}

#[tokio::test]
async fn lanes_and_orders_are_right_behind_a_takeover() {
    let mut stack = Stack::start(Spread::ProcessEach).await;
    let limits = json!({ "timeout_ms": TIMEOUT_MS, "concurrency_max": 3 });
    stack.endpoint("/hook", limits).await;
    stack.receiver.answer(Answer::hang());
    let mut events = Vec::new();
    for number in 0..12 {
        let event = json!({
            "type": "a.b",
            "payload": { "number": number },
            "ordering_key": format!("k{}", number % 3),
        });
        let (status, accepted) = stack.call("POST", "/v1/events", Some(event)).await;
        assert_eq!(status, 202, "{accepted}");
        events.push(accepted["id"].as_str().expect("an id").to_owned());
    }
    // The first of each key, which is also all the lane may have in flight.
    stack.receiver.wait_for_requests(3, PATIENCE).await;
    stack.receiver.answer(Answer::status(200));
    let mut dispatcher = stack.take_process("dispatcher");
    dispatcher.kill();
    let died_at = Instant::now();
    // Nobody is alive when it is found dead, or somebody is: both must do.
    stack.start_service("dispatcher");
    wait_for_arrivals(&stack, &events, 1).await;
    let took = died_at.elapsed();
    assert!(took < EARLY, "{took:?}");
    stack.assert_settled().await;
    let arrived: Vec<usize> = (stack.receiver.requests().iter().skip(3))
        .map(|request| {
            let id = request.header("webhook-id");
            events.iter().position(|event| event == id).expect("ours")
        })
        .collect();
    for key in 0..3 {
        let of_key: Vec<usize> = arrived.iter().copied().filter(|it| it % 3 == key).collect();
        assert_eq!(of_key, [key, key + 3, key + 6, key + 9]);
    }
}

#[tokio::test]
async fn a_frozen_dispatcher_that_goes_on_sends_nothing_stale_and_its_failures_do_not_count() {
    let mut stack = Stack::start(Spread::ProcessEach).await;
    stack
        .endpoint("/hook", json!({ "timeout_ms": TIMEOUT_MS }))
        .await;
    let mut events = Vec::new();
    // Failures that arrive while it is frozen.
    stack
        .receiver
        .answer(Answer::status(400).after(Duration::from_secs(3)));
    for number in 0..5 {
        events.push(stack.publish("a.b", json!({ "number": number })).await);
    }
    stack.receiver.wait_for_requests(5, PATIENCE).await;
    let mut dispatcher = stack.take_process("dispatcher");
    dispatcher.freeze();
    stack.receiver.answer(Answer::status(200));
    stack.start_another("dispatcher", &[]).await;
    let frozen_at = Instant::now();
    wait_for_arrivals(&stack, &events, 2).await;
    let took = frozen_at.elapsed();
    assert!(took < EARLY, "{took:?}");
    for event in &events {
        stack.wait_for_state(event, "DELIVERED").await;
    }
    dispatcher.thaw();
    dispatcher.says("taken for dead", PATIENCE).await;
    // It has registered anew, and delivers like any other.
    drop(stack.take_process("dispatcher"));
    let late = stack.publish("a.b", json!({})).await;
    stack.wait_for_state(&late, "DELIVERED").await;
    assert_delivered_by_the_second_attempt(&stack, &events).await;
    dispatcher.terminate();
    assert!(dispatcher.ended(PATIENCE).await.status.success());
}

#[tokio::test]
async fn while_postgres_is_away_nobody_is_taken_for_dead_and_nothing_is_sent_twice() {
    let mut postgres = Postgres::private().await;
    let mut stack = Stack::start_on(postgres.database().await, Spread::ProcessEach, &[]).await;
    stack
        .endpoint("/hook", json!({ "timeout_ms": TIMEOUT_MS }))
        .await;
    stack.start_another("dispatcher", &[]).await;
    // Under way when PostgreSQL goes, and answered while it is away.
    stack
        .receiver
        .answer(Answer::status(200).after(Duration::from_secs(5)));
    let mut events = Vec::new();
    for number in 0..10 {
        events.push(stack.publish("a.b", json!({ "number": number })).await);
    }
    stack.receiver.wait_for_requests(10, PATIENCE).await;
    postgres.kill().await;
    // How long the outage lasts.
    tokio::time::sleep(Duration::from_secs(10)).await;
    postgres.restart().await;
    for event in &events {
        stack.wait_for_state(event, "DELIVERED").await;
    }
    stack.assert_settled().await;
    let arrivals = arrivals(&stack);
    assert!(arrivals.values().all(|times| *times == 1), "{arrivals:?}");
    let said = stack.process("relay").stderr() + &stack.process("relay").stdout();
    assert!(!said.contains("declared dead"), "{said}");
}

#[tokio::test]
async fn a_dispatcher_killed_while_redis_is_away_is_replaced_when_redis_is_back() {
    let mut stack = Stack::start(Spread::ProcessEach).await;
    stack
        .endpoint("/hook", json!({ "timeout_ms": TIMEOUT_MS }))
        .await;
    let (events, mut dispatcher) = hold(&mut stack, 20).await;
    stack.start_another("dispatcher", &[]).await;
    // Frozen: when it goes on it still takes the tickets for leased.
    stack.redis.freeze();
    dispatcher.kill();
    let died_at = Instant::now();
    let sql = stack.database.client().await;
    wait_until("its leases have ended", PATIENCE, async || {
        let row = sql
            .query_one(
                "SELECT count(*) FROM zyven.outbox WHERE lease_token <> 0",
                &[],
            )
            .await;
        let leased: i64 = row.expect("a count").get(0);
        if leased == 0 { Ok(()) } else { Err(leased) }
    })
    .await;
    stack.redis.thaw();
    wait_for_arrivals(&stack, &events, 2).await;
    let took = died_at.elapsed();
    assert!(took < EARLY, "{took:?}");
    assert_delivered_by_the_second_attempt(&stack, &events).await;
}

#[tokio::test]
async fn a_relay_and_a_dispatcher_that_die_together_are_replaced_together() {
    let mut stack = Stack::start(Spread::ProcessEach).await;
    stack
        .endpoint("/hook", json!({ "timeout_ms": TIMEOUT_MS }))
        .await;
    let (events, mut dispatcher) = hold(&mut stack, 10).await;
    let mut relay = stack.take_process("relay");
    stack.start_another("dispatcher", &[]).await;
    let doorbell = format!("127.0.0.1:{}", free_port());
    let elsewhere = [("ZYVEN_RELAY_DOORBELL_LISTEN", doorbell.as_str())];
    stack.start_another("relay", &elsewhere).await;
    dispatcher.kill();
    relay.kill();
    let died_at = Instant::now();
    let fresh = stack.publish("a.b", json!({})).await;
    wait_for_arrivals(&stack, std::slice::from_ref(&fresh), 1).await;
    let took = died_at.elapsed();
    assert!(took < EARLY, "a fresh event: {took:?}");
    wait_for_arrivals(&stack, &events, 2).await;
    let took = died_at.elapsed();
    assert!(took < EARLY, "what the dispatcher held: {took:?}");
    assert_delivered_by_the_second_attempt(&stack, &events).await;
}
