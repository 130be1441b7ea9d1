//! Commands that go on: tail, listen.

use serde_json::{Value, json};
use zyven_domain::signature::{SigningSecret, VerifyingKey, verify};
use zyven_testkit::{Answer, ReceivedRequest, Receiver};

use crate::cli::{Shell, text};
use crate::stack::{PATIENCE, Spread, Stack};

#[tokio::test]
async fn tail_shows_each_event_once_as_it_arrives() {
    let stack = Stack::start(Spread::OneProcess).await;
    let shell = Shell::on(&stack);
    let before = stack.publish("a", json!("before")).await;
    let tail = ["events", "tail", "--count", "3", "--payload", "--json"];
    let mut tail = shell.start(&tail);
    tail.says("following", PATIENCE).await;
    let mut published = Vec::new();
    for number in 0..3 {
        published.push(stack.publish("a", json!(number)).await);
    }
    let tailed = tail.ended(PATIENCE).await.expect_success();
    let lines: Vec<Value> = tailed
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON on each line"))
        .collect();
    let ids: Vec<&str> = lines.iter().map(|line| text(line, "id")).collect();
    assert_eq!(ids, published, "in order, without the one before");
    assert_eq!(lines[2]["payload"], 2);

    let all = [
        "events", "tail", "--since", "10m", "--type", "a", "--count", "4",
    ];
    let all = shell.ok(&all).await;
    assert!(all.contains(&before) && all.lines().count() == 4, "{all}");
}

/// Answers 200 to what this secret has signed, 401 to all else.
fn checking(receiver: &Receiver, secret: &str) {
    let secret = SigningSecret::parse(secret).unwrap_or_else(|error| panic!("{error}"));
    let key = VerifyingKey::Shared(secret);
    receiver.answer_by(move |request| {
        let is_good = verify(
            &key,
            request.header("webhook-id"),
            request
                .header("webhook-timestamp")
                .parse()
                .expect("seconds"),
            &request.body,
            request.header("webhook-signature"),
        );
        Some(Answer::status(if is_good.is_ok() { 200 } else { 401 }))
    });
}

fn names(request: &ReceivedRequest) -> (&str, &str, &str) {
    let id = request.header("webhook-id");
    let delivery = request.header("zyven-delivery-id");
    (id, request.header("zyven-event-type"), delivery)
}

#[tokio::test]
async fn listen_hands_an_endpoints_events_over_signed_with_its_secret() {
    let stack = Stack::start(Spread::OneProcess).await;
    let shell = Shell::on(&stack);
    let endpoint = stack
        .endpoint("/hook", json!({ "event_types": ["a"] }))
        .await;
    let id = text(&endpoint, "id");
    let local = Receiver::start().await;
    checking(&local, text(&endpoint, "secret"));
    let url = local.url("/local?x=1");
    let listen = ["listen", "--forward", &url, "--endpoint", id, "--json"];
    let mut listen = shell.start(&listen);
    listen.says("handing events", PATIENCE).await;
    let said = listen.stderr();
    let whose = format!("signing with the secret of {id}\n");
    assert!(said.contains(&whose) && !said.contains("whsec_"), "{said}");

    let payload = json!({ "n": 1 });
    let event = stack.publish("a", payload.clone()).await;
    stack.publish("not.for.it", json!(0)).await;
    let arrived = &local.wait_for_requests(1, PATIENCE).await[0];
    let listed = shell.json(&["deliveries", "list"]).await;
    let delivery = text(&listed["data"][0], "id");
    assert_eq!(names(arrived), (event.as_str(), "a", delivery));
    assert_eq!(
        (arrived.path.as_str(), arrived.query.as_deref()),
        ("/local", Some("x=1"))
    );
    assert_eq!(arrived.body, payload.to_string());
    // The line is written when the answer is here.
    listen.says("\"duration_ms\"", PATIENCE).await;
    listen.terminate();
    let finished = listen.ended(PATIENCE).await;
    assert_eq!(finished.status.code(), Some(0), "{finished:?}");
    let line: Value = serde_json::from_str(&finished.stdout).expect("one line");
    assert_eq!(
        (&line["status"], &line["event"]),
        (&json!(200), &json!(event))
    );
    assert_eq!(local.request_count(), 1, "no other event");
    stack.wait_for_state(&event, "DELIVERED").await;
}

#[tokio::test]
async fn listen_needs_no_endpoint_makes_a_secret_of_its_own_and_outlives_the_local_server() {
    let stack = Stack::start(Spread::OneProcess).await;
    let shell = Shell::on(&stack);
    let mut local = Receiver::start().await;
    let url = local.url("/");
    let mut listen = shell.start(&["listen", "--forward", &url, "--count", "2"]);
    listen.says("handing events", PATIENCE).await;
    let said = listen.stderr();
    let secret = said
        .split_whitespace()
        .find(|word| word.starts_with("whsec_"));
    checking(&local, secret.expect("a secret").trim_end_matches(','));

    local.close().await;
    let first = stack.publish("a", json!(1)).await;
    listen.says(&first, PATIENCE).await;
    assert!(listen.stdout().contains("---"), "{}", listen.stdout());
    local.reopen().await;
    let second = stack.publish("b", json!(2)).await;
    let finished = listen.ended(PATIENCE).await.expect_success();
    let last = finished.lines().last().expect("two lines");
    assert!(
        last.contains("  200  ") && last.contains(&second),
        "{finished}"
    );
    assert_eq!(names(&local.requests()[0]), (second.as_str(), "b", ""));
}

#[tokio::test]
async fn listen_says_what_a_payload_is_as_a_delivery_would() {
    let stack = Stack::start(Spread::OneProcess).await;
    let shell = Shell::on(&stack);
    let local = Receiver::start().await;
    let url = local.url("/");
    let mut listen = shell.start(&["listen", "--forward", &url, "--count", "2"]);
    listen.says("handing events", PATIENCE).await;
    let cloud_event = r#"{"specversion":"1.0","type":"a","source":"/s","id":"1"}"#;
    let accepted = stack
        .http
        .post(format!("{}/v1/events", stack.api))
        .bearer_auth(&stack.key)
        .header("content-type", "application/cloudevents+json")
        .body(cloud_event)
        .send()
        .await
        .expect("an answer");
    assert_eq!(accepted.status(), 202);
    local.wait_for_requests(1, PATIENCE).await;
    stack.publish("a", json!(2)).await;
    let finished = listen.ended(PATIENCE).await.expect_success();
    assert_eq!(finished.matches("  200  ").count(), 2, "{finished}");
    let sent_as: Vec<(String, String)> = local
        .requests()
        .iter()
        .map(|request| {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            (request.header("content-type").to_owned(), body)
        })
        .collect();
    let expected = [
        ("application/cloudevents+json", cloud_event),
        ("application/json", "2"),
    ];
    let expected = expected.map(|(sent_as, body)| (sent_as.to_owned(), body.to_owned()));
    assert_eq!(sent_as, expected);
}

#[tokio::test]
async fn a_server_that_is_away_for_a_while_is_waited_for() {
    let mut stack = Stack::start(Spread::ProcessEach).await;
    let shell = Shell::on(&stack);
    let mut tail = shell.start(&["events", "tail", "--count", "1"]);
    tail.says("following", PATIENCE).await;
    stack.take_process("ingest").kill();
    tail.says("trying again", PATIENCE).await;
    stack.start_service("ingest");
    stack.wait_until_ready("ingest").await;
    let event = stack.publish("a", json!(1)).await;
    let tailed = tail.ended(PATIENCE).await.expect_success();
    assert!(tailed.contains(&event), "{tailed}");
}
