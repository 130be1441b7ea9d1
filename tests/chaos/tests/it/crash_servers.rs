//! C14, C15 and C17: what the servers lose.

use std::collections::HashMap;
use std::process::Command;

use serde_json::json;
use tokio_postgres::NoTls;
use zyven_chaos::{EventSource, Service, Source, Trouble};
use zyven_testkit::wait_until;

use crate::crash_scene::{EVENTS, IN_FLIGHT_MAX, PATIENCE, Scene, events, shape};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c14_a_redis_that_is_emptied_or_killed_again_and_again_delays_events_and_loses_none() {
    let mut scene = Scene::open().await;
    let flow = scene.begin_publishing();
    for round in 1..=3 {
        scene.wait_for_arrivals(80 * round).await;
        scene.fleet.flush_redis().await;
        scene.fleet.kill_redis();
        scene.fleet.restart_redis().await;
    }
    flow.end().await;
    let account = scene.balance().await;
    assert_eq!(
        account.duplicates_count(),
        0,
        "PostgreSQL refuses every claim too many: {account}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c14_a_redis_that_comes_back_with_what_it_knew_long_ago_is_put_right() {
    let mut scene = Scene::open().await;
    scene.fleet.kill(Service::Dispatcher, 0).await;
    scene.publish(EVENTS).await;
    scene.wait_until_handed_over().await;
    // What lies in its folder now is what it will come back with: tickets of everything so far, under the same epoch.
    let mut redis = scene.fleet.redis.connection().await;
    let () = redis::cmd("SAVE")
        .query_async(&mut redis)
        .await
        .expect("saved");
    scene.fleet.restart(Service::Dispatcher, 0);
    scene.wait_for_arrivals(EVENTS as usize).await;
    scene.fleet.kill(Service::Dispatcher, 0).await;
    scene.publish(EVENTS).await;
    scene.wait_until_handed_over().await;
    // Tickets of the delivered are back, tickets of the others are gone.
    scene.fleet.kill_redis();
    scene.fleet.restart_redis().await;
    scene.fleet.restart(Service::Dispatcher, 0);
    let account = scene.balance().await;
    assert_eq!(account.delivered, 2 * EVENTS, "{account}");
    // What was being recorded when its dispatcher was killed, and nothing else.
    assert!(account.duplicates_count() <= IN_FLIGHT_MAX, "{account}");
}

/// Claimed and not finished.
const CLAIMED: &str = "SELECT count(*) FROM zyven.outbox WHERE lease_token <> 0 AND attempts = 1";
const CLAIM_POINT: &str = "dispatcher.after_claim:1";

/// Two dispatchers that do not run, and 80 events, of which one in four is refused by the receiver, that are ready for them. Then
/// the first one claims all of them, stops before it has begun a single attempt, and PostgreSQL forgets that it has.
async fn forget_a_claim() -> Scene {
    const WAITING: u64 = 80;
    let mut shape = shape().with_many(Service::Dispatcher, 2);
    // Nobody but a commit that waits for it writes the log: not in the background, and not to make room.
    shape.postgres = [
        "wal_writer_delay=10s",
        "bgwriter_lru_maxpages=0",
        "checkpoint_timeout=1d",
        "autovacuum=off",
    ]
    .map(str::to_owned)
    .to_vec();
    shape = shape.with("ZYVEN_DISPATCHER_IN_FLIGHT_MAX", "512");
    let source = EventSource {
        refused_one_in: Some(4),
        ..events()
    };
    // The longest timeout there is makes the lease of all of them last: the first owner is to come back within it.
    let endpoints = [
        json!({}),
        json!({ "timeout_ms": 30_000, "event_types": ["chaos.b"] }),
    ];
    let mut scene = Scene::of(&shape, source, &endpoints).await;
    scene.publish(EVENTS).await;
    assert!(
        scene
            .ledger
            .wait_until_settled(&scene.fleet, PATIENCE)
            .await
    );
    for index in [0, 1] {
        scene
            .fleet
            .terminate(Service::Dispatcher, index, PATIENCE)
            .await;
    }
    scene.publish(WAITING).await;
    scene.wait_until_handed_over().await;
    scene.fleet.terminate(Service::Relay, 0, PATIENCE).await;

    let waiting = scene.count("SELECT count(*) FROM zyven.outbox").await;
    assert_eq!(waiting, WAITING + WAITING / 4);
    let writer = scene
        .count("SELECT pid::bigint FROM pg_stat_activity WHERE backend_type = 'walwriter'")
        .await;
    signal("-STOP", writer);
    let freeze = [("ZYVEN_FREEZE_POINT", CLAIM_POINT)];
    scene.fleet.restart_with(Service::Dispatcher, 0, &freeze);
    scene
        .wait_until_frozen(Service::Dispatcher, CLAIM_POINT)
        .await;
    assert_eq!(
        scene.count(CLAIMED).await,
        waiting,
        "everybody sees the claim"
    );
    // PostgreSQL takes the death of one of its processes for a crash of all: it ends the others at once, and recovers.
    scene.fleet.history_mut().began(Trouble::PostgresCrashed);
    signal("-KILL", writer);
    wait_until("PostgreSQL has recovered", PATIENCE, async || {
        // A process that has not heard of it yet may answer once more.
        match ask(&scene.fleet.database_url(), CLAIMED).await {
            Ok(0) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    scene.fleet.history_mut().ended(Trouble::PostgresCrashed);
    let untouched = "SELECT count(*) FROM zyven.outbox WHERE lease_token = 0 AND attempts = 0";
    assert_eq!(
        scene.count(untouched).await,
        waiting,
        "nobody knows of the claim any more"
    );
    scene
}

/// Asks a server that may not be there.
async fn ask(url: &str, sql: &str) -> Result<i64, String> {
    let text = |error: tokio_postgres::Error| format!("{error:?}");
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.map_err(text)?;
    // Ends with the client.
    tokio::spawn(connection);
    let row = client.query_one(sql, &[]).await.map_err(text)?;
    Ok(row.get(0))
}

fn signal(name: &str, process: u64) {
    let sent = Command::new("kill")
        .args([name, &process.to_string()])
        .status();
    assert!(sent.expect("kill can be run").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c15_the_owner_of_a_claim_that_postgresql_forgot_may_succeed_and_must_not_fail() {
    let mut scene = forget_a_claim().await;
    let before = scene.fleet.receiver.request_count();
    scene.fleet.restart(Service::Relay, 0);
    scene.fleet.thaw(Service::Dispatcher, 0);
    let account = scene.balance().await;
    // Its successes count, though nobody knows of its lease.
    assert_eq!(account.duplicates_count(), 0, "{account}");
    // Its failures do not: what it was refused is attempted once more, and that attempt is the only one on record. If it
    // comes back when its last beat is too old, it sends nothing (ADR 0029), and each refusal is heard once.
    let refused = EventSource {
        refused_one_in: Some(4),
        ..events()
    };
    let requests = scene.fleet.receiver.requests();
    let mut heard: HashMap<u64, Vec<&str>> = HashMap::new();
    for request in &requests[before..] {
        if let Some(number) = EventSource::number_of(&request.body)
            && refused.is_refused(number)
        {
            let attempts = heard.entry(number).or_default();
            attempts.push(request.header("zyven-attempt"));
        }
    }
    assert_eq!(heard.len(), 20);
    for (number, attempts) in &heard {
        assert!(
            attempts == &["1"] || attempts == &["1", "1"],
            "event {number}: {attempts:?}"
        );
    }
    let attempts = "SELECT count(*) FROM zyven.finished_deliveries WHERE attempts > 1";
    assert_eq!(scene.count(attempts).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c15_what_postgresql_forgot_is_claimed_by_another_and_its_first_owner_disturbs_nothing() {
    let mut scene = forget_a_claim().await;
    // Redis has the claim as well; without it the other dispatcher would wait for the end of that one.
    scene.fleet.flush_redis().await;
    scene.fleet.restart(Service::Relay, 0);
    scene.fleet.restart(Service::Dispatcher, 1);
    assert!(
        scene
            .ledger
            .wait_until_settled(&scene.fleet, PATIENCE)
            .await
    );
    let records = "SELECT count(*) FROM zyven.attempts";
    let before = scene.count(records).await;
    scene.fleet.thaw(Service::Dispatcher, 0);
    // It makes the attempts it has begun, and ends when it has told all it knows.
    let (code, _) = scene
        .fleet
        .terminate(Service::Dispatcher, 0, PATIENCE)
        .await;
    assert_eq!(code, Some(0));
    assert_eq!(
        scene.count(records).await,
        before,
        "its failures are refused"
    );
    let account = scene.balance().await;
    // 60 successes at one endpoint, and 20 at the other: each twice at most.
    let forgotten = account.duplicates.get(&Source::ClaimForgotten).copied();
    assert_eq!(
        account.duplicates_count(),
        forgotten.unwrap_or(0),
        "{account}"
    );
    assert!(account.duplicates_count() <= 60 + 20, "{account}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c17_a_delivery_whose_payload_is_gone_becomes_a_dead_letter_and_an_error_in_the_log() {
    let mut scene = Scene::open().await;
    scene.fleet.kill(Service::Dispatcher, 0).await;
    scene.publish(EVENTS).await;
    scene.wait_until_handed_over().await;
    let sql = scene.fleet.sql().await;
    let partitions = sql
        .query(
            "SELECT DISTINCT tableoid::regclass::text FROM zyven.events",
            &[],
        )
        .await
        .expect("partitions");
    for partition in partitions {
        let partition: String = partition.get(0);
        sql.batch_execute(&format!("DROP TABLE {partition}"))
            .await
            .expect("dropped");
    }
    sql.batch_execute("SELECT zyven.ensure_partitions()")
        .await
        .expect("made anew");
    assert!(
        scene.fleet.check().await.is_err(),
        "the check tells of payloads that are gone"
    );
    scene.fleet.restart(Service::Dispatcher, 0);
    let gone = "SELECT count(*) FROM zyven.dead_letters WHERE reason = 'payload_missing'";
    wait_until("all are dead letters", PATIENCE, async || {
        let dead = scene.count(gone).await;
        if dead == EVENTS { Ok(()) } else { Err(dead) }
    })
    .await;
    assert_eq!(
        scene.fleet.receiver.request_count(),
        0,
        "nothing is sent in its place"
    );
    let said = scene.fleet.said(Service::Dispatcher, 0);
    assert_eq!(
        said.matches("payload of an unfinished delivery is no longer stored")
            .count() as u64,
        EVENTS
    );
    // What comes later is delivered, and nothing is left behind.
    scene.publish(EVENTS).await;
    let delivered = "SELECT count(*) FROM zyven.finished_deliveries WHERE state = 'DELIVERED'";
    wait_until("what came later is delivered", PATIENCE, async || {
        let delivered = scene.count(delivered).await;
        if delivered == EVENTS {
            Ok(())
        } else {
            Err(delivered)
        }
    })
    .await;
    assert_eq!(scene.fleet.check().await, Ok(()));
}
