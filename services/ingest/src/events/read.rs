//! What became of an event.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, Request, State};
use chrono::{DateTime, TimeDelta, Utc};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
use zyven_domain::event::EventType;
use zyven_domain::id::{DeliveryId, EventId};
use zyven_domain::lifecycle::DeliveryState;
use zyven_store::EventSummary;

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::Caller;
use crate::deliveries::DeliveryView;
use crate::fields;
use crate::openapi::values;
use crate::pages::{self, Query};
use crate::problem::Problem;

/// An accepted fact.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Event")]
pub(super) struct EventView<'a> {
    #[schemars(with = "values::EventId")]
    id: EventId,
    #[serde(rename = "type")]
    #[schemars(with = "values::EventTypeName")]
    event_type: &'a str,
    #[schemars(with = "values::DeliveryStatus")]
    status: &'static str,
    /// To how many endpoints it goes.
    deliveries: i64,
    #[schemars(with = "Vec<values::Channel>")]
    channels: &'a [String],
    /// Where it comes from, in its publisher's words.
    #[schemars(example = &"billing")]
    source: Option<&'a str>,
    /// W3C Trace Context.
    #[schemars(example = &"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]
    traceparent: Option<&'a str>,
    accepted_at: DateTime<Utc>,
    /// No attempt begins earlier. Null: at once.
    deliver_at: Option<DateTime<Utc>>,
    /// No attempt begins later. Null: it does not expire.
    expires_at: Option<DateTime<Utc>>,
    /// Events with the same key reach an endpoint in order.
    #[schemars(example = &"INV-1001")]
    ordering_key: Option<&'a str>,
    /// What the payload is sent as.
    #[schemars(with = "values::ContentType")]
    content_type: &'a str,
    /// Any JSON value. The bytes as they were sent.
    #[schemars(example = shown_payload())]
    payload: &'a RawValue,
}

fn shown_payload() -> serde_json::Value {
    serde_json::json!({ "invoice": "INV-1001", "amount": 4200, "currency": "EUR" })
}

/// How far back `GET /v1/events` looks. The list is for following what arrives: nothing leads from a tenant to its events, so
/// further back the search would go through those of all others.
const RECENT: TimeDelta = TimeDelta::hours(1);
/// Who asks for the whole hour asks a moment later than they meant, by a clock of their own.
const RECENT_SLACK: TimeDelta = TimeDelta::minutes(1);

/// An event as it is listed: without its payload, and without the status that takes a look at all its deliveries.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EventItem")]
pub(super) struct EventItem<'a> {
    #[schemars(with = "values::EventId")]
    id: EventId,
    #[serde(rename = "type")]
    #[schemars(with = "values::EventTypeName")]
    event_type: &'a str,
    #[schemars(with = "Vec<values::Channel>")]
    channels: &'a [String],
    /// Where it comes from, in its publisher's words.
    #[schemars(example = &"billing")]
    source: Option<&'a str>,
    accepted_at: DateTime<Utc>,
    /// No attempt begins earlier. Null: at once.
    deliver_at: Option<DateTime<Utc>>,
    /// No attempt begins later. Null: it does not expire.
    expires_at: Option<DateTime<Utc>>,
    /// Events with the same key reach an endpoint in order.
    #[schemars(example = &"INV-1001")]
    ordering_key: Option<&'a str>,
    /// What its payload is sent as.
    #[schemars(with = "values::ContentType")]
    content_type: &'a str,
}

impl<'a> EventItem<'a> {
    fn of(event: &'a EventSummary) -> Self {
        Self {
            id: event.id,
            event_type: &event.event_type,
            channels: &event.channels,
            source: event.source.as_deref(),
            accepted_at: event.accepted_at,
            deliver_at: event.deliver_at,
            expires_at: event.expires_at,
            ordering_key: event.ordering_key.as_deref(),
            content_type: &event.content_type,
        }
    }
}

/// `GET /v1/events`: those of the last hour, the newest first.
pub(crate) async fn recent(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Answer, Problem> {
    let mut query = Query::of(&request);
    let limit = query.limit();
    let before = query.value::<EventId>("cursor");
    let earliest = Utc::now() - RECENT;
    let since = query.parsed("since", |text| match fields::moment(text) {
        Ok(since) if since < earliest - RECENT_SLACK => Err("must be within the last hour"),
        since => since,
    });
    let event_type = query.parsed("event_type", |text| {
        EventType::parse(text).map_err(|rule| rule.0)
    });
    query.finish()?;
    let since = since.map_or(earliest, |since| since.max(earliest));
    let _place = app.overviews.take(caller.tenant).await?;
    let events = app
        .store
        .events_of(
            caller.tenant,
            since,
            event_type.as_ref(),
            before,
            pages::asked(limit),
        )
        .await?;
    let (shown, next) = pages::cut(events, limit, |event| event.id.to_string());
    let views: Vec<EventItem<'_>> = shown.iter().map(EventItem::of).collect();
    Ok(pages::page(&views, next))
}

/// `GET /v1/events/{id}`
pub(crate) async fn event(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Answer, Problem> {
    let id = event_id(&id)?;
    let event = app
        .store
        .event_of(caller.tenant, id)
        .await?
        .ok_or_else(|| Problem::not_found("event"))?;
    let states = app.store.states_of_event(caller.tenant, id).await?;
    let payload = serde_json::from_slice::<&RawValue>(&event.payload)
        .map_err(|_| Problem::not_found("event"))?;
    let view = EventView {
        id,
        event_type: &event.event_type,
        status: status_of(&states).as_str(),
        deliveries: states.iter().map(|(_, count)| count).sum(),
        channels: &event.channels,
        source: event.source.as_deref(),
        traceparent: event.traceparent.as_deref(),
        accepted_at: event.accepted_at,
        deliver_at: event.deliver_at,
        expires_at: event.expires_at,
        ordering_key: event.ordering_key.as_deref(),
        content_type: &event.content_type,
        payload,
    };
    Ok(answer::value(StatusCode::OK, &view))
}

/// `GET /v1/events/{id}/deliveries`
pub(crate) async fn event_deliveries(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Answer, Problem> {
    let mut query = Query::of(&request);
    let limit = query.limit();
    let after = query.value::<DeliveryId>("cursor");
    query.finish()?;
    let id = event_id(&id)?;
    let deliveries = app
        .store
        .deliveries_of_event(caller.tenant, id, after, pages::asked(limit))
        .await?;
    // Only an event without deliveries needs a second look: is it there at all?
    if deliveries.is_empty() && app.store.event_of(caller.tenant, id).await?.is_none() {
        return Err(Problem::not_found("event"));
    }
    let (shown, next) = pages::cut(deliveries, limit, |delivery| delivery.id.to_string());
    let views: Vec<DeliveryView<'_>> = shown.iter().map(DeliveryView::of).collect();
    Ok(pages::page(&views, next))
}

/// What is not written as an id is the id of nothing.
pub(crate) fn event_id(text: &str) -> Result<EventId, Problem> {
    text.parse().map_err(|_| Problem::not_found("event"))
}

/// An event stands where its least finished delivery stands; once all are finished, a dead letter
/// outweighs any success. An event that nobody wanted stays RECEIVED.
fn status_of(states: &[(DeliveryState, i64)]) -> DeliveryState {
    use DeliveryState as S;
    let has = |state| {
        states
            .iter()
            .any(|(known, count)| *known == state && *count > 0)
    };
    let under_way = has(S::Dispatching) || has(S::RetryScheduled);
    let finished = has(S::Delivered) || has(S::DeadLettered);
    if has(S::Dispatching) || (has(S::Received) && (under_way || finished)) {
        S::Dispatching
    } else if has(S::RetryScheduled) {
        S::RetryScheduled
    } else if has(S::Received) || !finished {
        S::Received
    } else if has(S::DeadLettered) {
        S::DeadLettered
    } else {
        S::Delivered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_stands_where_its_deliveries_stand() {
        use DeliveryState as S;
        let check = |states: &[S], expected: S| {
            let counted: Vec<(S, i64)> = states.iter().map(|state| (*state, 1)).collect();
            assert_eq!(status_of(&counted), expected, "{states:?}");
        };
        for state in S::ALL {
            check(&[state], state);
        }
        check(&[], S::Received);
        check(&[S::Received, S::Delivered], S::Dispatching);
        check(&[S::Received, S::RetryScheduled], S::Dispatching);
        check(&[S::Dispatching, S::DeadLettered], S::Dispatching);
        check(&[S::RetryScheduled, S::Delivered], S::RetryScheduled);
        check(&[S::RetryScheduled, S::DeadLettered], S::RetryScheduled);
        check(&[S::Delivered, S::DeadLettered], S::DeadLettered);
    }
}
