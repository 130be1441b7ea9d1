//! Redis forgets: everything, some of it, or it has no room.

use zyven_queue::{Depth, Lane, Pushed, QueueError};

use crate::support::{NOW, Stage, done, later, new_lane, seqs, ticket};

#[tokio::test]
async fn an_emptied_redis_refuses_pushes_and_serves_nothing_until_a_new_epoch() {
    let mut stage = Stage::new().await;
    let endpoint = new_lane();
    stage.push(endpoint, 1..=5).await;
    stage.redis.flush().await;

    assert_eq!(stage.queue.epoch().await.unwrap(), None);
    let pushed = stage
        .queue
        .push(&[ticket(endpoint, 6, NOW)], &stage.epoch)
        .await;
    assert_eq!(pushed.unwrap(), Pushed::EpochLost);
    let claimed = stage.exchange(10, &[]).await;
    assert_eq!((claimed.tickets.len(), claimed.next_due_in), (0, None));

    stage.epoch = stage.queue.begin_epoch().await.unwrap();
    assert_eq!(
        stage.queue.epoch().await.unwrap(),
        Some(stage.epoch.clone())
    );
    assert_eq!(stage.push(endpoint, 1..=6).await, 6);
    assert_eq!(stage.claim(10).await.len(), 6);
}

#[tokio::test]
async fn a_push_under_an_older_epoch_is_refused() {
    let stage = Stage::new().await;
    let newer = stage.queue.begin_epoch().await.unwrap();
    assert_ne!(stage.epoch, newer);
    let tickets = [ticket(new_lane(), 1, NOW)];
    let pushed = stage.queue.push(&tickets, &stage.epoch).await.unwrap();
    assert_eq!(pushed, Pushed::EpochLost);
    assert_eq!(stage.queue.depth().await.unwrap(), Depth::default());
}

#[tokio::test]
async fn one_emptied_shard_is_enough_to_lose_the_epoch() {
    let stage = Stage::with(|config| config.shards = 3).await;
    stage.command(&["DEL", "{z2}:v2:epoch"]).await;
    assert_eq!(stage.queue.epoch().await.unwrap(), None);
    let tickets: Vec<_> = (0..60).map(|seq| ticket(new_lane(), seq, NOW)).collect();
    let pushed = stage.queue.push(&tickets, &stage.epoch).await.unwrap();
    assert_eq!(pushed, Pushed::EpochLost);
}

#[tokio::test]
async fn completions_after_a_flush_never_make_in_flight_negative() {
    let mut stage = Stage::with(|config| config.lane_in_flight_max = 3).await;
    let endpoint = new_lane();
    stage.push(endpoint, 1..=9).await;
    let held = stage.claim(3).await;
    stage.redis.flush().await;
    stage.give_back(&done(&held)).await;

    stage.epoch = stage.queue.begin_epoch().await.unwrap();
    stage.push(endpoint, 4..=9).await;
    let again = stage.exchange(10, &done(&held)).await.tickets;
    assert_eq!(seqs(&again), [4, 5, 6], "the limit is what it was");
    let (counted, leased) = stage.books().await;
    assert_eq!(counted, leased);
    assert!(counted.values().all(|count| *count == 3), "{counted:?}");
}

#[tokio::test]
async fn a_retry_reported_after_a_flush_is_kept() {
    let stage = Stage::new().await;
    let endpoint = new_lane();
    stage.push(endpoint, [1]).await;
    let held = stage.claim(1).await;
    stage.redis.flush().await;
    stage.queue.begin_epoch().await.unwrap();
    let claimed = stage.exchange(10, &[later(&held[0], NOW)]).await;
    assert_eq!(seqs(&claimed.tickets), [1]);
    let (counted, leased) = stage.books().await;
    assert_eq!(counted, leased);
}

#[tokio::test]
async fn a_lane_that_lost_its_leases_but_not_its_count_opens_again() {
    let stage = Stage::with(|config| config.lane_in_flight_max = 2).await;
    let endpoint = new_lane();
    stage.push(endpoint, 1..=4).await;
    assert_eq!(stage.claim(10).await.len(), 2);
    assert_eq!(stage.queue.mend().await.unwrap(), 0, "nothing to mend");

    stage.command(&["DEL", "{z0}:v2:leased"]).await;
    assert_eq!(stage.claim(10).await, [], "two leases nobody holds");
    assert_eq!(
        stage.queue.mend().await.unwrap(),
        2,
        "a lane and its tenant"
    );
    assert_eq!(seqs(&stage.claim(10).await), [3, 4]);
}

#[tokio::test]
async fn a_lost_count_is_counted_again() {
    let stage = Stage::with(|config| config.lane_in_flight_max = 2).await;
    let endpoint = new_lane();
    stage.push(endpoint, 1..=4).await;
    stage.claim(1).await;
    stage.command(&["DEL", "{z0}:v2:in_flight"]).await;
    assert_eq!(
        stage.queue.mend().await.unwrap(),
        2,
        "a lane and its tenant"
    );
    let (counted, leased) = stage.books().await;
    assert_eq!(counted, leased);
    assert_eq!(stage.claim(10).await.len(), 1);
}

#[tokio::test]
async fn a_lost_ring_comes_back_with_the_next_push() {
    let stage = Stage::new().await;
    let endpoint = new_lane();
    stage.push(endpoint, 1..=4).await;
    stage.command(&["DEL", "{z0}:v2:fresh_tenants"]).await;
    assert_eq!(stage.claim(10).await, []);
    assert_eq!(stage.push(endpoint, 1..=4).await, 0);
    assert_eq!(stage.claim(10).await.len(), 4);
}

#[tokio::test]
async fn a_full_redis_refuses_pushes_and_can_still_be_drained() {
    let stage = Stage::with(|config| config.lane_in_flight_max = 10).await;
    let endpoints: Vec<Lane> = (0..4).map(|_| new_lane()).collect();
    for (index, endpoint) in (0..).zip(&endpoints) {
        stage.push(*endpoint, index * 10..index * 10 + 10).await;
    }
    stage.command(&["CONFIG", "SET", "maxmemory", "1"]).await;

    let refused = stage
        .queue
        .push(&[ticket(endpoints[0], 99, NOW)], &stage.epoch)
        .await;
    let error = refused.unwrap_err();
    assert!(matches!(error, QueueError::Refused(_)), "{error:?}");
    assert!(error.is_transient(), "{error:?}");

    let mut completions = Vec::new();
    let mut taken = 0;
    while taken < 40 {
        let claimed = stage.exchange(15, &completions).await;
        assert!(!claimed.tickets.is_empty());
        taken += claimed.tickets.len();
        completions = done(&claimed.tickets);
    }
    stage.give_back(&completions).await;
    assert_eq!(stage.queue.depth().await.unwrap(), Depth::default());
}
