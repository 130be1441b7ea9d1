//! Rules that exist in Rust and in SQL, compared.

use chrono::DateTime;
use uuid::Uuid;
use zyven_domain::event::{
    Channel, ContentType, DeliveryOptions, EventType, IdempotencyKey, OPERATIONAL_TYPES,
    OrderingKey, Source, body_fingerprint, key_fingerprint,
};
use zyven_domain::id::{DeliveryId, EndpointId, EventId, TenantId};
use zyven_domain::lifecycle::{DeliveryState, permits};
use zyven_domain::retry::DeadLetterReason;
use zyven_domain::signature::Scheme;
use zyven_store::CredentialKind;

use crate::fixture::Fixture;

#[tokio::test]
async fn every_pair_of_states_is_judged_alike() {
    let fixture = Fixture::new().await;
    for from in DeliveryState::ALL {
        for to in DeliveryState::ALL {
            let sql = format!("SELECT zyven.lifecycle_permits('{from}', '{to}')");
            let permitted: bool = fixture
                .sql
                .query_one(&sql, &[])
                .await
                .expect("asked")
                .get(0);
            assert_eq!(permitted, permits(from, to), "{from} → {to}");
        }
    }
}

/// The table itself, not only the function: an update along a forbidden edge fails.
#[tokio::test]
async fn the_outbox_enforces_the_lifecycle() {
    let (fixture, _) = Fixture::with_endpoint().await;
    fixture.accepted(&fixture.event("a", None)).await;
    let unfinished = DeliveryState::ALL.into_iter().filter(|s| !s.is_finished());
    for from in unfinished {
        for to in DeliveryState::ALL {
            fixture
                .sql
                .batch_execute(&format!(
                    "ALTER TABLE zyven.outbox DISABLE TRIGGER USER;
                     UPDATE zyven.outbox SET state = '{from}', attempts = 1;
                     ALTER TABLE zyven.outbox ENABLE TRIGGER USER;"
                ))
                .await
                .expect("arranged");
            let sql = format!("UPDATE zyven.outbox SET state = '{to}'");
            let moved = fixture.sql.batch_execute(&sql).await.is_ok();
            // Staying where one is is no move; finishing is a deletion, never an update.
            let expected = from == to || (!to.is_finished() && permits(from, to));
            assert_eq!(moved, expected, "{from} → {to}");
        }
    }
}

#[tokio::test]
async fn every_dead_letter_reason_is_known_to_the_table() {
    let fixture = Fixture::new().await;
    let constraint: String = fixture
        .sql
        .query_one(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'dead_letter_reason_is_known'",
            &[],
        )
        .await
        .expect("the constraint")
        .get(0);
    for reason in DeadLetterReason::ALL {
        assert!(constraint.contains(&format!("'{}'", reason.as_str())));
    }
    assert_eq!(
        constraint.matches("::text").count(),
        DeadLetterReason::ALL.len()
    );
}

#[tokio::test]
async fn content_types_are_listed_alike() {
    let fixture = Fixture::new().await;
    let labels = "SELECT enum_range(NULL::zyven.content_type)::text[]";
    let row = fixture.sql.query_one(labels, &[]).await.expect("listed");
    let labels: Vec<String> = row.get(0);
    assert_eq!(labels, ContentType::ALL.map(ContentType::as_str));
    for content_type in ContentType::ALL {
        assert_eq!(content_type.as_str().parse(), Ok(content_type));
    }
}

#[tokio::test]
async fn delivery_ids_are_derived_alike() {
    let fixture = Fixture::new().await;
    for _ in 0..200 {
        let (event, endpoint) = (EventId::new(), EndpointId::new());
        let derived: Uuid = fixture
            .sql
            .query_one(
                "SELECT zyven.delivery_id($1, $2)",
                &[&event.uuid(), &endpoint.uuid()],
            )
            .await
            .expect("derived")
            .get(0);
        assert_eq!(derived, DeliveryId::derive(event, endpoint).uuid());
    }
}

#[tokio::test]
async fn sql_makes_ids_of_version_7_with_the_current_time() {
    let fixture = Fixture::new().await;
    let row = fixture
        .sql
        .query_one(
            "SELECT id, abs(extract(epoch FROM zyven.uuid_time(id) - clock_timestamp()))::float8 < 5,
                    zyven.uuid_floor(zyven.uuid_time(id)) <= id
               FROM (SELECT zyven.uuid_v7() AS id) AS made",
            &[],
        )
        .await
        .expect("made");
    let id: Uuid = row.get(0);
    assert_eq!(id.get_version_num(), 7);
    assert!(row.get::<_, bool>(1) && row.get::<_, bool>(2));
}

#[tokio::test]
async fn patterns_of_a_type_are_listed_alike() {
    let fixture = Fixture::new().await;
    for text in [
        "a",
        "a.b",
        "a.b.c",
        ".a",
        "a.",
        "..",
        "a..b",
        "-._",
        "invoice.payment.failed",
        "zyven",
        "zyvenish.a",
        "zyven.",
        "zyven.endpoint.disabled",
    ] {
        let listed: Vec<String> = fixture
            .sql
            .query_one("SELECT zyven.patterns_of($1)", &[&text])
            .await
            .expect("listed")
            .get(0);
        let event_type = EventType::parse(text).expect("a good type");
        assert_eq!(listed, event_type.patterns(), "{text}");
        let is_operational: bool = fixture
            .sql
            .query_one("SELECT zyven.is_operational($1)", &[&text])
            .await
            .expect("told")
            .get(0);
        assert_eq!(is_operational, event_type.is_operational(), "{text}");
    }
}

#[tokio::test]
async fn operational_types_are_those_that_sql_makes() {
    let fixture = Fixture::new().await;
    let made = fixture
        .sql
        .query(
            "SELECT DISTINCT named[1]
               FROM pg_proc, regexp_matches(prosrc, '''(zyven\\.[a-z_]+\\.[a-z_]+)''', 'g') AS named
              WHERE pronamespace = 'zyven'::regnamespace
              ORDER BY 1",
            &[],
        )
        .await
        .expect("listed");
    let made: Vec<String> = made.iter().map(|row| row.get(0)).collect();
    // Test events are made in Rust.
    let known = OPERATIONAL_TYPES
        .into_iter()
        .filter(|name| *name != "zyven.test");
    assert_eq!(made, known.collect::<Vec<_>>());
}

#[tokio::test]
async fn key_fingerprints_are_computed_alike() {
    let fixture = Fixture::new().await;
    let tenant = TenantId::new();
    let key = IdempotencyKey::parse("order-17/paid").expect("a good key");
    let row = fixture
        .sql
        .query_one(
            "SELECT zyven.key_fingerprint($1, $2)",
            &[&tenant.uuid(), &key.as_str()],
        )
        .await
        .expect("computed");
    assert_eq!(row.get::<_, Uuid>(0), key_fingerprint(tenant, &key));
}

#[tokio::test]
async fn body_fingerprints_are_computed_alike() {
    let fixture = Fixture::new().await;
    let kind = EventType::parse("a.b").expect("a good type");
    let channels = ["c", "d"].map(|c| Channel::parse(c).expect("a good channel"));
    let source = Source::parse("erp").ok();
    let payload = "{\"x\": \"é\"}".as_bytes();
    let moment = DateTime::from_timestamp_micros(1_800_000_000_123_457);
    let ordering_key = OrderingKey::parse("a,b/%s").ok();
    let nothing = DeliveryOptions::default;
    for options in [
        nothing(),
        DeliveryOptions {
            deliver_at: moment,
            ..nothing()
        },
        DeliveryOptions {
            expires_at: moment,
            ..nothing()
        },
        DeliveryOptions {
            ordering_key: ordering_key.clone(),
            ..nothing()
        },
        DeliveryOptions {
            deliver_at: moment,
            expires_at: moment,
            ordering_key,
        },
    ] {
        let row = fixture
            .sql
            .query_one(
                "SELECT zyven.body_fingerprint('a.b', ARRAY['c', 'd'], 'erp', $1, $2, $3, $4),
                        zyven.body_fingerprint('a.b', NULL, NULL, $1, $2, $3, $4)",
                &[
                    &options.deliver_at,
                    &options.expires_at,
                    &options.ordering_key.as_ref().map(OrderingKey::as_str),
                    &payload,
                ],
            )
            .await
            .expect("computed");
        let full = body_fingerprint(&kind, &channels, source.as_ref(), &options, payload);
        assert_eq!(row.get::<_, Uuid>(0), full, "{options:?}");
        let bare = body_fingerprint(&kind, &[], None, &options, payload);
        assert_eq!(row.get::<_, Uuid>(1), bare, "{options:?}");
    }
}

#[tokio::test]
async fn ordering_keys_have_the_same_number() {
    let fixture = Fixture::new().await;
    for text in ["a", "customer/17", "~", "0", "{x}"] {
        let row = fixture
            .sql
            .query_one(
                "SELECT zyven.ordering_number($1), zyven.ordering_number(NULL)",
                &[&text],
            )
            .await
            .expect("computed");
        let key = OrderingKey::parse(text).expect("a good key");
        assert_eq!(
            (row.get::<_, i64>(0), row.get::<_, i64>(1)),
            (key.number(), 0),
            "{text}"
        );
    }
}

#[tokio::test]
async fn signing_schemes_and_kinds_of_credentials_are_listed_alike() {
    let fixture = Fixture::new().await;
    let listed = async |table: &str, column: &str, names: &[&str]| {
        let constraint = format!(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint
              WHERE conrelid = 'zyven.{table}'::regclass AND contype = 'c'
                AND pg_get_constraintdef(oid) LIKE '%({column} = ANY%'"
        );
        let row = fixture.sql.query_one(&constraint, &[]).await;
        let definition: String = row.expect("one constraint").get(0);
        let inside: Vec<&str> = definition.split('\'').skip(1).step_by(2).collect();
        assert_eq!(inside, names, "{table}");
    };
    let schemes = Scheme::ALL.map(Scheme::as_str);
    listed("endpoint_secrets", "scheme", &schemes).await;
    let kinds = CredentialKind::ALL.map(CredentialKind::as_str);
    listed("endpoint_credentials", "kind", &kinds).await;
}

async fn judged_in_sql(fixture: &Fixture, payload: &str) -> Result<(), tokio_postgres::Error> {
    let sql = "SELECT zyven.check_payload($1::text::json)";
    fixture.sql.query_one(sql, &[&payload]).await.map(|_| ())
}

#[tokio::test]
async fn payloads_are_judged_alike() {
    let fixture = Fixture::new().await;
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let objects = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
    let wide = format!("[{}1]", "[],{},".repeat(500));
    let long_text = format!("{{\"a\":\"{}\"}}", "[{:7e5".repeat(2000));
    let expectations = [
        ("null", true),
        (" {\"a\" : [1.50, -0, 1E2] } ", true),
        (&nested(64), true),
        (&nested(65), false),
        (&objects(64), true),
        (&objects(65), false),
        (&format!("[{}]", vec![nested(63); 3].join(",")), true),
        (&format!("[{}]", [nested(63), nested(64)].join(",")), false),
        (&wide, true),
        (&long_text, true),
        (r#"{"a":1,"a":1}"#, false),
        (r#"{"a":1,"\u0061":2}"#, false),
        (r#"{"a":1,"A":2,"b":{"a":1}}"#, true),
        (r#"[{"x":{"b":1,"c":2,"b":3}}]"#, false),
        // The escaped colon of the value that is kept makes up for the lost member.
        (r#"{"a":1,"a":"\u003a"}"#, false),
        (r#"{"a":"\u003A","b":":"}"#, true),
        (r#"{"a":"\\u003a","b":"\"}{:"}"#, true),
        (r#"{"\u003a":1,":":2}"#, false),
        ("1e308", true),
        ("1e309", false),
        ("5e-324", true),
        ("1e-324", false),
        ("[0e-999,-0.00E+7]", true),
        ("[0e999,0e-000999]", true),
        ("0e1000", false),
        ("-0.00E-1000", false),
        ("0e1073741823", false),
        ("0e-16384", false),
        (&"7".repeat(128), true),
        (&"7".repeat(129), false),
        (&format!("0.{}", "3".repeat(127)), false),
        (&format!("\"{}\"", "7".repeat(500)), true),
        (&format!("[{}]", vec!["12345"; 100].join(",")), true),
        (r#""1e-999 \" 1e999""#, true),
        (r#""\u0000""#, false),
        (r#"{"\u0000":1}"#, false),
        (r#""\ud800""#, false),
        (r#""\ud83d\ude00""#, true),
    ];
    for (payload, good) in expectations {
        let (rust, sql) = (
            zyven_domain::payload::validate(payload.as_bytes()),
            judged_in_sql(&fixture, payload).await,
        );
        assert_eq!(rust.is_ok(), good, "{payload:.80}: {rust:?}");
        assert_eq!(sql.is_ok(), good, "{payload:.80}: {sql:?}");
    }
}

/// Strings first: they are names as well.
const PIECES: [&str; 8] = [
    "\"a\"",
    "\"\\u0061\"",
    "\":\"",
    "\"\\u003a\"",
    "\"\\\\\\\"{\"",
    "1e-400",
    "0.5",
    "null",
];

/// Small pieces in every order: duplicates, brackets, colons and escapes at every place.
#[tokio::test]
async fn payloads_made_at_random_are_judged_alike() {
    let fixture = Fixture::new().await;
    let (mut good, mut bad) = (0, 0);
    // A linear congruential generator: the same pieces every time.
    let mut state = 42_u64;
    let mut next = |bound: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).expect("31 bits") % bound
    };
    for _ in 0..600 {
        let mut text = String::new();
        value(&mut text, 4, &mut next);
        let (rust, sql) = (
            zyven_domain::payload::validate(text.as_bytes()),
            judged_in_sql(&fixture, &text).await,
        );
        assert_eq!(rust.is_ok(), sql.is_ok(), "{text}: {rust:?} {sql:?}");
        if rust.is_ok() { good += 1 } else { bad += 1 }
    }
    assert!(good > 100 && bad > 100, "{good} good, {bad} bad");
}

fn value(text: &mut String, depth: usize, next: &mut dyn FnMut(usize) -> usize) {
    match if depth == 0 { 0 } else { next(4) } {
        0 | 1 => text.push_str(PIECES[next(8)]),
        2 => {
            text.push('[');
            for at in 0..next(4) {
                text.push_str(if at == 0 { "" } else { "," });
                value(text, depth - 1, next);
            }
            text.push(']');
        }
        _ => {
            text.push('{');
            for at in 0..next(4) {
                text.push_str(if at == 0 { "" } else { "," });
                text.push_str(PIECES[next(5)]);
                text.push(':');
                value(text, depth - 1, next);
            }
            text.push('}');
        }
    }
}
