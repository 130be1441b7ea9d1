//! What follows an attempt. A pure function of the outcome, the policy, and a random number the
//! caller has drawn.

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
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(5),
            cap: Duration::from_secs(12 * 3600),
            attempts_max: 12,
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
}

impl DeadLetterReason {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::AttemptsExhausted,
        Self::AgeExceeded,
        Self::Rejected,
        Self::Gone,
        Self::EgressDenied,
        Self::InvalidUrl,
        Self::EndpointDisabled,
        Self::EndpointDeleted,
        Self::PayloadMissing,
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
/// The wait is `base · 2^(attempt-1)`, at most `cap`, times `0.8 + 0.4 · jitter`. On 429 and 503 the
/// endpoint's `Retry-After` is a floor, up to [`RetryPolicy::RETRY_AFTER_MAX`].
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
        } if is_retryable(*status) => {
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

/// Statuses that say "later" rather than "no". A redirect is neither followed nor retried at once,
/// but it is the endpoint's configuration that is wrong, and that gets mended: it counts as a failure.
const fn is_retryable(status: u16) -> bool {
    !matches!(status, 400..=499) || matches!(status, 408 | 425 | 429)
}

fn retry(
    attempt: u32,
    age: Duration,
    policy: &RetryPolicy,
    jitter: f64,
    floor: Duration,
) -> Verdict {
    if attempt >= policy.attempts_max {
        return Verdict::DeadLetter(DeadLetterReason::AttemptsExhausted);
    }
    let wait = backoff(attempt, policy, jitter).max(floor.min(RetryPolicy::RETRY_AFTER_MAX));
    if age.saturating_add(wait) > policy.age_max {
        return Verdict::DeadLetter(DeadLetterReason::AgeExceeded);
    }
    Verdict::RetryIn(wait)
}

fn backoff(attempt: u32, policy: &RetryPolicy, jitter: f64) -> Duration {
    // 2^31 times any base of a millisecond or more is past every cap; the clamp keeps the shift defined.
    let doublings = attempt.saturating_sub(1).min(31);
    let wait = policy.base.saturating_mul(1 << doublings).min(policy.cap);
    wait.mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIDDLE: f64 = 0.5;

    fn answered(status: u16) -> Outcome {
        Outcome::Answered {
            status,
            retry_after: None,
        }
    }

    fn verdict(outcome: &Outcome, attempt: u32) -> Verdict {
        decide(
            outcome,
            attempt,
            Duration::ZERO,
            &RetryPolicy::default(),
            MIDDLE,
        )
        .verdict
    }

    #[test]
    fn each_status_has_its_verdict() {
        let retry = Verdict::RetryIn(Duration::from_secs(5));
        let rejected = Verdict::DeadLetter(DeadLetterReason::Rejected);
        let expectations = [
            (200, Verdict::Delivered),
            (204, Verdict::Delivered),
            (299, Verdict::Delivered),
            (300, retry),
            (301, retry),
            (399, retry),
            (400, rejected),
            (404, rejected),
            (407, rejected),
            (408, retry),
            (409, rejected),
            (410, Verdict::DeadLetter(DeadLetterReason::Gone)),
            (411, rejected),
            (424, rejected),
            (425, retry),
            (426, rejected),
            (428, rejected),
            (429, retry),
            (430, rejected),
            (499, rejected),
            (500, retry),
            (503, retry),
            (599, retry),
            // No such class exists, so the server is at fault.
            (600, retry),
            (999, retry),
            (199, retry),
        ];
        for (status, expected) in expectations {
            assert_eq!(verdict(&answered(status), 1), expected, "{status}");
        }
    }

    #[test]
    fn only_410_disables_the_endpoint() {
        for status in 100..600 {
            let decision = decide(
                &answered(status),
                1,
                Duration::ZERO,
                &RetryPolicy::default(),
                MIDDLE,
            );
            assert_eq!(decision.disable_endpoint, status == 410, "{status}");
        }
    }

    #[test]
    fn the_lane_learns_whether_the_endpoint_is_well() {
        use LaneSignal::{Failed, Neutral, Succeeded};
        let lane = |outcome: &Outcome| {
            let policy = RetryPolicy::default();
            decide(outcome, 1, Duration::ZERO, &policy, MIDDLE).lane
        };
        let statuses = [
            (200, Succeeded),
            (299, Succeeded),
            (300, Failed),
            (304, Failed),
            (399, Failed),
            (400, Neutral),
            (407, Neutral),
            (408, Failed),
            (409, Neutral),
            (410, Neutral),
            (424, Neutral),
            (425, Failed),
            (426, Neutral),
            (499, Neutral),
            (500, Failed),
            (503, Failed),
            (599, Failed),
            (999, Failed),
        ];
        for (status, expected) in statuses {
            assert_eq!(lane(&answered(status)), expected, "{status}");
        }
        assert_eq!(lane(&Outcome::TimedOut), Failed);
        for kind in [
            FailureKind::Dns,
            FailureKind::Connect,
            FailureKind::Tls,
            FailureKind::Reset,
            FailureKind::Protocol,
        ] {
            assert_eq!(lane(&Outcome::Failed(kind)), Failed, "{kind:?}");
        }
        for reason in [RefusalReason::EgressDenied, RefusalReason::InvalidUrl] {
            assert_eq!(lane(&Outcome::Refused(reason)), Neutral, "{reason:?}");
        }
        assert_eq!(lane(&Outcome::Unsent), Neutral);
    }

    #[test]
    fn a_429_throttles_the_lane_for_as_long_as_it_asks() {
        let throttled = |retry_after: Option<u64>| {
            let outcome = Outcome::Answered {
                status: 429,
                retry_after: retry_after.map(Duration::from_secs),
            };
            let policy = RetryPolicy::default();
            match decide(&outcome, 1, Duration::ZERO, &policy, MIDDLE).lane {
                LaneSignal::Throttled(wait) => wait.as_secs(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(throttled(None), 5);
        assert_eq!(throttled(Some(0)), 0);
        assert_eq!(throttled(Some(60)), 60);
        assert_eq!(throttled(Some(86_400)), 86_400);
        assert_eq!(throttled(Some(86_401)), 86_400);
        // The last permitted attempt teaches the lane as well as the first.
        let outcome = answered(429);
        let last = decide(
            &outcome,
            12,
            Duration::ZERO,
            &RetryPolicy::default(),
            MIDDLE,
        );
        assert_eq!(last.lane, LaneSignal::Throttled(Duration::from_secs(5)));
    }

    #[test]
    fn waits_double_up_to_the_cap() {
        let waits = |attempt| match decide(
            &Outcome::TimedOut,
            attempt,
            Duration::ZERO,
            &RetryPolicy {
                attempts_max: 100,
                ..RetryPolicy::default()
            },
            MIDDLE,
        )
        .verdict
        {
            Verdict::RetryIn(wait) => wait.as_secs(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            [1, 2, 3, 13, 14, 15, 60].map(waits),
            [5, 10, 20, 20_480, 40_960, 43_200, 43_200]
        );
    }

    #[test]
    fn jitter_spreads_a_wait_by_a_fifth_either_way() {
        let wait = |jitter| backoff(1, &RetryPolicy::default(), jitter);
        assert_eq!(wait(0.0), Duration::from_secs(4));
        assert_eq!(wait(1.0), Duration::from_secs(6));
    }

    #[test]
    fn the_last_attempt_and_the_age_limit_end_in_the_dead_letters() {
        let policy = RetryPolicy::default();
        let exhausted = Verdict::DeadLetter(DeadLetterReason::AttemptsExhausted);
        assert_ne!(verdict(&answered(500), 11), exhausted);
        assert_eq!(verdict(&answered(500), 12), exhausted);
        let at_age = |age| decide(&answered(500), 1, age, &policy, MIDDLE).verdict;
        let wait = Duration::from_secs(5);
        assert_eq!(at_age(policy.age_max - wait), Verdict::RetryIn(wait));
        assert_eq!(
            at_age(policy.age_max - wait + Duration::from_millis(1)),
            Verdict::DeadLetter(DeadLetterReason::AgeExceeded)
        );
    }

    #[test]
    fn retry_after_is_a_floor_with_a_ceiling() {
        let wait = |status, seconds| {
            let outcome = Outcome::Answered {
                status,
                retry_after: Some(Duration::from_secs(seconds)),
            };
            verdict(&outcome, 1)
        };
        let seconds = |count| Verdict::RetryIn(Duration::from_secs(count));
        assert_eq!(wait(429, 1), seconds(5));
        assert_eq!(wait(429, 60), seconds(60));
        assert_eq!(wait(503, 60), seconds(60));
        assert_eq!(wait(503, 999_999_999), seconds(86_400));
        assert_eq!(wait(500, 60), seconds(5));
    }

    #[test]
    fn what_never_left_zyven_spends_no_attempt() {
        assert_eq!(
            verdict(&Outcome::Unsent, 12),
            Verdict::ReleaseFor(Duration::from_secs(1))
        );
    }
}
