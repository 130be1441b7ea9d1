//! C10 to C13: what is on record and nobody knows it, and what comes in after its lease.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use zyven_chaos::{EventSource, Link, Mood, Service};
use zyven_testkit::{ChaosProxy, wait_until};

use crate::crash_scene::{IN_FLIGHT_MAX, PATIENCE, Scene, events, shape};

const FINISHED: &str = "SELECT count(*) FROM zyven.finished_deliveries";
const FINISHED_IDS: &str = "SELECT zyven.typed_id('evt', event_id) FROM zyven.finished_deliveries";
/// Deliveries somebody has a lease of, ended or not.
const HELD: &str = "SELECT count(*) FROM zyven.outbox WHERE lease_token <> 0";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c10_a_success_whose_commit_was_not_confirmed_is_recorded_once() {
    let mut scene = Scene::open().await;
    // There is always something in hand, and so something to record.
    scene
        .ledger
        .set_mood(Mood::Late(Duration::from_millis(300)));
    let flow = scene.begin_publishing();
    for round in 1..=3 {
        scene.wait_for_arrivals(40 * round).await;
        let now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let now = scene.count(now).await;
        scene
            .fleet
            .disturb(Link::DispatcherPostgres, ChaosProxy::lose_replies);
        // Whatever is done being recorded from now on is not confirmed, also if it was begun before: the connection it
        // was sent over may be the only one, and hangs.
        let recorded = format!(
            "SELECT count(*) FROM pg_stat_activity
              WHERE state = 'idle'
                AND query LIKE '%DELETE FROM zyven.outbox%'
                AND extract(epoch FROM state_change) * 1000000 > {now}"
        );
        wait_until("something was recorded", PATIENCE, async || {
            scene.count(&recorded).await > 0
        })
        .await;
        scene.fleet.heal(Link::DispatcherPostgres);
    }
    flow.end().await;
    let said = scene.fleet.said(Service::Dispatcher, 0);
    assert!(said.contains("could not record results"), "{said}");
    let account = scene.balance().await;
    assert_eq!(account.delivered, account.sent, "{account}");
    assert_eq!(account.duplicates_count(), 0, "{account}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c11_the_stale_ticket_of_what_was_delivered_when_its_dispatcher_died_is_dropped() {
    const POINT: &str = "settle.after_delivered:10";
    let mut scene = Scene::open().await;
    scene.crash_at(Service::Dispatcher, POINT).await;
    let flow = scene.begin_publishing();
    scene.wait_until_crashed(Service::Dispatcher, POINT).await;
    let finished = scene.ids(FINISHED_IDS).await;
    assert!(finished.len() >= 10);
    scene.fleet.restart(Service::Dispatcher, 0);
    flow.end().await;
    let account = scene.balance().await;
    assert!(account.duplicates_count() <= IN_FLIGHT_MAX, "{account}");
    let arrivals = scene.arrivals();
    for id in finished {
        assert_eq!(arrivals[&id].len(), 1, "{id} was on record as delivered");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c12_a_retry_that_redis_was_not_told_of_is_not_made_before_its_time() {
    const POINT: &str = "settle.after_retried:3";
    // Longer than Redis keeps the ticket for a dispatcher that does not come back: it is offered before its time.
    const WAIT: Duration = Duration::from_secs(30);
    let endpoint = json!({ "retry_base_ms": WAIT.as_millis() as u64 });
    let mut scene = Scene::of(&shape(), events(), &[endpoint]).await;
    scene.ledger.set_mood(Mood::Failing(503));
    scene.crash_at(Service::Dispatcher, POINT).await;
    let flow = scene.begin_publishing();
    scene.wait_until_crashed(Service::Dispatcher, POINT).await;
    let scheduled: BTreeSet<String> = scene
        .ids("SELECT zyven.typed_id('evt', event_id) FROM zyven.outbox WHERE state = 'RETRY_SCHEDULED'")
        .await
        .into_iter()
        .collect();
    assert!(!scheduled.is_empty());
    scene.ledger.set_mood(Mood::Well);
    scene.fleet.restart(Service::Dispatcher, 0);
    flow.end().await;
    let account = scene.balance().await;
    assert_eq!(account.delivered, account.sent, "{account}");
    assert_eq!(
        account.duplicates_count(),
        0,
        "nothing was taken before: {account}"
    );
    // Chance takes away a fifth of the wait at most.
    let arrivals = scene.arrivals();
    for id in scheduled {
        let [first, second] = &arrivals[&id][..] else {
            panic!("{id} has arrived {} times", arrivals[&id].len());
        };
        let waited = second.arrived_at - first.arrived_at;
        assert!(
            waited >= WAIT.mul_f64(0.8),
            "{id} came again after {waited:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c12_a_dead_letter_that_redis_was_not_told_of_is_not_sent_again() {
    const POINT: &str = "settle.after_buried:3";
    let source = EventSource {
        refused_one_in: Some(10),
        ..events()
    };
    let mut scene = Scene::of(&shape(), source, &[json!({})]).await;
    scene.crash_at(Service::Dispatcher, POINT).await;
    let flow = scene.begin_publishing();
    scene.wait_until_crashed(Service::Dispatcher, POINT).await;
    let buried = scene
        .ids("SELECT zyven.typed_id('evt', event_id) FROM zyven.finished_deliveries WHERE state = 'DEAD_LETTERED'")
        .await;
    assert!(buried.len() >= 3);
    scene.fleet.restart(Service::Dispatcher, 0);
    flow.end().await;
    let account = scene.balance().await;
    assert!(account.dead_letters["rejected"] >= 3, "{account}");
    assert!(account.duplicates_count() <= IN_FLIGHT_MAX, "{account}");
    let arrivals = scene.arrivals();
    for id in buried {
        assert_eq!(arrivals[&id].len(), 1, "{id} was a dead letter");
    }
}

/// A dispatcher stops with requests in its hands until its leases are over; the other one goes on alone. Returns how many it held.
async fn outlive_the_leases(scene: &mut Scene, passage: &str) -> u64 {
    let setting = [("ZYVEN_FREEZE_POINT", passage)];
    scene.fleet.restart_with(Service::Dispatcher, 0, &setting);
    scene.fleet.wait_until_ready(Service::Dispatcher, 0).await;
    // One at a time, so that its leases are the only ones.
    scene.fleet.kill(Service::Dispatcher, 1).await;
    let flow = scene.begin_publishing();
    scene.wait_until_frozen(Service::Dispatcher, passage).await;
    flow.end().await;
    let held = scene.count(HELD).await;
    assert!((1..=IN_FLIGHT_MAX).contains(&held), "{held}");
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_a_success_that_comes_after_its_lease_counts() {
    // Nobody makes a third attempt while the first one is waited for.
    let endpoint = json!({ "retry_base_ms": 5_000 });
    let mut scene = Scene::of(
        &shape().with_many(Service::Dispatcher, 2),
        events(),
        &[endpoint],
    )
    .await;
    let held = outlive_the_leases(&mut scene, "dispatcher.amid_request:60").await;
    // Whoever claims them now fails.
    scene.ledger.set_mood(Mood::Failing(503));
    let arrived = scene.arrivals();
    // A second attempt is on record, and the first is in the hands of the one that stands still.
    let taken_over = "SELECT count(*) FROM zyven.attempts a
                       WHERE a.number = 2
                         AND NOT EXISTS (SELECT FROM zyven.attempts b WHERE b.delivery_id = a.delivery_id AND b.number = 1)";
    scene.fleet.restart(Service::Dispatcher, 1);
    wait_until(
        "its deliveries were claimed by the other one",
        PATIENCE,
        async || {
            let taken_over = scene.count(taken_over).await;
            if taken_over == held {
                Ok(())
            } else {
                Err(taken_over)
            }
        },
    )
    .await;
    let before = scene.count(FINISHED).await;
    scene.fleet.thaw(Service::Dispatcher, 0);
    wait_until("its successes are on record", PATIENCE, async || {
        scene.count(FINISHED).await > before
    })
    .await;
    scene.ledger.set_mood(Mood::Well);
    let account = scene.balance().await;
    assert_eq!(account.delivered, account.sent, "{account}");
    // Only what the one that stood still had in hand was sent by both.
    let arrivals = scene.arrivals();
    let by_both = arrived
        .iter()
        .filter(|(id, copies)| arrivals[*id].len() > copies.len());
    assert!(by_both.count() as u64 <= held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_a_failure_that_comes_after_its_lease_changes_nothing() {
    let mut scene = Scene::of(
        &shape().with_many(Service::Dispatcher, 2),
        events(),
        &[json!({})],
    )
    .await;
    scene.ledger.set_mood(Mood::Failing(503));
    let held = outlive_the_leases(&mut scene, "dispatcher.amid_request:30").await;
    scene.ledger.set_mood(Mood::Well);
    scene.fleet.restart(Service::Dispatcher, 1);
    assert!(
        scene
            .ledger
            .wait_until_settled(&scene.fleet, PATIENCE)
            .await
    );
    let records = "SELECT count(*) FROM zyven.attempts";
    let before = (scene.count(FINISHED).await, scene.count(records).await);
    scene.fleet.thaw(Service::Dispatcher, 0);
    // It ends by itself, after it has told all it knows.
    let (code, _) = scene
        .fleet
        .terminate(Service::Dispatcher, 0, PATIENCE)
        .await;
    assert_eq!(code, Some(0));
    assert_eq!(
        (scene.count(FINISHED).await, scene.count(records).await),
        before
    );
    let account = scene.balance().await;
    assert_eq!(account.delivered, account.sent, "{account}");
    assert!(account.duplicates_count() <= held, "{account}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_a_request_that_was_not_written_within_its_lease_is_not_written() {
    let mut scene = Scene::of(
        &shape().with_many(Service::Dispatcher, 2),
        events(),
        &[json!({})],
    )
    .await;
    outlive_the_leases(&mut scene, "dispatcher.before_request:60").await;
    scene.fleet.restart(Service::Dispatcher, 1);
    assert!(
        scene
            .ledger
            .wait_until_settled(&scene.fleet, PATIENCE)
            .await
    );
    let arrived = scene.ledger.arrivals_count();
    scene.fleet.thaw(Service::Dispatcher, 0);
    let (code, _) = scene
        .fleet
        .terminate(Service::Dispatcher, 0, PATIENCE)
        .await;
    assert_eq!(code, Some(0));
    assert_eq!(scene.ledger.arrivals_count(), arrived);
    scene.balance().await;
}
