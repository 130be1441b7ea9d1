//! What tenants see, and what it costs to look.

use std::time::Duration;

use zyven_domain::id::{ApiKeyId, DeliveryId, EndpointId, EventId, TenantId};
use zyven_domain::lifecycle::DeliveryState;
use zyven_domain::retry::DeadLetterReason;
use zyven_store::{Actor, DeliveryFilter, Replayed, Settlement, Store};
use zyven_testkit::wait_until;

use crate::fixture::{Fixture, TOKEN, open, record, settling};

async fn listed(
    fixture: &Fixture,
    states: &[DeliveryState],
) -> Vec<(DeliveryId, DeliveryState, i32)> {
    let filter = DeliveryFilter {
        states: states.to_vec(),
        ..DeliveryFilter::default()
    };
    let found = fixture
        .store
        .deliveries_of(fixture.tenant, &filter, None, 10)
        .await;
    let found = found.expect("deliveries");
    found
        .iter()
        .map(|d| (d.id, d.state, d.generation))
        .collect()
}

#[tokio::test]
async fn a_replayed_dead_letter_is_listed_once_in_its_latest_generation() {
    use DeliveryState::{DeadLettered, Delivered, Received};
    let (fixture, _) = Fixture::with_endpoint().await;
    let claimed = fixture.claimed().await;
    let (id, tenant) = (claimed.delivery_id, fixture.tenant);
    let settlement = Settlement::DeadLetter {
        record: Some(record(404)),
        reason: DeadLetterReason::Rejected,
    };
    fixture
        .store
        .settle(&[settling(&claimed, TOKEN, settlement)])
        .await
        .expect("settled");
    assert_eq!(listed(&fixture, &[]).await, [(id, DeadLettered, 1)]);

    let stranger = TenantId::new();
    let refused = fixture.store.replay(stranger, id, "mine now").await;
    assert_eq!(refused.expect("asked"), Replayed::NotFound);
    let actor = Actor::Key(ApiKeyId::new());
    let replayed = fixture.store.by(actor).replay(tenant, id, "fixed").await;
    assert_eq!(replayed.expect("asked"), Replayed::Queued);
    assert_eq!(listed(&fixture, &[]).await, [(id, Received, 2)]);
    assert_eq!(listed(&fixture, &[DeadLettered]).await, []);
    let refused = fixture.store.by(actor).replay(tenant, id, "again").await;
    assert_eq!(
        refused.expect("asked"),
        Replayed::Refused("it is still being delivered".to_owned())
    );

    let seqs = fixture.seqs(claimed.event_id).await;
    let again = fixture.claim_one(seqs[0], 9).await;
    let delivered = Settlement::Delivered(record(200));
    fixture
        .store
        .settle(&[settling(&again, 9, delivered)])
        .await
        .expect("settled");
    assert_eq!(listed(&fixture, &[]).await, [(id, Delivered, 2)]);
    let found = fixture
        .store
        .delivery_of(tenant, id)
        .await
        .expect("asked")
        .expect("it");
    assert_eq!((found.state, found.generation), (Delivered, 2));
    let attempts = fixture
        .store
        .attempts_of(tenant, id)
        .await
        .expect("attempts");
    let seen: Vec<_> = attempts
        .iter()
        .map(|a| (a.generation, a.number, a.state_after))
        .collect();
    assert_eq!(seen, [(1, 1, DeadLettered), (2, 1, Delivered)]);
    let signed = fixture
        .count(&format!(
            "SELECT count(*) FROM zyven.replays WHERE decided_by = '{actor}'"
        ))
        .await;
    assert_eq!(signed, 1, "a refused replay leaves no trace");
}

#[tokio::test]
async fn the_deliveries_of_an_event_are_its_own() {
    let fixture = Fixture::new().await;
    for _ in 0..3 {
        fixture.endpoint(&["*"], &[]).await;
    }
    // Events of the same millisecond share the range in which their deliveries are looked for.
    let events: Vec<_> = (0..20).map(|_| fixture.event("a", None)).collect();
    fixture.store.accept(&events).await.expect("accepted");
    for event in &events {
        let found = fixture
            .store
            .deliveries_of_event(fixture.tenant, event.id, None, 2)
            .await;
        let mut found = found.expect("deliveries");
        assert_eq!(found.len(), 2, "the limit");
        let last = found[1].id;
        let rest = fixture
            .store
            .deliveries_of_event(fixture.tenant, event.id, Some(last), 2)
            .await;
        found.extend(rest.expect("deliveries"));
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|delivery| delivery.event_id == event.id));
        let states = fixture
            .store
            .states_of_event(fixture.tenant, event.id)
            .await;
        assert_eq!(states.expect("states"), [(DeliveryState::Received, 3)]);
    }
    let stranger = TenantId::new();
    let found = fixture.store.states_of_event(stranger, events[0].id).await;
    assert_eq!(found.expect("states"), []);
}

/// Finished deliveries of two tenants, most of them not ours, over two days.
const FILL: &str = "
    INSERT INTO zyven.finished_deliveries
           (delivery_id, generation, attempts, seq, event_id, endpoint_id, tenant_id, state, enqueued_at,
            started_at, http_status, total_us)
    SELECT zyven.delivery_id(e.id, e.endpoint), 1, 1, n, e.id, e.endpoint, e.tenant, 'DELIVERED', now(),
           now(), 200, 1000
      FROM generate_series(1, 20000) AS n
     CROSS JOIN LATERAL (
           SELECT overlay(gen_random_uuid()::text
                      PLACING left(zyven.uuid_floor(now() - n * interval '4 seconds')::text, 13)
                      FROM 1 FOR 13)::uuid AS id,
                  CASE WHEN n % 100 = 0 THEN $1::uuid ELSE $2 END AS endpoint,
                  CASE WHEN n % 100 = 0 THEN $3::uuid ELSE $4 END AS tenant) AS e";

#[tokio::test]
async fn no_read_scans_the_history_from_end_to_end() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    let (stranger, theirs) = (TenantId::new(), EndpointId::new());
    fixture
        .sql
        .execute(
            FILL,
            &[
                &endpoint.uuid(),
                &theirs.uuid(),
                &fixture.tenant.uuid(),
                &stranger.uuid(),
            ],
        )
        .await
        .expect("filled");
    fixture
        .sql
        .batch_execute("VACUUM ANALYZE")
        .await
        .expect("analysed");
    let before = scans(&fixture).await;

    let store = open(&fixture.database);
    let tenant = fixture.tenant;
    let first = store
        .deliveries_of(tenant, &DeliveryFilter::default(), None, 51)
        .await;
    let first = first.expect("a page");
    assert_eq!(first.len(), 51);
    let filters = [
        DeliveryFilter {
            endpoint: Some(endpoint),
            ..DeliveryFilter::default()
        },
        DeliveryFilter {
            states: vec![DeliveryState::DeadLettered],
            ..DeliveryFilter::default()
        },
        DeliveryFilter {
            since: Some(chrono::Utc::now() - chrono::TimeDelta::hours(1)),
            ..DeliveryFilter::default()
        },
    ];
    // More often than PostgreSQL waits before it considers a plan for any parameters.
    for _ in 0..8 {
        for filter in &filters {
            let page = store
                .deliveries_of(tenant, filter, Some(first[50].id), 51)
                .await;
            page.expect("a page");
        }
        let since = chrono::Utc::now() - chrono::TimeDelta::hours(1);
        let events = store.events_of(tenant, since, None, None, 51).await;
        events.expect("a page");
        ask_about_one(&store, tenant, first[0].event_id, first[0].id).await;
    }
    drop(store);
    wait_until(
        "its sessions have told what they did",
        Duration::from_secs(20),
        async || {
            fixture
                .count("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
                .await
                == 1
        },
    )
    .await;
    assert_eq!(scans(&fixture).await, before);
}

async fn ask_about_one(store: &Store, tenant: TenantId, event: EventId, delivery: DeliveryId) {
    store
        .delivery_of(tenant, delivery)
        .await
        .expect("asked")
        .expect("it");
    store.attempts_of(tenant, delivery).await.expect("attempts");
    store.event_of(tenant, event).await.expect("asked");
    let states = store.states_of_event(tenant, event).await;
    assert_eq!(states.expect("states"), [(DeliveryState::Delivered, 1)]);
    let found = store.deliveries_of_event(tenant, event, None, 51).await;
    assert_eq!(found.expect("deliveries").len(), 1);
}

/// Sequential scans of partitions that are not small: of some hundred rows, as there are soon after midnight, a scan is the best plan.
async fn scans(fixture: &Fixture) -> Vec<(String, i64)> {
    fixture
        .sql
        .query(
            "SELECT relname::text, seq_scan FROM pg_stat_user_tables
              WHERE schemaname = 'zyven' AND relname ~ '^finished' AND n_live_tup > 2000
              ORDER BY relname",
            &[],
        )
        .await
        .expect("statistics")
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect()
}
