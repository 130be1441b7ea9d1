//! What operators look at and do to many deliveries at once, in SQL (migration 0015).

use zyven_domain::id::EndpointId;
use zyven_domain::retry::DeadLetterReason;
use zyven_store::{Settled, Settlement};

use crate::fixture::{Fixture, TOKEN, record, settling};

/// Accepts an event and has its delivery to the only endpoint refused for good.
async fn dead_letter(fixture: &Fixture, event_type: &str) {
    let seqs = fixture.accepted(&fixture.event(event_type, None)).await;
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

async fn delivered(fixture: &Fixture, event_type: &str) {
    let seqs = fixture.accepted(&fixture.event(event_type, None)).await;
    let claimed = fixture.claim_one(seqs[0], TOKEN).await;
    let settlement = Settlement::Delivered(record(200));
    fixture
        .store
        .settle(&[settling(&claimed, TOKEN, settlement)])
        .await
        .expect("settled");
}

/// The columns of the one row that this says, as text.
async fn one_row(fixture: &Fixture, sql: &str) -> Vec<Option<String>> {
    let rows = fixture.sql.simple_query(sql).await.expect("an answer");
    let mut rows = rows.into_iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = rows.next().expect("a row");
    assert!(rows.next().is_none(), "one row: {sql}");
    (0..row.len())
        .map(|column| row.get(column).map(str::to_owned))
        .collect()
}

pub(crate) async fn one(fixture: &Fixture, sql: &str) -> String {
    one_row(fixture, sql).await[0].clone().unwrap_or_default()
}

/// What PostgreSQL has against it.
pub(crate) async fn refusal(fixture: &Fixture, sql: &str) -> String {
    let refused = fixture.sql.simple_query(sql).await.expect_err(sql);
    let refused = refused.as_db_error().expect("the database's word");
    refused.message().to_owned()
}

async fn subscribe(fixture: &Fixture, endpoint: EndpointId, patterns: &[&str]) {
    fixture
        .sql
        .execute(
            "UPDATE zyven.endpoints SET event_types = $2 WHERE id = $1",
            &[&endpoint.uuid(), &patterns],
        )
        .await
        .expect("subscribed");
}

#[tokio::test]
async fn an_endpoint_is_sent_what_it_should_have_and_has_not() {
    let fixture = Fixture::new().await;
    let endpoint = fixture.endpoint(&["order.*"], &[]).await;
    delivered(&fixture, "order.paid").await;
    dead_letter(&fixture, "order.lost").await;
    for _ in 0..3 {
        assert!(
            fixture
                .accepted(&fixture.event("invoice.paid", None))
                .await
                .is_empty(),
            "nobody has subscribed"
        );
    }
    fixture.accepted(&fixture.event("refund.paid", None)).await;
    subscribe(&fixture, endpoint, &["order.*", "invoice.*"]).await;

    let ask = |more: &str| {
        format!(
            "SELECT never_sent, dead_letters
               FROM zyven.replay_missing('{endpoint}', 'subscribed too late', since => now() - interval '1 hour'{more})"
        )
    };
    let found = [Some("3".to_owned()), Some("1".to_owned())];
    assert_eq!(one_row(&fixture, &ask("")).await, found);
    assert_eq!(
        fixture.count("SELECT count(*) FROM zyven.outbox").await,
        0,
        "that was a dry run"
    );
    assert_eq!(
        one_row(&fixture, &ask(", rate_per_s => 2, dry_run => false")).await,
        found
    );
    // The dead letter is first of its own kind, so it is due with the first of the others.
    let due = one(
        &fixture,
        "SELECT string_agg(round(extract(epoch FROM due_at - (SELECT min(due_at) FROM zyven.outbox)) * 1000)::text, ' ' ORDER BY due_at)
           FROM zyven.outbox",
    )
    .await;
    assert_eq!(due, "0 0 500 1000");
    assert_eq!(
        one_row(&fixture, &ask(", dry_run => false")).await,
        [Some("0".to_owned()), Some("0".to_owned())],
        "nothing is sent twice"
    );
    assert_eq!(
        one(
            &fixture,
            "SELECT string_agg(action || ' ' || coalesce(details ->> 'deliveries', ''), ', ' ORDER BY action)
               FROM zyven.audit_log WHERE action IN ('delivery.send_missing', 'delivery.replay')"
        )
        .await
        .matches("delivery.send_missing 3")
        .count(),
        1
    );
    fixture.assert_invariants().await;
}

#[tokio::test]
async fn what_was_never_sent_is_judged_by_filter_channel_and_expiry_of_today() {
    let fixture = Fixture::new().await;
    let endpoint = fixture.endpoint(&["none"], &[]).await;
    for amount in [1, 100] {
        let payload = format!(r#"{{"amount": {amount}}}"#);
        fixture
            .accepted(&fixture.event_with("invoice.paid", None, payload.as_bytes()))
            .await;
    }
    let mut expired = fixture.event_with("invoice.paid", None, br#"{"amount": 100}"#);
    expired.options.expires_at = Some(chrono::Utc::now() + chrono::TimeDelta::milliseconds(1));
    fixture.accepted(&expired).await;
    subscribe(&fixture, endpoint, &["invoice.paid"]).await;
    fixture
        .sql
        .execute(
            "UPDATE zyven.endpoints SET filter = '$.amount > 10' WHERE id = $1",
            &[&endpoint.uuid()],
        )
        .await
        .expect("a filter");
    zyven_testkit::wait_until(
        "the event has expired",
        std::time::Duration::from_secs(10),
        async || {
            let now = chrono::Utc::now();
            if Some(now) > expired.options.expires_at {
                Ok(())
            } else {
                Err(now)
            }
        },
    )
    .await;
    let found = one(
        &fixture,
        &format!("SELECT never_sent FROM zyven.replay_missing('{endpoint}', 'why', '-infinity', dry_run => false)"),
    )
    .await;
    assert_eq!(found, "1");
    let amount = "SELECT zyven.document_of(e.payload) ->> 'amount' FROM zyven.outbox o JOIN zyven.events e ON e.id = o.event_id";
    assert_eq!(one(&fixture, amount).await, "100");
}

#[tokio::test]
async fn what_waits_for_an_endpoint_is_cancelled_and_what_is_being_attempted_is_not() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    let claimed = fixture.claimed().await;
    for _ in 0..3 {
        fixture.accepted(&fixture.event("invoice.paid", None)).await;
    }
    let ask = |more: &str| {
        format!(
            "SELECT cancelled, being_attempted
               FROM zyven.cancel_deliveries('receiver is gone', endpoint => '{endpoint}'{more})"
        )
    };
    let expected = [Some("3".to_owned()), Some("1".to_owned())];
    assert_eq!(one_row(&fixture, &ask("")).await, expected);
    assert_eq!(fixture.count("SELECT count(*) FROM zyven.outbox").await, 4);
    assert_eq!(
        one_row(&fixture, &ask(", dry_run => false")).await,
        expected
    );
    assert_eq!(
        fixture.state(claimed.delivery_id.uuid()).await.0,
        "DISPATCHING"
    );
    assert_eq!(
        fixture
            .count("SELECT count(*) FROM zyven.dead_letters WHERE reason = 'cancelled'")
            .await,
        3
    );
    assert_eq!(
        fixture
            .count("SELECT count(*) FROM zyven.cancellations")
            .await,
        3
    );
    fixture.assert_invariants().await;
}

#[tokio::test]
async fn dead_letters_are_deleted_for_good_only_when_asked() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    // The oldest stays, so that what is purged is not taken for what retention took.
    for event_type in ["order.paid", "invoice.paid", "invoice.paid"] {
        dead_letter(&fixture, event_type).await;
    }
    let ask = |more: &str| {
        format!(
            "SELECT purged FROM zyven.purge_dead_letters('test data', endpoint => '{endpoint}', event_type => 'invoice.paid'{more})"
        )
    };
    assert_eq!(one(&fixture, &ask("")).await, "2");
    assert_eq!(
        fixture
            .count("SELECT count(*) FROM zyven.dead_letters")
            .await,
        3
    );
    assert_eq!(one(&fixture, &ask(", dry_run => false")).await, "2");
    assert_eq!(
        one(
            &fixture,
            "SELECT string_agg(event_type, ' ') FROM zyven.dead_letters"
        )
        .await,
        "order.paid"
    );
    assert_eq!(
        one(
            &fixture,
            "SELECT details ->> 'deliveries' FROM zyven.audit_log WHERE action = 'dead_letter.purge'"
        )
        .await,
        "2"
    );
    // Their history stays: what happened is not undone by forgetting the payload.
    assert_eq!(
        fixture
            .count("SELECT count(*) FROM zyven.deliveries WHERE state = 'DEAD_LETTERED'")
            .await,
        3
    );
    assert_eq!(one(&fixture, &ask(", dry_run => false")).await, "0");
    let purged = "SELECT zyven.typed_id('dlv', delivery_id) FROM zyven.dead_letter_records WHERE purged_at IS NOT NULL LIMIT 1";
    let purged = one(&fixture, purged).await;
    let replay = format!("SELECT zyven.replay('{purged}', 'why not')");
    let told = refusal(&fixture, &replay).await;
    assert!(told.contains("its payload is no longer stored"), "{told}");
    fixture.assert_invariants().await;
}

#[tokio::test]
async fn two_who_send_what_is_missing_at_the_same_time_send_it_once() {
    let fixture = Fixture::new().await;
    let endpoint = fixture.endpoint(&["none"], &[]).await;
    let event = fixture.event("invoice.paid", None);
    fixture.accepted(&event).await;
    subscribe(&fixture, endpoint, &["invoice.paid"]).await;
    let ask = format!(
        "SELECT never_sent FROM zyven.replay_missing('{endpoint}', 'why', '-infinity', dry_run => false)"
    );
    // The first one has chosen and not committed; the other one waits for it.
    fixture.sql.batch_execute("BEGIN").await.expect("begun");
    assert_eq!(one(&fixture, &ask).await, "1");
    let other = fixture.database.client().await;
    let asking = tokio::spawn({
        let ask = ask.clone();
        async move {
            other
                .query_one(&ask, &[])
                .await
                .map(|row| row.get::<_, i32>(0))
        }
    });
    zyven_testkit::wait_until(
        "the other one waits for the lock",
        std::time::Duration::from_secs(20),
        async || {
            let waiting = fixture
                .count("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
                .await;
            if waiting > 0 { Ok(()) } else { Err(waiting) }
        },
    )
    .await;
    fixture
        .sql
        .batch_execute("COMMIT")
        .await
        .expect("committed");
    assert_eq!(asking.await.expect("it ends").expect("an answer"), 0);
    assert_eq!(fixture.seqs(event.id).await.len(), 1);

    fixture
        .sql
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        .await
        .expect("begun");
    let told = refusal(&fixture, &ask).await;
    assert!(told.contains("READ COMMITTED"), "{told}");
}

#[tokio::test]
async fn what_is_to_be_sent_later_is_cancelled_by_when_it_was_accepted() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    let mut later = fixture.event("invoice.paid", None);
    later.options.deliver_at = Some(chrono::Utc::now() + chrono::TimeDelta::days(2));
    fixture.accepted(&later).await;
    let ask = format!(
        "SELECT cancelled FROM zyven.cancel_deliveries('sent by mistake', endpoint => '{endpoint}',
             since => now() - interval '1 hour', until => now() + interval '1 minute', dry_run => false)"
    );
    assert_eq!(one(&fixture, &ask).await, "1");
}

#[tokio::test]
async fn whoever_asks_for_many_says_why_for_whom_and_how_fast() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    for (asked, rule) in [
        ("replay_missing('ep_none', 'why', now())", "ep_"),
        (
            "replay_missing(zyven.typed_id('ep', zyven.uuid_v7()), 'why', now())",
            "there is no endpoint",
        ),
        ("replay_missing('{}', ' ', now())", "reason must say why"),
        ("replay_missing('{}', 'why', NULL)", "since must say"),
        (
            "replay_missing('{}', 'why', now(), rate_per_s => 0)",
            "rate_per_s must be greater than 0",
        ),
        (
            "replay_missing('{}', 'why', now(), deliveries_max => 100001)",
            "deliveries_max must be between 1 and 100000",
        ),
        ("cancel_deliveries('why')", "tenant or endpoint must say"),
        ("cancel_deliveries('', endpoint => '{}')", "reason must say"),
        ("purge_dead_letters('why')", "tenant or endpoint must say"),
        (
            "purge_dead_letters('why', endpoint => '{}', deliveries_max => 0)",
            "deliveries_max must be",
        ),
        (
            "replay_missing('{}', 'why', now() + interval '1 second')",
            "since must not lie in the future",
        ),
        (
            "replay_missing('{}', 'why', now(), now())",
            "until must be later than since",
        ),
        (
            "cancel_deliveries('why', endpoint => zyven.typed_id('ep', zyven.uuid_v7()))",
            "there is no endpoint ep_",
        ),
        (
            "cancel_deliveries('why', tenant => zyven.typed_id('ten', zyven.uuid_v7()))",
            "there is no tenant ten_",
        ),
        (
            "cancel_deliveries('why', endpoint => '{}', since => now() + interval '1 hour')",
            "since must not lie in the future",
        ),
        (
            "purge_dead_letters('why', endpoint => '{}', dead_reason => 'attempts_exausted')",
            "dead_reason must be one of attempts_exhausted, ",
        ),
        (
            "purge_dead_letters('why', endpoint => zyven.typed_id('ep', zyven.uuid_v7()))",
            "there is no endpoint ep_",
        ),
        (
            "replay_dead_letters('why', dead_reason => 'attempts_exausted')",
            "dead_reason must be one of attempts_exhausted, ",
        ),
    ] {
        let asked = asked.replace("{}", &endpoint.to_string());
        let told = refusal(&fixture, &format!("SELECT * FROM zyven.{asked}")).await;
        assert!(told.contains(rule), "{asked}: {told}");
    }
    fixture
        .sql
        .execute(
            "UPDATE zyven.endpoints SET status = 'disabled', disabled_reason = 'manual' WHERE id = $1",
            &[&endpoint.uuid()],
        )
        .await
        .expect("disabled");
    let asked = format!("SELECT * FROM zyven.replay_missing('{endpoint}', 'why', now())");
    let told = refusal(&fixture, &asked).await;
    assert!(told.contains("is disabled: enable it first"), "{told}");
}

#[tokio::test]
async fn a_replay_says_how_many_of_it_come_to_nothing() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    for _ in 0..2 {
        dead_letter(&fixture, "invoice.paid").await;
    }
    let many = |more: &str| {
        format!("SELECT note FROM zyven.replay_dead_letters('why', endpoint => '{endpoint}'{more})")
    };
    let chosen = "SELECT note FROM zyven.replay_chosen(ARRAY(SELECT delivery FROM zyven.dead_letters), 'why', rate_per_s => 1)";
    let dry = "dry run: nothing was changed; call again with dry_run => false";
    assert_eq!(one(&fixture, &many("")).await, dry);
    assert_eq!(one(&fixture, chosen).await, dry);
    fixture
        .sql
        .execute(
            "UPDATE zyven.endpoints SET status = 'disabled', disabled_reason = 'manual' WHERE id = $1",
            &[&endpoint.uuid()],
        )
        .await
        .expect("disabled");
    let warning =
        "; WARNING: 2 for disabled or deleted endpoints, where they become dead letters again";
    assert_eq!(one(&fixture, &many("")).await, format!("{dry}{warning}"));
    assert_eq!(one(&fixture, chosen).await, format!("{dry}{warning}"));
    let done = one(&fixture, &many(", rate_per_s => 4, dry_run => false")).await;
    assert_eq!(done, format!("spread over 0.5 s{warning}"));
}

#[tokio::test]
async fn what_was_cancelled_says_nothing_of_its_endpoint() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    delivered(&fixture, "invoice.paid").await;
    let seqs = fixture.accepted(&fixture.event("invoice.paid", None)).await;
    assert_eq!(seqs.len(), 1);
    let cancel = format!(
        "SELECT cancelled FROM zyven.cancel_deliveries('why', endpoint => '{endpoint}', dry_run => false)"
    );
    assert_eq!(one(&fixture, &cancel).await, "1");
    let health = one_row(
        &fixture,
        "SELECT latest_finished, latest_delivered_share, latest_attempts_mean, dead_letters FROM zyven.endpoint_health",
    )
    .await;
    let health: Vec<&str> = health.iter().map(|c| c.as_deref().unwrap_or("")).collect();
    assert_eq!(health, ["1", "1.0000", "1.00", "1"]);
}

#[tokio::test]
async fn the_health_of_an_endpoint_is_what_waits_and_how_its_latest_deliveries_went() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    for _ in 0..3 {
        delivered(&fixture, "invoice.paid").await;
    }
    dead_letter(&fixture, "invoice.paid").await;
    fixture.accepted(&fixture.event("invoice.paid", None)).await;
    fixture.claimed().await;
    let health = one_row(
        &fixture,
        &format!(
            "SELECT status, waiting, being_attempted, dead_letters, latest_finished, latest_delivered_share, latest_ms_p50
               FROM zyven.endpoint_health WHERE endpoint = '{endpoint}'"
        ),
    )
    .await;
    let health: Vec<&str> = health.iter().map(|c| c.as_deref().unwrap_or("")).collect();
    assert_eq!(health, ["enabled", "2", "1", "1", "4", "0.7500", "1.0"]);
    let pause = format!("SELECT zyven.pause('{endpoint}')");
    assert_eq!(one(&fixture, &pause).await, endpoint.to_string());
    assert_eq!(
        one(&fixture, "SELECT status FROM zyven.endpoint_health").await,
        "paused"
    );
    assert_eq!(
        one(
            &fixture,
            "SELECT string_agg(state || ' ' || deliveries || ' ' || being_attempted, ', ' ORDER BY state) FROM zyven.backlog"
        )
        .await,
        "RECEIVED 1 0, DISPATCHING 1 1"
    );
}

#[tokio::test]
async fn everything_in_the_schema_that_can_be_called_says_what_it_does() {
    let fixture = Fixture::new().await;
    let silent = one(
        &fixture,
        "SELECT coalesce(string_agg(name, ', ' ORDER BY name), '') FROM (
             SELECT c.relname AS name FROM pg_class c
              WHERE c.relnamespace = 'zyven'::regnamespace AND c.relkind = 'v' AND obj_description(c.oid) IS NULL
             UNION ALL
             SELECT p.proname FROM pg_proc p
              WHERE p.pronamespace = 'zyven'::regnamespace AND obj_description(p.oid) IS NULL) AS nameless",
    )
    .await;
    assert_eq!(silent, "", "have no comment for \\df+ and \\dv+");
}

#[tokio::test]
async fn storage_tells_what_retention_will_free_and_what_has_to_stay() {
    let (fixture, _) = Fixture::with_endpoint().await;
    fixture
        .sql
        .batch_execute(
            "SELECT zyven.ensure_partition(now() - make_interval(days => day)) FROM generate_series(1, 40) AS day;
             -- Accepted 39 days ago, and never finished.
             INSERT INTO zyven.outbox (delivery_id, event_id, endpoint_id, tenant_id)
             SELECT zyven.uuid_floor(now() - interval '39 days'), zyven.uuid_floor(now() - interval '39 days'), id, tenant_id
               FROM zyven.endpoints",
        )
        .await
        .expect("old days");
    let tables = fixture
        .store
        .storage(std::time::Duration::from_secs(30 * 86_400))
        .await
        .expect("asked");
    let of = |name: &str| {
        let table = tables.iter().find(|table| table.what == name);
        table.unwrap_or_else(|| panic!("{name} is not in {tables:?}"))
    };
    let today = chrono::Utc::now().date_naive();
    let events = of("events");
    let (oldest, _) = events.days.expect("it is partitioned");
    assert_eq!((today - oldest).num_days(), 40);
    assert_eq!(events.needed_days, 1);
    // The days from 40 to 31 days ago are over.
    let empty_day = events.bytes_per_day.expect("seven full days");
    assert_eq!(events.expired_bytes, 10 * empty_day);
    let (freed_at, freed) = events.next_freed.expect("a day to come");
    assert_eq!((freed_at.date_naive() - today).num_days(), 1);
    assert_eq!(freed, empty_day);
    assert_eq!(events.rows_about, Some(0), "no page, no row");
    let outbox = of("outbox");
    assert_eq!(outbox.rows_about, None, "not analysed yet");
    assert_eq!((outbox.days, outbox.next_freed), (None, None));
    assert!(outbox.table_bytes > 0 && outbox.index_bytes > 0);
}

/// A function that is made anew loses what was said of it, if that is not said again.
#[tokio::test]
async fn functions_that_act_for_others_do_so_with_their_owners_rights_and_look_nowhere_else() {
    let fixture = Fixture::new().await;
    let names = [
        "audit",
        "audit_cancellation",
        "audit_replays",
        "cancel",
        "cancel_deliveries",
        "drop_expired_partitions",
        "ensure_partition",
        "limit_tenant",
        "pause",
        "publish",
        "purge_dead_letters",
        "refresh_routing",
        "replay",
        "replay_chosen",
        "replay_dead_letters",
        "replay_missing",
        "resume",
        "start_routing",
        "tell_breaker_opened",
        "tell_dead_letters",
        "tell_endpoint_disabled",
    ];
    let rows = fixture
        .sql
        .query(
            "SELECT proname::text
               FROM pg_proc
              WHERE pronamespace = 'zyven'::regnamespace
                AND prosecdef
                AND 'search_path=pg_catalog, pg_temp' = ANY (proconfig)
              ORDER BY proname",
            &[],
        )
        .await
        .expect("listed");
    let found: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    for name in names {
        assert!(
            found.iter().any(|one| one == name),
            "{name} is not among {found:?}"
        );
    }
}
