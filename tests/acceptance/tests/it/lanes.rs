//! Fair, polite and patient: what one endpoint does to others, and what an outage costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zyven_testkit::{Answer, Receiver, wait_until};

use crate::stack::{PATIENCE, Spread, Stack};

fn path_of(endpoint: &Value) -> String {
    format!("/v1/endpoints/{}", endpoint["id"].as_str().expect("an id"))
}

async fn number(stack: &Stack, query: &str) -> i64 {
    let sql = stack.database.client().await;
    let row = sql.query_one(query, &[]).await.expect("one row");
    row.get(0)
}

/// What an event for another endpoint, published after all others, needs to arrive. When it has, the
/// others have had their chance.
async fn sentinel(stack: &Stack) -> Duration {
    let before = stack.receiver.requests_at("/sentinel").len();
    let published = Instant::now();
    stack.publish("sentinel", json!({})).await;
    let arrived = stack
        .receiver
        .wait_for_requests_at("/sentinel", before + 1, PATIENCE);
    arrived.await[before].arrived_at - published
}

/// A ten-minute outage with everything a hundred times as fast: the endpoint is down for 6 s, its first
/// retry comes after 50 ms, the breaker opens for 300 ms at first. Four attempts would be over after
/// about 350 ms; that nobody is dead-lettered is the breaker's work.
#[tokio::test]
async fn a_ten_minute_outage_ends_without_a_dead_letter() {
    let settings = [
        ("ZYVEN_BREAKER_OPEN_MIN", "300ms"),
        ("ZYVEN_BREAKER_OPEN_MAX", "6s"),
    ];
    let stack = Stack::start_with(Spread::OneProcess, &settings).await;
    let outage_ends = Instant::now() + Duration::from_secs(6);
    stack.receiver.answer_by(move |_| {
        let is_down = Instant::now() < outage_ends;
        Some(Answer::status(if is_down { 503 } else { 200 }))
    });
    let terms = json!({ "retry_base_ms": 50, "attempts_max": 4 });
    stack.endpoint("/hook", terms).await;
    let mut published = 0;
    let mut was_seen = false;
    while Instant::now() < outage_ends {
        stack.publish("a", json!({ "n": published })).await;
        published += 1;
        let seen = "SELECT count(*) FROM zyven.left_alone WHERE because = 'breaker_open'";
        was_seen = was_seen || (published % 50 == 0 && number(&stack, seen).await == 1);
    }
    assert!(published >= 100, "{published} events make no outage");
    assert!(was_seen, "the breaker was open, and nobody saw it in SQL");
    stack.assert_settled().await;
    wait_until(
        "the breaker is closed in SQL as well",
        PATIENCE,
        async || match number(&stack, "SELECT count(*) FROM zyven.breakers").await {
            0 => Ok(()),
            open => Err(open),
        },
    )
    .await;
    assert_eq!(
        number(&stack, "SELECT count(*) FROM zyven.dead_letter_records").await,
        0
    );
    let delivered = "SELECT count(*) FROM zyven.deliveries WHERE state = 'DELIVERED'";
    assert_eq!(number(&stack, delivered).await, published);
    // All but the first few spent no attempt on it.
    let failed = number(&stack, "SELECT count(*) FROM zyven.attempts").await;
    assert!(failed < published / 2, "{failed} of {published} failed");
}

/// One dispatcher with 32 places, all of which the crowd holds for 100 ms each: 320 a second. By lanes
/// alone, eight tickets each, the newcomer's turn would come after 200 of them, which is 5 s.
#[tokio::test]
async fn a_hundred_thousand_waiting_events_do_not_delay_another_tenants_first_one() {
    let settings = [("ZYVEN_DISPATCHER_IN_FLIGHT_MAX", "32")];
    let stack = Stack::start_with(Spread::ProcessEach, &settings).await;
    stack
        .endpoint("/sentinel", json!({ "event_types": ["sentinel"] }))
        .await;
    // Another tenant with 200 endpoints, and 500 events for each of them.
    let receiver = Receiver::start().await;
    receiver.answer(Answer::status(200).after(Duration::from_millis(100)));
    let noisy = stack.other_tenant("noisy").await;
    for _ in 0..200 {
        let endpoint = json!({ "url": receiver.url("/"), "event_types": ["noise"] });
        let made = stack.call_as(&noisy, "POST", "/v1/endpoints", Some(endpoint));
        assert_eq!(made.await.0, 201);
    }
    let sql = stack.database.client().await;
    sql.execute(
        "SELECT zyven.publish(zyven.typed_id('ten', t.id), 'noise', '{}')
           FROM zyven.tenants t, generate_series(1, 500) WHERE t.name = 'noisy'",
        &[],
    )
    .await
    .expect("published");
    drop(sql);
    wait_until("all have tickets", PATIENCE, async || {
        let behind = "SELECT (SELECT max(seq) FROM zyven.outbox) - watermark FROM zyven.relay";
        match number(&stack, behind).await {
            ..=0 => Ok(()),
            behind => Err(behind),
        }
    })
    .await;
    let took = sentinel(&stack).await;
    let waiting = number(&stack, "SELECT count(*) FROM zyven.outbox").await;
    assert!(waiting > 90_000, "{waiting} are no crowd");
    assert!(receiver.request_count() > 0, "the crowd is being served");
    assert!(
        took < Duration::from_secs(1),
        "{took:?} behind {waiting} others"
    );
}

/// One dispatcher with 32 places, of which one endpoint may hold 16. Without that limit the dead one holds
/// them all, for 30 s at a time.
#[tokio::test]
async fn a_dead_endpoint_does_not_slow_a_healthy_one() {
    let settings = [
        ("ZYVEN_DISPATCHER_IN_FLIGHT_MAX", "32"),
        ("ZYVEN_LANE_IN_FLIGHT_MAX", "16"),
    ];
    let stack = Stack::start_with(Spread::ProcessEach, &settings).await;
    let healthy = json!({ "event_types": ["sentinel", "both"] });
    stack.endpoint("/sentinel", healthy).await;
    let dead = json!({ "event_types": ["dead", "both"], "timeout_ms": 30_000 });
    stack.endpoint("/dead", dead).await;
    stack.receiver.answer_at("/dead", Answer::hang());

    let alone = slowest_of(&stack, "sentinel").await;
    for n in 0..100 {
        stack.publish("dead", json!({ "n": n })).await;
    }
    stack
        .receiver
        .wait_for_requests_at("/dead", 16, PATIENCE)
        .await;
    let beside = slowest_of(&stack, "both").await;
    assert_eq!(stack.receiver.requests_at("/dead").len(), 16);
    // A busy machine adds some milliseconds to either.
    let bound = alone.mul_f64(1.5).max(Duration::from_millis(100));
    assert!(
        beside <= bound,
        "{beside:?} beside a dead endpoint, {alone:?} alone"
    );
}

/// From publishing to arrival at the healthy endpoint, for the slowest but one of a hundred: p99.
async fn slowest_of(stack: &Stack, event_type: &str) -> Duration {
    let mut times = Vec::new();
    for n in 0..100 {
        let before = stack.receiver.requests_at("/sentinel").len();
        let published = Instant::now();
        stack.publish(event_type, json!({ "n": n })).await;
        let arrived = stack
            .receiver
            .wait_for_requests_at("/sentinel", before + 1, PATIENCE);
        times.push(arrived.await[before].arrived_at - published);
    }
    times.sort_unstable();
    times[98]
}

#[tokio::test]
async fn an_endpoint_gets_no_more_requests_at_a_time_than_it_wants() {
    let stack = Stack::start(Spread::OneProcess).await;
    stack
        .endpoint("/hook", json!({ "concurrency_max": 3 }))
        .await;
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, seen) = (Arc::clone(&open), Arc::clone(&most));
    stack.receiver.answer_by(move |_| {
        let now = counted.fetch_add(1, Ordering::SeqCst) + 1;
        seen.fetch_max(now, Ordering::SeqCst);
        let counted = Arc::clone(&counted);
        // It counts as open until shortly before its answer leaves.
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(40)).await;
            counted.fetch_sub(1, Ordering::SeqCst);
        });
        Some(Answer::status(200).after(Duration::from_millis(50)))
    });
    for n in 0..30 {
        stack.publish("a", json!({ "n": n })).await;
    }
    stack.assert_settled().await;
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn an_endpoint_gets_no_more_requests_a_minute_than_it_wants() {
    let stack = Stack::start(Spread::OneProcess).await;
    let limits = json!({ "rate_per_minute": 600, "rate_burst": 2 });
    stack.endpoint("/hook", limits).await;
    for n in 0..20 {
        stack.publish("a", json!({ "n": n })).await;
    }
    stack.assert_settled().await;
    let requests = stack.receiver.requests_at("/hook");
    assert_eq!(requests.len(), 20, "waiting spends no attempt");
    let took = requests[19].arrived_at - requests[0].arrived_at;
    // Two at once, then one every 100 ms.
    assert!(took >= Duration::from_millis(1_700), "{took:?}");
    let failed = number(&stack, "SELECT count(*) FROM zyven.attempts").await;
    assert_eq!(failed, 0);
}

#[tokio::test]
async fn an_answer_of_429_makes_the_whole_endpoint_wait() {
    let stack = Stack::start(Spread::OneProcess).await;
    stack
        .endpoint("/hook", json!({ "event_types": ["a"], "retry_base_ms": 1 }))
        .await;
    stack
        .endpoint("/sentinel", json!({ "event_types": ["sentinel"] }))
        .await;
    let busy = Answer::status(429).header("retry-after", "2");
    stack.receiver.answer_in_turn("/hook", [busy]);
    let first = stack.publish("a", json!({ "n": 1 })).await;
    stack.wait_for_state(&first, "RETRY_SCHEDULED").await;
    // This one has done nothing wrong, and waits all the same.
    stack.publish("a", json!({ "n": 2 })).await;
    sentinel(&stack).await;
    assert_eq!(stack.receiver.requests_at("/hook").len(), 1);
    stack.assert_settled().await;
    let requests = stack.receiver.requests_at("/hook");
    assert_eq!(requests.len(), 3);
    let waited = requests[1].arrived_at - requests[0].arrived_at;
    assert!(waited >= Duration::from_millis(1_900), "{waited:?}");
}

#[tokio::test]
async fn a_paused_endpoint_gets_nothing_and_loses_nothing() {
    let stack = Stack::start(Spread::OneProcess).await;
    let endpoint = stack
        .endpoint("/hook", json!({ "event_types": ["a"] }))
        .await;
    stack
        .endpoint("/sentinel", json!({ "event_types": ["sentinel"] }))
        .await;
    let path = path_of(&endpoint);
    // Whatever the lane knows by now: no dispatcher sends to an endpoint that it sees paused.
    let (status, paused) = stack.call("POST", &format!("{path}/pause"), None).await;
    assert_eq!((status, paused["status"].as_str()), (200, Some("paused")));
    wait_until(
        "dispatchers have forgotten the endpoint of before",
        PATIENCE,
        async || {
            let age = "SELECT (extract(epoch FROM now() - paused_at) * 1000)::bigint
                     FROM zyven.endpoints WHERE paused_at IS NOT NULL";
            match number(&stack, age).await {
                1_100.. => Ok(()),
                age => Err(age),
            }
        },
    )
    .await;
    for n in 0..20 {
        stack.publish("a", json!({ "n": n })).await;
    }
    sentinel(&stack).await;
    stack.redis.flush().await;
    sentinel(&stack).await;
    assert_eq!(stack.receiver.requests_at("/hook").len(), 0);
    assert_eq!(
        number(&stack, "SELECT count(*) FROM zyven.outbox").await,
        20
    );

    let (status, resumed) = stack.call("POST", &format!("{path}/resume"), None).await;
    assert_eq!((status, resumed["status"].as_str()), (200, Some("enabled")));
    stack.assert_settled().await;
    assert_eq!(stack.receiver.requests_at("/hook").len(), 20);
    let attempts = "SELECT max(attempts)::bigint FROM zyven.finished_deliveries";
    assert_eq!(
        number(&stack, attempts).await,
        1,
        "waiting spends no attempt"
    );
}
