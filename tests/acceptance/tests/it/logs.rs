//! The three lines that docs/operations/logs.md promises, as real processes write them.

use serde_json::{Value, json};
use zyven_testkit::Answer;

use crate::stack::{PATIENCE, Spread, Stack};

const DOCUMENTED: &str = include_str!("../../../../docs/operations/logs.md");
const PAYLOAD: &str = "a-fact-of-the-tenants-own";
const PATH: &str = "/hook-with-a-long-secret-in-it";
const QUERY: &str = "token-in-the-query";

/// What a stopped service has said under this name, each line with documented fields only.
fn lines(said: &str, message: &str) -> Vec<Value> {
    let lines = said
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let lines: Vec<Value> = lines
        .filter(|line: &Value| line["message"] == message)
        .collect();
    for line in &lines {
        for field in line.as_object().expect("an object").keys() {
            let is_documented = DOCUMENTED.contains(&format!("`{field}`"));
            assert!(is_documented, "{field} of {message} is not documented");
        }
        let duration = line["duration_ms"].as_f64();
        assert!(duration.is_some_and(|ms| ms > 0.0), "{line}");
        let is_accepted = line["http.route"] == "/v1/events" && line["http.status"] == 202;
        let level = if is_accepted { "DEBUG" } else { "INFO" };
        assert_eq!(line["level"], level, "{line}");
    }
    lines
}

/// Exactly these fields, and what is asked of some of them.
fn assert_line(line: &Value, fields: &str, values: &[(&str, Value)]) {
    let mut told: Vec<&str> = (line.as_object().expect("an object").keys())
        .map(String::as_str)
        .filter(|name| !["timestamp", "level", "message", "target"].contains(name))
        .collect();
    told.sort_unstable();
    let mut expected: Vec<&str> = fields.split_whitespace().collect();
    expected.sort_unstable();
    assert_eq!(told, expected, "{line}");
    for (name, value) in values {
        assert_eq!(line[*name], *value, "{name} of {line}");
    }
}

#[tokio::test]
async fn each_request_attempt_and_decision_is_one_line_that_tells_no_secret() {
    let settings = [("ZYVEN_LOG", "info,zyven_ingest::exchange=debug")];
    let mut stack = Stack::start_with(Spread::ProcessEach, &settings).await;
    let url = stack.receiver.url(&format!("{PATH}?key={QUERY}"));
    let (status, endpoint) = stack
        .call("POST", "/v1/endpoints", Some(json!({ "url": url })))
        .await;
    assert_eq!(status, 201, "{endpoint}");
    let event = json!({ "type": "a.b", "payload": { "fact": PAYLOAD } });
    let request = (stack.http.post(format!("{}/v1/events", stack.api)))
        .bearer_auth(&stack.key)
        .header("x-request-id", "my-own-id")
        .json(&event);
    let accepted: Value = (request.send().await.expect("an answer").json().await).expect("JSON");
    let delivered = accepted["id"].as_str().expect("an id").to_owned();
    stack.wait_for_state(&delivered, "DELIVERED").await;
    stack.receiver.answer(Answer::status(404));
    let refused = stack.publish("a.b", json!({ "fact": PAYLOAD })).await;
    stack.wait_for_state(&refused, "DEAD_LETTERED").await;
    let (status, _) = stack
        .call("GET", &format!("/v1/nothing/{PAYLOAD}"), None)
        .await;
    assert_eq!(status, 404);

    let mut said = Vec::new();
    for service in ["ingest", "relay", "dispatcher", "egress"] {
        let mut process = stack.take_process(service);
        process.terminate();
        said.push(process.ended(PATIENCE).await.stderr);
    }
    let [ingest, relay, dispatcher, egress] = &said[..] else {
        unreachable!("four services");
    };

    let requests = lines(ingest, "request");
    assert_eq!(requests.len(), 4, "{ingest}");
    let about_an_event =
        "request.id http.method http.route http.status tenant.id event.id duration_ms";
    assert_line(
        &requests[1],
        about_an_event,
        &[
            ("request.id", json!("my-own-id")),
            ("http.method", json!("POST")),
            ("http.route", json!("/v1/events")),
            ("http.status", json!(202)),
            ("event.id", json!(delivered)),
        ],
    );
    assert_line(
        &requests[2],
        about_an_event,
        &[("event.id", json!(refused))],
    );
    assert_line(
        &requests[3],
        "request.id http.method http.route http.status code duration_ms",
        &[
            ("http.method", json!("GET")),
            ("http.route", json!("none")),
            ("http.status", json!(404)),
        ],
    );

    let attempts = lines(dispatcher, "attempted");
    assert_eq!(attempts.len(), 2, "{dispatcher}");
    let fields = "tenant.id event.id delivery.id attempt.number endpoint.id endpoint.host http.status verdict
                  duration_ms resent";
    assert_line(
        &attempts[0],
        &format!("{fields} connect_ms"),
        &[
            ("tenant.id", requests[1]["tenant.id"].clone()),
            ("event.id", json!(delivered)),
            ("attempt.number", json!(1)),
            ("endpoint.id", endpoint["id"].clone()),
            ("endpoint.host", json!("127.0.0.1")),
            ("http.status", json!(200)),
            ("verdict", json!("delivered")),
        ],
    );
    assert_line(
        &attempts[1],
        fields,
        &[
            ("event.id", json!(refused)),
            ("http.status", json!(404)),
            ("verdict", json!("rejected")),
        ],
    );

    let decisions = lines(egress, "decided");
    assert_eq!(
        decisions.len(),
        1,
        "both attempts used one connection: {egress}"
    );
    assert_line(
        &decisions[0],
        "endpoint.host endpoint.port decision reason address.class duration_ms",
        &[
            ("endpoint.host", json!("127.0.0.1")),
            ("decision", json!("open")),
            ("reason", json!("allowed")),
        ],
    );

    let secret = endpoint["secret"].as_str().expect("a secret");
    for text in [ingest, relay, dispatcher, egress] {
        for private in [PAYLOAD, PATH, QUERY, stack.key.as_str(), secret] {
            assert!(!text.contains(private), "{private} was said:\n{text}");
        }
    }
}

#[tokio::test]
async fn an_attempt_that_outlasts_the_grace_time_is_one_line_too() {
    let settings = [("ZYVEN_DISPATCHER_GRACE", "1s")];
    let mut stack = Stack::start_with(Spread::ProcessEach, &settings).await;
    stack.receiver.answer(Answer::hang());
    let endpoint = stack.endpoint("/hook", json!({})).await;
    let event = stack.publish("a.b", json!({})).await;
    stack.receiver.wait_for_requests(1, PATIENCE).await;

    let mut dispatcher = stack.take_process("dispatcher");
    dispatcher.terminate();
    let said = dispatcher.ended(PATIENCE).await.stderr;
    let attempts = lines(&said, "attempted");
    assert_eq!(attempts.len(), 1, "{said}");
    assert_line(
        &attempts[0],
        "tenant.id event.id delivery.id attempt.number endpoint.id endpoint.host error verdict duration_ms",
        &[
            ("event.id", json!(event)),
            ("endpoint.id", endpoint["id"].clone()),
            ("error", json!("cut_off")),
            ("verdict", json!("release")),
        ],
    );
}
