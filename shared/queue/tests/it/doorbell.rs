//! Sleeping and being woken.

use std::time::{Duration, Instant};

use zyven_queue::Wake;
use zyven_testkit::wait_until;

use crate::support::{Stage, new_lane};

/// Far longer than a bell takes.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(30);

async fn is_waiting_for_a_bell(stage: &Stage) {
    let mut redis = stage.redis.connection().await;
    wait_until("somebody listens", Duration::from_secs(5), async || {
        let info: String = redis::cmd("INFO")
            .arg("clients")
            .query_async(&mut redis)
            .await
            .unwrap();
        info.contains("blocked_clients:1")
    })
    .await;
}

#[tokio::test]
async fn a_push_wakes_a_sleeper() {
    let stage = Stage::new().await;
    let mut doorbell = stage.queue.doorbell();
    let started = Instant::now();
    let (wake, ()) = tokio::join!(doorbell.wait(LONG), async {
        is_waiting_for_a_bell(&stage).await;
        stage.push(new_lane(), [1]).await;
    });
    assert_eq!(wake, Wake::Rung);
    assert!(started.elapsed() < LONG / 2);
}

#[tokio::test]
async fn a_bell_rung_before_anybody_slept_is_heard() {
    let stage = Stage::new().await;
    stage.push(new_lane(), [1]).await;
    assert_eq!(stage.queue.doorbell().wait(LONG).await, Wake::Rung);
}

#[tokio::test]
async fn nothing_new_rings_no_bell() {
    let stage = Stage::new().await;
    let endpoint = new_lane();
    stage.push(endpoint, [1]).await;
    let mut doorbell = stage.queue.doorbell();
    assert_eq!(doorbell.wait(LONG).await, Wake::Rung);
    stage.push(endpoint, [1]).await;
    stage.push_in(Duration::from_secs(60), endpoint, [2]).await;
    assert_eq!(doorbell.wait(SHORT).await, Wake::Quiet);
}

#[tokio::test]
async fn bells_do_not_pile_up() {
    let stage = Stage::new().await;
    for seq in 1..=50 {
        stage.push(new_lane(), [seq]).await;
    }
    let mut doorbell = stage.queue.doorbell();
    let mut rings = 0;
    while doorbell.wait(SHORT).await == Wake::Rung {
        rings += 1;
    }
    assert!((1..=4).contains(&rings), "{rings}");
}

#[tokio::test]
async fn whoever_leaves_something_behind_wakes_the_next() {
    let stage = Stage::new().await;
    stage.push(new_lane(), 1..=10).await;
    let mut doorbell = stage.queue.doorbell();
    assert_eq!(doorbell.wait(LONG).await, Wake::Rung);
    stage.claim(4).await;
    assert_eq!(doorbell.wait(LONG).await, Wake::Rung);
    stage.claim(6).await;
    assert_eq!(doorbell.wait(SHORT).await, Wake::Quiet);
}

#[tokio::test]
async fn a_bell_that_rings_for_a_dropped_wait_ends_the_next_one() {
    let stage = Stage::new().await;
    let mut doorbell = stage.queue.doorbell();
    tokio::select! {
        _ = doorbell.wait(LONG) => panic!("nobody rang"),
        () = is_waiting_for_a_bell(&stage) => {}
    }
    stage.push(new_lane(), [1]).await;
    assert_eq!(doorbell.wait(LONG).await, Wake::Rung);
}

#[tokio::test]
async fn a_doorbell_outlives_its_redis() {
    let mut stage = Stage::new().await;
    let mut doorbell = stage.queue.doorbell();
    stage.redis.kill();
    let started = Instant::now();
    assert_eq!(doorbell.wait(SHORT).await, Wake::Quiet);
    assert!(
        started.elapsed() >= SHORT,
        "it keeps its caller from spinning"
    );

    stage.redis.restart().await;
    stage.epoch = wait_until("a new epoch", Duration::from_secs(5), async || {
        stage.queue.begin_epoch().await
    })
    .await;
    stage.push(new_lane(), [1]).await;
    assert_eq!(doorbell.wait(LONG).await, Wake::Rung);
}

#[tokio::test]
async fn a_frozen_redis_does_not_keep_a_sleeper() {
    let mut stage = Stage::new().await;
    let mut doorbell = stage.queue.doorbell();
    assert_eq!(doorbell.wait(SHORT).await, Wake::Quiet);
    stage.redis.freeze();
    let started = Instant::now();
    assert_eq!(doorbell.wait(SHORT).await, Wake::Quiet);
    assert!(started.elapsed() < SHORT * 10);
    stage.redis.thaw();
    stage.push(new_lane(), [1]).await;
    assert_eq!(doorbell.wait(LONG).await, Wake::Rung);
}
