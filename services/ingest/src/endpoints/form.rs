//! The members that describe an endpoint, with their bounds.

use std::ops::RangeInclusive;
use std::time::Duration;

use zyven_domain::address::{AddressPolicy, DenialReason, classify};
use zyven_domain::event::{CHANNELS_MAX, Channel, EVENT_TYPE_BYTES_MAX, PATTERNS_MAX, Pattern};
use zyven_domain::filter::{FILTER_BYTES_MAX, Filter};
use zyven_domain::retry::RetryPolicy;
use zyven_domain::target::{EndpointUrl, Host, NamePolicy};
use zyven_store::{CredentialChange, EndpointChange, LaneLimits};

use crate::fields::Members;
use crate::openapi::schema::{Schema, list, number, text};
use crate::openapi::values;

/// Longest description, in characters.
const DESCRIPTION_CHARS_MAX: usize = 500;

// The same bounds stand in the constraints endpoint_retry_is_sane and endpoint_schedule_is_sane.
const RETRY_BASE_MS: RangeInclusive<u64> = 1..=86_400_000;
const RETRY_CAP_MS: RangeInclusive<u64> = 1..=604_800_000;
const ATTEMPTS: RangeInclusive<u64> = 1..=100;
const AGE_MS: RangeInclusive<u64> = 1_000..=2_592_000_000;
/// As many as there are.
const STATUSES_MAX: usize = 99;
const TIMEOUT_MS: RangeInclusive<u64> = 100..=30_000;

// The same bounds stand in the constraint endpoint_lane_is_sane.
const CONCURRENCY: RangeInclusive<u64> = 1..=1_000;
const RATE_PER_MINUTE: RangeInclusive<u64> = 1..=600_000;
const RATE_BURST: RangeInclusive<u64> = 1..=10_000;

/// What a new endpoint is to be: its URL must be there, everything else has a default.
pub(super) fn new_endpoint(
    members: &mut Members<'_>,
    names: &NamePolicy,
) -> (Option<String>, EndpointChange) {
    let mut change = change(members, names);
    let url = change.url.take();
    if url.is_none() {
        members.missing("url");
    }
    (url, change)
}

/// What is to be different.
pub(super) fn change(members: &mut Members<'_>, names: &NamePolicy) -> EndpointChange {
    EndpointChange {
        only_of: None,
        url: members.text("url", |text| reachable_url(text, names)),
        description: members.text("description", description),
        event_types: members.texts("event_types", 1..=PATTERNS_MAX, Pattern::parse_subscribed),
        channels: members
            .texts("channels", 0..=CHANNELS_MAX, Channel::parse)
            .map(|mut channels| {
                channels.sort_unstable();
                channels.dedup();
                channels
            }),
        filter: filter(members),
        retry_base: ms(members, "retry_base_ms", RETRY_BASE_MS),
        retry_cap: ms(members, "retry_cap_ms", RETRY_CAP_MS),
        attempts_max: members
            .number("attempts_max", ATTEMPTS)
            .and_then(|attempts| u32::try_from(attempts).ok()),
        retry_schedule: schedule(members, "retry_schedule_ms"),
        retry_statuses: statuses(members, "retry_statuses"),
        age_max: ms(members, "age_max_ms", AGE_MS),
        timeout: ms(members, "timeout_ms", TIMEOUT_MS),
        credentials: CredentialChange::default(),
        concurrency_max: limit(members, "concurrency_max", CONCURRENCY),
        rate_per_minute: limit(members, "rate_per_minute", RATE_PER_MINUTE),
        rate_burst: limit(members, "rate_burst", RATE_BURST),
    }
}

/// A URL as [`change`] takes it.
pub(super) fn url() -> Schema {
    text()
        .format("uri")
        .pattern("^[hH][tT][tT][pP][sS]?://")
        .chars(1..=EndpointUrl::BYTES_MAX)
        .example("https://receiver.example.com/hooks")
        .about("`https://` or `http://`, with a public host name or a canonical address; no user name, no fragment, \
             no blanks, no port of a well-known other service.")
}

/// The members that [`change`] reads besides the URL.
pub(super) fn described(members: Schema) -> Schema {
    let usual = RetryPolicy::default();
    let pattern = text()
        .pattern(format!(
            r"^(\*|[a-zA-Z0-9_.-]{{1,{}}}(\.\*)?)$",
            EVENT_TYPE_BYTES_MAX - ".*".len()
        ))
        .about("A type, a prefix followed by `.*`, or `*`.");
    let statuses = number(400..=499).except(410);
    members
        .optional("description", text().chars(0..=DESCRIPTION_CHARS_MAX).default("").about("For people."))
        .optional("event_types", list(pattern, 1..=PATTERNS_MAX).default(vec!["*"]).about("Patterns of the types it gets."))
        .optional("channels", list(values::Channel::schema(), 0..=CHANNELS_MAX).about("None: every event that \
             matches. Some: only events with at least one of them."))
        .optional("filter", text().chars(1..=FILTER_BYTES_MAX).or_null().example("$.amount > 1000").about("A \
             condition on the payload, in a small part of SQL/JSON path. `null` removes it."))
        .optional("retry_base_ms", number(RETRY_BASE_MS).default(to_ms(usual.base)).about("The wait after the first \
             failed attempt; it doubles."))
        .optional("retry_cap_ms", number(RETRY_CAP_MS).default(to_ms(usual.cap)).about("The longest wait, not less than `retry_base_ms`."))
        .optional("attempts_max", number(ATTEMPTS).default(usual.attempts_max).about("The first one included."))
        .optional("retry_schedule_ms", list(number(RETRY_CAP_MS), 1..=RetryPolicy::SCHEDULE_MAX).or_null().about("One \
             wait after each failed attempt, instead of `retry_base_ms`, `retry_cap_ms` and `attempts_max`. `null`: \
             no schedule."))
        .optional("retry_statuses", list(statuses, 0..=STATUSES_MAX).or_null().about("Statuses that are retried \
             besides those that always are; not 410. `null`: none."))
        .optional("age_max_ms", number(AGE_MS).default(to_ms(usual.age_max)).about("A delivery older than that is not retried."))
        .optional("timeout_ms", number(TIMEOUT_MS).default(to_ms(usual.timeout)).about("For connecting and the whole answer."))
        .optional("concurrency_max", number(CONCURRENCY).or_null().about("Requests at a time. `null`: the \
             deployment's limit."))
        .optional("rate_per_minute", number(RATE_PER_MINUTE).or_null().about("Requests a minute; deliveries beyond it \
             wait, and spend no attempt. `null`: not limited."))
        .optional("rate_burst", number(RATE_BURST).or_null().about("Requests that may come at once after a pause. \
             `null`: one second's worth."))
}

fn to_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What could never be delivered to is better said now than by dead letters. Which of the other addresses are open only the
/// egress proxy knows.
fn reachable_url(text: &str, names: &NamePolicy) -> Result<String, String> {
    let url = EndpointUrl::parse_with(text, names).map_err(|rule| rule.to_string())?;
    let judged = match url.host() {
        Host::Address(address) => classify(*address, &AddressPolicy::default()).map(drop),
        Host::Name(_) => Ok(()),
    };
    match judged {
        Err(denied) if denied.reason == DenialReason::ClosedForGood => {
            Err(format!("must lead elsewhere: {denied}"))
        }
        Ok(()) | Err(_) => Ok(url.to_string()),
    }
}

/// A new endpoint's policy: what was not said is as usual.
pub(super) fn policy(change: &EndpointChange) -> RetryPolicy {
    let usual = RetryPolicy::default();
    RetryPolicy {
        base: change.retry_base.unwrap_or(usual.base),
        cap: change.retry_cap.unwrap_or(usual.cap),
        attempts_max: change.attempts_max.unwrap_or(usual.attempts_max),
        schedule: change.retry_schedule.clone().unwrap_or_default(),
        statuses: change.retry_statuses.clone().unwrap_or_default(),
        age_max: change.age_max.unwrap_or(usual.age_max),
        timeout: change.timeout.unwrap_or(usual.timeout),
    }
}

/// A new endpoint's limits: what was not said, or null, is not limited.
pub(super) fn limits(change: &EndpointChange) -> LaneLimits {
    let given = |limit: Option<u32>| limit.filter(|limit| *limit != 0);
    LaneLimits {
        concurrency_max: given(change.concurrency_max),
        rate_per_minute: given(change.rate_per_minute),
        rate_burst: given(change.rate_burst),
        is_paused: false,
    }
}

/// What an endpoint subscribes to when its owner does not say.
pub(super) fn everything() -> Vec<Pattern> {
    vec![Pattern::parse("*").expect("the constant is a pattern")]
}

/// Null: every payload.
fn filter(members: &mut Members<'_>) -> Option<Option<Filter>> {
    if members.take_null("filter") {
        return Some(None);
    }
    members.text("filter", Filter::parse).map(Some)
}

fn ms(members: &mut Members<'_>, name: &str, bounds: RangeInclusive<u64>) -> Option<Duration> {
    members.number(name, bounds).map(Duration::from_millis)
}

/// Null: no such limit, which is 0 in a change.
fn limit(members: &mut Members<'_>, name: &str, bounds: RangeInclusive<u64>) -> Option<u32> {
    if members.take_null(name) {
        return Some(0);
    }
    let limit = members.number(name, bounds)?;
    u32::try_from(limit).ok()
}

/// Null: no schedule. An empty one is refused, since it might be meant to say "never again", which is
/// what `attempts_max` is for.
fn schedule(members: &mut Members<'_>, name: &str) -> Option<Vec<Duration>> {
    if members.take_null(name) {
        return Some(Vec::new());
    }
    let waits = members.numbers(name, 1..=RetryPolicy::SCHEDULE_MAX, |ms| {
        if RETRY_CAP_MS.contains(&ms) {
            Ok(Duration::from_millis(ms))
        } else {
            let (from, to) = (RETRY_CAP_MS.start(), RETRY_CAP_MS.end());
            Err(format!("must be a whole number from {from} to {to}"))
        }
    })?;
    Some(waits)
}

/// Null: those that always are, and no others. In order, each one once.
fn statuses(members: &mut Members<'_>, name: &str) -> Option<Vec<u16>> {
    if members.take_null(name) {
        return Some(Vec::new());
    }
    let mut statuses = members.numbers(name, 0..=STATUSES_MAX, |number| {
        let status = u16::try_from(number).ok();
        status
            .filter(|status| RetryPolicy::may_retry(*status))
            .ok_or("must be a status from 400 to 499, and not 410, which disables the endpoint")
    })?;
    statuses.sort_unstable();
    statuses.dedup();
    Some(statuses)
}

fn description(text: &str) -> Result<String, String> {
    if text.chars().count() <= DESCRIPTION_CHARS_MAX && !text.contains('\0') {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "must not have more than {DESCRIPTION_CHARS_MAX} characters, nor U+0000"
        ))
    }
}
