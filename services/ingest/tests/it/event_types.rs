//! Event types, and what their schemas mean for publishers.

use reqwest::Method;
use serde_json::{Value, json};
use zyven_testkit::wait_until;

use crate::support::{Answer, Api, SOON, Tenant};

fn schema() -> Value {
    json!({
        "type": "object",
        "required": ["id"],
        "properties": { "id": { "type": "integer" }, "lines": { "items": { "$ref": "#/$defs/line" } } },
        "$defs": { "line": { "type": "object", "required": ["sku"] } },
    })
}

async fn declare(tenant: &Tenant<'_>, name: &str, mode: &str) {
    let body = json!({ "name": name, "schema_mode": mode, "schema": schema() });
    tenant.post("/v1/event-types", &body).await.expect(201);
}

fn event(event_type: &str, payload: Value) -> Value {
    let mut event = json!({ "type": event_type });
    event["payload"] = payload;
    event
}

/// Publishes until the answer has this status: what is known of a type may be 2 s old.
async fn until(tenant: &Tenant<'_>, event: &Value, status: u16) -> Answer {
    let description = format!("{event} is answered {status}");
    wait_until(&description, SOON, async || {
        let answer = tenant.post("/v1/events", event).await;
        if answer.status.as_u16() == status {
            Ok(answer)
        } else {
            Err(answer)
        }
    })
    .await
}

#[tokio::test]
async fn an_event_type_is_made_listed_changed_and_archived() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    // The schema's text is kept: the order of members, blanks, the notation of numbers.
    let text = r#"{"name": "b.paid", "description": "paid", "schema_mode": "warn", "schema": { "minimum": 1.0,"maximum" : 1e2 }}"#;
    let request = tenant.request(Method::POST, "/v1/event-types");
    let request = request
        .header("content-type", "application/json")
        .body(text);
    let made = Answer::of(request).await.expect(201);
    assert!(
        made.text.contains(r#"{ "minimum": 1.0,"maximum" : 1e2 }"#),
        "{made:?}"
    );
    assert_eq!(made.text_of("schema_mode"), "warn");
    for name in ["a", "c", "B"] {
        let plain = tenant
            .post("/v1/event-types", &json!({ "name": name }))
            .await
            .expect(201)
            .json();
        assert_eq!(
            (&plain["schema_mode"], &plain["schema"]),
            (&json!("off"), &Value::Null)
        );
    }
    let again = tenant
        .post("/v1/event-types", &json!({ "name": "a" }))
        .await;
    again.expect_problem(409, "event_type_exists");

    let names = async |query: &str| -> Vec<String> {
        let page = tenant
            .get(&format!("/v1/event-types{query}"))
            .await
            .expect(200)
            .json();
        let data = page["data"].as_array().expect("a page").clone();
        data.iter()
            .map(|t| t["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    assert_eq!(names("").await, ["B", "a", "b.paid", "c"]);
    assert_eq!(names("?limit=2").await, ["B", "a"]);
    assert_eq!(names("?limit=2&cursor=a").await, ["b.paid", "c"]);

    let path = "/v1/event-types/b.paid";
    let changed = tenant
        .patch(path, &json!({ "description": "was paid" }))
        .await
        .expect(200)
        .json();
    assert_eq!(
        (&changed["description"], &changed["schema_mode"]),
        (&json!("was paid"), &json!("warn"))
    );
    let refused = tenant.patch(path, &json!({ "schema": null })).await;
    assert_eq!(
        refused.expect_problem(422, "invalid").fields(),
        ["schema_mode"]
    );
    let off = json!({ "schema": null, "schema_mode": "off" });
    assert_eq!(
        tenant.patch(path, &off).await.expect(200).json()["schema"],
        Value::Null
    );

    tenant.delete(path).await.expect(204);
    tenant.delete(path).await.expect(204);
    assert_eq!(names("").await, ["B", "a", "c"]);
    assert_eq!(names("?archived=true").await, ["b.paid"]);
    assert!(tenant.get(path).await.expect(200).json()["archived_at"].is_string());
    tenant
        .patch(path, &json!({ "archived": false }))
        .await
        .expect(200);
    assert_eq!(names("").await, ["B", "a", "b.paid", "c"]);
    tenant
        .get("/v1/event-types/none")
        .await
        .expect_problem(404, "not_found");
}

#[tokio::test]
async fn a_schema_that_reaches_out_or_never_ends_is_refused_by_name() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    for (body, field) in [
        (json!({}), "name"),
        (json!({ "name": "a b" }), "name"),
        (
            json!({ "name": "a", "schema_mode": "maybe" }),
            "schema_mode",
        ),
        (
            json!({ "name": "a", "schema_mode": "reject" }),
            "schema_mode",
        ),
        (json!({ "name": "a", "schema": "{}" }), "schema"),
        (
            json!({ "name": "a", "schema": { "type": "strnig" } }),
            "schema",
        ),
        (
            json!({ "name": "a", "schema": { "$ref": "https://example.com/s.json" } }),
            "schema",
        ),
        (
            json!({ "name": "a", "schema": { "items": { "$ref": "#" } } }),
            "schema",
        ),
        (
            json!({ "name": "a", "schema": { "title": "x".repeat(65_536) } }),
            "schema",
        ),
        (json!({ "name": "a", "archived": true }), "archived"),
    ] {
        let refused = tenant.post("/v1/event-types", &body).await;
        let refused = refused.expect_problem(422, "invalid");
        assert_eq!(refused.fields(), [field], "{refused:?}");
    }
    let remote = json!({ "name": "a", "schema": { "$ref": "https://example.com/s.json" } });
    let refused = tenant.post("/v1/event-types", &remote).await.expect(422);
    assert!(
        refused.text.contains("a place in this schema"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_type_that_rejects_takes_only_what_fits_and_says_where_it_does_not() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    declare(&tenant, "order", "reject").await;
    let bad = event(
        "order",
        json!({ "id": "sesame", "lines": [{ "sku": 1 }, {}] }),
    );
    let refused = until(&tenant, &bad, 422).await;
    let refused = refused.expect_problem(422, "schema_mismatch");
    assert_eq!(refused.fields(), ["payload/id", "payload/lines/1"]);
    assert!(
        !refused.text.contains("sesame"),
        "values are not repeated: {refused:?}"
    );
    let stored = "SELECT count(*) FROM zyven.events";
    let before = api.count(stored).await;
    tenant.post("/v1/events", &bad).await.expect(422);
    assert_eq!(api.count(stored).await, before);

    let good = event("order", json!({ "id": 1, "lines": [] }));
    let answer = tenant.post("/v1/events", &good).await.expect(202);
    assert_eq!(answer.json().get("schema_warnings"), None);
    tenant
        .post("/v1/events", &event("other", json!("x")))
        .await
        .expect(202);
    let stranger = api.tenant().await;
    stranger.post("/v1/events", &bad).await.expect(202);
}

#[tokio::test]
async fn a_type_that_warns_takes_everything_and_tells_its_publisher() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    declare(&tenant, "order", "warn").await;
    let bad = event("order", json!({}));
    let warned = wait_until("a warning", SOON, async || {
        let answer = tenant.post("/v1/events", &bad).await.expect(202).json();
        answer.get("schema_warnings").cloned()
    })
    .await;
    assert_eq!(warned[0]["field"], "payload");
    assert!(
        warned[0]["rule"]
            .as_str()
            .is_some_and(|rule| rule.contains("id")),
        "{warned}"
    );
    let series = "zyven_ingest_schema_mismatches_total{mode=\"warn\"}";
    assert_eq!(api.metric(series), 1.0);

    let batch = json!([event("order", json!({ "id": 1 })), bad]);
    let answer = tenant
        .post("/v1/events/batch", &batch)
        .await
        .expect(202)
        .json();
    assert_eq!(answer["results"][0].get("schema_warnings"), None);
    assert_eq!(
        answer["results"][1]["schema_warnings"][0]["field"],
        "payload"
    );
}

#[tokio::test]
async fn a_batch_with_an_event_that_does_not_fit_is_refused_with_its_number() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    declare(&tenant, "order", "reject").await;
    until(&tenant, &event("order", json!(1)), 422).await;
    let before = api.count("SELECT count(*) FROM zyven.events").await;
    let batch = json!([
        event("order", json!({ "id": 1 })),
        event("order", json!({ "id": null })),
        event("order", json!([])),
    ]);
    let refused = tenant.post("/v1/events/batch", &batch).await;
    let refused = refused.expect_problem(422, "schema_mismatch");
    assert_eq!(refused.fields(), ["[1].payload/id", "[2].payload"]);
    assert_eq!(api.count("SELECT count(*) FROM zyven.events").await, before);
}

#[tokio::test]
async fn a_changed_schema_and_an_archived_type_count_within_two_seconds() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    declare(&tenant, "order", "reject").await;
    let text = event("order", json!("text"));
    until(&tenant, &text, 422).await;
    let path = "/v1/event-types/order";
    tenant
        .patch(path, &json!({ "schema": { "type": "string" } }))
        .await
        .expect(200);
    let changed = std::time::Instant::now();
    until(&tenant, &text, 202).await;
    assert!(
        changed.elapsed() < std::time::Duration::from_secs(10),
        "{:?}",
        changed.elapsed()
    );
    let number = event("order", json!(1));
    tenant.post("/v1/events", &number).await.expect(422);
    tenant.delete(path).await.expect(204);
    until(&tenant, &number, 202).await;
}

#[tokio::test]
async fn publish_in_sql_refuses_types_that_only_the_api_can_check() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    declare(&tenant, "strict", "reject").await;
    declare(&tenant, "loose", "warn").await;
    let sql = api.database.client().await;
    let publish = async |event_type: &str| {
        let statement = "SELECT zyven.publish($1, $2, '{}')";
        sql.query_one(statement, &[&tenant.id.to_string(), &event_type])
            .await
    };
    let refused = publish("strict").await.expect_err("refused");
    let said = refused.as_db_error().expect("the server's word");
    assert_eq!(said.code().code(), "0A000");
    assert!(said.message().contains("only the API can tell"), "{said}");
    publish("loose").await.expect("published");
    tenant.delete("/v1/event-types/strict").await.expect(204);
    publish("strict")
        .await
        .expect("published once it is archived");
}
