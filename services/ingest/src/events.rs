//! Accepting events: one, or a batch.

mod answers;
mod binary_mode;
mod check;
mod draft;
mod items;
pub(crate) mod operations;
mod read;

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use hyper::body::Body;
use zyven_domain::api_key::Scope;
use zyven_domain::event::{IdempotencyKey, TraceParent};
use zyven_domain::id::EventId;
use zyven_domain::lifecycle::DeliveryState;
use zyven_store::{Accepted, NewEvent};

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::Caller;
use crate::batcher::Refusal;
use crate::body::{self, Format, Share, Takes};
use crate::exchange::Trail;
use crate::fields::Members;
use crate::problem::{Code, FieldError, Problem};
use crate::rates::Counted;
use crate::router::PUBLISH_BATCH;
use crate::trace::{self, RequestSpan};

pub(crate) use read::{event, event_deliveries, event_id, recent};

use answers::{AcceptedEvent, BatchItem, BatchOutcome, RepeatedEvent};
use draft::Draft;
use items::Items;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// `POST /v1/events`. Called by the exchange itself: the one request that comes thousands of times a
/// second has no router, no layers and no extensions to pay for.
pub(crate) async fn publish<B>(
    app: &App,
    headers: &HeaderMap,
    body: B,
    trail: &mut Trail,
    span: &mut RequestSpan,
) -> Result<Answer, Problem>
where
    B: Body<Data = Bytes> + Unpin,
{
    let caller = app.keys.authenticate(headers, Some(Scope::Publish)).await?;
    trail.tenant = Some(caller.tenant);
    trail.limit = app.rates.limit(&caller, Counted::Events);
    let published = accept(app, &caller, headers, body, trail, span).await;
    if published.is_err() && app.tracer.is_on() {
        // It was refused before its event was found in it.
        span.place(app, &mut trace::of_request(headers));
    }
    published
}

/// The same for a caller who may.
async fn accept<B>(
    app: &App,
    caller: &Caller,
    headers: &HeaderMap,
    body: B,
    trail: &mut Trail,
    span: &mut RequestSpan,
) -> Result<Answer, Problem>
where
    B: Body<Data = Bytes> + Unpin,
{
    app.rates.take(trail.limit.as_ref())?;
    let takes = if binary_mode::is_meant(headers) {
        Takes::Data
    } else {
        Takes::Event
    };
    let received = body::receive(headers, body, app.event_allowed(takes), &app.room).await?;
    let bytes_max = app.config.limits.body_bytes_max;
    let received = match takes {
        Takes::Data => {
            let unfolded = binary_mode::unfold(headers, &received, bytes_max, &app.room)?;
            drop(received);
            unfolded
        }
        Takes::Json | Takes::Event | Takes::Batch => received,
    };
    let text = received.text()?;
    let mut members = Members::parse(text)?;
    let draft = Draft::read(received.format, text, &mut members, bytes_max);
    let key = header_key(headers, &mut members);
    let draft = draft.filter(|_| members.is_right());
    let Some(mut draft) = draft else {
        place_refused(app, text, span);
        let errors = members.into_errors().into_iter();
        return Err(Problem::invalid(match takes {
            Takes::Data => errors.map(binary_mode::as_sent).collect(),
            Takes::Json | Takes::Event | Takes::Batch => errors.collect(),
        }));
    };
    match (&draft.key, key) {
        // A CloudEvent has no such member: its key is made of what identifies it.
        (Some(member), Some(header)) if received.format == Format::Json && *member != header => {
            place_refused(app, text, span);
            return Err(Problem::one_invalid(
                "idempotency_key",
                "must be the same as the header Idempotency-Key if both are sent",
            ));
        }
        (_, Some(header)) => draft.key = Some(header),
        (_, None) => {}
    }
    let request_trace = trace::of_request(headers);
    let mut event = draft.into_event(caller.tenant, &received.bytes, request_trace.as_ref());
    span.place(app, &mut event.traceparent);
    let (id, event_type) = (event.id, event.event_type.clone());
    let events = vec![event];
    let warnings = check::schemas(app, caller, &events, |_| String::new()).await?;
    let results = store(app, events, received.share).await?;
    let result = results.first().copied().ok_or_else(|| internal(0))?;
    trail.event = Some(match result {
        Accepted::New { .. } => id,
        Accepted::Repeated { first } | Accepted::Conflict { first } => first,
    });
    let warnings = warnings.first().map_or(&[][..], Vec::as_slice);
    acknowledge(id, event_type.as_str(), result, warnings)
}

fn acknowledge(
    id: EventId,
    event_type: &str,
    result: Accepted,
    warnings: &[FieldError],
) -> Result<Answer, Problem> {
    let status = DeliveryState::Received.as_str();
    match result {
        Accepted::New { deliveries } => {
            let body = AcceptedEvent {
                id,
                status,
                r#type: event_type,
                deliveries,
                schema_warnings: warnings,
            };
            Ok(answer::value(StatusCode::ACCEPTED, &body))
        }
        Accepted::Repeated { first } => {
            let body = RepeatedEvent {
                id: first,
                status,
                r#type: event_type,
                repeated: true,
            };
            let mut answer = answer::value(StatusCode::OK, &body);
            answer
                .headers_mut()
                .insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
            Ok(answer)
        }
        Accepted::Conflict { first } => Err(Problem::new(
            Code::IdempotencyConflict,
            format!("The key was used for event {first}, which has another body."),
        )),
    }
}

/// `POST /v1/events/batch`: everything or nothing is stored; a used key is one item's own affair.
pub(crate) async fn publish_batch(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Answer, Problem> {
    let (head, body) = request.into_parts();
    let mut trace = trace::of_request(&head.headers);
    let mut span = RequestSpan::begin();
    span.place(&app, &mut trace);
    let published = accept_batch(&app, &caller, &head.headers, body, trace).await;
    let outcome = match &published {
        Ok(answer) => (answer.status(), None),
        Err(problem) => (problem.code.status(), Some(problem.code)),
    };
    span.end(PUBLISH_BATCH, outcome, Some(caller.tenant), None);
    published
}

/// The same, below the request's own span; events with a trace of their own are not.
async fn accept_batch(
    app: &App,
    caller: &Caller,
    headers: &HeaderMap,
    body: axum::body::Body,
    trace: Option<TraceParent>,
) -> Result<Answer, Problem> {
    let received = body::receive(headers, body, app.batch_allowed(), &app.room).await?;
    let limits = &app.config.limits;
    let items = Items::split(received.text()?, received.format, limits.batch_events_max)?;
    let drafts = items.drafts(limits.body_bytes_max)?;
    // One was taken when the request came in.
    let limit = app.rates.limit(caller, Counted::Events);
    let more = drafts.len().saturating_sub(1);
    app.rates.take_more(limit.as_ref(), more)?;
    if headers.contains_key(IDEMPOTENCY_KEY) {
        let rule = match received.format {
            Format::CloudEvents => {
                "is for single events; in a batch source and id of each CloudEvent are its key"
            }
            Format::Json | Format::Lines | Format::CloudEvent | Format::Data => {
                "is for single events; in a batch each event may have an \"idempotency_key\""
            }
        };
        return Err(Problem::one_invalid("Idempotency-Key", rule));
    }
    let events: Vec<NewEvent> = drafts
        .into_iter()
        .map(|draft| draft.into_event(caller.tenant, &received.bytes, trace.as_ref()))
        .collect();
    let ids: Vec<EventId> = events.iter().map(|event| event.id).collect();
    if ids.is_empty() {
        return Ok(batch_answer(&ids, &[], &[]));
    }
    let warnings = check::schemas(app, caller, &events, |number| format!("[{number}].")).await?;
    let results = store(app, events, received.share).await?;
    if results.len() != ids.len() {
        return Err(internal(results.len()));
    }
    Ok(batch_answer(&ids, &results, &warnings))
}

/// 202 if every event is accepted, now or before; 207 if a key was used for another one.
fn batch_answer(ids: &[EventId], results: &[Accepted], warnings: &[Vec<FieldError>]) -> Answer {
    let mut body = BatchOutcome {
        accepted: 0,
        repeated: 0,
        conflicts: 0,
        results: Vec::with_capacity(ids.len()),
    };
    for (number, (id, result)) in ids.iter().zip(results).enumerate() {
        let (id, status, deliveries) = match *result {
            Accepted::New { deliveries } => {
                body.accepted += 1;
                (*id, StatusCode::ACCEPTED, Some(deliveries))
            }
            Accepted::Repeated { first } => {
                body.repeated += 1;
                (first, StatusCode::OK, None)
            }
            Accepted::Conflict { first } => {
                body.conflicts += 1;
                (first, Code::IdempotencyConflict.status(), None)
            }
        };
        let warnings = warnings.get(number).filter(|_| deliveries.is_some());
        body.results.push(BatchItem {
            status: status.as_u16(),
            id,
            deliveries,
            schema_warnings: warnings.map_or(&[], Vec::as_slice),
            code: matches!(result, Accepted::Conflict { .. })
                .then_some(Code::IdempotencyConflict.as_str()),
        });
    }
    let status = if body.conflicts == 0 {
        StatusCode::ACCEPTED
    } else {
        StatusCode::MULTI_STATUS
    };
    answer::value(status, &body)
}

async fn store(app: &App, events: Vec<NewEvent>, share: Share) -> Result<Vec<Accepted>, Problem> {
    app.batcher
        .store(events, share)
        .await
        .map_err(|refusal| match refusal {
            Refusal::Overloaded => {
                Problem::overloaded("Too many events are waiting to be stored; nothing was done.")
            }
            Refusal::Unavailable => Problem::unavailable(),
            Refusal::TooCostly => Problem::new(
                Code::FiltersTooCostly,
                "The filters of your endpoints would have to read this too many times; send fewer or smaller events, or keep fewer endpoints with a filter.",
            ),
            Refusal::Internal => Problem::new(
                Code::Internal,
                "The event was not stored; the failure is in the log.",
            ),
        })
}

fn header_key(headers: &HeaderMap, members: &mut Members<'_>) -> Option<IdempotencyKey> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let value = values.next()?;
    let parsed = match value.to_str() {
        Ok(_) if values.next().is_some() => Err("must be sent once"),
        Ok(text) => IdempotencyKey::parse(text).map_err(|rule| rule.0),
        Err(_) => Err("must be 1 to 255 visible ASCII characters"),
    };
    parsed
        .map_err(|rule| members.mistake("Idempotency-Key", rule))
        .ok()
}

/// Places the span of an event that is refused below what the event itself says, if it does and that is right. Its members are read
/// once more, as nobody else has kept them.
fn place_refused(app: &App, text: &str, span: &mut RequestSpan) {
    if !app.tracer.is_on() {
        return;
    }
    let members = Members::parse(text).ok();
    let mut own = members.and_then(|mut members| members.text("traceparent", TraceParent::parse));
    if own.is_some() {
        span.place(app, &mut own);
    }
}

fn internal(results: usize) -> Problem {
    tracing::error!(results, "the store answered for another number of events");
    Problem::new(
        Code::Internal,
        "The failure is in the log under this request's id.",
    )
}
