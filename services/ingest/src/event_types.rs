//! Event types as their tenants manage them: a name, words for people, and a JSON Schema.

pub(crate) mod operations;

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, Request, State};
use chrono::{DateTime, Utc};
use http::{HeaderMap, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
use zyven_domain::event::EventType;
use zyven_store::{
    EVENT_TYPES_PER_TENANT_MAX, EventTypeChange, EventTypeRecord, EventTypeRefusal, SchemaMode,
};

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::Caller;
use crate::fields::Members;
use crate::openapi::values;
use crate::pages::{self, Query};
use crate::preconditions;
use crate::problem::{Code, Problem};
use crate::schemas::Schema;

/// Longest description, in characters.
const DESCRIPTION_CHARS_MAX: usize = 500;

/// What a tenant says its events of a type look like.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EventType")]
struct EventTypeView<'a> {
    #[schemars(with = "values::EventTypeName")]
    name: &'a str,
    /// For people.
    description: &'a str,
    #[schemars(with = "values::SchemaModeName")]
    schema_mode: &'static str,
    /// The text as it was given.
    #[schemars(example = shown_schema())]
    schema: Option<&'a RawValue>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    /// Since when it is not listed, and its schema not applied. Null: it is in use.
    archived_at: Option<DateTime<Utc>>,
}

impl<'a> EventTypeView<'a> {
    fn of(record: &'a EventTypeRecord) -> Self {
        let schema = record.schema.as_deref();
        Self {
            name: &record.name,
            description: &record.description,
            schema_mode: record.mode.as_str(),
            schema: schema.and_then(|text| serde_json::from_str(text).ok()),
            created_at: record.created_at,
            updated_at: record.updated_at,
            archived_at: record.archived_at,
        }
    }
}

fn shown_schema() -> serde_json::Value {
    serde_json::json!({
        "type": "object",
        "required": ["invoice"],
        "properties": { "amount": { "type": "integer", "minimum": 0 } },
    })
}

/// `POST /v1/event-types`
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Answer, Problem> {
    let received = app.receive(request).await?;
    let mut members = Members::parse(received.text()?)?;
    let name = members.text("name", EventType::parse);
    if name.is_none() {
        members.missing("name");
    }
    let said = said(&mut members);
    let Some(name) = name.filter(|_| members.is_right()) else {
        return Err(Problem::invalid(members.into_errors()));
    };
    let made = app
        .store_of(&caller)
        .add_event_type(caller.tenant, &name, &said)
        .await?;
    show(StatusCode::CREATED, made)
}

/// `GET /v1/event-types`
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Answer, Problem> {
    let mut query = Query::of(&request);
    let limit = query.limit();
    let after = query.parsed("cursor", |text| {
        EventType::parse(text).map_err(|rule| rule.0)
    });
    let archived = query.parsed("archived", |text| {
        text.parse().map_err(|_| "must be true or false")
    });
    query.finish()?;
    let types = app
        .store
        .event_types_of(
            caller.tenant,
            archived.unwrap_or(false),
            after.as_ref(),
            pages::asked(limit),
        )
        .await?;
    let (shown, next) = pages::cut(types, limit, |record| record.name.clone());
    let views: Vec<EventTypeView<'_>> = shown.iter().map(EventTypeView::of).collect();
    Ok(pages::page(&views, next))
}

/// `GET /v1/event-types/{name}`
pub(crate) async fn event_type(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Answer, Problem> {
    let found = app
        .store
        .event_type_of(caller.tenant, &type_name(&name)?)
        .await?;
    show(StatusCode::OK, found.ok_or(EventTypeRefusal::NotFound))
}

/// `PATCH /v1/event-types/{name}`: members that are absent stay as they are.
pub(crate) async fn change(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Answer, Problem> {
    let only_of = preconditions::versions_meant(request.headers());
    let received = app.receive(request).await?;
    let mut members = Members::parse(received.text()?)?;
    let change = EventTypeChange {
        only_of,
        archived: members.flag("archived"),
        ..said(&mut members)
    };
    members.finish()?;
    let changed = app
        .store_of(&caller)
        .change_event_type(caller.tenant, &type_name(&name)?, &change)
        .await?;
    show(StatusCode::OK, changed)
}

/// `DELETE /v1/event-types/{name}`: archives it. What was said of past events stays readable.
pub(crate) async fn archive(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Answer, Problem> {
    let change = EventTypeChange {
        only_of: preconditions::versions_meant(&headers),
        archived: Some(true),
        ..EventTypeChange::default()
    };
    let archived = app
        .store_of(&caller)
        .change_event_type(caller.tenant, &type_name(&name)?, &change)
        .await?;
    archived.map(|_| answer::nothing()).map_err(refused)
}

/// The members that can be changed later.
fn said(members: &mut Members<'_>) -> EventTypeChange {
    EventTypeChange {
        description: members.text("description", |text| {
            let fits = text.chars().count() <= DESCRIPTION_CHARS_MAX && !text.contains('\0');
            fits.then(|| text.to_owned())
                .ok_or("must not have more than 500 characters, nor U+0000")
        }),
        mode: members.text("schema_mode", |text| {
            SchemaMode::named(text).ok_or("must be off, warn or reject")
        }),
        schema: schema(members),
        ..EventTypeChange::default()
    }
}

/// Null: none.
fn schema(members: &mut Members<'_>) -> Option<Option<String>> {
    if members.take_null("schema") {
        return Some(None);
    }
    let text = members.raw("schema")?.get();
    match Schema::compile(text) {
        Ok(_) => Some(Some(text.to_owned())),
        Err(rule) => {
            members.mistake("schema", rule);
            None
        }
    }
}

fn show(
    status: StatusCode,
    outcome: Result<EventTypeRecord, EventTypeRefusal>,
) -> Result<Answer, Problem> {
    let record = outcome.map_err(refused)?;
    let answer = answer::value(status, &EventTypeView::of(&record));
    Ok(preconditions::with_version(answer, record.updated_at))
}

fn refused(refusal: EventTypeRefusal) -> Problem {
    match refusal {
        EventTypeRefusal::NotFound => Problem::not_found("event type"),
        EventTypeRefusal::Changed => preconditions::changed_meanwhile("event type"),
        EventTypeRefusal::Exists => Problem::new(
            Code::EventTypeExists,
            "There is an event type of this name, perhaps an archived one. Change it with PATCH.",
        ),
        EventTypeRefusal::TooMany => Problem::new(
            Code::EventTypeLimit,
            format!("A tenant may have {EVENT_TYPES_PER_TENANT_MAX} event types."),
        ),
        EventTypeRefusal::NoSchema => {
            Problem::one_invalid("schema_mode", "must be off as long as there is no schema")
        }
    }
}

/// What is not written as a type's name is the name of none.
fn type_name(text: &str) -> Result<EventType, Problem> {
    EventType::parse(text).map_err(|_| Problem::not_found("event type"))
}
