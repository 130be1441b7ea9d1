//! `POST /v1/events/batch`.

use reqwest::Method;
use serde_json::{Value, json};
use zyven_testkit::wait_until;

use crate::support::{Answer, Api, SOON, Tenant};

async fn lines(tenant: &Tenant<'_>, text: &str) -> Answer {
    let request = tenant
        .request(Method::POST, "/v1/events/batch")
        .header("content-type", "application/x-ndjson")
        .body(text.to_owned());
    Answer::of(request).await
}

fn statuses(answer: &Answer) -> Vec<u64> {
    answer.json()["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|result| result["status"].as_u64().expect("a status"))
        .collect()
}

#[tokio::test]
async fn an_array_is_stored_whole_with_a_result_for_each_event() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    tenant.endpoint(&json!({ "event_types": ["a"] })).await;
    let batch = json!([
        { "type": "a", "payload": { "n": 1 } },
        { "type": "b", "payload": [1, 2], "idempotency_key": "k" },
    ]);
    let answer = tenant.post("/v1/events/batch", &batch).await.expect(202);
    let body = answer.json();
    assert_eq!(body["accepted"], 2);
    assert_eq!(body["results"][0]["deliveries"], 1);
    assert_eq!(body["results"][1]["deliveries"], 0);
    let id = body["results"][0]["id"].as_str().expect("an id");
    tenant.get(&format!("/v1/events/{id}")).await.expect(200);
    assert_eq!(
        api.metric("zyven_ingest_batch_events_count"),
        1.0,
        "one statement"
    );

    let again = tenant.post("/v1/events/batch", &batch).await.expect(202);
    assert_eq!(statuses(&again), [202, 200], "only the second has a key");
    assert_eq!(again.json()["repeated"], 1);
}

#[tokio::test]
async fn lines_keep_each_payloads_bytes() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let text =
        "{\"type\":\"a\",\"payload\":{ \"x\" : 1.0 }}\r\n\n{\"payload\":  [ ] ,\"type\":\"a\"}";
    let answer = lines(&tenant, text).await.expect(202);
    assert_eq!(statuses(&answer), [202, 202]);
    let client = api.database.client().await;
    let rows = client
        .query(
            "SELECT convert_from(payload, 'UTF8') FROM zyven.events ORDER BY id",
            &[],
        )
        .await
        .expect("rows");
    let payloads: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(payloads, ["{ \"x\" : 1.0 }", "[ ]"]);
}

#[tokio::test]
async fn a_used_key_is_the_one_items_own_conflict() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let event = |n: u32, key: &str| json!({ "type": "a", "payload": n, "idempotency_key": key });
    tenant
        .publish_with_key(r#"{"type": "a", "payload": 1}"#, "k")
        .await
        .expect(202);
    let batch = json!([
        event(2, "k"),
        event(3, "new"),
        event(1, "k"),
        event(4, "new")
    ]);
    let answer = tenant.post("/v1/events/batch", &batch).await.expect(207);
    assert_eq!(statuses(&answer), [409, 202, 200, 409]);
    assert_eq!(answer.json()["conflicts"], 2);
    assert_eq!(answer.json()["results"][0]["code"], "idempotency_conflict");
    assert_eq!(api.count("SELECT count(*) FROM zyven.events").await, 2);
}

/// As a single request for each would have been answered, one after the other.
#[tokio::test]
async fn of_items_with_one_new_key_the_first_is_stored() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let event = |body: &str, key: u32| json!({ "type": "a", "payload": body, "idempotency_key": key.to_string() });
    for (key, bodies, status, expected) in [
        (1, &["first", "second"][..], 207, &[202, 409][..]),
        (2, &["same", "same"], 202, &[202, 200]),
        (3, &["first", "second", "third"], 207, &[202, 409, 409]),
        (4, &["first", "second", "first"], 207, &[202, 409, 200]),
    ] {
        let batch: Vec<Value> = bodies.iter().map(|body| event(body, key)).collect();
        let answer = tenant.post("/v1/events/batch", &json!(batch)).await;
        let answer = answer.expect(status);
        assert_eq!(statuses(&answer), expected, "{bodies:?}");
        let results = &answer.json()["results"];
        let id = results[0]["id"].as_str().expect("an id");
        for result in results.as_array().expect("results") {
            assert_eq!(result["id"], id, "{bodies:?}");
        }
        let stored = tenant.get(&format!("/v1/events/{id}")).await.expect(200);
        assert_eq!(stored.json()["payload"], bodies[0]);
    }
}

/// Requests that wait while the writer is busy share its next statement, in the order in which they came.
#[tokio::test]
async fn of_requests_with_one_new_key_in_one_statement_the_first_is_stored() {
    let api = Api::with(&[("ZYVEN_INGEST_WRITERS", "1")]).await;
    let tenant = api.tenant().await;
    tenant.publish("a").await;
    let flushes = || api.metric("zyven_ingest_batch_events_count");
    assert_eq!(flushes(), 1.0);
    let sql = api.database.client().await;
    sql.batch_execute("BEGIN; LOCK TABLE zyven.events IN ACCESS EXCLUSIVE MODE")
        .await
        .expect("locked");
    let queued = async |events: f64| {
        wait_until("those before are in line", SOON, async || {
            flushes() == 2.0 && api.metric("zyven_ingest_queue_events") == events
        })
        .await;
    };
    let keyed = async |before: f64, payload: u32| {
        queued(before).await;
        let text = json!({ "type": "a", "payload": payload }).to_string();
        tenant.publish_with_key(&text, "k").await
    };
    let unlock = async {
        queued(3.0).await;
        sql.batch_execute("COMMIT").await.expect("unlocked");
    };
    let (_, first, other, again, ()) = tokio::join!(
        tenant.publish("a"),
        keyed(0.0, 1),
        keyed(1.0, 2),
        keyed(2.0, 1),
        unlock
    );
    assert_eq!(flushes(), 3.0, "the three of them in one statement");
    let id = first.expect(202).text_of("id");
    let conflict = other.expect_problem(409, "idempotency_conflict");
    assert!(conflict.text.contains(&id), "{conflict:?}");
    assert_eq!(again.expect(200).text_of("id"), id);
}

#[tokio::test]
async fn one_bad_event_refuses_the_batch_and_names_itself() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let batch = json!([
        { "type": "a", "payload": 1 },
        { "type": "a b", "payload": 1, "x": 1 },
        7,
        { "type": "a" },
    ]);
    let answer = tenant.post("/v1/events/batch", &batch).await;
    assert_eq!(
        answer.expect_problem(422, "invalid").fields(),
        ["[1].type", "[1].x", "[2]", "[3].payload"]
    );
    let answer = lines(&tenant, "{\"type\":\"a\",\"payload\":1}\n{\"type\":").await;
    let answer = answer.expect_problem(400, "body_not_json");
    assert!(answer.text.contains("Line 2"), "{answer:?}");
    assert_eq!(api.count("SELECT count(*) FROM zyven.events").await, 0);
}

#[tokio::test]
async fn what_is_no_array_of_events_is_told_so() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    for (body, field, rule) in [
        (
            json!({ "type": "a", "payload": 1 }),
            "body",
            "must be an array of events",
        ),
        (json!("secret"), "body", "must be an array of events"),
        (json!([["secret"]]), "[0]", "must be a JSON object"),
    ] {
        let refused = tenant.post("/v1/events/batch", &body).await;
        let refused = refused.expect_problem(422, "invalid");
        let errors = json!([{ "field": field, "rule": rule }]);
        assert_eq!(refused.json()["errors"], errors, "{body}");
    }
}

#[tokio::test]
async fn a_batch_has_limits_of_its_own() {
    let api = Api::with(&[
        ("ZYVEN_INGEST_BATCH_EVENTS_MAX", "1000"),
        ("ZYVEN_INGEST_BODY_BYTES_MAX", "1000"),
        ("ZYVEN_INGEST_BATCH_BYTES_MAX", "100KiB"),
    ])
    .await;
    let tenant = api.tenant().await;
    let events = |count: usize| Value::Array(vec![json!({ "type": "a", "payload": 1 }); count]);
    let answer = tenant
        .post("/v1/events/batch", &events(1000))
        .await
        .expect(202);
    assert_eq!(answer.json()["accepted"], 1000);
    let answer = tenant.post("/v1/events/batch", &events(1001)).await;
    assert_eq!(answer.expect_problem(422, "invalid").fields(), ["body"]);
    let big = json!([{ "type": "a", "payload": "x".repeat(1000) }]);
    let answer = tenant.post("/v1/events/batch", &big).await;
    assert_eq!(
        answer.expect_problem(422, "invalid").fields(),
        ["[0].payload"]
    );
    let answer = lines(&tenant, &" ".repeat(102_401)).await;
    answer.expect_problem(413, "body_too_large");
    let answer = tenant
        .post("/v1/events/batch", &json!([]))
        .await
        .expect(202);
    assert_eq!(answer.json()["accepted"], 0);
}

#[tokio::test]
async fn a_header_key_makes_no_sense_for_many_events() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let request = tenant
        .request(Method::POST, "/v1/events/batch")
        .header("idempotency-key", "k")
        .json(&json!([{ "type": "a", "payload": 1 }]));
    let answer = Answer::of(request).await.expect_problem(422, "invalid");
    assert_eq!(answer.fields(), ["Idempotency-Key"]);
}
