//! docs/operational-events.md, from what befalls an endpoint to the request that tells of it; each service with its
//! own database role.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use zyven_testkit::{Answer, wait_until};

use crate::roles::stack_with_roles;
use crate::stack::{PATIENCE, Stack};

/// What the endpoint for operational events was told, by type.
fn told(stack: &Stack) -> BTreeMap<String, Vec<Value>> {
    let mut told: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for request in stack.receiver.requests_at("/operations") {
        let payload = serde_json::from_slice(&request.body).expect("JSON");
        let event_type = request.header("zyven-event-type").to_owned();
        told.entry(event_type).or_default().push(payload);
    }
    told
}

#[tokio::test]
async fn what_befalls_deliveries_and_endpoints_is_told_to_whoever_asked() {
    let (mut stack, _server) = stack_with_roles().await;
    stack
        .endpoint("/operations", json!({ "event_types": ["zyven.*"] }))
        .await;
    let everything = stack.endpoint("/everything", json!({})).await;
    let mut ids = Vec::new();
    for (path, status) in [("/failing", 500), ("/rejecting", 404), ("/gone", 410)] {
        stack.receiver.answer_at(path, Answer::status(status));
        let only = json!({ "event_types": [path.trim_start_matches('/')], "description": path });
        let endpoint = stack.endpoint(path, only).await;
        ids.push(endpoint["id"].clone());
    }
    let rejected = stack.publish("rejecting", json!({})).await;
    stack.publish("gone", json!({})).await;
    // As many failures in a row as open a breaker.
    for _ in 0..10 {
        stack.publish("failing", json!({})).await;
    }

    wait_until("all of it is told", PATIENCE, async || {
        let told = told(&stack);
        let counts: Vec<(&str, usize)> = (told.iter())
            .map(|(event_type, payloads)| (event_type.as_str(), payloads.len()))
            .collect();
        let expected = [
            ("zyven.delivery.dead_lettered", 2),
            ("zyven.endpoint.breaker_opened", 1),
            ("zyven.endpoint.disabled", 1),
        ];
        if counts == expected {
            Ok(())
        } else {
            Err(format!("{counts:?}"))
        }
    })
    .await;
    let told = told(&stack);
    let opened = &told["zyven.endpoint.breaker_opened"][0];
    assert_eq!(opened["endpoint_id"], ids[0]);
    assert_eq!(opened["description"], "/failing");
    let dead = &told["zyven.delivery.dead_lettered"];
    let dead_of = |id: &Value| dead.iter().find(|dead| dead["endpoint_id"] == *id);
    let dead_of_rejecting = dead_of(&ids[1]).expect("told");
    assert_eq!(dead_of_rejecting["event_id"], json!(rejected));
    assert_eq!(dead_of_rejecting["reason"], "rejected");
    assert_eq!(dead_of(&ids[2]).expect("told")["reason"], "gone");
    let disabled = &told["zyven.endpoint.disabled"][0];
    assert_eq!(disabled["endpoint_id"], ids[2]);

    let taken = (stack.receiver)
        .wait_for_requests_at("/everything", 12, PATIENCE)
        .await;
    let foreign = (taken.iter())
        .filter(|request| request.header("zyven-event-type").starts_with("zyven."))
        .count();
    assert_eq!((taken.len(), foreign), (12, 0), "{everything}");

    let sql = stack.database.client().await;
    let asked =
        "SELECT endpoint, status FROM zyven.endpoint_health WHERE breaker_open_until IS NOT NULL";
    let open = sql.query(asked, &[]).await.expect("asked");
    let open: Vec<(&str, &str)> = open.iter().map(|row| (row.get(0), row.get(1))).collect();
    let failing = ids[0].as_str().expect("an id");
    assert_eq!(open, [(failing, "enabled")], "seen in SQL as well");
    let mut dispatcher = stack.take_process("dispatcher");
    dispatcher.terminate();
    let said = dispatcher.ended(PATIENCE).await.stderr;
    let line_of = |id: &Value, beginning: &str| -> Value {
        let lines = said
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut lines = lines.filter(|line| line["endpoint.id"] == *id);
        let says =
            |line: &Value| (line["message"].as_str()).is_some_and(|it| it.starts_with(beginning));
        lines
            .find(says)
            .unwrap_or_else(|| panic!("{beginning}: {said}"))
    };
    assert_eq!(line_of(&ids[0], "breaker opened")["probe_in_ms"], 30_000);
    let disabled = line_of(&ids[2], "endpoint disabled: it answered 410");
    for (field, prefix) in [
        ("tenant.id", "ten_"),
        ("event.id", "evt_"),
        ("delivery.id", "dlv_"),
    ] {
        let told = disabled[field].as_str();
        assert!(told.is_some_and(|id| id.starts_with(prefix)), "{disabled}");
    }
}
