//! What an acknowledgement means where commits wait for a standby, and which of several hosts is used.

use std::time::Duration;

use zyven_store::{Accepted, DatabaseTls, Store, StoreConfig};
use zyven_testkit::{ChaosProxy, Postgres, wait_until};

use crate::fixture::Fixture;

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_repetition_is_acknowledged_no_sooner_than_the_standby_has_what_it_repeats() {
    let mut primary = Postgres::private().await;
    let mut fixture = Fixture::on(primary.database().await).await;
    fixture.endpoint(&["*"], &[]).await;
    let mut standby = primary.standby("second", &[]).await;
    primary.wait_for_only("second").await;
    let event = fixture.event("a", Some("key"));
    standby.stop().await;
    let accepting = tokio::spawn({
        let (store, event) = (fixture.store.clone(), event.clone());
        async move { store.accept(&[event]).await.is_ok() }
    });
    wait_until("the commit waits for the standby", PATIENCE, async || {
        let waiting = fixture
            .sql
            .query_one(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
                &[],
            )
            .await;
        waiting.expect("a count").get::<_, i64>(0) == 1
    })
    .await;
    // It is on the primary's disk, and a crash ends the waiting.
    primary.kill().await;
    assert!(
        !accepting.await.expect("no panic"),
        "nobody knows its outcome"
    );
    primary.restart().await;
    fixture.sql = fixture.database.client().await;
    let stored = fixture
        .sql
        .query_one("SELECT count(*) FROM zyven.events", &[])
        .await;
    assert_eq!(stored.expect("a count").get::<_, i64>(0), 1);
    let repeating = tokio::spawn({
        let (store, event) = (fixture.store.clone(), event.clone());
        async move { store.accept(&[event]).await }
    });
    wait_until(
        "the repetition waits for the standby",
        PATIENCE,
        async || {
            assert!(!repeating.is_finished(), "acknowledged without the standby");
            let waiting = fixture
                .sql
                .query_one(
                    "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
                    &[],
                )
                .await;
            waiting.expect("a count").get::<_, i64>(0) >= 1
        },
    )
    .await;
    assert!(!repeating.is_finished(), "acknowledged without the standby");
    standby.restart().await;
    let repeated = repeating.await.expect("no panic").expect("accepted");
    assert!(matches!(repeated[..], [Accepted::New { deliveries: 1 }]));
    let copy = standby.copy_of(&fixture.database).client().await;
    wait_until("the standby shows it", PATIENCE, async || {
        let row = copy
            .query_one("SELECT count(*) FROM zyven.events", &[])
            .await;
        row.expect("a count").get::<_, i64>(0) == 1
    })
    .await;
}

#[tokio::test]
async fn of_several_hosts_the_one_that_takes_writes_is_used_whatever_the_others_do() {
    let mut primary = Postgres::private().await;
    let database = primary.database().await;
    let standby = primary.standby("second", &[]).await;
    let mute = ChaosProxy::start(primary.address()).await;
    mute.pause();
    // The standby is asked first, then one that takes connections and says nothing.
    let hosts = [standby.address(), mute.address(), primary.address()];
    let store = Store::connect(&StoreConfig {
        url: database.url_of_hosts(&hosts),
        tls: DatabaseTls::default(),
        pool_size: 2,
    })
    .expect("a store");
    store.health().await.expect("a server that takes writes");
    primary.kill().await;
    wait_until("the loss is noticed", PATIENCE, async || {
        store.health().await.is_err()
    })
    .await;
    standby.promote().await;
    wait_until("the new primary is found", PATIENCE, async || {
        store.health().await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_session_with_a_server_that_only_reads_is_left_for_a_new_one() {
    let primary = Postgres::private().await;
    let database = primary.database().await;
    let standby = primary.standby("second", &[]).await;
    let name = standby.copy_of(&database);
    let store = Store::connect(&StoreConfig {
        url: name.url(),
        tls: DatabaseTls::default(),
        pool_size: 1,
    })
    .expect("a store");
    let sessions = async || {
        let sql = name.client().await;
        let rows = sql
            .query(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'zyven'",
                &[],
            )
            .await;
        let rows = rows.expect("asked");
        rows.iter()
            .map(|row| row.get::<_, i32>(0))
            .collect::<Vec<_>>()
    };
    let refused = store.record_watermark(7).await.expect_err("it only reads");
    assert!(refused.is_transient(), "{refused}");
    wait_until("the session is gone", PATIENCE, async || {
        sessions().await.is_empty()
    })
    .await;
    let refused = store.health().await.expect_err("it only reads");
    assert!(refused.is_transient(), "{refused}");
    wait_until("the session is gone", PATIENCE, async || {
        sessions().await.is_empty()
    })
    .await;
}
