//! The span of a request that publishes, and what its deliveries are told of it.

use std::time::SystemTime;

use http::StatusCode;
use zyven_domain::event::TraceParent;
use zyven_domain::id::{EventId, TenantId};
use zyven_runtime::traces::{Attribute, OpenSpan, Side};

use crate::app::App;

/// As traces name this service: `zyven-ingest`.
const SERVICE: &str = "ingest";

/// Begins it below what the publisher says, and puts it in the place of that: attempts follow the request.
/// Nothing changes where nothing is traced.
pub(crate) fn begin(
    app: &App,
    traceparent: &mut Option<TraceParent>,
    began: SystemTime,
) -> Option<OpenSpan> {
    let publishers = traceparent.as_ref().map(TraceParent::as_str);
    let span = app.tracer.begin(SERVICE, publishers, began)?;
    *traceparent = TraceParent::parse(&span.traceparent()).ok();
    Some(span)
}

/// Ends it with the answer.
pub(crate) fn end(
    span: OpenSpan,
    route: &'static str,
    status: StatusCode,
    tenant: Option<TenantId>,
    event: Option<EventId>,
) {
    let mut attributes = vec![
        ("http.request.method", Attribute::Text("POST".to_owned())),
        ("http.route", Attribute::Text(route.to_owned())),
        (
            "http.response.status_code",
            Attribute::Number(i64::from(status.as_u16())),
        ),
    ];
    attributes.extend(tenant.map(|id| ("tenant.id", Attribute::Text(id.to_string()))));
    attributes.extend(event.map(|id| ("event.id", Attribute::Text(id.to_string()))));
    // Of servers only their own failures are failures (OpenTelemetry's conventions for HTTP).
    let failure = status.is_server_error().then(|| status.to_string());
    span.end("publish", Side::Server, attributes, failure);
}
