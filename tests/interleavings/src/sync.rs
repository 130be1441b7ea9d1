//! What the explored sources wait and lock with.

use shuttle::sync::atomic::{AtomicUsize, Ordering};
pub(crate) use shuttle::sync::{Mutex, MutexGuard};
pub(crate) use tokio::sync::oneshot;

pub(crate) use crate::clock::{Instant, sleep, timeout, timeout_at};

/// tokio's own, which works under any scheduler; to tell somebody is a point at which another may come first.
#[derive(Debug)]
pub(crate) struct Notify {
    inner: tokio::sync::Notify,
    point: AtomicUsize,
}

impl Notify {
    pub(crate) fn new() -> Self {
        Self {
            inner: tokio::sync::Notify::new(),
            point: AtomicUsize::new(0),
        }
    }

    pub(crate) fn notified(&self) -> tokio::sync::futures::Notified<'_> {
        self.let_others_go_first();
        self.inner.notified()
    }

    pub(crate) fn notify_one(&self) {
        self.let_others_go_first();
        self.inner.notify_one();
    }

    pub(crate) fn notify_waiters(&self) {
        self.let_others_go_first();
        self.inner.notify_waiters();
    }

    fn let_others_go_first(&self) {
        self.point.load(Ordering::SeqCst);
    }
}
