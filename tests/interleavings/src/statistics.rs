//! What the batcher counts, by the real counters.

use std::sync::atomic::AtomicU64;

use real_runtime::metrics::{BATCH_BOUNDS, Counter, Histogram, Metrics};

use crate::aside::Reason;

pub(crate) struct Statistics {
    pub(crate) accepted: Counter,
    pub(crate) deliveries: Counter,
    pub(crate) batch_events: Histogram,
    pub(crate) batches_failed: Counter,
    pub(crate) storing_failed: AtomicU64,
    aside: Counter,
}

impl Statistics {
    pub(crate) fn new() -> Self {
        let metrics = Metrics::default();
        Self {
            accepted: metrics.counter("accepted", "", &[]),
            deliveries: metrics.counter("deliveries", "", &[]),
            batch_events: metrics.histogram("batch", "", &[], BATCH_BOUNDS),
            batches_failed: metrics.counter("failed", "", &[]),
            storing_failed: AtomicU64::new(0),
            aside: metrics.counter("aside", "", &[]),
        }
    }

    pub(crate) fn set_aside(&self, _reason: Reason) -> &Counter {
        &self.aside
    }
}
