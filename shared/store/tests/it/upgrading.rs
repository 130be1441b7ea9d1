//! From every earlier schema to this one: with rows of all kinds, and while traffic flows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::Client;
use uuid::Uuid;
use zyven_domain::event::ContentType;
use zyven_domain::id::TenantId;
use zyven_store::{Migration, Schema, Settlement, Store};
use zyven_testkit::{TestDatabase, wait_until};

use crate::fixture::{Fixture, LEASE, TOKEN, open, record, settling};

const PATIENCE: Duration = Duration::from_secs(60);

/// Applies this version's first migrations, as a version of then would have.
pub(crate) async fn apply(sql: &Client, first: &[Migration]) {
    sql.batch_execute(
        "CREATE SCHEMA zyven;
         CREATE TABLE zyven.migrations (
             name text PRIMARY KEY, checksum bytea NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())",
    )
    .await
    .expect("a schema");
    for migration in first {
        let statements = migration.sql_for(sql).await.expect(migration.name);
        sql.batch_execute(&statements).await.expect(migration.name);
        sql.execute(
            "INSERT INTO zyven.migrations (name, checksum) VALUES ($1, $2)",
            &[&migration.name, &migration.checksum()],
        )
        .await
        .expect("recorded");
    }
}

/// Rows of every kind there was from the third migration on: 60 events of one tenant for one endpoint.
const POPULATE: &str = "
    INSERT INTO zyven.tenants (id, name) VALUES ('$TENANT', 'of old');
    INSERT INTO zyven.api_keys (id, tenant_id, public_id, secret_hash, name, scopes)
    VALUES (gen_random_uuid(), '$TENANT', 'public', sha256('secret'), 'first', '{publish,read}');
    INSERT INTO zyven.endpoints (id, tenant_id, url, event_types)
    VALUES ('$ENDPOINT', '$TENANT', 'https://example.com/', '{*}');
    INSERT INTO zyven.endpoint_secrets (id, endpoint_id, envelope)
    VALUES (gen_random_uuid(), '$ENDPOINT', '\\x01');
    SELECT zyven.publish('$TENANT', 'a.b', '{\"amount\": 1.10}', idempotency_key => 'old-' || n, channels => '{x}')
      FROM generate_series(1, 60) AS n;
    UPDATE zyven.relay SET watermark = 50;
    UPDATE zyven.outbox
       SET state = 'DISPATCHING', attempts = 1, lease_token = 7, leased_until = now() + interval '1 hour'
     WHERE seq BETWEEN 11 AND 20;
    UPDATE zyven.outbox SET state = 'DISPATCHING', attempts = 1, lease_token = 7, leased_until = now() WHERE seq BETWEEN 21 AND 50;
    UPDATE zyven.outbox SET state = 'RETRY_SCHEDULED', lease_token = 0, leased_until = '-infinity' WHERE seq BETWEEN 21 AND 30;
    INSERT INTO zyven.attempts
           (delivery_id, generation, number, event_id, endpoint_id, tenant_id, state_after, started_at, http_status, total_us)
    SELECT delivery_id, generation, 1, event_id, endpoint_id, tenant_id, 'RETRY_SCHEDULED', now(), 500, 1000
      FROM zyven.outbox WHERE seq BETWEEN 21 AND 30;
    WITH gone AS (DELETE FROM zyven.outbox WHERE seq BETWEEN 31 AND 50 RETURNING *)
    INSERT INTO zyven.finished_deliveries
           (delivery_id, generation, attempts, seq, event_id, endpoint_id, tenant_id, state, reason, enqueued_at)
    SELECT delivery_id, generation, 1, seq, event_id, endpoint_id, tenant_id,
           CASE WHEN seq <= 40 THEN 'DELIVERED' ELSE 'DEAD_LETTERED' END::zyven.delivery_state,
           CASE WHEN seq > 40 THEN 'rejected' END, enqueued_at
      FROM gone;
    INSERT INTO zyven.dead_letter_records
           (delivery_id, generation, event_id, endpoint_id, tenant_id, event_type, payload, accepted_at, reason, attempts)
    SELECT f.delivery_id, 1, f.event_id, f.endpoint_id, f.tenant_id, e.type, e.payload, e.accepted_at, 'rejected', 1
      FROM zyven.finished_deliveries f JOIN zyven.events e ON e.id = f.event_id
     WHERE f.state = 'DEAD_LETTERED';
    SELECT zyven.replay((SELECT zyven.typed_id('dlv', delivery_id) FROM zyven.dead_letter_records LIMIT 1), 'of old');";

async fn populate(sql: &Client, tenant: TenantId) {
    let text = POPULATE
        .replace("$TENANT", &tenant.uuid().to_string())
        .replace(
            "$ENDPOINT",
            &Uuid::from_u128(tenant.uuid().as_u128() ^ 1).to_string(),
        );
    sql.batch_execute(&text).await.expect("rows of old");
}

async fn number(sql: &Client, question: &str) -> i64 {
    sql.query_one(question, &[]).await.expect("a number").get(0)
}

/// Takes every delivery to its end, however old: those that somebody holds are let go first.
async fn work_off(store: &Store, sql: &Client) {
    sql.batch_execute("UPDATE zyven.outbox SET leased_until = now() WHERE lease_token <> 0")
        .await
        .expect("leases end");
    loop {
        let page = store.outbox_page(0).await.expect("a page");
        let seqs: Vec<i64> = page.iter().map(|row| row.seq).collect();
        if seqs.is_empty() {
            return;
        }
        let claim = store.claim(&seqs, TOKEN, LEASE).await.expect("claimed");
        assert!(!claim.claimed.is_empty(), "{:?}", claim.refused);
        let items: Vec<_> = claim
            .claimed
            .iter()
            .map(|claimed| {
                assert!(claimed.payload.is_some(), "{}", claimed.event_id);
                assert_eq!(claimed.content_type, ContentType::Json);
                settling(claimed, TOKEN, Settlement::Delivered(record(200)))
            })
            .collect();
        store.settle(&items).await.expect("settled");
    }
}

#[tokio::test]
async fn a_populated_database_of_every_earlier_level_is_migrated_and_works() {
    let all: Vec<Migration> = zyven_store::migrations().collect();
    // Of the two levels before publishing existed nothing can have been accepted.
    for level in 3..=all.len() {
        let database = TestDatabase::empty().await;
        let mut sql = database.client().await;
        apply(&sql, &all[..level]).await;
        let tenant = TenantId::new();
        populate(&sql, tenant).await;
        let store = open(&database);
        let applied = store.migrate().await.expect(all[level - 1].name);
        assert_eq!(applied.len(), all.len() - level);
        assert_eq!(store.schema().await.expect("asked"), Schema::Fits);
        assert_eq!(store.invariant_breaches().await.expect("asked"), []);
        assert_eq!(number(&sql, "SELECT count(*) FROM zyven.outbox").await, 41);
        // A repetition of old is recognised, and what is new is taken.
        let again = format!(
            "SELECT count(*) FROM (SELECT zyven.publish('{}', 'a.b', '{{\"amount\": 1.10}}', idempotency_key => 'old-1', channels => '{{x}}')) AS p",
            tenant.uuid()
        );
        assert_eq!(number(&sql, &again).await, 1);
        assert_eq!(number(&sql, "SELECT count(*) FROM zyven.events").await, 60);
        let fixture = Fixture {
            store: store.clone(),
            sql,
            tenant,
            database,
        };
        for n in 0..20 {
            let event = fixture.event("a.b", Some(&format!("new-{n}")));
            assert_eq!(fixture.accepted(&event).await.len(), 1);
        }
        sql = fixture.database.client().await;
        work_off(&store, &sql).await;
        assert_eq!(store.invariant_breaches().await.expect("asked"), []);
        let delivered = "SELECT count(*) FROM zyven.deliveries WHERE state = 'DELIVERED'";
        assert_eq!(number(&sql, delivered).await, 10 + 41 + 20);
        let open_letters = "SELECT count(*) FROM zyven.dead_letters";
        assert_eq!(number(&sql, open_letters).await, 9);
    }
}

/// Publishes, claims and settles by the statements of a version of then, until told to stop; returns how many were
/// published, and the longest that one statement took.
async fn old_traffic(
    database: &TestDatabase,
    tenant: TenantId,
    stop: Arc<AtomicBool>,
) -> (i64, Duration) {
    let sql = database.client().await;
    let publish = format!("SELECT zyven.publish('{}', 'a.b', '1')", tenant.uuid());
    let steps = [
        publish.as_str(),
        "UPDATE zyven.outbox SET state = 'DISPATCHING', attempts = attempts + 1, lease_token = 9,
                leased_until = now() + interval '1 hour'
          WHERE seq = (SELECT max(seq) FROM zyven.outbox WHERE state = 'RECEIVED')",
        "WITH gone AS (DELETE FROM zyven.outbox WHERE lease_token = 9 RETURNING *)
         INSERT INTO zyven.finished_deliveries
                (delivery_id, generation, attempts, seq, event_id, endpoint_id, tenant_id, state, enqueued_at)
         SELECT delivery_id, generation, attempts, seq, event_id, endpoint_id, tenant_id, 'DELIVERED', enqueued_at
           FROM gone",
    ];
    let (mut published, mut longest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        for (index, step) in steps.iter().enumerate() {
            let began = Instant::now();
            let outcome = sql.batch_execute(step).await;
            longest = longest.max(began.elapsed());
            match outcome {
                Ok(()) => published += i64::from(index == 0),
                // Chosen in a deadlock with the migration: repeated by whoever asked.
                Err(error) => assert_eq!(
                    error.code().map(|code| code.code().to_owned()).as_deref(),
                    Some("40P01"),
                    "{error:?}"
                ),
            }
        }
    }
    (published, longest)
}

#[tokio::test]
async fn migrations_run_while_traffic_flows_and_a_long_query_stops_neither_for_long() {
    let all: Vec<Migration> = zyven_store::migrations().collect();
    let database = TestDatabase::empty().await;
    let sql = database.client().await;
    apply(&sql, &all[..3]).await;
    let tenant = TenantId::new();
    populate(&sql, tenant).await;
    let events_before = number(&sql, "SELECT count(*) FROM zyven.events").await;
    // Somebody reads what the migrations alter, in a transaction that stays open.
    let reader = database.client().await;
    reader
        .batch_execute(
            "BEGIN; SELECT count(*) FROM zyven.outbox; SELECT count(*) FROM zyven.endpoints",
        )
        .await
        .expect("read");
    let stop = Arc::new(AtomicBool::new(false));
    let traffic = old_traffic(&database, tenant, Arc::clone(&stop));
    let migrating = async {
        let store = open(&database);
        let migrating = tokio::spawn(async move { store.migrate().await });
        wait_until("the migration has waited and let go", PATIENCE, async || {
            let conflicts = "SELECT count(*) FROM pg_stat_activity
                              WHERE datname = current_database() AND state = 'idle' AND query = 'ROLLBACK'";
            number(&sql, conflicts).await > 0
        })
        .await;
        assert!(!migrating.is_finished());
        reader.batch_execute("COMMIT").await.expect("ended");
        let applied = migrating.await.expect("no panic").expect("migrated");
        assert_eq!(applied.len(), all.len() - 3);
        stop.store(true, Ordering::Relaxed);
    };
    let ((published, longest), ()) = tokio::join!(traffic, migrating);
    assert!(published > 0);
    assert_eq!(
        number(&sql, "SELECT count(*) FROM zyven.events").await,
        events_before + published
    );
    // A lock is waited for one second; without that limit the reader would have stopped everybody.
    println!("{published} published meanwhile; the longest statement took {longest:?}");
    assert!(longest < Duration::from_secs(15), "{longest:?}");
}

/// Also a test between the twins: the kit's databases are as the store makes them.
#[tokio::test]
async fn payloads_are_kept_with_lz4_where_the_server_has_it_and_are_kept_where_it_has_not() {
    const COMPRESSED: &str = "
        SELECT count(*) FILTER (WHERE attcompression = 'l')
          FROM pg_attribute
         WHERE attrelid IN ('zyven.events'::regclass, 'zyven.dead_letter_records'::regclass)
           AND attname = 'payload'";
    let migrated = TestDatabase::empty().await;
    open(&migrated).migrate().await.expect("migrated");
    for database in [migrated, TestDatabase::new().await] {
        let sql = database.client().await;
        let has_lz4 = "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'";
        let has_lz4: bool = sql.query_one(has_lz4, &[]).await.expect("asked").get(0);
        let columns = if has_lz4 { 2 } else { 0 };
        assert_eq!(number(&sql, COMPRESSED).await, columns);
    }
}

#[tokio::test]
async fn a_version_knows_when_a_database_is_too_new_for_it() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.store.schema().await.expect("asked"), Schema::Fits);
    let newest = zyven_store::migrations().last().expect("some").name;
    let raise = "UPDATE zyven.compatibility SET oldest_known = $1";
    fixture
        .sql
        .execute(raise, &[&newest])
        .await
        .expect("raised");
    assert_eq!(fixture.store.schema().await.expect("asked"), Schema::Fits);
    fixture
        .sql
        .execute(raise, &[&"9999_later"])
        .await
        .expect("raised");
    let needed = "9999_later".to_owned();
    assert_eq!(
        fixture.store.schema().await.expect("asked"),
        Schema::TooNew { needed }
    );
}
