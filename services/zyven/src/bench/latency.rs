//! Latencies: recorded in microseconds, told in milliseconds.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longer ones are counted as this long.
const LATENCY_US_MAX: u64 = 3_600_000_000;
/// Digits that are right: 0.1 %.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Any number of latencies in constant memory.
#[derive(Debug, Clone)]
pub(super) struct Latencies(Histogram<u64>);

/// What is told of them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50_ms: f64,
    pub(super) p90_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
}

impl Latencies {
    pub(super) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, SIGNIFICANT_DIGITS)
            .expect("the bounds are constant and valid");
        Self(histogram)
    }

    pub(super) fn record(&mut self, latency: Duration) {
        let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(latency_us);
    }

    /// Counts another round's latencies as if they had been recorded here.
    pub(super) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    /// `None` if there are none.
    pub(super) fn percentiles(&self) -> Option<Percentiles> {
        if self.0.is_empty() {
            return None;
        }
        let at = |quantile| milliseconds(self.0.value_at_quantile(quantile));
        Some(Percentiles {
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            max_ms: milliseconds(self.0.max()),
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "at most an hour")]
fn milliseconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_thousandth_of_the_truth() {
        let mut latencies = Latencies::new();
        for latency_us in 1..=10_000 {
            latencies.record(Duration::from_micros(latency_us));
        }
        let told = latencies.percentiles().expect("some");
        for (told_ms, true_ms) in [
            (told.p50_ms, 5.0),
            (told.p90_ms, 9.0),
            (told.p99_ms, 9.9),
            (told.max_ms, 10.0),
        ] {
            assert!(
                (told_ms - true_ms).abs() <= true_ms / 1_000.0,
                "{told_ms} for {true_ms}"
            );
        }
    }

    #[test]
    fn nothing_recorded_has_no_percentiles() {
        assert_eq!(Latencies::new().percentiles(), None);
    }

    #[test]
    fn rounds_add_up() {
        let (mut all, mut other) = (Latencies::new(), Latencies::new());
        all.record(Duration::from_millis(1));
        other.record(Duration::from_millis(3));
        all.add(&other);
        let told = all.percentiles().expect("two");
        assert!(told.p50_ms < 1.1 && told.max_ms > 2.9, "{told:?}");
    }

    #[test]
    fn what_takes_longer_than_the_scale_counts_as_its_end() {
        let mut latencies = Latencies::new();
        latencies.record(Duration::from_secs(100_000));
        assert!(latencies.percentiles().expect("one").max_ms >= 3_590_000.0);
    }
}
