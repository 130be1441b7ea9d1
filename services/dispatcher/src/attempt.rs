//! One attempt: from a leased delivery to what is to be recorded about it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::HeaderMap;
use tokio::time::{Instant, timeout_at};
use zyven_crash_points::CrashPoint;
use zyven_domain::retry::{Decision, FailureKind, Outcome, Verdict, decide};
use zyven_queue::{ClaimedTicket, Lane};
use zyven_runtime::pace;
use zyven_runtime::traces::OpenSpan;
use zyven_store::{AttemptRecord, ClaimedDelivery, SettleItem, Settlement};

use crate::client::{Failure, Observed, Reachability, Stage, error_class};
use crate::destination::Destination;
use crate::intake::Workshop;
use crate::oauth::Token;
use crate::retry_after::retry_after;
use crate::settle::Finished;
use crate::statistics::Statistics;
use crate::trace;

/// How much of an answer's headers is kept.
const HEADERS_BYTES_KEPT: usize = 4 * 1024;

/// What an attempt leaves of its lease at least: by so much this process' clocks may fall behind
/// PostgreSQL's while the lease lasts, 35 s at most.
const CLOCK_ALLOWANCE: Duration = Duration::from_millis(500);

/// The right to make one attempt, as this process' own clocks see its end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lease {
    pub(crate) token: i64,
    /// Counted from before the lease was asked for, so that it ends here before it ends in PostgreSQL.
    ends: Instant,
    /// The same on the wall clock, which goes on while a virtual machine is paused.
    ends_at: DateTime<Utc>,
}

impl Lease {
    /// A lease about to be asked for.
    pub(crate) fn of(token: i64, duration: Duration) -> Self {
        Self {
            token,
            ends: Instant::now() + duration,
            ends_at: Utc::now() + duration,
        }
    }

    /// Whether an attempt that may take `timeout` ends within the lease if it begins now, also on a clock
    /// that is a bit faster than ours.
    fn covers(&self, timeout: Duration) -> bool {
        let needed = timeout + CLOCK_ALLOWANCE;
        Instant::now() + needed <= self.ends && Utc::now() + needed <= self.ends_at
    }
}

/// A delivery under its lease, with all that an attempt needs.
pub(crate) struct Attempt {
    pub(crate) delivery: ClaimedDelivery,
    pub(crate) payload: Bytes,
    pub(crate) destination: Arc<Destination>,
    pub(crate) lease: Lease,
}

impl Attempt {
    /// Makes it. Dropping the future closes the connection; what was under way is told by [`Attempt::log_cut_off`].
    pub(crate) async fn make(&self, workshop: &Workshop) -> Finished {
        let Workshop {
            client, statistics, ..
        } = workshop;
        let timeout = self.destination.policy.timeout;
        let span = trace::begin(&workshop.tracer, &self.delivery);
        let own = span.as_ref().map(OpenSpan::traceparent);
        let traceparent = own.as_deref().or(self.delivery.traceparent.as_deref());
        let mut observed = Observed::default();
        let mut token = None;
        let mut started_at = Utc::now();
        let mut began = Instant::now();
        // Held up on the way here, somebody else may be about to claim it.
        let mut ended = Ok(Err(lease_in_doubt()));
        while self.lease.covers(timeout) && workshop.presence.covers(self.lease.token) {
            (started_at, began) = (Utc::now(), Instant::now());
            let deadline = began + timeout;
            let exchange =
                self.exchange(workshop, deadline, traceparent, &mut token, &mut observed);
            ended = timeout_at(deadline, exchange).await;
            // Time that a broken proxy cost is not the endpoint's: it gets its whole timeout, as long as
            // the lease has it and another proxy is believed to work.
            let lost_time = matches!(&ended, Ok(Err(failure)) if failure.cost_time);
            if !lost_time || client.reachability() != Reachability::Open {
                break;
            }
        }
        let carried = token.as_ref().map(|token: &Token| &token.authorization);
        self.destination.authentication.conceal(
            carried,
            &mut observed.headers,
            &mut observed.body_start,
        );
        let total = observed.complete.unwrap_or_else(|| began.elapsed());
        let (outcome, detail) = judge(ended, &observed);
        let decision = self.decide(&outcome);
        self.log(&outcome, &decision.verdict, &observed, total);
        statistics.attempted(&outcome, total, &observed);
        if let Some(span) = span {
            trace::end(span, self, observed.status, &outcome, &decision.verdict);
        }
        self.count_latency(statistics, &outcome, &decision.verdict, started_at);
        let record = || record(started_at, total, &outcome, detail, observed);
        let settlement = match decision.verdict {
            Verdict::Delivered => Settlement::Delivered(record()),
            Verdict::RetryIn(retry_in) => Settlement::Retry {
                record: record(),
                retry_in,
            },
            Verdict::DeadLetter(reason) => Settlement::DeadLetter {
                record: Some(record()),
                reason,
            },
            Verdict::ReleaseFor(due_in) => Settlement::Release { due_in },
        };
        CrashPoint::DispatcherAfterAnswer.reached();
        Finished {
            item: settle_item(&self.delivery, self.lease, settlement),
            disable_endpoint: decision
                .disable_endpoint
                .then_some(self.destination.updated_at),
            ticket: ticket_of(&self.delivery),
            lane: decision.lane,
        }
    }

    /// The request and its answer. If an access token is part of it and the endpoint answers 401, the
    /// token has been revoked or has ended early: the request is sent once more with a new one, under the
    /// same deadline. `token` is the one that was sent last.
    async fn exchange(
        &self,
        workshop: &Workshop,
        deadline: Instant,
        traceparent: Option<&str>,
        token: &mut Option<Token>,
        observed: &mut Observed,
    ) -> Result<(), Failure> {
        let Some(tokens) = self.destination.authentication.tokens() else {
            return self
                .send(workshop, deadline, traceparent, None, observed)
                .await;
        };
        let began = Instant::now();
        let mut spent = None;
        for is_last in [false, true] {
            observed.stage = Stage::Authorizing;
            let Workshop {
                client, statistics, ..
            } = workshop;
            let fetched = tokens.token(spent.as_ref(), client, statistics, deadline);
            let fetched = token.insert(fetched.await?);
            let waited = began.elapsed();
            observed.stage = Stage::default();
            self.send(workshop, deadline, traceparent, Some(fetched), observed)
                .await?;
            observed.delay(waited);
            if is_last || observed.status != Some(401) {
                break;
            }
            spent = Some(fetched.clone());
            *observed = Observed::default();
        }
        Ok(())
    }

    async fn send(
        &self,
        Workshop {
            client, presence, ..
        }: &Workshop,
        deadline: Instant,
        traceparent: Option<&str>,
        token: Option<&Token>,
        observed: &mut Observed,
    ) -> Result<(), Failure> {
        let authorization = token.map(|token| &token.authorization);
        let request = || {
            // Asked for at the last moment: connecting takes time.
            if !presence.covers(self.lease.token) {
                return Err(lease_in_doubt());
            }
            let (delivery, payload) = (&self.delivery, &self.payload);
            let destination = &self.destination;
            Ok(destination.request(delivery, payload, Utc::now(), authorization, traceparent))
        };
        let origin = &self.destination.origin;
        client.exchange(origin, request, deadline, observed).await
    }

    fn decide(&self, outcome: &Outcome) -> Decision {
        let jitter = match outcome {
            Outcome::Answered {
                status: 200..=299, ..
            } => 0.0, // nothing to spread: spares the system call
            _ => pace::chance(),
        };
        let decision = decide(
            outcome,
            self.delivery.attempt,
            self.delivery.age(Utc::now()),
            &self.destination.policy,
            jitter,
        );
        let expires_in = self.delivery.expires_in(Utc::now());
        Decision {
            verdict: decision.verdict.before_expiry(expires_in),
            ..decision
        }
    }

    fn count_latency(
        &self,
        statistics: &Statistics,
        outcome: &Outcome,
        verdict: &Verdict,
        started_at: DateTime<Utc>,
    ) {
        // What did not leave Zyven is not counted as an attempt, and the next one is the first again.
        if self.delivery.attempt == 1 && !matches!(outcome, Outcome::Unsent) {
            statistics.attempted_first(self.delivery.age(started_at));
        }
        if *verdict == Verdict::Delivered {
            statistics.delivered(self.delivery.age(Utc::now()));
        }
    }

    /// The one line about an attempt that was not waited for longer than this: the grace time was over.
    pub(crate) fn log_cut_off(&self, total: Duration) {
        tracing::info!(
            tenant.id = %self.delivery.tenant_id,
            event.id = %self.delivery.event_id,
            delivery.id = %self.delivery.delivery_id,
            attempt.number = self.delivery.attempt,
            endpoint.id = %self.delivery.endpoint_id,
            endpoint.host = self.destination.host,
            error = "cut_off",
            verdict = "release",
            duration_ms = ms(total),
            "attempted"
        );
    }

    /// The one line about an attempt that came to its end, whatever end.
    fn log(&self, outcome: &Outcome, verdict: &Verdict, observed: &Observed, total: Duration) {
        let (verdict, retry_in) = match verdict {
            Verdict::Delivered => ("delivered", None),
            Verdict::RetryIn(wait) => ("retry", Some(ms(*wait))),
            Verdict::DeadLetter(reason) => (reason.as_str(), None),
            Verdict::ReleaseFor(wait) => ("release", Some(ms(*wait))),
        };
        tracing::info!(
            tenant.id = %self.delivery.tenant_id,
            event.id = %self.delivery.event_id,
            delivery.id = %self.delivery.delivery_id,
            attempt.number = self.delivery.attempt,
            endpoint.id = %self.delivery.endpoint_id,
            endpoint.host = self.destination.host,
            http.status = observed.status,
            error = error_class(outcome),
            verdict,
            retry_in_ms = retry_in,
            connect_ms = observed.connect.map(ms),
            duration_ms = ms(total),
            resent = observed.was_resent,
            "attempted"
        );
    }
}

/// The ticket that leads to a delivery. A ticket from a lane it does not belong to is not it: that one
/// is left to its lease.
pub(crate) fn ticket_of(delivery: &ClaimedDelivery) -> ClaimedTicket {
    ClaimedTicket {
        lane: Lane {
            tenant_id: delivery.tenant_id,
            endpoint_id: delivery.endpoint_id,
        },
        seq: delivery.seq,
        ordering_key: delivery.ordering_key,
    }
}

/// What is settled about a delivery.
pub(crate) fn settle_item(
    delivery: &ClaimedDelivery,
    lease: Lease,
    settlement: Settlement,
) -> SettleItem {
    SettleItem {
        seq: delivery.seq,
        lease_token: lease.token,
        delivery_id: delivery.delivery_id,
        event_id: delivery.event_id,
        endpoint_id: delivery.endpoint_id,
        generation: delivery.generation,
        attempt: delivery.attempt,
        settlement,
    }
}

/// Milliseconds, as log lines tell them.
fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

fn lease_in_doubt() -> Failure {
    Failure::new(
        Outcome::Unsent,
        "the lease was nearly over, or may have been ended",
    )
}

/// The outcome, and a sentence where there was no complete answer.
fn judge(
    ended: Result<Result<(), Failure>, tokio::time::error::Elapsed>,
    observed: &Observed,
) -> (Outcome, Option<String>) {
    let failure = match (ended, observed.complete, observed.status) {
        // An answer is an answer, even if the deadline struck while the connection was put away.
        (Ok(Ok(())) | Err(_), Some(_), Some(status)) => {
            let outcome = Outcome::Answered {
                status,
                retry_after: retry_after(&observed.headers, SystemTime::now()),
            };
            let is_redirect = (300..=399).contains(&status);
            let detail = is_redirect.then(|| "redirects are not followed".to_owned());
            return (outcome, detail);
        }
        (Ok(Err(failure)), _, _) => failure,
        (Ok(Ok(())) | Err(_), _, _) => out_of_time(observed.stage),
    };
    let Failure {
        outcome, detail, ..
    } = failure;
    let detail = match observed.status {
        Some(status) => format!("{detail} (the status was {status})"),
        None => detail.into_owned(),
    };
    (outcome, (!detail.is_empty()).then_some(detail))
}

/// A deadline that strikes while no proxy has given a tunnel or a reason is not the endpoint's fault.
fn out_of_time(stage: Stage) -> Failure {
    match stage {
        Stage::Leaving => Failure::new(Outcome::Unsent, "no egress proxy answered in time"),
        Stage::Connecting => Failure::new(Outcome::TimedOut, "no connection in time"),
        Stage::Authorizing => Failure::new(
            Outcome::Failed(FailureKind::OAuth),
            "no access token in time",
        ),
        Stage::Waiting => Failure::new(Outcome::TimedOut, "no answer in time"),
        Stage::Answering => Failure::new(Outcome::TimedOut, "the answer did not end in time"),
    }
}

fn record(
    started_at: DateTime<Utc>,
    total: Duration,
    outcome: &Outcome,
    detail: Option<String>,
    observed: Observed,
) -> AttemptRecord {
    let us = |duration: Duration| u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
    let http_status = match outcome {
        Outcome::Answered { status, .. } => Some(*status),
        _ => None,
    };
    AttemptRecord {
        started_at,
        http_status,
        error: error_class(outcome),
        error_detail: detail,
        connect_us: observed.connect.map(us),
        first_byte_us: observed.first_byte.map(us),
        total_us: us(total),
        response_headers: observed.status.map(|_| header_lines(&observed.headers)),
        response_body: (!observed.body_start.is_empty()).then_some(observed.body_start),
    }
}

/// `name: value` lines, as many as fit. What is not UTF-8 is replaced: the receiver may send anything.
fn header_lines(headers: &HeaderMap) -> String {
    let mut lines = String::with_capacity(256);
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        if lines.len() + name.as_str().len() + value.len() + ": \n".len() > HEADERS_BYTES_KEPT {
            break;
        }
        lines.push_str(name.as_str());
        lines.push_str(": ");
        lines.push_str(&value);
        lines.push('\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_lease_covers_an_attempt_that_ends_within_it() {
        let lease = Lease::of(1, Duration::from_secs(20));
        assert!(lease.covers(Duration::from_secs(15)));
        assert!(!lease.covers(Duration::from_secs(20)));
        let paused = Lease {
            ends_at: Utc::now(),
            ..lease
        };
        assert!(!paused.covers(Duration::from_secs(1)));
    }

    #[test]
    fn an_attempt_leaves_room_for_clocks_that_differ() {
        let lease = Lease::of(1, Duration::from_secs(20));
        let longest = Duration::from_secs(20) - CLOCK_ALLOWANCE;
        assert!(!lease.covers(longest + Duration::from_millis(1)));
        // A machine that stops for ten seconds between these lines has no clock to blame.
        assert!(lease.covers(longest - Duration::from_secs(10)));
    }

    #[test]
    fn an_answer_counts_although_the_deadline_struck_behind_it() {
        let observed = Observed {
            status: Some(200),
            complete: Some(Duration::from_millis(1)),
            ..Observed::default()
        };
        let (outcome, _) = judge(Ok(Ok(())), &observed);
        assert!(matches!(outcome, Outcome::Answered { status: 200, .. }));
    }

    #[test]
    fn kept_headers_are_bounded_text() {
        let mut headers = HeaderMap::new();
        headers.insert("a", HeaderValue::from_bytes(b"caf\xe9").unwrap());
        headers.insert("b", HeaderValue::from_str(&"x".repeat(3_000)).unwrap());
        headers.insert("c", HeaderValue::from_str(&"y".repeat(3_000)).unwrap());
        let lines = header_lines(&headers);
        assert!(lines.starts_with("a: caf\u{fffd}\nb: xxx"), "{lines}");
        assert!(lines.len() <= HEADERS_BYTES_KEPT && !lines.contains('y'));
    }
}
