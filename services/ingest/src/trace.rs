//! The span of a request that publishes, and what its deliveries are told of it.

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, StatusCode};
use zyven_domain::event::TraceParent;
use zyven_domain::id::{EventId, TenantId};
use zyven_runtime::traces::{Attribute, OpenSpan, Side};

use crate::app::App;
use crate::problem::Code;

/// As traces name this service: `zyven-ingest`.
const SERVICE: &str = "ingest";
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What a request's header says. It is often a proxy's and not the publisher's, so a bad one is ignored, as W3C Trace
/// Context (section 3.2) demands.
pub(crate) fn of_request(headers: &HeaderMap) -> Option<TraceParent> {
    let text = headers.get(TRACEPARENT)?.to_str().ok()?;
    TraceParent::parse(text).ok()
}

/// The span of a request. Begins with it, and is placed when it is known below what it belongs, which decides whether it is
/// told at all. That is decided once: what the publisher wants of one event is not asked anew because it is refused.
pub(crate) struct RequestSpan {
    began: SystemTime,
    placed: Placed,
}

enum Placed {
    NotYet,
    Unwanted,
    Below(OpenSpan),
}

impl RequestSpan {
    /// One that begins now.
    pub(crate) fn begin() -> Self {
        Self {
            began: SystemTime::now(),
            placed: Placed::NotYet,
        }
    }

    /// Places it below what the publisher says, and puts it in the place of that: attempts follow the request. Nothing changes
    /// where nothing is traced, nor the second time.
    pub(crate) fn place(&mut self, app: &App, traceparent: &mut Option<TraceParent>) {
        if !matches!(self.placed, Placed::NotYet) {
            return;
        }
        let publishers = traceparent.as_ref().map(TraceParent::as_str);
        self.placed = match app.tracer.begin(SERVICE, publishers, self.began) {
            Some(span) => {
                *traceparent = TraceParent::parse(&span.traceparent()).ok();
                Placed::Below(span)
            }
            None => Placed::Unwanted,
        };
    }

    /// Ends it with the answer: its status, and the code of its problem if it is one.
    pub(crate) fn end(
        self,
        route: &'static str,
        (status, problem): (StatusCode, Option<Code>),
        tenant: Option<TenantId>,
        event: Option<EventId>,
    ) {
        let Placed::Below(span) = self.placed else {
            return;
        };
        let text = |text: &str| Attribute::Text(text.to_owned());
        let mut attributes = vec![
            ("http.request.method", text("POST")),
            ("http.route", text(route)),
            (
                "http.response.status_code",
                Attribute::Number(i64::from(status.as_u16())),
            ),
        ];
        attributes.extend(problem.map(|code| ("error.type", text(code.as_str()))));
        attributes.extend(tenant.map(|id| ("tenant.id", Attribute::Text(id.to_string()))));
        attributes.extend(event.map(|id| ("event.id", Attribute::Text(id.to_string()))));
        // Of servers only their own failures are failures (OpenTelemetry's conventions for HTTP).
        let failure = status.is_server_error().then(|| status.to_string());
        span.end("publish", Side::Server, attributes, failure);
    }
}
