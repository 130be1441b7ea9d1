//! What follows an attempt. A pure function of the outcome, the policy, and a random number the
//! caller has drawn (ADR 0016).

use std::time::Duration;

/// How one attempt ended, as the dispatcher saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint answered.
    Answered {
        /// The HTTP status code.
        status: u16,
        /// The answer's `Retry-After`, already turned into a wait.
        retry_after: Option<Duration>,
    },
    /// The deadline passed before the answer was complete.
    TimedOut,
    /// No usable answer came.
    Failed(FailureKind),
    /// The request must never be sent: the same verdict would follow every time.
    Refused(RefusalReason),
    /// The request could not leave Zyven. Not the endpoint's fault; spends no attempt.
    Unsent,
}

/// Why no usable answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The name did not resolve.
    Dns,
    /// No connection could be made.
    Connect,
    /// The TLS handshake failed or the certificate is not valid for the name.
    Tls,
    /// The connection ended before the answer was complete.
    Reset,
    /// The answer is not HTTP/1.1 as RFC 9112 has it, or its head is too large.
    Protocol,
    /// There was no access token to send, so nothing was sent.
    OAuth,
}

impl FailureKind {
    /// The error class shown on the attempt.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::OAuth => "oauth",
        }
    }
}

/// Why a request must never be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// The egress policy denies the address, host or port.
    EgressDenied,
    /// The stored URL is not one Zyven delivers to.
    InvalidUrl,
}

/// An endpoint's rules for retrying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Wait after the first failed attempt, before jitter. Doubles with every further one.
    pub base: Duration,
    /// Longest wait between attempts, before jitter.
    pub cap: Duration,
    /// Attempts in all, the first included.
    pub attempts_max: u32,
    /// Waits before jitter, one after each failed attempt, in place of `base`, `cap` and
    /// `attempts_max`: behind the last of them comes the last attempt. Empty: no schedule.
    pub schedule: Vec<Duration>,
    /// Statuses among 4xx that are retried besides those that always are.
    pub statuses: Vec<u16>,
    /// A delivery older than this is not retried.
    pub age_max: Duration,
    /// Deadline of one attempt: connect, request, and the whole answer.
    pub timeout: Duration,
}

impl RetryPolicy {
    /// Longest wait an endpoint's `Retry-After` is granted.
    pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);
    /// Longest deadline an endpoint may ask for.
    pub const TIMEOUT_MAX: Duration = Duration::from_secs(30);
    /// Wait before an attempt that could not leave Zyven is tried again.
    pub const UNSENT_WAIT: Duration = Duration::from_secs(1);
    /// Most waits of a schedule.
    pub const SCHEDULE_MAX: usize = 100;

    /// Attempts in all, the first included.
    pub fn attempts(&self) -> u32 {
        match self.schedule.len() {
            0 => self.attempts_max,
            waits => u32::try_from(waits).unwrap_or(u32::MAX).saturating_add(1),
        }
    }

    /// Whether a status may be among [`RetryPolicy::statuses`]: any 4xx but 410, which has a meaning of
    /// its own.
    pub const fn may_retry(status: u16) -> bool {
        matches!(status, 400..=499) && status != 410
    }

    /// Statuses that say "later" rather than "no". A redirect is neither followed nor retried at once,
    /// but it is the endpoint's configuration that is wrong, and that gets mended: it counts as a
    /// failure. What is retried by default cannot be made final: a server in trouble does not choose
    /// its status.
    fn retries(&self, status: u16) -> bool {
        match status {
            408 | 425 | 429 => true,
            400..=499 => Self::may_retry(status) && self.statuses.contains(&status),
            _ => true,
        }
    }

    /// The wait after the failed attempt with this number, counted from 1.
    fn wait(&self, attempt: u32, jitter: f64) -> Duration {
        let failures = attempt.saturating_sub(1);
        let wait = match usize::try_from(failures).map(|index| self.schedule.get(index)) {
            Ok(Some(wait)) => *wait,
            // 2^31 times any base of a millisecond or more is past every cap; the clamp keeps the shift
            // defined.
            _ => self
                .base
                .saturating_mul(1 << failures.min(31))
                .min(self.cap),
        };
        wait.mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0))
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(5),
            cap: Duration::from_secs(12 * 3600),
            attempts_max: 12,
            schedule: Vec::new(),
            statuses: Vec::new(),
            age_max: Duration::from_secs(96 * 3600),
            timeout: Duration::from_secs(15),
        }
    }
}

/// What happens to the delivery now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a verdict that is not settled leaves the delivery leased until its lease expires"]
pub enum Verdict {
    /// Finished well.
    Delivered,
    /// Another attempt, no earlier than after this wait.
    RetryIn(Duration),
    /// Stop trying.
    DeadLetter(DeadLetterReason),
    /// Nothing was sent: give the lease back, the attempt does not count.
    ReleaseFor(Duration),
}

impl Verdict {
    /// The verdict for an event that expires in this time: a retry that would come no earlier than
    /// that is not made.
    pub fn before_expiry(self, expires_in: Option<Duration>) -> Self {
        match (self, expires_in) {
            (Self::RetryIn(wait), Some(expires_in)) if wait >= expires_in => {
                Self::DeadLetter(DeadLetterReason::Expired)
            }
            (verdict, _) => verdict,
        }
    }
}

/// Why Zyven stopped trying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeadLetterReason {
    /// The last permitted attempt failed.
    AttemptsExhausted,
    /// The delivery grew older than the policy allows.
    AgeExceeded,
    /// The endpoint refused with a status that repeating does not cure (most of 4xx).
    Rejected,
    /// The endpoint answered 410 Gone and has been disabled.
    Gone,
    /// The egress policy denies the endpoint's address.
    EgressDenied,
    /// The endpoint's URL is not one Zyven delivers to.
    InvalidUrl,
    /// The endpoint was disabled when the delivery's turn came.
    EndpointDisabled,
    /// The endpoint was deleted when the delivery's turn came.
    EndpointDeleted,
    /// The event's payload is no longer stored.
    PayloadMissing,
    /// The event's own expiry came before it could be delivered.
    Expired,
    /// Somebody called it off.
    Cancelled,
}

impl DeadLetterReason {
    /// Every reason.
    pub const ALL: [Self; 11] = [
        Self::AttemptsExhausted,
        Self::AgeExceeded,
        Self::Rejected,
        Self::Gone,
        Self::EgressDenied,
        Self::InvalidUrl,
        Self::EndpointDisabled,
        Self::EndpointDeleted,
        Self::PayloadMissing,
        Self::Expired,
        Self::Cancelled,
    ];

    /// The name used in SQL, the API and documentation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::AgeExceeded => "age_exceeded",
            Self::Rejected => "rejected",
            Self::Gone => "gone",
            Self::EgressDenied => "egress_denied",
            Self::InvalidUrl => "invalid_url",
            Self::EndpointDisabled => "endpoint_disabled",
            Self::EndpointDeleted => "endpoint_deleted",
            Self::PayloadMissing => "payload_missing",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A verdict, and what it means for the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// What happens to this delivery.
    pub verdict: Verdict,
    /// True if the endpoint asked never to be called again (410 Gone).
    pub disable_endpoint: bool,
    /// What the endpoint's other deliveries are to learn from it.
    pub lane: LaneSignal,
}

/// What an attempt says about its endpoint rather than about its delivery: whether it is well, and
/// whether it wants to be left alone for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneSignal {
    /// It took the delivery.
    Succeeded,
    /// It could not be reached, did not answer in time, or answered that it cannot serve anybody now.
    Failed,
    /// It is well, and asks for no requests at all for this long (429).
    Throttled(Duration),
    /// Nothing: it refused this one request, or was never asked.
    Neutral,
}

/// Decides what follows `outcome`.
///
/// `attempt` counts from 1 and includes the one that just ended; `age` is the time since the event
/// was accepted (for a replay: since the replay); `jitter` is uniform in `0.0..1.0`.
///
/// The wait is `base · 2^(attempt-1)`, at most `cap`, or what the schedule says; times `0.8 + 0.4 ·
/// jitter` in both cases: deliveries that failed together should not come back together. On 429 and 503
/// the endpoint's `Retry-After` is a floor, up to [`RetryPolicy::RETRY_AFTER_MAX`].
///
/// A status outside of 100 to 599 counts as a 5xx (RFC 9110, section 15).
pub fn decide(
    outcome: &Outcome,
    attempt: u32,
    age: Duration,
    policy: &RetryPolicy,
    jitter: f64,
) -> Decision {
    let verdict = match outcome {
        Outcome::Answered {
            status: 200..=299, ..
        } => Verdict::Delivered,
        Outcome::Answered { status: 410, .. } => {
            return Decision {
                verdict: Verdict::DeadLetter(DeadLetterReason::Gone),
                disable_endpoint: true,
                lane: LaneSignal::Neutral,
            };
        }
        Outcome::Answered {
            status,
            retry_after,
        } if policy.retries(*status) => {
            let floor = match status {
                429 | 503 => retry_after.unwrap_or_default(),
                _ => Duration::ZERO,
            };
            retry(attempt, age, policy, jitter, floor)
        }
        Outcome::Answered { .. } => Verdict::DeadLetter(DeadLetterReason::Rejected),
        Outcome::TimedOut | Outcome::Failed(_) => {
            retry(attempt, age, policy, jitter, Duration::ZERO)
        }
        Outcome::Refused(RefusalReason::EgressDenied) => {
            Verdict::DeadLetter(DeadLetterReason::EgressDenied)
        }
        Outcome::Refused(RefusalReason::InvalidUrl) => {
            Verdict::DeadLetter(DeadLetterReason::InvalidUrl)
        }
        Outcome::Unsent => Verdict::ReleaseFor(RetryPolicy::UNSENT_WAIT),
    };
    Decision {
        verdict,
        disable_endpoint: false,
        lane: lane_signal(outcome, policy),
    }
}

/// What the endpoint's lane learns. A 4xx is about the one request, unless it is one of those with
/// which servers say that they are in trouble.
fn lane_signal(outcome: &Outcome, policy: &RetryPolicy) -> LaneSignal {
    match outcome {
        Outcome::Answered {
            status: 200..=299, ..
        } => LaneSignal::Succeeded,
        Outcome::Answered {
            status: 429,
            retry_after,
        } => {
            let wait = retry_after.unwrap_or(policy.base);
            LaneSignal::Throttled(wait.min(RetryPolicy::RETRY_AFTER_MAX))
        }
        Outcome::Answered {
            status: 408 | 425, ..
        } => LaneSignal::Failed,
        Outcome::Answered {
            status: 400..=499, ..
        } => LaneSignal::Neutral,
        Outcome::Answered { .. } | Outcome::TimedOut | Outcome::Failed(_) => LaneSignal::Failed,
        Outcome::Refused(_) | Outcome::Unsent => LaneSignal::Neutral,
    }
}

fn retry(
    attempt: u32,
    age: Duration,
    policy: &RetryPolicy,
    jitter: f64,
    floor: Duration,
) -> Verdict {
    if attempt >= policy.attempts() {
        return Verdict::DeadLetter(DeadLetterReason::AttemptsExhausted);
    }
    let wait = policy
        .wait(attempt, jitter)
        .max(floor.min(RetryPolicy::RETRY_AFTER_MAX));
    if age.saturating_add(wait) > policy.age_max {
        return Verdict::DeadLetter(DeadLetterReason::AgeExceeded);
    }
    Verdict::RetryIn(wait)
}

#[cfg(test)]
mod tests;
