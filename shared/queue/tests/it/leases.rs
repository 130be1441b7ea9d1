//! Leases: what ends, and what a late owner can still do.

use std::time::Duration;

use zyven_queue::{ClaimedTicket, Learned, Next};

use crate::support::{
    LEASE, NOW, Stage, complete, done, keyed, later, new_lane, retry, seqs, ticket,
};

/// Claims with a lease that is over when the next claim looks.
async fn claim_and_die(stage: &Stage, tickets_max: usize) -> Vec<ClaimedTicket> {
    let claimed = stage.queue.claim(tickets_max, Duration::ZERO, &[]).await;
    claimed.unwrap().tickets
}

#[tokio::test]
async fn an_expired_lease_returns_its_ticket_to_the_front() {
    let stage = Stage::new().await;
    let endpoint = new_lane();
    stage.push(endpoint, 1..=6).await;
    assert_eq!(seqs(&claim_and_die(&stage, 2).await), [1, 2]);
    assert_eq!(seqs(&stage.claim(3).await), [1, 2, 3]);
    let (counted, leased) = stage.books().await;
    assert_eq!(counted, leased);
}

#[tokio::test]
async fn a_full_lane_opens_when_its_leases_end() {
    let stage = Stage::with(|config| config.lane_in_flight_max = 2).await;
    let endpoint = new_lane();
    stage.push(endpoint, 1..=5).await;
    assert_eq!(claim_and_die(&stage, 10).await.len(), 2);
    assert_eq!(seqs(&stage.claim(10).await), [1, 2]);
}

#[tokio::test]
async fn the_end_of_a_lease_counts_as_the_next_due_time() {
    let stage = Stage::new().await;
    stage.push(new_lane(), [1]).await;
    let claimed = stage.exchange(10, &[]).await;
    let next = claimed.next_due_in.unwrap();
    assert!(next > LEASE / 2 && next <= LEASE, "{next:?}");
}

#[tokio::test]
async fn a_completion_after_the_lease_frees_no_slot_twice() {
    let stage = Stage::with(|config| config.lane_in_flight_max = 2).await;
    let endpoint = new_lane();
    stage.push(endpoint, 1..=4).await;
    let dead = claim_and_die(&stage, 2).await;
    stage.give_back(&[]).await; // the leases end
    // Their owner was slow, not dead: it completes what is not its own any more, twice.
    stage.give_back(&done(&dead)).await;
    stage.give_back(&done(&dead)).await;
    let (counted, _) = stage.books().await;
    assert!(counted.is_empty(), "{counted:?}");
    assert_eq!(stage.claim(10).await.len(), 2, "the limit still holds");
}

#[tokio::test]
async fn a_late_owner_may_end_the_lease_of_the_next_one_without_harm() {
    let stage = Stage::new().await;
    let endpoint = new_lane();
    stage.push(endpoint, [1]).await;
    let first = claim_and_die(&stage, 1).await;
    let second = stage.claim(1).await;
    assert_eq!(first, second);
    stage
        .give_back(&[later(&first[0], Duration::from_secs(60))])
        .await;
    stage.give_back(&done(&second)).await;
    let (counted, leased) = stage.books().await;
    assert!(counted.is_empty() && leased.is_empty());
    // The ticket that is left over is refused by Postgres when its time has come.
    assert_eq!(stage.queue.depth().await.unwrap().waiting, 1);
}

#[tokio::test]
async fn more_expired_leases_than_one_call_returns_come_back_in_a_few() {
    let stage = Stage::with(|config| config.lane_in_flight_max = 10_000).await;
    let endpoint = new_lane();
    stage.push(endpoint, 1..=450).await;
    let dead = claim_and_die(&stage, 450).await;
    assert_eq!(dead.len(), 450);
    let mut back = Vec::new();
    for _ in 0..10 {
        back.extend(stage.claim(450).await);
    }
    assert_eq!(back.len(), 450);
}

#[tokio::test]
async fn completing_what_nobody_pushed_changes_nothing() {
    let stage = Stage::new().await;
    let endpoint = new_lane();
    let claimed = stage
        .exchange(
            10,
            &[done(&[ClaimedTicket {
                lane: endpoint,
                seq: 7,
                ordering_key: 0,
            }])[0]],
        )
        .await;
    assert_eq!(claimed.tickets, []);
    let (counted, leased) = stage.books().await;
    assert!(counted.is_empty() && leased.is_empty());
}

#[tokio::test]
async fn a_ticket_given_back_twice_at_once_frees_one_slot() {
    let stage = Stage::with(|config| config.lane_in_flight_max = 3).await;
    stage.push(new_lane(), 1..=3).await;
    let held = stage.claim(3).await;
    let twice = [done(&held[..1]), done(&held[..1])].concat();
    stage.give_back(&twice).await;
    let (counted, leased) = stage.books().await;
    assert_eq!(counted, leased);
}

#[tokio::test]
async fn what_the_dead_held_goes_to_the_front_before_its_lease_ends() {
    let stage = Stage::with(|config| config.lane_in_flight_max = 3).await;
    let (lane, other) = (new_lane(), new_lane());
    stage.push(lane, 1..=6).await;
    stage.push(other, [7]).await;
    let mut held = stage.claim(10).await;
    held.sort_unstable_by_key(|ticket| ticket.seq);
    assert_eq!(seqs(&held), [1, 2, 3, 7]);
    let mut known = stage.queue.held().await.unwrap();
    known.sort_unstable_by_key(|ticket| ticket.seq);
    assert_eq!(known, held);
    // The owner of 1, 3 and 7 has died; that of 2 lives.
    let dead = [held[0], held[2], held[3]].map(|ticket| (ticket, Next::First));
    for _ in 0..2 {
        stage.queue.give_back(&dead).await.unwrap();
        let (counted, leased) = stage.books().await;
        assert_eq!(counted, leased);
        assert_eq!(stage.queue.held().await.unwrap(), [held[1]]);
    }
    let mut again = stage.claim(10).await;
    again.sort_unstable_by_key(|ticket| ticket.seq);
    assert_eq!(
        seqs(&again),
        [1, 3, 7],
        "ahead of 4, and no more slots than there are"
    );
}

#[tokio::test]
async fn what_redis_has_forgotten_is_given_back_all_the_same() {
    let stage = Stage::new().await;
    let lane = new_lane();
    stage.push(lane, [1]).await;
    let held = stage.claim(1).await;
    stage
        .command(&["DEL", "{z0}:v2:leased", "{z0}:v2:in_flight"])
        .await;
    stage
        .queue
        .give_back(&[(held[0], Next::First)])
        .await
        .unwrap();
    assert_eq!(stage.claim(10).await, held);
}

#[tokio::test]
async fn the_first_of_a_chain_given_back_is_still_the_first() {
    let stage = Stage::new().await;
    let lane = new_lane();
    stage.offer(&[1, 2].map(|seq| keyed(lane, seq, 5))).await;
    let held = stage.claim(10).await;
    assert_eq!(seqs(&held), [1]);
    stage
        .queue
        .give_back(&[(held[0], Next::First)])
        .await
        .unwrap();
    let again = stage.claim(10).await;
    assert_eq!(again, held);
    assert_eq!(seqs(&stage.exchange(10, &done(&again)).await.tickets), [2]);
}

/// Lanes with tickets in the line of retries, and in the line of fresh ones.
async fn lines(stage: &Stage) -> (usize, usize) {
    let mut redis = stage.redis.connection().await;
    let mut count = async |pattern: &str| {
        let mut ask = redis::cmd("KEYS");
        let keys: Vec<String> = ask.arg(pattern).query_async(&mut redis).await.unwrap();
        keys.len()
    };
    let retries = count("{z0}:v2:retries:*").await;
    (retries, count("{z0}:v2:fresh:*").await)
}

#[tokio::test]
async fn what_comes_back_unattempted_keeps_its_line() {
    let stage = Stage::new().await;
    let (one, other) = (new_lane(), new_lane());
    stage.offer(&[retry(one, 1), ticket(other, 2, NOW)]).await;
    // PostgreSQL could not be asked.
    let claimed = stage.claim(10).await;
    assert_eq!((claimed.len(), lines(&stage).await), (2, (0, 0)));
    let back: Vec<_> = (claimed.iter())
        .map(|ticket| complete(ticket, Learned::NothingSent, Next::Back))
        .collect();
    stage.give_back(&back).await;
    assert_eq!(lines(&stage).await, (1, 1));
    // Their holder died, which shows when their leases end, or sooner.
    assert_eq!(claim_and_die(&stage, 10).await.len(), 2);
    stage.give_back(&[]).await;
    assert_eq!(lines(&stage).await, (1, 1));
    let first: Vec<_> = (stage.claim(10).await.into_iter())
        .map(|ticket| (ticket, Next::First))
        .collect();
    stage.queue.give_back(&first).await.unwrap();
    assert_eq!((first.len(), lines(&stage).await), (2, (1, 1)));
    let again = stage.claim(10).await;
    assert_eq!(again.len(), 2);
    // What is not held any more is not put anywhere.
    stage.give_back(&done(&again)).await;
    stage.give_back(&back).await;
    assert_eq!(lines(&stage).await, (0, 0));
}
