//! What the steps of one leader share.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use zyven_queue::{Epoch, Lane, Pushed, Queue, Ticket};
use zyven_store::{OutboxRow, Store};

use crate::limits::Limits;
use crate::{RelayError, Statistics};

/// One leader's time in office: from taking the lead until losing it.
pub struct Term {
    pub(crate) store: Store,
    pub(crate) queue: Queue,
    pub(crate) statistics: Statistics,
    pub(crate) limits: Limits,
    /// Under which tickets are pushed; `None` until the sweep has found or begun one. Never held across
    /// an await.
    epoch: Mutex<Option<Epoch>>,
    /// The hand-over's cursor; rows beyond it are its business and not the sweep's.
    handed_over: AtomicI64,
    alarm: Notify,
    death: Notify,
}

/// What became of some rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Offered {
    /// They have their tickets, of this epoch; so many had none before.
    Accepted { added: usize, epoch: Epoch },
    /// There is no epoch to push them under. The sweep has been alarmed.
    EpochLost,
}

impl Term {
    /// A term that knows no epoch yet.
    pub fn new(store: Store, queue: Queue, statistics: Statistics) -> Self {
        Self {
            store,
            queue,
            statistics,
            limits: Limits::default(),
            epoch: Mutex::new(None),
            handed_over: AtomicI64::new(i64::MAX),
            alarm: Notify::new(),
            death: Notify::new(),
        }
    }

    /// Gives a ticket to each of the rows that no dispatcher holds. Their lanes know their limits by then.
    pub(crate) async fn offer(&self, rows: &[OutboxRow]) -> Result<Offered, RelayError> {
        let Some(epoch) = self.epoch() else {
            self.alarm.notify_one();
            return Ok(Offered::EpochLost);
        };
        let endpoints = rows.iter().map(|row| row.endpoint_id);
        // What comes of an epoch that is lost by now is found out by the push.
        let _ = self
            .limits
            .tell_new(&self.store, &self.queue, &epoch, endpoints)
            .await?;
        let tickets: Vec<Ticket> = rows
            .iter()
            .filter(|row| !row.leased)
            .map(|row| Ticket {
                seq: row.seq,
                lane: Lane {
                    tenant_id: row.tenant_id,
                    endpoint_id: row.endpoint_id,
                },
                ordering_key: row.ordering_key,
                is_first: row.is_first,
                is_retry: row.is_retry,
                due_in: row.due_in,
            })
            .collect();
        match self.queue.push(&tickets, &epoch).await? {
            Pushed::Accepted { added } => Ok(Offered::Accepted { added, epoch }),
            Pushed::EpochLost => {
                self.forget_epoch(&epoch);
                self.alarm.notify_one();
                Ok(Offered::EpochLost)
            }
        }
    }

    pub(crate) fn epoch(&self) -> Option<Epoch> {
        self.lock_epoch().clone()
    }

    pub(crate) fn has_epoch(&self) -> bool {
        self.lock_epoch().is_some()
    }

    pub(crate) fn set_epoch(&self, epoch: Epoch) {
        *self.lock_epoch() = Some(epoch);
    }

    fn forget_epoch(&self, lost: &Epoch) {
        let mut epoch = self.lock_epoch();
        // The sweep may have begun the next one already.
        if epoch.as_ref() == Some(lost) {
            *epoch = None;
        }
    }

    fn lock_epoch(&self) -> std::sync::MutexGuard<'_, Option<Epoch>> {
        // An Option is never half-written, so a panic elsewhere does no harm to it.
        self.epoch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rung when the epoch was found to be lost.
    pub(crate) fn alarm(&self) -> &Notify {
        &self.alarm
    }

    /// Rung when a dispatcher was declared dead.
    pub(crate) fn death(&self) -> &Notify {
        &self.death
    }

    /// Up to where the hand-over has come; everything, while that is not known.
    pub(crate) fn handed_over(&self) -> i64 {
        self.handed_over.load(Ordering::Relaxed)
    }

    /// Says that everything up to `seq` is handed over, if the tickets of this epoch are still those that
    /// count. If Redis was emptied since and the sweep is filling it, that walk leaves out what was not
    /// handed over when it looked; the rows have to be offered once more.
    #[must_use = "nothing was handed over if the epoch is another"]
    pub(crate) fn hand_over(&self, seq: i64, pushed_under: &Epoch) -> bool {
        // Held until it is said: a walk of the next epoch begins after it.
        let epoch = self.lock_epoch();
        let counts = epoch.as_ref() == Some(pushed_under);
        if counts {
            self.set_handed_over(seq);
        }
        counts
    }

    pub(crate) fn set_handed_over(&self, seq: i64) {
        self.handed_over.store(seq, Ordering::Relaxed);
        self.statistics.watermark.set(seq);
    }
}
