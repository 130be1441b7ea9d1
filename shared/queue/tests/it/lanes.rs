//! Order, fairness and limits.

use std::collections::BTreeSet;
use std::time::Duration;

use zyven_queue::{Depth, Lane, LaneSettings, NEAR_WINDOW, Pushed, Rate, SCRIPT_TICKETS_MAX};

use crate::support::{LEASE, NOW, Stage, done, later, new_lane, seqs, ticket};

#[tokio::test]
async fn pushing_twice_adds_nothing() {
    let stage = Stage::new().await;
    let endpoint = new_lane();
    assert_eq!(stage.push(endpoint, 1..=10).await, 10);
    assert_eq!(stage.push(endpoint, 1..=10).await, 0);
    assert_eq!(stage.push(endpoint, 8..=12).await, 2);
    assert_eq!(stage.queue.depth().await.unwrap().waiting, 12);
}

#[tokio::test]
async fn a_long_push_is_split_and_complete() {
    let stage = Stage::new().await;
    let endpoint = new_lane();
    let count = 2 * SCRIPT_TICKETS_MAX + 1;
    let last = i64::try_from(count).unwrap();
    assert_eq!(stage.push(endpoint, 1..=last).await, count);
    let depth = stage.queue.depth().await.unwrap();
    assert_eq!(
        (depth.waiting, depth.leased, depth.lanes),
        (count as u64, 0, 1)
    );
}

#[tokio::test]
async fn tickets_leave_a_lane_in_sequence_order() {
    let stage = Stage::with(|config| config.lane_in_flight_max = 1_000).await;
    let endpoint = new_lane();
    stage.push(endpoint, 1_000..1_250).await;
    stage.push(endpoint, 1_250..1_500).await;
    let mut taken = Vec::new();
    for _ in 0..5 {
        taken.extend(seqs(&stage.claim(100).await));
    }
    assert_eq!(taken, (1_000..1_500).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_ticket_that_is_held_is_not_pushed_again() {
    let stage = Stage::new().await;
    let endpoint = new_lane();
    stage.push(endpoint, 1..=4).await;
    assert_eq!(seqs(&stage.claim(2).await), [1, 2]);
    assert_eq!(stage.push(endpoint, 1..=5).await, 1);
    assert_eq!(seqs(&stage.claim(10).await), [3, 4, 5]);
}

#[tokio::test]
async fn the_earlier_due_time_wins_whichever_push_comes_last() {
    let stage = Stage::new().await;
    let endpoint = new_lane();
    let soon = Duration::from_secs(60);
    stage.push_in(soon, endpoint, [1, 2]).await;
    assert_eq!(stage.claim(10).await, []);
    assert_eq!(stage.push(endpoint, [1]).await, 1, "moved to now");
    assert_eq!(stage.push_in(soon * 2, endpoint, [2]).await, 0);
    let claimed = stage.exchange(10, &[]).await;
    assert_eq!(seqs(&claimed.tickets), [1]);
    let next = claimed.next_due_in.unwrap();
    assert!(next <= soon, "{next:?}");
}

#[tokio::test]
async fn no_lane_has_more_than_its_limit_in_flight() {
    let stage = Stage::with(|config| config.lane_in_flight_max = 3).await;
    let (one, other) = (new_lane(), new_lane());
    stage.push(one, 101..=110).await;
    stage.push(other, 111..=112).await;

    let first = stage.claim(100).await;
    assert_eq!(
        seqs(&first).into_iter().collect::<BTreeSet<_>>(),
        BTreeSet::from([101, 102, 103, 111, 112])
    );
    assert_eq!(stage.claim(100).await, [], "the lane is full");
    assert_eq!(stage.push(one, 101..=120).await, 10);
    assert_eq!(
        stage.claim(100).await,
        [],
        "a push does not open a full lane"
    );

    let claimed = stage.exchange(100, &done(&first[..2])).await;
    assert_eq!(claimed.tickets.len(), 2, "two slots were given back");
}

#[tokio::test]
async fn a_lane_with_one_ticket_does_not_wait_for_one_with_ten_thousand() {
    let stage = Stage::with(|config| config.lane_in_flight_max = 100_000).await;
    let (noisy, quiet) = (new_lane(), new_lane());
    stage.push(noisy, 1..=10_000).await;
    assert_eq!(stage.claim(64).await.len(), 64);
    stage.push(quiet, [20_000]).await;

    // The noisy lane may be first in line, but gets a share only.
    let taken = stage.claim(64).await;
    assert_eq!(taken.len(), 64, "nothing is left unused either");
    assert!(seqs(&taken).contains(&20_000));
}

#[tokio::test]
async fn lanes_take_turns() {
    let stage = Stage::with(|config| config.lane_in_flight_max = 100_000).await;
    let lanes: Vec<Lane> = (0..5).map(|_| new_lane()).collect();
    for (index, lane) in (0..).zip(&lanes) {
        stage
            .push(*lane, (1 + index * 100)..=(100 + index * 100))
            .await;
    }
    // Eight tickets are one visit. Two rounds serve everybody twice, in the same order.
    let mut order = Vec::new();
    for _ in 0..10 {
        let taken = stage.claim(8).await;
        let lane = taken[0].lane;
        assert!(taken.iter().all(|ticket| ticket.lane == lane));
        order.push(lane);
    }
    assert_eq!(order[..5], order[5..]);
    assert_eq!(
        order.iter().collect::<BTreeSet<_>>().len(),
        lanes.len(),
        "everybody had a turn"
    );
}

#[tokio::test]
async fn a_lane_that_has_long_been_overdue_does_not_jump_the_queue() {
    let stage = Stage::with(|config| config.lane_in_flight_max = 8).await;
    let (full, fresh) = (new_lane(), new_lane());
    stage.push(full, 1..=100).await;
    let held = stage.claim(8).await;
    stage.push(fresh, 101..=200).await;
    // The full lane comes back to the ring behind the one that waits already.
    let taken = stage.exchange(8, &done(&held)).await.tickets;
    assert!(taken.iter().all(|ticket| ticket.lane == fresh));
}

#[tokio::test]
async fn the_next_due_time_is_told() {
    let stage = Stage::new().await;
    let endpoint = new_lane();
    assert_eq!(stage.exchange(10, &[]).await.next_due_in, None);

    stage.push_in(Duration::from_secs(30), endpoint, [1]).await;
    let next = stage.exchange(10, &[]).await.next_due_in.unwrap();
    assert!(next > Duration::from_secs(25) && next <= Duration::from_secs(30));

    stage.push(endpoint, [2, 3]).await;
    let claimed = stage.exchange(1, &[]).await;
    assert_eq!(seqs(&claimed.tickets), [2]);
    assert_eq!(claimed.next_due_in, Some(Duration::ZERO), "there is more");
}

#[tokio::test]
async fn a_ticket_in_the_near_future_is_served_when_its_time_has_come() {
    let stage = Stage::new().await;
    let endpoint = new_lane();
    stage
        .push_in(Duration::from_millis(40), endpoint, [1])
        .await;
    let mut waited = Duration::ZERO;
    let taken = loop {
        let claimed = stage.exchange(10, &[]).await;
        if !claimed.tickets.is_empty() {
            break claimed.tickets;
        }
        let next = claimed.next_due_in.unwrap();
        assert!(waited < Duration::from_secs(1), "asked for {next:?} more");
        waited += next;
        tokio::time::sleep(next).await; // what it was told to wait, as a dispatcher would
    };
    assert_eq!(seqs(&taken), [1]);
    assert!(waited > Duration::from_millis(20), "{waited:?}");
}

#[tokio::test]
async fn a_completion_puts_a_ticket_back_for_later() {
    let stage = Stage::new().await;
    let endpoint = new_lane();
    stage.push(endpoint, [1, 2, 3]).await;
    let held = stage.claim(3).await;
    let back = [
        later(&held[0], NOW),
        later(&held[1], Duration::from_secs(60)),
        later(&held[2], NEAR_WINDOW + Duration::from_millis(1)),
    ];
    let claimed = stage.exchange(10, &back).await;
    assert_eq!(seqs(&claimed.tickets), [1]);
    assert!(claimed.next_due_in.unwrap() <= Duration::from_secs(60));
    let depth = stage.queue.depth().await.unwrap();
    assert_eq!(
        (depth.waiting, depth.leased),
        (1, 1),
        "the far one is Postgres' alone"
    );
}

#[tokio::test]
async fn what_is_due_beyond_the_near_window_stays_out() {
    let stage = Stage::new().await;
    let endpoint = new_lane();
    assert_eq!(stage.push_in(NEAR_WINDOW, endpoint, [1]).await, 1);
    let beyond = NEAR_WINDOW + Duration::from_millis(1);
    assert_eq!(stage.push_in(beyond, endpoint, [2]).await, 0);
}

#[tokio::test]
async fn several_shards_give_all_they_have() {
    let stage = Stage::with(|config| config.shards = 4).await;
    let lanes: Vec<Lane> = (0..40).map(|_| new_lane()).collect();
    let tickets: Vec<_> = (1..)
        .zip(&lanes)
        .map(|(seq, lane)| ticket(*lane, seq, NOW))
        .collect();
    let _ = stage.queue.push(&tickets, &stage.epoch).await.unwrap();
    let mut taken = BTreeSet::new();
    let mut completions = Vec::new();
    while taken.len() < 40 {
        let claimed = stage.exchange(7, &completions).await;
        assert!(
            claimed.tickets.len() <= 7 && !claimed.tickets.is_empty(),
            "{} of 40 taken, then {}",
            taken.len(),
            claimed.tickets.len()
        );
        completions = done(&claimed.tickets);
        taken.extend(seqs(&claimed.tickets));
    }
    stage.give_back(&completions).await;
    assert_eq!(stage.queue.depth().await.unwrap(), Depth::default());
}

#[tokio::test]
async fn one_shard_alone_may_fill_the_whole_claim() {
    let stage = Stage::with(|config| config.shards = 4).await;
    stage.push(new_lane(), 1..=100).await;
    assert_eq!(stage.claim(60).await.len(), 60);
}

#[tokio::test]
async fn many_completions_at_once_are_split() {
    let stage = Stage::with(|config| config.lane_in_flight_max = 10_000).await;
    let endpoint = new_lane();
    stage.push(endpoint, 1..=1_200).await;
    let mut held = Vec::new();
    while held.len() < 1_200 {
        held.extend(stage.claim(10_000).await);
    }
    stage.give_back(&done(&held)).await;
    assert_eq!(stage.queue.depth().await.unwrap(), Depth::default());
    let claimed = stage.queue.claim(5, LEASE, &[]).await.unwrap();
    assert_eq!(claimed.next_due_in, None);
}

/// What a claim hands out moves its idea of "now" on by a microsecond a turn. A lane whose time comes within
/// that is not due for it; taken for due it would be looked at without end, and Redis would serve nobody.
#[tokio::test]
async fn a_lane_that_is_due_in_the_next_microsecond_does_not_stop_redis() {
    let stage = Stage::new().await;
    let quick = LaneSettings {
        rate: Some(Rate {
            per_s: 400_000.0,
            burst: 1,
        }),
        ..LaneSettings::default()
    };
    let lanes: Vec<Lane> = (0..8).map(|_| new_lane()).collect();
    let limits: Vec<_> = lanes[4..].iter().map(|lane| (*lane, quick)).collect();
    let told = stage.queue.configure(&limits, &stage.epoch).await.unwrap();
    assert_eq!(told, Pushed::Accepted { added: 4 });
    // The others are served first, and more than once.
    for (index, lane) in (0..).zip(&lanes) {
        stage.push(*lane, index * 100..index * 100 + 100).await;
    }
    let claimed = stage.exchange(500, &[]).await;
    let of_quick = (claimed.tickets.iter()).filter(|ticket| lanes[4..].contains(&ticket.lane));
    assert_eq!(of_quick.count(), 4, "a token each");
    assert_eq!(claimed.tickets.len(), 404);
}
