//! What the database says in the end.

use std::collections::HashMap;
use std::time::SystemTime;

use uuid::Uuid;

use crate::fleet::Fleet;

/// Deliveries by event and endpoint, and which events are stored.
#[derive(Default)]
pub(super) struct Records {
    pub(super) deliveries: HashMap<(Uuid, Uuid), Record>,
    pub(super) events: HashMap<Uuid, SystemTime>,
    /// Rows that speak of a delivery a second time.
    pub(super) said_twice: Vec<Uuid>,
}

/// One delivery.
pub(super) struct Record {
    pub(super) state: String,
    pub(super) reason: Option<String>,
    pub(super) seq: i64,
    /// Attempts that are on record as failed without a status: the answer came too late, or not at all.
    pub(super) unanswered: Vec<i32>,
    /// When it was due for the last time, at the latest: its acceptance, or the wait after its last recorded failure.
    pub(super) due_at: SystemTime,
}

/// The longest wait after an attempt, as its endpoint's policy has it (docs/lifecycle.md).
const DELIVERIES: &str = "
    WITH all_deliveries AS (
        SELECT delivery_id, event_id, endpoint_id, seq, enqueued_at, state, reason FROM zyven.finished_deliveries
         UNION ALL
        SELECT delivery_id, event_id, endpoint_id, seq, enqueued_at, state, NULL FROM zyven.outbox
    ), last_failures AS (
        SELECT DISTINCT ON (a.delivery_id)
               a.delivery_id,
               a.started_at + a.total_us * interval '1 microsecond'
                   + least(p.retry_cap_ms, p.retry_base_ms * 2.0 ^ (a.number - 1)) * 1.2 * interval '1 millisecond' AS due_at
          FROM zyven.attempts a
          JOIN zyven.endpoints p ON p.id = a.endpoint_id
         ORDER BY a.delivery_id, a.number DESC
    ), unanswered AS (
        SELECT delivery_id, array_agg(number) AS numbers
          FROM zyven.attempts
         WHERE http_status IS NULL
         GROUP BY delivery_id
    )
    SELECT d.event_id, d.endpoint_id, d.state::text, d.reason, d.seq, coalesce(f.due_at, d.enqueued_at),
           coalesce(u.numbers, '{}')
      FROM all_deliveries d
      LEFT JOIN last_failures f USING (delivery_id)
      LEFT JOIN unanswered u USING (delivery_id)";

const EVENTS: &str = "SELECT id, accepted_at FROM zyven.events";

/// Whatever is unfinished; `i64::MAX` when PostgreSQL cannot be asked.
pub(super) async fn unfinished(fleet: &Fleet) -> i64 {
    let sql = fleet.sql().await;
    let row = sql
        .query_one("SELECT count(*) FROM zyven.outbox", &[])
        .await;
    row.map_or(i64::MAX, |row| row.get(0))
}

/// Deliveries that are under a lease: claimed, and their results not on record.
pub(super) async fn leased(fleet: &Fleet) -> u64 {
    let sql = fleet.sql().await;
    let row = sql
        .query_one(
            "SELECT count(*) FROM zyven.outbox WHERE leased_until > now()",
            &[],
        )
        .await;
    let leased: i64 = row.expect("a count").get(0);
    leased.unsigned_abs()
}

pub(super) async fn read(fleet: &Fleet) -> Records {
    let mut sql = fleet.sql().await;
    // One snapshot, or a delivery on its way from one table to the other is seen twice or not at all.
    let transaction = sql
        .build_transaction()
        .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
        .start()
        .await
        .expect("a transaction");
    let mut records = Records::default();
    for row in transaction
        .query(DELIVERIES, &[])
        .await
        .expect("deliveries")
    {
        let (event, endpoint): (Uuid, Uuid) = (row.get(0), row.get(1));
        let record = Record {
            state: row.get(2),
            reason: row.get(3),
            seq: row.get(4),
            due_at: row.get(5),
            unanswered: row.get(6),
        };
        if records
            .deliveries
            .insert((event, endpoint), record)
            .is_some()
        {
            records.said_twice.push(event);
        }
    }
    for row in transaction.query(EVENTS, &[]).await.expect("events") {
        records.events.insert(row.get(0), row.get(1));
    }
    records
}
