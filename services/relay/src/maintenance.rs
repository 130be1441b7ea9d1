//! Partitions made in time, and what is too old dropped.

use std::time::Duration;

use chrono::{DateTime, Utc};
use zyven_runtime::pace::Rest;
use zyven_store::Store;

use crate::{Config, RelayError, Statistics};

/// Most batches of a thousand rows per step, so that a step is over soon.
const BATCHES_MAX: u32 = 20;
/// A batch that is not full was the last one.
const BATCH_ROWS: u64 = 1_000;
/// Longest rest: a clock that was set must not make maintenance sleep for a day.
const REST_MAX: Duration = Duration::from_secs(60);

/// Cares for partitions and retention, at the start and whenever the schedule says.
pub struct Maintenance {
    config: Config,
    store: Store,
    statistics: Statistics,
    due_at: DateTime<Utc>,
}

impl Maintenance {
    /// Due at once: an installation that was switched off for a week has no partition for today.
    pub fn new(config: Config, store: Store, statistics: Statistics) -> Self {
        Self {
            config,
            store,
            statistics,
            due_at: DateTime::UNIX_EPOCH,
        }
    }

    /// Does a part of what is due.
    ///
    /// # Errors
    ///
    /// PostgreSQL could not be asked, or a partition is in use. It stays due.
    pub async fn step(&mut self) -> Result<Rest, RelayError> {
        let now = Utc::now();
        if now < self.due_at {
            let left = (self.due_at - now).to_std().unwrap_or_default();
            return Ok(Rest::For(left.min(REST_MAX)));
        }
        // First what accepting events depends on.
        let made = self.store.ensure_partitions().await?;
        self.statistics.partitions_made.add(u64::from(made));
        if !self.expire().await? {
            return Ok(Rest::None);
        }
        let dropped = self
            .store
            .drop_expired_partitions(self.config.event_retention)
            .await?;
        self.statistics.partitions_dropped.add(dropped.len() as u64);
        if made > 0 || !dropped.is_empty() {
            tracing::info!(made, ?dropped, "partitions");
        }
        if !dropped.is_empty() {
            // A day at a time; there may be more.
            return Ok(Rest::None);
        }
        // A schedule may lie in the past altogether; then once was enough.
        let next = self.config.maintenance.after(&now).next();
        self.due_at = next.unwrap_or(DateTime::<Utc>::MAX_UTC);
        Ok(Rest::None)
    }

    /// Returns whether nothing old is left.
    async fn expire(&self) -> Result<bool, RelayError> {
        for _ in 0..BATCHES_MAX {
            let keys = self
                .store
                .expire_idempotency_keys(self.config.idempotency_retention)
                .await?;
            let letters = self
                .store
                .expire_dead_letters(self.config.dead_letter_retention)
                .await?;
            let audited = self
                .store
                .expire_audit_log(self.config.audit_retention)
                .await?;
            self.statistics.idempotency_keys_expired.add(keys);
            self.statistics.dead_letters_expired.add(letters);
            self.statistics.audit_entries_expired.add(audited);
            if keys.max(letters).max(audited) < BATCH_ROWS {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
