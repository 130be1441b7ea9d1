//! Another server takes over: a standby, synchronous or not, or a backup.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use zyven_testkit::{Answer, ChaosProxy, Postgres, ReceivedRequest, TestDatabase, wait_until};

use crate::stack::{PATIENCE, Spread, Stack};

const PUBLISHERS: usize = 4;

/// Publishers that send event after event, and repeat what was not acknowledged with the same key.
struct Load {
    /// Event ids with the number in their payload.
    acknowledged: Arc<Mutex<HashMap<String, usize>>>,
    publishing: Vec<tokio::task::JoinHandle<()>>,
    stop: Arc<tokio::sync::Notify>,
}

impl Load {
    fn on(stack: &Stack) -> Self {
        let acknowledged: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
        let stop = Arc::new(tokio::sync::Notify::new());
        let next = Arc::new(AtomicUsize::new(0));
        let publisher = |_| {
            let (http, url) = (stack.http.clone(), format!("{}/v1/events", stack.api));
            let (key, acknowledged) = (stack.key.clone(), Arc::clone(&acknowledged));
            let (next, stop) = (Arc::clone(&next), Arc::clone(&stop));
            tokio::spawn(async move {
                let publishing = async {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let id = publish(&http, &url, &key, number).await;
                        let mut acknowledged = acknowledged.lock().expect("nobody panics");
                        acknowledged.insert(id, number);
                    }
                };
                tokio::select! {
                    () = publishing => {}
                    () = stop.notified() => {}
                }
            })
        };
        Self {
            publishing: (0..PUBLISHERS).map(publisher).collect(),
            acknowledged,
            stop,
        }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().expect("nobody panics").len()
    }

    async fn more(&self, events: usize) {
        let wanted = self.count() + events;
        wait_until("more events are acknowledged", PATIENCE * 2, async || {
            let count = self.count();
            if count >= wanted { Ok(()) } else { Err(count) }
        })
        .await;
    }

    /// Ends it, and returns all that was acknowledged.
    async fn end(self) -> HashMap<String, usize> {
        self.stop.notify_waiters();
        for publishing in self.publishing {
            publishing.await.expect("a publisher does not panic");
        }
        let acknowledged = self.acknowledged.lock().expect("nobody panics");
        acknowledged.clone()
    }
}

async fn publish(http: &reqwest::Client, url: &str, key: &str, number: usize) -> String {
    let event = json!({ "type": "a.b", "payload": { "number": number } });
    loop {
        let request = http
            .post(url)
            .bearer_auth(key)
            .header("idempotency-key", format!("key-{number}"))
            .json(&event);
        if let Ok(answer) = request.send().await {
            let status = answer.status().as_u16();
            let text = answer.text().await.unwrap_or_default();
            match status {
                200 | 202 => {
                    let body: Value = serde_json::from_str(&text).expect("JSON");
                    return body["id"].as_str().expect("an id").to_owned();
                }
                503 => {}
                _ => panic!("{status}: {text}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Ids of events that arrived, each with the numbers in the payloads.
fn arrived(stack: &Stack) -> HashMap<String, Vec<u64>> {
    let mut arrived: HashMap<String, Vec<u64>> = HashMap::new();
    for request in stack.receiver.requests() {
        let body: Value = serde_json::from_slice(&request.body).expect("JSON");
        let number = body["number"].as_u64().expect("a number");
        let id = request.header("webhook-id").to_owned();
        arrived.entry(id).or_default().push(number);
    }
    arrived
}

/// Every one of `events` has arrived, and whatever came under its id was the same.
async fn wait_for_all(stack: &Stack, events: &HashMap<String, usize>) {
    wait_until("every event has arrived", PATIENCE * 2, async || {
        let arrived = arrived(stack);
        let missing = events.keys().filter(|id| !arrived.contains_key(*id));
        match missing.count() {
            0 => Ok(()),
            missing => Err(missing),
        }
    })
    .await;
    let arrived = arrived(stack);
    for (id, &number) in events {
        let numbers = &arrived[id];
        assert!(
            numbers.iter().all(|&n| n == number as u64),
            "{id}: {numbers:?}"
        );
    }
}

async fn events_of(database: &TestDatabase) -> HashSet<String> {
    let sql = database.client().await;
    let rows = sql
        .query("SELECT zyven.typed_id('evt', id) FROM zyven.events", &[])
        .await
        .expect("asked");
    rows.iter().map(|row| row.get(0)).collect()
}

async fn stack_with_hosts(database: TestDatabase, standby: &Postgres) -> Stack {
    let url = database.url_of_hosts(&[database.address(), standby.address()]);
    let stack = Stack::start_on(
        database,
        Spread::ProcessEach,
        &[("ZYVEN_DATABASE_URL", &url)],
    )
    .await;
    stack
        .endpoint("/hook", json!({ "timeout_ms": 1000, "retry_base_ms": 200 }))
        .await;
    stack
}

#[tokio::test]
async fn a_failover_to_a_synchronous_standby_loses_nothing_acknowledged_and_needs_no_restart() {
    let mut primary = Postgres::private().await;
    let database = primary.database().await;
    let standby = primary.standby("second", &[]).await;
    primary.wait_for_only("second").await;
    let copy = standby.copy_of(&database);
    let mut stack = stack_with_hosts(database, &standby).await;
    let load = Load::on(&stack);
    load.more(100).await;
    primary.kill().await;
    standby.promote().await;
    stack.database = copy;
    load.more(100).await;
    let acknowledged = load.end().await;
    wait_for_all(&stack, &acknowledged).await;
    stack.assert_settled().await;
    let stored = events_of(&stack.database).await;
    assert!(acknowledged.keys().all(|id| stored.contains(id)));
    for name in ["ingest", "relay", "dispatcher"] {
        stack.wait_until_ready(name).await;
    }
}

#[tokio::test]
async fn a_failover_to_an_asynchronous_standby_loses_what_it_had_not_got_and_the_rest_goes_on() {
    let mut primary = Postgres::private().await;
    let database = primary.database().await;
    let line = ChaosProxy::start(primary.address()).await;
    let standby = primary.standby_by_way_of("second", line.address()).await;
    let copy = standby.copy_of(&database);
    let mut stack = stack_with_hosts(database, &standby).await;
    let load = Load::on(&stack);
    load.more(100).await;
    let before = load.acknowledged.lock().expect("nobody panics").clone();
    wait_until("the standby has them", PATIENCE, async || {
        let has = events_of(&copy).await;
        before.keys().all(|id| has.contains(id))
    })
    .await;
    line.pause();
    load.more(50).await;
    primary.kill().await;
    // What was acknowledged ahead of the crash may be on its way to its publisher.
    wait_until("ingest has noticed", PATIENCE, async || {
        let missing = stack.missing("ingest").await?;
        let is_noticed = missing
            .as_object()
            .is_some_and(|missing| !missing.is_empty());
        if is_noticed {
            Ok(())
        } else {
            Err(missing.to_string())
        }
    })
    .await;
    let at_the_crash: HashSet<String> = {
        let acknowledged = load.acknowledged.lock().expect("nobody panics");
        acknowledged.keys().cloned().collect()
    };
    standby.promote().await;
    stack.database = copy;
    load.more(100).await;
    let acknowledged = load.end().await;
    let stored = events_of(&stack.database).await;
    let lost: HashSet<&String> = acknowledged
        .keys()
        .filter(|id| !stored.contains(*id))
        .collect();
    // The loss is real, and no more than what was acknowledged while nothing reached the standby.
    assert!(!lost.is_empty(), "nothing was lost: the line was not cut");
    for id in lost {
        assert!(
            at_the_crash.contains(id) && !before.contains_key(id),
            "{id}"
        );
    }
    let kept: HashMap<String, usize> = acknowledged
        .into_iter()
        .filter(|(id, _)| stored.contains(id))
        .collect();
    wait_for_all(&stack, &kept).await;
    stack.assert_settled().await;
}

#[tokio::test]
async fn a_restored_backup_goes_on_with_an_empty_redis() {
    let mut primary = Postgres::private().await;
    let mut before = Stack::start_on(primary.database().await, Spread::ProcessEach, &[]).await;
    let terms = json!({ "timeout_ms": 1000, "retry_base_ms": 200 });
    before.endpoint("/hook", terms).await;
    // Slow enough that the backup finds deliveries in every state.
    before
        .receiver
        .answer(Answer::status(200).after(Duration::from_millis(100)));
    let load = Load::on(&before);
    load.more(100).await;
    let before_the_backup = load.acknowledged.lock().expect("nobody panics").clone();
    let backup = primary.base_backup().await;
    load.more(100).await;
    let acknowledged = load.end().await;
    for (_, process) in &mut before.processes {
        process.kill();
    }
    primary.kill().await;
    let sent_before = before.receiver.request_count();

    let restored = backup.restore(&[]).await;
    let after = Stack::start_on(restored.copy_of(&before.database), Spread::ProcessEach, &[]).await;
    let stored = events_of(&after.database).await;
    assert!(before_the_backup.keys().all(|id| stored.contains(id)));
    after.assert_settled().await;
    let kept: HashMap<String, usize> = acknowledged
        .into_iter()
        .filter(|(id, _)| stored.contains(id))
        .collect();
    wait_for_all(&before, &kept).await;
    // What was finished after the backup was unfinished in it, and is sent again under the same id.
    let again = before.receiver.request_count() - sent_before;
    let sql = after.database.client().await;
    let finished = sql
        .query_one(
            "SELECT count(*) FROM zyven.finished_deliveries WHERE state = 'DELIVERED'",
            &[],
        )
        .await
        .expect("a count");
    let finished = usize::try_from(finished.get::<_, i64>(0)).expect("few");
    assert_eq!(finished, stored.len(), "one delivery for each event");
    assert!(again <= finished, "{again} sent again of {finished}");
    let requests = before.receiver.requests();
    let numbers_and_ids = |of: &[ReceivedRequest]| -> HashMap<String, String> {
        of.iter()
            .map(|one| {
                let body = String::from_utf8_lossy(&one.body).into_owned();
                (body, one.header("webhook-id").to_owned())
            })
            .collect()
    };
    let first = numbers_and_ids(&requests[..sent_before]);
    let second = numbers_and_ids(&requests[sent_before..]);
    let repeated: Vec<_> = second
        .iter()
        .filter(|(body, _)| first.contains_key(*body))
        .collect();
    assert!(
        !repeated.is_empty(),
        "nothing was finished between backup and crash"
    );
    for (body, id) in repeated {
        assert_eq!(id, &first[body], "{body}");
    }
    // The key of before still works, and so does the endpoint's secret.
    let event = json!({ "type": "a.b", "payload": { "number": 4_000_000 } });
    let (status, accepted) = after
        .call_as(&before.key, "POST", "/v1/events", Some(event))
        .await;
    assert_eq!(status, 202, "{accepted}");
    let id = accepted["id"].as_str().expect("an id").to_owned();
    wait_for_all(&before, &HashMap::from([(id, 4_000_000)])).await;
    after.assert_settled().await;
}
