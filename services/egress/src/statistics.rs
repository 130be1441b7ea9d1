//! What the proxy counts.

use std::sync::Arc;
use std::time::Duration;

use zyven_domain::target::EgressReason;
use zyven_runtime::metrics::{Counter, Histogram, LATENCY_BOUNDS_S, Metrics};

use crate::slots::Slots;
use crate::tunnel::{End, Relayed};

/// Handles made once; counting is an atomic addition.
pub(crate) struct Statistics {
    opened: Counter,
    refused: [Counter; EgressReason::ALL.len()],
    decided_in: Histogram,
    ended: [Counter; End::ALL.len()],
    to_endpoint_bytes: Counter,
    to_caller_bytes: Counter,
}

impl Statistics {
    pub(crate) fn new(metrics: &Metrics, slots: &Arc<Slots>) -> Self {
        let decisions = |reason| {
            metrics.counter(
                "zyven_egress_decisions_total",
                "Decisions about CONNECT requests, by reason",
                &[("reason", reason)],
            )
        };
        let bytes = |direction| {
            metrics.counter(
                "zyven_egress_tunnel_bytes_total",
                "Bytes that ended tunnels had passed on",
                &[("direction", direction)],
            )
        };
        let slots = Arc::clone(slots);
        metrics.asked_gauge(
            "zyven_egress_tunnels",
            "Tunnels open or being opened",
            &[],
            move || slots.taken() as f64,
        );
        Self {
            opened: decisions("allowed"),
            refused: EgressReason::ALL.map(|reason| decisions(reason.as_str())),
            decided_in: metrics.histogram(
                "zyven_egress_decision_seconds",
                "Time from accepting a connection to the decision about it",
                &[],
                LATENCY_BOUNDS_S,
            ),
            ended: End::ALL.map(|end| {
                metrics.counter(
                    "zyven_egress_tunnels_ended_total",
                    "Tunnels that ended, by what ended them",
                    &[("end", end.as_str())],
                )
            }),
            to_endpoint_bytes: bytes("to_endpoint"),
            to_caller_bytes: bytes("to_caller"),
        }
    }

    pub(crate) fn opened(&self, decided_in: Duration) {
        self.opened.increment();
        self.decided_in.observe_duration(decided_in);
    }

    pub(crate) fn refused(&self, reason: EgressReason, decided_in: Duration) {
        for (known, counter) in EgressReason::ALL.iter().zip(&self.refused) {
            if *known == reason {
                counter.increment();
            }
        }
        self.decided_in.observe_duration(decided_in);
    }

    pub(crate) fn tunnel_ended(&self, relayed: &Relayed) {
        for (known, counter) in End::ALL.iter().zip(&self.ended) {
            if *known == relayed.end {
                counter.increment();
            }
        }
        self.to_endpoint_bytes.add(relayed.to_endpoint_bytes);
        self.to_caller_bytes.add(relayed.to_caller_bytes);
    }
}
