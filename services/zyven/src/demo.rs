//! A few dozen realistic events and their way, for whoever wants to see Zyven work.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use chrono::Utc;
use serde_json::{Value, json};
use zyven_runtime::config::Source;

use crate::admin::{self, DEMO_TENANT};
use crate::{Failure, settings};

/// Post some dozens of events to a running stack and show their way.
///
/// Uses the database (for a key of its own, valid for an hour) and the API.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where `zyven echo` listens; by default where the demo tenant's endpoint points to
    #[arg(long)]
    receiver: Option<String>,
}

/// How long the demo watches before it gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(40);
const KEY_LIFETIME: chrono::TimeDelta = chrono::TimeDelta::hours(1);

/// Endpoints of the demo: path at the echo receiver, what it takes, how it is retried.
const ENDPOINTS: [(&str, &str, &[&str]); 4] = [
    (
        "/demo",
        "answers at once",
        &["demo.order.*", "demo.invoice.*", "demo.customer.*"],
    ),
    ("/slow", "answers after 1.5 s", &["demo.report.*"]),
    ("/flaky", "fails twice, then answers", &["demo.payment.*"]),
    ("/down", "always fails", &["demo.legacy.*"]),
];

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let demo = Demo::prepare(args.receiver).await?;
    println!(
        "posting to {}; receiving at {}",
        demo.api_url, demo.receiver
    );
    let mut endpoints = Vec::new();
    for (path, behaviour, event_types) in ENDPOINTS {
        let id = demo.make_endpoint(path, event_types).await?;
        println!(
            "  {id}  {path:<7} {behaviour:<26} {}",
            event_types.join(" ")
        );
        endpoints.push(id);
    }
    let mut deliveries = demo.publish_all().await?;
    println!("posted {} events\n", deliveries.len());
    let outcome = demo.watch(&mut deliveries).await;
    for id in endpoints {
        demo.call("DELETE", &format!("/v1/endpoints/{id}"), None)
            .await?;
    }
    outcome?;
    show(&deliveries)
}

struct Demo {
    http: reqwest::Client,
    api_url: String,
    api_key: String,
    receiver: String,
}

/// One event, and the states its delivery was seen in.
struct Watched {
    event_id: String,
    event_type: &'static str,
    posted_at: Instant,
    states: Vec<String>,
    attempts: u64,
    reason: Option<String>,
    finished_after: Option<Duration>,
}

impl Demo {
    async fn prepare(receiver: Option<String>) -> Result<Self, Failure> {
        let mut source = Source::from_environment();
        let api_url = settings::api_url(&mut source);
        source.finish()?;
        let api_url =
            api_url.ok_or_else(|| Failure::Plain("the API's address is unknown".to_owned()))?;
        let store = admin::open_store()?;
        let tenant = admin::own_tenant(&store, DEMO_TENANT).await?;
        let known = store
            .endpoints_of(tenant, None, 1)
            .await
            .map_err(Failure::other)?;
        let receiver = receiver
            .or_else(|| known.first().map(|endpoint| endpoint.url.clone()))
            .ok_or_else(|| {
                Failure::Plain("--receiver must say where `zyven echo` listens".into())
            })?;
        let ends = Utc::now() + KEY_LIFETIME;
        let key = admin::add_key(&store, tenant, "demo", Some(ends)).await?;
        Ok(Self {
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(15))
                .build()
                .map_err(Failure::other)?,
            api_url,
            api_key: key.expose(),
            receiver: receiver.trim_end_matches('/').to_owned(),
        })
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        let method = method.parse().expect("a constant of this file");
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.api_url))
            .bearer_auth(&self.api_key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.map_err(Failure::other)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(Failure::other)?;
        if !status.is_success() {
            let body = String::from_utf8_lossy(&body).into_owned();
            return Err(Failure::Plain(format!("{path} answered {status}: {body}")));
        }
        Ok(serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    async fn make_endpoint(&self, path: &str, event_types: &[&str]) -> Result<String, Failure> {
        let endpoint = json!({
            "url": format!("{}{path}", self.receiver),
            "description": "made by zyven demo",
            "event_types": event_types,
            "retry_base_ms": 400,
            "attempts_max": 4,
        });
        let made = self.call("POST", "/v1/endpoints", Some(endpoint)).await?;
        text(&made, "id").ok_or_else(|| Failure::Plain("an endpoint without an id".to_owned()))
    }

    async fn publish_all(&self) -> Result<Vec<Watched>, Failure> {
        let mut posted = Vec::new();
        for (event_type, payload) in events() {
            let event = json!({ "type": event_type, "payload": payload });
            let posted_at = Instant::now();
            let accepted = self.call("POST", "/v1/events", Some(event)).await?;
            let event_id = text(&accepted, "id")
                .ok_or_else(|| Failure::Plain("an event without an id".to_owned()))?;
            posted.push(Watched {
                event_id,
                event_type,
                posted_at,
                // What the 202 said.
                states: text(&accepted, "status").into_iter().collect(),
                attempts: 0,
                reason: None,
                finished_after: None,
            });
        }
        Ok(posted)
    }

    /// Looks at every unfinished delivery again and again until all are finished.
    async fn watch(&self, deliveries: &mut [Watched]) -> Result<(), Failure> {
        let started = Instant::now();
        loop {
            let mut open = 0;
            for watched in deliveries.iter_mut().filter(|w| w.finished_after.is_none()) {
                let path = format!("/v1/events/{}/deliveries", watched.event_id);
                watched.look(&self.call("GET", &path, None).await?);
                open += usize::from(watched.finished_after.is_none());
            }
            if open == 0 {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                return Err(Failure::Plain(format!(
                    "{open} deliveries are not finished after {} s; `make stuck` says why",
                    PATIENCE.as_secs()
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Watched {
    fn look(&mut self, page: &Value) {
        // The demo's own endpoint, not one that takes everything, is the interesting one.
        let Some(delivery) = page["data"].as_array().and_then(|list| {
            let eventful = |delivery: &&Value| delivery["status"] != "DELIVERED";
            list.iter()
                .find(eventful)
                .or_else(|| list.iter().max_by_key(|d| d["attempts"].as_u64()))
        }) else {
            return;
        };
        let Some(state) = text(delivery, "status") else {
            return;
        };
        if self.states.last() != Some(&state) {
            self.states.push(state.clone());
        }
        self.attempts = delivery["attempts"].as_u64().unwrap_or(0);
        if matches!(state.as_str(), "DELIVERED" | "DEAD_LETTERED") {
            self.reason = text(delivery, "reason");
            self.finished_after = Some(self.posted_at.elapsed());
        }
    }
}

fn text(value: &Value, member: &str) -> Option<String> {
    value[member].as_str().map(str::to_owned)
}

fn show(deliveries: &[Watched]) -> Result<(), Failure> {
    let mut ways: BTreeMap<String, (usize, &Watched)> = BTreeMap::new();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for watched in deliveries {
        seen.extend(watched.states.iter().map(String::as_str));
        let way = format!("{:<22} {}", watched.event_type, watched.states.join(" → "));
        ways.entry(way).or_insert((0, watched)).0 += 1;
    }
    for (way, (count, example)) in &ways {
        let after = example.finished_after.unwrap_or_default().as_millis();
        let reason = example
            .reason
            .as_deref()
            .map(|r| format!(", {r}"))
            .unwrap_or_default();
        println!(
            "{count:>3} × {way}   ({} attempt(s), {after} ms{reason})",
            example.attempts
        );
    }
    if let Some(dead) = deliveries.iter().find(|w| w.reason.is_some()) {
        println!(
            "\n{} lies in the dead letters: make dead-letters shows it, make replay sends it again",
            dead.event_id
        );
    }
    match seen.len() {
        5 => {
            println!(
                "\nall five states were seen: {}",
                seen.into_iter().collect::<Vec<_>>().join(", ")
            );
            Ok(())
        }
        _ => Err(Failure::Plain(format!(
            "only these states were seen: {seen:?}"
        ))),
    }
}

/// What a shop's back end might publish in a few minutes.
fn events() -> Vec<(&'static str, Value)> {
    let mut events = Vec::new();
    for number in 1001..=1010 {
        let order = format!("ORD-{number}");
        events.push(("demo.order.placed", json!({
            "order": order, "customer": format!("C-{}", number % 7),
            "lines": [{ "sku": "TEA-250", "quantity": 2, "price": "7.90" }, { "sku": "MUG-01", "quantity": 1, "price": "12.00" }],
            "total": { "amount": "27.80", "currency": "EUR" },
        })));
        events.push((
            "demo.order.shipped",
            json!({ "order": order, "carrier": "DHL", "parcels": 1 }),
        ));
        events.push(("demo.invoice.issued", json!({
            "invoice": format!("INV-{number}"), "order": order, "amount_cents": 2780, "due_days": 14,
        })));
    }
    for name in ["Ada Lovelace", "Grace Hopper", "Mary Jackson"] {
        events.push((
            "demo.customer.signed_up",
            json!({ "name": name, "newsletter": false }),
        ));
    }
    events.push((
        "demo.payment.captured",
        json!({ "invoice": "INV-1001", "amount_cents": 2780, "method": "card" }),
    ));
    events.push((
        "demo.report.ready",
        json!({ "report": "daily-sales", "rows": 1250 }),
    ));
    events.push((
        "demo.legacy.sync",
        json!({ "table": "orders", "since": "2026-01-01T00:00:00Z" }),
    ));
    events
}
