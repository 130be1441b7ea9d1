//! T7: replay, in SQL.

use std::time::Duration;

use serde_json::{Value, json};
use zyven_domain::id::{DeliveryId, TenantId};
use zyven_domain::retry::DeadLetterReason;
use zyven_store::{ClaimedDelivery, Replay, Settled, Settlement};
use zyven_testkit::wait_until;

use crate::fixture::{Fixture, TOKEN, record, settling};

async fn dead_letter(fixture: &Fixture) -> ClaimedDelivery {
    let claimed = fixture.claimed().await;
    let settlement = Settlement::DeadLetter {
        record: Some(record(404)),
        reason: DeadLetterReason::Rejected,
    };
    let settled = fixture
        .store
        .settle(&[settling(&claimed, TOKEN, settlement)])
        .await;
    assert_eq!(settled.expect("settled"), [Settled::Done]);
    claimed
}

async fn replay(fixture: &Fixture, claimed: &ClaimedDelivery) -> Result<(), String> {
    fixture
        .sql
        .query(
            "SELECT zyven.replay($1, 'fixed')",
            &[&claimed.delivery_id.to_string()],
        )
        .await
        .map(|_| ())
        .map_err(|e| {
            e.as_db_error()
                .map_or(e.to_string(), |e| e.message().to_owned())
        })
}

#[tokio::test]
async fn a_replayed_dead_letter_starts_again_as_the_same_delivery() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let dead = dead_letter(&fixture).await;
    replay(&fixture, &dead).await.expect("replayed");
    assert_eq!(
        fixture.state(dead.delivery_id.uuid()).await,
        ("RECEIVED".to_owned(), 0)
    );
    let seqs = fixture.seqs(dead.event_id).await;
    let again = fixture.claim_one(seqs[0], 2).await;
    assert_eq!(again.event_id, dead.event_id, "the same webhook-id");
    assert_eq!(again.delivery_id, dead.delivery_id);
    assert_eq!((again.generation, again.attempt), (2, 1));
    let settlement = Settlement::Delivered(record(200));
    fixture
        .store
        .settle(&[settling(&again, 2, settlement)])
        .await
        .expect("settled");
    assert_eq!(
        fixture.state(dead.delivery_id.uuid()).await,
        ("DELIVERED".to_owned(), 1)
    );
    assert_eq!(
        fixture
            .count("SELECT count(*) FROM zyven.attempt_log")
            .await,
        2
    );
    fixture.assert_invariants().await;
}

#[tokio::test]
async fn a_replay_says_why_it_cannot_be() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let dead = dead_letter(&fixture).await;
    replay(&fixture, &dead).await.expect("replayed");
    let refused = replay(&fixture, &dead).await.expect_err("not twice");
    assert!(refused.contains("still being delivered"), "{refused}");
    let seqs = fixture.seqs(dead.event_id).await;
    let again = fixture.claim_one(seqs[0], 2).await;
    let settlement = Settlement::Delivered(record(200));
    fixture
        .store
        .settle(&[settling(&again, 2, settlement)])
        .await
        .expect("settled");
    let refused = replay(&fixture, &dead).await.expect_err("delivered");
    assert!(refused.contains("it was delivered"), "{refused}");
    assert_eq!(fixture.count("SELECT count(*) FROM zyven.replays").await, 1);
}

#[tokio::test]
async fn a_replay_needs_neither_the_events_row_nor_its_partition() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let dead = dead_letter(&fixture).await;
    let today: String = fixture
        .sql
        .query_one("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')", &[])
        .await
        .expect("a date")
        .get(0);
    for table in ["events", "finished_deliveries", "attempts"] {
        fixture
            .sql
            .batch_execute(&format!("DROP TABLE zyven.{table}_{today}"))
            .await
            .expect("dropped");
    }
    replay(&fixture, &dead).await.expect("replayed");
    let seqs = fixture.seqs(dead.event_id).await;
    assert_eq!(fixture.claim_one(seqs[0], 2).await.payload, dead.payload);
}

#[tokio::test]
async fn replaying_many_is_a_dry_run_unless_asked_and_keeps_to_its_rate() {
    let (fixture, _) = Fixture::with_endpoint().await;
    for _ in 0..5 {
        dead_letter(&fixture).await;
    }
    let ask = async |more: &str| {
        let sql = format!(
            "SELECT * FROM zyven.replay_dead_letters('fixed', dead_reason => 'rejected'{more})"
        );
        let row = fixture.sql.query_one(&sql, &[]).await.expect("an answer");
        row.get::<_, i32>("deliveries")
    };
    assert_eq!(ask("").await, 5);
    assert_eq!(fixture.count("SELECT count(*) FROM zyven.outbox").await, 0);
    assert_eq!(fixture.count("SELECT count(*) FROM zyven.replays").await, 0);
    assert_eq!(
        ask(", deliveries_max => 4, rate_per_s => 2, dry_run => false").await,
        4
    );
    let spread: Vec<i64> = fixture
        .sql
        .query(
            "SELECT round(extract(epoch FROM due_at - min(due_at) OVER ()) * 1000)::bigint
               FROM zyven.outbox WHERE enqueued_at = due_at ORDER BY due_at",
            &[],
        )
        .await
        .expect("rows")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(spread, [0, 500, 1000, 1500]);
    assert_eq!(ask(", dry_run => false").await, 1, "only what is left");
    assert_eq!(
        fixture
            .count("SELECT sum(deliveries) FROM zyven.replays")
            .await,
        5
    );
    fixture.assert_invariants().await;
}

/// What `zyven.replay_chosen` answers: how many, and why not the others.
async fn choose(
    sql: &tokio_postgres::Client,
    chosen: &[DeliveryId],
    more: &str,
) -> Result<(i32, Value), String> {
    let chosen: Vec<String> = chosen.iter().map(DeliveryId::to_string).collect();
    let ask = format!(
        "SELECT deliveries, refused::text FROM zyven.replay_chosen($1, reason => 'fixed'{more})"
    );
    let row = sql.query_one(&ask, &[&chosen]).await.map_err(|error| {
        let said = error.as_db_error().expect("PostgreSQL says so");
        said.message().to_owned()
    })?;
    let refused = serde_json::from_str(row.get(1)).expect("JSON");
    Ok((row.get(0), refused))
}

#[tokio::test]
async fn the_chosen_go_back_together_and_of_each_other_it_is_told_why_not() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let mut chosen = Vec::new();
    for _ in 0..3 {
        chosen.push(dead_letter(&fixture).await.delivery_id);
    }
    let delivered = fixture.claimed().await;
    let settlement = Settlement::Delivered(record(200));
    let settled = fixture
        .store
        .settle(&[settling(&delivered, TOKEN, settlement)])
        .await;
    assert_eq!(settled.expect("settled"), [Settled::Done]);
    let unfinished = fixture.claimed().await.delivery_id;
    let called_off = fixture.event("a", None);
    fixture.accepted(&called_off).await;
    let cancel = format!("SELECT zyven.cancel('{}', 'too early')", called_off.id);
    fixture.sql.batch_execute(&cancel).await.expect("cancelled");
    let cancelled: uuid::Uuid = fixture
        .sql
        .query_one(
            "SELECT delivery_id FROM zyven.dead_letter_records WHERE reason = 'cancelled'",
            &[],
        )
        .await
        .expect("a dead letter")
        .get(0);
    let unknown = DeliveryId::from_uuid(uuid::Uuid::now_v7());
    let others = json!({
        delivered.delivery_id.to_string(): "it was delivered",
        unfinished.to_string(): "it is still being delivered",
        unknown.to_string(): "there is no such dead letter",
    });
    let spared = chosen.pop().expect("three");
    // Whoever is named twice is meant once; what was called off is meant, too, as it is named.
    chosen.extend([chosen[0], DeliveryId::from_uuid(cancelled)]);
    let named: Vec<DeliveryId> = chosen
        .iter()
        .copied()
        .chain([delivered.delivery_id, unfinished, unknown])
        .collect();

    let dry = choose(&fixture.sql, &named, "").await.expect("a dry run");
    assert_eq!(dry, (3, others.clone()));
    assert_eq!(fixture.count("SELECT count(*) FROM zyven.replays").await, 0);
    let done = choose(&fixture.sql, &named, ", rate_per_s => 2, dry_run => false").await;
    assert_eq!(done.expect("replayed"), (3, others));
    assert_eq!(
        fixture
            .count("SELECT deliveries::bigint FROM zyven.replays")
            .await,
        3
    );
    assert_eq!(
        fixture
            .count(
                "SELECT (extract(epoch FROM max(due_at) - min(due_at)) * 1000)::bigint FROM zyven.outbox WHERE generation = 2"
            )
            .await,
        1_000,
        "three, two a second"
    );
    assert_eq!(fixture.state(spared.uuid()).await.0, "DEAD_LETTERED");
    let again = choose(&fixture.sql, &chosen, ", dry_run => false")
        .await
        .expect("an answer");
    assert_eq!(again.0, 0);
    assert_eq!(
        again.1[chosen[0].to_string()],
        "it is still being delivered"
    );
    fixture.assert_invariants().await;
}

#[tokio::test]
async fn what_somebody_else_replays_meanwhile_is_not_counted() {
    let (mut fixture, _) = Fixture::with_endpoint().await;
    let (first, second) = (dead_letter(&fixture).await, dead_letter(&fixture).await);
    let chosen = [first.delivery_id, second.delivery_id];
    let other = fixture.database.client().await;
    let watcher = fixture.database.client().await;
    let transaction = fixture.sql.transaction().await.expect("begun");
    transaction
        .query(
            "SELECT zyven.replay($1, 'mine')",
            &[&first.delivery_id.to_string()],
        )
        .await
        .expect("replayed");
    let choosing = choose(&other, &chosen, ", dry_run => false");
    let committing = async {
        wait_until("it waits for the row", Duration::from_secs(20), async || {
            let waits = watcher
                .query_one(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
                    &[],
                )
                .await
                .expect("sessions")
                .get::<_, i64>(0);
            if waits > 0 { Ok(()) } else { Err(waits) }
        })
        .await;
        transaction.commit().await.expect("committed");
    };
    let (chosen, ()) = tokio::join!(choosing, committing);
    let told = json!({ first.delivery_id.to_string(): "it is still being delivered" });
    assert_eq!(chosen.expect("replayed"), (1, told));
    assert_eq!(
        fixture
            .count("SELECT sum(deliveries) FROM zyven.replays")
            .await,
        2
    );
    fixture.assert_invariants().await;
}

#[tokio::test]
async fn a_choice_is_one_tenants_and_of_others_nothing_is_told() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let dead = dead_letter(&fixture).await.delivery_id;
    let unknown = DeliveryId::from_uuid(uuid::Uuid::now_v7());
    let all_at_once = Replay::Do { rate_per_s: None };
    let begun = fixture
        .store
        .replay_chosen(TenantId::new(), &[dead, unknown], "mine", all_at_once)
        .await
        .expect("an answer");
    assert_eq!((begun.id, begun.deliveries), (None, 0));
    let told: Vec<&str> = begun.refused.values().map(String::as_str).collect();
    assert_eq!(told, ["there is no such dead letter"; 2]);
    let begun = fixture
        .store
        .replay_chosen(fixture.tenant, &[dead], "mine", all_at_once)
        .await
        .expect("an answer");
    assert_eq!((begun.deliveries, begun.refused.len()), (1, 0));
    for (sql, expected) in [
        ("SELECT 1", "it is still being delivered"),
        (
            "DELETE FROM zyven.outbox;
             UPDATE zyven.finished_deliveries SET state = 'DELIVERED', reason = NULL",
            "it was delivered",
        ),
        (
            "UPDATE zyven.dead_letter_records SET resolved_at = now()",
            "a late success has resolved it",
        ),
        (
            "UPDATE zyven.dead_letter_records SET payload = NULL, purged_at = now(), replayed_at = NULL, replay_id = NULL",
            "its payload is no longer stored",
        ),
    ] {
        fixture.sql.batch_execute(sql).await.expect(sql);
        for (tenant, expected) in [
            (fixture.tenant, expected),
            (TenantId::new(), "there is no such dead letter"),
        ] {
            let why = fixture
                .sql
                .query_one(
                    "SELECT zyven.why_not_replayable($1, $2)",
                    &[&dead.uuid(), &tenant.uuid()],
                )
                .await
                .expect("an answer");
            assert_eq!(why.get::<_, &str>(0), expected, "{sql}");
        }
    }
}

#[tokio::test]
async fn a_choice_has_bounds() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let dead = dead_letter(&fixture).await.delivery_id;
    let refused = async |sql: &str| {
        let sql = format!("SELECT * FROM zyven.replay_chosen({sql})");
        let error = fixture.sql.query(&sql, &[]).await.expect_err(&sql);
        let said = error.as_db_error().expect("PostgreSQL says so");
        said.message().to_owned()
    };
    let many = format!("array_fill('{dead}'::text, ARRAY[10000])");
    for (dead_letters, is_good) in [
        ("'{}'".to_owned(), false),
        ("NULL".to_owned(), false),
        ("ARRAY[NULL]".to_owned(), false),
        (many.clone(), true),
        (format!("array_append({many}, '{dead}')"), false),
    ] {
        let rest = ", 'fixed'";
        if is_good {
            let sql =
                format!("SELECT deliveries::bigint FROM zyven.replay_chosen({dead_letters}{rest})");
            assert_eq!(fixture.count(&sql).await, 1);
        } else {
            let said = refused(&format!("{dead_letters}{rest}")).await;
            assert_eq!(said, "dead_letters must name 1 to 10000 deliveries");
        }
    }
    let one = format!("ARRAY['{dead}']");
    let said = refused(&format!("{one}, ' '")).await;
    assert!(said.starts_with("reason must say why"), "{said}");
    let said = refused(&format!("{one}, 'r', rate_per_s => 0")).await;
    assert!(said.starts_with("rate_per_s"), "{said}");
    let said = refused("ARRAY['evt_1'], 'r'").await;
    assert!(said.contains("is not an id"), "{said}");
}

#[tokio::test]
async fn a_rolled_back_replay_leaves_nothing() {
    let (mut fixture, _) = Fixture::with_endpoint().await;
    let dead = dead_letter(&fixture).await;
    let transaction = fixture.sql.transaction().await.expect("begun");
    transaction
        .query(
            "SELECT zyven.replay($1, 'try')",
            &[&dead.delivery_id.to_string()],
        )
        .await
        .expect("replayed");
    transaction.rollback().await.expect("rolled back");
    assert_eq!(fixture.count("SELECT count(*) FROM zyven.replays").await, 0);
    assert_eq!(
        fixture.state(dead.delivery_id.uuid()).await.0,
        "DEAD_LETTERED"
    );
}
