//! Deliveries and their attempts, and sending dead letters back to the start.

pub(crate) mod operations;

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, Request, State};
use chrono::{DateTime, Utc};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use zyven_domain::event::EventType;
use zyven_domain::id::{DeliveryId, EndpointId, EventId};
use zyven_domain::lifecycle::DeliveryState;
use zyven_store::{Attempt, DeliveryFilter, DeliveryRecord, REPLAY_REASON_CHARS_MAX, Replayed};

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::Caller;
use crate::fields::{self, Members};
use crate::openapi::values;
use crate::pages::{self, Query};
use crate::problem::{Code, Problem};

/// One event for one endpoint.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Delivery")]
pub(crate) struct DeliveryView<'a> {
    #[schemars(with = "values::DeliveryId")]
    id: DeliveryId,
    #[schemars(with = "values::EventId")]
    event: EventId,
    /// Null once the event is no longer stored.
    #[schemars(with = "Option<values::EventTypeName>")]
    event_type: Option<&'a str>,
    #[schemars(with = "values::EndpointId")]
    endpoint: EndpointId,
    #[schemars(with = "values::DeliveryStatus")]
    status: &'static str,
    /// Why it was given up; null as long as it was not.
    #[schemars(with = "Option<values::DeadReason>")]
    reason: Option<&'a str>,
    /// 1, and one more for each replay.
    generation: i32,
    /// Those of this generation.
    attempts: i32,
    /// That of the last attempt, once the delivery is finished. Null if there was no answer.
    #[schemars(example = 200)]
    http_status: Option<i16>,
    created_at: DateTime<Utc>,
    /// No attempt begins earlier. Null if it may begin at once, or if there will be none.
    next_attempt_at: Option<DateTime<Utc>>,
    /// When it was delivered or given up.
    finished_at: Option<DateTime<Utc>>,
}

impl<'a> DeliveryView<'a> {
    pub(crate) fn of(delivery: &'a DeliveryRecord) -> Self {
        Self {
            id: delivery.id,
            event: delivery.event_id,
            event_type: delivery.event_type.as_deref(),
            endpoint: delivery.endpoint_id,
            status: delivery.state.as_str(),
            reason: delivery.reason.as_deref(),
            generation: delivery.generation,
            attempts: delivery.attempts,
            http_status: delivery.http_status,
            created_at: delivery.enqueued_at,
            next_attempt_at: delivery.next_attempt_at,
            finished_at: delivery.finished_at,
        }
    }
}

/// What every view of an attempt shows.
#[derive(Serialize, JsonSchema)]
pub(crate) struct AttemptFacts<'a> {
    /// Of which generation of its delivery it was.
    generation: i32,
    /// Counted anew in each generation, from 1.
    number: i32,
    /// Where the delivery stood after it.
    #[schemars(with = "values::DeliveryStatus")]
    status_after: &'static str,
    started_at: Option<DateTime<Utc>>,
    /// Null if there was no answer.
    #[schemars(example = 503)]
    http_status: Option<i16>,
    /// `timeout`, `dns`, `connect`, `tls`, `reset`, `protocol`, `oauth`, `egress_denied` or `invalid_url`; null if there was an answer.
    #[schemars(example = &"timeout")]
    error: Option<&'a str>,
    /// A sentence about the error.
    error_detail: Option<&'a str>,
    /// Microseconds until a connection was usable. Null if one was used again.
    connect_us: Option<i32>,
    /// Microseconds until the head of the answer.
    first_byte_us: Option<i32>,
    /// Microseconds in all.
    total_us: Option<i32>,
}

impl<'a> AttemptFacts<'a> {
    pub(crate) fn of(attempt: &'a Attempt) -> Self {
        Self {
            generation: attempt.generation,
            number: attempt.number,
            status_after: attempt.state_after.as_str(),
            started_at: attempt.started_at,
            http_status: attempt.http_status,
            error: attempt.error.as_deref(),
            error_detail: attempt.error_detail.as_deref(),
            connect_us: attempt.connect_us,
            first_byte_us: attempt.first_byte_us,
            total_us: attempt.total_us,
        }
    }
}

/// What is kept of an answer's body. Whatever is not UTF-8 is shown as U+FFFD.
pub(crate) fn response_body(attempt: &Attempt) -> Option<String> {
    let body = attempt.response_body.as_deref();
    body.map(|body| String::from_utf8_lossy(body).into_owned())
}

/// One signed request to an endpoint, and what came of it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Attempt")]
struct AttemptView<'a> {
    #[serde(flatten)]
    facts: AttemptFacts<'a>,
    /// At most 4 KiB of them.
    #[schemars(with = "Vec<values::HeaderLine>")]
    response_headers: Vec<(&'a str, &'a str)>,
    /// The first KiB, as text.
    response_body: Option<String>,
}

impl<'a> AttemptView<'a> {
    fn of(attempt: &'a Attempt) -> Self {
        let headers = attempt.response_headers.as_deref().unwrap_or_default();
        Self {
            facts: AttemptFacts::of(attempt),
            response_headers: headers
                .lines()
                .filter_map(|line| line.split_once(": "))
                .collect(),
            response_body: response_body(attempt),
        }
    }
}

/// Every attempt on record of a delivery.
#[derive(Serialize, JsonSchema)]
struct Attempts<'a> {
    /// The earliest first.
    data: Vec<AttemptView<'a>>,
}

/// A dead letter that was sent back to the start.
#[derive(Serialize, JsonSchema)]
struct ReplayedDelivery {
    #[schemars(with = "values::DeliveryId")]
    id: DeliveryId,
    #[schemars(with = "values::DeliveryStatus")]
    status: &'static str,
}

/// `GET /v1/deliveries`
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Answer, Problem> {
    let mut query = Query::of(&request);
    let limit = query.limit();
    let before = query.value::<DeliveryId>("cursor");
    let filter = DeliveryFilter {
        states: query.parsed("status", states).unwrap_or_default(),
        endpoint: query.value("endpoint"),
        event_type: query.parsed("event_type", |text| {
            EventType::parse(text).map_err(|rule| rule.0)
        }),
        dead_reason: query.parsed("dead_reason", fields::dead_reason),
        since: query.parsed("since", fields::moment),
        until: query.parsed("until", fields::moment),
    };
    query.finish()?;
    let deliveries = app
        .store
        .deliveries_of(caller.tenant, &filter, before, pages::asked(limit))
        .await?;
    let (shown, next) = pages::cut(deliveries, limit, |delivery| delivery.id.to_string());
    let views: Vec<DeliveryView<'_>> = shown.iter().map(DeliveryView::of).collect();
    Ok(pages::page(&views, next))
}

/// One state, or several with commas between them.
fn states(text: &str) -> Result<Vec<DeliveryState>, String> {
    text.split(',')
        .map(|name| name.parse::<DeliveryState>())
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

/// `GET /v1/deliveries/{id}`
pub(crate) async fn delivery(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Answer, Problem> {
    let delivery = find(&app, &caller, &id).await?;
    Ok(answer::value(StatusCode::OK, &DeliveryView::of(&delivery)))
}

/// `GET /v1/deliveries/{id}/attempts`
pub(crate) async fn attempts(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Answer, Problem> {
    let delivery = find(&app, &caller, &id).await?;
    let attempts = app.store.attempts_of(caller.tenant, delivery.id).await?;
    let data = attempts.iter().map(AttemptView::of).collect();
    Ok(answer::value(StatusCode::OK, &Attempts { data }))
}

/// `POST /v1/deliveries/{id}/replay`
pub(crate) async fn replay(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Answer, Problem> {
    let received = app.receive(request).await?;
    let mut members = Members::parse(received.text()?)?;
    let reason = members.text("reason", |text| {
        fields::reason(text, REPLAY_REASON_CHARS_MAX)
    });
    if reason.is_none() {
        members.missing("reason");
    }
    members.finish()?;
    let id = delivery_id(&id)?;
    let reason = reason.unwrap_or_default();
    match app
        .store_of(&caller)
        .replay(caller.tenant, id, &reason)
        .await?
    {
        Replayed::Queued => {
            app.bell.ring();
            let body = ReplayedDelivery {
                id,
                status: DeliveryState::Received.as_str(),
            };
            Ok(answer::value(StatusCode::ACCEPTED, &body))
        }
        Replayed::Refused(why) => Err(Problem::new(
            Code::NotReplayable,
            format!("Delivery {id} cannot be replayed: {why}."),
        )),
        Replayed::NotFound => Err(Problem::not_found("delivery")),
    }
}

async fn find(app: &App, caller: &Caller, id: &str) -> Result<DeliveryRecord, Problem> {
    app.store
        .delivery_of(caller.tenant, delivery_id(id)?)
        .await?
        .ok_or_else(|| Problem::not_found("delivery"))
}

pub(crate) fn delivery_id(text: &str) -> Result<DeliveryId, Problem> {
    text.parse().map_err(|_| Problem::not_found("delivery"))
}
