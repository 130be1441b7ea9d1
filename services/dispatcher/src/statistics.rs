//! What the dispatcher counts.

use std::sync::Arc;
use std::time::Duration;

use zyven_domain::retry::{DeadLetterReason, FailureKind, Outcome, RefusalReason};
use zyven_queue::{Failure, LaneEvent, Queue};
use zyven_runtime::metrics::{BATCH_BOUNDS, Counter, Gauge, Histogram, LATENCY_BOUNDS_S, Metrics};

use crate::client::{Client, Observed};

/// Outcomes as the `outcome` label tells them apart. [`class_of`] gives the position.
const CLASSES: [&str; 15] = [
    "2xx",
    "3xx",
    "4xx",
    "5xx",
    "other_status",
    "timeout",
    "dns",
    "connect",
    "tls",
    "reset",
    "protocol",
    "oauth",
    "egress_denied",
    "invalid_url",
    "unsent",
];

/// Handles to everything that is counted.
pub(crate) struct Statistics {
    attempts: [Counter; CLASSES.len()],
    dead_letters: [Counter; DeadLetterReason::ALL.len()],
    connections_opened: Counter,
    connections_reused: Counter,
    resent: Counter,
    attempt_time: Histogram,
    first_attempt_time: Histogram,
    delivery_time: Histogram,
    pub(crate) in_flight: Gauge,
    pub(crate) claim_batch: Histogram,
    pub(crate) settle_batch: Histogram,
    pub(crate) refused: Counter,
    pub(crate) superseded: Counter,
    breakers_opened: Counter,
    breakers_closed: Counter,
    pub(crate) tokens_issued: Counter,
    pub(crate) tokens_refused: Counter,
    pub(crate) certificates_ending: Gauge,
}

impl Statistics {
    pub(crate) fn new(metrics: &Metrics, client: &Arc<Client>) -> Self {
        let attempts = |value| {
            metrics.counter(
                "zyven_dispatcher_attempts_total",
                "Attempts by outcome; \"unsent\" ones never left Zyven and do not count.",
                &[("outcome", value)],
            )
        };
        let dead_letters = |value| {
            metrics.counter(
                "zyven_dispatcher_dead_letters_total",
                "Deliveries given up, by reason.",
                &[("reason", value)],
            )
        };
        let connections = |value| {
            metrics.counter(
                "zyven_dispatcher_connections_total",
                "Requests by the connection they went over.",
                &[("kind", value)],
            )
        };
        let tokens = |value| {
            metrics.counter(
                "zyven_dispatcher_oauth_tokens_total",
                "Access tokens asked for, by what came of it.",
                &[("result", value)],
            )
        };
        let latency = |name, help| metrics.histogram(name, help, &[], LATENCY_BOUNDS_S);
        let batch = |name, help| metrics.histogram(name, help, &[], BATCH_BOUNDS);
        let counter = |name, help| metrics.counter(name, help, &[]);
        let asked = Arc::downgrade(client);
        metrics.asked_gauge(
            "zyven_dispatcher_idle_connections",
            "Connections to endpoints that wait for their next request.",
            &[],
            move || {
                asked
                    .upgrade()
                    .map_or(0.0, |client| client.idle_connections() as f64)
            },
        );
        Self {
            attempts: CLASSES.map(attempts),
            dead_letters: DeadLetterReason::ALL.map(|reason| dead_letters(reason.as_str())),
            connections_opened: connections("opened"),
            connections_reused: connections("reused"),
            resent: counter(
                "zyven_dispatcher_resent_total",
                "Requests sent a second time because a kept connection had died.",
            ),
            attempt_time: latency(
                "zyven_dispatcher_attempt_seconds",
                "From the beginning of an attempt to its end.",
            ),
            first_attempt_time: latency(
                "zyven_dispatcher_accepted_to_first_attempt_seconds",
                "From the acceptance of an event to the beginning of its first attempt.",
            ),
            delivery_time: latency(
                "zyven_dispatcher_accepted_to_delivered_seconds",
                "From the acceptance of an event to a successful answer.",
            ),
            in_flight: metrics.gauge(
                "zyven_dispatcher_in_flight",
                "Deliveries held, from claim to recorded result.",
                &[],
            ),
            claim_batch: batch(
                "zyven_dispatcher_claim_batch_size",
                "Deliveries claimed at once.",
            ),
            settle_batch: batch(
                "zyven_dispatcher_settle_batch_size",
                "Results recorded at once.",
            ),
            refused: counter(
                "zyven_dispatcher_refused_tickets_total",
                "Tickets that turned out to confer nothing.",
            ),
            superseded: counter(
                "zyven_dispatcher_superseded_total",
                "Results that came after the lease was lost and were not recorded.",
            ),
            breakers_opened: counter(
                "zyven_dispatcher_breakers_opened_total",
                "Times an endpoint was found failing and left alone for a while, failed probes included.",
            ),
            breakers_closed: counter(
                "zyven_dispatcher_breakers_closed_total",
                "Times a probe found an endpoint well again.",
            ),
            tokens_issued: tokens("issued"),
            tokens_refused: tokens("refused"),
            certificates_ending: metrics.gauge(
                "zyven_dispatcher_client_certificates_ending",
                "Client certificates in use that end within 14 days, or have ended.",
                &[],
            ),
        }
    }

    /// Counts as well how Redis has failed this dispatcher.
    pub(crate) fn count_failures_of(queue: &Queue, metrics: &Metrics) {
        for failure in Failure::ALL {
            let queue = queue.clone();
            metrics.asked_counter(
                "zyven_dispatcher_queue_failures_total",
                "Exchanges with Redis that failed, by reason.",
                &[("reason", failure.as_str())],
                move || queue.failures(failure) as f64,
            );
        }
    }

    pub(crate) fn breaker(&self, event: &LaneEvent) {
        match event {
            LaneEvent::Opened(..) | LaneEvent::ProbeFailed(..) => {
                self.breakers_opened.increment();
            }
            LaneEvent::Closed(_) => self.breakers_closed.increment(),
        }
    }

    pub(crate) fn attempted(&self, outcome: &Outcome, total: Duration, observed: &Observed) {
        self.attempts[class_of(outcome)].increment();
        self.attempt_time.observe_duration(total);
        match (observed.connect, observed.first_byte) {
            (Some(_), _) => self.connections_opened.increment(),
            (None, Some(_)) => self.connections_reused.increment(),
            (None, None) => {}
        }
        if observed.was_resent {
            self.resent.increment();
        }
    }

    pub(crate) fn attempted_first(&self, age: Duration) {
        self.first_attempt_time.observe_duration(age);
    }

    pub(crate) fn delivered(&self, age: Duration) {
        self.delivery_time.observe_duration(age);
    }

    pub(crate) fn dead_lettered(&self, reason: DeadLetterReason) {
        let position = DeadLetterReason::ALL
            .iter()
            .position(|known| *known == reason);
        if let Some(position) = position {
            self.dead_letters[position].increment();
        }
    }
}

const fn class_of(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Answered { status, .. } => match status {
            200..=299 => 0,
            300..=399 => 1,
            400..=499 => 2,
            500..=599 => 3,
            _ => 4,
        },
        Outcome::TimedOut => 5,
        Outcome::Failed(FailureKind::Dns) => 6,
        Outcome::Failed(FailureKind::Connect) => 7,
        Outcome::Failed(FailureKind::Tls) => 8,
        Outcome::Failed(FailureKind::Reset) => 9,
        Outcome::Failed(FailureKind::Protocol) => 10,
        Outcome::Failed(FailureKind::OAuth) => 11,
        Outcome::Refused(RefusalReason::EgressDenied) => 12,
        Outcome::Refused(RefusalReason::InvalidUrl) => 13,
        Outcome::Unsent => 14,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::error_class;

    #[test]
    fn classes_of_errors_are_those_on_the_attempts() {
        let kinds = [
            FailureKind::Dns,
            FailureKind::Connect,
            FailureKind::Tls,
            FailureKind::Reset,
            FailureKind::Protocol,
            FailureKind::OAuth,
        ];
        let outcomes = kinds.map(Outcome::Failed).into_iter().chain([
            Outcome::TimedOut,
            Outcome::Refused(RefusalReason::EgressDenied),
            Outcome::Refused(RefusalReason::InvalidUrl),
            Outcome::Unsent,
        ]);
        for outcome in outcomes {
            assert_eq!(Some(CLASSES[class_of(&outcome)]), error_class(&outcome));
        }
    }
}
