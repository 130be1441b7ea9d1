//! C5: a relay dies before, amid or after a push.

use serde_json::json;
use zyven_chaos::Service;

use zyven_testkit::wait_until;

use crate::crash_scene::{EVENTS, PATIENCE, Scene, events, shape};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c5_rows_that_a_relay_read_and_did_not_push_are_pushed_by_the_next() {
    const POINT: &str = "relay.before_push:20";
    let mut scene = Scene::open().await;
    scene.crash_at(Service::Relay, POINT).await;
    let flow = scene.begin_publishing();
    scene.wait_until_crashed(Service::Relay, POINT).await;
    scene.fleet.restart(Service::Relay, 0);
    flow.end().await;
    let account = scene.balance().await;
    assert_eq!(account.duplicates_count(), 0, "{account}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c5_tickets_of_a_relay_that_died_before_its_watermark_are_pushed_twice_and_delivered_once()
{
    const POINT: &str = "relay.after_push:20";
    let mut scene = Scene::of(
        &shape().with_many(Service::Relay, 2),
        events(),
        &[json!({})],
    )
    .await;
    scene.fleet.terminate(Service::Relay, 1, PATIENCE).await;
    scene.crash_at(Service::Relay, POINT).await;
    let process = scene.fleet.process_id(Service::Relay, 0).expect("it runs");
    let leads = format!("SELECT count(*) FROM zyven.relay WHERE holder LIKE '{process}-%'");
    wait_until("it leads", PATIENCE, async || {
        scene.count(&leads).await == 1
    })
    .await;
    scene.fleet.restart(Service::Relay, 1);
    let flow = scene.begin_publishing();
    scene.wait_until_crashed(Service::Relay, POINT).await;
    // Nobody is started in its place: the other one takes over.
    flow.end().await;
    let account = scene.balance().await;
    assert_eq!(account.duplicates_count(), 0, "{account}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c5_a_rebuild_that_its_relay_did_not_survive_is_finished_by_the_next() {
    const POINT: &str = "relay.amid_walk:1";
    // More rows than one page of the walk.
    let endpoints = [(); 4].map(|()| json!({}));
    let mut scene = Scene::of(&shape(), events(), &endpoints).await;
    scene.fleet.kill(Service::Dispatcher, 0).await;
    scene.publish(EVENTS).await;
    scene.wait_until_handed_over().await;
    assert_eq!(
        scene.count("SELECT count(*) FROM zyven.outbox").await,
        4 * EVENTS
    );
    scene.fleet.kill(Service::Relay, 0).await;
    scene.fleet.flush_redis().await;
    scene
        .fleet
        .restart_with(Service::Relay, 0, &[("ZYVEN_CRASH_POINT", POINT)]);
    scene.wait_until_crashed(Service::Relay, POINT).await;
    // Redis has an epoch again, and a part of the tickets.
    scene.fleet.restart(Service::Relay, 0);
    scene.fleet.restart(Service::Dispatcher, 0);
    let account = scene.balance().await;
    assert_eq!(account.delivered, 4 * EVENTS, "{account}");
    assert_eq!(account.duplicates_count(), 0, "{account}");
}
