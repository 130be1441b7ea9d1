//! `POST /v1/events`.

use serde_json::{Value, json};

use crate::support::{Answer, Api};

#[tokio::test]
async fn an_event_is_acknowledged_once_it_is_stored_with_exactly_its_bytes() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    tenant.endpoint(&json!({})).await;
    // Order of members, blanks, number notation, escapes: nothing of it may change.
    let payload = "{ \"z\":1.10,\t\"a\": [1E2 ,-0],\n\"é\": \"\\u00e9 \u{1F600}\" }";
    let text = format!(
        "\r\n{{\"payload\" : {payload} , \"type\":\"invoice.paid\", \"source\":\"erp\", \"channels\":[\"b\",\"a\",\"b\"]}} "
    );
    let answer = tenant.publish_text(&text).await.expect(202);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let id = answer.text_of("id");
    assert!(id.starts_with("evt_"));
    let body = answer.json();
    assert_eq!(
        (&body["status"], &body["type"], &body["deliveries"]),
        (&json!("RECEIVED"), &json!("invoice.paid"), &json!(1))
    );

    let client = api.database.client().await;
    let row = client
        .query_one(
            "SELECT payload, channels, source, zyven.typed_id('evt', id) FROM zyven.events",
            &[],
        )
        .await
        .expect("one event");
    assert_eq!(row.get::<_, Vec<u8>>(0), payload.as_bytes());
    assert_eq!(row.get::<_, Vec<String>>(1), ["a", "b"]);
    assert_eq!(row.get::<_, Option<String>>(2).as_deref(), Some("erp"));
    assert_eq!(row.get::<_, String>(3), id);

    let read = tenant.get(&format!("/v1/events/{id}")).await.expect(200);
    assert!(read.text.contains(payload), "{}", read.text);
    assert_eq!(read.text_of("status"), "RECEIVED");
}

#[tokio::test]
async fn a_repeated_key_finds_the_first_event_and_another_body_a_conflict() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let first = r#"{"type": "a", "payload": {"n": 1}}"#;
    let id = tenant
        .publish_with_key(first, "k-1")
        .await
        .expect(202)
        .text_of("id");

    let again = tenant.publish_with_key(first, "k-1").await.expect(200);
    assert_eq!(again.text_of("id"), id);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    // The envelope may be written differently; the event is the same.
    let same = r#"{ "payload": {"n": 1}, "type": "a" }"#;
    assert_eq!(
        tenant
            .publish_with_key(same, "k-1")
            .await
            .expect(200)
            .text_of("id"),
        id
    );
    for other in [
        r#"{"type": "b", "payload": {"n": 1}}"#,
        r#"{"type": "a", "payload": {"n":1}}"#,
        r#"{"type": "a", "payload": {"n": 1}, "source": "x"}"#,
    ] {
        let conflict = tenant.publish_with_key(other, "k-1").await;
        let conflict = conflict.expect_problem(409, "idempotency_conflict");
        assert!(conflict.text.contains(&id), "{conflict:?}");
    }
    let stranger = api.tenant().await;
    stranger.publish_with_key(first, "k-1").await.expect(202);
    assert_eq!(api.count("SELECT count(*) FROM zyven.events").await, 2);
}

#[tokio::test]
async fn the_key_may_stand_in_the_body_but_not_contradict_the_header() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let text = r#"{"type": "a", "payload": 1, "idempotency_key": "k"}"#;
    tenant.publish_text(text).await.expect(202);
    tenant.publish_with_key(text, "k").await.expect(200);
    tenant
        .publish_with_key(r#"{"type": "a", "payload": 1}"#, "k")
        .await
        .expect(200);
    let refused = tenant.publish_with_key(text, "other").await;
    assert_eq!(
        refused.expect_problem(422, "invalid").fields(),
        ["idempotency_key"]
    );
}

#[tokio::test]
async fn many_publishers_of_one_key_store_one_event() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let text = r#"{"type": "a", "payload": {}}"#;
    let racing = (0..16).map(|_| tenant.publish_with_key(text, "race"));
    let answers = futures_util::future::join_all(racing).await;
    let new = answers.iter().filter(|answer| answer.status == 202).count();
    let repeated = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!((new, repeated), (1, 15), "{answers:?}");
    assert_eq!(api.count("SELECT count(*) FROM zyven.events").await, 1);
}

#[tokio::test]
async fn every_broken_rule_is_named_with_its_field() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    for (text, fields) in [
        ("{}", &["type", "payload"][..]),
        (r#"{"type": "a b", "payload": 1}"#, &["type"]),
        (r#"{"type": 7, "payload": 1}"#, &["type"]),
        (r#"{"type": "a", "payload": 1, "typo": 1}"#, &["typo"]),
        (
            r#"{"type": "a", "payload": 1, "channels": ["ok", "not ok"]}"#,
            &["channels[1]"],
        ),
        (
            r#"{"type": "a", "payload": 1, "channels": ["a","b","c","d","e","f","g","h","i","j","k"]}"#,
            &["channels"],
        ),
        (
            r#"{"type": "a", "payload": 1, "source": "a b", "traceparent": "x"}"#,
            &["source", "traceparent"],
        ),
        (
            r#"{"type": "a", "payload": {"a": 1, "a": 2}}"#,
            &["payload"],
        ),
        (r#"{"type": "a", "payload": "\ud800"}"#, &["payload"]),
        (r#"{"type": "a", "payload": "\u0000"}"#, &["payload"]),
        (r#"{"type": "a", "payload": 1e400}"#, &["payload"]),
        (r#"{"type": "a", "type": "b", "payload": 1}"#, &["body"]),
        ("[]", &["body"]),
        ("null", &["body"]),
    ] {
        let answer = tenant
            .publish_text(text)
            .await
            .expect_problem(422, "invalid");
        assert_eq!(answer.fields(), fields, "{text}: {answer:?}");
    }
    let deep = format!(
        r#"{{"type": "a", "payload": {}{}}}"#,
        "[".repeat(65),
        "]".repeat(65)
    );
    let answer = tenant.publish_text(&deep).await;
    assert_eq!(answer.expect_problem(422, "invalid").fields(), ["payload"]);
    for key in ["", "with blank", &"x".repeat(256)] {
        let answer = tenant
            .publish_with_key(r#"{"type": "a", "payload": 1}"#, key)
            .await;
        assert_eq!(
            answer.expect_problem(422, "invalid").fields(),
            ["Idempotency-Key"],
            "{key:?}"
        );
    }
    assert_eq!(api.count("SELECT count(*) FROM zyven.events").await, 0);
}

/// As serialisers write it that have no other way, and as reading an event shows it.
#[tokio::test]
async fn an_optional_member_that_is_null_is_absent() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let options = json!({
        "source": null, "deliver_at": null, "expires_at": null, "ordering_key": null,
        "channels": null, "idempotency_key": null, "traceparent": null,
    });
    let with = |mut event: Value| {
        let members = options.as_object().expect("an object").clone();
        event.as_object_mut().expect("an object").extend(members);
        event
    };
    let event = with(json!({ "type": "a", "payload": null }));
    let accepted = tenant.post("/v1/events", &event).await.expect(202);
    let path = format!("/v1/events/{}", accepted.text_of("id"));
    let read = tenant.get(&path).await.expect(200).json();
    assert_eq!(read["payload"], json!(null));
    for (name, value) in options.as_object().expect("an object") {
        match name.as_str() {
            "channels" => assert_eq!(read[name], json!([])),
            "idempotency_key" => {}
            _ => assert_eq!(read[name], *value, "{name}"),
        }
    }
    // The same event as the one that says nothing, in a batch as alone.
    let keyed = |mut event: Value| {
        event["idempotency_key"] = json!("k");
        event
    };
    let short = json!({ "type": "a", "payload": 1 });
    let first = tenant.post("/v1/events", &keyed(short.clone())).await;
    let first = first.expect(202).text_of("id");
    let batch = json!([keyed(with(short))]);
    let answer = tenant.post("/v1/events/batch", &batch).await.expect(202);
    assert_eq!(answer.json()["results"][0]["status"], 200);
    assert_eq!(answer.json()["results"][0]["id"], json!(first));

    let without = json!({ "type": null, "payload": 1 });
    let refused = tenant.post("/v1/events", &without).await;
    let refused = refused.expect_problem(422, "invalid");
    assert_eq!(
        refused.fields(),
        ["type"],
        "what must be there is no option"
    );
}

#[tokio::test]
async fn what_is_no_json_or_no_text_is_400() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    for text in ["", "{", "{}{}", "{\"type\": tru}", "type=a"] {
        let answer = tenant.publish_text(text).await;
        answer.expect_problem(400, "body_not_json");
    }
    // Lines and columns are those of what they are said to be of.
    let broken = tenant.publish_text("{\n \"type\": tru}").await;
    let detail = broken
        .expect_problem(400, "body_not_json")
        .text_of("detail");
    assert!(
        detail.contains("(line 2, column ") && detail.ends_with(" of the body)."),
        "{detail}"
    );
    let broken = "{\n \"type\": \"a\", \"payload\": {\"a\": 1, \"a\": 2}}";
    let refused = tenant.publish_text(broken).await;
    let refused = refused.expect_problem(422, "invalid").json();
    let rule = refused["errors"][0]["rule"].as_str().expect("a rule");
    assert!(
        rule.contains("(line 1, column ") && rule.ends_with(" of the payload)"),
        "{rule}"
    );
    let bytes = tenant.publishing("").body(&b"{\"type\": \"\xff\"}"[..]);
    Answer::of(bytes).await.expect_problem(400, "body_not_utf8");
}

#[tokio::test]
async fn a_trace_is_taken_from_the_member_or_else_the_header() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let (one, other) = (
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
    );
    let plain = r#"{"type": "a", "payload": 1}"#;
    let with_member = format!(r#"{{"type": "a", "payload": 1, "traceparent": "{one}"}}"#);
    for (text, header, stored) in [
        (plain, None, None),
        (plain, Some(other), Some(other)),
        (plain, Some("00-nonsense"), None),
        (with_member.as_str(), Some(other), Some(one)),
    ] {
        let mut request = tenant.publishing(text);
        if let Some(header) = header {
            request = request.header("traceparent", header);
        }
        let id = Answer::of(request).await.expect(202).text_of("id");
        let event = tenant.get(&format!("/v1/events/{id}")).await.expect(200);
        assert_eq!(
            event.json()["traceparent"],
            json!(stored),
            "{text} {header:?}"
        );
    }
}

#[tokio::test]
async fn a_request_id_comes_back() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let request = tenant
        .publishing(r#"{"type": "a", "payload": 1}"#)
        .header("x-request-id", "mine-1");
    let answer = Answer::of(request).await.expect(202);
    assert_eq!(answer.header("x-request-id"), Some("mine-1"));
    let answer = tenant
        .get("/v1/nowhere")
        .await
        .expect_problem(404, "not_found");
    assert_eq!(answer.header("x-request-id").map(str::len), Some(32));
}

#[tokio::test]
async fn publishers_at_the_same_time_share_batches() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    tenant.endpoint(&json!({})).await;
    let publishing = (0..200).map(|_| tenant.publish("a"));
    let mut ids = futures_util::future::join_all(publishing).await;
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 200);
    assert_eq!(api.count("SELECT count(*) FROM zyven.outbox").await, 200);
    let flushes = api.metric("zyven_ingest_batch_events_count");
    assert!(flushes < 200.0, "{flushes} flushes for 200 events");
    assert_eq!(api.metric("zyven_ingest_events_accepted_total"), 200.0);
}
