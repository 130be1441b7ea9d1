//! Deliveries and their attempts, and sending dead letters back to the start.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, Request, State};
use chrono::{DateTime, Utc};
use http::StatusCode;
use serde::Serialize;
use zyven_domain::event::EventType;
use zyven_domain::id::{DeliveryId, EndpointId, EventId};
use zyven_domain::lifecycle::DeliveryState;
use zyven_store::{Attempt, DeliveryFilter, DeliveryRecord, REPLAY_REASON_CHARS_MAX, Replayed};

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::Caller;
use crate::body;
use crate::fields::{self, Members};
use crate::pages::{self, Query};
use crate::problem::{Code, Problem};

#[derive(Serialize)]
pub(crate) struct DeliveryView<'a> {
    id: DeliveryId,
    event: EventId,
    event_type: Option<&'a str>,
    endpoint: EndpointId,
    status: &'static str,
    reason: Option<&'a str>,
    generation: i32,
    attempts: i32,
    http_status: Option<i16>,
    created_at: DateTime<Utc>,
    next_attempt_at: Option<DateTime<Utc>>,
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
#[derive(Serialize)]
pub(crate) struct AttemptFacts<'a> {
    generation: i32,
    number: i32,
    status_after: &'static str,
    started_at: Option<DateTime<Utc>>,
    http_status: Option<i16>,
    error: Option<&'a str>,
    error_detail: Option<&'a str>,
    connect_us: Option<i32>,
    first_byte_us: Option<i32>,
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

#[derive(Serialize)]
struct AttemptView<'a> {
    #[serde(flatten)]
    facts: AttemptFacts<'a>,
    response_headers: Vec<(&'a str, &'a str)>,
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
        since: query.parsed("since", fields::moment),
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
    let views: Vec<AttemptView<'_>> = attempts.iter().map(AttemptView::of).collect();
    Ok(answer::value(
        StatusCode::OK,
        &serde_json::json!({ "data": views }),
    ))
}

/// `POST /v1/deliveries/{id}/replay`
pub(crate) async fn replay(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Answer, Problem> {
    let (head, body) = request.into_parts();
    let received = body::receive(&head.headers, body, app.body_allowed(), &app.room).await?;
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
            let body = serde_json::json!({ "id": id, "status": DeliveryState::Received.as_str() });
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
