//! How often a tenant may ask, so that one that asks without end leaves room for others.
//!
//! Each tenant has two *buckets* in each process of the API, one for events it publishes and one for its other requests. A bucket
//! holds what [`WINDOW`] brings; it fills evenly, and whoever finds it empty is answered 429 and told when to come again. A
//! tenant's own rates, if it has any, come along with its key and count instead of the settings. Why a process counts by itself
//! is in ADR 0042.
//!
//! A bucket is one moment: when it will be full (the virtual scheduling of the generic cell rate algorithm, ITU-T I.371,
//! appendix A). So one that is full need not be remembered, and nothing has to run for buckets to fill.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};
use zyven_domain::id::TenantId;
use zyven_store::TenantRates;

use crate::auth::Caller;
use crate::problem::{Code, Problem};

/// What a bucket holds is what comes in this time: a burst may be ten times what a second brings.
pub const WINDOW: Duration = Duration::from_secs(WINDOW_S as u64);
const WINDOW_S: u32 = 10;
/// Buckets from which on those that are full are forgotten.
const BUCKETS_KEPT_MIN: usize = 1_024;

/// The header fields of draft-ietf-httpapi-ratelimit-headers-10: how much there is in all, and how much is left.
pub(crate) const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
pub(crate) const LEFT: HeaderName = HeaderName::from_static("ratelimit");

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    /// Events that are published, each of a batch; a request that publishes is one at least.
    Events,
    /// Requests of any other kind.
    Requests,
}

impl Counted {
    pub(crate) const ALL: [Self; 2] = [Self::Events, Self::Requests];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Requests => "requests",
        }
    }
}

/// What one tenant may do of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    tenant: TenantId,
    counted: Counted,
    per_second: NonZeroU32,
}

impl Limit {
    pub(crate) fn counted(&self) -> Counted {
        self.counted
    }

    fn period(&self) -> Duration {
        Duration::from_secs(1) / self.per_second.get()
    }

    fn held(&self) -> u32 {
        self.per_second.get().saturating_mul(WINDOW_S)
    }

    /// How long an empty bucket takes to fill: [`WINDOW`], but for what is lost where a second cannot be divided.
    fn window(&self) -> Duration {
        self.period() * self.held()
    }
}

/// Every bucket of this process.
pub(crate) struct Rates {
    usual: TenantRates,
    // Held to look at or move one moment, never across an await.
    events: Mutex<Buckets>,
    requests: Mutex<Buckets>,
}

impl Rates {
    /// With these rates for tenants that have none of their own.
    pub(crate) fn new(usual: TenantRates) -> Self {
        Self {
            usual,
            events: Mutex::default(),
            requests: Mutex::default(),
        }
    }

    /// What limits a caller, if anything does.
    pub(crate) fn limit(&self, caller: &Caller, counted: Counted) -> Option<Limit> {
        let of = |rates: &TenantRates| match counted {
            Counted::Events => rates.events_per_second,
            Counted::Requests => rates.requests_per_second,
        };
        let per_second = of(&caller.rates).or(of(&self.usual));
        Some(Limit {
            tenant: caller.tenant,
            counted,
            per_second: NonZeroU32::new(per_second?)?,
        })
    }

    /// Takes one out of the bucket, if there is one.
    pub(crate) fn take(&self, limit: Option<&Limit>) -> Result<(), Problem> {
        let Some(limit) = limit else {
            return Ok(());
        };
        let taken = self.of(limit.counted, |buckets| buckets.take(limit, Instant::now()));
        taken.then_some(()).ok_or_else(|| refusal(limit))
    }

    /// Takes more out of the bucket than was known when the request began, even if that much is not there: a batch is taken whole,
    /// and what comes after it waits the longer. Not, though, if another batch has done so since: then it waits as well.
    pub(crate) fn take_more(&self, limit: Option<&Limit>, more: usize) -> Result<(), Problem> {
        let Some(limit) = limit else {
            return Ok(());
        };
        let taken = self.of(limit.counted, |buckets| {
            buckets.overdraw(limit, more, Instant::now())
        });
        taken.then_some(()).ok_or_else(|| refusal(limit))
    }

    /// Tells in the head of an answer how much is left; and when to come again, if it says that nothing is.
    pub(crate) fn tell(&self, limit: &Limit, is_refusal: bool, headers: &mut HeaderMap) {
        let left = self.of(limit.counted, |buckets| buckets.left(limit, Instant::now()));
        let name = limit.counted.as_str();
        let policy = format!("\"{name}\";q={};w={WINDOW_S}", limit.held());
        let now = format!("\"{name}\";r={};t={}", left.now, left.full_after_s);
        let plain = |text: String| HeaderValue::try_from(text).expect("digits and letters");
        headers.insert(POLICY, plain(policy));
        headers.insert(LEFT, plain(now));
        if is_refusal {
            headers.insert(http::header::RETRY_AFTER, left.one_after_s.into());
        }
    }

    fn of<T>(&self, counted: Counted, look: impl FnOnce(&mut Buckets) -> T) -> T {
        let buckets = match counted {
            Counted::Events => &self.events,
            Counted::Requests => &self.requests,
        };
        look(&mut buckets.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn refusal(limit: &Limit) -> Problem {
    Problem::new(
        Code::RateLimited,
        format!(
            "This tenant may do no more than {} {} per second, and ten times as many at once; nothing was done.",
            limit.per_second,
            limit.counted.as_str(),
        ),
    )
}

/// When a bucket will be full, if nothing is taken and the rate stays what it is.
struct Bucket {
    full_at: Instant,
    per_second: NonZeroU32,
}

/// Each tenant's bucket. One that is not here is full.
#[derive(Default)]
struct Buckets {
    buckets: HashMap<TenantId, Bucket>,
    /// Full ones are looked for when there are this many.
    tidy_at: usize,
}

/// What is in a bucket.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    now: u128,
    full_after_s: u64,
    /// At least one second, as it is told to whoever found nothing.
    one_after_s: u64,
}

impl Buckets {
    fn take(&mut self, limit: &Limit, now: Instant) -> bool {
        let is_there = self.missing(limit, now) + limit.period() <= limit.window();
        if is_there {
            self.spend(limit, 1, now);
        }
        is_there
    }

    /// Takes so many, though they may not be there, unless more has been taken already than was there.
    fn overdraw(&mut self, limit: &Limit, amount: usize, now: Instant) -> bool {
        let may = self.missing(limit, now) <= limit.window();
        if may {
            self.spend(limit, amount, now);
        }
        may
    }

    fn spend(&mut self, limit: &Limit, amount: usize, now: Instant) {
        if self.buckets.len() >= self.tidy_at.max(BUCKETS_KEPT_MIN) {
            self.buckets.retain(|_, bucket| bucket.full_at > now);
            self.tidy_at = self.buckets.len() * 2;
        }
        // No batch has more events than that.
        let amount = u32::try_from(amount).unwrap_or(u32::MAX);
        let bucket = Bucket {
            full_at: now + self.missing(limit, now) + limit.period() * amount,
            per_second: limit.per_second,
        };
        self.buckets.insert(limit.tenant, bucket);
    }

    fn left(&mut self, limit: &Limit, now: Instant) -> Left {
        let missing = self.missing(limit, now);
        let there = limit.window().saturating_sub(missing);
        let one_after = (missing + limit.period()).saturating_sub(limit.window());
        Left {
            now: there.as_nanos() / limit.period().as_nanos(),
            full_after_s: whole_seconds(missing),
            one_after_s: whole_seconds(one_after).max(1),
        }
    }

    /// How long the bucket takes until it is full. Longer than [`WINDOW`] after more was taken than was there. What is missing
    /// stays the same when the rate changes, and comes the sooner under a higher one.
    fn missing(&mut self, limit: &Limit, now: Instant) -> Duration {
        let Some(bucket) = self.buckets.get_mut(&limit.tenant) else {
            return Duration::ZERO;
        };
        let missing = bucket.full_at.saturating_duration_since(now);
        if bucket.per_second == limit.per_second {
            return missing;
        }
        let scaled = missing.as_nanos() * u128::from(bucket.per_second.get())
            / u128::from(limit.per_second.get());
        // No debt is longer than the largest batch takes at one a second.
        let missing = Duration::from_nanos(u64::try_from(scaled).unwrap_or(u64::MAX));
        *bucket = Bucket {
            full_at: now + missing,
            per_second: limit.per_second,
        };
        missing
    }
}

/// Rounded up: whoever waits that long finds what was promised.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use zyven_domain::api_key::{ApiKey, Scopes};
    use zyven_domain::id::ApiKeyId;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn limit(per_second: u32) -> Limit {
        Limit {
            tenant: TenantId::new(),
            counted: Counted::Events,
            per_second: NonZeroU32::new(per_second).expect("not zero"),
        }
    }

    fn caller(rates: TenantRates) -> Caller {
        Caller {
            tenant: TenantId::new(),
            key: ApiKeyId::new(),
            public_id: ApiKey::from_random([1; 8], [2; 32]).public_id(),
            scopes: Scopes::all(),
            link_expires_at: None,
            key_expires_at: None,
            rates,
            checked_types: Arc::default(),
        }
    }

    #[test]
    fn a_bucket_holds_ten_seconds_worth_and_fills_evenly() {
        // Rates by which a second can and cannot be divided.
        for per_second in [1, 3, 7, 100, 999_999] {
            let (mut buckets, limit, now) = (Buckets::default(), limit(per_second), Instant::now());
            let held = u128::from(per_second) * 10;
            assert_eq!(buckets.left(&limit, now).now, held);
            buckets.spend(&limit, usize::try_from(held).expect("small") - 1, now);
            assert!(buckets.take(&limit, now), "the last one");
            assert!(!buckets.take(&limit, now), "one too many");
            let one_comes = now + limit.period();
            assert!(!buckets.take(&limit, one_comes - Duration::from_nanos(1)));
            assert!(buckets.take(&limit, one_comes));
            assert!(!buckets.take(&limit, one_comes));
        }
    }

    #[test]
    fn what_is_left_and_when_is_told_in_whole_seconds() {
        let (mut buckets, limit, now) = (Buckets::default(), limit(2), Instant::now());
        buckets.spend(&limit, 3, now);
        let left = |now, full_after_s, one_after_s| Left {
            now,
            full_after_s,
            one_after_s,
        };
        assert_eq!(buckets.left(&limit, now), left(17, 2, 1));
        assert_eq!(buckets.left(&limit, now + 500 * MS), left(18, 1, 1));
        assert_eq!(buckets.left(&limit, now + 1_500 * MS), left(20, 0, 1));
        // A batch that takes more than there is, is waited for.
        buckets.spend(&limit, 23, now + 1_500 * MS);
        assert_eq!(buckets.left(&limit, now + 1_500 * MS), left(0, 12, 2));
        assert!(!buckets.take(&limit, now + 3_499 * MS));
        assert!(buckets.take(&limit, now + 3_500 * MS));
    }

    #[test]
    fn batches_at_the_same_time_do_not_all_take_what_is_not_there() {
        let (mut buckets, limit, now) = (Buckets::default(), limit(10), Instant::now());
        // Each was let in while there was room for one.
        assert!(buckets.take(&limit, now) && buckets.take(&limit, now));
        assert!(buckets.overdraw(&limit, 999, now));
        assert!(!buckets.overdraw(&limit, 999, now));
        assert_eq!(buckets.left(&limit, now).full_after_s, 101);
    }

    #[test]
    fn what_is_missing_comes_sooner_under_a_higher_rate() {
        let (mut buckets, now) = (Buckets::default(), Instant::now());
        let slow = limit(1);
        let fast = Limit {
            per_second: NonZeroU32::new(100).expect("not zero"),
            ..slow
        };
        buckets.spend(&slow, 1_000, now);
        assert!(!buckets.take(&slow, now + fast.period()));
        assert!(!buckets.take(&fast, now), "a thousand are all it holds");
        assert!(buckets.take(&fast, now + fast.period()));
        assert_eq!(buckets.left(&fast, now).full_after_s, 11);
        assert_eq!(buckets.left(&slow, now).full_after_s, 1_001);
    }

    #[test]
    fn a_tenant_takes_nothing_out_of_anothers_bucket() {
        let (mut buckets, now) = (Buckets::default(), Instant::now());
        let (one, other) = (limit(1), limit(1));
        buckets.spend(&one, 10, now);
        assert!(!buckets.take(&one, now));
        assert!(buckets.take(&other, now));
    }

    #[test]
    fn full_buckets_are_forgotten() {
        let (mut buckets, now) = (Buckets::default(), Instant::now());
        for _ in 0..BUCKETS_KEPT_MIN {
            buckets.spend(&limit(1), 1, now);
        }
        let in_use = limit(1);
        buckets.spend(&in_use, 5, now);
        assert_eq!(buckets.buckets.len(), BUCKETS_KEPT_MIN + 1, "none was full");
        let later = now + Duration::from_secs(2);
        for _ in 0..BUCKETS_KEPT_MIN {
            buckets.spend(&limit(1), 1, later);
        }
        assert_eq!(buckets.buckets.len(), BUCKETS_KEPT_MIN + 1);
        assert_eq!(buckets.left(&in_use, later).full_after_s, 3);
    }

    #[test]
    fn a_tenants_own_rate_counts_instead_of_the_setting() {
        let usual = TenantRates {
            events_per_second: Some(5),
            requests_per_second: None,
        };
        let rates = Rates::new(usual);
        let of = |own: Option<u32>, counted| {
            let own = TenantRates {
                events_per_second: own,
                requests_per_second: own,
            };
            let limit = rates.limit(&caller(own), counted);
            limit.map(|limit| limit.per_second.get())
        };
        assert_eq!(of(None, Counted::Events), Some(5));
        assert_eq!(of(Some(7), Counted::Events), Some(7));
        assert_eq!(of(Some(0), Counted::Events), None, "no limit at all");
        assert_eq!(of(None, Counted::Requests), None);
        assert_eq!(of(Some(7), Counted::Requests), Some(7));
    }
}
