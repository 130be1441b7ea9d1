//! The span of an attempt, and what the receiver is told of it.

use std::time::SystemTime;

use zyven_domain::retry::{Outcome, Verdict};
use zyven_runtime::traces::{Attribute, OpenSpan, Side, Tracer};
use zyven_store::ClaimedDelivery;

use crate::attempt::Attempt;
use crate::client::error_class;

/// As traces name this service: `zyven-dispatcher`.
const SERVICE: &str = "dispatcher";

/// Begins it below the request that published the event, or whatever came with the event instead. Whether an event
/// that came with nothing is traced, ingest has decided: a second draw would give each attempt a trace of its own.
pub(crate) fn begin(tracer: &Tracer, delivery: &ClaimedDelivery) -> Option<OpenSpan> {
    let traceparent = delivery.traceparent.as_deref()?;
    tracer.begin(SERVICE, Some(traceparent), SystemTime::now())
}

/// Ends it with what came of the attempt. It failed if the endpoint did not take the delivery.
pub(crate) fn end(
    span: OpenSpan,
    attempt: &Attempt,
    status: Option<u16>,
    outcome: &Outcome,
    verdict: &Verdict,
) {
    let delivery = &attempt.delivery;
    let text = |value: String| Attribute::Text(value);
    let mut attributes = vec![
        ("tenant.id", text(delivery.tenant_id.to_string())),
        ("event.id", text(delivery.event_id.to_string())),
        ("delivery.id", text(delivery.delivery_id.to_string())),
        ("endpoint.id", text(delivery.endpoint_id.to_string())),
        (
            "attempt.number",
            Attribute::Number(i64::from(delivery.attempt)),
        ),
        ("server.address", text(attempt.destination.host.clone())),
        ("http.request.method", text("POST".to_owned())),
    ];
    attributes.extend(status.map(|status| {
        let status = Attribute::Number(i64::from(status));
        ("http.response.status_code", status)
    }));
    let failure = match (verdict, outcome) {
        (Verdict::Delivered, _) => None,
        (_, Outcome::Answered { status, .. }) => Some(format!("the endpoint answered {status}")),
        (_, failed) => error_class(failed).map(str::to_owned),
    };
    span.end("attempt", Side::Client, attributes, failure);
}
