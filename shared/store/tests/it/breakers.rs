//! What operators see of breakers, in SQL: as long as somebody says so, and no longer.

use std::time::Duration;

use zyven_domain::id::EndpointId;
use zyven_store::BreakerIs;

use crate::fixture::Fixture;

const PROBE_IN: Duration = Duration::from_secs(30);

/// The columns of what operators ask, as text: whether the breaker is open, of deliveries that are due.
async fn seen(fixture: &Fixture) -> [String; 4] {
    let row = fixture
        .sql
        .query_one(
            "SELECT (SELECT (breaker_open_until IS NOT NULL)::text FROM zyven.endpoint_health),
                    (SELECT coalesce(min(because), 'nothing') FROM zyven.left_alone),
                    (SELECT is_left_alone::text || ' ' || left(why, 23) FROM zyven.stuck),
                    (SELECT code FROM zyven.explain((SELECT event FROM zyven.stuck)))",
            &[],
        )
        .await
        .expect("an answer");
    [0, 1, 2, 3].map(|column| row.get(column))
}

/// An endpoint with a delivery that has been due for an hour, and that the relay has handed over.
async fn with_an_overdue_delivery() -> (Fixture, EndpointId) {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    fixture.accepted(&fixture.event("a", None)).await;
    fixture
        .sql
        .batch_execute(
            "UPDATE zyven.outbox SET due_at = now() - interval '1 hour';
             UPDATE zyven.relay SET watermark = (SELECT max(seq) FROM zyven.outbox)",
        )
        .await
        .expect("aged");
    (fixture, endpoint)
}

async fn age(fixture: &Fixture, sql: &str) {
    let aged = format!("UPDATE zyven.breakers SET {sql}");
    assert_eq!(fixture.sql.execute(&aged, &[]).await.expect("aged"), 1);
}

const OPEN: [&str; 4] = [
    "true",
    "breaker_open",
    "true its breaker is open unt",
    "breaker_open",
];
const CLOSED: [&str; 4] = [
    "false",
    "nothing",
    "false it waits in its endpoin",
    "in_lane",
];

#[tokio::test]
async fn operators_see_an_open_breaker_until_it_closes() {
    let (fixture, endpoint) = with_an_overdue_delivery().await;
    let store = &fixture.store;
    assert_eq!(seen(&fixture).await, CLOSED);
    for _ in 0..2 {
        let noted = store.note_breaker_open(endpoint, BreakerIs::Open, PROBE_IN);
        noted.await.expect("noted");
    }
    assert_eq!(seen(&fixture).await, OPEN);
    let left_alone = store.endpoints_left_alone().await.expect("asked");
    assert_eq!(left_alone, [endpoint]);

    age(&fixture, "opened_at = opened_at - interval '1 hour'").await;
    let noted = store.note_breaker_open(endpoint, BreakerIs::StillOpen, PROBE_IN * 2);
    noted.await.expect("noted");
    let told = "SELECT (breaker_opened_at < now() - interval '59 minutes' AND breaker_open_until > now() + interval '50 seconds')::int::bigint FROM zyven.endpoint_health";
    assert_eq!(
        fixture.count(told).await,
        1,
        "open for an hour, probed in a minute"
    );
    let noted = store.note_breaker_open(endpoint, BreakerIs::Open, PROBE_IN);
    noted.await.expect("noted");
    assert_eq!(fixture.count(told).await, 0, "it has opened anew");

    for _ in 0..2 {
        let noted = store.note_breaker_closed(endpoint);
        noted.await.expect("noted");
    }
    assert_eq!(seen(&fixture).await, CLOSED);
    assert!(
        store
            .endpoints_left_alone()
            .await
            .expect("asked")
            .is_empty()
    );
}

/// The word that it has closed may get lost, and so may a dispatcher.
#[tokio::test]
async fn an_open_breaker_is_believed_until_a_minute_after_its_probe() {
    let (fixture, endpoint) = with_an_overdue_delivery().await;
    let noted = fixture
        .store
        .note_breaker_open(endpoint, BreakerIs::StillOpen, PROBE_IN);
    noted.await.expect("noted");
    age(&fixture, "probe_at = now() - interval '55 seconds'").await;
    assert_eq!(seen(&fixture).await, OPEN);
    age(&fixture, "probe_at = now() - interval '61 seconds'").await;
    assert_eq!(seen(&fixture).await, CLOSED);
}

#[tokio::test]
async fn a_breaker_of_a_deleted_endpoint_is_not_shown_and_its_row_goes() {
    let (fixture, deleted) = Fixture::with_endpoint().await;
    let other = fixture.endpoint(&["other"], &[]).await;
    let open = async |endpoint| {
        let noted = (fixture.store).note_breaker_open(endpoint, BreakerIs::Open, PROBE_IN);
        noted.await.expect("noted");
    };
    open(deleted).await;
    let removed = (fixture.store).remove_endpoint(fixture.tenant, deleted, None);
    assert_eq!(removed.await.expect("an answer"), Ok(()));
    let shown = "SELECT count(*) FROM zyven.left_alone";
    assert_eq!(fixture.count(shown).await, 0);
    open(EndpointId::new()).await;

    let rows = "SELECT count(*) FROM zyven.breakers";
    age(&fixture, "probe_at = now() - interval '23 hours'").await;
    open(other).await;
    assert_eq!(fixture.count(rows).await, 2);
    (fixture.store)
        .note_breaker_closed(other)
        .await
        .expect("noted");
    age(&fixture, "probe_at = now() - interval '25 hours'").await;
    open(deleted).await;
    assert_eq!(fixture.count(rows).await, 1, "its own row is not touched");
    open(other).await;
    assert_eq!(fixture.count(rows).await, 1, "that of the other alone");
}

#[tokio::test]
async fn noting_a_breaker_waits_for_nobody_who_keeps_an_endpoint_locked() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    let somebody = fixture.database.client().await;
    let lock = "BEGIN; SELECT FROM zyven.endpoints FOR UPDATE";
    somebody.batch_execute(lock).await.expect("a lock");
    // It would give up after a second, and say so.
    let noted = fixture
        .store
        .note_breaker_open(endpoint, BreakerIs::Open, PROBE_IN);
    noted.await.expect("noted");
    fixture
        .store
        .note_breaker_closed(endpoint)
        .await
        .expect("noted");
    drop(somebody);
}

#[tokio::test]
async fn an_endpoint_that_is_disabled_and_paused_is_shown_as_both() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    fixture
        .sql
        .execute(
            "UPDATE zyven.endpoints SET status = 'disabled', disabled_reason = 'manual', paused_at = now() WHERE id = $1",
            &[&endpoint.uuid()],
        )
        .await
        .expect("changed");
    let noted = fixture
        .store
        .note_breaker_open(endpoint, BreakerIs::Open, PROBE_IN);
    noted.await.expect("noted");
    let row = fixture
        .sql
        .query_one(
            "SELECT status, (SELECT string_agg(because, ' ') FROM zyven.left_alone) FROM zyven.endpoint_health",
            &[],
        )
        .await
        .expect("an answer");
    assert_eq!(row.get::<_, String>(0), "disabled: manual; and paused");
    assert_eq!(row.get::<_, String>(1), "paused", "one row for each");
}
