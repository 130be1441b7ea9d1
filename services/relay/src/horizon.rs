//! Transactions that stay open, seen before they cost anything.
//!
//! Zyven's statements find rows by number, so that dead ones cost them little. They pile up all the same while somebody
//! keeps a transaction open, in every table of the database, and an operator should hear of it.

use std::time::Duration;

use zyven_runtime::pace::Rest;
use zyven_store::Store;

use crate::{RelayError, Statistics};

/// An alert waits for minutes.
const EVERY: Duration = Duration::from_secs(15);
/// Older than any statement of ours can be.
const OLD: Duration = Duration::from_secs(300);

/// One look.
pub(crate) async fn step(store: &Store, statistics: &Statistics) -> Result<Rest, RelayError> {
    let horizon = store.horizon().await?;
    let age = horizon.oldest_transaction;
    let seconds = |age: Duration| i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
    let before = statistics.oldest_transaction.get();
    statistics.oldest_transaction.set(seconds(age));
    statistics
        .dead_outbox_rows
        .set(i64::try_from(horizon.dead_outbox_rows).unwrap_or(i64::MAX));
    if age >= OLD && before < seconds(OLD) {
        tracing::warn!(
            age_s = age.as_secs(),
            "a transaction stays open in PostgreSQL: rows that are gone cannot be cleared away; see pg_stat_activity and pg_prepared_xacts"
        );
    }
    Ok(Rest::For(EVERY))
}
