//! Publishers who do as the API's documentation asks them to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::dice::Dice;
use crate::event::EventSource;
use crate::ledger::{Failure, Ledger};

/// Longer than ingest tries to store an event.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);
/// Between two tries of one request; doubles from the first to the last of these.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A tenant's client, with one or several addresses of the API.
#[derive(Debug, Clone)]
pub struct Publisher {
    http: reqwest::Client,
    urls: Vec<String>,
    key: String,
}

/// Events in even distances, whatever becomes of those before: an open loop.
#[derive(Debug, Clone)]
pub struct Load {
    /// What is sent.
    pub source: EventSource,
    /// The number of the first one.
    pub first: u64,
    /// How many there are at most.
    pub events_max: u64,
    /// How fast they come.
    pub events_per_s: f64,
    /// How long a request is repeated until its publisher gives up.
    pub patience: Duration,
    /// Requests under way at the same time, like the connections of a client's pool. Without a limit, thousands of
    /// repeated requests of an outage keep a small machine so busy with timing out that none of them gets through.
    pub requests_max: usize,
}

impl Load {
    /// So many events at this rate.
    #[must_use]
    pub fn new(source: EventSource, events_max: u64, events_per_s: f64) -> Self {
        Self {
            source,
            first: 0,
            events_max,
            events_per_s,
            patience: Duration::from_secs(120),
            requests_max: 128,
        }
    }

    /// Publishes all of it. Returns when the last request is answered or given up.
    pub async fn run(&self, publisher: &Publisher, ledger: &Ledger) {
        self.run_until(publisher, ledger, std::future::pending())
            .await;
    }

    /// The same, but sends nothing new once `enough` is ready.
    pub async fn run_until(
        &self,
        publisher: &Publisher,
        ledger: &Ledger,
        enough: impl Future<Output = ()>,
    ) {
        let started = tokio::time::Instant::now();
        let mut requests = JoinSet::new();
        let places = Arc::new(Semaphore::new(self.requests_max));
        tokio::pin!(enough);
        for number in 0..self.events_max {
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let due = Duration::from_secs_f64(number as f64 / self.events_per_s);
            tokio::select! {
                () = tokio::time::sleep_until(started + due) => {}
                () = &mut enough => break,
            }
            while requests.try_join_next().is_some() {}
            let number = self.first + number;
            ledger.sent(number);
            // Ends with its acknowledgement, or when its publisher gives up.
            let request = Request {
                publisher: publisher.clone(),
                ledger: ledger.clone(),
                source: self.source,
                number,
                patience: self.patience,
                places: Arc::clone(&places),
            };
            requests.spawn(request.publish());
        }
        while requests.join_next().await.is_some() {}
    }
}

impl Publisher {
    /// Asks these addresses in turn.
    ///
    /// # Panics
    ///
    /// When there are none.
    #[must_use]
    pub fn new(urls: impl IntoIterator<Item = String>, key: &str) -> Self {
        let urls: Vec<String> = urls.into_iter().collect();
        assert!(!urls.is_empty(), "a publisher needs an address");
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(ANSWER_TIME_MAX)
            .build()
            .expect("a client without special wishes can be made");
        Self {
            http,
            urls,
            key: key.to_owned(),
        }
    }

    /// One request; `turn` chooses the address.
    async fn post(&self, turn: u64, body: String, key: &str) -> Answer {
        let url = &self.urls[(turn % self.urls.len() as u64) as usize];
        let sent = self
            .http
            .post(format!("{url}/v1/events"))
            .bearer_auth(&self.key)
            .header("content-type", "application/json")
            .header("idempotency-key", key)
            .body(body)
            .send()
            .await;
        let Ok(answer) = sent else {
            return Answer::None;
        };
        let status = answer.status().as_u16();
        let retry_after = answer
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let Ok(text) = answer.text().await else {
            return Answer::None;
        };
        match status {
            200 | 202 => match acknowledged(&text) {
                Some((id, deliveries)) => Answer::Acknowledged(id, deliveries),
                None => Answer::Refused(format!("{status} {text}")),
            },
            429 | 500..=599 => Answer::Later(status, retry_after),
            _ => Answer::Refused(format!("{status} {text}")),
        }
    }
}

enum Answer {
    Acknowledged(Uuid, Option<u64>),
    /// Ask again.
    Later(u16, Option<Duration>),
    /// Asking again would not help.
    Refused(String),
    None,
}

/// The event's id, and to how many endpoints it goes, which a repeated request is not told.
fn acknowledged(text: &str) -> Option<(Uuid, Option<u64>)> {
    let answer: Value = serde_json::from_str(text).ok()?;
    let id = answer["id"].as_str()?.strip_prefix("evt_")?.parse().ok()?;
    Some((id, answer["deliveries"].as_u64()))
}

/// One event on its way to its acknowledgement.
struct Request {
    publisher: Publisher,
    ledger: Ledger,
    source: EventSource,
    number: u64,
    patience: Duration,
    places: Arc<Semaphore>,
}

impl Request {
    async fn publish(self) {
        let (number, ledger) = (self.number, &self.ledger);
        let event = self.source.event(number);
        let ordering = event
            .ordering_key
            .map(|key| format!(r#","ordering_key":"{key}""#))
            .unwrap_or_default();
        let body = format!(
            r#"{{"type":"{}"{ordering},"payload":{}}}"#,
            event.event_type, event.payload
        );
        let mut dice = Dice::of(self.source.seed.wrapping_add(1), number);
        let mut pause = PAUSE_MIN;
        let began = Instant::now();
        for turn in number.. {
            let wait = match self.post(turn, body.clone(), &event.key).await {
                Answer::Acknowledged(id, deliveries) => {
                    return ledger.acknowledged(number, id, deliveries);
                }
                Answer::Refused(why) => return ledger.refused(number, &why),
                Answer::Later(status, retry_after) => {
                    ledger.failed(number, Failure::Status(status));
                    retry_after.unwrap_or(pause)
                }
                Answer::None => {
                    ledger.failed(number, Failure::NoAnswer);
                    pause
                }
            };
            if began.elapsed() > self.patience {
                return;
            }
            // Somewhat uneven, or all of an outage's publishers come back in the same moment.
            tokio::time::sleep(wait + pause / 4 * (dice.below(4) as u32)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// One try, when there is a place for it.
    async fn post(&self, turn: u64, body: String, key: &str) -> Answer {
        let _place = self.places.acquire().await;
        self.publisher.post(turn, body, key).await
    }
}
