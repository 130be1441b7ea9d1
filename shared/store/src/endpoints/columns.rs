//! An endpoint's columns: values on their way into them, and a row as a record.

use std::time::Duration;

use tokio_postgres::Row;
use zyven_domain::id::EndpointId;
use zyven_domain::retry::RetryPolicy;

use super::EndpointRecord;
use crate::LaneLimits;

/// A macro because statements are constants: the columns that [`record`] reads.
macro_rules! record_columns {
    () => {
        "id, url, description, event_types, channels, disabled_reason, retry_base_ms, retry_cap_ms,
         attempts_max, age_max_ms, timeout_ms, created_at, updated_at, retry_schedule_ms, retry_statuses,
         concurrency_max, rate_per_minute, rate_burst, paused_at IS NOT NULL, filter"
    };
}
pub(super) use record_columns;

/// Values from here on have been bounded far below the limits of their columns.
pub(super) fn bigint(value: u128) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn integer<T: TryInto<i32>>(value: T) -> i32 {
    value.try_into().unwrap_or(i32::MAX)
}

pub(super) fn schedule_ms(schedule: &[Duration]) -> Vec<i64> {
    schedule
        .iter()
        .map(|wait| bigint(wait.as_millis()))
        .collect()
}

pub(super) fn smallints(statuses: &[u16]) -> Vec<i16> {
    let statuses = statuses.iter().copied();
    statuses
        .filter_map(|status| status.try_into().ok())
        .collect()
}

/// The reverse of `retry_schedule_ms` and `retry_statuses` as they are stored.
pub(crate) fn schedule(row: &Row, column: usize) -> Vec<Duration> {
    let waits_ms: Vec<i64> = row.get(column);
    let waits = waits_ms.into_iter();
    waits
        .map(|ms| Duration::from_millis(ms.unsigned_abs()))
        .collect()
}

pub(crate) fn statuses(row: &Row, column: usize) -> Vec<u16> {
    let statuses: Vec<i16> = row.get(column);
    statuses.into_iter().map(i16::unsigned_abs).collect()
}

pub(super) fn record(row: &Row) -> EndpointRecord {
    let ms = |column: usize| Duration::from_millis(row.get::<_, i64>(column).unsigned_abs());
    let count = |column: usize| row.get::<_, Option<i32>>(column).map(i32::unsigned_abs);
    EndpointRecord {
        id: EndpointId::from_uuid(row.get(0)),
        url: row.get(1),
        description: row.get(2),
        event_types: row.get(3),
        channels: row.get(4),
        disabled_reason: row.get(5),
        policy: RetryPolicy {
            base: ms(6),
            cap: ms(7),
            attempts_max: row.get::<_, i32>(8).unsigned_abs(),
            schedule: schedule(row, 13),
            statuses: statuses(row, 14),
            age_max: ms(9),
            timeout: Duration::from_millis(u64::from(row.get::<_, i32>(10).unsigned_abs())),
        },
        limits: LaneLimits {
            concurrency_max: count(15),
            rate_per_minute: count(16),
            rate_burst: count(17),
            is_paused: row.get(18),
        },
        created_at: row.get(11),
        updated_at: row.get(12),
        filter: row.get(19),
    }
}
