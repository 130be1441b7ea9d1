//! The three kinds of metric. Relaxed atomics throughout: a scrape is a snapshot of nothing in particular.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Bounds in seconds, from what a batch insert takes to what a patient endpoint takes.
pub const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Bounds in bytes, from 256 to 1 MiB.
pub const BYTES: &[f64] = &[
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
];

/// Bounds for sizes of batches.
pub const COUNTS: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0,
];

/// A number that only grows, until the process restarts. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds so many.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// The number now.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down. Clones show the same one.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<AtomicF64>);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: f64) {
        self.0.set(value);
    }

    /// Adds to it; a negative change subtracts.
    pub fn add(&self, change: f64) {
        self.0.add(change);
    }

    /// Counts something that is under way: one more from now until the guard is dropped.
    pub fn count_in(&self) -> InProgress {
        self.add(1.0);
        InProgress(self.clone())
    }

    /// The number now.
    pub fn value(&self) -> f64 {
        self.0.get()
    }
}

/// Something under way, counted by a gauge until this is dropped.
#[derive(Debug)]
#[must_use = "it counts until it is dropped, which is now"]
pub struct InProgress(Gauge);

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.add(-1.0);
    }
}

/// How observations are spread over fixed buckets. Clones share them.
#[derive(Debug, Clone)]
pub struct Histogram(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    bounds: &'static [f64],
    /// One per bound and one for what is larger; not cumulative, unlike what is rendered, so that an
    /// observation changes one.
    counts: Box<[AtomicU64]>,
    sum: AtomicF64,
}

impl Histogram {
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Buckets {
            bounds,
            counts,
            sum: AtomicF64::default(),
        }))
    }

    /// Takes one observation, in the unit of the histogram's name.
    pub fn observe(&self, value: f64) {
        let Buckets {
            bounds,
            counts,
            sum,
        } = &*self.0;
        let bucket = bounds.partition_point(|bound| *bound < value);
        counts[bucket].fetch_add(1, Relaxed);
        sum.add(value);
    }

    /// Takes one observation in seconds.
    pub fn observe_duration(&self, duration: Duration) {
        self.observe(duration.as_secs_f64());
    }

    /// How many observations there were.
    pub fn count(&self) -> u64 {
        self.0.counts.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// What they add up to.
    pub fn sum(&self) -> f64 {
        self.0.sum.get()
    }

    /// Each upper bound with the number of observations up to it; the last bound is infinite.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = self.0.bounds.iter().copied().chain([f64::INFINITY]);
        bounds.zip(&self.0.counts).scan(0, |sum, (bound, count)| {
            *sum += count.load(Relaxed);
            Some((bound, *sum))
        })
    }
}

#[derive(Debug, Default)]
struct AtomicF64(AtomicU64);

impl AtomicF64 {
    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }

    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }

    fn add(&self, change: f64) {
        let sum = |bits| Some((f64::from_bits(bits) + change).to_bits());
        // Fails only if the closure returns None.
        let _ = self.0.fetch_update(Relaxed, Relaxed, sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_belongs_to_the_first_bound_it_does_not_exceed() {
        let histogram = Histogram::new(&[1.0, 2.0]);
        for value in [0.0, 1.0, 1.1, 2.0, 2.1] {
            histogram.observe(value);
        }
        let buckets: Vec<_> = histogram.cumulative().collect();
        assert_eq!(buckets, [(1.0, 2), (2.0, 4), (f64::INFINITY, 5)]);
        assert_eq!(histogram.count(), 5);
        assert!((histogram.sum() - 6.2).abs() < 1e-9);
    }

    #[test]
    fn what_is_in_progress_is_counted_until_dropped() {
        let gauge = Gauge::default();
        let first = gauge.count_in();
        let second = gauge.count_in();
        drop(first);
        assert!((gauge.value() - 1.0).abs() < f64::EPSILON);
        drop(second);
        assert!(gauge.value().abs() < f64::EPSILON);
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        let (counter, histogram) = (Counter::default(), Histogram::new(COUNTS));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        counter.increment();
                        histogram.observe(1.0);
                    }
                });
            }
        });
        assert_eq!(counter.value(), 40_000);
        assert_eq!(histogram.count(), 40_000);
        assert!((histogram.sum() - 40_000.0).abs() < f64::EPSILON);
    }
}
