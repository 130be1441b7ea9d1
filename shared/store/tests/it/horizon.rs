//! Transactions that stay open are seen, and what is read and written behind them costs what it did before.

use std::time::Duration;

use tokio_postgres::Client;
use zyven_store::{Settlement, Store};
use zyven_testkit::{Postgres, wait_until};

use crate::fixture::{Fixture, LEASE, TOKEN, open, record, settling};

const SOON: Duration = Duration::from_secs(20);

async fn run(client: &Client, statements: &str) {
    client.batch_execute(statements).await.expect(statements);
}

async fn is_seen(store: &Store) {
    wait_until("the transaction is seen to age", SOON, async || {
        let horizon = store.horizon().await.expect("asked");
        if horizon.oldest_transaction > Duration::from_millis(300) {
            Ok(())
        } else {
            Err(horizon)
        }
    })
    .await;
}

async fn is_gone(store: &Store) {
    wait_until("nothing is held back", SOON, async || {
        let horizon = store.horizon().await.expect("asked");
        if horizon.oldest_transaction < Duration::from_millis(300) {
            Ok(())
        } else {
            Err(horizon)
        }
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_holds_rows_back_is_seen_whatever_its_kind() {
    let server = Postgres::private_with(&["max_prepared_transactions=2"]).await;
    let database = server.database().await;
    let (store, other) = (open(&database), database.client().await);
    for (begin, end) in [
        (
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM zyven.outbox",
            "COMMIT",
        ),
        ("BEGIN; SELECT pg_current_xact_id()", "COMMIT"),
        (
            "BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'left'",
            "ROLLBACK PREPARED 'left'",
        ),
    ] {
        is_gone(&store).await;
        for statement in begin.split("; ") {
            run(&other, statement).await;
        }
        is_seen(&store).await;
        run(&other, end).await;
    }
    is_gone(&store).await;
}

/// Blocks of tables and indexes that PostgreSQL has looked at in this database so far.
async fn blocks(sql: &Client) -> i64 {
    run(sql, "SELECT pg_stat_force_next_flush()").await;
    let row = sql
        .query_one(
            "SELECT pg_stat_clear_snapshot(),
                    (SELECT sum(heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read)::bigint
                       FROM pg_statio_all_tables WHERE schemaname = 'zyven')",
            &[],
        )
        .await;
    row.expect("a sum").get(1)
}

const ROUND_EVENTS: usize = 64;

/// One batch from acceptance to its end, with the relay's page in between; the cursor moves on.
async fn round(fixture: &Fixture, cursor: &mut i64) {
    let events: Vec<_> = (0..ROUND_EVENTS)
        .map(|_| fixture.event("a", None))
        .collect();
    fixture.store.accept(&events).await.expect("accepted");
    let page = fixture.store.outbox_page(*cursor).await.expect("a page");
    let seqs: Vec<i64> = page.iter().map(|row| row.seq).collect();
    assert_eq!(seqs.len(), ROUND_EVENTS);
    *cursor = *seqs.last().expect("rows");
    fixture
        .store
        .record_watermark(*cursor)
        .await
        .expect("recorded");
    let claim = fixture.store.claim(&seqs, TOKEN, LEASE).await;
    let items: Vec<_> = claim
        .expect("claimed")
        .claimed
        .iter()
        .map(|claimed| settling(claimed, TOKEN, Settlement::Delivered(record(200))))
        .collect();
    fixture.store.settle(&items).await.expect("settled");
}

/// Counted in blocks, not in time: the machine may be as busy as it likes.
#[tokio::test]
async fn behind_an_open_transaction_a_delivery_costs_what_it_did_before() {
    const ROUNDS: usize = 150;
    let server = Postgres::private_with(&["autovacuum=off"]).await;
    let mut fixture = Fixture::on(server.database().await).await;
    fixture.endpoint(&["*"], &[]).await;
    let other = fixture.database.client().await;
    let mut cursor = 0;
    let mut costs = Vec::new();
    for phase in 0..3 {
        if phase == 2 {
            run(&other, "BEGIN ISOLATION LEVEL REPEATABLE READ").await;
            run(&other, "SELECT pg_current_xact_id()").await;
        }
        // Sessions of its own: they tell what they have read when they end.
        fixture.store = open(&fixture.database);
        let before = at_rest(&fixture.sql).await;
        for _ in 0..ROUNDS {
            round(&fixture, &mut cursor).await;
        }
        fixture.store = open(&fixture.database);
        costs.push(at_rest(&fixture.sql).await - before);
        if phase < 2 {
            run(&fixture.sql, "VACUUM zyven.outbox, zyven.relay").await;
        }
    }
    let question = "SELECT count(*) FROM zyven.outbox";
    let left = fixture.sql.query_one(question, &[]).await;
    assert_eq!(left.expect("a count").get::<_, i64>(0), 0);
    println!("blocks: the first time, the second time, behind an open transaction: {costs:?}");
    assert!(costs[2] * 10 <= costs[1] * 15, "{costs:?}");
    run(&other, "COMMIT").await;
}

/// Blocks looked at so far, once no session of ours is left that has not told.
async fn at_rest(sql: &Client) -> i64 {
    wait_until("the sessions have ended", SOON, async || {
        let left = sql
            .query_one(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'zyven'",
                &[],
            )
            .await;
        left.expect("a count").get::<_, i64>(0) == 0
    })
    .await;
    blocks(sql).await
}
