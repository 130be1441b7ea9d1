//! Why an event reached an endpoint, or did not. The server knows; this shows whatever it says.

use http::StatusCode;
use serde_json::{Map, Value};
use zyven_domain::id::{DeliveryId, EventId};

use crate::api::{Answer, Api, PAGE_ITEMS_MAX};
use crate::deliveries::{Part, note_more};
use crate::failure::Failure;
use crate::output::Output;

/// Members that come first, where there are any.
const FIRST: [&str; 15] = [
    "event",
    "endpoint",
    "url",
    "id",
    "type",
    "matched",
    "status",
    "code",
    "sentence",
    "reason",
    "next_attempt_at",
    "attempts",
    "delivery",
    "lane",
    "last_attempts",
];

/// An event at each endpoint: as many pages as the part takes, as one document.
pub(crate) async fn event(
    id: EventId,
    part: Part,
    api: &Api,
    output: &Output,
) -> Result<(), Failure> {
    let id = id.to_string();
    let rows_max = part.rows();
    let mut cursor = part.cursor;
    let mut whole = Value::Null;
    loop {
        let rows = whole["data"].as_array().map_or(0, Vec::len);
        let wanted = rows_max.saturating_sub(rows).min(PAGE_ITEMS_MAX);
        let mut query = vec![("limit", wanted.to_string())];
        query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let page: Map<String, Value> = ask("events", &id, &query, api).await?.read()?;
        let mut page = Value::Object(page);
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        let data = page["data"].as_array_mut().map(std::mem::take);
        let data = data.unwrap_or_default();
        let shown = rows + data.len();
        let is_last = data.is_empty() || cursor.is_none() || shown >= rows_max;
        match whole["data"].as_array_mut() {
            Some(all) => all.extend(data),
            None => {
                page["data"] = data.into();
                whole = page;
            }
        }
        if is_last {
            break;
        }
    }
    if output.is_json() {
        whole["next_cursor"] = cursor.into();
        return output.document(&whole);
    }
    if let Some(members) = whole.as_object_mut() {
        members.remove("next_cursor");
    }
    output.members(&said(whole), &FIRST)?;
    note_more(cursor.as_deref(), output);
    Ok(())
}

pub(crate) async fn delivery(id: DeliveryId, api: &Api, output: &Output) -> Result<(), Failure> {
    let answer = ask("deliveries", &id.to_string(), &[], api).await?;
    answer.print(output, |explanation| {
        output.members(&said(explanation.clone()), &FIRST)
    })
}

/// Without what is null: much of an explanation is, where it has nothing to say.
fn said(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let said_members = members.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(
                said_members
                    .map(|(name, value)| (name, said(value)))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.into_iter().map(said).collect()),
        other => other,
    }
}

async fn ask(
    collection: &str,
    id: &str,
    query: &[(&str, String)],
    api: &Api,
) -> Result<Answer, Failure> {
    match api.ask(&["v1", collection, id, "explain"], query).await {
        Err(Failure::Refused(refusal)) if refusal.status == StatusCode::NOT_FOUND => {
            // Is it the thing that is not there, or the question that the server does not know?
            api.get(&["v1", collection, id]).await?;
            Err(Failure::Failed(format!(
                "the server at {} cannot explain: it is older than this program; \
                 zyven deliveries get shows attempts and reason",
                api.url()
            )))
        }
        outcome => outcome,
    }
}
