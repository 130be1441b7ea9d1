//! Redis is more than one server, and one of them dies under load. Nobody restarts anything of Zyven.

use serde_json::json;
use zyven_testkit::{RedisCluster, RedisSentinels, Replicas, wait_until};

use crate::load::{Load, wait_for_all};
use crate::stack::{PATIENCE, Spread, Stack};

const SERVICES: [&str; 4] = ["ingest", "relay", "dispatcher", "egress"];

async fn stack_on(redis_url: &str, shards: &str) -> Stack {
    let settings = [
        ("ZYVEN_REDIS_URL", redis_url),
        ("ZYVEN_QUEUE_SHARDS", shards),
    ];
    Stack::start_with(Spread::ProcessEach, &settings).await
}

/// The same processes as at the start, and all of them ready.
async fn assert_untouched(stack: &mut Stack) {
    for name in SERVICES {
        stack.wait_until_ready(name).await;
    }
}

#[tokio::test]
async fn a_failover_under_load_loses_nothing_and_needs_no_restart() {
    let mut redis = RedisSentinels::start(&[]).await;
    let mut stack = stack_on(&redis.url(), "1").await;
    stack.endpoint("/hook", json!({})).await;
    let mut load = Load::start(&stack);
    load.goes_on(50).await;
    let [old, new] = [0, 1].map(|index| redis.servers[index].address());
    redis.servers[0].kill();
    redis.wait_for_primary(new).await;
    load.goes_on(50).await;
    assert_untouched(&mut stack).await;

    // The old one comes back, is demoted, and then is promoted again.
    redis.servers[0].restart().await;
    redis.servers[0]
        .wait_for_info("replication", "master_link_status:up")
        .await;
    load.goes_on(50).await;
    redis.servers[1].freeze();
    redis.wait_for_primary(old).await;
    redis.servers[1].thaw();
    load.goes_on(50).await;
    let events = load.stop().await;
    wait_for_all(&stack, &events).await;
    assert_untouched(&mut stack).await;
    stack.assert_settled().await;
}

#[tokio::test]
async fn a_cluster_that_moves_slots_and_loses_a_node_loses_nothing() {
    let mut redis = RedisCluster::start(Replicas::One).await;
    let mut stack = stack_on(&redis.url(), "6").await;
    for number in 0..8 {
        stack.endpoint(&format!("/hook/{number}"), json!({})).await;
    }
    let mut load = Load::start(&stack);
    load.goes_on(50).await;

    let slot = redis.slot_of("{z0}").await;
    let from = redis.primary_of(slot);
    let to = (from + 1) % 3;
    redis.begin_move(slot, from, to).await;
    for _ in 0..5 {
        redis.move_keys(slot, from, to, 2).await;
        load.goes_on(10).await;
    }
    while redis.move_keys(slot, from, to, 100).await > 0 {}
    redis.finish_move(slot, to).await;
    load.goes_on(50).await;

    redis.nodes[to].kill();
    load.goes_on(50).await;
    redis.wait_until_well().await;
    redis.nodes[to].restart().await;
    load.goes_on(50).await;
    let events = load.stop().await;
    wait_for_all(&stack, &events).await;
    assert_untouched(&mut stack).await;
    stack.assert_settled().await;
}

#[tokio::test]
async fn a_node_without_a_replica_delays_its_own_endpoints_only() {
    let mut redis = RedisCluster::start(Replicas::None).await;
    let mut stack = stack_on(&redis.url(), "6").await;
    for number in 0..24 {
        stack.endpoint(&format!("/hook/{number}"), json!({})).await;
    }
    let first = stack.publish("a.b", json!({})).await;
    stack.receiver.wait_for_requests(24, PATIENCE).await;
    let node = redis.primary_of(redis.slot_of("{z0}").await);
    redis.nodes[node].kill();
    let second = stack.publish("a.b", json!({})).await;
    // Some endpoints get it while the node is away, and both services say what is wrong.
    stack.receiver.wait_for_requests(24 + 1, PATIENCE).await;
    for (name, condition) in [
        ("relay", "relay_queue_filled"),
        ("dispatcher", "dispatcher_redis"),
    ] {
        wait_until("it says what is missing", PATIENCE, async || {
            let missing = stack.missing(name).await?;
            let reason = missing[condition].as_str().unwrap_or_default().to_owned();
            if reason.contains("a node of Redis") {
                Ok(())
            } else {
                Err(missing.to_string())
            }
        })
        .await;
    }
    assert!(stack.receiver.request_count() < 48, "not those of the node");
    redis.nodes[node].restart().await;
    stack.receiver.wait_for_requests(48, PATIENCE * 2).await;
    assert_untouched(&mut stack).await;
    stack.assert_settled().await;
    assert_eq!(
        stack.receiver.request_count(),
        48,
        "{first} and {second}, once each"
    );
}

#[tokio::test]
async fn a_full_redis_is_told_of_once_and_holds_up_nobody_for_good() {
    let mut stack = Stack::start(Spread::ProcessEach).await;
    stack.endpoint("/hook", json!({})).await;
    stack.publish("a.b", json!({})).await;
    stack.receiver.wait_for_requests(1, PATIENCE).await;
    stack
        .redis
        .command(&["CONFIG", "SET", "maxmemory", "1"])
        .await;
    let event = stack.publish("a.b", json!({})).await;
    wait_until("the relay says so", PATIENCE, async || {
        let missing = stack.missing("relay").await?;
        let reason = missing["relay_hand_over"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if reason.contains("raise its maxmemory") {
            Ok(())
        } else {
            Err(missing.to_string())
        }
    })
    .await;
    let metric = "zyven_relay_queue_failures_total{reason=\"out_of_memory\"}";
    wait_until("it has failed many times", PATIENCE, async || {
        let count = stack.metric("relay", metric).await;
        if count >= 8.0 { Ok(()) } else { Err(count) }
    })
    .await;
    stack
        .redis
        .command(&["CONFIG", "SET", "maxmemory", "0"])
        .await;
    stack.wait_for_state(&event, "DELIVERED").await;
    assert_untouched(&mut stack).await;
    let said = stack.process("relay").stderr();
    let warnings = |task: &str| {
        (said.lines())
            .filter(|line| {
                line.contains("WARN") && line.contains("raise its maxmemory") && line.contains(task)
            })
            .count()
    };
    assert_eq!(warnings("relay hand-over"), 1, "{said}");
    assert!(warnings("") <= 2, "{said}");
    stack.assert_settled().await;
}
