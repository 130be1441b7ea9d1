//! Costs that are part of the design: no hot statement reads a table from end to end, and updates of
//! the outbox stay on their page.

use std::time::Duration;

use bytes::Bytes;
use zyven_store::{SettleItem, Settlement, Store};
use zyven_testkit::{Postgres, wait_until};

use crate::fixture::{Fixture, LEASE, TOKEN, record, settling};

const EVENTS: usize = 4000;
const BATCH: usize = 64;

async fn accept_many(fixture: &Fixture) -> Vec<i64> {
    let payload = Bytes::from(vec![b'1'; 1024]);
    for first in (0..EVENTS).step_by(BATCH) {
        let batch: Vec<_> = (first..(first + BATCH).min(EVENTS))
            .map(|number| {
                let key = format!("k{number}");
                fixture.event_with("invoice.paid", Some(&key), &payload)
            })
            .collect();
        fixture.store.accept(&batch).await.expect("accepted");
    }
    let rows = fixture
        .sql
        .query("SELECT seq FROM zyven.outbox ORDER BY seq", &[]);
    rows.await
        .expect("rows")
        .iter()
        .map(|row| row.get(0))
        .collect()
}

/// Takes every row through a failed attempt and, in its second attempt, to its end.
async fn work_off(fixture: &Fixture, seqs: &[i64]) {
    for (round, batch) in seqs.chunks(BATCH).enumerate() {
        let attempt = async |settlement: &dyn Fn() -> Settlement| {
            let claim = fixture
                .store
                .claim(batch, TOKEN, LEASE)
                .await
                .expect("claimed");
            assert_eq!(claim.claimed.len(), batch.len());
            let items: Vec<SettleItem> = claim
                .claimed
                .iter()
                .map(|claimed| settling(claimed, TOKEN, settlement()))
                .collect();
            fixture.store.settle(&items).await.expect("settled");
        };
        if round % 4 == 0 {
            attempt(&|| Settlement::Retry {
                record: record(500),
                retry_in: Duration::ZERO,
            })
            .await;
        }
        if round % 5 == 0 {
            attempt(&|| Settlement::Release {
                due_in: Duration::ZERO,
            })
            .await;
        }
        attempt(&|| Settlement::Delivered(record(200))).await;
    }
}

async fn relay_reads(store: &Store, seqs: &[i64]) {
    let mut after = 0;
    loop {
        let page = store.outbox_page(after).await.expect("a page");
        let Some(last) = page.last() else { break };
        after = last.seq;
    }
    store.outbox_rows(&seqs[..10]).await.expect("rows");
    store.record_watermark(after).await.expect("recorded");
}

/// Sequential scans so far, by table; partitions by name.
async fn sequential_scans(fixture: &Fixture) -> Vec<(String, i64)> {
    // What this connection has read itself is reported at most once a second, unless that is asked for.
    let report = "SELECT pg_stat_force_next_flush()";
    fixture.sql.execute(report, &[]).await.expect("reported");
    fixture
        .sql
        .query(
            "SELECT relname::text, seq_scan FROM pg_stat_user_tables
              WHERE schemaname = 'zyven'
                AND relname ~ '^(events|outbox|finished|attempts|idempotency|subscriptions)'
              ORDER BY relname",
            &[],
        )
        .await
        .expect("statistics")
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect()
}

#[tokio::test]
async fn hot_statements_find_rows_by_key_and_update_in_place() {
    // A server of its own: transactions of other tests would keep dead rows alive, here as anywhere.
    let server = Postgres::private().await;
    let fixture = Fixture::on(server.database().await).await;
    fixture.endpoint(&["*"], &[]).await;
    // The worst case on purpose: statistics that say every table is empty.
    fixture
        .sql
        .batch_execute("ANALYZE")
        .await
        .expect("analysed");
    let seqs = accept_many(&fixture).await;
    let before = sequential_scans(&fixture).await;
    relay_reads(&fixture.store, &seqs).await;
    work_off(&fixture, &seqs).await;
    assert_eq!(
        fixture
            .count("SELECT count(*) FROM zyven.finished_deliveries")
            .await,
        EVENTS as i64
    );

    // Each backend reports when it has been idle for a moment; updates are counted when all have.
    let updates = EVENTS + EVENTS / 4 * 2 + EVENTS / 5 * 2;
    let (updated, heap_only) = wait_until(
        "all updates are counted",
        Duration::from_secs(30),
        async || {
            // Idle connections report on their next statement.
            fixture
                .store
                .claim(&[0], TOKEN, LEASE)
                .await
                .expect("asked");
            let row = fixture
            .sql
            .query_one(
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'outbox'",
                &[],
            )
            .await
            .expect("statistics");
            let (updated, heap_only): (i64, i64) = (row.get(0), row.get(1));
            if updated >= (updates - 4 * BATCH) as i64 {
                Ok((updated, heap_only))
            } else {
                Err(updated)
            }
        },
    )
    .await;
    let share = heap_only as f64 / updated as f64;
    assert!(
        share >= 0.9,
        "heap-only share {share:.3} of {updated} updates"
    );

    // The test's own two counts above read whole tables; nothing else may have.
    let after = sequential_scans(&fixture).await;
    for ((table, scans_before), (_, scans_after)) in before.into_iter().zip(after) {
        let own = i64::from(table.starts_with("finished"));
        assert!(
            scans_after - scans_before <= own,
            "{table} was read from end to end {} times",
            scans_after - scans_before
        );
    }
}
