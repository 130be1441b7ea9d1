//! T0: accepting events, and what repeats of it find.

use tokio_postgres::error::SqlState;
use zyven_domain::event::Channel;
use zyven_domain::filter::Filter;
use zyven_store::{Accepted, EndpointChange, NewEvent};

use crate::fixture::{Fixture, open};

#[tokio::test]
async fn an_accepted_event_is_there_with_one_outbox_row_per_matching_endpoint() {
    let fixture = Fixture::new().await;
    let exact = fixture.endpoint(&["invoice.paid"], &[]).await;
    let prefix = fixture.endpoint(&["invoice.*", "*"], &[]).await;
    fixture.endpoint(&["order.*"], &[]).await;
    let payload = "{\"z\": 1e2,\"a\":\"\\u00e9\"}\n".as_bytes();
    let event = fixture.event_with("invoice.paid", None, payload);

    let results = fixture.store.accept(std::slice::from_ref(&event)).await;
    assert_eq!(
        results.expect("accepted"),
        [Accepted::New { deliveries: 2 }]
    );
    let stored: Vec<u8> = fixture
        .sql
        .query_one(
            "SELECT payload FROM zyven.events WHERE id = $1",
            &[&event.id.uuid()],
        )
        .await
        .expect("the event")
        .get(0);
    assert_eq!(stored, payload, "byte for byte");
    let mut endpoints: Vec<uuid::Uuid> = fixture
        .sql
        .query("SELECT endpoint_id FROM zyven.outbox", &[])
        .await
        .expect("rows")
        .iter()
        .map(|row| row.get(0))
        .collect();
    endpoints.sort();
    assert_eq!(endpoints, [exact.uuid(), prefix.uuid()]);
}

#[tokio::test]
async fn an_endpoint_with_channels_gets_only_events_that_carry_one_of_them() {
    let fixture = Fixture::new().await;
    fixture.endpoint(&["*"], &["berlin", "paris"]).await;
    let channels = |names: &[&str]| {
        let names = names.iter().map(|name| Channel::parse(name).expect("good"));
        names.collect::<Vec<_>>()
    };
    for (carried, deliveries) in [(&[][..], 0), (&["rome"], 0), (&["paris", "rome"], 1)] {
        let mut event = fixture.event("a", None);
        event.channels = channels(carried);
        let results = fixture.store.accept(&[event]).await.expect("accepted");
        assert_eq!(results, [Accepted::New { deliveries }], "{carried:?}");
    }
}

#[tokio::test]
async fn the_same_key_finds_the_first_event_and_a_different_body_a_conflict() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let first = fixture.event("invoice.paid", Some("k1"));
    let again = fixture.event("invoice.paid", Some("k1"));
    let other = fixture.event("invoice.void", Some("k1"));
    let id = first.id;
    fixture.accepted(&first).await;

    let results = fixture.store.accept(&[again, other]).await;
    assert_eq!(
        results.expect("recognised"),
        [
            Accepted::Repeated { first: id },
            Accepted::Conflict { first: id }
        ]
    );
    assert_eq!(fixture.count("SELECT count(*) FROM zyven.events").await, 1);
    assert_eq!(fixture.count("SELECT count(*) FROM zyven.outbox").await, 1);
}

/// Each is answered as if it had come alone, one after the other: by the statement that asks filters as by the one that
/// need not.
#[tokio::test]
async fn of_a_batchs_events_with_one_key_the_first_is_stored() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    for filter in [None, Some("$.n >= 0")] {
        let change = EndpointChange {
            filter: Some(filter.map(|text| Filter::parse(text).expect("a good filter"))),
            ..EndpointChange::default()
        };
        let changed = fixture
            .store
            .change_endpoint(fixture.tenant, endpoint, &change)
            .await;
        changed.expect("an answer").expect("changed");
        let kind = if filter.is_some() {
            "filtered"
        } else {
            "plain"
        };
        let keys: Vec<String> = (0..8).map(|key| format!("{kind}-{key}")).collect();
        // Bodies 0, 1, 0, 2 under each of the keys, which take turns.
        let batch: Vec<NewEvent> = [0, 1, 0, 2]
            .iter()
            .flat_map(|n| keys.iter().map(move |key| (n, key)))
            .map(|(n, key)| {
                let payload = format!(r#"{{"n": {n}}}"#);
                fixture.event_with("a", Some(key), payload.as_bytes())
            })
            .collect();
        let results = fixture.store.accept(&batch).await.expect("accepted");
        for (number, result) in results.iter().enumerate() {
            let (round, key) = (number / keys.len(), number % keys.len());
            let first = batch[key].id;
            let expected = match round {
                0 => Accepted::New { deliveries: 1 },
                2 => Accepted::Repeated { first },
                _ => Accepted::Conflict { first },
            };
            assert_eq!(*result, expected, "{filter:?}, event {number}");
        }
    }
    let stored =
        "SELECT count(*) FROM zyven.events WHERE convert_from(payload, 'UTF8') = '{\"n\": 0}'";
    assert_eq!(fixture.count(stored).await, 16);
    assert_eq!(fixture.count("SELECT count(*) FROM zyven.events").await, 16);
}

#[tokio::test]
async fn a_batch_whose_outcome_was_unknown_can_be_repeated() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let batch = [fixture.event("a", Some("k")), fixture.event("a", None)];
    for _ in 0..2 {
        let results = fixture.store.accept(&batch).await.expect("accepted");
        assert_eq!(results, [Accepted::New { deliveries: 1 }; 2]);
    }
    assert_eq!(fixture.count("SELECT count(*) FROM zyven.outbox").await, 2);
}

#[tokio::test]
async fn one_key_used_by_many_at_once_stores_one_event() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let racers = (0..16).map(|_| {
        let store = open(&fixture.database);
        let event = fixture.event("a", Some("race"));
        tokio::spawn(async move { store.accept(&[event]).await.expect("an answer")[0] })
    });
    let mut new = 0;
    for racer in racers.collect::<Vec<_>>() {
        match racer.await.expect("no panic") {
            Accepted::New { .. } => new += 1,
            Accepted::Repeated { .. } => {}
            conflict @ Accepted::Conflict { .. } => panic!("{conflict:?}"),
        }
    }
    assert_eq!(new, 1);
    assert_eq!(fixture.count("SELECT count(*) FROM zyven.outbox").await, 1);
}

#[tokio::test]
async fn a_remembered_route_is_never_used_after_the_endpoints_changed() {
    let fixture = Fixture::new().await;
    let accept = async |expected: usize| {
        let event = fixture.event("a", None);
        let results = fixture.store.accept(&[event]).await.expect("accepted");
        assert_eq!(
            results,
            [Accepted::New {
                deliveries: expected
            }]
        );
    };
    accept(0).await;
    let first = fixture.endpoint(&["a"], &[]).await;
    accept(1).await;
    fixture.endpoint(&["*"], &[]).await;
    accept(2).await;
    let seen = fixture.changed_at(first).await;
    let disabled = fixture.store.disable_endpoint(first, seen, "test").await;
    assert!(disabled.expect("asked"));
    accept(1).await;
}

#[tokio::test]
async fn a_missing_partition_is_made_on_the_way() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let today: String = fixture
        .sql
        .query_one("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')", &[])
        .await
        .expect("a date")
        .get(0);
    fixture
        .sql
        .batch_execute(&format!("DROP TABLE zyven.events_{today}"))
        .await
        .expect("dropped");
    assert_eq!(fixture.accepted(&fixture.event("a", None)).await.len(), 1);
}

#[tokio::test]
async fn publish_in_sql_shares_routing_and_idempotency_with_the_api() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let event = fixture.event_with("invoice.paid", Some("k1"), b"{\"a\": 1}");
    fixture.accepted(&event).await;
    let publish = async |kind: &str, key: &str| {
        fixture
            .sql
            .query_one(
                "SELECT zyven.publish($1, $2, '{\"a\": 1}', $3)",
                &[&fixture.tenant.to_string(), &kind, &key],
            )
            .await
            .map(|row| row.get::<_, String>(0))
    };
    assert_eq!(
        publish("invoice.paid", "k1").await.expect("repeated"),
        event.id.to_string()
    );
    let refused = publish("invoice.void", "k1").await.expect_err("a conflict");
    assert!(
        refused
            .as_db_error()
            .is_some_and(|e| e.message().contains("different event"))
    );
    publish("invoice.void", "k2").await.expect("published");
    assert_eq!(fixture.count("SELECT count(*) FROM zyven.outbox").await, 2);
}

#[tokio::test]
async fn within_a_producers_transaction_the_first_event_with_a_key_is_stored() {
    let (mut fixture, _) = Fixture::with_endpoint().await;
    let tenant = fixture.tenant.to_string();
    let mut transaction = fixture.sql.transaction().await.expect("begun");
    let publish = "SELECT zyven.publish($1, 'a', $2::text::json, 'k')";
    let first = transaction.query_one(publish, &[&tenant, &"1"]).await;
    let first: String = first.expect("published").get(0);
    let savepoint = transaction.savepoint("other").await.expect("saved");
    let other = savepoint.query_one(publish, &[&tenant, &"2"]).await;
    let refused = other.expect_err("a conflict");
    assert_eq!(refused.code(), Some(&SqlState::UNIQUE_VIOLATION));
    savepoint.rollback().await.expect("rolled back");
    let again = transaction.query_one(publish, &[&tenant, &"1"]).await;
    assert_eq!(again.expect("published").get::<_, String>(0), first);
    transaction.commit().await.expect("committed");
    let stored = "SELECT count(*) FROM zyven.events WHERE payload = '1'";
    assert_eq!(fixture.count(stored).await, 1);
    assert_eq!(fixture.count("SELECT count(*) FROM zyven.events").await, 1);
}

#[tokio::test]
async fn publish_joins_the_producers_transaction() {
    let (mut fixture, _) = Fixture::with_endpoint().await;
    let tenant = fixture.tenant.to_string();
    let transaction = fixture.sql.transaction().await.expect("begun");
    transaction
        .query_one("SELECT zyven.publish($1, 'a', '{}', 'k')", &[&tenant])
        .await
        .expect("published");
    transaction.rollback().await.expect("rolled back");
    for table in ["events", "outbox", "idempotency_keys"] {
        let rows = fixture
            .count(&format!("SELECT count(*) FROM zyven.{table}"))
            .await;
        assert_eq!(rows, 0, "{table}");
    }
}

#[tokio::test]
async fn publish_refuses_what_the_api_refuses_and_names_the_field() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let tenant = fixture.tenant.to_string();
    for (arguments, field) in [
        ("'a b', '{}'", "event_type"),
        ("'a', NULL", "payload is missing"),
        ("'a', '{}', 'k k'", "idempotency_key"),
        ("'a', '{}', NULL, ARRAY['x y']", "channels"),
        ("'a', '{}', NULL, NULL, 'ä'", "source"),
        ("'a', '{}', NULL, NULL, NULL, '00-1'", "traceparent"),
        ("'a', '\"\\u0000\"'", "unsupported Unicode escape"),
        ("'a', '{\"b\": {\"c\": 1, \"c\": 2}}'", "occurs twice"),
        (
            "'a', (repeat('[', 65) || repeat(']', 65))::json",
            "nest deeper than 64",
        ),
        ("'a', '[1e999]'", "out of range"),
        ("'a', repeat('7', 129)::json", "longer than 128"),
    ] {
        let sql = format!("SELECT zyven.publish('{tenant}', {arguments})");
        let error = fixture.sql.query(&sql, &[]).await.expect_err(arguments);
        let message = error.as_db_error().map(|e| e.message().to_owned());
        assert!(
            message.as_ref().is_some_and(|m| m.contains(field)),
            "{arguments}: {message:?}"
        );
    }
}

/// The answer to the first try was lost, and an endpoint was disabled before the second.
#[tokio::test]
async fn a_repeated_event_has_the_deliveries_it_was_stored_with() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    fixture.endpoint(&["*"], &[]).await;
    let (store, tenant) = (&fixture.store, fixture.tenant);
    for key in [None, Some("key")] {
        let enabled = store.enable_endpoint_of(tenant, endpoint).await;
        enabled.expect("asked").expect("the endpoint");
        let event = [fixture.event("a", key)];
        let stored = [Accepted::New { deliveries: 2 }];
        assert_eq!(store.accept(&event).await.expect("accepted"), stored);
        let disabled = store.disable_endpoint_of(tenant, endpoint, "why").await;
        disabled.expect("asked").expect("the endpoint");
        for process in [store, &open(&fixture.database)] {
            let repeated = process.accept(&event).await;
            assert_eq!(repeated.expect("recognised"), stored);
        }
    }
}
