//! T1: from RECEIVED to DISPATCHING. Rows get their tickets in sequence order, and a watermark says how
//! far that has come.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use zyven_crash_points::CrashPoint;
use zyven_runtime::pace::Rest;
use zyven_store::{OutboxRow, Store};

use crate::gaps::{self, Gaps};
use crate::term::{Offered, Term};
use crate::{RelayError, Statistics};

/// The watermark is recorded no more often than this while rows keep coming: it is for showing states
/// and for beginning again after a restart, and rows behind it are merely handed over twice.
const WATERMARK_INTERVAL: Duration = Duration::from_millis(50);
/// And while somebody's transaction keeps its old versions from being cleared away.
const WATERMARK_INTERVAL_BEHIND_OLD: Duration = Duration::from_secs(2);
/// From this age on a transaction counts as old.
const OLD_TRANSACTION_S: i64 = 60;

/// After so long without a row the relay looks less often by itself, [`QUIET_INTERVALS`] times the poll
/// interval apart: an idle installation costs mostly these looks. A bell wakes it all the same.
const QUIET_AFTER: Duration = Duration::from_secs(10);
const QUIET_INTERVALS: u32 = 2;

/// Rest while there is no epoch: the sweep has been alarmed and is about to begin one.
const REST_WITHOUT_EPOCH: Duration = Duration::from_millis(20);

/// Reads new outbox rows and pushes their tickets.
pub struct HandOver {
    term: Arc<Term>,
    poll_interval: Duration,
    /// Everything up to it was handed over or is in the ledger. `None`: to be read from the watermark.
    cursor: Option<i64>,
    gaps: Gaps,
    recorded: i64,
    recorded_at: Instant,
    /// When there was something to hand over.
    busy_at: Instant,
}

/// The rows of open gaps that have appeared meanwhile.
struct LookUp {
    xmin: u64,
    numbers: Vec<i64>,
    rows: Vec<OutboxRow>,
}

impl HandOver {
    /// Begins where the last leader's watermark is.
    pub fn new(term: Arc<Term>, poll_interval: Duration) -> Self {
        Self {
            term,
            poll_interval,
            cursor: None,
            gaps: Gaps::default(),
            recorded: 0,
            recorded_at: Instant::now(),
            busy_at: Instant::now(),
        }
    }

    /// Hands over one page of rows, and what has come late.
    ///
    /// # Errors
    ///
    /// PostgreSQL or Redis did not do their part. Nothing was skipped: the next step does it again.
    pub async fn step(&mut self) -> Result<Rest, RelayError> {
        let step = self.try_step().await;
        if let Err(RelayError::Store(_)) = step {
            // PostgreSQL may have crashed, and given out again the numbers of rows that an asynchronous
            // commit had shown to us. What was committed before the watermark was, is still there.
            self.cursor = None;
        }
        step
    }

    async fn try_step(&mut self) -> Result<Rest, RelayError> {
        if !self.term.has_epoch() {
            self.term.alarm().notify_one();
            return Ok(Rest::For(REST_WITHOUT_EPOCH));
        }
        let cursor = self.cursor().await?;
        // The order matters: xmin, then the rows of the gaps; the page, then an own transaction id.
        let late = self.look_up_gaps().await?;
        let page = self.store().outbox_page(cursor).await?;
        let read_at = Instant::now();
        let (missing, left_out) = gaps::missing(cursor, page.iter().map(|row| row.seq));
        let xact_id = if missing.is_empty() {
            0
        } else {
            self.store().current_xact_id().await?
        };

        let rows = [late.rows.as_slice(), page.as_slice()].concat();
        let next_cursor = page.last().map_or(cursor, |row| row.seq);
        if !rows.is_empty() {
            self.busy_at = Instant::now();
            CrashPoint::RelayBeforePush.reached();
            let Offered::Accepted { walks, .. } = self.term.offer(&rows).await? else {
                return Ok(Rest::For(REST_WITHOUT_EPOCH));
            };
            CrashPoint::RelayAfterPush.reached();
            if !self.term.hand_over(next_cursor, walks) {
                return Ok(Rest::For(REST_WITHOUT_EPOCH));
            }
        }

        // From here on nothing waits and nothing fails until the ledger and the cursor agree again.
        let found = late.rows.iter().map(|row| row.seq);
        self.gaps.settle(&late.numbers, found, late.xmin);
        let left_out = left_out + self.gaps.remember(&missing, xact_id);
        let cursor = next_cursor;
        self.cursor = Some(cursor);
        self.count(&late, &page, read_at, left_out);

        let is_full = page.len() == Store::OUTBOX_PAGE_ROWS_MAX;
        self.record_watermark(cursor, page.is_empty()).await?;
        Ok(if is_full {
            Rest::None
        } else {
            Rest::For(self.rest(cursor))
        })
    }

    async fn cursor(&mut self) -> Result<i64, RelayError> {
        if let Some(cursor) = self.cursor {
            return Ok(cursor);
        }
        let watermark = self.store().watermark().await?;
        self.recorded = watermark;
        self.cursor = Some(watermark);
        self.term.set_handed_over(watermark);
        Ok(watermark)
    }

    async fn look_up_gaps(&mut self) -> Result<LookUp, RelayError> {
        let numbers = self.gaps.to_look_up();
        if numbers.is_empty() {
            return Ok(LookUp {
                xmin: 0,
                numbers,
                rows: Vec::new(),
            });
        }
        let xmin = self.store().snapshot_xmin().await?;
        let rows = self.store().outbox_rows(&numbers).await?;
        Ok(LookUp {
            xmin,
            numbers,
            rows,
        })
    }

    async fn record_watermark(&mut self, cursor: i64, is_idle: bool) -> Result<(), RelayError> {
        // The watermark is one row, and each of its versions is read with every update as long as none can be cleared away.
        let is_time = match self.statistics().oldest_transaction.get() < OLD_TRANSACTION_S {
            true => is_idle || self.recorded_at.elapsed() >= WATERMARK_INTERVAL,
            false => self.recorded_at.elapsed() >= WATERMARK_INTERVAL_BEHIND_OLD,
        };
        if cursor > self.recorded && is_time {
            self.store().record_watermark(cursor).await?;
            self.recorded = cursor;
            self.recorded_at = Instant::now();
        }
        Ok(())
    }

    fn rest(&self, cursor: i64) -> Duration {
        if cursor > self.recorded {
            WATERMARK_INTERVAL.min(self.poll_interval)
        } else if self.busy_at.elapsed() >= QUIET_AFTER {
            self.poll_interval * QUIET_INTERVALS
        } else {
            self.poll_interval
        }
    }

    fn count(&self, late: &LookUp, page: &[OutboxRow], read_at: Instant, left_out: u64) {
        let statistics = self.statistics();
        let since = read_at.elapsed();
        // What waits for its turn is not late, and what was attempted has been handed over before.
        let fresh = [late.rows.as_slice(), page].into_iter().flatten();
        for row in fresh.filter(|row| row.due_in.is_zero() && !row.is_retry) {
            (statistics.hand_over_lag).observe_duration(row.overdue + since);
        }
        let rows = late.rows.len() + page.len();
        if rows > 0 {
            statistics.handed_over.add(rows as u64);
            statistics.hand_over_rows.observe(rows as f64);
        }
        statistics.gaps_filled.add(late.rows.len() as u64);
        statistics.gaps_open.set(self.gaps.len() as i64);
        if left_out > 0 {
            statistics.gaps_left_out.add(left_out);
            tracing::warn!(
                left_out,
                "more gaps than the ledger holds; scrubbing finds their rows"
            );
        }
    }

    fn store(&self) -> &Store {
        &self.term.store
    }

    fn statistics(&self) -> &Statistics {
        &self.term.statistics
    }
}
