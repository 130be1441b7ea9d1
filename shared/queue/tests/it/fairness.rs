//! Between tenants, and between what is new and what is repeated.

use std::collections::BTreeSet;

use zyven_queue::{Lane, Learned, Next};

use crate::support::{NOW, Stage, complete, done, lane_of, new_lane, retry, seqs};

#[tokio::test]
async fn a_tenant_with_a_thousand_full_lanes_does_not_delay_anothers_first_event() {
    let stage = Stage::with(|config| config.tenant_in_flight_max = 100_000).await;
    let noisy: Vec<Lane> = (0..1_000).map(|_| lane_of(7)).collect();
    for (index, lane) in (0..).zip(&noisy) {
        stage.push(*lane, index * 100..index * 100 + 100).await;
    }
    assert_eq!(stage.claim(64).await.len(), 64);
    stage.push(lane_of(8), [1_000_000]).await;
    // 99,936 tickets lie in 1,000 lanes that all wait for longer.
    let taken = stage.claim(64).await;
    assert_eq!(taken.len(), 64, "nothing is left unused either");
    assert!(seqs(&taken).contains(&1_000_000));
}

#[tokio::test]
async fn tenants_take_turns() {
    let stage = Stage::with(|config| config.tenant_in_flight_max = 100_000).await;
    for tenant in 1..=3 {
        for lane in 0..4 {
            let first = i64::try_from(tenant).unwrap() * 1_000 + lane * 100;
            stage.push(lane_of(tenant), first..first + 100).await;
        }
    }
    let mut order = Vec::new();
    for _ in 0..6 {
        let taken = stage.claim(8).await;
        let tenant = taken[0].lane.tenant_id;
        assert!(taken.iter().all(|ticket| ticket.lane.tenant_id == tenant));
        order.push(tenant);
    }
    assert_eq!(order[..3], order[3..]);
    assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 3);
}

#[tokio::test]
async fn no_tenant_has_more_than_its_share_in_flight() {
    let stage = Stage::with(|config| {
        config.lane_in_flight_max = 4;
        config.tenant_in_flight_max = 6;
    })
    .await;
    for first in [100, 200, 300] {
        stage.push(lane_of(1), first..first + 10).await;
    }
    let hanging = stage.claim(100).await;
    assert_eq!(hanging.len(), 6, "three lanes could have had twelve");
    assert_eq!(stage.claim(100).await, []);

    stage.push(lane_of(2), 400..410).await;
    assert_eq!(stage.claim(100).await.len(), 4, "somebody else is served");
    let more = stage.exchange(100, &done(&hanging[..2])).await.tickets;
    assert_eq!(more.len(), 2, "two places were given back");
}

#[tokio::test]
async fn a_fifth_of_what_is_handed_out_are_retries_while_fresh_tickets_wait() {
    let stage = Stage::with(|config| {
        config.lane_in_flight_max = 100_000;
        config.tenant_in_flight_max = 100_000;
    })
    .await;
    let (recovered, healthy) = (new_lane(), new_lane());
    // What an outage has left behind is due for longer than what is new.
    let retries: Vec<_> = (0..500).map(|seq| retry(recovered, seq)).collect();
    stage.offer(&retries).await;
    stage.push(healthy, 1_000..1_400).await;
    stage.push(recovered, 2_000..2_100).await;

    for tickets_max in [
        100, 100, 50, 7, 3, 3, 3, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    ] {
        let taken = stage.claim(tickets_max).await;
        assert_eq!(taken.len(), tickets_max);
        let retries = taken.iter().filter(|ticket| ticket.seq < 500).count();
        assert!(
            retries <= (tickets_max / 5).max(1),
            "{retries} of {tickets_max}"
        );
    }
    let mut taken = Vec::new();
    while taken.len() < 150 {
        taken.extend(stage.claim(10).await);
    }
    let retries = taken.iter().filter(|ticket| ticket.seq < 500).count();
    assert!(
        (25..=30).contains(&retries),
        "{retries} of 150: not starved"
    );
}

#[tokio::test]
async fn retries_have_everything_when_nothing_fresh_waits() {
    let stage = Stage::new().await;
    let lane = new_lane();
    let retries: Vec<_> = (1..=50).map(|seq| retry(lane, seq)).collect();
    assert_eq!(stage.offer(&retries).await, 50);
    assert_eq!(stage.claim(40).await.len(), 40);
    assert_eq!(stage.claim(40).await.len(), 10);
}

#[tokio::test]
async fn a_ticket_is_in_one_class_only() {
    let stage = Stage::new().await;
    let lane = new_lane();
    stage.push(lane, [1, 2]).await;
    assert_eq!(stage.offer(&[retry(lane, 1), retry(lane, 3)]).await, 1);
    assert_eq!(stage.push(lane, [3]).await, 0);
    let taken = stage.claim(10).await;
    assert_eq!(taken.len(), 3);
    let again: Vec<_> = (taken.iter())
        .map(|ticket| complete(ticket, Learned::Answered, Next::Retry(NOW)))
        .collect();
    stage.give_back(&again).await;
    let status = stage.queue.lane(lane).await.unwrap();
    assert_eq!((status.fresh, status.retries, status.in_flight), (0, 3, 0));
}
