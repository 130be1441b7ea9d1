//! Prometheus' text format, version 0.0.4.

use std::fmt::{self, Write};

use super::family::Series;
use super::value::Histogram;
use super::{Metrics, Source};

impl Metrics {
    /// What the format is called in a `Content-Type` header.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// All metrics, in the order they were registered.
    pub fn render(&self) -> String {
        // Copied, so that a reader that takes long does not hold up whoever registers.
        let all: Vec<_> = self
            .lock()
            .iter()
            .map(|one| (one.name, one.help, one.labels.clone(), one.source.clone()))
            .collect();
        let mut page = String::with_capacity(16 * 1024);
        for (name, help, labels, source) in all {
            let lines = Lines {
                page: &mut page,
                name,
                labels: &labels,
            };
            // Writing to a String cannot fail.
            let _ = lines.write(help, &source);
        }
        page
    }
}

/// The lines of one metric.
struct Lines<'a> {
    page: &'a mut String,
    name: &'static str,
    labels: &'a [&'static str],
}

impl Lines<'_> {
    fn write(mut self, help: &str, source: &Source) -> fmt::Result {
        match source {
            Source::Counters(series) => {
                self.head(help, "counter")?;
                self.each(series, |lines, values, counter| {
                    lines.sample("", values, None, counter.value())
                })
            }
            Source::Gauges(series) => {
                self.head(help, "gauge")?;
                self.each(series, |lines, values, gauge| {
                    lines.sample("", values, None, Number(gauge.value()))
                })
            }
            Source::Histograms(series) => {
                self.head(help, "histogram")?;
                self.each(series, Self::histogram)
            }
            Source::ReadCounter(read) => self.read(help, "counter", read()),
            Source::ReadGauge(read) => self.read(help, "gauge", read()),
        }
    }

    fn read(&mut self, help: &str, kind: &str, value: Option<f64>) -> fmt::Result {
        let Some(value) = value else {
            return Ok(());
        };
        self.head(help, kind)?;
        self.sample("", &[], None, Number(value))
    }

    fn head(&mut self, help: &str, kind: &str) -> fmt::Result {
        let name = self.name;
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        writeln!(self.page, "# HELP {name} {help}\n# TYPE {name} {kind}")
    }

    fn each<M: Clone>(
        &mut self,
        series: &Series<M>,
        write: impl Fn(&mut Self, &[Box<str>], &M) -> fmt::Result,
    ) -> fmt::Result {
        for (values, metric) in series.sorted() {
            write(self, &values, &metric)?;
        }
        Ok(())
    }

    fn histogram(&mut self, values: &[Box<str>], histogram: &Histogram) -> fmt::Result {
        let mut count = 0;
        for (bound, cumulative) in histogram.cumulative() {
            self.sample("_bucket", values, Some(bound), cumulative)?;
            count = cumulative;
        }
        self.sample("_sum", values, None, Number(histogram.sum()))?;
        // The last bucket's, not the histogram's now: the format wants them equal.
        self.sample("_count", values, None, count)
    }

    fn sample(
        &mut self,
        suffix: &str,
        values: &[Box<str>],
        bound: Option<f64>,
        value: impl fmt::Display,
    ) -> fmt::Result {
        write!(self.page, "{}{suffix}", self.name)?;
        let mut separator = '{';
        for (label, text) in self.labels.iter().zip(values) {
            write!(self.page, "{separator}{label}=\"")?;
            escape(self.page, text);
            self.page.push('"');
            separator = ',';
        }
        if let Some(bound) = bound {
            write!(self.page, "{separator}le=\"{}\"", Number(bound))?;
            separator = ',';
        }
        if separator == ',' {
            self.page.push('}');
        }
        writeln!(self.page, " {value}")
    }
}

fn escape(page: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => page.push_str("\\\\"),
            '"' => page.push_str("\\\""),
            '\n' => page.push_str("\\n"),
            other => page.push(other),
        }
    }
}

/// As Go writes numbers.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_infinite() {
            f.write_str(if self.0 > 0.0 { "+Inf" } else { "-Inf" })
        } else {
            write!(f, "{}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::SERIES_MAX;

    #[test]
    fn the_page_is_as_prometheus_reads_it() {
        let metrics = Metrics::new();
        metrics.counter("a_total", "A\\B\nC.").add(3);
        let by_label = metrics.counters("b_total", "B.", ["reason", "host"]);
        by_label.with(["z", "q\"uo\\te\n"]).increment();
        by_label.with(["a", ""]).add(2);
        metrics.gauge("c", "C.").set(-1.5);
        metrics.gauge("d", "D.").set(f64::INFINITY);
        let spread = metrics.histograms("e_seconds", "E.", &[0.5, 1.0], ["kind"]);
        spread.with(["x"]).observe(0.25);
        spread.with(["x"]).observe(2.0);
        metrics.read_counter("f_total", "F.", || Some(0.5));
        metrics.read_gauge("g", "G.", || None);
        let expected = "\
# HELP a_total A\\\\B\\nC.
# TYPE a_total counter
a_total 3
# HELP b_total B.
# TYPE b_total counter
b_total{reason=\"a\",host=\"\"} 2
b_total{reason=\"z\",host=\"q\\\"uo\\\\te\\n\"} 1
# HELP c C.
# TYPE c gauge
c -1.5
# HELP d D.
# TYPE d gauge
d +Inf
# HELP e_seconds E.
# TYPE e_seconds histogram
e_seconds_bucket{kind=\"x\",le=\"0.5\"} 1
e_seconds_bucket{kind=\"x\",le=\"1\"} 1
e_seconds_bucket{kind=\"x\",le=\"+Inf\"} 2
e_seconds_sum{kind=\"x\"} 2.25
e_seconds_count{kind=\"x\"} 2
# HELP f_total F.
# TYPE f_total counter
f_total 0.5
";
        assert_eq!(metrics.render(), expected);
    }

    #[test]
    fn a_name_registered_again_is_the_same_metric() {
        let metrics = Metrics::new();
        metrics.counter("a_total", "A.").increment();
        metrics.clone().counter("a_total", "A.").increment();
        assert!(metrics.render().ends_with("\na_total 2\n"));
    }

    #[test]
    #[should_panic(expected = "a_total is registered twice, differently")]
    fn a_name_cannot_have_two_kinds() {
        let metrics = Metrics::new();
        metrics.counter("a_total", "A.");
        metrics.gauge("a_total", "A.");
    }

    #[test]
    fn a_family_that_grows_too_large_counts_the_rest_together() {
        let metrics = Metrics::new();
        let family = metrics.counters("a_total", "A.", ["b"]);
        for number in 0..SERIES_MAX + 10 {
            family.with([&number.to_string()]).increment();
        }
        let page = metrics.render();
        assert!(page.contains("a_total{b=\"other\"} 10\n"));
        assert_eq!(page.lines().count(), 2 + SERIES_MAX + 1);
        // Those that were there first are still their own.
        family.with(["0"]).increment();
        assert_eq!(family.with(["0"]).value(), 2);
    }
}
