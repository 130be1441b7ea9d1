//! Traces: one span for each request that publishes and one for each attempt, told to an OpenTelemetry collector.
//!
//! Off unless a collector is named. A span is the child of what the `traceparent` of its cause says: of the publisher's for a
//! request, of the request's for an attempt, which tells the receiver its own. Whether anything is told, the
//! publisher decides by the sampled flag; for who says nothing, a ratio does.
//!
//! Nobody ever waits for a collector: what finds the queue full, or cannot be sent, is counted and forgotten.

mod export;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc;

use crate::config::Source;
use crate::metrics::{Counter, Metrics};
use crate::pace;

pub use export::{Collector, Exporter, FLUSH_TIME_MAX};

/// Spans that wait for the collector at most: a second of work at the rate of one process, some MiB.
const QUEUE_SPANS_MAX: usize = 8_192;

/// Where traces go, and of how many.
#[derive(Debug, Clone, Default)]
pub struct Config {
    collector: Option<Collector>,
    ratio: Ratio,
}

impl Config {
    /// Reads `ZYVEN_OTLP_ENDPOINT` and `ZYVEN_TRACE_RATIO`.
    pub fn read(source: &mut Source) -> Option<Self> {
        let collector = source.optional(
            "ZYVEN_OTLP_ENDPOINT",
            "OpenTelemetry collector that traces are sent to (OTLP over HTTP, JSON), as http://host:port; empty: there are none",
        );
        let ratio = source.value(
            "ZYVEN_TRACE_RATIO",
            "share of events, 0 to 1, that are traced although their publisher sent no traceparent",
            Some("0"),
        );
        Some(Self {
            collector: collector?,
            ratio: ratio?,
        })
    }
}

/// A share from 0 to 1.
#[derive(Debug, Clone, Copy, Default)]
struct Ratio(f64);

impl FromStr for Ratio {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(Self(ratio)),
            Ok(_) | Err(_) => Err("must be a number from 0 to 1, such as 0.01"),
        }
    }
}

/// One place in a trace: a W3C `traceparent` of version 00.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    /// Those that are not known here are passed on as they came.
    flags: u8,
}

/// The flag "sampled" (W3C Trace Context, section 3.2.2.5.1).
const SAMPLED: u8 = 1;

impl FromStr for TraceContext {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fields: Vec<&str> = text.split('-').collect();
        let ["00", trace, span, flags] = fields[..] else {
            return Err(());
        };
        let has_form = [(trace, 32), (span, 16), (flags, 2)]
            .iter()
            .all(|(field, length)| field.len() == *length && is_lower_hex(field));
        let number = |field| u128::from_str_radix(field, 16).map_err(|_| ());
        let (trace_id, span_id) = (number(trace)?, number(span)?);
        if !has_form || trace_id == 0 || span_id == 0 {
            return Err(());
        }
        Ok(Self {
            trace_id,
            span_id: u64::try_from(span_id).map_err(|_| ())?,
            flags: u8::try_from(number(flags)?).map_err(|_| ())?,
        })
    }
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id, self.span_id, self.flags
        )
    }
}

/// Which side of a request a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It was received.
    Server,
    /// It was sent.
    Client,
}

/// What a span says beside its times.
#[derive(Debug, Clone)]
pub enum Attribute {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

/// What was done, from its beginning to its end.
#[derive(Debug)]
pub(crate) struct Span {
    service: &'static str,
    name: &'static str,
    side: Side,
    context: TraceContext,
    parent: Option<u64>,
    began: SystemTime,
    ended: SystemTime,
    attributes: Vec<(&'static str, Attribute)>,
    /// Why it failed, if it did.
    failure: Option<String>,
}

/// Begins spans. Cheap to clone; does nothing when there is no collector.
#[derive(Clone, Default)]
pub struct Tracer {
    on: Option<Arc<On>>,
}

struct On {
    queue: mpsc::Sender<Span>,
    ratio: f64,
    dropped: Counter,
}

/// A span that has not ended. One that is dropped was never there.
#[must_use = "only a span that ends is told"]
pub struct OpenSpan {
    on: Arc<On>,
    service: &'static str,
    context: TraceContext,
    parent: Option<u64>,
    began: SystemTime,
}

/// What begins spans, and what sends them, if they are wanted.
pub fn start(config: Config, metrics: &Metrics) -> (Tracer, Option<Exporter>) {
    let spans = |outcome| {
        metrics.counter(
            "zyven_trace_spans_total",
            "Spans by what became of them",
            &[("outcome", outcome)],
        )
    };
    let [sent, failed, dropped] = ["sent", "failed", "dropped"].map(spans);
    let Some(collector) = config.collector else {
        return (Tracer::default(), None);
    };
    let (sender, queue) = mpsc::channel(QUEUE_SPANS_MAX);
    let on = On {
        queue: sender,
        ratio: config.ratio.0,
        dropped,
    };
    let tracer = Tracer {
        on: Some(Arc::new(on)),
    };
    (tracer, Some(Exporter::new(collector, queue, sent, failed)))
}

impl Tracer {
    /// Whether anything is told at all: what is found out for a span alone need not be, otherwise.
    pub fn is_on(&self) -> bool {
        self.on.is_some()
    }

    /// Begins a span of `service` below the `traceparent` of what has caused it, if there is one; `None` where nothing
    /// is to be told.
    pub fn begin(
        &self,
        service: &'static str,
        traceparent: Option<&str>,
        began: SystemTime,
    ) -> Option<OpenSpan> {
        let on = self.on.as_ref()?;
        let parent = traceparent.and_then(|text| text.parse::<TraceContext>().ok());
        let is_wanted = match parent {
            Some(parent) => parent.flags & SAMPLED == SAMPLED,
            None => on.ratio > 0.0 && pace::chance() < on.ratio,
        };
        if !is_wanted {
            return None;
        }
        let context = TraceContext {
            trace_id: match parent {
                Some(parent) => parent.trace_id,
                None => u128::from(random()?) << 64 | u128::from(random()?),
            },
            span_id: random()?,
            flags: parent.map_or(SAMPLED, |parent| parent.flags),
        };
        Some(OpenSpan {
            on: Arc::clone(on),
            service,
            context,
            parent: parent.map(|parent| parent.span_id),
            began,
        })
    }
}

/// Any number but 0, which names nothing.
fn random() -> Option<u64> {
    getrandom::u64().ok().filter(|number| *number != 0)
}

impl OpenSpan {
    /// What its own children are told.
    pub fn traceparent(&self) -> String {
        self.context.to_string()
    }

    /// Ends it now. Waits for nobody.
    pub fn end(
        self,
        name: &'static str,
        side: Side,
        attributes: Vec<(&'static str, Attribute)>,
        failure: Option<String>,
    ) {
        let Self {
            on,
            service,
            context,
            parent,
            began,
        } = self;
        let span = Span {
            service,
            name,
            side,
            context,
            parent,
            began,
            ended: SystemTime::now(),
            attributes,
            failure,
        };
        if on.queue.try_send(span).is_err() {
            on.dropped.increment();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn tracer(ratio: &str) -> (Tracer, Exporter, Metrics) {
        let metrics = Metrics::default();
        let mut source = Source::from_pairs([
            ("ZYVEN_OTLP_ENDPOINT", "http://127.0.0.1:4318"),
            ("ZYVEN_TRACE_RATIO", ratio),
        ]);
        let config = Config::read(&mut source).expect("good settings");
        let (tracer, exporter) = start(config, &metrics);
        (tracer, exporter.expect("there is a collector"), metrics)
    }

    #[test]
    fn a_traceparent_survives_its_parsing_and_nothing_else_is_one() {
        for good in [
            TRACED,
            &TRACED.replace("-01", "-00"),
            &TRACED.replace("-01", "-03"),
        ] {
            let context: TraceContext = good.parse().expect("a traceparent");
            assert_eq!(context.to_string(), good);
        }
        for bad in [
            "",
            &TRACED.replace("00-", "01-"),
            &TRACED.replace("0af7", "0AF7"),
            &TRACED.replace("0af7", "+af7"),
            &TRACED.replace("b7ad6b7169203331", "0000000000000000"),
            &TRACED[1..],
            &format!("{TRACED}-"),
        ] {
            assert_eq!(bad.parse::<TraceContext>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn who_says_whether_to_sample_is_followed_and_the_ratio_is_for_the_others() {
        let unsampled = TRACED.replace("-01", "-00");
        for (ratio, is_rest_traced) in [("0", false), ("1", true)] {
            let (tracer, _exporter, _) = tracer(ratio);
            let begins = |traceparent| {
                let began = SystemTime::now();
                tracer.begin("test", traceparent, began).is_some()
            };
            assert!(begins(Some(TRACED)));
            assert!(!begins(Some(&unsampled)));
            assert_eq!(begins(None), is_rest_traced);
        }
        let off = Tracer::default();
        assert!(off.begin("test", Some(TRACED), SystemTime::now()).is_none());
    }

    #[test]
    fn a_child_is_in_its_parents_trace_and_has_an_id_of_its_own() {
        let (tracer, _exporter, _) = tracer("0");
        let span = tracer.begin("test", Some(TRACED), SystemTime::now());
        let span = span.expect("sampled");
        let parent: TraceContext = TRACED.parse().expect("a traceparent");
        let child: TraceContext = span.traceparent().parse().expect("a traceparent");
        assert_eq!(child.trace_id, parent.trace_id);
        assert_ne!(child.span_id, parent.span_id);
        assert_eq!(span.parent, Some(parent.span_id));
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (tracer, _exporter, metrics) = tracer("1");
        for _ in 0..QUEUE_SPANS_MAX + 3 {
            let span = tracer.begin("test", None, SystemTime::now());
            span.expect("all are")
                .end("x", Side::Client, Vec::new(), None);
        }
        let line = "zyven_trace_spans_total{outcome=\"dropped\"} 3";
        assert!(metrics.render().contains(line));
    }
}
