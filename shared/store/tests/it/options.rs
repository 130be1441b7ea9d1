//! What a publisher may ask: not before, not after, in this order.

use chrono::{DateTime, TimeDelta, Utc};
use zyven_domain::event::OrderingKey;
use zyven_domain::retry::DeadLetterReason;
use zyven_store::{Accepted, NewEvent, RefusedTicket, Settled, Settlement};

use crate::fixture::{Fixture, LEASE, TOKEN, record, settling};

fn in_seconds(seconds: i64) -> DateTime<Utc> {
    // PostgreSQL keeps microseconds.
    let moment = (Utc::now() + TimeDelta::seconds(seconds)).timestamp_micros();
    DateTime::from_timestamp_micros(moment).expect("a moment")
}

fn ordered(mut event: NewEvent, key: &str) -> NewEvent {
    event.options.ordering_key = OrderingKey::parse(key).ok();
    event
}

#[tokio::test]
async fn an_event_for_later_is_due_and_begins_to_age_at_its_time() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let mut event = fixture.event("a", None);
    let later = in_seconds(3_600);
    event.options.deliver_at = Some(later);
    let seqs = fixture.accepted(&event).await;
    let row = fixture
        .sql
        .query_one("SELECT due_at, enqueued_at FROM zyven.outbox", &[])
        .await
        .expect("a row");
    assert_eq!(
        (
            row.get::<_, DateTime<Utc>>(0),
            row.get::<_, DateTime<Utc>>(1)
        ),
        (later, later)
    );
    let claim = fixture.store.claim(&seqs, TOKEN, LEASE).await;
    let refused = claim.expect("an answer").refused;
    let [RefusedTicket::Later { due_in, .. }] = refused[..] else {
        panic!("{refused:?}");
    };
    assert!((3_500..=3_600).contains(&due_in.as_secs()), "{due_in:?}");
}

#[tokio::test]
async fn a_time_that_has_passed_means_at_once() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let mut event = fixture.event("a", None);
    event.options.deliver_at = Some(in_seconds(-3_600));
    let seqs = fixture.accepted(&event).await;
    let claimed = fixture.claim_one(seqs[0], TOKEN).await;
    let age = Utc::now() - claimed.accepted_at;
    assert!(
        age < TimeDelta::seconds(1_800),
        "it is as young as any: {age}"
    );
}

#[tokio::test]
async fn a_payload_is_kept_for_as_long_as_its_delivery_waits() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let mut event = fixture.event("a", None);
    event.options.deliver_at = Some(in_seconds(20 * 86_400));
    fixture.accepted(&event).await;
    // As if the event had been accepted ten days ago, on a day whose retention has passed.
    fixture
        .sql
        .batch_execute(
            "SELECT zyven.ensure_partition(now() - interval '10 days');
             UPDATE zyven.events SET id = zyven.uuid_floor(now() - interval '10 days');
             UPDATE zyven.outbox
                SET event_id = (SELECT id FROM zyven.events),
                    delivery_id = zyven.delivery_id((SELECT id FROM zyven.events), endpoint_id)",
        )
        .await
        .expect("arranged");
    let day = std::time::Duration::from_secs(86_400);
    let dropped = fixture.store.drop_expired_partitions(2 * day).await;
    assert_eq!(dropped.expect("asked"), Vec::<String>::new());
    assert_eq!(fixture.count("SELECT count(*) FROM zyven.events").await, 1);
}

#[tokio::test]
async fn a_claim_tells_when_the_event_expires_until_it_is_replayed() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let mut event = fixture.event("a", None);
    let soon = in_seconds(60);
    event.options.expires_at = Some(soon);
    let seqs = fixture.accepted(&event).await;
    let claimed = fixture.claim_one(seqs[0], TOKEN).await;
    assert_eq!(claimed.expires_at, Some(soon));
    let settlement = Settlement::DeadLetter {
        record: Some(record(500)),
        reason: DeadLetterReason::Expired,
    };
    let settled = fixture
        .store
        .settle(&[settling(&claimed, TOKEN, settlement)])
        .await;
    assert_eq!(settled.expect("settled"), [Settled::Done]);

    fixture
        .sql
        .query(
            "SELECT zyven.replay($1, 'late is better than never')",
            &[&claimed.delivery_id.to_string()],
        )
        .await
        .expect("replayed");
    let again = fixture
        .claim_one(fixture.seqs(event.id).await[0], TOKEN)
        .await;
    assert_eq!((again.generation, again.expires_at), (2, None));
}

#[tokio::test]
async fn what_was_called_off_is_replayed_among_many_only_by_its_name() {
    let (fixture, _) = Fixture::with_endpoint().await;
    for reason in [DeadLetterReason::Expired, DeadLetterReason::Rejected] {
        let claimed = fixture.claimed().await;
        let settlement = Settlement::DeadLetter {
            record: Some(record(500)),
            reason,
        };
        let settled = fixture
            .store
            .settle(&[settling(&claimed, TOKEN, settlement)])
            .await;
        assert_eq!(settled.expect("settled"), [Settled::Done]);
    }
    for (filter, expected) in [
        ("", 1),
        (", dead_reason => 'expired'", 1),
        (", dead_reason => 'cancelled'", 0),
    ] {
        let sql =
            format!("SELECT deliveries::bigint FROM zyven.replay_dead_letters('all'{filter})");
        assert_eq!(fixture.count(&sql).await, expected, "{filter}");
    }
}

/// One batch in which keyed and keyless events of two types alternate, so that neither the order of
/// keys nor that of routes happens to be the right one.
#[tokio::test]
async fn numbers_follow_the_order_of_the_events_in_their_batch() {
    let fixture = Fixture::new().await;
    for _ in 0..3 {
        fixture.endpoint(&["a", "b"], &[]).await;
    }
    let batch: Vec<NewEvent> = (0..300)
        .map(|n| {
            let key = (n % 3 == 0).then(|| format!("{}", 1_000 - n));
            let event = fixture.event(if n % 2 == 0 { "a" } else { "b" }, key.as_deref());
            ordered(event, "one")
        })
        .collect();
    let results = fixture.store.accept(&batch).await.expect("accepted");
    assert!(
        results
            .iter()
            .all(|r| *r == Accepted::New { deliveries: 3 })
    );
    let rows = fixture
        .sql
        .query(
            "SELECT event_id, ordering_key FROM zyven.outbox ORDER BY seq",
            &[],
        )
        .await
        .expect("rows");
    let mut queued: Vec<uuid::Uuid> = rows.iter().map(|row| row.get(0)).collect();
    queued.dedup();
    let expected: Vec<uuid::Uuid> = batch.iter().map(|event| event.id.uuid()).collect();
    assert_eq!(queued, expected);
    let number = OrderingKey::parse("one").expect("a key").number();
    assert!(rows.iter().all(|row| row.get::<_, i64>(1) == number));
}

#[tokio::test]
async fn events_of_one_batch_are_stored_together_although_endpoints_changed_between_their_routes() {
    let fixture = Fixture::new().await;
    // The route of "a" is remembered, that of "b" is not, and then the endpoints change.
    fixture.accepted(&fixture.event("a", None)).await;
    fixture.endpoint(&["*"], &[]).await;
    let batch = [fixture.event("a", None), fixture.event("b", None)];
    let results = fixture.store.accept(&batch).await.expect("accepted");
    assert_eq!(results, [Accepted::New { deliveries: 1 }; 2]);
    let stored = fixture
        .count("SELECT count(DISTINCT xmin::text) FROM zyven.events WHERE type = 'b' OR id = (SELECT event_id FROM zyven.outbox ORDER BY seq LIMIT 1)")
        .await;
    assert_eq!(stored, 1, "one transaction");
    let first: uuid::Uuid = fixture
        .sql
        .query_one(
            "SELECT event_id FROM zyven.outbox ORDER BY seq LIMIT 1",
            &[],
        )
        .await
        .expect("a row")
        .get(0);
    assert_eq!(first, batch[0].id.uuid(), "in their order");
}

#[tokio::test]
async fn a_replay_keeps_the_ordering_key_and_the_order() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let events: Vec<NewEvent> = (0..3)
        .map(|_| ordered(fixture.event("a", None), "k"))
        .collect();
    for event in &events {
        let seqs = fixture.accepted(event).await;
        let claimed = fixture.claim_one(seqs[0], TOKEN).await;
        let settlement = Settlement::DeadLetter {
            record: Some(record(404)),
            reason: DeadLetterReason::Rejected,
        };
        let settled = fixture
            .store
            .settle(&[settling(&claimed, TOKEN, settlement)])
            .await;
        assert_eq!(settled.expect("settled"), [Settled::Done]);
    }
    fixture
        .sql
        .query(
            "SELECT zyven.replay_dead_letters('again', dry_run => false)",
            &[],
        )
        .await
        .expect("replayed");
    let rows = fixture
        .sql
        .query(
            "SELECT event_id, ordering_key FROM zyven.outbox ORDER BY seq",
            &[],
        )
        .await
        .expect("rows");
    let queued: Vec<uuid::Uuid> = rows.iter().map(|row| row.get(0)).collect();
    let expected: Vec<uuid::Uuid> = events.iter().map(|event| event.id.uuid()).collect();
    assert_eq!(queued, expected);
    assert!(rows.iter().all(|row| row.get::<_, i64>(1) != 0));
}

#[tokio::test]
async fn publish_takes_the_same_options_and_refuses_the_same() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let tenant = fixture.tenant.to_string();
    let publish = async |options: &str| {
        let sql = format!("SELECT zyven.publish('{tenant}', 'a', '{{}}', {options})");
        let published = fixture.sql.query_one(&sql, &[]).await;
        published.map_err(|error| {
            let said = error.as_db_error().expect("an answer of the server");
            said.message().to_owned()
        })
    };
    publish("ordering_key => 'k'").await.expect("published");
    publish("deliver_at => now() + interval '1 hour', expires_at => now() + interval '2 hours'")
        .await
        .expect("published");
    let rows = fixture
        .sql
        .query(
            "SELECT ordering_key = zyven.ordering_number('k'), enqueued_at = due_at AND due_at > now()
               FROM zyven.outbox ORDER BY seq",
            &[],
        )
        .await
        .expect("rows");
    let facts: Vec<(bool, bool)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(facts, [(true, false), (false, true)]);
    for (options, named) in [
        ("deliver_at => now() + interval '31 days'", "deliver_at"),
        ("deliver_at => now(), ordering_key => 'k'", "ordering_key"),
        ("expires_at => now()", "expires_at"),
        (
            "deliver_at => now() + interval '2 h', expires_at => now() + interval '1 h'",
            "expires_at",
        ),
        ("ordering_key => 'a b'", "ordering_key"),
        ("ordering_key => repeat('x', 129)", "ordering_key"),
    ] {
        let refused = publish(options).await.expect_err(options);
        assert!(refused.contains(named), "{options}: {refused}");
    }
}
