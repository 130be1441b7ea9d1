//! Counters, gauges and histograms, in the Prometheus text format (version 0.0.4).
//!
//! Handles are made once and kept; using one is an atomic addition. Every series exists from the
//! moment its handle is made, at zero, so an alert can tell "none yet" from "no such thing". Labels
//! come from the program's own vocabulary (reasons, routes, states), never from outside.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds for latencies, in seconds: half a millisecond to a minute.
pub const LATENCY_BOUNDS_S: &[f64] = &[
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0,
];

/// Upper bounds for sizes of batches.
pub const BATCH_BOUNDS: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0,
];

/// Everything one process measures. Cheap to clone.
#[derive(Clone, Default)]
pub struct Metrics {
    // Guards a list that grows at start-up; held for a push or a rendering, never across an await.
    families: Arc<Mutex<Vec<Family>>>,
}

struct Family {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    series: Vec<(String, Series)>,
}

#[derive(Clone)]
enum Series {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
    Asked(Arc<dyn Fn() -> f64 + Send + Sync>),
}

/// Goes up.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Some more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes up and down.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicI64>);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Moves it.
    pub fn add(&self, change: i64) {
        self.0.fetch_add(change, Ordering::Relaxed);
    }

    /// Where it stands.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts observations by size.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    bounds: &'static [f64],
    counts: Vec<AtomicU64>,
    /// In millionths, so that an addition is one atomic instruction.
    sum_millionths: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self(Arc::new(Buckets {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum_millionths: AtomicU64::new(0),
        }))
    }

    /// Counts one observation.
    pub fn observe(&self, value: f64) {
        let Buckets {
            bounds,
            counts,
            sum_millionths,
        } = &*self.0;
        let bucket = bounds.partition_point(|bound| *bound < value);
        counts[bucket].fetch_add(1, Ordering::Relaxed);
        sum_millionths.fetch_add((value.max(0.0) * 1e6) as u64, Ordering::Relaxed);
    }

    /// Counts one length of time, in seconds.
    pub fn observe_duration(&self, duration: Duration) {
        self.observe(duration.as_secs_f64());
    }

    /// How many observations so far.
    pub fn count(&self) -> u64 {
        self.0
            .counts
            .iter()
            .map(|c| c.load(Ordering::Relaxed))
            .sum()
    }
}

impl Metrics {
    /// A counter; its name ends with `_total`.
    pub fn counter(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
    ) -> Counter {
        let series = self.series(name, help, "counter", labels, || {
            Series::Counter(Counter::default())
        });
        match series {
            Series::Counter(counter) => counter,
            _ => Counter::default(),
        }
    }

    /// A gauge.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Gauge {
        let series = self.series(name, help, "gauge", labels, || {
            Series::Gauge(Gauge::default())
        });
        match series {
            Series::Gauge(gauge) => gauge,
            _ => Gauge::default(),
        }
    }

    /// A gauge whose value is asked for when the metrics are read.
    pub fn asked_gauge(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        ask: impl Fn() -> f64 + Send + Sync + 'static,
    ) {
        let ask: Arc<dyn Fn() -> f64 + Send + Sync> = Arc::new(ask);
        self.series(name, help, "gauge", labels, || Series::Asked(ask));
    }

    /// A counter whose value is asked for when the metrics are read.
    pub fn asked_counter(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        ask: impl Fn() -> f64 + Send + Sync + 'static,
    ) {
        let ask: Arc<dyn Fn() -> f64 + Send + Sync> = Arc::new(ask);
        self.series(name, help, "counter", labels, || Series::Asked(ask));
    }

    /// A histogram with these upper bounds, which must ascend.
    pub fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        bounds: &'static [f64],
    ) -> Histogram {
        let series = self.series(name, help, "histogram", labels, || {
            Series::Histogram(Histogram::new(bounds))
        });
        match series {
            Series::Histogram(histogram) => histogram,
            _ => Histogram::new(bounds),
        }
    }

    /// The series of that name and these labels; asking twice gives the same one.
    fn series(
        &self,
        name: &'static str,
        help: &'static str,
        kind: &'static str,
        labels: &[(&str, &str)],
        make: impl FnOnce() -> Series,
    ) -> Series {
        let labels = rendered_labels(labels);
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let index = match families.iter().position(|family| family.name == name) {
            Some(index) => index,
            None => {
                families.push(Family {
                    name,
                    help,
                    kind,
                    series: Vec::new(),
                });
                families.len() - 1
            }
        };
        let family = &mut families[index];
        debug_assert_eq!(family.kind, kind, "{name} is declared as two kinds");
        if let Some((_, known)) = family.series.iter().find(|(known, _)| *known == labels) {
            return known.clone();
        }
        let series = make();
        family.series.push((labels, series.clone()));
        series
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        let families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        for family in families.iter() {
            let Family {
                name, help, kind, ..
            } = family;
            // Writing to a string cannot fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            for (labels, series) in &family.series {
                render_series(&mut text, name, labels, series);
            }
        }
        text
    }
}

fn rendered_labels(labels: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in labels {
        let comma = if text.is_empty() { "" } else { "," };
        let value = value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        let _ = write!(text, "{comma}{name}=\"{value}\"");
    }
    text
}

fn render_series(text: &mut String, name: &str, labels: &str, series: &Series) {
    let braced = if labels.is_empty() {
        String::new()
    } else {
        format!("{{{labels}}}")
    };
    let _ = match series {
        Series::Counter(counter) => writeln!(text, "{name}{braced} {}", counter.get()),
        Series::Gauge(gauge) => writeln!(text, "{name}{braced} {}", gauge.get()),
        Series::Asked(ask) => writeln!(text, "{name}{braced} {}", ask()),
        Series::Histogram(histogram) => {
            let comma = if labels.is_empty() { "" } else { "," };
            let mut total = 0;
            for (index, count) in histogram.0.counts.iter().enumerate() {
                total += count.load(Ordering::Relaxed);
                let bound = histogram
                    .0
                    .bounds
                    .get(index)
                    .map_or("+Inf".to_owned(), f64::to_string);
                let _ = writeln!(
                    text,
                    "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {total}"
                );
            }
            let sum = histogram.0.sum_millionths.load(Ordering::Relaxed) as f64 / 1e6;
            writeln!(
                text,
                "{name}_sum{braced} {sum}\n{name}_count{braced} {total}"
            )
        }
    };
}

/// Adds what the operating system knows of this process: CPU seconds and resident memory.
pub fn observe_process(metrics: &Metrics) {
    metrics.asked_counter(
        "process_cpu_seconds_total",
        "CPU seconds of this process, user and system",
        &[],
        || cpu_seconds().unwrap_or(0.0),
    );
    metrics.asked_gauge(
        "process_resident_memory_bytes",
        "Resident memory of this process",
        &[],
        || resident_bytes().unwrap_or(0.0),
    );
}

/// Fields 14 and 15 of proc(5)'s stat, counted after the command name, in clock ticks of 10 ms (the
/// unit Linux has shown to programs on every architecture since 2.6).
fn cpu_seconds() -> Option<f64> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(
        line.trim()
            .strip_suffix(" kB")?
            .trim()
            .parse::<f64>()
            .ok()?
            * 1024.0,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_gauges_are_rendered_with_their_labels() {
        let metrics = Metrics::default();
        let denied = metrics.counter("x_total", "Things", &[("reason", "a\"b")]);
        denied.add(3);
        metrics
            .counter("x_total", "Things", &[("reason", "a\"b")])
            .increment();
        metrics.gauge("y", "Level", &[]).set(-2);
        assert_eq!(
            metrics.render(),
            "# HELP x_total Things\n# TYPE x_total counter\nx_total{reason=\"a\\\"b\"} 4\n\
             # HELP y Level\n# TYPE y gauge\ny -2\n"
        );
    }

    #[test]
    fn histograms_count_up_to_and_including_each_bound() {
        let metrics = Metrics::default();
        let histogram = metrics.histogram("h", "Sizes", &[], &[1.0, 2.0]);
        for value in [0.5, 1.0, 1.5, 2.0, 9.0] {
            histogram.observe(value);
        }
        let text = metrics.render();
        for line in [
            "h_bucket{le=\"1\"} 2",
            "h_bucket{le=\"2\"} 4",
            "h_bucket{le=\"+Inf\"} 5",
            "h_sum 14",
            "h_count 5",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn the_process_knows_its_memory() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 100_000.0));
        assert!(cpu_seconds().is_some());
    }
}
