//! `zyven listen`: hands events to a server on this machine, signed as a dispatcher signs them.
//!
//! It looks at what the API lists and sends a copy; it is no endpoint. So nothing has to reach this machine, nothing is
//! configured, and no delivery changes: the tenant's endpoints get what they would get. Each event comes once, in the order
//! in which events were read, one after the other; whatever the local server answers, it is not tried again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use serde::Serialize;
use url::Url;
use zyven_domain::id::EndpointId;
use zyven_domain::signature::{SigningKey, SigningSecret, sign};
use zyven_runtime::config::parse_duration;
use zyven_runtime::supervisor::Chain;

use crate::access;
use crate::api::{Api, Http, http_client};
use crate::events::{Stored, stored};
use crate::failure::Failure;
use crate::follow::{Follow, Item, until_interrupted};
use crate::input;
use crate::numbers::positive;
use crate::output::{BAD, FAINT, GOOD, Output, paint, shown};
use crate::time::ago;

/// Most of an answer that is read, as a dispatcher does.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Random bytes of a secret made for one run.
const SECRET_BYTES: usize = 32;
const AGENT: &str = concat!("Zyven/", env!("CARGO_PKG_VERSION"), " (listen)");

// Which events go where.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to send them, such as http://localhost:3000/hooks
    #[arg(long, value_name = "URL", value_parser = target)]
    forward: Url,
    /// Only what goes to this endpoint, signed with its secret; without it, every event of the tenant
    #[arg(long, value_name = "EP")]
    endpoint: Option<EndpointId>,
    /// Only events of exactly this type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Begin with events since this time, or this long ago, such as 10m
    #[arg(long, value_name = "TIME", value_parser = ago)]
    since: Option<DateTime<Utc>>,
    /// File with the secret to sign with; by default ZYVEN_SECRET, the endpoint's, or one made for this run
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// How long the local server may take
    #[arg(long, default_value = "15s", value_name = "TIME", value_parser = parse_duration)]
    timeout: Duration,
    /// End after this many events
    #[arg(long, value_name = "EVENTS", value_parser = positive)]
    count: Option<u64>,
}

/// Where events go to, and how.
struct Local {
    http: Http,
    url: Url,
    key: SigningKey,
    timeout: Duration,
}

/// What became of one.
#[derive(Serialize)]
struct Handed<'a> {
    event: String,
    delivery: Option<&'a str>,
    #[serde(rename = "type")]
    event_type: &'a str,
    /// Null: no answer.
    status: Option<u16>,
    error: Option<String>,
    duration_ms: u128,
}

pub(crate) async fn run(args: Args, api: &Api, output: &Output) -> Result<(), Failure> {
    until_interrupted(listen(args, api, output)).await
}

async fn listen(args: Args, api: &Api, output: &Output) -> Result<(), Failure> {
    let secret = secret(&args, api, output).await?;
    let local = Local {
        http: http_client(args.forward.scheme() == "https")?,
        key: SigningKey::new(&secret),
        url: args.forward,
        timeout: args.timeout,
    };
    let event_type = args.event_type.map(|name| ("event_type", name));
    let mut query = Vec::from_iter(event_type);
    let follow = match args.endpoint {
        Some(endpoint) => {
            query.push(("endpoint", endpoint.to_string()));
            Follow::begin(api, &["v1", "deliveries"], query, "event", args.since).await?
        }
        None => Follow::begin(api, &["v1", "events"], query, "id", args.since).await?,
    };
    output.note(&paint(
        FAINT,
        format!("handing events of {} to {}", api.url(), local.url),
    ));
    let hand_over = async |item: &Item| {
        let stored = stored(item.event, api).await?;
        let handed = local.hand_over(item, &stored).await;
        handed.print(output)
    };
    follow.run(api, output, args.count, hand_over).await
}

/// What is signed with: what the command line or the environment names, the endpoint's own, or one for this run.
async fn secret(args: &Args, api: &Api, output: &Output) -> Result<SigningSecret, Failure> {
    let note = |whose: &str| output.note(&paint(FAINT, format!("signing with the secret {whose}")));
    if let Some(file) = &args.secret_file {
        let secret = secret_in(file)?;
        note(&format!("in {}", shown(&file.display().to_string())));
        return Ok(secret);
    }
    if let Some(secret) = access::secret()? {
        note("in ZYVEN_SECRET");
        return Ok(secret);
    }
    let why = match args.endpoint {
        None => "",
        Some(endpoint) => {
            let path = ["v1", "endpoints", &endpoint.to_string(), "secret"];
            match api.get(&path).await {
                Ok(answer) => {
                    let current = answer.value();
                    let secret = current["secret"].as_str().map(SigningSecret::parse);
                    if let Some(Ok(secret)) = secret {
                        note(&format!("of {endpoint}"));
                        return Ok(secret);
                    }
                    "the endpoint signs with a private key, which nobody gets to see. "
                }
                Err(Failure::Refused(refusal)) if refusal.is("scope_missing") => {
                    "this key may not see the endpoint's secret. "
                }
                Err(failure) => return Err(failure),
            }
        }
    };
    let mut bytes = vec![0; SECRET_BYTES];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::Failed(format!("the system gives no random bytes: {error}")))?;
    let secret = SigningSecret::from_bytes(bytes).expect("as many bytes as a secret may have");
    output.note(&format!(
        "{why}signing with {}, made for this run",
        secret.expose()
    ));
    Ok(secret)
}

fn target(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).ok();
    url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or("must be written as http://host:port/path")
}

/// The secret in a file; whitespace around it does not count.
pub(crate) fn secret_in(file: &std::path::Path) -> Result<SigningSecret, Failure> {
    let bytes = input::read(file)?;
    let text = String::from_utf8_lossy(&bytes);
    SigningSecret::parse(text.trim())
        .map_err(|rule| Failure::Usage(format!("{}: the secret {rule}", file.display())))
}

impl Local {
    async fn hand_over<'a>(&self, item: &'a Item, stored: &Stored) -> Handed<'a> {
        let text = |name: &str| item.value[name].as_str();
        // A delivery's item names its event; an event's item is one.
        let delivery = text("event").and(text("id"));
        let event_type = text("event_type").or(text("type")).unwrap_or_default();
        let started = Instant::now();
        let sent = self.send(item, stored, event_type, delivery);
        let (status, error) = match tokio::time::timeout(self.timeout, sent).await {
            Ok(Ok(status)) => (Some(status), None),
            Ok(Err(error)) => (None, Some(Chain(&*error).to_string())),
            Err(_) => (None, Some(format!("no answer within {:?}", self.timeout))),
        };
        Handed {
            event: item.event.to_string(),
            delivery,
            event_type,
            status,
            error,
            duration_ms: started.elapsed().as_millis(),
        }
    }

    async fn send(
        &self,
        item: &Item,
        stored: &Stored,
        event_type: &str,
        delivery: Option<&str>,
    ) -> Result<u16, Box<dyn std::error::Error + Send + Sync>> {
        let id = item.event.to_string();
        let body = stored.payload.get().as_bytes();
        let timestamp = Utc::now().timestamp();
        let signature = sign(std::slice::from_ref(&self.key), &id, timestamp, body);
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.url.as_str())
            .header(CONTENT_TYPE, &stored.content_type)
            .header(USER_AGENT, AGENT)
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .header("zyven-event-type", event_type)
            .header("zyven-attempt", "1");
        if let Some(delivery) = delivery {
            request = request.header("zyven-delivery-id", delivery);
        }
        if let Some(trace) = &stored.traceparent {
            request = request.header("traceparent", trace);
        }
        let request = request.body(Full::from(body.to_vec()))?;
        let answer = self.http.request(request).await?;
        let status = answer.status().as_u16();
        // Read, so that the connection can be used again; a longer body is not of interest.
        let _ = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await;
        Ok(status)
    }
}

impl Handed<'_> {
    fn print(&self, output: &Output) -> Result<(), Failure> {
        if output.is_json() {
            return output.document(self);
        }
        let at = paint(FAINT, Utc::now().format("%H:%M:%S%.3f"));
        let status = match self.status {
            Some(status @ 200..=299) => paint(GOOD, status),
            Some(status) => paint(BAD, status),
            None => paint(BAD, "---"),
        };
        let Self {
            event, duration_ms, ..
        } = self;
        let event_type = shown(self.event_type);
        let error = self
            .error
            .as_deref()
            .map(|text| format!("  {}", shown(text)));
        output.line(format!(
            "{at}  {status}  {duration_ms:>5} ms  {event}  {event_type}{}",
            error.unwrap_or_default()
        ))
    }
}
