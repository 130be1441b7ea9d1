//! `zyven events`: publish, look, follow.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::ArgGroup;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;
use zyven_domain::event::ContentType;
use zyven_domain::id::EventId;

use crate::api::Api;
use crate::failure::Failure;
use crate::follow::{Follow, Item, until_interrupted};
use crate::numbers::positive;
use crate::output::{FAINT, Output, paint, shown};
use crate::time::{ago, ahead, written};
use crate::{deliveries, explain, input};

#[derive(clap::Subcommand)]
pub(crate) enum Action {
    /// Publish an event
    Send(Box<Sending>),
    /// Show an event and its deliveries
    Get {
        /// evt_…
        id: EventId,
    },
    /// Say why an event reached its endpoints, or did not
    Explain(explain::Args),
    /// Call off what has not been delivered of an event
    Cancel {
        /// evt_…
        id: EventId,
        /// Why, for the audit
        #[arg(long)]
        reason: String,
    },
    /// Show events as they arrive, until interrupted
    Tail(Tail),
}

// An event to publish. The payload's bytes are kept as they are.
#[derive(clap::Args)]
#[command(group(ArgGroup::new("body").required(true).args(["payload", "payload_file"])))]
pub(crate) struct Sending {
    /// What kind of fact it is, such as invoice.paid
    event_type: String,
    /// The payload, any JSON value
    #[arg(long, value_name = "JSON")]
    payload: Option<String>,
    /// File with the payload; "-": standard input
    #[arg(long, value_name = "FILE")]
    payload_file: Option<PathBuf>,
    /// Your own name for this event, so that a repetition finds it; by default a random one
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Only endpoints with one of these channels, and those without any, get it (repeatable)
    #[arg(long = "channel", value_name = "CHANNEL")]
    channels: Vec<String>,
    /// Where the event comes from
    #[arg(long)]
    source: Option<String>,
    /// Not to be delivered before: a time, or from now, such as 10m
    #[arg(long, value_name = "TIME", value_parser = ahead)]
    deliver_at: Option<DateTime<Utc>>,
    /// Not to be delivered after: a time, or from now, such as 2h
    #[arg(long, value_name = "TIME", value_parser = ahead)]
    expires_at: Option<DateTime<Utc>>,
    /// Events with the same key are delivered one after the other
    #[arg(long, value_name = "KEY")]
    ordering_key: Option<String>,
    /// W3C trace context, for the receivers
    #[arg(long, value_name = "TRACEPARENT")]
    traceparent: Option<String>,
}

#[derive(clap::Args)]
pub(crate) struct Tail {
    /// Only events of exactly this type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Begin with those since this time, or this long ago: at most 1h
    #[arg(long, value_name = "TIME", value_parser = ago)]
    since: Option<DateTime<Utc>>,
    /// Show payloads as well
    #[arg(long)]
    payload: bool,
    /// End after this many events
    #[arg(long, value_name = "EVENTS", value_parser = positive)]
    count: Option<u64>,
}

/// An event as the API takes it.
#[derive(Serialize)]
struct Draft<'a> {
    #[serde(rename = "type")]
    event_type: &'a str,
    payload: &'a RawValue,
    idempotency_key: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    channels: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deliver_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ordering_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
}

/// An event as it is delivered: its payload's bytes, what they are sent as, and the trace.
#[derive(Deserialize)]
pub(crate) struct Stored {
    pub(crate) payload: Box<RawValue>,
    /// An API of before this member sends every payload as this.
    #[serde(default = "json")]
    pub(crate) content_type: String,
    #[serde(default)]
    pub(crate) traceparent: Option<String>,
}

fn json() -> String {
    ContentType::Json.to_string()
}

pub(crate) async fn run(action: Action, api: &Api, output: &Output) -> Result<(), Failure> {
    match action {
        Action::Send(args) => send(&args, api, output).await,
        Action::Get { id } => get(id, api, output).await,
        Action::Explain(args) => explain::event(args, api, output).await,
        Action::Cancel { id, reason } => cancel(id, &reason, api, output).await,
        Action::Tail(args) => until_interrupted(tail(args, api, output)).await,
    }
}

async fn send(args: &Sending, api: &Api, output: &Output) -> Result<(), Failure> {
    let payload = match (&args.payload, &args.payload_file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => String::from_utf8(input::read(file)?)
            .map_err(|_| Failure::Usage("the payload is not UTF-8".to_owned()))?,
        (None, None) => return Err(Failure::Usage("there is no payload".to_owned())),
    };
    let payload: Box<RawValue> = serde_json::from_str(&payload).map_err(|error| {
        Failure::Usage(format!("the payload is not JSON: {error}")).advised(
            "mend it at that place; a text is JSON in quotation marks: --payload '\"text\"'",
        )
    })?;
    let random = || format!("cli-{}", Uuid::now_v7().simple());
    let key = args.idempotency_key.clone().unwrap_or_else(random);
    let draft = Draft {
        event_type: &args.event_type,
        payload: &payload,
        idempotency_key: &key,
        channels: &args.channels,
        source: args.source.as_deref(),
        deliver_at: args.deliver_at.map(written),
        expires_at: args.expires_at.map(written),
        ordering_key: args.ordering_key.as_deref(),
        traceparent: args.traceparent.as_deref(),
    };
    let sent = api.post(&["v1", "events"], &draft).await;
    let answer = sent.map_err(|failure| repeatable(failure, &key))?;
    answer.print(output, |accepted| {
        let id = shown(accepted["id"].as_str().unwrap_or_default());
        if accepted["repeated"] == true {
            return output.line(format!("{id} was accepted before; nothing is sent twice"));
        }
        let deliveries = accepted["deliveries"].as_u64().unwrap_or_default();
        let endpoints = if deliveries == 1 {
            "endpoint"
        } else {
            "endpoints"
        };
        output.line(format!("{id} accepted for {deliveries} {endpoints}"))?;
        for warning in accepted["schema_warnings"].as_array().into_iter().flatten() {
            let text = |name: &str| shown(warning[name].as_str().unwrap_or_default());
            output.note(&format!("warning: {} {}", text("field"), text("rule")));
        }
        if deliveries == 0 {
            output.note(&paint(
                FAINT,
                format!("next: zyven events explain {id} says why nobody gets it"),
            ));
        }
        Ok(())
    })
}

/// Says how to send the same event again where nobody knows whether it was accepted.
fn repeatable(failure: Failure, key: &str) -> Failure {
    if !failure.is_transient() || failure.did_nothing() {
        return failure;
    }
    let first = failure.next_step();
    let first = first.map(|step| format!("{step}; ")).unwrap_or_default();
    let then = format!(
        "whether the event was accepted is unknown: repeat the command with --idempotency-key {key}, and it is published once"
    );
    failure.advised(format!("{first}{then}"))
}

async fn get(id: EventId, api: &Api, output: &Output) -> Result<(), Failure> {
    let id = id.to_string();
    let answer = api.get(&["v1", "events", &id]).await?;
    if output.is_json() {
        return answer.print(output, |_| Ok(()));
    }
    let stored: Stored = answer.read()?;
    let mut event = answer.value();
    if let Some(members) = event.as_object_mut() {
        members.remove("payload");
    }
    output.members(&event, &["id", "type", "status", "accepted_at"])?;
    output.line(paint(FAINT, "payload"))?;
    output.line(shown(stored.payload.get()))?;
    let path = ["v1", "events", &id, "deliveries"];
    let page = api.list(&path, &[], deliveries::SHOWN_MAX, None).await?;
    output.line("")?;
    output.table(&page.rows(), &deliveries::COLUMNS, "no endpoint wanted it")
}

async fn cancel(id: EventId, reason: &str, api: &Api, output: &Output) -> Result<(), Failure> {
    let path = ["v1", "events", &id.to_string(), "cancel"];
    let answer = api
        .post(&path, &serde_json::json!({ "reason": reason }))
        .await?;
    answer.print(output, |answer| {
        output.line(format!(
            "{} cancelled, {} had been finished before",
            answer["cancelled"], answer["finished"]
        ))
    })
}

async fn tail(args: Tail, api: &Api, output: &Output) -> Result<(), Failure> {
    let query = Vec::from_iter(args.event_type.map(|event_type| ("event_type", event_type)));
    let follow = Follow::begin(api, &["v1", "events"], query, "id", args.since).await?;
    output.note(&paint(FAINT, format!("following events of {}", api.url())));
    let show = async |item: &Item| {
        let stored = if args.payload {
            Some(stored(item.event, api).await?)
        } else {
            None
        };
        show(item, stored.as_ref(), output)
    };
    follow.run(api, output, args.count, show).await
}

/// An event's payload, byte for byte.
pub(crate) async fn stored(id: EventId, api: &Api) -> Result<Stored, Failure> {
    api.get(&["v1", "events", &id.to_string()]).await?.read()
}

fn show(item: &Item, stored: Option<&Stored>, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return match stored {
            None => output.json(item.text.get()),
            Some(stored) => {
                #[derive(Serialize)]
                struct Whole<'a> {
                    #[serde(flatten)]
                    event: &'a Value,
                    payload: &'a RawValue,
                }
                let event = &item.value;
                let payload = &*stored.payload;
                output.document(&Whole { event, payload })
            }
        };
    }
    let text = |name: &str| shown(item.value[name].as_str().unwrap_or_default());
    let at = clock(&text("accepted_at"));
    output.line(format!("{at}  {}  {}", text("id"), text("type")))?;
    match stored {
        Some(stored) => output.line(shown(stored.payload.get())),
        None => Ok(()),
    }
}

/// The time of day of a time.
fn clock(text: &str) -> String {
    let moment = text.parse::<DateTime<Utc>>();
    let clock = moment.map(|moment| moment.format("%H:%M:%S%.3f").to_string());
    paint(FAINT, clock.unwrap_or_else(|_| text.to_owned()))
}
