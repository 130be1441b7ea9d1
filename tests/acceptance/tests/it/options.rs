//! What a publisher may ask of an event's delivery.

use serde_json::{Value, json};
use zyven_testkit::{Answer, ReceivedRequest};

use crate::stack::{Spread, Stack};

/// Through everything: ingest, relay, Redis' near window, dispatcher.
#[tokio::test]
async fn an_event_for_later_arrives_at_its_time_and_not_before() {
    let stack = Stack::start(Spread::OneProcess).await;
    stack.endpoint("/hook", json!({})).await;
    let sql = stack.database.client().await;
    let later: String = sql
        .query_one(
            r#"SELECT to_char((now() + interval '2 s') AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"#,
            &[],
        )
        .await
        .expect("a time")
        .get(0);
    let event = json!({ "type": "a", "payload": 1, "deliver_at": later });
    let (status, accepted) = stack.call("POST", "/v1/events", Some(event)).await;
    assert_eq!(status, 202, "{accepted}");
    let id = accepted["id"].as_str().expect("an id");
    stack.publish("a", json!(2)).await;

    stack.wait_for_state(id, "DELIVERED").await;
    let bodies: Vec<_> = stack
        .receiver
        .requests()
        .into_iter()
        .map(|r| r.body)
        .collect();
    assert_eq!(bodies, ["2", "1"], "what came later and was due went first");
    let early_ms: i64 = sql
        .query_one(
            "SELECT (extract(epoch FROM e.deliver_at - a.started_at) * 1000)::bigint
               FROM zyven.attempt_log a
               JOIN zyven.events e ON e.id = a.event_id
              WHERE e.deliver_at IS NOT NULL",
            &[],
        )
        .await
        .expect("one attempt")
        .get(0);
    assert!(early_ms <= 20, "{early_ms} ms early");
    stack.assert_settled().await;
}

const KEYS: [&str; 3] = ["a", "b", "c"];
const EVENTS_PER_KEY: usize = 20;

/// The key and the number that an event of this test carries.
fn read(request: &ReceivedRequest) -> (String, usize) {
    let body: Value = serde_json::from_slice(&request.body).expect("JSON");
    let number = body["n"].as_u64().expect("a number");
    let key = body["key"].as_str().expect("a key").to_owned();
    (key, usize::try_from(number).expect("a small number"))
}

/// The first event of "a" fails until all of the other keys have arrived, and twice at least; one in
/// the middle of "c" is refused for good.
#[tokio::test]
async fn events_of_one_key_arrive_in_order_and_hold_up_nobody_else() {
    let stack = Stack::start(Spread::ProcessEach).await;
    let terms = json!({ "retry_base_ms": 50, "retry_cap_ms": 500, "attempts_max": 100 });
    stack.endpoint("/hook", terms).await;
    let (mut failures, mut of_others) = (0, 0);
    stack.receiver.answer_by(move |request| {
        let (key, number) = read(request);
        let status = match (key.as_str(), number) {
            ("a", 0) if failures < 2 || of_others < 2 * EVENTS_PER_KEY => {
                failures += 1;
                503
            }
            ("c", 7) => 404,
            _ => 200,
        };
        of_others += usize::from(key != "a");
        Some(Answer::status(status))
    });
    let events: Vec<Value> = (0..EVENTS_PER_KEY)
        .flat_map(|n| {
            KEYS.map(|key| {
                json!({ "type": "t", "ordering_key": key, "payload": { "key": key, "n": n } })
            })
        })
        .collect();
    let (status, accepted) = stack
        .call("POST", "/v1/events/batch", Some(json!(events)))
        .await;
    assert_eq!(status, 202, "{accepted}");
    stack.assert_settled().await;

    let requests: Vec<(String, usize)> = stack.receiver.requests().iter().map(read).collect();
    for key in KEYS {
        let mut numbers: Vec<usize> = requests
            .iter()
            .filter(|(of, _)| of == key)
            .map(|(_, number)| *number)
            .collect();
        // Attempts of one event follow each other; no event comes before the one before it is done.
        numbers.dedup();
        let in_order: Vec<usize> = (0..EVENTS_PER_KEY).collect();
        assert_eq!(numbers, in_order, "{key}");
    }
    let heads = requests
        .iter()
        .filter(|request| **request == ("a".to_owned(), 0));
    assert!(heads.count() >= 3, "it failed twice and was delivered");
    let sql = stack.database.client().await;
    let dead = "SELECT count(*), min(reason) FROM zyven.dead_letter_records";
    let dead = sql.query_one(dead, &[]).await.expect("a row");
    assert_eq!((dead.get(0), dead.get(1)), (1_i64, "rejected"));
}

/// What is cancelled or expires lets the next one of its key go.
#[tokio::test]
async fn a_cancelled_event_holds_up_its_key_no_longer() {
    let stack = Stack::start(Spread::OneProcess).await;
    let terms = json!({ "retry_base_ms": 3_600_000, "retry_cap_ms": 3_600_000 });
    stack.endpoint("/hook", terms).await;
    let first_fails = [Answer::status(503), Answer::status(200)];
    stack.receiver.answer_in_turn("/hook", first_fails);
    let ordered = async |n: u32| {
        let event = json!({ "type": "t", "ordering_key": "k", "payload": n });
        let (status, accepted) = stack.call("POST", "/v1/events", Some(event)).await;
        assert_eq!(status, 202, "{accepted}");
        accepted["id"].as_str().expect("an id").to_owned()
    };
    let first = ordered(1).await;
    stack.wait_for_state(&first, "RETRY_SCHEDULED").await;
    let second = ordered(2).await;
    let reason = json!({ "reason": "no longer true" });
    let path = format!("/v1/events/{first}/cancel");
    let (status, answer) = stack.call("POST", &path, Some(reason)).await;
    assert_eq!(status, 200, "{answer}");
    stack.wait_for_state(&second, "DELIVERED").await;
    let bodies: Vec<_> = stack
        .receiver
        .requests()
        .into_iter()
        .map(|r| r.body)
        .collect();
    assert_eq!(bodies, ["1", "2"]);
    stack.assert_settled().await;
}
