//! How much room things take.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};

use crate::maintenance::milliseconds;
use crate::{Store, StoreError};

const STORAGE: &str = "
    SELECT what, partitions, oldest_day, newest_day, rows_about, table_bytes, index_bytes, bytes_per_day, expired_bytes,
           needed_days, next_freed_at, next_freed_bytes
      FROM zyven.storage($1::bigint * interval '1 millisecond')";

/// The room one table takes, with all its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableStorage {
    /// The table.
    pub what: String,
    /// Partitions, one for each day; 0 if it has none.
    pub partitions: u64,
    /// The first and the last day there is a partition for (UTC).
    pub days: Option<(NaiveDate, NaiveDate)>,
    /// Rows, as PostgreSQL estimated them last. `None` before it has done so for the first time.
    pub rows_about: Option<u64>,
    /// Bytes of the table, large values included.
    pub table_bytes: u64,
    /// Bytes of its indexes.
    pub index_bytes: u64,
    /// Bytes of a day, on average of the last seven full ones.
    pub bytes_per_day: Option<u64>,
    /// Bytes of days beyond the retention that are still there.
    pub expired_bytes: u64,
    /// How many of these days unfinished deliveries need.
    pub needed_days: u64,
    /// When the next day goes, and how much that frees.
    pub next_freed: Option<(DateTime<Utc>, u64)>,
}

impl Store {
    /// The room that each table takes, the largest first, and what a retention of events frees next. Asks the file system for every
    /// partition, and the outbox for every expired day.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn storage(
        &self,
        event_retention: Duration,
    ) -> Result<Vec<TableStorage>, StoreError> {
        let connection = self.reads("looking how much room things take").await?;
        let rows = connection
            .query(STORAGE, &[&milliseconds(event_retention)])
            .await?;
        let count = |number: i64| number.max(0).unsigned_abs();
        let tables = rows.iter().map(|row| {
            let optional = |column| row.get::<_, Option<i64>>(column).map(count);
            TableStorage {
                what: row.get(0),
                partitions: count(row.get(1)),
                days: row.get::<_, Option<_>>(2).zip(row.get::<_, Option<_>>(3)),
                rows_about: u64::try_from(row.get::<_, i64>(4)).ok(),
                table_bytes: count(row.get(5)),
                index_bytes: count(row.get(6)),
                bytes_per_day: optional(7),
                expired_bytes: count(row.get(8)),
                needed_days: count(row.get(9)),
                next_freed: row.get::<_, Option<_>>(10).zip(optional(11)),
            }
        });
        Ok(tables.collect())
    }
}
