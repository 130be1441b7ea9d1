//! What the API counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use zyven_runtime::metrics::{BATCH_BOUNDS, Counter, Histogram, LATENCY_BOUNDS_S, Metrics};

use crate::aside::{Aside, Reason};
use crate::batcher::Batcher;
use crate::body::Room;
use crate::rates::Counted;

/// Handles to every series of this service. Requests are counted per route by [`Requests`].
pub(crate) struct Statistics {
    pub(crate) accepted: Counter,
    pub(crate) deliveries: Counter,
    pub(crate) schema_refusals: Counter,
    pub(crate) schema_warnings: Counter,
    pub(crate) batch_events: Histogram,
    pub(crate) batches_failed: Counter,
    /// Batches given up because the database could not store anything; for the readiness probe.
    storing_failed: AtomicU64,
    aside_for_filters: Counter,
    aside_for_locks: Counter,
    /// From the request's head to the answer, for publishing requests that were answered 2xx.
    pub(crate) acknowledged: Histogram,
    pub(crate) connections_refused: Counter,
    rate_limited: [Counter; 2],
    metrics: Metrics,
}

impl Statistics {
    pub(crate) fn new(
        metrics: &Metrics,
        batcher: &Batcher,
        aside: &Aside,
        room: &Room,
    ) -> Arc<Self> {
        let batcher = batcher.clone();
        metrics.asked_gauge(
            "zyven_ingest_queue_events",
            "Events waiting to be stored",
            &[],
            move || batcher.waiting() as f64,
        );
        let mismatches = |mode| {
            metrics.counter(
                "zyven_ingest_schema_mismatches_total",
                "Events whose payload does not fit its type's schema, by what follows",
                &[("mode", mode)],
            )
        };
        let set_aside = |reason| {
            metrics.counter(
                "zyven_ingest_set_aside_events_total",
                "Events stored by themselves, so that they keep nobody waiting, by why they would have",
                &[("reason", reason)],
            )
        };
        let aside = aside.clone();
        metrics.asked_gauge(
            "zyven_ingest_aside_events",
            "Events waiting to be stored by themselves",
            &[],
            move || aside.waiting() as f64,
        );
        let room = room.clone();
        metrics.asked_gauge(
            "zyven_ingest_bodies_bytes",
            "Bytes of request bodies that are being read or wait to be stored",
            &[],
            move || room.used_bytes() as f64,
        );
        Arc::new(Self {
            accepted: metrics.counter(
                "zyven_ingest_events_accepted_total",
                "Events stored and acknowledged; repetitions not counted",
                &[],
            ),
            deliveries: metrics.counter(
                "zyven_ingest_deliveries_total",
                "Deliveries made of accepted events",
                &[],
            ),
            schema_refusals: mismatches("reject"),
            schema_warnings: mismatches("warn"),
            batch_events: metrics.histogram(
                "zyven_ingest_batch_events",
                "Events stored by one statement",
                &[],
                BATCH_BOUNDS,
            ),
            batches_failed: metrics.counter(
                "zyven_ingest_batches_failed_total",
                "Batches given up because the database failed",
                &[],
            ),
            storing_failed: AtomicU64::new(0),
            aside_for_filters: set_aside("filters"),
            aside_for_locks: set_aside("held_up"),
            acknowledged: metrics.histogram(
                "zyven_ingest_acknowledge_seconds",
                "Time from a publishing request's head to its 2xx answer",
                &[],
                LATENCY_BOUNDS_S,
            ),
            connections_refused: metrics.counter(
                "zyven_ingest_connections_refused_total",
                "Connections answered 503 because there were too many",
                &[],
            ),
            rate_limited: Counted::ALL.map(|counted| {
                metrics.counter(
                    "zyven_ingest_rate_limited_total",
                    "Requests answered 429 because their tenant asks more often than it may, by which of its limits",
                    &[("limit", counted.as_str())],
                )
            }),
            metrics: metrics.clone(),
        })
    }

    pub(crate) fn rate_limited(&self, counted: Counted) {
        let counters = Counted::ALL.into_iter().zip(&self.rate_limited);
        for (_, counter) in counters.filter(|(known, _)| *known == counted) {
            counter.increment();
        }
    }

    pub(crate) fn note_storing_failed(&self) {
        self.storing_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was noted.
    pub(crate) fn storing_failed(&self) -> u64 {
        self.storing_failed.load(Ordering::Relaxed)
    }

    pub(crate) fn set_aside(&self, reason: Reason) -> &Counter {
        match reason {
            Reason::Filters(_) => &self.aside_for_filters,
            Reason::HeldUp => &self.aside_for_locks,
        }
    }

    pub(crate) fn requests(&self, route: &'static str) -> Requests {
        Requests::new(&self.metrics, route)
    }
}

/// Requests of one route, by the statuses it can have.
pub(crate) struct Requests {
    metrics: Metrics,
    pub(crate) route: &'static str,
    /// The status nearly every request of a route has, found without a look at the registry.
    usual: [(u16, Counter); 3],
}

impl Requests {
    fn new(metrics: &Metrics, route: &'static str) -> Self {
        let usual = [200, 202, 503].map(|status| (status, counter(metrics, route, status)));
        Self {
            metrics: metrics.clone(),
            route,
            usual,
        }
    }

    pub(crate) fn count(&self, status: u16) {
        match self.usual.iter().find(|(usual, _)| *usual == status) {
            Some((_, counter)) => counter.increment(),
            None => counter(&self.metrics, self.route, status).increment(),
        }
    }
}

/// Statuses are the program's own, some twenty of them.
fn counter(metrics: &Metrics, route: &'static str, status: u16) -> Counter {
    metrics.counter(
        "zyven_ingest_requests_total",
        "Requests answered, by route and status",
        &[("route", route), ("status", &status.to_string())],
    )
}
