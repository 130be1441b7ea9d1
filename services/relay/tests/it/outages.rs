//! PostgreSQL or Redis is away for a while. Nobody restarts the relay.

use zyven_testkit::Postgres;

use crate::stage::{NEVER, Stage};

#[tokio::test]
async fn a_redis_that_was_killed_and_comes_back_empty_is_filled_again() {
    let mut stage = Stage::new().await;
    let relay = stage.relay_with(|it| it.scrub_interval = NEVER).await;
    let mut seqs = stage.accept(20).await;
    stage.wait_for_waiting(20).await;
    relay.wait_until_ready().await;

    stage.redis.kill();
    seqs.extend(stage.accept(20).await);
    relay.wait_until_not_ready().await;
    stage.redis.restart().await;
    stage.wait_for_tickets(&seqs).await;
    relay.wait_until_ready().await;
    relay.stop().await;
}

#[tokio::test]
async fn a_frozen_redis_only_delays() {
    let mut stage = Stage::new().await;
    let relay = stage.relay_with(|it| it.scrub_interval = NEVER).await;
    relay.wait_until_ready().await;
    stage.redis.freeze();
    let seqs = stage.accept(20).await;
    relay.wait_until_not_ready().await;
    stage.redis.thaw();
    stage.wait_for_tickets(&seqs).await;
    relay.wait_until_ready().await;
    relay.stop().await;
}

#[tokio::test]
async fn a_postgres_that_crashes_and_recovers_is_read_again() {
    let mut server = Postgres::private().await;
    let stage = Stage::on(server.database().await).await;
    let relay = stage.relay_with(|it| it.scrub_interval = NEVER).await;
    let mut seqs = stage.accept(20).await;
    stage.wait_for_waiting(20).await;
    relay.wait_until_ready().await;

    server.kill().await;
    relay.wait_until_not_ready().await;
    server.restart().await;
    relay.wait_until_ready().await;
    let stage = Stage {
        sql: stage.database.client().await,
        ..stage
    };
    seqs.extend(stage.accept(20).await);
    stage.wait_for_tickets(&seqs).await;
    relay.stop().await;
}
