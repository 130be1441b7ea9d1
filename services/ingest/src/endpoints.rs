//! Endpoints as their owners manage them.

mod client_certificate;
mod credentials;
mod form;
pub(crate) mod operations;
mod safeguards;
mod secrets;

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, Request, State};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::{HeaderMap, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;
use zyven_domain::event::{ContentType, DeliveryOptions, EventType};
use zyven_domain::id::{DeliveryId, EndpointId, EventId};
use zyven_domain::lifecycle::DeliveryState;
use zyven_store::{
    AcceptedFor, ENDPOINTS_PER_TENANT_MAX, EndpointChange, EndpointRecord, EndpointRefusal, Flow,
    NewEndpoint, NewEvent, Safeguards,
};

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::Caller;
use crate::fields::Members;
use crate::openapi::values;
use crate::pages::{self, Query};
use crate::preconditions;
use crate::problem::{Code, Problem};

use credentials::Wanted;
use safeguards::ShownSafeguards;
use secrets::{ShownSecret, Signing};
pub(crate) use secrets::{public_key, rotate_secret, secret};

/// The type of the event that `test` sends.
const TEST_EVENT_TYPE: &str = "zyven.test";

/// A destination of events.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Endpoint")]
struct EndpointView<'a> {
    #[schemars(with = "values::EndpointId")]
    id: EndpointId,
    #[schemars(example = &"https://receiver.example.com/hooks")]
    url: &'a str,
    /// For people.
    #[schemars(example = &"billing")]
    description: &'a str,
    /// Patterns of the types it gets.
    #[schemars(example = ["invoice.*"])]
    event_types: &'a [String],
    /// Empty: whatever channels an event has.
    #[schemars(with = "Vec<values::Channel>")]
    channels: &'a [String],
    /// Null: every payload.
    #[schemars(example = &"$.amount > 1000")]
    filter: Option<&'a str>,
    #[schemars(with = "values::EndpointStatus")]
    status: &'static str,
    /// Null: it is not disabled.
    disabled_reason: Option<&'a str>,
    /// The wait after the first failed attempt; it doubles.
    #[schemars(with = "u64", example = 5_000)]
    retry_base_ms: u128,
    /// The longest wait.
    #[schemars(with = "u64", example = 43_200_000)]
    retry_cap_ms: u128,
    /// The first one included.
    #[schemars(example = 12)]
    attempts_max: u32,
    /// One wait after each failed attempt. Null: no schedule.
    #[schemars(with = "Option<Vec<u64>>", example = [5_000, 300_000])]
    retry_schedule_ms: Option<Vec<u128>>,
    /// Statuses that are retried besides those that always are.
    #[schemars(example = [404, 409])]
    retry_statuses: &'a [u16],
    /// A delivery older than that is not retried.
    #[schemars(with = "u64", example = 345_600_000)]
    age_max_ms: u128,
    /// For connecting and the whole answer.
    #[schemars(with = "u64", example = 15_000)]
    timeout_ms: u128,
    /// Null: the deployment's limit.
    concurrency_max: Option<u32>,
    /// Null: not limited.
    rate_per_minute: Option<u32>,
    /// Null: one second's worth.
    rate_burst: Option<u32>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    #[serde(flatten)]
    safeguards: ShownSafeguards<'a>,
    /// Only in the answer that made it.
    #[serde(flatten)]
    secret: Option<ShownSecret>,
}

impl<'a> EndpointView<'a> {
    fn of(endpoint: &'a EndpointRecord, safeguards: &'a Safeguards) -> Self {
        Self {
            id: endpoint.id,
            url: &endpoint.url,
            description: &endpoint.description,
            event_types: &endpoint.event_types,
            channels: &endpoint.channels,
            filter: endpoint.filter.as_deref(),
            status: match (&endpoint.disabled_reason, endpoint.limits.is_paused) {
                (Some(_), _) => "disabled",
                (None, true) => "paused",
                (None, false) => "enabled",
            },
            disabled_reason: endpoint.disabled_reason.as_deref(),
            retry_base_ms: endpoint.policy.base.as_millis(),
            retry_cap_ms: endpoint.policy.cap.as_millis(),
            attempts_max: endpoint.policy.attempts_max,
            retry_schedule_ms: (!endpoint.policy.schedule.is_empty()).then(|| {
                endpoint
                    .policy
                    .schedule
                    .iter()
                    .map(Duration::as_millis)
                    .collect()
            }),
            retry_statuses: &endpoint.policy.statuses,
            age_max_ms: endpoint.policy.age_max.as_millis(),
            timeout_ms: endpoint.policy.timeout.as_millis(),
            concurrency_max: endpoint.limits.concurrency_max,
            rate_per_minute: endpoint.limits.rate_per_minute,
            rate_burst: endpoint.limits.rate_burst,
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
            safeguards: ShownSafeguards::of(safeguards),
            secret: None,
        }
    }
}

/// An event for one endpoint alone.
#[derive(Serialize, JsonSchema)]
struct TestEvent {
    #[schemars(with = "values::EventId")]
    event: EventId,
    #[schemars(with = "values::DeliveryId")]
    delivery: DeliveryId,
    #[schemars(example = TEST_EVENT_TYPE)]
    r#type: &'static str,
    #[schemars(with = "values::DeliveryStatus")]
    status: &'static str,
}

/// `POST /v1/endpoints`
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Answer, Problem> {
    let received = app.receive(request).await?;
    let mut members = Members::parse(received.text()?)?;
    let (url, change) = form::new_endpoint(&mut members, &app.config.names);
    let (scheme, given) = secrets::wanted(&mut members);
    let wanted = Wanted::read(&mut members, &app.config.names, Utc::now());
    members.finish()?;
    let url = url.unwrap_or_default();
    wanted.check_new(&url)?;
    let signing = match given {
        Some(secret) => Signing::Hmac(secret),
        None => Signing::generate(scheme.unwrap_or_default())?,
    };
    let endpoint = NewEndpoint {
        id: EndpointId::new(),
        tenant_id: caller.tenant,
        url,
        description: change.description.clone().unwrap_or_default(),
        event_types: change.event_types.clone().unwrap_or_else(form::everything),
        channels: change.channels.clone().unwrap_or_default(),
        filter: change.filter.clone().flatten(),
        policy: form::policy(&change),
        limits: form::limits(&change),
        secret: signing.seal(&app.ring, caller.tenant)?,
        credentials: wanted.seal(&app.ring, caller.tenant)?,
    };
    let record = app
        .store_of(&caller)
        .add_endpoint(&endpoint)
        .await?
        .map_err(refused)?;
    let safeguards = safeguards::of_one(&app, caller.tenant, record.id).await?;
    let view = EndpointView {
        secret: Some(signing.shown()),
        ..EndpointView::of(&record, &safeguards)
    };
    let answer = answer::value(StatusCode::CREATED, &view);
    Ok(preconditions::with_version(answer, record.updated_at))
}

/// `GET /v1/endpoints`
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Answer, Problem> {
    let mut query = Query::of(&request);
    let limit = query.limit();
    let after = query.value::<EndpointId>("cursor");
    query.finish()?;
    let endpoints = app
        .store
        .endpoints_of(caller.tenant, after, pages::asked(limit))
        .await?;
    let (shown, next) = pages::cut(endpoints, limit, |endpoint| endpoint.id.to_string());
    let ids: Vec<EndpointId> = shown.iter().map(|endpoint| endpoint.id).collect();
    let safeguards = safeguards::of_many(&app, caller.tenant, &ids).await?;
    let unknown = Safeguards::default();
    let views: Vec<EndpointView<'_>> = shown
        .iter()
        .map(|endpoint| {
            let known = safeguards.get(&endpoint.id).unwrap_or(&unknown);
            EndpointView::of(endpoint, known)
        })
        .collect();
    Ok(pages::page(&views, next))
}

/// `GET /v1/endpoints/{id}`
pub(crate) async fn endpoint(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Answer, Problem> {
    let found = app
        .store
        .endpoint_of(caller.tenant, endpoint_id(&id)?)
        .await?;
    show(&app, &caller, found).await
}

/// `PATCH /v1/endpoints/{id}`: members that are absent stay as they are.
pub(crate) async fn change(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Answer, Problem> {
    let only_of = preconditions::versions_meant(request.headers());
    let received = app.receive(request).await?;
    let mut members = Members::parse(received.text()?)?;
    let mut change = EndpointChange {
        only_of,
        ..form::change(&mut members, &app.config.names)
    };
    let wanted = Wanted::read(&mut members, &app.config.names, Utc::now());
    members.finish()?;
    let endpoint = endpoint_id(&id)?;
    wanted
        .check_change(&app, caller.tenant, endpoint, change.url.as_deref())
        .await?;
    change.credentials = wanted.seal(&app.ring, caller.tenant)?;
    let record = app
        .store_of(&caller)
        .change_endpoint(caller.tenant, endpoint, &change)
        .await?
        .map_err(refused)?;
    show(&app, &caller, Some(record)).await
}

/// `DELETE /v1/endpoints/{id}`
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Answer, Problem> {
    let only_of = preconditions::versions_meant(&headers);
    app.store_of(&caller)
        .remove_endpoint(caller.tenant, endpoint_id(&id)?, only_of.as_deref())
        .await?
        .map_err(refused)?;
    Ok(answer::nothing())
}

/// `POST /v1/endpoints/{id}/enable`
pub(crate) async fn enable(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Answer, Problem> {
    let found = app
        .store_of(&caller)
        .enable_endpoint_of(caller.tenant, endpoint_id(&id)?)
        .await?;
    show(&app, &caller, found).await
}

/// `POST /v1/endpoints/{id}/disable`
pub(crate) async fn disable(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Answer, Problem> {
    let reason = format!("disabled with key {}", caller.key);
    let found = app
        .store_of(&caller)
        .disable_endpoint_of(caller.tenant, endpoint_id(&id)?, &reason)
        .await?;
    show(&app, &caller, found).await
}

/// `POST /v1/endpoints/{id}/pause`: its deliveries wait, and none is lost.
pub(crate) async fn pause(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Answer, Problem> {
    let id = endpoint_id(&id)?;
    let found = app
        .store_of(&caller)
        .set_flow(caller.tenant, id, Flow::Paused)
        .await?;
    show(&app, &caller, found).await
}

/// `POST /v1/endpoints/{id}/resume`
pub(crate) async fn resume(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Answer, Problem> {
    let id = endpoint_id(&id)?;
    let found = app
        .store_of(&caller)
        .set_flow(caller.tenant, id, Flow::Running)
        .await?;
    show(&app, &caller, found).await
}

/// `POST /v1/endpoints/{id}/test`: an event for this endpoint alone, whatever it subscribes to, on
/// the same way as every other event.
pub(crate) async fn test(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Answer, Problem> {
    let endpoint = endpoint_id(&id)?;
    let payload = json!({ "test": true, "endpoint": endpoint, "sent_at": Utc::now() });
    let event = NewEvent {
        id: EventId::new(),
        tenant_id: caller.tenant,
        event_type: EventType::parse(TEST_EVENT_TYPE).expect("the constant is a type"),
        payload: Bytes::from(payload.to_string()),
        content_type: ContentType::Json,
        channels: Vec::new(),
        source: None,
        traceparent: None,
        options: DeliveryOptions::default(),
        idempotency: None,
    };
    match app.store_of(&caller).accept_for(&event, endpoint).await? {
        AcceptedFor::Accepted(delivery) => {
            app.bell.ring();
            let body = TestEvent {
                event: event.id,
                delivery,
                r#type: TEST_EVENT_TYPE,
                status: DeliveryState::Received.as_str(),
            };
            Ok(answer::value(StatusCode::ACCEPTED, &body))
        }
        AcceptedFor::Disabled => Err(Problem::new(
            Code::EndpointDisabled,
            "Enable the endpoint first: it takes no deliveries at present.",
        )),
        AcceptedFor::NotFound => Err(Problem::not_found("endpoint")),
    }
}

async fn show(
    app: &App,
    caller: &Caller,
    found: Option<EndpointRecord>,
) -> Result<Answer, Problem> {
    let record = found.ok_or_else(|| Problem::not_found("endpoint"))?;
    let safeguards = safeguards::of_one(app, caller.tenant, record.id).await?;
    let view = EndpointView::of(&record, &safeguards);
    let answer = answer::value(StatusCode::OK, &view);
    Ok(preconditions::with_version(answer, record.updated_at))
}

fn refused(refusal: EndpointRefusal) -> Problem {
    match refusal {
        EndpointRefusal::NotFound => Problem::not_found("endpoint"),
        EndpointRefusal::Changed => preconditions::changed_meanwhile("endpoint"),
        EndpointRefusal::TooMany => Problem::new(
            Code::EndpointLimit,
            format!("A tenant may have {ENDPOINTS_PER_TENANT_MAX} endpoints."),
        ),
        EndpointRefusal::RetryCapBelowBase => {
            Problem::one_invalid("retry_cap_ms", "must not be less than retry_base_ms")
        }
    }
}

/// What is not written as an id is the id of nothing.
fn endpoint_id(text: &str) -> Result<EndpointId, Problem> {
    text.parse().map_err(|_| Problem::not_found("endpoint"))
}
