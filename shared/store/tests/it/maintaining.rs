//! Partitions, expiry, migrations.

use std::time::Duration;

use zyven_store::Schema;
use zyven_testkit::TestDatabase;

use crate::fixture::{Fixture, open};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test]
async fn an_empty_database_is_migrated_once_by_however_many_ask() {
    let database = TestDatabase::empty().await;
    let migrations = zyven_store::migrations().count();
    let all: Vec<&str> = zyven_store::migrations().map(|m| m.name).collect();
    let schema = open(&database).schema().await.expect("asked");
    assert_eq!(schema, Schema::Lacks(all));
    let racers = (0..4).map(|_| {
        let store = open(&database);
        tokio::spawn(async move { store.migrate().await.expect("migrated").len() })
    });
    let mut applied = 0;
    for racer in racers.collect::<Vec<_>>() {
        applied += racer.await.expect("no panic");
    }
    assert_eq!(applied, migrations);
    let schema = open(&database).schema().await.expect("asked");
    assert_eq!(schema, Schema::Fits);
}

#[tokio::test]
async fn a_migration_changed_after_it_was_applied_is_noticed() {
    let database = TestDatabase::empty().await;
    let store = open(&database);
    store.migrate().await.expect("migrated");
    let sql = database.client().await;
    sql.batch_execute("UPDATE zyven.migrations SET checksum = '\\x00' WHERE name LIKE '0001%'")
        .await
        .expect("changed");
    let refused = store.migrate().await.expect_err("noticed").to_string();
    assert!(
        refused.contains("0001") && refused.contains("changed"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_partition_is_dropped_when_expired_unless_an_unfinished_delivery_needs_it() {
    let (fixture, _) = Fixture::with_endpoint().await;
    fixture
        .sql
        .batch_execute("SELECT zyven.ensure_partition(now() - interval '40 days')")
        .await
        .expect("made");
    let insert_old = "
        WITH old AS (
            INSERT INTO zyven.events (id, tenant_id, type, payload)
            SELECT zyven.uuid_floor(now() - interval '40 days'), $1, 'a', '{}' RETURNING id
        )
        INSERT INTO zyven.outbox (delivery_id, event_id, endpoint_id, tenant_id)
        SELECT zyven.delivery_id(id, id), id, id, $1 FROM old";
    fixture
        .sql
        .execute(insert_old, &[&fixture.tenant.uuid()])
        .await
        .expect("an old event");
    let dropped = fixture.store.drop_expired_partitions(30 * DAY).await;
    assert_eq!(dropped.expect("asked"), Vec::<String>::new());
    fixture
        .sql
        .execute("DELETE FROM zyven.outbox", &[])
        .await
        .expect("finished");
    let dropped = fixture.store.drop_expired_partitions(30 * DAY).await;
    assert_eq!(dropped.expect("asked").len(), 3);
    assert!(
        fixture
            .store
            .drop_expired_partitions(Duration::ZERO)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn idempotency_keys_live_for_their_retention() {
    let (fixture, _) = Fixture::with_endpoint().await;
    fixture.accepted(&fixture.event("a", Some("old"))).await;
    fixture
        .sql
        .execute(
            "UPDATE zyven.idempotency_keys SET created_at = now() - interval '25 hours'",
            &[],
        )
        .await
        .expect("aged");
    fixture.accepted(&fixture.event("a", Some("new"))).await;
    assert_eq!(
        fixture
            .store
            .expire_idempotency_keys(DAY)
            .await
            .expect("expired"),
        1
    );
    assert_eq!(
        fixture
            .store
            .expire_idempotency_keys(DAY)
            .await
            .expect("expired"),
        0
    );
    assert_eq!(
        fixture
            .count("SELECT count(*) FROM zyven.idempotency_keys")
            .await,
        1
    );
}
