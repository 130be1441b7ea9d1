//! What the steps of one leader share.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
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
    /// Never held across an await.
    standing: Mutex<Standing>,
    /// The hand-over's cursor; rows beyond it are its business and not the sweep's.
    handed_over: AtomicI64,
    /// Whether the hand-over leaves it to the looks that renew the lead to find rows beyond its cursor.
    leaves_looking: AtomicBool,
    news: Notify,
    alarm: Notify,
    death: Notify,
}

/// What the sweep knows of Redis.
#[derive(Debug, Clone, Default)]
struct Standing {
    /// Under which tickets are pushed; `None` until the sweep has found or begun one.
    epoch: Option<Epoch>,
    /// Walks that began because tickets may be missing: after an epoch was lost, or a node was away.
    walks: u64,
}

/// What became of some rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Offered {
    /// They have their tickets; so many had none before. So many walks had begun when they were offered.
    Accepted { added: usize, walks: u64 },
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
            standing: Mutex::default(),
            handed_over: AtomicI64::new(i64::MAX),
            leaves_looking: AtomicBool::new(false),
            news: Notify::new(),
            alarm: Notify::new(),
            death: Notify::new(),
        }
    }

    /// Gives a ticket to each of the rows that no dispatcher holds. Their lanes know their limits by then.
    pub(crate) async fn offer(&self, rows: &[OutboxRow]) -> Result<Offered, RelayError> {
        let Standing { epoch, walks } = self.lock_standing().clone();
        let Some(epoch) = epoch else {
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
            Pushed::Accepted { added } => Ok(Offered::Accepted { added, walks }),
            Pushed::EpochLost => {
                self.forget_epoch(&epoch);
                self.alarm.notify_one();
                Ok(Offered::EpochLost)
            }
        }
    }

    pub(crate) fn epoch(&self) -> Option<Epoch> {
        self.lock_standing().epoch.clone()
    }

    pub(crate) fn has_epoch(&self) -> bool {
        self.lock_standing().epoch.is_some()
    }

    /// Tickets are pushed under this epoch from now on, and a walk begins that offers what is handed over.
    pub(crate) fn begin_walk(&self, epoch: Epoch) {
        let mut standing = self.lock_standing();
        standing.epoch = Some(epoch);
        standing.walks += 1;
    }

    fn forget_epoch(&self, lost: &Epoch) {
        let mut standing = self.lock_standing();
        // The sweep may have begun the next one already.
        if standing.epoch.as_ref() == Some(lost) {
            standing.epoch = None;
        }
    }

    fn lock_standing(&self) -> std::sync::MutexGuard<'_, Standing> {
        // Nothing panics while it is held.
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a look that found endpoints changed: the sweep tells their lanes at once.
    pub(crate) fn note_changed_endpoints(&self) {
        self.limits.note_change();
        self.alarm.notify_one();
    }

    /// Rung when the epoch was found to be lost, or endpoints have changed.
    pub(crate) fn alarm(&self) -> &Notify {
        &self.alarm
    }

    /// Rung when a dispatcher was declared dead.
    pub(crate) fn death(&self) -> &Notify {
        &self.death
    }

    /// Rung when a look has found rows that the hand-over does not look for by itself, or could not look.
    pub(crate) fn news(&self) -> &Notify {
        &self.news
    }

    /// Says whether the hand-over looks for rows by itself, or leaves that to whoever renews the lead.
    pub(crate) fn leave_looking(&self, leaves: bool) {
        self.leaves_looking.store(leaves, Ordering::Relaxed);
    }

    /// Behind which number a look is to look for rows, if it is to.
    pub(crate) fn looked_after(&self) -> Option<i64> {
        let leaves = self.leaves_looking.load(Ordering::Relaxed);
        leaves.then(|| self.handed_over())
    }

    /// Up to where the hand-over has come; everything, while that is not known.
    pub(crate) fn handed_over(&self) -> i64 {
        self.handed_over.load(Ordering::Relaxed)
    }

    /// Says that everything up to `seq` is handed over, unless a walk has begun since the rows were offered:
    /// their tickets may have been lost before it, and it leaves out what was not handed over when it
    /// looked. Then they have to be offered once more.
    #[must_use = "nothing was handed over if a walk has begun"]
    pub(crate) fn hand_over(&self, seq: i64, offered_in: u64) -> bool {
        // Held until it is said: a walk that begins later sees it.
        let standing = self.lock_standing();
        let counts = standing.walks == offered_in;
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
