//! What the batcher counts, by the real counters.

use real_runtime::metrics::{BATCH_BOUNDS, Counter, Histogram, Metrics};

use crate::aside::Reason;

pub(crate) struct Statistics {
    pub(crate) accepted: Counter,
    pub(crate) deliveries: Counter,
    pub(crate) batch_events: Histogram,
    pub(crate) batches_failed: Counter,
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
            aside: metrics.counter("aside", "", &[]),
        }
    }

    /// For the readiness probe, which nobody asks here.
    pub(crate) fn note_storing_failed(&self) {}

    pub(crate) fn set_aside(&self, _reason: Reason) -> &Counter {
        &self.aside
    }
}
