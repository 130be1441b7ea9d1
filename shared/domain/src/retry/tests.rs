//! The verdicts, one rule after the other.

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
    let wait = |jitter| RetryPolicy::default().wait(1, jitter);
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
fn a_retry_that_would_come_after_the_expiry_is_not_made() {
    let (wait, ms) = (Duration::from_secs(5), Duration::from_millis(1));
    let retry = Verdict::RetryIn(wait);
    assert_eq!(retry.before_expiry(None), retry);
    assert_eq!(retry.before_expiry(Some(wait + ms)), retry);
    let expired = Verdict::DeadLetter(DeadLetterReason::Expired);
    assert_eq!(retry.before_expiry(Some(wait)), expired);
    for other in [
        Verdict::Delivered,
        Verdict::DeadLetter(DeadLetterReason::Gone),
        Verdict::ReleaseFor(wait),
    ] {
        assert_eq!(other.before_expiry(Some(Duration::ZERO)), other);
    }
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

fn decided(outcome: &Outcome, attempt: u32, policy: &RetryPolicy) -> Verdict {
    decide(outcome, attempt, Duration::ZERO, policy, MIDDLE).verdict
}

#[test]
fn a_schedule_replaces_base_cap_and_attempts() {
    let seconds = Duration::from_secs;
    let policy = RetryPolicy {
        base: seconds(1_000),
        cap: seconds(1_000),
        attempts_max: 1,
        schedule: vec![seconds(30), seconds(7), seconds(86_400)],
        ..RetryPolicy::default()
    };
    let after = |attempt| decided(&answered(500), attempt, &policy);
    assert_eq!(after(1), Verdict::RetryIn(seconds(30)));
    assert_eq!(after(2), Verdict::RetryIn(seconds(7)));
    assert_eq!(after(3), Verdict::RetryIn(seconds(86_400)));
    assert_eq!(
        after(4),
        Verdict::DeadLetter(DeadLetterReason::AttemptsExhausted)
    );
    assert_eq!(policy.wait(1, 0.0), seconds(24), "jittered like any wait");
    assert_eq!(policy.wait(1, 1.0), seconds(36));
}

#[test]
fn a_schedule_yields_to_retry_after_and_to_the_age_limit() {
    let seconds = Duration::from_secs;
    let policy = RetryPolicy {
        schedule: vec![seconds(30)],
        age_max: seconds(100),
        ..RetryPolicy::default()
    };
    let wait = |wanted, age| {
        let outcome = Outcome::Answered {
            status: 503,
            retry_after: Some(seconds(wanted)),
        };
        decide(&outcome, 1, seconds(age), &policy, MIDDLE).verdict
    };
    assert_eq!(wait(29, 0), Verdict::RetryIn(seconds(30)));
    assert_eq!(wait(31, 0), Verdict::RetryIn(seconds(31)));
    assert_eq!(wait(29, 70), Verdict::RetryIn(seconds(30)));
    assert_eq!(
        wait(29, 71),
        Verdict::DeadLetter(DeadLetterReason::AgeExceeded)
    );
}

#[test]
fn an_endpoints_own_statuses_are_retried_besides_the_usual_ones() {
    let policy = RetryPolicy {
        // 410 cannot be stored; were it, it would still mean what it says.
        statuses: vec![404, 409, 410],
        ..RetryPolicy::default()
    };
    let after = |status| decided(&answered(status), 1, &policy);
    let retry = Verdict::RetryIn(Duration::from_secs(5));
    for status in [302, 404, 408, 409, 425, 429, 500, 599] {
        assert_eq!(after(status), retry, "{status}");
    }
    for status in [400, 403, 405, 499] {
        let rejected = Verdict::DeadLetter(DeadLetterReason::Rejected);
        assert_eq!(after(status), rejected, "{status}");
    }
    assert_eq!(after(410), Verdict::DeadLetter(DeadLetterReason::Gone));
    assert_eq!(after(204), Verdict::Delivered);
    // Retrying a request does not make its refusal the endpoint's trouble.
    let lane = decide(&answered(404), 1, Duration::ZERO, &policy, MIDDLE).lane;
    assert_eq!(lane, LaneSignal::Neutral);
}

#[test]
fn any_4xx_but_410_can_be_made_retryable() {
    for (status, expected) in [
        (399, false),
        (400, true),
        (409, true),
        (410, false),
        (411, true),
        (499, true),
        (500, false),
    ] {
        assert_eq!(RetryPolicy::may_retry(status), expected, "{status}");
    }
}
