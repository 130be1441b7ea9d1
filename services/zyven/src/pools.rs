//! How long services wait for their connections to PostgreSQL and Redis, and how many they have open.
//!
//! Neither `store` nor `queue` knows metrics: each tells whoever wants to know, once per statement or exchange,
//! and that costs two looks at a clock.

use zyven_queue::Queue;
use zyven_runtime::metrics::Metrics;
use zyven_store::{ConnectionKind, Store};

/// Upper bounds for waits, in seconds: a free connection takes microseconds, a new one milliseconds, and after 5 s
/// nobody waits any longer.
const WAIT_BOUNDS_S: &[f64] = &[0.0001, 0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0];

/// Shows what becomes of the connections of `store`, which `service` has for itself.
pub(crate) fn observe_store(store: &Store, service: &'static str, metrics: &Metrics) {
    let waits = ConnectionKind::ALL.map(|kind| {
        let labels = [("service", service), ("kind", kind.as_str())];
        let asked = store.clone();
        metrics.asked_gauge(
            "zyven_postgres_connections",
            "Connections to PostgreSQL that are open, by service and kind",
            &labels,
            move || asked.connections(kind) as f64,
        );
        metrics.histogram(
            "zyven_postgres_pool_wait_seconds",
            "Time that a statement waited for a connection to PostgreSQL",
            &labels,
            WAIT_BOUNDS_S,
        )
    });
    store.note_connection_waits(move |kind, wait| waits[kind as usize].observe_duration(wait));
}

/// Shows how long `service` waits for its connections of `queue`.
pub(crate) fn observe_queue(queue: &Queue, service: &'static str, metrics: &Metrics) {
    let waits = metrics.histogram(
        "zyven_redis_pool_wait_seconds",
        "Time that an exchange waited for a connection to Redis",
        &[("service", service)],
        WAIT_BOUNDS_S,
    );
    queue.note_connection_waits(move |wait| waits.observe_duration(wait));
}
