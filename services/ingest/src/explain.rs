//! Why an event reached an endpoint or did not, and what a delivery waits for (ADR 0032).
//!
//! PostgreSQL says nearly all of it. What only Redis knows (a ticket's place in its lane, breakers, rates) is
//! asked for where this process has been told where Redis is, within [`lanes::LANES_TIME_MAX`]; otherwise the answer says
//! that it is not known.

mod lanes;

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, Request, State};
use chrono::{DateTime, Utc};
use http::StatusCode;
use serde::Serialize;
use zyven_domain::id::{DeliveryId, EndpointId, EventId};
use zyven_store::{Attempt, ExplainedDelivery, ExplainedEvent, ExplainedLease, Explanation};

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::Caller;
use crate::deliveries::{AttemptFacts, delivery_id, response_body};
use crate::events::event_id;
use crate::overview;
use crate::pages::{self, Query};
use crate::problem::Problem;
use lanes::{LaneView, Lanes, Waits};

#[derive(Serialize)]
struct EventView<'a> {
    id: EventId,
    #[serde(rename = "type")]
    event_type: &'a str,
    channels: &'a [String],
    accepted_at: DateTime<Utc>,
    deliver_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    ordering_key: Option<&'a str>,
}

impl<'a> EventView<'a> {
    fn of(event: &'a ExplainedEvent) -> Self {
        Self {
            id: event.id,
            event_type: &event.event_type,
            channels: &event.channels,
            accepted_at: event.accepted_at,
            deliver_at: event.deliver_at,
            expires_at: event.expires_at,
            ordering_key: event.ordering_key.as_deref(),
        }
    }
}

#[derive(Serialize)]
struct ExplanationView<'a> {
    endpoint: EndpointId,
    url: &'a str,
    matched: bool,
    code: &'a str,
    sentence: &'a str,
    judged_by: &'a str,
    endpoint_updated_at: DateTime<Utc>,
    delivery: Option<DeliveryView<'a>>,
}

impl<'a> ExplanationView<'a> {
    fn of(explanation: &'a Explanation, lanes: &Lanes) -> Self {
        Self {
            endpoint: explanation.endpoint_id,
            url: &explanation.url,
            matched: explanation.matched,
            code: &explanation.code,
            sentence: &explanation.sentence,
            judged_by: &explanation.judged_by,
            endpoint_updated_at: explanation.endpoint_updated_at,
            delivery: (explanation.delivery.as_ref())
                .map(|delivery| DeliveryView::of(delivery, lanes)),
        }
    }
}

#[derive(Serialize)]
struct DeliveryView<'a> {
    id: DeliveryId,
    status: &'static str,
    code: &'a str,
    sentence: &'a str,
    generation: i32,
    attempts: i32,
    created_at: DateTime<Utc>,
    next_attempt_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    resolved_at: Option<DateTime<Utc>>,
    waits_for: Option<DeliveryId>,
    lease: Option<LeaseView>,
    lane: Option<LaneView>,
    last_attempts: Vec<AttemptView<'a>>,
}

impl<'a> DeliveryView<'a> {
    fn of(delivery: &'a ExplainedDelivery, lanes: &Lanes) -> Self {
        let lane = lanes.of(delivery);
        let Waits {
            code,
            sentence,
            next_attempt_at,
        } = Waits::of(delivery, lane, lanes.asked_at);
        Self {
            id: delivery.id,
            status: delivery.state.as_str(),
            code,
            sentence,
            generation: delivery.generation,
            attempts: delivery.attempts,
            created_at: delivery.enqueued_at,
            next_attempt_at,
            finished_at: delivery.finished_at,
            resolved_at: delivery.resolved_at,
            waits_for: delivery.waits_for,
            lease: delivery.lease.as_ref().map(LeaseView::of),
            lane: lane.map(|lane| LaneView::of(lane, lanes.asked_at)),
            last_attempts: delivery.last_attempts.iter().map(AttemptView::of).collect(),
        }
    }
}

#[derive(Serialize)]
struct LeaseView {
    dispatcher: Option<String>,
    /// It may have begun earlier.
    since_at_latest: DateTime<Utc>,
    until: DateTime<Utc>,
}

impl LeaseView {
    fn of(lease: &ExplainedLease) -> Self {
        Self {
            dispatcher: lease.dispatcher.map(|number| number.to_string()),
            since_at_latest: lease.since_max,
            until: lease.until,
        }
    }
}

/// As in the list of attempts, without headers and with the start of the body.
#[derive(Serialize)]
struct AttemptView<'a> {
    #[serde(flatten)]
    facts: AttemptFacts<'a>,
    response_body_start: Option<String>,
}

impl<'a> AttemptView<'a> {
    fn of(attempt: &'a Attempt) -> Self {
        Self {
            facts: AttemptFacts::of(attempt),
            response_body_start: response_body(attempt),
        }
    }
}

#[derive(Serialize)]
struct EventAnswer<'a> {
    event: EventView<'a>,
    queue: &'static str,
    data: Vec<ExplanationView<'a>>,
    next_cursor: Option<String>,
}

#[derive(Serialize)]
struct DeliveryAnswer<'a> {
    event: Option<EventView<'a>>,
    queue: &'static str,
    #[serde(flatten)]
    explanation: ExplanationView<'a>,
}

/// `GET /v1/events/{id}/explain`: a page of the tenant's endpoints.
pub(crate) async fn event(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Answer, Problem> {
    let mut query = Query::of(&request);
    let limit = query.limit();
    let after = query.value::<EndpointId>("cursor");
    query.finish()?;
    let id = event_id(&id)?;
    let _place = overview::place(&app).await?;
    let (event, explanations) = app
        .store
        .explain_event(caller.tenant, id, after, pages::asked(limit))
        .await?
        .ok_or_else(|| Problem::not_found("event"))?;
    let (shown, next_cursor) = pages::cut(explanations, limit, |explanation| {
        explanation.endpoint_id.to_string()
    });
    let lanes = Lanes::ask(app.queue.as_ref(), caller.tenant, &shown).await;
    let answer = EventAnswer {
        event: EventView::of(&event),
        queue: lanes.known(),
        data: (shown.iter())
            .map(|explanation| ExplanationView::of(explanation, &lanes))
            .collect(),
        next_cursor,
    };
    Ok(answer::value(StatusCode::OK, &answer))
}

/// `GET /v1/deliveries/{id}/explain`
pub(crate) async fn delivery(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Answer, Problem> {
    let (event, explanation) = app
        .store
        .explain_delivery(caller.tenant, delivery_id(&id)?)
        .await?
        .ok_or_else(|| Problem::not_found("delivery"))?;
    let explanations = std::slice::from_ref(&explanation);
    let lanes = Lanes::ask(app.queue.as_ref(), caller.tenant, explanations).await;
    let answer = DeliveryAnswer {
        event: event.as_ref().map(EventView::of),
        queue: lanes.known(),
        explanation: ExplanationView::of(&explanation, &lanes),
    };
    Ok(answer::value(StatusCode::OK, &answer))
}
