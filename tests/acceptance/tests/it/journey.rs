//! From `POST /v1/events` to the receiver, and back by replay.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use zyven_domain::signature::{SigningKey, SigningSecret, sign};
use zyven_testkit::{Answer, Binary, wait_until};

use crate::stack::{PATIENCE, Spread, Stack, free_port};

#[tokio::test]
async fn an_event_arrives_signed_and_byte_for_byte() {
    let stack = Stack::start(Spread::ProcessEach).await;
    let endpoint = stack.endpoint("/hook", json!({})).await;
    let payload = "{ \"z\":1.10, \"a\" : [1e2,\"\\u00e9é\"],\"z2\":{} }";
    let body = format!("{{\"type\":\"invoice.paid\",\"payload\":{payload}}}");
    let answer = stack
        .http
        .post(format!("{}/v1/events", stack.api))
        .bearer_auth(&stack.key)
        .header("content-type", "application/json")
        .header("idempotency-key", "first")
        .body(body)
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 202);
    let accepted: serde_json::Value = answer.json().await.expect("JSON");
    assert_eq!(accepted["status"], "RECEIVED");

    let request = &stack.receiver.wait_for_requests(1, PATIENCE).await[0];
    assert_eq!(request.method, "POST");
    assert_eq!(request.path, "/hook");
    assert_eq!(request.body, payload, "byte for byte");
    assert_eq!(request.header("webhook-id"), accepted["id"]);
    assert_eq!(request.header("zyven-event-type"), "invoice.paid");
    assert_eq!(request.header("zyven-attempt"), "1");
    assert_eq!(request.header("content-type"), "application/json");
    assert!(!request.headers.contains_key("accept-encoding"));
    let secret = endpoint["secret"].as_str().expect("a secret");
    let Ok(secret) = SigningSecret::parse(secret) else {
        panic!("not a signing secret");
    };
    let key = SigningKey::new(&secret);
    let timestamp = request
        .header("webhook-timestamp")
        .parse()
        .expect("seconds");
    let expected = sign(
        &[key],
        request.header("webhook-id"),
        timestamp,
        &request.body,
    );
    assert_eq!(request.header("webhook-signature"), expected);
    assert_eq!(STANDARD.decode(&expected[3..]).expect("base64").len(), 32);
    stack.assert_settled().await;
}

#[tokio::test]
async fn a_failing_receiver_is_tried_again_and_a_refusing_one_is_not() {
    let stack = Stack::start(Spread::OneProcess).await;
    let quick = json!({ "retry_base_ms": 50, "event_types": ["flaky"] });
    stack.endpoint("/flaky", quick).await;
    stack
        .endpoint("/no", json!({ "event_types": ["refused"] }))
        .await;
    let failures = [
        Answer::status(503),
        Answer::status(503),
        Answer::status(200),
    ];
    stack.receiver.answer_in_turn("/flaky", failures);
    stack.receiver.answer_at("/no", Answer::status(422));

    let flaky = stack.publish("flaky", json!({ "n": 1 })).await;
    let refused = stack.publish("refused", json!({ "n": 2 })).await;
    stack.wait_for_state(&flaky, "DELIVERED").await;
    stack.wait_for_state(&refused, "DEAD_LETTERED").await;
    assert_eq!(stack.delivery(&flaky).await.1, 3);
    assert_eq!(
        stack.delivery(&refused).await,
        ("DEAD_LETTERED".to_owned(), 1, Some("rejected".to_owned()))
    );
    let ids: Vec<String> = stack
        .receiver
        .requests_at("/flaky")
        .iter()
        .map(|request| request.header("webhook-id").to_owned())
        .collect();
    assert_eq!(ids, vec![flaky; 3], "the same id on every try");
    stack.assert_settled().await;
}

#[tokio::test]
async fn a_dead_letter_replayed_in_sql_arrives_with_the_same_id() {
    let stack = Stack::start(Spread::OneProcess).await;
    stack.endpoint("/hook", json!({})).await;
    stack
        .receiver
        .answer_in_turn("/hook", [Answer::status(400), Answer::status(200)]);
    let event = stack.publish("order.placed", json!({ "order": 1 })).await;
    stack.wait_for_state(&event, "DEAD_LETTERED").await;

    let sql = stack.database.client().await;
    let replayed = sql
        .execute(
            "SELECT zyven.replay(delivery, 'receiver fixed') FROM zyven.dead_letters",
            &[],
        )
        .await;
    assert_eq!(replayed.expect("replayed"), 1);
    stack.wait_for_state(&event, "DELIVERED").await;
    let requests = stack.receiver.requests_at("/hook");
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert_eq!(request.header("webhook-id"), event);
    }
    stack.assert_settled().await;
}

#[tokio::test]
async fn an_event_published_in_sql_is_delivered_like_any_other() {
    let stack = Stack::start(Spread::OneProcess).await;
    stack.endpoint("/hook", json!({})).await;
    let sql = stack.database.client().await;
    let row = sql
        .query_one(
            "SELECT zyven.publish(zyven.typed_id('ten', id), 'a.b', '{\"from\": \"sql\"}') FROM zyven.tenants",
            &[],
        )
        .await
        .expect("published");
    let event: String = row.get(0);
    let request = &stack.receiver.wait_for_requests(1, PATIENCE).await[0];
    assert_eq!(request.header("webhook-id"), event);
    assert_eq!(request.body, "{\"from\": \"sql\"}");
}

#[tokio::test]
async fn an_endpoint_that_answers_410_is_disabled() {
    let stack = Stack::start(Spread::OneProcess).await;
    let endpoint = stack.endpoint("/hook", json!({})).await;
    stack.receiver.answer_at("/hook", Answer::status(410));
    let event = stack.publish("a", json!({})).await;
    stack.wait_for_state(&event, "DEAD_LETTERED").await;
    assert_eq!(stack.delivery(&event).await.2.as_deref(), Some("gone"));
    let path = format!("/v1/endpoints/{}", endpoint["id"].as_str().expect("an id"));
    zyven_testkit::wait_until("it is disabled", PATIENCE, async || {
        let (_, shown) = stack.call("GET", &path, None).await;
        if shown["status"] == "disabled" {
            Ok(())
        } else {
            Err(shown)
        }
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_inside_the_network_is_refused_by_the_proxy() {
    let stack = Stack::start_with(
        Spread::OneProcess,
        &[("ZYVEN_EGRESS_ALLOW_CIDRS", "127.0.0.1/32")],
    )
    .await;
    // Which of the private networks are open only the proxy knows; that metadata services are not, everybody does.
    let metadata = json!({ "url": "http://169.254.169.254/latest/meta-data/" });
    let (status, refused) = stack.call("POST", "/v1/endpoints", Some(metadata)).await;
    assert_eq!(
        (status, &refused["errors"][0]["field"]),
        (422, &json!("url"))
    );
    let url = json!({ "url": "http://10.0.0.1/latest/meta-data/" });
    stack.endpoint("/", url).await;
    let event = stack.publish("a", json!({})).await;
    stack.wait_for_state(&event, "DEAD_LETTERED").await;
    let (_, attempts, reason) = stack.delivery(&event).await;
    assert_eq!((attempts, reason.as_deref()), (1, Some("egress_denied")));
}

#[tokio::test]
async fn proxies_of_the_environment_are_not_believed_in() {
    // Nobody listens there; whoever went there, or past the configured proxy, would deliver nothing or count nothing.
    let nowhere = "http://127.0.0.1:1";
    let stack = Stack::start_with(
        Spread::ProcessEach,
        &[
            ("HTTP_PROXY", nowhere),
            ("http_proxy", nowhere),
            ("HTTPS_PROXY", nowhere),
            ("https_proxy", nowhere),
            ("ALL_PROXY", nowhere),
            ("NO_PROXY", "*"),
            ("ZYVEN_EGRESS_DENY_CIDRS", "127.0.0.2/32"),
        ],
    )
    .await;
    stack.endpoint("/hook", json!({})).await;
    let event = stack.publish("a", json!({})).await;
    stack.wait_for_state(&event, "DELIVERED").await;

    // NO_PROXY would have sent this one past the policy.
    let port = stack.receiver.address().port();
    let url = json!({ "url": format!("http://127.0.0.2:{port}/"), "event_types": ["denied"] });
    stack.endpoint("/", url).await;
    let event = stack.publish("denied", json!({})).await;
    let denied = async || {
        let sql = stack.database.client().await;
        let query = "SELECT count(*) FROM zyven.dead_letters WHERE reason = 'egress_denied'";
        sql.query_one(query, &[])
            .await
            .expect("a count")
            .get::<_, i64>(0)
            == 1
    };
    wait_until(&format!("{event} is denied"), PATIENCE, denied).await;
}

#[tokio::test]
async fn the_demo_shows_all_five_states() {
    let stack = Stack::start(Spread::OneProcess).await;
    let listen = format!("127.0.0.1:{}", free_port());
    let mut echo = stack.binary.start(["echo", "--listen", &listen]);
    echo.says("receiving", PATIENCE).await;
    let receiver = format!("http://{listen}/");
    let demo = stack
        .binary
        .run(["demo", "--receiver", &receiver], Duration::from_secs(60))
        .await
        .expect_success();
    for state in [
        "RECEIVED",
        "DISPATCHING",
        "RETRY_SCHEDULED",
        "DELIVERED",
        "DEAD_LETTERED",
    ] {
        assert!(demo.contains(state), "{state} is not in:\n{demo}");
    }
    assert!(demo.contains("all five states were seen"), "{demo}");
    stack.assert_settled().await;
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_with_every_mistake_and_code_64() {
    let refused = Binary::find()
        .with("ZYVEN_DATABASE_URL", "mysql://nowhere")
        .with("ZYVEN_INGEST_LISTEN", "everywhere")
        .with("ZYVEN_INGEST_LISTN", "127.0.0.1:1")
        .run(["all"], PATIENCE)
        .await;
    assert_eq!(refused.status.code(), Some(64));
    for mistake in [
        "ZYVEN_DATABASE_URL",
        "ZYVEN_INGEST_LISTEN",
        "ZYVEN_INGEST_LISTN is not a setting; did you mean ZYVEN_INGEST_LISTEN?",
        "ZYVEN_REDIS_URL must be set",
        "ZYVEN_MASTER_KEYS must be set",
        "ZYVEN_EGRESS_CREDENTIAL must be set",
    ] {
        assert!(
            refused.stderr.contains(mistake),
            "{mistake} in:\n{}",
            refused.stderr
        );
    }
}
