//! Where single tickets are, and what their lanes may do, as it is told for explanations.

use std::time::Duration;

use zyven_queue::{
    BreakerState, ClaimedTicket, Lane, LaneSettings, Learned, Next, Pushed, Rate, TicketPlace,
    Whereabouts,
};

use crate::support::{LEASE, NOW, Stage, complete, done, keyed, new_lane, ticket};

const KEY: i64 = 0x7abc;

async fn found(stage: &Stage, lane: Lane, seq: i64, ordering_key: i64) -> Whereabouts {
    let ticket = ClaimedTicket {
        lane,
        seq,
        ordering_key,
    };
    let found = stage.queue.whereabouts(&[ticket]).await.unwrap();
    assert_eq!(found.len(), 1);
    found[0].expect("Redis is there")
}

async fn place(stage: &Stage, lane: Lane, seq: i64) -> TicketPlace {
    found(stage, lane, seq, 0).await.place
}

#[tokio::test]
async fn a_ticket_is_found_wherever_it_is() {
    let stage = Stage::new().await;
    let lane = new_lane();
    stage.push(lane, [10, 20, 30]).await;
    assert_eq!(
        place(&stage, lane, 20).await,
        TicketPlace::Fresh { position: 2 }
    );
    assert_eq!(place(&stage, lane, 40).await, TicketPlace::Nowhere);
    let taken = stage.claim(2).await;
    assert_eq!(place(&stage, lane, 20).await, TicketPlace::Leased);
    assert_eq!(
        place(&stage, lane, 30).await,
        TicketPlace::Fresh { position: 1 }
    );
    let retried = complete(&taken[1], Learned::Answered, Next::Retry(LEASE));
    stage.give_back(&[retried]).await;
    assert_eq!(
        place(&stage, lane, 20).await,
        TicketPlace::Retries { position: 1 }
    );
    stage.give_back(&done(&taken[..1])).await;
    let found = found(&stage, lane, 10, 0).await;
    assert_eq!(found.place, TicketPlace::Nowhere);
    assert_eq!(
        (found.lane.fresh, found.lane.retries, found.lane.in_flight),
        (1, 1, 0)
    );
    assert_eq!(found.lane.breaker, BreakerState::Closed);
    assert_eq!(stage.queue.whereabouts(&[]).await.unwrap(), []);
}

#[tokio::test]
async fn a_ticket_behind_others_of_its_key_is_told_how_many() {
    let stage = Stage::new().await;
    let lane = new_lane();
    stage
        .offer(&[1, 2, 3].map(|seq| keyed(lane, seq, KEY)))
        .await;
    let of = async |seq| found(&stage, lane, seq, KEY).await.place;
    assert_eq!(of(1).await, TicketPlace::Fresh { position: 1 });
    assert_eq!(of(2).await, TicketPlace::Chained { behind: 1 });
    assert_eq!(of(3).await, TicketPlace::Chained { behind: 2 });
    stage.claim(1).await;
    assert_eq!(of(1).await, TicketPlace::Leased);
    assert_eq!(of(2).await, TicketPlace::Chained { behind: 1 });
}

#[tokio::test]
async fn limits_are_told_as_claims_have_them() {
    let stage = Stage::with(|config| {
        config.lane_in_flight_max = 3;
        config.tenant_in_flight_max = 4;
    })
    .await;
    let (lane, limited) = (new_lane(), new_lane());
    let rate = Rate {
        per_s: 0.1,
        burst: 1,
    };
    let settings = LaneSettings {
        in_flight_max: Some(2),
        rate: Some(rate),
        ..LaneSettings::default()
    };
    let told = stage
        .queue
        .configure(&[(limited, settings)], &stage.epoch)
        .await;
    assert_eq!(told.unwrap(), Pushed::Accepted { added: 1 });
    stage
        .offer(&[1, 2].map(|seq| ticket(limited, seq, NOW)))
        .await;
    let before = found(&stage, limited, 1, 0).await;
    assert_eq!((before.in_flight_max, before.next_token_in), (2, None));
    assert_eq!(stage.claim(5).await.len(), 1, "one token");
    let after = found(&stage, limited, 2, 0).await;
    let wait = after.next_token_in.expect("no token");
    assert!(
        wait <= Duration::from_secs(10) && wait > Duration::from_secs(1),
        "{wait:?}"
    );
    assert!(!after.lane_is_full() && !after.tenant_is_full);

    stage.push(lane, 11..=15).await;
    assert_eq!(stage.claim(5).await.len(), 3);
    let full = found(&stage, lane, 14, 0).await;
    assert_eq!((full.in_flight_max, full.next_token_in), (3, None));
    assert!(full.lane_is_full() && full.tenant_is_full);
    // Another tenant's is not concerned.
    let other = crate::support::lane_of(2);
    stage.push(other, [21]).await;
    let other = found(&stage, other, 21, 0).await;
    assert!(!other.lane_is_full() && !other.tenant_is_full);
}
