//! Why an event reached an endpoint, or did not. The server knows; this shows whatever it says.

use http::StatusCode;
use serde_json::{Map, Value, json};
use uuid::Uuid;
use zyven_domain::id::{DeliveryId, EndpointId, EventId};

use crate::api::{Answer, Api, PAGE_ITEMS_MAX};
use crate::deliveries::{Part, note_more};
use crate::failure::Failure;
use crate::output::{Column, FAINT, Output, paint};

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

/// An endpoint on one line.
const COLUMNS: [Column; 5] = [
    ("ENDPOINT", "endpoint"),
    ("CODE", "code"),
    ("STATUS", "status"),
    ("NEXT ATTEMPT", "next_attempt_at"),
    ("URL", "url"),
];

/// What is to be explained of an event.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// evt_…
    id: EventId,
    /// Only why this endpoint got it, or did not
    #[arg(long, value_name = "EP", conflicts_with_all = ["limit", "cursor"])]
    endpoint: Option<EndpointId>,
    /// All that is known of each endpoint, not only of those that got it
    #[arg(long)]
    details: bool,
    #[command(flatten)]
    part: Part,
}

pub(crate) async fn event(args: Args, api: &Api, output: &Output) -> Result<(), Failure> {
    let id = args.id.to_string();
    let (mut whole, cursor) = match args.endpoint {
        Some(endpoint) => (at_one(&id, endpoint, api).await?, None),
        None => at_each(&id, args.part, api).await?,
    };
    if output.is_json() {
        whole["next_cursor"] = cursor.into();
        return output.document(&whole);
    }
    let mut endpoints = match whole.as_object_mut() {
        Some(members) => {
            members.remove("next_cursor");
            match members.remove("data") {
                Some(Value::Array(endpoints)) => endpoints,
                _ => Vec::new(),
            }
        }
        None => Vec::new(),
    };
    // Those that could not have got it are of the least interest.
    endpoints.sort_by_key(|endpoint| endpoint["code"] == "created_later");
    output.members(&said(whole), &FIRST)?;
    output.line("")?;
    let rows: Vec<Value> = endpoints.iter().map(row).collect();
    output.table(&rows, &COLUMNS, "the tenant has no endpoint")?;
    let shows_all = args.details || args.endpoint.is_some();
    let (detailed, others): (Vec<Value>, Vec<Value>) = endpoints
        .into_iter()
        .partition(|endpoint| shows_all || endpoint["matched"] == true);
    for endpoint in detailed {
        output.line("")?;
        output.members(&said(endpoint), &FIRST)?;
    }
    if !others.is_empty() {
        output.note(&paint(
            FAINT,
            "more about those that did not get it: --details",
        ));
    }
    note_more(cursor.as_deref(), output);
    Ok(())
}

/// An explanation and its delivery on one line.
fn row(explanation: &Value) -> Value {
    let delivery = &explanation["delivery"];
    json!({
        "endpoint": explanation["endpoint"],
        "code": explanation["code"],
        "status": delivery["status"],
        "next_attempt_at": delivery["next_attempt_at"],
        "url": explanation["url"],
    })
}

/// An event at each endpoint: as many pages as the part takes, as one document, and where the next one begins.
async fn at_each(id: &str, part: Part, api: &Api) -> Result<(Value, Option<String>), Failure> {
    let rows_max = part.rows();
    let mut cursor = part.cursor;
    let mut whole = Value::Null;
    loop {
        let rows = whole["data"].as_array().map_or(0, Vec::len);
        let wanted = rows_max.saturating_sub(rows).min(PAGE_ITEMS_MAX);
        let mut page = page(id, wanted, cursor.take(), api).await?;
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
            return Ok((whole, cursor));
        }
    }
}

/// An event at this endpoint: the first of the page that begins behind the id before.
async fn at_one(id: &str, endpoint: EndpointId, api: &Api) -> Result<Value, Failure> {
    let before = endpoint.uuid().as_u128().checked_sub(1);
    let before = before.map(|number| EndpointId::from_uuid(Uuid::from_u128(number)).to_string());
    let page = page(id, 1, before, api).await?;
    if page["data"][0]["endpoint"] == endpoint.to_string() {
        return Ok(page);
    }
    let what = format!("nothing is known of {endpoint} and this event: there is no such endpoint");
    Err(Failure::Failed(what).advised("`zyven endpoints list` shows those there are"))
}

async fn page(id: &str, rows: usize, cursor: Option<String>, api: &Api) -> Result<Value, Failure> {
    let mut query = vec![("limit", rows.to_string())];
    query.extend(cursor.map(|cursor| ("cursor", cursor)));
    let page: Map<String, Value> = ask("events", id, &query, api).await?.read()?;
    Ok(Value::Object(page))
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
            let what = format!(
                "the server at {} cannot explain: it is older than this program",
                api.url()
            );
            Err(Failure::Failed(what).advised("`zyven deliveries get` shows attempts and reason"))
        }
        outcome => outcome,
    }
}
