//! Spans on their way to the collector: OTLP over HTTP, in its JSON encoding.
//!
//! Shaped by hand after `ExportTraceServiceRequest` of OpenTelemetry's protocol: it is one request of one kind (ADR 0038).

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Attribute, Side, Span};
use crate::metrics::Counter;
use crate::shutdown::Shutdown;

/// Spans that are sent together at most.
const BATCH_SPANS_MAX: usize = 512;
/// How long the first span of a batch waits for others.
const BATCH_WAIT: Duration = Duration::from_secs(1);
/// How long the collector may take over a batch.
const SEND_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a process that stops tries to get rid of what it still has.
pub const FLUSH_TIME_MAX: Duration = Duration::from_secs(3);
/// Where collectors listen for OTLP over HTTP, if nothing else is said.
const PORT: u16 = 4318;
const PATH: &str = "/v1/traces";

/// Where a collector is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    host: String,
    port: u16,
    path: String,
}

impl FromStr for Collector {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "must be http://host:port, perhaps with a path; a collector beside Zyven takes it further with TLS";
        let uri: Uri = text.parse().map_err(|_| RULE)?;
        let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(RULE);
        };
        if authority.as_str().contains('@') || authority.host().is_empty() || uri.query().is_some()
        {
            return Err(RULE);
        }
        let path = uri.path().trim_end_matches('/');
        Ok(Self {
            host: authority.host().to_owned(),
            port: authority.port_u16().unwrap_or(PORT),
            path: if path.is_empty() { PATH } else { path }.to_owned(),
        })
    }
}

/// Sends spans until it is asked to stop.
pub struct Exporter {
    collector: Collector,
    queue: mpsc::Receiver<Span>,
    sent: Counter,
    failed: Counter,
    is_failing: bool,
}

impl Exporter {
    pub(super) const fn new(
        collector: Collector,
        queue: mpsc::Receiver<Span>,
        sent: Counter,
        failed: Counter,
    ) -> Self {
        Self {
            collector,
            queue,
            sent,
            failed,
            is_failing: false,
        }
    }

    /// Sends what comes, a batch at a time. When shutdown is requested, what there is: within [`FLUSH_TIME_MAX`] from then on, also if
    /// that comes while a batch is under way.
    pub async fn run(mut self, shutdown: Shutdown) {
        let mut batch = Vec::with_capacity(BATCH_SPANS_MAX);
        let mut end = pin!(async {
            shutdown.requested().await;
            sleep(FLUSH_TIME_MAX).await;
        });
        while self.gather(&mut batch, &shutdown).await {
            if self.send(&mut batch, end.as_mut()).await == Time::IsUp {
                return self.give_up();
            }
        }
        self.queue.close();
        loop {
            while batch.len() < BATCH_SPANS_MAX
                && let Ok(span) = self.queue.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                return;
            }
            if self.send(&mut batch, end.as_mut()).await == Time::IsUp {
                return self.give_up();
            }
        }
    }

    /// What is left did not arrive.
    fn give_up(mut self) {
        self.queue.close();
        while self.queue.try_recv().is_ok() {
            self.failed.increment();
        }
    }

    /// Fills a batch. False when shutdown is requested; what was gathered stays.
    async fn gather(&mut self, batch: &mut Vec<Span>, shutdown: &Shutdown) -> bool {
        let mut ends = None;
        while batch.len() < BATCH_SPANS_MAX {
            let missing = BATCH_SPANS_MAX - batch.len();
            // Both may be dropped at any await: what was not received stays in the queue.
            tokio::select! {
                biased;
                () = shutdown.requested() => return false,
                received = receive(&mut self.queue, batch, missing, ends) => match received {
                    Received::Some => ends = ends.or(Some(Instant::now() + BATCH_WAIT)),
                    Received::TimeIsUp => return true,
                    Received::NoMore => return false,
                },
            }
        }
        true
    }

    /// Sends a batch, unless `end` comes before the answer. Not to be called again after that.
    async fn send(
        &mut self,
        batch: &mut Vec<Span>,
        end: Pin<&mut impl Future<Output = ()>>,
    ) -> Time {
        let count = batch.len() as u64;
        let body = request_body(batch);
        batch.clear();
        // Dropped, a request is given up, and counts as one that failed.
        let (outcome, time) = tokio::select! {
            outcome = timeout(SEND_TIME_MAX, post(&self.collector, body)) => (outcome.ok(), Time::Remains),
            () = end => (None, Time::IsUp),
        };
        let failure = match outcome {
            Some(Ok(())) => None,
            Some(Err(failure)) => Some(failure),
            None => Some("no answer in time".to_owned()),
        };
        match &failure {
            None => self.sent.add(count),
            Some(_) => self.failed.add(count),
        }
        // Said once, and not again for each batch of an outage.
        match (&failure, self.is_failing) {
            (Some(failure), false) => {
                tracing::warn!(failure, "traces do not reach the collector");
            }
            (None, true) => tracing::info!("traces reach the collector again"),
            (Some(_), true) | (None, false) => {}
        }
        self.is_failing = failure.is_some();
        time
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Time {
    Remains,
    IsUp,
}

enum Received {
    Some,
    TimeIsUp,
    NoMore,
}

async fn receive(
    queue: &mut mpsc::Receiver<Span>,
    batch: &mut Vec<Span>,
    spans_max: usize,
    ends: Option<Instant>,
) -> Received {
    let received = match ends {
        None => queue.recv_many(batch, spans_max).await,
        Some(ends) => match timeout_at(ends, queue.recv_many(batch, spans_max)).await {
            Ok(received) => received,
            Err(_) => return Received::TimeIsUp,
        },
    };
    if received == 0 {
        Received::NoMore
    } else {
        Received::Some
    }
}

/// One request on a connection of its own: there is one a second at most, unless a batch is full.
async fn post(collector: &Collector, body: String) -> Result<(), String> {
    let Collector { host, port, path } = collector;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((bare, *port)).await;
    let stream = TokioIo::new(stream.map_err(|error| error.to_string())?);
    let (mut sender, connection) = http1::handshake(stream)
        .await
        .map_err(|error| error.to_string())?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, format!("{host}:{port}"))
        .header(CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(|error| error.to_string())?;
    // Aborted with the set, when the answer is here or nobody waits for it any more.
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let answer = sender.send_request(request).await;
    let status = answer.map_err(|error| error.to_string())?.status();
    if status.is_success() {
        Ok(())
    } else {
        Err(format!("the answer was {status}"))
    }
}

/// The spans as an `ExportTraceServiceRequest`, one resource for each service.
pub(super) fn request_body(spans: &[Span]) -> String {
    let mut services: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for span in spans {
        services.entry(span.service).or_default().push(shown(span));
    }
    let resources: Vec<Value> = (services.into_iter())
        .map(|(service, spans)| {
            let name = format!("zyven-{service}");
            let version = env!("CARGO_PKG_VERSION");
            json!({
                "resource": { "attributes": [text("service.name", &name), text("service.version", version)] },
                "scopeSpans": [{ "scope": { "name": name, "version": version }, "spans": spans }],
            })
        })
        .collect();
    json!({ "resourceSpans": resources }).to_string()
}

fn shown(span: &Span) -> Value {
    let attributes: Vec<Value> = (span.attributes.iter())
        .map(|(name, attribute)| match attribute {
            Attribute::Text(value) => text(name, value),
            // 64-bit numbers are texts in this encoding.
            Attribute::Number(value) => {
                json!({ "key": name, "value": { "intValue": value.to_string() } })
            }
        })
        .collect();
    let kind = match span.side {
        Side::Server => 2,
        Side::Client => 3,
    };
    let mut shown = json!({
        "traceId": format!("{:032x}", span.context.trace_id),
        "spanId": format!("{:016x}", span.context.span_id),
        "name": span.name,
        "kind": kind,
        "startTimeUnixNano": nanoseconds(span.began),
        "endTimeUnixNano": nanoseconds(span.ended),
        "attributes": attributes,
    });
    if let Some(parent) = span.parent {
        shown["parentSpanId"] = json!(format!("{parent:016x}"));
    }
    if let Some(failure) = &span.failure {
        shown["status"] = json!({ "code": 2, "message": failure });
    }
    shown
}

fn text(name: &str, value: &str) -> Value {
    json!({ "key": name, "value": { "stringValue": value } })
}

fn nanoseconds(moment: SystemTime) -> String {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_a_host_and_has_defaults() {
        let collector = |text: &str| text.parse::<Collector>();
        let expect = |text, host: &str, port, path: &str| {
            let expected = Collector {
                host: host.to_owned(),
                port,
                path: path.to_owned(),
            };
            assert_eq!(collector(text), Ok(expected), "{text}");
        };
        expect("http://collector", "collector", 4318, "/v1/traces");
        expect("http://collector:80/", "collector", 80, "/v1/traces");
        expect(
            "http://[::1]:4318/otlp/v1/traces",
            "[::1]",
            4318,
            "/otlp/v1/traces",
        );
        for bad in [
            "",
            "collector:4318",
            "https://collector",
            "http://",
            "http://u:p@collector",
            "http://collector?a=b",
        ] {
            assert!(collector(bad).is_err(), "{bad}");
        }
    }
}
