//! What the routes of event types do, for those who call them.

use http::StatusCode;
use serde_json::json;
use zyven_store::SchemaMode;

use super::{DESCRIPTION_CHARS_MAX, EventTypeView, shown_schema};
use crate::openapi::schema::{Schema, any_object, flag, object, text};
use crate::openapi::{Operation, values};
use crate::pages::Page;
use crate::problem::Code;

pub(crate) fn list() -> Operation {
    Operation::new("listEventTypes", "List event types")
        .about("By name.")
        .query(
            "archived",
            flag()
                .default(false)
                .about("`true`: those that are archived, and no others."),
        )
        .paged(values::EventTypeName::schema())
        .answer::<Page<'_, EventTypeView<'_>>>(StatusCode::OK, "A page of event types.")
}

pub(crate) fn create() -> Operation {
    let body = said(object().required("name", values::EventTypeName::schema()));
    let example =
        json!({ "name": "invoice.paid", "schema_mode": "reject", "schema": shown_schema() });
    Operation::new("createEventType", "Create an event type")
        .about("Events of a type that nobody has described are accepted as they are. A schema counts for new events \
             within 2 seconds.")
        .body(body, example)
        .answer::<EventTypeView<'_>>(StatusCode::CREATED, "The event type.")
        .with_header("etag")
        .problem(Code::EventTypeExists)
        .problem(Code::EventTypeLimit)
}

pub(crate) fn event_type() -> Operation {
    Operation::new("getEventType", "Read an event type")
        .one("name", values::EventTypeName::schema())
        .answer::<EventTypeView<'_>>(StatusCode::OK, "The event type.")
        .with_header("etag")
}

pub(crate) fn change() -> Operation {
    let archived = flag().about("An archived type is not listed, and its schema is not applied.");
    Operation::new("changeEventType", "Change an event type")
        .about("What is absent stays as it is.")
        .one("name", values::EventTypeName::schema())
        .conditional()
        .body(
            said(object().optional("archived", archived)),
            json!({ "schema_mode": "warn" }),
        )
        .answer::<EventTypeView<'_>>(StatusCode::OK, "The event type as it is now.")
        .with_header("etag")
}

pub(crate) fn archive() -> Operation {
    Operation::new("archiveEventType", "Archive an event type")
        .about("What was said of past events stays readable.")
        .conditional()
        .one("name", values::EventTypeName::schema())
        .no_content("It is archived.")
}

/// The members that can be changed later.
fn said(members: Schema) -> Schema {
    let schema = any_object()
        .or_null()
        .about("A JSON Schema (2020-12, or draft 7 if `$schema` says so) of at most 64 KiB, without references to \
             elsewhere. `null` removes it.");
    let mode = values::SchemaModeName::schema().default(SchemaMode::Off.as_str());
    members
        .optional(
            "description",
            text()
                .chars(0..=DESCRIPTION_CHARS_MAX)
                .default("")
                .about("For people."),
        )
        .optional("schema", schema)
        .optional("schema_mode", mode)
}
