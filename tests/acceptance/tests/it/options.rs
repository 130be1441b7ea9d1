//! What a publisher may ask of an event's delivery.

use serde_json::json;

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
