//! C6 to C9: a dispatcher dies on the way from a ticket to an answer.

use serde_json::json;
use zyven_chaos::{Account, Service, Source};

use crate::crash_scene::{IN_FLIGHT_MAX, Scene, events, shape};

/// Deliveries of which an attempt was made or at least counted without an answer on record.
const ATTEMPTED_TWICE: &str = "SELECT count(*) FROM zyven.finished_deliveries WHERE attempts > 1";

/// Under load until a dispatcher dies at `passage` and another one takes its place, and then to the end.
async fn die_at(passage: &str) -> (Scene, Account) {
    die_in(Scene::open().await, passage).await
}

/// The same with one delivery in hand at a time, so that nothing else is under way when the dispatcher dies.
async fn die_alone_at(passage: &str) -> (Scene, Account) {
    let shape = shape().with("ZYVEN_DISPATCHER_IN_FLIGHT_MAX", "1");
    die_in(Scene::of(&shape, events(), &[json!({})]).await, passage).await
}

async fn die_in(mut scene: Scene, passage: &str) -> (Scene, Account) {
    scene.crash_at(Service::Dispatcher, passage).await;
    let flow = scene.begin_publishing();
    scene.wait_until_crashed(Service::Dispatcher, passage).await;
    scene.fleet.restart(Service::Dispatcher, 0);
    flow.end().await;
    let account = scene.balance().await;
    assert_eq!(account.delivered, account.sent, "{account}");
    (scene, account)
}

/// All duplicates are of this row, and no more than the process had in flight.
fn assert_bounded(account: &Account) {
    let died = account.duplicates.get(&Source::DispatcherDied).copied();
    assert_eq!(account.duplicates_count(), died.unwrap_or(0), "{account}");
    assert!(account.duplicates_count() <= IN_FLIGHT_MAX, "{account}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c6_tickets_that_a_dead_dispatcher_had_from_redis_only_are_handed_out_again() {
    let (scene, account) = die_alone_at("dispatcher.before_claim:10").await;
    assert_eq!(account.duplicates_count(), 0, "{account}");
    assert_eq!(scene.count(ATTEMPTED_TWICE).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c7_a_delivery_that_was_claimed_and_not_begun_spends_an_attempt_and_is_sent_once() {
    let (scene, account) = die_alone_at("dispatcher.after_claim:10").await;
    assert_eq!(account.duplicates_count(), 0, "{account}");
    assert_eq!(scene.count(ATTEMPTED_TWICE).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c7_a_request_that_was_about_to_be_written_is_written_once() {
    let (scene, account) = die_alone_at("dispatcher.before_request:60").await;
    assert_eq!(account.duplicates_count(), 0, "{account}");
    assert_eq!(scene.count(ATTEMPTED_TWICE).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c8_a_request_whose_dispatcher_died_amid_it_is_sent_again() {
    let (scene, account) = die_at("dispatcher.amid_request:60").await;
    assert_bounded(&account);
    let again = scene.count(ATTEMPTED_TWICE).await;
    assert!(
        (1..=IN_FLIGHT_MAX).contains(&again),
        "{again} attempts were spent"
    );
    let told = "SELECT count(*) FROM zyven.attempts";
    assert_eq!(
        scene.count(told).await,
        0,
        "no row tells of a request nobody survived"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c9_a_success_that_died_with_its_dispatcher_is_delivered_twice() {
    let (scene, account) = die_at("dispatcher.after_answer:60").await;
    assert_bounded(&account);
    assert!(account.duplicates_count() >= 1, "{account}");
    // Both carry the same id, by which a receiver drops the second one, and different attempts.
    let arrivals = scene.arrivals();
    let twice: Vec<_> = arrivals
        .values()
        .filter(|copies| copies.len() > 1)
        .collect();
    assert_eq!(twice.len() as u64, account.duplicates_count());
    for copies in twice {
        let attempts: Vec<&str> = copies
            .iter()
            .map(|copy| copy.header("zyven-attempt"))
            .collect();
        assert_eq!(attempts, ["1", "2"]);
    }
}
