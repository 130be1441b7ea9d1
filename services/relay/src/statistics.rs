//! What the relay counts.

use zyven_queue::{Depth, Failure, LaneStanding, Memory, Queue};
use zyven_runtime::metrics::{BATCH_BOUNDS, Counter, Gauge, Histogram, LATENCY_BOUNDS_S, Metrics};

/// Upper bounds for walks over the whole outbox, in seconds.
const WALK_BOUNDS_S: &[f64] = &[
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0,
];

/// The relay's metrics. Cheap to clone.
#[derive(Clone)]
pub struct Statistics {
    pub(crate) is_leading: Gauge,
    pub(crate) handed_over: Counter,
    pub(crate) hand_over_rows: Histogram,
    pub(crate) hand_over_lag: Histogram,
    pub(crate) watermark: Gauge,
    pub(crate) gaps_open: Gauge,
    pub(crate) gaps_filled: Counter,
    pub(crate) gaps_left_out: Counter,
    pub(crate) scrub_seconds: Histogram,
    pub(crate) scrub_tickets_restored: Counter,
    pub(crate) lanes_mended: Counter,
    pub(crate) dispatchers_lost: Counter,
    pub(crate) leases_ended: Counter,
    pub(crate) outbox_rows: Gauge,
    pub(crate) dispatching: Gauge,
    pub(crate) retry_scheduled: Gauge,
    pub(crate) oldest_due: Gauge,
    pub(crate) oldest_transaction: Gauge,
    pub(crate) dead_outbox_rows: Gauge,
    pub(crate) epochs_lost: Counter,
    pub(crate) rebuild_seconds: Histogram,
    pub(crate) rebuild_tickets: Counter,
    pub(crate) idempotency_keys_expired: Counter,
    pub(crate) dead_letters_expired: Counter,
    pub(crate) audit_entries_expired: Counter,
    pub(crate) partitions_made: Counter,
    pub(crate) partitions_dropped: Counter,
    queue_waiting: Gauge,
    queue_leased: Gauge,
    queue_lanes: Gauge,
    /// Lanes, and the tickets in them, by how the lanes stand.
    standings: [(Gauge, Gauge); LaneStanding::ALL.len()],
    memory_used: Gauge,
    memory_max: Gauge,
    evicts: Gauge,
}

impl Statistics {
    /// Declares all of them, at zero.
    pub fn new(metrics: &Metrics) -> Self {
        let counter = |name, help| metrics.counter(name, help, &[]);
        let gauge = |name, help| metrics.gauge(name, help, &[]);
        let unfinished = |state| {
            metrics.gauge(
                "zyven_relay_unfinished_deliveries",
                "Unfinished deliveries seen by the last walk, by state",
                &[("state", state)],
            )
        };
        Self {
            is_leading: gauge(
                "zyven_relay_leading",
                "1 while this relay is the one that works",
            ),
            handed_over: counter(
                "zyven_relay_handed_over_total",
                "Outbox rows handed to the queue",
            ),
            hand_over_rows: metrics.histogram(
                "zyven_relay_hand_over_rows",
                "Rows per hand-over that found any",
                &[],
                BATCH_BOUNDS,
            ),
            hand_over_lag: metrics.histogram(
                "zyven_relay_lag_seconds",
                "Time from a delivery's turn, usually its acceptance, until it was handed to the queue",
                &[],
                LATENCY_BOUNDS_S,
            ),
            watermark: gauge(
                "zyven_relay_watermark",
                "Sequence number up to which the outbox was handed over",
            ),
            gaps_open: gauge(
                "zyven_relay_gaps_open",
                "Sequence numbers that were not there and may still come",
            ),
            gaps_filled: counter(
                "zyven_relay_gaps_filled_total",
                "Rows that a slow transaction committed after later ones",
            ),
            gaps_left_out: counter(
                "zyven_relay_gaps_left_to_scrub_total",
                "Missing sequence numbers beyond what the ledger holds; the scrubber finds their rows",
            ),
            scrub_seconds: metrics.histogram(
                "zyven_relay_scrub_seconds",
                "Length of a walk over the whole outbox, rests included",
                &[],
                WALK_BOUNDS_S,
            ),
            dispatchers_lost: counter(
                "zyven_relay_dispatchers_lost_total",
                "Dispatchers that fell silent and were declared dead",
            ),
            leases_ended: counter(
                "zyven_relay_leases_ended_total",
                "Leases of dead dispatchers ended before their time",
            ),
            scrub_tickets_restored: counter(
                "zyven_relay_scrub_tickets_restored_total",
                "Tickets that a walk found missing or too late in the queue",
            ),
            lanes_mended: counter(
                "zyven_relay_lanes_mended_total",
                "Lanes whose count of tickets in flight was wrong",
            ),
            outbox_rows: gauge(
                "zyven_relay_outbox_rows",
                "Unfinished deliveries seen by the last walk",
            ),
            dispatching: unfinished("DISPATCHING"),
            retry_scheduled: unfinished("RETRY_SCHEDULED"),
            oldest_due: gauge(
                "zyven_relay_oldest_due_seconds",
                "For how long the oldest delivery that nobody holds had been due at the last walk, without those to endpoints that are paused or whose breaker is open",
            ),
            oldest_transaction: gauge(
                "zyven_relay_oldest_transaction_seconds",
                "Age of PostgreSQL's oldest open transaction that holds back rows which are gone",
            ),
            dead_outbox_rows: gauge(
                "zyven_relay_outbox_dead_rows",
                "Outbox rows that are gone and not cleared away yet, as PostgreSQL estimates them",
            ),
            epochs_lost: counter(
                "zyven_relay_epochs_lost_total",
                "How often Redis was found emptied",
            ),
            rebuild_seconds: metrics.histogram(
                "zyven_relay_rebuild_seconds",
                "Time from finding Redis emptied until everything had a ticket again",
                &[],
                WALK_BOUNDS_S,
            ),
            rebuild_tickets: counter(
                "zyven_relay_rebuild_tickets_total",
                "Tickets pushed by rebuilds",
            ),
            idempotency_keys_expired: counter(
                "zyven_relay_idempotency_keys_expired_total",
                "Idempotency keys deleted after their retention",
            ),
            audit_entries_expired: counter(
                "zyven_relay_audit_entries_expired_total",
                "Entries of the audit log deleted after their retention",
            ),
            dead_letters_expired: counter(
                "zyven_relay_dead_letters_expired_total",
                "Dead letters deleted after their retention",
            ),
            partitions_made: counter("zyven_relay_partitions_made_total", "Day partitions made"),
            partitions_dropped: counter(
                "zyven_relay_partitions_dropped_total",
                "Day partitions dropped after their retention",
            ),
            queue_waiting: gauge("zyven_queue_tickets_waiting", "Tickets in lanes"),
            queue_leased: gauge("zyven_queue_tickets_leased", "Tickets dispatchers hold"),
            queue_lanes: gauge("zyven_queue_lanes", "Lanes with a ticket in them"),
            standings: LaneStanding::ALL.map(|standing| {
                let labels = [("state", standing.as_str())];
                let lanes = metrics.gauge(
                    "zyven_queue_lanes_by_state",
                    "Lanes with a ticket in them or out, by what holds them back",
                    &labels,
                );
                let tickets = metrics.gauge(
                    "zyven_queue_tickets_by_lane_state",
                    "Tickets in lanes, by what holds the lane back",
                    &labels,
                );
                (lanes, tickets)
            }),
            memory_used: gauge(
                "zyven_queue_memory_used_bytes",
                "Memory that Redis uses; of several nodes the fullest one's",
            ),
            memory_max: gauge(
                "zyven_queue_memory_max_bytes",
                "Memory that Redis may use, 0 for no limit; of the same node",
            ),
            evicts: gauge(
                "zyven_queue_evicts",
                "1 if Redis throws keys away when it is full, instead of refusing",
            ),
        }
    }

    /// Counts as well how Redis has failed this relay.
    pub(crate) fn with_failures_of(self, queue: &Queue, metrics: &Metrics) -> Self {
        for failure in Failure::ALL {
            let queue = queue.clone();
            metrics.asked_counter(
                "zyven_relay_queue_failures_total",
                "Exchanges with Redis that failed, by reason",
                &[("reason", failure.as_str())],
                move || queue.failures(failure) as f64,
            );
        }
        self
    }

    pub(crate) fn show_memory(&self, memory: Memory) {
        self.memory_used.set(memory.used_bytes.cast_signed());
        self.memory_max.set(memory.max_bytes.cast_signed());
        if memory.evicts && self.evicts.get() == 0 {
            tracing::warn!(
                "Redis throws keys away when it is full: set its maxmemory-policy to noeviction, or tickets and limits are late until the relay has found what is missing"
            );
        }
        self.evicts.set(i64::from(memory.evicts));
    }

    /// Resets whatever only a leader looks at: an old value would be taken for what is.
    pub(crate) fn show_nothing(&self) {
        for gauge in [
            &self.is_leading,
            &self.gaps_open,
            &self.outbox_rows,
            &self.dispatching,
            &self.retry_scheduled,
            &self.oldest_due,
            &self.oldest_transaction,
            &self.dead_outbox_rows,
            &self.memory_used,
            &self.memory_max,
            &self.evicts,
            &self.queue_waiting,
            &self.queue_leased,
            &self.queue_lanes,
        ] {
            gauge.set(0);
        }
        for (lanes, tickets) in &self.standings {
            lanes.set(0);
            tickets.set(0);
        }
    }

    pub(crate) fn show(&self, depth: Depth) {
        for (gauge, value) in [
            (&self.queue_waiting, depth.waiting),
            (&self.queue_leased, depth.leased),
            (&self.queue_lanes, depth.lanes),
        ] {
            gauge.set(value as i64);
        }
        for (standing, (lanes, tickets)) in LaneStanding::ALL.into_iter().zip(&self.standings) {
            let alike = depth.standings.of(standing);
            lanes.set(alike.lanes as i64);
            tickets.set(alike.tickets as i64);
        }
    }
}
