//! C1 to C4: what may die before and right after an event is acknowledged.

use serde_json::json;
use zyven_chaos::{Service, Shape};
use zyven_testkit::{free_address, wait_until};

use crate::crash_scene::{IN_FLIGHT_MAX, PATIENCE, Scene, events, shape};

const STORED: &str = "SELECT count(*) FROM zyven.events";
/// Each batch is one transaction.
const BATCHES: &str = "SELECT count(DISTINCT xmin::text) FROM zyven.events";

/// With one writer nothing else is being committed while it comes by a point.
fn one_writer() -> Shape {
    shape().with("ZYVEN_INGEST_WRITERS", "1")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_what_ingest_had_not_committed_when_it_died_is_not_stored_until_it_is_repeated() {
    const POINT: &str = "ingest.before_commit:5";
    let mut scene = Scene::of(&one_writer(), events(), &[json!({})]).await;
    scene.crash_at(Service::Ingest, POINT).await;
    let flow = scene.begin_publishing();
    scene.wait_until_crashed(Service::Ingest, POINT).await;
    // What was in the fifth batch is nowhere, and whoever has an answer is among the four before it.
    assert_eq!(scene.count(BATCHES).await, 4);
    let stored = scene.count(STORED).await;
    assert!(scene.ledger.acknowledged_count() as u64 <= stored);
    scene.fleet.restart(Service::Ingest, 0);
    flow.end().await;
    let account = scene.balance().await;
    assert!(account.first_try_failures > 0, "{account}");
    assert_eq!(account.duplicates_count(), 0, "{account}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c2_who_repeats_what_was_committed_but_not_answered_gets_the_first_events_id() {
    const POINT: &str = "ingest.after_commit:5";
    let mut scene = Scene::of(&one_writer(), events(), &[json!({})]).await;
    scene.crash_at(Service::Ingest, POINT).await;
    let flow = scene.begin_publishing();
    scene.wait_until_crashed(Service::Ingest, POINT).await;
    assert_eq!(scene.count(BATCHES).await, 5);
    let stored = scene.count(STORED).await;
    let acknowledged = scene.ledger.acknowledged_count() as u64;
    assert!(
        stored > acknowledged,
        "{stored} stored, {acknowledged} acknowledged"
    );
    // Nobody has to ask for them: they are delivered whether or not their publisher comes back.
    let delivered =
        format!("SELECT count(*) FROM zyven.finished_deliveries HAVING count(*) >= {stored}");
    wait_until("what was stored is delivered", PATIENCE, async || {
        let client = scene.fleet.sql().await;
        client
            .query_opt(&delivered, &[])
            .await
            .expect("an answer")
            .is_some()
    })
    .await;
    scene.fleet.restart(Service::Ingest, 0);
    flow.end().await;
    // The books know every event by one id, whichever request was answered.
    let account = scene.balance().await;
    assert!(
        account.first_try_failures >= stored - acknowledged,
        "{account}"
    );
    assert_eq!(account.duplicates_count(), 0, "{account}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c3_a_batch_whose_commit_postgresql_did_not_survive_is_stored_once() {
    let mut shape = shape();
    // Commits last long enough to be hit, and there is always one.
    shape.postgres = ["commit_delay=50000", "commit_siblings=0"]
        .map(str::to_owned)
        .to_vec();
    let mut scene = Scene::of(&shape, events(), &[json!({})]).await;
    let flow = scene.begin_publishing();
    for round in 1..=3 {
        scene.wait_for_arrivals(40 * round).await;
        wait_until("an event is being stored", PATIENCE, async || {
            const STORING: &str = "SELECT count(*) FROM pg_stat_activity
                                    WHERE state = 'active' AND query LIKE '%INSERT INTO zyven.events%'
                                      AND pid <> pg_backend_pid()";
            scene.count(STORING).await > 0
        })
        .await;
        scene.fleet.crash_postgres().await;
        scene.fleet.restart_postgres().await;
    }
    flow.end().await;
    let account = scene.balance().await;
    let bound = 3 * IN_FLIGHT_MAX;
    assert!(account.duplicates_count() <= bound, "{account}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_what_nobody_was_told_of_is_found_by_the_relays_own_look() {
    let nobody = free_address().to_string();
    let shape = shape().with("ZYVEN_RELAY_DOORBELLS", &nobody);
    let mut scene = Scene::of(&shape, events(), &[json!({})]).await;
    let flow = scene.begin_publishing();
    scene.wait_for_acknowledgements(100).await;
    // Right after its answers, and before it could ring again if it wanted to.
    scene.fleet.kill(Service::Ingest, 0).await;
    let acknowledged = scene.ledger.acknowledged_count();
    wait_until("what was acknowledged has arrived", PATIENCE, async || {
        scene.ledger.arrivals_count() >= acknowledged
    })
    .await;
    scene.fleet.restart(Service::Ingest, 0);
    flow.end().await;
    let account = scene.balance().await;
    assert_eq!(account.duplicates_count(), 0, "{account}");
}
