//! Redis is frozen, gone, or back again.

use std::time::{Duration, Instant};

use zyven_queue::{OPERATION_TIME_MAX, Queue, QueueConfig, QueueError};
use zyven_testkit::wait_until;

use crate::support::{LEASE, NOW, Stage, new_lane, ticket};

/// A loaded test machine may add this to a limit.
const TOLERANCE: Duration = Duration::from_millis(500);

async fn fails_in_time<T: std::fmt::Debug>(work: impl Future<Output = Result<T, QueueError>>) {
    let started = Instant::now();
    let error = work.await.unwrap_err();
    let elapsed = started.elapsed();
    assert!(error.is_transient(), "{error:?}");
    assert!(elapsed <= OPERATION_TIME_MAX + TOLERANCE, "{elapsed:?}");
}

#[tokio::test]
async fn a_frozen_redis_hangs_nobody_and_is_used_again_once_it_thaws() {
    let mut stage = Stage::new().await;
    let endpoint = new_lane();
    stage.push(endpoint, [1]).await;
    stage.redis.freeze();

    let tickets = [ticket(endpoint, 2, NOW)];
    let (queue, epoch) = (&stage.queue, &stage.epoch);
    tokio::join!(
        fails_in_time(queue.push(&tickets, epoch)),
        fails_in_time(queue.claim(1, LEASE, &[])),
        fails_in_time(queue.epoch()),
        fails_in_time(queue.depth()),
    );
    // Now without an open connection: the kernel still accepts new ones for the frozen server.
    fails_in_time(queue.health()).await;

    stage.redis.thaw();
    let _ = wait_until(
        "the queue works again",
        Duration::from_secs(5),
        async || stage.queue.push(&tickets, &stage.epoch).await,
    )
    .await;
}

#[tokio::test]
async fn a_killed_redis_comes_back_without_anybody_restarting_us() {
    let mut stage = Stage::new().await;
    let endpoint = new_lane();
    stage.push(endpoint, [1]).await;
    stage.redis.kill();
    fails_in_time(stage.queue.health()).await;
    fails_in_time(stage.queue.claim(1, LEASE, &[])).await;

    // It has forgotten the scripts too.
    stage.redis.restart().await;
    stage.epoch = wait_until("a new epoch", Duration::from_secs(5), async || {
        stage.queue.begin_epoch().await
    })
    .await;
    assert_eq!(stage.push(endpoint, [1]).await, 1);
    assert_eq!(stage.claim(10).await.len(), 1);
}

#[tokio::test]
async fn one_failure_after_a_restart_is_the_last() {
    let mut stage = Stage::with(|config| config.pool_size = 8).await;
    // Eight open connections.
    let eight: [_; 8] = std::array::from_fn(|_| stage.queue.health());
    for answer in futures_util::future::join_all(eight).await {
        answer.unwrap();
    }
    stage.redis.restart().await;
    let _ = stage.queue.health().await;
    for _ in 0..8 {
        stage.queue.health().await.unwrap();
    }
}

#[tokio::test]
async fn a_redis_that_was_never_there_is_an_error_that_names_its_cause() {
    let config = QueueConfig {
        url: "redis://127.0.0.1:1".to_owned(),
        ..QueueConfig::default()
    };
    let queue = Queue::connect(&config).unwrap();
    let error = queue.health().await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("refused"), "{cause}");
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused_at_once() {
    let wrong: [fn(&mut QueueConfig); 5] = [
        |config| config.url = "postgres://localhost".to_owned(),
        |config| config.shards = 0,
        |config| config.shards = 65,
        |config| config.pool_size = 0,
        |config| config.lane_in_flight_max = 0,
    ];
    for change in wrong {
        let mut config = QueueConfig::default();
        change(&mut config);
        let error = Queue::connect(&config).unwrap_err();
        assert!(matches!(error, QueueError::Configuration(..)));
        assert!(!error.is_transient());
    }
}
