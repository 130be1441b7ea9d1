//! What a payload is sent as: kept beside it, on every way.

use std::time::Duration;

use zyven_domain::event::ContentType;
use zyven_domain::id::TenantId;
use zyven_domain::retry::DeadLetterReason;
use zyven_store::{AcceptedFor, ClaimedDelivery, Migration, NewEvent, Settlement};
use zyven_testkit::TestDatabase;

use crate::fixture::{Fixture, TOKEN, open, record, settling};
use crate::upgrading::apply;

const CLOUD_EVENT: &[u8] = br#"{"specversion":"1.0","type":"a","source":"/s","id":"1"}"#;

fn cloud_event(fixture: &Fixture) -> NewEvent {
    NewEvent {
        content_type: ContentType::CloudEvent,
        ..fixture.event_with("a", None, CLOUD_EVENT)
    }
}

async fn bury(fixture: &Fixture, claimed: &ClaimedDelivery) {
    let settlement = Settlement::DeadLetter {
        record: Some(record(404)),
        reason: DeadLetterReason::Rejected,
    };
    let item = settling(claimed, TOKEN, settlement);
    fixture.store.settle(&[item]).await.expect("settled");
}

/// Replays all dead letters after their events are gone, as retention takes them, and claims the only one.
async fn replayed(fixture: &Fixture) -> ClaimedDelivery {
    fixture
        .sql
        .batch_execute(
            "DELETE FROM zyven.events;
             SELECT zyven.replay(delivery, 'mended') FROM zyven.dead_letters",
        )
        .await
        .expect("replayed");
    let page = fixture.store.outbox_page(0).await.expect("a page");
    assert_eq!(page.len(), 1);
    fixture.claim_one(page[0].seq, TOKEN).await
}

/// How many open dead letters of CloudEvents operators see.
async fn dead_cloud_events(fixture: &Fixture) -> i64 {
    let dead = "SELECT count(*) FROM zyven.dead_letters WHERE content_type = 'application/cloudevents+json'";
    fixture.count(dead).await
}

#[tokio::test]
async fn an_event_is_what_it_came_as_on_each_attempt_and_after_a_replay() {
    let (fixture, _) = Fixture::with_endpoint().await;
    for content_type in ContentType::ALL {
        let event = NewEvent {
            content_type,
            ..fixture.event("a", None)
        };
        let seqs = fixture.accepted(&event).await;
        let first = fixture.claim_one(seqs[0], TOKEN).await;
        assert_eq!(first.content_type, content_type);
        let again = Settlement::Retry {
            record: record(500),
            retry_in: Duration::ZERO,
        };
        let item = settling(&first, TOKEN, again);
        fixture.store.settle(&[item]).await.expect("settled");
        let second = fixture.claim_one(seqs[0], TOKEN).await;
        assert_eq!(second.content_type, content_type);

        bury(&fixture, &second).await;
        let is_cloud_event = i64::from(content_type == ContentType::CloudEvent);
        assert_eq!(dead_cloud_events(&fixture).await, is_cloud_event);
        let replayed = replayed(&fixture).await;
        assert_eq!(
            (replayed.event_id, replayed.content_type),
            (event.id, content_type)
        );
        let delivered = settling(&replayed, TOKEN, Settlement::Delivered(record(200)));
        fixture.store.settle(&[delivered]).await.expect("settled");
        let read = fixture.store.event_of(fixture.tenant, event.id).await;
        let read = read.expect("asked").expect("an event");
        assert_eq!(read.content_type, content_type.as_str());
    }
    fixture.assert_invariants().await;
}

#[tokio::test]
async fn a_cancelled_cloud_event_comes_back_as_one() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let event = cloud_event(&fixture);
    fixture.accepted(&event).await;
    let cancelled = fixture
        .store
        .cancel_event(fixture.tenant, event.id, "by mistake", "tester")
        .await;
    assert!(cancelled.expect("an answer").is_some());
    assert_eq!(dead_cloud_events(&fixture).await, 1);
    assert_eq!(
        replayed(&fixture).await.content_type,
        ContentType::CloudEvent
    );
}

#[tokio::test]
async fn events_for_filters_and_for_one_endpoint_keep_it_as_well() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    fixture
        .sql
        .batch_execute("UPDATE zyven.endpoints SET filter = '$.source == \"/s\"'")
        .await
        .expect("a filter");
    let admitted = fixture.accepted(&cloud_event(&fixture)).await;
    let own = cloud_event(&fixture);
    let accepted = fixture.store.accept_for(&own, endpoint).await;
    assert!(matches!(accepted, Ok(AcceptedFor::Accepted(_))));
    for seq in admitted.into_iter().chain(fixture.seqs(own.id).await) {
        let claimed = fixture.claim_one(seq, TOKEN).await;
        assert_eq!(claimed.content_type, ContentType::CloudEvent);
    }
}

#[tokio::test]
async fn a_delivery_whose_event_is_gone_can_still_be_buried() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let seqs = fixture.accepted(&cloud_event(&fixture)).await;
    fixture
        .sql
        .batch_execute("DELETE FROM zyven.events")
        .await
        .expect("gone");
    let claimed = fixture.claim_one(seqs[0], TOKEN).await;
    assert_eq!(claimed.content_type, ContentType::Json, "nothing is known");
    let settlement = Settlement::DeadLetter {
        record: None,
        reason: DeadLetterReason::PayloadMissing,
    };
    let item = settling(&claimed, TOKEN, settlement);
    fixture.store.settle(&[item]).await.expect("settled");
    assert_eq!(
        fixture
            .count("SELECT count(*) FROM zyven.dead_letters")
            .await,
        1
    );
}

/// Who might publish in SQL before the migration may do so after it: roles are made anew by hand, and later.
#[tokio::test]
async fn producers_keep_their_right_to_publish_through_the_migration() {
    let database = TestDatabase::empty().await;
    let sql = database.client().await;
    let all: Vec<Migration> = zyven_store::migrations().collect();
    let is_this_one = |migration: &Migration| migration.name.starts_with("0019_");
    let at = all.iter().position(is_this_one).expect("the migration");
    apply(&sql, &all[..at]).await;
    // Roles belong to the whole server, so their names are nobody else's.
    let suffix = TenantId::new().uuid().simple();
    let [producer, lender, stranger] =
        ["producer", "lender", "stranger"].map(|name| format!("{name}_{suffix}"));
    sql.batch_execute(&format!(
        "CREATE ROLE {producer}; CREATE ROLE {lender}; CREATE ROLE {stranger};
         GRANT EXECUTE ON FUNCTION zyven.publish TO {producer};
         GRANT EXECUTE ON FUNCTION zyven.publish TO {lender} WITH GRANT OPTION"
    ))
    .await
    .expect("granted");
    open(&database).migrate().await.expect("migrated");
    let may = async |role: &str, right: &str| -> bool {
        let question =
            format!("SELECT has_function_privilege('{role}', 'zyven.publish'::regproc, '{right}')");
        let row = sql.query_one(&question, &[]).await.expect("one function");
        row.get(0)
    };
    for (role, may_publish, may_grant) in [
        (&producer, true, false),
        (&lender, true, true),
        (&stranger, false, false),
    ] {
        assert_eq!(may(role, "EXECUTE").await, may_publish, "{role}");
        let grant = "EXECUTE WITH GRANT OPTION";
        assert_eq!(may(role, grant).await, may_grant, "{role}");
    }
    let roles = format!("{producer}, {lender}, {stranger}");
    sql.batch_execute(&format!("DROP OWNED BY {roles}; DROP ROLE {roles}"))
        .await
        .expect("dropped");
}
