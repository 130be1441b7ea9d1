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
use crate::{LEAD_POLL, RelayError, Statistics};

/// The watermark is recorded no more often than this while rows keep coming: it is for showing states
/// and for beginning again after a restart, and rows behind it are merely handed over twice.
const WATERMARK_INTERVAL: Duration = Duration::from_millis(50);
/// And while somebody's transaction keeps its old versions from being cleared away.
const WATERMARK_INTERVAL_BEHIND_OLD: Duration = Duration::from_secs(2);
/// From this age on a transaction counts as old.
const OLD_TRANSACTION_S: i64 = 60;

/// The longer nothing has come, the less often the relay looks by itself, as these looks are most of what an idle
/// installation costs (ADR 0041). What comes without a bell is late by this part of the quiet before it at most.
const QUIET_PART: u32 = 60;
/// The longest rest in poll intervals, so that who wants short ones gets them always.
const QUIET_INTERVALS_MAX: u32 = 10;
/// The longest rest, unless the poll interval is longer: what a lost bell may cost.
const QUIET_REST_MAX: Duration = LEAD_POLL;
/// Rest once rests have become that long. The look that renews the lead then looks for rows as well, and rings; should
/// it not, this bounds how late the relay looks by itself.
const REST_WHILE_LOOKED_AFTER: Duration = Duration::from_secs(30);

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
        let quiet = self.busy_at.elapsed();
        // Rows that fill a gap come before the cursor, where no look looks.
        let leaves_looking = (self.gaps.is_empty() && cursor == self.recorded)
            && can_leave_looking(self.poll_interval, quiet);
        self.term.leave_looking(leaves_looking);
        if cursor > self.recorded {
            WATERMARK_INTERVAL.min(self.poll_interval)
        } else if leaves_looking {
            REST_WHILE_LOOKED_AFTER
        } else {
            rest_after_quiet(self.poll_interval, quiet)
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

/// When to look again, after so long without a row.
fn rest_after_quiet(poll_interval: Duration, quiet: Duration) -> Duration {
    let longest = poll_interval.saturating_mul(QUIET_INTERVALS_MAX);
    let longest = longest.min(QUIET_REST_MAX).max(poll_interval);
    (quiet / QUIET_PART).clamp(poll_interval, longest)
}

/// Whether a look every second finds rows as soon as the hand-over itself would.
fn can_leave_looking(poll_interval: Duration, quiet: Duration) -> bool {
    quiet >= QUIET_PART * QUIET_REST_MAX && rest_after_quiet(poll_interval, quiet) >= LEAD_POLL
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In milliseconds.
    fn rest(poll_interval: u64, quiet: u64) -> u128 {
        let ms = Duration::from_millis;
        rest_after_quiet(ms(poll_interval), ms(quiet)).as_millis()
    }

    #[test]
    fn rests_grow_with_the_quiet_from_the_poll_interval_to_a_second() {
        for (quiet, expected) in [
            (0, 100),
            (6_000, 100),
            (6_060, 101),
            (30_000, 500),
            (59_940, 999),
            (60_000, 1_000),
            (86_400_000, 1_000),
        ] {
            assert_eq!(rest(100, quiet), expected, "after {quiet} ms");
        }
    }

    #[test]
    fn looks_are_relied_on_when_they_are_as_good() {
        let can_leave = |poll_interval, quiet| {
            let ms = Duration::from_millis;
            can_leave_looking(ms(poll_interval), ms(quiet))
        };
        assert!(!can_leave(100, 59_999));
        assert!(can_leave(100, 60_000));
        assert!(!can_leave(99, 86_400_000));
        assert!(!can_leave(5_000, 59_999));
        assert!(can_leave(5_000, 60_000));
    }

    #[test]
    fn a_shorter_poll_interval_shortens_the_longest_rest() {
        assert_eq!(rest(20, 11_940), 199);
        assert_eq!(rest(20, 86_400_000), 200);
    }

    #[test]
    fn no_rest_is_shorter_than_the_poll_interval() {
        assert_eq!(rest(999, 0), 999);
        assert_eq!(rest(1_000, 86_400_000), 1_000);
        assert_eq!(rest(60_000, 0), 60_000);
        assert_eq!(rest(60_000, 86_400_000), 60_000);
    }
}
