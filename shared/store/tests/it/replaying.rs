//! T7: replay, in SQL.

use zyven_domain::retry::DeadLetterReason;
use zyven_store::{ClaimedDelivery, Settled, Settlement};

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
