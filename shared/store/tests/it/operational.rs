//! What befalls deliveries and endpoints, told to those who asked for it by name, and to nobody else.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use zyven_domain::id::{EndpointId, EventId, TenantId};
use zyven_domain::retry::DeadLetterReason;
use zyven_store::{ClaimedDelivery, DISABLED_AS_GONE, SettleItem, Settled, Settlement};
use zyven_testkit::live_through;

use crate::fixture::{Fixture, LEASE, TOKEN, record, settling};

const DEAD_LETTERED: &str = "zyven.delivery.dead_lettered";
const DISABLED: &str = "zyven.endpoint.disabled";
const BREAKER_OPENED: &str = "zyven.endpoint.breaker_opened";
const SEEDS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/it/operational_seeds.txt"
);

fn rejected() -> Settlement {
    Settlement::DeadLetter {
        record: Some(record(404)),
        reason: DeadLetterReason::Rejected,
    }
}

/// Each operational event of this type, with the endpoints that are told of it.
async fn told(fixture: &Fixture, event_type: &str) -> Vec<(Value, Vec<EndpointId>)> {
    let rows = fixture
        .sql
        .query(
            "SELECT convert_from(e.payload, 'UTF8'),
                    ARRAY(SELECT o.endpoint_id FROM zyven.outbox o WHERE o.event_id = e.id ORDER BY o.endpoint_id)
               FROM zyven.events e
              WHERE e.type = $1
              ORDER BY e.id",
            &[&event_type],
        )
        .await
        .expect("events");
    let event = |row: &tokio_postgres::Row| {
        let payload = serde_json::from_str(row.get(0)).expect("JSON");
        let endpoints: Vec<uuid::Uuid> = row.get(1);
        let endpoints = endpoints.into_iter().map(EndpointId::from_uuid);
        (payload, endpoints.collect())
    };
    rows.iter().map(event).collect()
}

/// Accepts an event of this type and claims the delivery that goes to `endpoint`.
async fn claimed(fixture: &Fixture, event_type: &str, endpoint: EndpointId) -> ClaimedDelivery {
    let seqs = fixture.accepted(&fixture.event(event_type, None)).await;
    let claim = fixture.store.claim(&seqs, TOKEN, LEASE).await;
    let mut claimed = claim.expect("an answer").claimed.into_iter();
    let wanted = claimed.find(|delivery| delivery.endpoint_id == endpoint);
    wanted.expect("it goes there")
}

async fn settle(fixture: &Fixture, item: &SettleItem) -> Settled {
    let settled = fixture.store.settle(std::slice::from_ref(item)).await;
    settled.expect("settled")[0]
}

#[tokio::test]
async fn a_dead_letter_is_told_once_to_those_who_asked_by_name() {
    let fixture = Fixture::new().await;
    let broken = fixture.endpoint(&["invoice.*"], &[]).await;
    let everything = fixture.endpoint(&["*"], &[]).await;
    let exact = fixture.endpoint(&[DEAD_LETTERED], &[]).await;
    let family = fixture.endpoint(&["zyven.*", DEAD_LETTERED], &[]).await;
    fixture.endpoint(&["zyven.endpoint.*"], &[]).await;
    fixture.endpoint(&["zyven.*"], &["a-channel"]).await;
    let stranger = TenantId::new();
    for sql in [
        "INSERT INTO zyven.tenants (id, name) VALUES ($1, 'stranger')",
        "INSERT INTO zyven.endpoints (id, tenant_id, url, event_types)
         VALUES (zyven.uuid_v7(), $1, 'http://192.0.2.1/', '{zyven.*}')",
    ] {
        let done = fixture.sql.execute(sql, &[&stranger.uuid()]).await;
        done.expect("a stranger");
    }

    let delivery = claimed(&fixture, "invoice.paid", broken).await;
    let item = settling(&delivery, TOKEN, rejected());
    assert_eq!(settle(&fixture, &item).await, Settled::Done);
    // As after an answer that got lost.
    assert_eq!(settle(&fixture, &item).await, Settled::Superseded);

    let told = told(&fixture, DEAD_LETTERED).await;
    let [(payload, endpoints)] = &told[..] else {
        panic!("{told:?}");
    };
    let mut expected = vec![exact, family];
    expected.sort();
    assert_eq!(endpoints, &expected, "and not {everything}, who takes all");
    let moments = ["accepted_at", "dead_lettered_at"];
    for moment in moments {
        let text = payload[moment].as_str().expect("a moment");
        assert!(chrono::DateTime::parse_from_rfc3339(text).is_ok(), "{text}");
    }
    let mut told = payload.clone();
    for moment in moments {
        told.as_object_mut().expect("an object").remove(moment);
    }
    assert_eq!(
        told,
        json!({
            "delivery_id": delivery.delivery_id, "generation": 1, "event_id": delivery.event_id,
            "event_type": "invoice.paid", "endpoint_id": broken, "reason": "rejected", "attempts": 1,
            "http_status": 404, "error": null,
        })
    );
    fixture.assert_invariants().await;
}

#[tokio::test]
async fn a_dead_letter_is_on_record_also_where_nothing_can_be_told() {
    let fixture = Fixture::new().await;
    let broken = fixture.endpoint(&["a"], &[]).await;
    fixture.endpoint(&[DEAD_LETTERED], &[]).await;
    let today = "DO $$ BEGIN EXECUTE 'DROP TABLE zyven.events_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD'); END $$";
    fixture.sql.batch_execute(today).await.expect("dropped");
    let buried = fixture
        .sql
        .execute(
            "INSERT INTO zyven.dead_letter_records
                    (delivery_id, generation, event_id, endpoint_id, tenant_id, event_type, payload, accepted_at, reason, attempts)
             SELECT zyven.uuid_v7(), 1, zyven.uuid_v7(), id, tenant_id, 'a', '{}', now(), 'rejected', 1
               FROM zyven.endpoints
              WHERE id = $1",
            &[&broken.uuid()],
        )
        .await;
    assert_eq!(buried.expect("on record"), 1);
    assert!(told(&fixture, DEAD_LETTERED).await.is_empty());
}

#[tokio::test]
async fn where_nobody_asks_nothing_is_told() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    let delivery = claimed(&fixture, "a", endpoint).await;
    settle(&fixture, &settling(&delivery, TOKEN, rejected())).await;
    fixture
        .store
        .disable_endpoint(endpoint, fixture.changed_at(endpoint).await, "gone")
        .await
        .expect("disabled");
    let events = fixture.count("SELECT count(*) FROM zyven.events").await;
    assert_eq!(events, 1, "the one that was published");
}

#[tokio::test]
async fn how_an_operational_event_ends_is_not_told() {
    let fixture = Fixture::new().await;
    let broken = fixture.endpoint(&["a"], &[]).await;
    let one = fixture.endpoint(&["zyven.*"], &[]).await;
    fixture.endpoint(&["zyven.*"], &[]).await;
    let delivery = claimed(&fixture, "a", broken).await;
    settle(&fixture, &settling(&delivery, TOKEN, rejected())).await;

    let seqs: Vec<i64> = (fixture.sql)
        .query(
            "SELECT seq FROM zyven.outbox WHERE endpoint_id = $1",
            &[&one.uuid()],
        )
        .await
        .expect("rows")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(seqs.len(), 1);
    let telling = fixture.claim_one(seqs[0], TOKEN).await;
    let item = settling(&telling, TOKEN, rejected());
    assert_eq!(settle(&fixture, &item).await, Settled::Done);
    assert_eq!(told(&fixture, DEAD_LETTERED).await.len(), 1);
}

#[tokio::test]
async fn nobody_is_told_about_itself_or_what_somebody_called_off() {
    let fixture = Fixture::new().await;
    let endpoint = fixture.endpoint(&["a", "zyven.*"], &[]).await;
    let delivery = claimed(&fixture, "a", endpoint).await;
    settle(&fixture, &settling(&delivery, TOKEN, rejected())).await;
    assert_eq!(told(&fixture, DEAD_LETTERED).await, []);

    fixture.endpoint(&["zyven.*"], &[]).await;
    let event = fixture.event("a", None);
    fixture.accepted(&event).await;
    let cancelled = fixture
        .store
        .cancel_event(fixture.tenant, event.id, "by mistake", "tester")
        .await;
    assert_eq!(cancelled.expect("an answer").expect("there").cancelled, 1);
    assert_eq!(told(&fixture, DEAD_LETTERED).await, []);
}

#[tokio::test]
async fn a_filter_narrows_what_an_endpoint_is_told() {
    let fixture = Fixture::new().await;
    let broken = fixture.endpoint(&["*"], &[]).await;
    let narrow = fixture.endpoint(&["zyven.*"], &[]).await;
    fixture
        .sql
        .execute(
            "UPDATE zyven.endpoints SET filter = '$.reason == \"rejected\"' WHERE id = $1",
            &[&narrow.uuid()],
        )
        .await
        .expect("a filter");
    for reason in [DeadLetterReason::Gone, DeadLetterReason::Rejected] {
        let delivery = claimed(&fixture, "a", broken).await;
        let settlement = Settlement::DeadLetter {
            record: None,
            reason,
        };
        settle(&fixture, &settling(&delivery, TOKEN, settlement)).await;
    }
    let told = told(&fixture, DEAD_LETTERED).await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].0["reason"], "rejected");
}

#[tokio::test]
async fn an_endpoint_that_is_disabled_is_told_once_to_the_others() {
    let fixture = Fixture::new().await;
    let endpoint = fixture.endpoint(&["a", DISABLED], &[]).await;
    let other = fixture.endpoint(&[DISABLED], &[]).await;
    let seen = fixture.changed_at(endpoint).await;
    for is_news in [true, false] {
        let disabled = fixture
            .store
            .disable_endpoint(endpoint, seen, DISABLED_AS_GONE);
        assert_eq!(disabled.await.expect("an answer"), is_news);
    }
    let told = told(&fixture, DISABLED).await;
    assert_eq!(told.len(), 1);
    let (payload, endpoints) = &told[0];
    assert_eq!(endpoints, &[other]);
    assert_eq!(payload["endpoint_id"], json!(endpoint));
    assert_eq!(payload["cause"], "gone");
    assert_eq!(payload["reason"], DISABLED_AS_GONE);

    let removed = fixture
        .store
        .remove_endpoint(fixture.tenant, other, None)
        .await;
    assert_eq!(removed.expect("an answer"), Ok(()));
    assert_eq!(
        fixture.count("SELECT count(*) FROM zyven.events").await,
        1,
        "who removes an endpoint knows"
    );
}

/// By its owner in the API, or by whoever writes SQL.
#[tokio::test]
async fn an_endpoint_that_somebody_disables_is_told_with_the_owner_as_its_cause() {
    let fixture = Fixture::new().await;
    fixture.endpoint(&[DISABLED], &[]).await;
    let (owners, operators) = (
        fixture.endpoint(&["a"], &[]).await,
        fixture.endpoint(&["a"], &[]).await,
    );
    let reason = "disabled with key key_1";
    let disabled = fixture
        .store
        .disable_endpoint_of(fixture.tenant, owners, reason)
        .await;
    assert!(disabled.expect("an answer").is_some());
    let sql = "UPDATE zyven.endpoints SET status = 'disabled', disabled_reason = 'it was gone' WHERE id = $1";
    let disabled = fixture.sql.execute(sql, &[&operators.uuid()]).await;
    assert_eq!(disabled.expect("disabled"), 1);
    let told = told(&fixture, DISABLED).await;
    let said: Vec<(&Value, &Value)> = told
        .iter()
        .map(|(payload, _)| (&payload["cause"], &payload["reason"]))
        .collect();
    let owner = json!("owner");
    assert_eq!(
        said,
        [(&owner, &json!(reason)), (&owner, &json!("it was gone"))]
    );
}

#[tokio::test]
async fn an_opened_breaker_is_told_once_however_often_it_is_said() {
    let fixture = Fixture::new().await;
    let failing = fixture.endpoint(&["a"], &[]).await;
    let watching = fixture.endpoint(&[BREAKER_OPENED], &[]).await;
    let event = EventId::new();
    let say = |event, endpoint| {
        let probe_in = Duration::from_secs(30);
        fixture.store.tell_breaker_opened(event, endpoint, probe_in)
    };
    assert_eq!(say(event, failing).await.expect("told"), 1);
    assert_eq!(say(event, failing).await.expect("told"), 0);
    // Two that watch each other would go on telling each other.
    fixture.endpoint(&["zyven.*"], &[]).await;
    assert_eq!(say(EventId::new(), watching).await.expect("told"), 0);
    assert_eq!(
        say(EventId::new(), EndpointId::new()).await.expect("told"),
        0
    );

    let told = told(&fixture, BREAKER_OPENED).await;
    assert_eq!(told.len(), 1);
    let (payload, endpoints) = &told[0];
    assert_eq!(endpoints, &[watching]);
    assert_eq!(payload["endpoint_id"], json!(failing));
    assert_eq!(payload["probe_in_ms"], 30_000);
    fixture.assert_invariants().await;
}

#[tokio::test]
async fn telling_waits_for_no_lock_that_somebody_keeps() {
    let fixture = Fixture::new().await;
    let broken = fixture.endpoint(&["a"], &[]).await;
    fixture.endpoint(&["zyven.*"], &[]).await;
    let delivery = claimed(&fixture, "a", broken).await;
    let somebody = fixture.database.client().await;
    somebody
        .batch_execute(
            "BEGIN;
             SELECT FROM zyven.tenants FOR UPDATE;
             SELECT FROM zyven.endpoints FOR UPDATE;
             SELECT FROM zyven.routing_versions FOR UPDATE;
             SELECT FROM zyven.subscriptions FOR UPDATE;
             SELECT FROM zyven.events FOR UPDATE",
        )
        .await
        .expect("locks");
    // It would give up after a second, and say so.
    let item = settling(&delivery, TOKEN, rejected());
    assert_eq!(settle(&fixture, &item).await, Settled::Done);
    assert_eq!(told(&fixture, DEAD_LETTERED).await.len(), 1);
    let opened = fixture
        .store
        .tell_breaker_opened(EventId::new(), broken, Duration::ZERO)
        .await;
    assert_eq!(opened.expect("told"), 1);
    drop(somebody);
}

#[tokio::test]
async fn sql_publishes_no_types_of_zyvens_own() {
    let fixture = Fixture::new().await;
    let tenant = fixture.tenant.to_string();
    let publish = "SELECT zyven.publish($1, $2, '{}')";
    let refused = fixture.sql.query(publish, &[&tenant, &DISABLED]).await;
    let refused = refused.expect_err("refused");
    let refused = refused.as_db_error().expect("by the database");
    assert!(
        refused.message().contains("must not begin with"),
        "{refused}"
    );
    let accepted = fixture.sql.query(publish, &[&tenant, &"zyvenish.a"]).await;
    assert!(accepted.is_ok());
}

/// What is to become of one of the deliveries of a story.
fn settlement(number: usize) -> (Settlement, i64, bool) {
    match number {
        0 => (Settlement::Delivered(record(200)), TOKEN, false),
        1 => (rejected(), TOKEN + 1, false), // a lease that was lost
        2 => {
            let reason = DeadLetterReason::EndpointDeleted;
            let record = None;
            (Settlement::DeadLetter { record, reason }, TOKEN, true)
        }
        _ => (rejected(), TOKEN, true),
    }
}

#[test]
fn whatever_is_settled_together_and_again_is_told_once() {
    const DELIVERIES: usize = 6;
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (fixture, endpoint) = runtime.block_on(async {
        let fixture = Fixture::new().await;
        let endpoint = fixture.endpoint(&["a"], &[]).await;
        fixture.endpoint(&["zyven.*"], &[]).await;
        fixture.endpoint(&[DEAD_LETTERED], &[]).await;
        (fixture, endpoint)
    });
    // Batches of deliveries, by number. One may be in several.
    let batch = prop::collection::btree_set(0..DELIVERIES, 1..=DELIVERIES);
    let batches = prop::collection::vec(batch, 1..5);
    live_through(25, SEEDS, &batches, |batches| {
        runtime.block_on(async {
            let before = told(&fixture, DEAD_LETTERED).await.len();
            let mut deliveries = Vec::new();
            for _ in 0..DELIVERIES {
                deliveries.push(claimed(&fixture, "a", endpoint).await);
            }
            for batch in &batches {
                let items: Vec<SettleItem> = (batch.iter())
                    .map(|&number| {
                        let (settlement, token, _) = settlement(number);
                        settling(&deliveries[number], token, settlement)
                    })
                    .collect();
                for _ in 0..2 {
                    fixture.store.settle(&items).await.expect("settled");
                }
            }
            let dead: std::collections::BTreeSet<usize> = (batches.iter().flatten().copied())
                .filter(|&number| settlement(number).2)
                .collect();
            let told = told(&fixture, DEAD_LETTERED).await;
            assert_eq!(told.len() - before, dead.len(), "{batches:?}");
            assert!(told.iter().all(|(_, endpoints)| endpoints.len() == 2));
            fixture.assert_invariants().await;
        });
    });
    // Connections are closed before their database is dropped.
    runtime.block_on(async move { drop(fixture) });
}
