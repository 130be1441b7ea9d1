//! Partitions and retention.

use zyven_relay::{Maintenance, Statistics};
use zyven_runtime::metrics::Metrics;
use zyven_runtime::pace::Rest;
use zyven_testkit::wait_until;

use crate::stage::{PATIENCE, Stage, config, metric};

/// Those of yesterday and later: the day may have changed since the database was made.
async fn partitions(stage: &Stage) -> i64 {
    let sql = "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                WHERE i.inhparent = 'zyven.events'::regclass
                  AND right(c.relname, 8) >= to_char((now() - interval '1 day') AT TIME ZONE 'UTC', 'YYYYMMDD')";
    stage.sql.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn maintenance_makes_partitions_and_lets_go_of_what_is_old() {
    let stage = Stage::new().await;
    stage
        .sql
        .batch_execute(
            "SELECT zyven.ensure_partition(now() - interval '40 days');
             INSERT INTO zyven.idempotency_keys (key, event_id, body, created_at)
             SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), now() - interval '25 hours'
               FROM generate_series(1, 2500);
             INSERT INTO zyven.idempotency_keys (key, event_id, body)
             SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid();
             INSERT INTO zyven.audit_log (action, subject, done_at)
             SELECT 'a.b', 'old', now() - interval '401 days' FROM generate_series(1, 1500);
             INSERT INTO zyven.audit_log (action, subject, done_at)
             SELECT 'a.b', 'young', now() - interval '399 days'",
        )
        .await
        .unwrap();
    let metrics = Metrics::default();
    let statistics = Statistics::new(&metrics);
    let mut maintenance = Maintenance::new(config(), stage.store.clone(), statistics);
    wait_until("there is nothing more to do", PATIENCE, async || {
        matches!(maintenance.step().await.unwrap(), Rest::For(_))
    })
    .await;

    let keys = "SELECT count(*) FROM zyven.idempotency_keys";
    let left: i64 = stage.sql.query_one(keys, &[]).await.unwrap().get(0);
    assert_eq!(left, 1);
    assert_eq!(
        metric(&metrics, "zyven_relay_idempotency_keys_expired_total"),
        2_500.0
    );
    let entries = "SELECT count(*) FROM zyven.audit_log WHERE action = 'a.b'";
    let left: i64 = stage.sql.query_one(entries, &[]).await.unwrap().get(0);
    assert_eq!(left, 1);
    assert_eq!(
        metric(&metrics, "zyven_relay_audit_entries_expired_total"),
        1_500.0
    );
    assert_eq!(
        metric(&metrics, "zyven_relay_partitions_dropped_total"),
        3.0
    );
    assert_eq!(partitions(&stage).await, 9, "yesterday to a week ahead");
}

#[tokio::test]
async fn a_running_relay_makes_the_partitions_it_finds_missing() {
    let stage = Stage::new().await;
    stage
        .sql
        .batch_execute(
            "DO $$
             DECLARE name text;
             BEGIN
                 FOR name IN SELECT inhrelid::regclass::text FROM pg_inherits
                              WHERE inhparent = 'zyven.events'::regclass LOOP
                     EXECUTE 'DROP TABLE ' || name;
                 END LOOP;
             END $$",
        )
        .await
        .unwrap();
    assert_eq!(partitions(&stage).await, 0);
    let relay = stage.relay().await;
    wait_until("the partitions are there", PATIENCE, async || {
        partitions(&stage).await == 9
    })
    .await;
    relay.stop().await;
}

#[tokio::test]
async fn the_relay_shows_how_old_the_oldest_open_transaction_is() {
    let stage = Stage::new().await;
    let other = stage.database.client().await;
    other
        .batch_execute("BEGIN; SELECT pg_current_xact_id()")
        .await
        .unwrap();
    wait_until("it is older than two seconds", PATIENCE, async || {
        let age = stage.store.horizon().await.unwrap().oldest_transaction;
        age.as_secs() >= 2
    })
    .await;
    let relay = stage.relay().await;
    wait_until("the metric says so", PATIENCE, async || {
        metric(&relay.metrics, "zyven_relay_oldest_transaction_seconds") >= 2.0
    })
    .await;
    relay.stop().await;
}
