//! Content filters: who gets an event because of what it says.

use zyven_domain::event::EventType;
use zyven_domain::filter::Filter;
use zyven_domain::id::EndpointId;
use zyven_store::{Accepted, EndpointChange, NewEvent};

use crate::fixture::Fixture;

async fn filtered(fixture: &Fixture, filter: &str) -> EndpointId {
    let endpoint = fixture.endpoint(&["*"], &[]).await;
    set_filter(fixture, endpoint, Some(filter)).await;
    endpoint
}

async fn set_filter(fixture: &Fixture, endpoint: EndpointId, filter: Option<&str>) {
    let change = EndpointChange {
        filter: Some(filter.map(|text| Filter::parse(text).expect("a good filter"))),
        ..EndpointChange::default()
    };
    let changed = fixture
        .store
        .change_endpoint(fixture.tenant, endpoint, &change)
        .await;
    let changed = changed.expect("an answer").expect("changed");
    assert_eq!(changed.filter.as_deref(), filter);
}

async fn deliveries(fixture: &Fixture, events: &[NewEvent]) -> Vec<usize> {
    let results = fixture.store.accept(events).await.expect("accepted");
    let deliveries = results.iter().map(|result| match result {
        Accepted::New { deliveries } => *deliveries,
        other => panic!("{other:?}"),
    });
    deliveries.collect()
}

/// What Rust takes for a filter, PostgreSQL takes for a path, and both mean the same by it.
#[tokio::test]
async fn every_filter_means_what_its_documentation_says() {
    let fixture = Fixture::new().await;
    let payload = r#"{"amount": 42, "ok": true, "none": null, "tags": ["a", "b"], "s": "inv-7",
                      "lines": [{"sku": "x", "n": 1}, {"sku": "y", "n": 2}], "a b": {"é\"": 1},
                      "to": 1, "is": 1, "exists": 1, "strict": 1, "lax": 1, "abs": 1, "size": 1, "type": 1,
                      "floor": 1, "double": 1, "ceiling": 1, "datetime": 1, "keyvalue": 1, "last": 1,
                      "starts": 1, "with": 1, "like_regex": 1, "flag": 1, "unknown": 1, "true": 1, "null": 1,
                      "bigint": 1, "boolean": 1, "date": 1, "decimal": 1, "integer": 1, "number": 1,
                      "string": 1, "time": 1, "timestamp": 1}"#;
    let names = [
        "to",
        "is",
        "exists",
        "strict",
        "lax",
        "abs",
        "size",
        "type",
        "floor",
        "double",
        "ceiling",
        "datetime",
        "keyvalue",
        "last",
        "starts",
        "with",
        "like_regex",
        "flag",
        "unknown",
        "true",
        "null",
        "bigint",
        "boolean",
        "date",
        "decimal",
        "integer",
        "number",
        "string",
        "time",
        "timestamp",
    ];
    let by_name: Vec<String> = names.iter().map(|name| format!("$.{name}==1")).collect();
    let mut expectations: Vec<(&str, bool)> =
        by_name.iter().map(|text| (text.as_str(), true)).collect();
    expectations.extend([
        ("$.amount == 42", true),
        ("$.amount==42.0&&$.amount>-1||$.ok==false", true),
        ("$.amount > 42", false),
        ("$.amount != 41", true),
        ("$.amount <> 42", false),
        ("$.amount >= 4.2e1", true),
        ("$.amount == \"42\"", false),
        // Of another type: neither equal nor unequal, and not the contrary either.
        ("$.amount != \"42\"", false),
        ("!($.amount == \"42\")", false),
        ("!($.amount > \"42\")", false),
        ("$.amount != null && $.none != 1", true),
        ("$.missing == 1", false),
        ("$.missing != 1", false),
        ("$.missing == null", false),
        ("$.none == null", true),
        ("exists($.none) && !exists($.missing)", true),
        ("$.ok == true", true),
        ("$.tags == \"b\"", true),
        ("$.tags[*] == \"c\"", false),
        ("$.tags[0] == \"a\" && $.tags[1] != \"a\"", true),
        ("$.tags[9] == \"a\"", false),
        ("$.lines[*].sku == \"y\"", true),
        ("$.lines.n > 1", true),
        ("$.\"a b\".\"\\u00e9\\\"\" == 1", true),
        ("$.s starts with \"inv-\"", true),
        ("$.s starts\nwith\"x\"", false),
        ("$.amount starts with \"4\"", false),
        ("$ == 1", false),
        ("$.amount.deeper[3].still == 1", false),
        ("(($.ok==true))", true),
    ]);
    for (text, expected) in expectations {
        let filter = Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let row = fixture
            .sql
            .query_one(
                "SELECT zyven.filter_admits($1, zyven.document_of($2))",
                &[&filter.as_str(), &payload.as_bytes()],
            )
            .await
            .unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(row.get::<_, bool>(0), expected, "{text}");
    }
}

#[tokio::test]
async fn an_endpoint_gets_what_its_filter_admits_and_the_number_of_deliveries_is_true() {
    let fixture = Fixture::new().await;
    fixture.endpoint(&["*"], &[]).await;
    let big = filtered(&fixture, "$.amount >= 100").await;
    filtered(&fixture, "$.currency == \"EUR\"").await;
    let event = |payload: &str| fixture.event_with("a", None, payload.as_bytes());
    let batch = [
        event(r#"{"amount": 100, "currency": "EUR"}"#),
        event(r#"{"amount": 99, "currency": "USD"}"#),
        event(r#"{"amount": "100"}"#),
        event("[]"),
        event(r#"{"amount": 1e3}"#),
    ];
    assert_eq!(deliveries(&fixture, &batch).await, [3, 1, 1, 1, 2]);
    let got = fixture
        .sql
        .query(
            "SELECT event_id FROM zyven.outbox WHERE endpoint_id = $1 ORDER BY seq",
            &[&big.uuid()],
        )
        .await
        .expect("rows");
    let got: Vec<uuid::Uuid> = got.iter().map(|row| row.get(0)).collect();
    assert_eq!(got, [batch[0].id.uuid(), batch[4].id.uuid()]);
    // The same, once more, after an outcome nobody knows.
    assert_eq!(deliveries(&fixture, &batch).await, [3, 1, 1, 1, 2]);
    let rows = fixture.count("SELECT count(*) FROM zyven.outbox").await;
    assert_eq!(rows, 8, "nothing was stored twice");
}

#[tokio::test]
async fn a_changed_filter_counts_from_its_answer_on() {
    let fixture = Fixture::new().await;
    let endpoint = filtered(&fixture, "$.n == 1").await;
    let one = || fixture.event_with("a", None, br#"{"n": 1}"#);
    assert_eq!(deliveries(&fixture, &[one()]).await, [1]);
    set_filter(&fixture, endpoint, Some("$.n == 2")).await;
    assert_eq!(deliveries(&fixture, &[one()]).await, [0]);
    set_filter(&fixture, endpoint, None).await;
    assert_eq!(deliveries(&fixture, &[one()]).await, [1]);
}

/// PostgreSQL cannot read the first payload as `jsonb`.
#[tokio::test]
async fn a_payload_no_filter_can_read_stops_nothing_else() {
    let fixture = Fixture::new().await;
    fixture.endpoint(&["*"], &[]).await;
    filtered(&fixture, "$.n == 1").await;
    let unreadable = fixture.event_with("a", None, br#"{"n": 1, "tiny": 1e-20000}"#);
    let readable = fixture.event_with("a", None, br#"{"n": 1}"#);
    assert_eq!(deliveries(&fixture, &[unreadable, readable]).await, [1, 2]);
}

#[tokio::test]
async fn filters_hold_for_publish_in_sql_and_not_for_tests() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let endpoint = filtered(&fixture, "$.n == 1").await;
    for (payload, expected) in [(r#"{"n": 1}"#, 2), (r#"{"n": 2}"#, 1)] {
        let event: String = fixture
            .sql
            .query_one(
                &format!("SELECT zyven.publish($1, 'a', '{payload}')"),
                &[&fixture.tenant.to_string()],
            )
            .await
            .expect("published")
            .get(0);
        let rows = fixture.seqs(event.parse().expect("an id")).await;
        assert_eq!(rows.len(), expected, "{payload}");
    }
    let event = NewEvent {
        event_type: EventType::parse("zyven.test").expect("a type"),
        ..fixture.event_with("a", None, br#"{"n": 2}"#)
    };
    let accepted = fixture.store.accept_for(&event, endpoint).await;
    assert!(matches!(
        accepted,
        Ok(zyven_store::AcceptedFor::Accepted(_))
    ));
}

/// The database's own last word, for endpoints that are not made by the API.
#[tokio::test]
async fn the_table_takes_no_text_that_is_no_path() {
    let (fixture, _) = Fixture::with_endpoint().await;
    for bad in ["", "$.a ==", &format!("$.a == \"{}\"", "x".repeat(1_024))] {
        let update = "UPDATE zyven.endpoints SET filter = $1";
        let set = fixture.sql.execute(update, &[&bad]).await;
        assert!(set.is_err(), "{bad}");
    }
}
