//! A publisher that keeps on, and keeps the ledger.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use zyven_testkit::wait_until;

use crate::stack::{PATIENCE, Stack};

/// Between two events of one publisher.
const PAUSE: Duration = Duration::from_millis(10);

/// Publishes until it is stopped. A request that fails is repeated with its key until it is acknowledged.
pub(crate) struct Load {
    stop: watch::Sender<bool>,
    acknowledged: watch::Receiver<usize>,
    publisher: JoinHandle<HashSet<String>>,
}

impl Load {
    pub(crate) fn start(stack: &Stack) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (counted, acknowledged) = watch::channel(0);
        let (http, url, key) = (
            stack.http.clone(),
            format!("{}/v1/events", stack.api),
            stack.key.clone(),
        );
        let publisher = tokio::spawn(async move {
            let mut events = HashSet::new();
            while !*stopped.borrow() {
                let number = events.len();
                let request = http
                    .post(&url)
                    .bearer_auth(&key)
                    .header("Idempotency-Key", format!("load-{number}"))
                    .json(&json!({ "type": "a.b", "payload": { "number": number } }));
                if let Some(id) = acknowledged_id(request).await {
                    events.insert(id);
                    counted.send_replace(events.len());
                }
                tokio::time::sleep(PAUSE).await;
            }
            events
        });
        Self {
            stop,
            acknowledged,
            publisher,
        }
    }

    /// Returns when so many more events have been acknowledged.
    pub(crate) async fn goes_on(&mut self, more: usize) {
        let wanted = *self.acknowledged.borrow() + more;
        let reached = self.acknowledged.wait_for(|count| *count >= wanted);
        tokio::time::timeout(PATIENCE * 3, reached)
            .await
            .expect("events are accepted")
            .expect("the publisher lives");
    }

    /// Ends it; returns every event that was acknowledged.
    pub(crate) async fn stop(self) -> HashSet<String> {
        self.stop.send_replace(true);
        self.publisher.await.expect("the publisher ends")
    }
}

async fn acknowledged_id(request: reqwest::RequestBuilder) -> Option<String> {
    let answer = request.send().await.ok()?;
    if !answer.status().is_success() {
        return None;
    }
    let body: Value = answer.json().await.ok()?;
    Some(body["id"].as_str()?.to_owned())
}

/// Waits until the receiver has had every one of `events`.
pub(crate) async fn wait_for_all(stack: &Stack, events: &HashSet<String>) {
    wait_until("every event has arrived", PATIENCE * 4, async || {
        let arrived: HashSet<String> = (stack.receiver.requests().iter())
            .map(|request| request.header("webhook-id").to_owned())
            .collect();
        let missing = events.difference(&arrived).count();
        if missing == 0 { Ok(()) } else { Err(missing) }
    })
    .await;
}
