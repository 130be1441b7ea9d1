//! Counters, gauges and histograms, rendered in Prometheus' text format 0.0.4.
//!
//! A metric is a handle: cheap to clone, and an atomic or two to change. Registering takes a lock, so
//! do it once at start and keep the handle; [`Family::with`] is a short search under a shared lock, fit for
//! anything that costs more than a microsecond.
//!
//! Names follow Prometheus' habits: `zyven_<service>_<what>_<unit>`, `_total` for counters, base units
//! (seconds, bytes). Label names are written in the program and label values come from small sets
//! (enum names), never from customers; a family that grows beyond [`SERIES_MAX`] all the same counts the
//! rest as `other`.
//!
//! ```
//! use zyven_runtime::metrics::{Metrics, SECONDS};
//!
//! let metrics = Metrics::new();
//! let accepted = metrics.counter("zyven_ingest_events_total", "Events accepted.");
//! let answers = metrics.counters("zyven_ingest_answers_total", "Answers.", ["status"]);
//! let waited = metrics.histogram("zyven_ingest_wait_seconds", "Time to commit.", SECONDS);
//! accepted.add(3);
//! answers.with(["202"]).increment();
//! waited.observe(0.004);
//! assert!(metrics.render().contains("zyven_ingest_answers_total{status=\"202\"} 1\n"));
//! ```

mod family;
mod render;
mod value;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::family::Series;

pub use self::family::{Family, SERIES_MAX};
pub use self::value::{BYTES, COUNTS, Counter, Gauge, Histogram, InProgress, SECONDS};

/// All metrics of a process. Clones share one registry.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<Vec<Registered>>>);

struct Registered {
    name: &'static str,
    help: &'static str,
    labels: Vec<&'static str>,
    source: Source,
}

/// Where the values come from.
#[derive(Clone)]
enum Source {
    Counters(Arc<Series<Counter>>),
    Gauges(Arc<Series<Gauge>>),
    Histograms(Arc<Series<Histogram>>),
    ReadCounter(Reader),
    ReadGauge(Reader),
}

/// Reads a value when the metrics are rendered; `None` leaves the metric out.
type Reader = Arc<dyn Fn() -> Option<f64> + Send + Sync>;

/// Registering. A name that is registered again with the same kind and labels gives the same metric: two
/// services in one process may share one.
///
/// # Panics
///
/// All of these panic on a name that Prometheus would not accept, and on a name that is taken by a
/// metric of another kind or with other labels: that is a mistake in the program, found by whatever
/// starts it first.
impl Metrics {
    /// No metrics yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A number that only grows.
    pub fn counter(&self, name: &'static str, help: &'static str) -> Counter {
        self.counters(name, help, []).with([])
    }

    /// Counters told apart by labels.
    pub fn counters<const LABELS: usize>(
        &self,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; LABELS],
    ) -> Family<Counter, LABELS> {
        self.family(
            name,
            help,
            labels,
            Counter::default,
            Source::Counters,
            |source| match source {
                Source::Counters(series) => Some(series),
                _ => None,
            },
        )
    }

    /// A number that goes up and down.
    pub fn gauge(&self, name: &'static str, help: &'static str) -> Gauge {
        self.gauges(name, help, []).with([])
    }

    /// Gauges told apart by labels.
    pub fn gauges<const LABELS: usize>(
        &self,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; LABELS],
    ) -> Family<Gauge, LABELS> {
        self.family(
            name,
            help,
            labels,
            Gauge::default,
            Source::Gauges,
            |source| match source {
                Source::Gauges(series) => Some(series),
                _ => None,
            },
        )
    }

    /// How observations are spread. `bounds` are the upper ends of the buckets, ascending, in the unit
    /// of the name: [`SECONDS`], [`BYTES`], [`COUNTS`] or others.
    pub fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        bounds: &'static [f64],
    ) -> Histogram {
        self.histograms(name, help, bounds, []).with([])
    }

    /// Histograms told apart by labels.
    pub fn histograms<const LABELS: usize>(
        &self,
        name: &'static str,
        help: &'static str,
        bounds: &'static [f64],
        labels: [&'static str; LABELS],
    ) -> Family<Histogram, LABELS> {
        assert!(
            bounds.is_sorted_by(|left, right| left < right),
            "bounds of {name} must ascend"
        );
        self.family(
            name,
            help,
            labels,
            move || Histogram::new(bounds),
            Source::Histograms,
            |source| match source {
                Source::Histograms(series) => Some(series),
                _ => None,
            },
        )
    }

    /// A counter that is kept elsewhere and read when the metrics are rendered; `None` leaves it out.
    /// Registered again, the first reader stays.
    pub fn read_counter(
        &self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> Option<f64> + Send + Sync + 'static,
    ) {
        let kind = |source: &Source| matches!(source, Source::ReadCounter(_));
        self.register(
            name,
            help,
            &[],
            || Source::ReadCounter(Arc::new(read)),
            kind,
        );
    }

    /// A gauge that is kept elsewhere and read when the metrics are rendered; `None` leaves it out.
    /// Registered again, the first reader stays.
    pub fn read_gauge(
        &self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> Option<f64> + Send + Sync + 'static,
    ) {
        let kind = |source: &Source| matches!(source, Source::ReadGauge(_));
        self.register(name, help, &[], || Source::ReadGauge(Arc::new(read)), kind);
    }

    fn family<M: Clone, const LABELS: usize>(
        &self,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; LABELS],
        make: impl Fn() -> M + Send + Sync + 'static,
        wrap: fn(Arc<Series<M>>) -> Source,
        unwrap: fn(Source) -> Option<Arc<Series<M>>>,
    ) -> Family<M, LABELS> {
        let source = || wrap(Arc::new(Series::new(make)));
        let kind = |source: &Source| unwrap(source.clone()).is_some();
        let source = self.register(name, help, &labels, source, kind);
        Family::of(unwrap(source).expect("registering has checked the kind"))
    }

    fn register(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[&'static str],
        make: impl FnOnce() -> Source,
        is_kind: impl Fn(&Source) -> bool,
    ) -> Source {
        assert!(is_name(name), "{name} is no name for a metric");
        assert!(
            labels.iter().all(|label| is_name(label) && *label != "le"),
            "{name} has a label with a name that is none"
        );
        let mut all = self.lock();
        if let Some(registered) = all.iter().find(|registered| registered.name == name) {
            assert!(
                is_kind(&registered.source) && registered.labels == labels,
                "{name} is registered twice, differently"
            );
            return registered.source.clone();
        }
        let source = make();
        all.push(Registered {
            name,
            help,
            labels: labels.to_vec(),
            source: source.clone(),
        });
        source
    }

    /// Held to register and to copy the list for rendering, never while values are read.
    fn lock(&self) -> MutexGuard<'_, Vec<Registered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What Prometheus accepts, without the colon, which belongs to recording rules.
fn is_name(text: &str) -> bool {
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.bytes().all(is_name_byte)
        && !text.starts_with(|first: char| first.is_ascii_digit())
        && !text.is_empty()
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.lock();
        f.debug_list()
            .entries(all.iter().map(|registered| registered.name))
            .finish()
    }
}
