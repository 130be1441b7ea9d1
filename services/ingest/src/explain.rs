//! Why an event reached an endpoint or did not, and what a delivery waits for (ADR 0032).
//!
//! PostgreSQL says nearly all of it. What only Redis knows (a ticket's place in its lane, breakers, rates) is
//! asked for where this process has been told where Redis is, within [`lanes::LANES_TIME_MAX`]; otherwise the answer says
//! that it is not known.

mod lanes;
pub(crate) mod operations;

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, Request, State};
use chrono::{DateTime, Utc};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use zyven_domain::id::{DeliveryId, EndpointId, EventId};
use zyven_store::{Attempt, ExplainedDelivery, ExplainedEvent, ExplainedLease, Explanation};

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::Caller;
use crate::deliveries::{AttemptFacts, delivery_id, response_body};
use crate::events::event_id;
use crate::openapi::values;
use crate::pages::{self, Query};
use crate::problem::Problem;
use lanes::{LaneView, Lanes, Waits};

/// An event as far as it decides who gets it, and when.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ExplainedEvent")]
struct EventView<'a> {
    #[schemars(with = "values::EventId")]
    id: EventId,
    #[serde(rename = "type")]
    #[schemars(with = "values::EventTypeName")]
    event_type: &'a str,
    #[schemars(with = "Vec<values::Channel>")]
    channels: &'a [String],
    accepted_at: DateTime<Utc>,
    /// No attempt begins earlier. Null: at once.
    deliver_at: Option<DateTime<Utc>>,
    /// No attempt begins later. Null: it does not expire.
    expires_at: Option<DateTime<Utc>>,
    #[schemars(example = &"INV-1001")]
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

/// Why an event reached an endpoint or did not.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Explanation")]
struct ExplanationView<'a> {
    #[schemars(with = "values::EndpointId")]
    endpoint: EndpointId,
    #[schemars(example = &"https://receiver.example.com/hooks")]
    url: &'a str,
    matched: bool,
    #[schemars(with = "values::ExplanationCode")]
    code: &'a str,
    /// Why, for people.
    #[schemars(example = &"The event was routed to this endpoint.")]
    sentence: &'a str,
    /// What it is known from: `record`, `unchanged_configuration` or `present_configuration`.
    #[schemars(example = &"record")]
    judged_by: &'a str,
    endpoint_updated_at: DateTime<Utc>,
    /// The endpoint's patterns as they are now.
    #[schemars(example = &["invoice.*"])]
    event_types: &'a [String],
    /// Its channels now. Empty: every event.
    #[schemars(with = "Vec<values::Channel>")]
    channels: &'a [String],
    /// Its filter now. Null: every payload.
    #[schemars(example = &"$.amount > 1000")]
    filter: Option<&'a str>,
    /// Null: there is none.
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
            event_types: &explanation.event_types,
            channels: &explanation.channels,
            filter: explanation.filter.as_deref(),
            delivery: (explanation.delivery.as_ref())
                .map(|delivery| DeliveryView::of(delivery, lanes)),
        }
    }
}

/// What a delivery waits for.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ExplainedDelivery")]
struct DeliveryView<'a> {
    #[schemars(with = "values::DeliveryId")]
    id: DeliveryId,
    #[schemars(with = "values::DeliveryStatus")]
    status: &'static str,
    /// What it waits for, for programs. Of one that is finished: `delivered`, or why it was given up.
    #[schemars(example = &"in_lane")]
    code: &'a str,
    /// The same for people.
    #[schemars(example = &"It is due, and a dispatcher will take it.")]
    sentence: &'a str,
    /// 1, and one more for each replay.
    generation: i32,
    /// Those of this generation.
    attempts: i32,
    created_at: DateTime<Utc>,
    /// No attempt begins earlier. Null if nothing but `code` keeps it.
    next_attempt_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    /// When a success arrived after it had been given up.
    resolved_at: Option<DateTime<Utc>>,
    /// The first unfinished delivery with its ordering key.
    #[schemars(with = "Option<values::DeliveryId>")]
    waits_for: Option<DeliveryId>,
    /// Null: nobody attempts it.
    lease: Option<LeaseView>,
    /// What Redis knows. Null: it could not be asked, or need not be.
    lane: Option<LaneView>,
    /// The latest first.
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

/// The right to make an attempt.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Lease")]
struct LeaseView {
    /// Who has it, as its log names it.
    dispatcher: Option<String>,
    /// It may have begun earlier.
    since_at_latest: DateTime<Utc>,
    /// When another one may take it.
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
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ExplainedAttempt")]
struct AttemptView<'a> {
    #[serde(flatten)]
    facts: AttemptFacts<'a>,
    /// As text.
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

/// Why an event reached each endpoint or did not: a page of them.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EventExplanation")]
struct EventAnswer<'a> {
    event: EventView<'a>,
    /// Whether Redis could be asked: `known`, `not_needed`, `away` or `not_configured`.
    #[schemars(example = &"known")]
    queue: &'static str,
    data: Vec<ExplanationView<'a>>,
    /// Send as `cursor` for the next page; null on the last one.
    next_cursor: Option<String>,
}

/// Why there is a delivery, and what it waits for.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DeliveryExplanation")]
struct DeliveryAnswer<'a> {
    /// Null once it is no longer stored.
    event: Option<EventView<'a>>,
    /// Whether Redis could be asked: `known`, `not_needed`, `away` or `not_configured`.
    #[schemars(example = &"known")]
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
    let _place = app.overviews.take(caller.tenant).await?;
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
