//! What an endpoint's answers teach its lane: breaker, ramp, throttling; and its own limits.

use std::time::Duration;

use zyven_queue::{
    BreakerState, ClaimedTicket, Completion, Lane, LaneEvent, LaneSettings, Learned, Next, Pushed,
    Rate,
};

use crate::support::{
    NOW, Stage, claim_in_time, complete, done, failed, lane_of, new_lane, seqs, tell,
};

/// Breakers that stay open for longer than a test lasts.
const LONG: Duration = Duration::from_secs(3_000);
/// One that a test can wait for.
const SHORT: Duration = Duration::from_millis(50);

async fn stage(open_min: Duration) -> Stage {
    Stage::with(|config| {
        config.breaker_open_min = open_min;
        config.breaker_open_max = 4 * open_min;
    })
    .await
}

async fn breaker(stage: &Stage, lane: Lane) -> BreakerState {
    stage.queue.lane(lane).await.unwrap().breaker
}

#[tokio::test]
async fn ten_failures_in_a_row_open_the_breaker_and_nine_do_not() {
    let stage = stage(LONG).await;
    let lane = new_lane();
    stage.push(lane, 1..=30).await;
    let taken = stage.claim(10).await;
    let nine = stage.exchange(0, &failed(&taken[..9])).await;
    assert_eq!(nine.events, []);
    assert_eq!(breaker(&stage, lane).await, BreakerState::Closed);

    let ten = stage.exchange(10, &failed(&taken[9..])).await;
    assert_eq!(ten.events, [LaneEvent::Opened(lane, LONG)]);
    assert_eq!(ten.tickets, [], "what waits is parked");
    assert!(ten.next_due_in.unwrap() > LONG / 2);
    assert!(matches!(breaker(&stage, lane).await, BreakerState::Open(_)));
    let status = stage.queue.lane(lane).await.unwrap();
    assert_eq!((status.fresh, status.retries), (20, 10), "nothing is lost");

    let other = new_lane();
    stage.push(other, [99]).await;
    assert_eq!(
        seqs(&stage.claim(10).await),
        [99],
        "others are not concerned"
    );
}

#[tokio::test]
async fn seven_failures_in_ten_open_the_breaker_and_six_do_not() {
    for (failures, opens) in [(6, false), (7, true)] {
        let stage = stage(LONG).await;
        let lane = new_lane();
        stage.push(lane, 1..=10).await;
        let taken = stage.claim(10).await;
        // A failure first: what happened before the first one does not count.
        stage.give_back(&failed(&taken[..1])).await;
        stage.give_back(&done(&taken[failures..])).await;
        let claimed = stage.exchange(0, &failed(&taken[1..failures])).await;
        assert_eq!(!claimed.events.is_empty(), opens, "{failures}");
    }
}

#[tokio::test]
async fn one_failure_in_ten_does_not_open_the_breaker_however_many_come_back_together() {
    let stage = stage(LONG).await;
    let lane = new_lane();
    stage.push(lane, 1..=400).await;
    for _ in 0..2 {
        let taken = stage.claim(200).await;
        assert_eq!(taken.len(), 200);
        let mut completions = failed(&taken[..20]);
        completions.extend(done(&taken[20..]));
        assert_eq!(stage.exchange(0, &completions).await.events, []);
    }
    assert_eq!(breaker(&stage, lane).await, BreakerState::Closed);
}

#[tokio::test]
async fn a_probe_decides_and_the_lane_starts_gently() {
    let stage = stage(SHORT).await;
    let lane = new_lane();
    stage.push(lane, 1..=40).await;
    let taken = stage.claim(11).await;
    stage.give_back(&failed(&taken[..10])).await;

    // One that was under way when the breaker opened decides nothing.
    stage.give_back(&done(&taken[10..])).await;
    let probe = claim_in_time(&stage, 20).await;
    assert_eq!(probe.len(), 1);
    assert_eq!(breaker(&stage, lane).await, BreakerState::HalfOpen);
    assert_eq!(stage.claim(20).await, [], "one probe at a time");

    let reopened = stage.exchange(20, &failed(&probe)).await;
    assert_eq!(reopened.events, [LaneEvent::ProbeFailed(lane, 2 * SHORT)]);
    let probe = claim_in_time(&stage, 20).await;
    assert_eq!(probe.len(), 1);

    let closed = stage.exchange(20, &done(&probe)).await;
    assert_eq!(closed.events, [LaneEvent::Closed(lane)]);
    assert_eq!(closed.tickets.len(), 2);
    let grown = stage.exchange(20, &done(&closed.tickets)).await.tickets;
    assert_eq!(grown.len(), 4, "each success makes room for one more");
    let grown = stage.exchange(20, &done(&grown)).await.tickets;
    assert_eq!(grown.len(), 8);
    stage.give_back(&done(&grown)).await;
    assert_eq!(stage.queue.lane(lane).await.unwrap().ramp, Some(16));
}

#[tokio::test]
async fn a_breaker_stays_open_no_longer_than_the_most() {
    let stage = stage(SHORT).await;
    let lane = new_lane();
    stage.push(lane, 1..=20).await;
    stage.give_back(&failed(&stage.claim(10).await)).await;
    let mut waits = Vec::new();
    for _ in 0..4 {
        let probe = claim_in_time(&stage, 20).await;
        match stage.exchange(0, &failed(&probe)).await.events[..] {
            [LaneEvent::ProbeFailed(_, wait)] => waits.push(wait),
            ref other => panic!("{other:?}"),
        }
    }
    assert_eq!(waits, [2 * SHORT, 4 * SHORT, 4 * SHORT, 4 * SHORT]);
}

#[tokio::test]
async fn a_probe_that_taught_nothing_makes_room_for_another() {
    let stage = stage(SHORT).await;
    let lane = new_lane();
    stage.push(lane, 1..=20).await;
    stage.give_back(&failed(&stage.claim(10).await)).await;
    let probe = claim_in_time(&stage, 20).await;
    let refused = [complete(&probe[0], Learned::NothingSent, Next::Done)];
    let next = stage.exchange(20, &refused).await;
    assert_eq!(next.tickets.len(), 1, "at once");
    assert_eq!(next.events, []);

    // Nor does one that nobody reports on keep the lane closed.
    stage
        .give_back(&[complete(&next.tickets[0], Learned::NothingSent, Next::Done)])
        .await;
    let lost = stage.queue.claim(20, NOW, &[]).await.unwrap().tickets;
    assert_eq!(lost.len(), 1);
    assert_eq!(claim_in_time(&stage, 20).await.len(), 1);
}

#[tokio::test]
async fn an_endpoint_that_refuses_one_delivery_is_there() {
    let stage = stage(SHORT).await;
    let lane = new_lane();
    stage.push(lane, 1..=40).await;
    stage.give_back(&failed(&stage.claim(10).await)).await;
    let mut taken = claim_in_time(&stage, 20).await;
    let mut events = Vec::new();
    for expected in [2, 4, 8] {
        let refused: Vec<_> = (taken.iter())
            .map(|ticket| complete(ticket, Learned::Answered, Next::Done))
            .collect();
        let next = stage.exchange(20, &refused).await;
        events.extend(next.events);
        taken = next.tickets;
        assert_eq!(taken.len(), expected);
    }
    assert_eq!(events, [LaneEvent::Closed(lane)]);
}

#[tokio::test]
async fn failures_of_what_was_sent_before_do_not_open_the_breaker_again() {
    let stage = stage(SHORT).await;
    let lane = new_lane();
    stage.push(lane, 1..=40).await;
    let taken = stage.claim(20).await;
    stage.give_back(&failed(&taken[..10])).await;
    let probe = claim_in_time(&stage, 20).await;
    stage.give_back(&done(&probe)).await;
    let late = stage.exchange(0, &failed(&taken[10..])).await;
    assert_eq!(late.events, []);
    assert_eq!(breaker(&stage, lane).await, BreakerState::Closed);
}

#[tokio::test]
async fn a_clock_that_was_set_back_keeps_no_lane_closed() {
    let stage = stage(SHORT).await;
    let lane = new_lane();
    stage.push(lane, [1]).await;
    let (tenant, endpoint) = (lane.tenant_id.uuid(), lane.endpoint_id.uuid());
    let key = format!(
        "{{z0}}:v2:state:{}{}",
        tenant.as_simple(),
        endpoint.as_simple()
    );
    // Open until the year 2096, and the lease of its probe ends then, too.
    let state = "0 0 0 0 4000000000000 1 7 4000000000000 0 0 0 0 0";
    stage.command(&["SET", &key, state]).await;
    let next = stage.exchange(10, &[]).await.next_due_in;
    assert!(next.is_none_or(|next| next <= 4 * SHORT), "{next:?}");
    let again = stage.push(lane, [1]).await;
    assert_eq!(again, 0);
    let status = stage.queue.lane(lane).await.unwrap();
    assert_eq!(status.fresh, 1);
}

#[tokio::test]
async fn what_many_completions_lead_to_is_told() {
    let stage = Stage::with(|config| config.lane_in_flight_max = 1_000).await;
    let lane = new_lane();
    stage.push(lane, 1..=700).await;
    let mut taken = stage.claim(500).await;
    taken.extend(stage.claim(200).await);
    let events = stage.exchange(0, &failed(&taken)).await.events;
    assert!(matches!(events[..], [LaneEvent::Opened(..)]), "{events:?}");
}

#[tokio::test]
async fn a_429_makes_the_lane_wait_and_start_gently() {
    let stage = Stage::new().await;
    let (lane, other) = (new_lane(), new_lane());
    stage.push(lane, 1..=30).await;
    let taken = stage.claim(10).await;
    let throttled = complete(&taken[0], Learned::Throttled(SHORT), Next::Retry(NOW));
    stage.push(other, [99]).await;
    let claimed = stage.exchange(30, &[throttled]).await;
    assert_eq!(seqs(&claimed.tickets), [99]);
    assert_eq!(claimed.events, [], "that is no failure");
    let wait = stage.queue.lane(lane).await.unwrap().throttled_for.unwrap();
    assert!(wait <= SHORT);

    stage.give_back(&done(&taken[1..])).await;
    let next = claim_in_time(&stage, 100).await;
    assert!(
        (2..=11).contains(&next.len()),
        "not all at once: {}",
        next.len()
    );
}

#[tokio::test]
async fn a_lane_keeps_to_its_own_limit() {
    let stage = Stage::new().await;
    let lane = new_lane();
    let limit = |in_flight_max| LaneSettings {
        in_flight_max,
        ..LaneSettings::default()
    };
    tell(&stage, (lane, limit(Some(3)))).await;
    stage.push(lane, 1..=20).await;
    let taken = stage.claim(20).await;
    assert_eq!(taken.len(), 3);
    assert_eq!(stage.claim(20).await, []);
    // A larger limit takes effect although nothing else happens.
    tell(&stage, (lane, limit(Some(5)))).await;
    assert_eq!(stage.claim(20).await.len(), 2);
    tell(&stage, (lane, limit(None))).await;
    assert_eq!(stage.claim(20).await.len(), 15);
}

#[tokio::test]
async fn a_rate_is_kept_and_what_was_not_sent_is_not_charged() {
    let stage = Stage::new().await;
    let lane = new_lane();
    let settings = LaneSettings {
        rate: Some(Rate {
            per_s: 20.0,
            burst: 4,
        }),
        ..LaneSettings::default()
    };
    tell(&stage, (lane, settings)).await;
    stage.push(lane, 1..=100).await;
    let started = std::time::Instant::now();
    let taken = stage.claim(100).await;
    assert_eq!(taken.len(), 4, "the bucket's contents");
    let next = stage.exchange(100, &[]).await;
    let (count, waited) = (next.tickets.len(), started.elapsed());
    assert!(
        count <= 1 + waited.as_millis() as usize / 50,
        "{count} after {waited:?}"
    );

    // Ten more take half a second.
    let mut count = 0;
    while count < 10 {
        count += claim_in_time(&stage, 100).await.len();
    }
    assert!(started.elapsed() > Duration::from_millis(400));

    let refunded = later(&taken);
    let claimed = stage.exchange(100, &refunded).await;
    assert!(claimed.tickets.len() >= 4, "four tokens came back");
}

fn later(tickets: &[ClaimedTicket]) -> Vec<Completion> {
    (tickets.iter())
        .map(|ticket| crate::support::later(ticket, NOW))
        .collect()
}

#[tokio::test]
async fn a_paused_lane_keeps_its_tickets_and_resumes_gently() {
    let stage = Stage::new().await;
    let lane = lane_of(3);
    let paused = LaneSettings {
        is_paused: true,
        ..LaneSettings::default()
    };
    stage.push(lane, 1..=10).await;
    tell(&stage, (lane, paused)).await;
    stage.push(lane, 11..=20).await;
    assert_eq!(stage.claim(100).await, []);
    assert_eq!(stage.queue.depth().await.unwrap().waiting, 20);
    tell(&stage, (lane, LaneSettings::default())).await;
    let taken = stage.claim(100).await;
    assert_eq!(taken.len(), 2);
    assert_eq!(stage.exchange(100, &done(&taken)).await.tickets.len(), 4);
}

#[tokio::test]
async fn settings_told_under_an_older_epoch_are_refused() {
    let stage = Stage::new().await;
    let _newer = stage.queue.begin_epoch().await.unwrap();
    let lane = (new_lane(), LaneSettings::default());
    let told = stage.queue.configure(&[lane], &stage.epoch).await;
    assert_eq!(told.unwrap(), Pushed::EpochLost);
}
