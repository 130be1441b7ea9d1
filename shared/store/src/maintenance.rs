//! Scheduled care: partitions, expiry, and the invariants as questions.

use std::time::Duration;

use crate::error::Doing;
use crate::{Store, StoreError};

const ENSURE_PARTITIONS: &str = "SELECT zyven.ensure_partitions()";
const DROP_EXPIRED_PARTITIONS: &str =
    "SELECT zyven.drop_expired_partitions($1::bigint * interval '1 millisecond')";
const EXPIRE_DEAD_LETTERS: &str =
    "SELECT zyven.expire_dead_letters($1::bigint * interval '1 millisecond')";
const EXPIRE_IDEMPOTENCY_KEYS: &str = "
    WITH expired AS (
        SELECT key
          FROM zyven.idempotency_keys
         WHERE created_at < now() - $1::bigint * interval '1 millisecond'
         ORDER BY created_at
         LIMIT 1000
    )
    DELETE FROM zyven.idempotency_keys
     WHERE key IN (SELECT key FROM expired)";

/// Each row of each statement is a breach. Numbers as in ARCHITECTURE.md, "Invariants".
const INVARIANTS: [(&str, &str); 6] = [
    (
        "1 conservation: no generation is both unfinished and finished",
        "SELECT o.delivery_id::text || ' generation ' || o.generation
           FROM zyven.outbox o
           JOIN zyven.finished_deliveries f USING (delivery_id, generation)",
    ),
    (
        "1 conservation: the latest generation of every dead letter that was replayed exists",
        "SELECT d.delivery_id::text || ' generation ' || d.generation
           FROM zyven.dead_letter_records d
          WHERE d.replayed_at IS NOT NULL
            -- Retention drops an event together with what became of it.
            AND EXISTS (SELECT FROM zyven.events e WHERE e.id = d.event_id)
            AND NOT EXISTS (SELECT FROM zyven.outbox o
                             WHERE o.delivery_id = d.delivery_id AND o.generation > d.generation)
            AND NOT EXISTS (SELECT FROM zyven.finished_deliveries f
                             WHERE f.delivery_id = d.delivery_id AND f.generation > d.generation)",
    ),
    (
        "2 single finish: every dead-lettered generation has its dead letter",
        "SELECT f.delivery_id::text || ' generation ' || f.generation
           FROM zyven.finished_deliveries f
          WHERE f.state = 'DEAD_LETTERED'
            -- Dead letters have a retention of their own, and the oldest go first.
            AND f.finished_at >= coalesce((SELECT min(dead_at) FROM zyven.dead_letter_records), now() - interval '1 day')
            AND NOT EXISTS (SELECT FROM zyven.dead_letter_records d
                             WHERE d.delivery_id = f.delivery_id AND d.generation = f.generation)",
    ),
    (
        "4 success is sticky: no generation follows a delivered one",
        "SELECT f.delivery_id::text
           FROM zyven.finished_deliveries f
          WHERE f.state = 'DELIVERED'
            AND (EXISTS (SELECT FROM zyven.outbox o WHERE o.delivery_id = f.delivery_id)
              OR EXISTS (SELECT FROM zyven.finished_deliveries g
                          WHERE g.delivery_id = f.delivery_id AND g.generation > f.generation))",
    ),
    (
        "5 acknowledged means durable: every unfinished delivery has its payload",
        "SELECT o.delivery_id::text
           FROM zyven.outbox o
          WHERE NOT EXISTS (SELECT FROM zyven.events e WHERE e.id = o.event_id)",
    ),
    (
        "8 one tenant: an unfinished delivery, its event and its endpoint belong to one tenant",
        "SELECT o.delivery_id::text
           FROM zyven.outbox o
           LEFT JOIN zyven.events v ON v.id = o.event_id
           LEFT JOIN zyven.endpoints e ON e.id = o.endpoint_id
          WHERE v.tenant_id <> o.tenant_id
             OR e.tenant_id <> o.tenant_id",
    ),
];

/// A row that must not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvariantBreach {
    /// Which invariant, by number and name.
    pub invariant: &'static str,
    /// Which delivery.
    pub what: String,
}

pub(crate) fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl Store {
    /// Makes the partitions from yesterday to seven days ahead, where they are missing. Returns how
    /// many were made.
    ///
    /// # Errors
    /// PostgreSQL could not be asked, or refused.
    pub async fn ensure_partitions(&self) -> Result<u32, StoreError> {
        let connection = self.durable("making partitions").await?;
        let row = connection.query_one(ENSURE_PARTITIONS, &[]).await?;
        Ok(row.get::<_, i32>(0).unsigned_abs())
    }

    /// Drops the partitions of the oldest day beyond `retention` that no unfinished delivery needs.
    /// Returns their names; to be repeated until there are none.
    ///
    /// # Errors
    /// PostgreSQL could not be asked, or a long query holds a partition: try again later.
    pub async fn drop_expired_partitions(
        &self,
        retention: Duration,
    ) -> Result<Vec<String>, StoreError> {
        let connection = self.durable("dropping partitions").await?;
        let row = connection
            .query_one(DROP_EXPIRED_PARTITIONS, &[&milliseconds(retention)])
            .await?;
        Ok(row.get(0))
    }

    /// Deletes up to 1,000 idempotency keys older than `retention`. Returns how many.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn expire_idempotency_keys(&self, retention: Duration) -> Result<u64, StoreError> {
        let connection = self.relaxed("expiring idempotency keys").await?;
        connection
            .execute(EXPIRE_IDEMPOTENCY_KEYS, &[&milliseconds(retention)])
            .await
    }

    /// Deletes up to 1,000 dead letters older than `retention`. Returns how many.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn expire_dead_letters(&self, retention: Duration) -> Result<u64, StoreError> {
        let connection = self.durable("expiring dead letters").await?;
        let row = connection
            .query_one(EXPIRE_DEAD_LETTERS, &[&milliseconds(retention)])
            .await?;
        Ok(row.get::<_, i64>(0).unsigned_abs())
    }

    /// Looks for rows that break an invariant. An empty answer is the only good one. Reads whole
    /// tables: for tests and for `zyven admin check`.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn invariant_breaches(&self) -> Result<Vec<InvariantBreach>, StoreError> {
        const DOING: &str = "checking invariants";
        let mut connection = self.reads(DOING).await?;
        let client = connection.client_mut();
        // One snapshot for all questions, or a delivery on its way from one table to another is
        // counted twice or not at all.
        let transaction = client
            .build_transaction()
            .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await
            .doing(DOING)?;
        let mut breaches = Vec::new();
        for (invariant, sql) in INVARIANTS {
            for row in transaction.query(sql, &[]).await.doing(DOING)? {
                breaches.push(InvariantBreach {
                    invariant,
                    what: row.get(0),
                });
            }
        }
        Ok(breaches)
    }
}
