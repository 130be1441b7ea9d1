//! What endpoints may be asked to bear reaches their lanes.

use std::time::Duration;

use zyven_testkit::wait_until;

use crate::stage::{NEVER, PATIENCE, Stage};

const LEASE: Duration = Duration::from_secs(60);

/// Waits until a claim brings exactly as many tickets as the lane may have out; takes them for good.
async fn wait_for_claims(stage: &Stage, expected: usize) {
    let mut taken = 0;
    wait_until("the lane gives what it may", PATIENCE, async || {
        let claimed = stage.queue.claim(100, LEASE, &[]).await.unwrap();
        taken += claimed.tickets.len();
        if taken == expected {
            Ok(())
        } else {
            Err(taken)
        }
    })
    .await;
    let more = stage.queue.claim(100, LEASE, &[]).await.unwrap();
    assert_eq!(more.tickets, []);
}

#[tokio::test]
async fn a_limit_of_old_is_told_before_the_first_ticket() {
    let stage = Stage::new().await;
    stage.set("concurrency_max = 3").await;
    stage.accept(10).await;
    let relay = stage.relay_with(|it| it.scrub_interval = NEVER).await;
    stage.wait_for_waiting(10).await;
    wait_for_claims(&stage, 3).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_changed_limit_is_told_within_a_moment_and_taken_back_too() {
    let stage = Stage::new().await;
    let relay = stage.relay_with(|it| it.scrub_interval = NEVER).await;
    relay.wait_until_ready().await;
    stage.set("concurrency_max = 2").await;
    stage.wait_for_setting("2 - - 0").await;
    stage.accept(10).await;
    stage.wait_for_waiting(10).await;
    wait_for_claims(&stage, 2).await;
    stage
        .set("concurrency_max = NULL, rate_per_minute = 90")
        .await;
    stage.wait_for_setting("- 1.5 2 0").await;
    stage.set("rate_per_minute = NULL").await;
    wait_for_claims(&stage, 8).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_pause_outlives_an_emptied_redis() {
    let stage = Stage::new().await;
    let relay = stage.relay_with(|it| it.scrub_interval = NEVER).await;
    relay.wait_until_ready().await;
    let endpoint = stage.endpoint.to_string();
    let pause = "SELECT zyven.pause($1)";
    stage.sql.query_one(pause, &[&endpoint]).await.unwrap();
    stage.wait_for_setting("- - - 1").await;
    stage.accept(10).await;
    stage.wait_for_waiting(10).await;
    wait_for_claims(&stage, 0).await;

    stage.redis.flush().await;
    stage.wait_for_waiting(10).await;
    wait_for_claims(&stage, 0).await;

    let resume = "SELECT zyven.resume($1)";
    stage.sql.query_one(resume, &[&endpoint]).await.unwrap();
    // Two at first, as nobody knows yet whether it is well.
    wait_for_claims(&stage, 2).await;
    assert_eq!(stage.queue.lane(stage.lane()).await.unwrap().ramp, Some(2));
    relay.stop().await;
}

#[tokio::test]
async fn settings_that_redis_lost_alone_are_told_again_with_the_next_scrub() {
    let stage = Stage::new().await;
    let interval = Duration::from_millis(200);
    let relay = stage.relay_with(|it| it.scrub_interval = interval).await;
    relay.wait_until_ready().await;
    stage.set("concurrency_max = 4").await;
    stage.wait_for_setting("4 - - 0").await;
    let mut redis = stage.redis.connection().await;
    redis::cmd("DEL")
        .arg("{z0}:v2:settings")
        .exec_async(&mut redis)
        .await
        .unwrap();
    stage.wait_for_setting("4 - - 0").await;
    relay.stop().await;
}

#[tokio::test]
async fn a_resume_while_nobody_leads_is_told_by_the_next_leader() {
    let stage = Stage::new().await;
    let relay = stage.relay_with(|it| it.scrub_interval = NEVER).await;
    relay.wait_until_ready().await;
    stage.set("paused_at = now()").await;
    stage.wait_for_setting("- - - 1").await;
    relay.stop().await;
    stage.set("paused_at = NULL, updated_at = now()").await;

    let relay = stage.relay_with(|it| it.scrub_interval = NEVER).await;
    stage.accept(2).await;
    stage.wait_for_waiting(2).await;
    wait_for_claims(&stage, 2).await;
    relay.stop().await;
}
