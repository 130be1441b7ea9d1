//! C18: a graceful stop with work in hand, of each service.

use std::time::Duration;

use serde_json::json;
use zyven_chaos::{Mood, Service};

use crate::crash_scene::{EVENTS, IN_FLIGHT_MAX, PATIENCE, Scene, events, shape};

const LATE: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18_every_service_is_stopped_with_work_in_hand_and_nothing_is_lost_or_sent_twice() {
    let mut scene = Scene::open().await;
    // Whatever is stopped has requests in its hands.
    scene.ledger.set_mood(Mood::Late(LATE));
    let flow = scene.begin_publishing();
    for (round, service) in Service::ALL.into_iter().enumerate() {
        scene.wait_for_arrivals(40 * (round + 1)).await;
        let (code, _) = scene.fleet.terminate(service, 0, PATIENCE).await;
        assert_eq!(
            code,
            Some(0),
            "{service}:\n{}",
            scene.fleet.said(service, 0)
        );
        scene.fleet.restart(service, 0);
        scene.fleet.wait_until_ready(service, 0).await;
    }
    flow.end().await;
    let account = scene.balance().await;
    assert_eq!(account.delivered, account.sent, "{account}");
    assert_eq!(account.duplicates_count(), 0, "{account}\n{}", scene.said());
}

/// A dispatcher is asked to stop while the receiver holds its requests for longer than its grace time.
async fn give_back(settings: &[(&str, &str)]) -> Scene {
    let shape = shape().with("ZYVEN_DISPATCHER_GRACE", "500ms");
    let mut scene = Scene::of(&shape, events(), &[json!({})]).await;
    scene.fleet.restart_with(Service::Dispatcher, 0, settings);
    scene.fleet.wait_until_ready(Service::Dispatcher, 0).await;
    scene.ledger.set_mood(Mood::Hanging);
    scene.publish(EVENTS).await;
    scene.wait_for_arrivals(IN_FLIGHT_MAX as usize).await;
    scene
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18_what_outlasts_the_grace_time_is_given_back_and_spends_no_attempt() {
    let mut scene = give_back(&[]).await;
    let (code, _) = scene
        .fleet
        .terminate(Service::Dispatcher, 0, PATIENCE)
        .await;
    assert_eq!(code, Some(0));
    let held = "SELECT count(*) FROM zyven.outbox WHERE lease_token <> 0";
    assert_eq!(scene.count(held).await, 0, "everything is free again");
    let spent = "SELECT count(*) FROM zyven.outbox o
                  WHERE o.attempts <> (SELECT count(*) FROM zyven.attempts a WHERE a.delivery_id = o.delivery_id)";
    assert_eq!(
        scene.count(spent).await,
        0,
        "every attempt that counts is on record"
    );
    scene.ledger.set_mood(Mood::Well);
    scene.fleet.restart(Service::Dispatcher, 0);
    let account = scene.balance().await;
    assert_eq!(account.delivered, EVENTS, "{account}");
    assert_eq!(
        account.duplicates_count(),
        0,
        "none of the requests that were cut was taken: {account}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18_a_dispatcher_that_dies_while_it_gives_back_leaves_the_rest_to_their_leases() {
    for passage in ["dispatcher.before_release:5", "settle.after_released:1"] {
        let mut scene = give_back(&[("ZYVEN_CRASH_POINT", passage)]).await;
        let (code, _) = scene
            .fleet
            .terminate(Service::Dispatcher, 0, PATIENCE)
            .await;
        assert_eq!(code, None, "a signal has ended it");
        scene.assert_crashed(Service::Dispatcher, passage);
        scene.ledger.set_mood(Mood::Well);
        scene.fleet.restart(Service::Dispatcher, 0);
        let account = scene.balance().await;
        assert_eq!(account.delivered, EVENTS, "{account}");
        assert_eq!(
            account.duplicates_count(),
            0,
            "none of the requests that were cut was taken: {account}"
        );
    }
}
