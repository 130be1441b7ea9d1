//! What keeps PostgreSQL from clearing away rows that are gone: transactions that stay open.

use std::time::Duration;

use crate::{Store, StoreError};

/// How far back the oldest transaction reaches, and what has piled up in the outbox since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// Age of the oldest transaction that holds rows back: a session's, or a prepared one's. Of other roles' sessions only
    /// what the role may see (`pg_read_all_stats`).
    pub oldest_transaction: Duration,
    /// Rows of the outbox that are gone and not cleared away yet, as PostgreSQL estimates them.
    pub dead_outbox_rows: u64,
}

/// A session holds rows back by its snapshot or by its own id; an idle one in a read-committed transaction has neither.
/// Walsenders and vacuums hold nothing that ends with them.
const HORIZON: &str = "
    SELECT coalesce(extract(epoch FROM clock_timestamp() - least(
               (SELECT min(xact_start)
                  FROM pg_stat_activity
                 WHERE (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL)
                   AND datname = current_database()
                   AND pid <> pg_backend_pid()
                   AND backend_type = 'client backend'),
               (SELECT min(prepared) FROM pg_prepared_xacts WHERE database = current_database()))) * 1000, 0)::bigint,
           coalesce((SELECT n_dead_tup FROM pg_stat_all_tables WHERE relid = 'zyven.outbox'::regclass), 0)";

impl Store {
    /// Looks how far back the oldest transaction reaches.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn horizon(&self) -> Result<Horizon, StoreError> {
        let connection = self.reads("looking for old transactions").await?;
        let row = connection.query_one(HORIZON, &[]).await?;
        Ok(Horizon {
            oldest_transaction: Duration::from_millis(row.get::<_, i64>(0).max(0).unsigned_abs()),
            dead_outbox_rows: row.get::<_, i64>(1).max(0).unsigned_abs(),
        })
    }
}
