//! How lanes stand, as gauges show it.

use std::time::Duration;

use zyven_queue::{Alike, Lane, LaneSettings, LaneStanding, Learned, Next, Rate};

use crate::support::{Stage, claim_in_time, complete, failed, new_lane, tell};

const LATER: Duration = Duration::from_secs(60);
/// Longer than a test lasts.
const LONG: Duration = Duration::from_secs(3_000);

/// Fails ten in a row.
async fn break_down(stage: &Stage, lane: Lane) {
    stage.push(lane, 1..=12).await;
    let taken = stage.claim(10).await;
    assert_eq!(taken.len(), 10);
    assert_eq!(stage.exchange(0, &failed(&taken)).await.events.len(), 1);
}

async fn standings(stage: &Stage) -> Vec<(&'static str, u64, u64)> {
    let standings = stage.queue.depth().await.unwrap().standings;
    (LaneStanding::ALL.into_iter())
        .map(|standing| (standing.as_str(), standings.of(standing)))
        .filter(|(_, alike)| *alike != Alike::default())
        .map(|(name, Alike { lanes, tickets })| (name, lanes, tickets))
        .collect()
}

#[tokio::test]
async fn each_lane_is_counted_once_by_what_holds_it_back() {
    let stage = Stage::with(|config| {
        config.breaker_open_min = LONG;
        config.breaker_open_max = LONG;
    })
    .await;
    assert_eq!(standings(&stage).await, []);

    // Whatever is due is handed out, so each lane is brought to where it stays before the next one begins.
    break_down(&stage, new_lane()).await;

    let paused = LaneSettings {
        is_paused: true,
        ..LaneSettings::default()
    };
    for tickets in [3, 4] {
        let lane = new_lane();
        tell(&stage, (lane, paused)).await;
        stage.push(lane, 1..=tickets).await;
    }

    stage.push(new_lane(), [1]).await;
    let taken = stage.claim(10).await;
    let throttled = complete(&taken[0], Learned::Throttled(LATER), Next::Retry(LATER));
    let _ = stage.exchange(0, &[throttled]).await;

    let limited = new_lane();
    let rate = Rate {
        per_s: 0.001,
        burst: 1,
    };
    let settings = LaneSettings {
        rate: Some(rate),
        ..LaneSettings::default()
    };
    tell(&stage, (limited, settings)).await;
    stage.push(limited, 1..=5).await;
    assert_eq!(stage.claim(10).await.len(), 1, "one token");

    let full = new_lane();
    let settings = LaneSettings {
        in_flight_max: Some(2),
        ..LaneSettings::default()
    };
    tell(&stage, (full, settings)).await;
    stage.push(full, 1..=2).await;
    assert_eq!(stage.claim(10).await.len(), 2, "none is left in its lane");

    let resumed = new_lane();
    tell(&stage, (resumed, paused)).await;
    tell(&stage, (resumed, LaneSettings::default())).await;
    stage.push_in(LATER, resumed, 1..=6).await;

    stage.push_in(LATER, new_lane(), 1..=7).await;
    assert_eq!(
        standings(&stage).await,
        [
            ("paused", 2, 7),
            ("breaker_open", 1, 12),
            ("throttled", 1, 1),
            ("rate_limited", 1, 4),
            ("ramping", 1, 6),
            ("full", 1, 0),
            ("flowing", 1, 7),
        ]
    );
    let depth = stage.queue.depth().await.unwrap();
    assert_eq!((depth.waiting, depth.leased, depth.lanes), (37, 3, 7));
}

#[tokio::test]
async fn a_breaker_whose_time_is_over_is_half_open_until_its_probe_is_back() {
    let open = Duration::from_millis(50);
    let stage = Stage::with(|config| {
        config.breaker_open_min = open;
        config.breaker_open_max = 4 * open;
    })
    .await;
    break_down(&stage, new_lane()).await;
    let probe = claim_in_time(&stage, 10).await;
    assert_eq!(standings(&stage).await, [("breaker_half_open", 1, 11)]);
    let succeeded = complete(&probe[0], Learned::Succeeded, Next::Done);
    let _ = stage.exchange(0, &[succeeded]).await;
    assert_eq!(standings(&stage).await, [("ramping", 1, 11)]);
}
