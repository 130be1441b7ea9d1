//! What is known about one proxy: whether it works, and when it is worth asking again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::address::ProxyAddress;
use super::asking::{CONNECT_TIME_MAX, FIRST_WORD_TIME_MAX};

/// How long a proxy that failed is passed over.
pub(super) const REST: Duration = Duration::from_secs(1);
/// One that has answered nobody for this long, although it was asked, is down. An attempt that has less
/// time than this cannot tell by itself: an endpoint with a timeout of a few milliseconds must not take
/// the way out from all the others.
const SILENCE_MAX: Duration = FIRST_WORD_TIME_MAX;

/// Times are in milliseconds after `epoch`, so that they fit an atomic.
pub(super) struct Proxy {
    pub(super) address: ProxyAddress,
    epoch: Instant,
    is_down: AtomicBool,
    /// Until when it is passed over.
    rests_until_ms: AtomicU64,
    /// When it last answered somebody.
    answered_ms: AtomicU64,
    /// When it was first asked in vain since then; 0 if it was not.
    silent_since_ms: AtomicU64,
}

impl Proxy {
    pub(super) fn new(address: ProxyAddress) -> Self {
        Self {
            address,
            // Its time begins at 1: 0 is before anything happened.
            epoch: Instant::now(),
            is_down: AtomicBool::new(false),
            rests_until_ms: AtomicU64::new(0),
            answered_ms: AtomicU64::new(0),
            silent_since_ms: AtomicU64::new(0),
        }
    }

    pub(super) fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
    }

    /// How much longer it is passed over.
    pub(super) fn rests_for(&self) -> Duration {
        let rests_until_ms = self.rests_until_ms.load(Ordering::Relaxed);
        Duration::from_millis(rests_until_ms.saturating_sub(self.now_ms()))
    }

    /// It is about to be asked; returns when. If it was down, one attempt at a time finds out whether it
    /// is back: the others pass it over meanwhile, rather than lose the same time.
    pub(super) fn begin(&self) -> u64 {
        if self.is_down() {
            self.rest(CONNECT_TIME_MAX + FIRST_WORD_TIME_MAX);
        }
        self.now_ms()
    }

    /// It answered.
    pub(super) fn mark_up(&self) {
        self.answered_ms.store(self.now_ms(), Ordering::Relaxed);
        self.silent_since_ms.store(0, Ordering::Relaxed);
        if self.is_down.swap(false, Ordering::Relaxed) {
            self.rests_until_ms.store(0, Ordering::Relaxed);
            tracing::info!(proxy = %self.address, "the egress proxy is back");
        }
    }

    /// It was asked at this time, and did not answer.
    pub(super) fn mark_silent(&self, asked_ms: u64) {
        // Others were answered meanwhile: it is that one connection which hangs.
        if self.answered_ms.load(Ordering::Relaxed) > asked_ms {
            return;
        }
        let order = Ordering::Relaxed;
        let since = &self.silent_since_ms;
        let since_ms = match since.compare_exchange(0, asked_ms, order, order) {
            Ok(_) => asked_ms,
            Err(since_ms) => since_ms,
        };
        let silent_for = Duration::from_millis(self.now_ms().saturating_sub(since_ms));
        // A wait begins and ends amid a millisecond.
        if silent_for + Duration::from_millis(1) >= SILENCE_MAX {
            self.mark_down("it does not answer");
        }
    }

    pub(super) fn mark_down(&self, reason: &str) {
        self.rest(REST);
        if !self.is_down.swap(true, Ordering::Relaxed) {
            tracing::error!(proxy = %self.address, reason, "the egress proxy is down; its share waits or goes elsewhere");
        }
    }

    fn rest(&self, rest: Duration) {
        let rest_ms = u64::try_from(rest.as_millis()).unwrap_or(u64::MAX);
        self.rests_until_ms
            .store(self.now_ms() + rest_ms, Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        1 + u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that has been there for ten seconds.
    fn proxy() -> Proxy {
        let mut proxy = Proxy::new("127.0.0.1:1".parse().unwrap());
        proxy.epoch -= Duration::from_secs(10);
        proxy
    }

    #[test]
    fn it_is_down_once_it_has_answered_nobody_for_two_seconds() {
        for (asked_before_ms, expected) in [(1_500, false), (2_000, true)] {
            let proxy = proxy();
            let now_ms = proxy.now_ms();
            proxy.mark_silent(now_ms - asked_before_ms);
            assert_eq!(proxy.is_down(), expected, "{asked_before_ms}");
            // Short attempts in a row are as good as a long one.
            proxy.mark_silent(now_ms - 50);
            assert_eq!(proxy.is_down(), expected, "{asked_before_ms}");
        }
    }

    #[test]
    fn a_silence_is_broken_by_any_answer() {
        let proxy = proxy();
        let now_ms = proxy.now_ms();
        proxy.mark_silent(now_ms - 1_500);
        proxy.mark_up();
        // Asked before that answer, and after it.
        proxy.mark_silent(now_ms - 9_000);
        proxy.mark_silent(proxy.now_ms());
        assert!(!proxy.is_down());
    }

    #[test]
    fn one_that_was_down_is_asked_by_one_at_a_time_until_it_answers() {
        let proxy = proxy();
        proxy.mark_down("test");
        assert!(proxy.rests_for() <= REST && !proxy.rests_for().is_zero());
        proxy.rests_until_ms.store(0, Ordering::Relaxed);
        proxy.begin();
        assert!(proxy.rests_for() > REST, "the others pass it over");
        proxy.mark_up();
        assert!(proxy.rests_for().is_zero() && !proxy.is_down());
        proxy.begin();
        assert!(proxy.rests_for().is_zero(), "and not while it works");
    }
}
