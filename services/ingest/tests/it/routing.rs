//! Which endpoints get an event, while endpoints come and go.

use serde_json::json;

use crate::support::{Api, Tenant};

async fn deliveries(tenant: &Tenant<'_>, event: &str) -> usize {
    let answer = tenant.publish_text(event).await.expect(202);
    let count = answer.json()["deliveries"].as_u64().expect("a number");
    let path = format!("/v1/events/{}/deliveries", answer.text_of("id"));
    let found = tenant.get(&path).await.expect(200).json();
    let found = found["data"].as_array().expect("data").len();
    assert_eq!(count, found as u64, "{event}");
    found
}

#[tokio::test]
async fn patterns_and_channels_decide() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    for members in [
        json!({ "event_types": ["*"] }),
        json!({ "event_types": ["invoice.*", "invoice.paid", "*"] }),
        json!({ "event_types": ["invoice.paid"] }),
        json!({ "event_types": ["invoice.*"], "channels": ["berlin"] }),
        json!({ "event_types": ["order.*"] }),
    ] {
        tenant.endpoint(&members).await;
    }
    for (event, expected) in [
        (r#"{"type": "invoice.paid", "payload": 1}"#, 3),
        (r#"{"type": "invoice.void", "payload": 1}"#, 2),
        (r#"{"type": "invoice", "payload": 1}"#, 2),
        (
            r#"{"type": "invoice.paid", "payload": 1, "channels": ["berlin", "x"]}"#,
            4,
        ),
        (r#"{"type": "order.new.item", "payload": 1}"#, 3),
    ] {
        assert_eq!(deliveries(&tenant, event).await, expected, "{event}");
    }
    let stranger = api.tenant().await;
    assert_eq!(
        deliveries(&stranger, r#"{"type": "invoice.paid", "payload": 1}"#).await,
        0
    );
}

#[tokio::test]
async fn a_change_of_endpoints_counts_from_its_answer_on() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let event = r#"{"type": "a", "payload": 1}"#;
    // Each publish fills the routing cache with what is about to become wrong.
    for _ in 0..5 {
        assert_eq!(deliveries(&tenant, event).await, 0);
        let id = tenant.endpoint(&json!({ "event_types": ["a"] })).await;
        let path = format!("/v1/endpoints/{id}");
        assert_eq!(deliveries(&tenant, event).await, 1, "created");
        tenant
            .patch(&path, &json!({ "event_types": ["b"] }))
            .await
            .expect(200);
        assert_eq!(deliveries(&tenant, event).await, 0, "changed away");
        tenant
            .patch(&path, &json!({ "event_types": ["*"] }))
            .await
            .expect(200);
        assert_eq!(deliveries(&tenant, event).await, 1, "changed back");
        tenant.push(&format!("{path}/disable")).await.expect(200);
        assert_eq!(deliveries(&tenant, event).await, 0, "disabled");
        tenant.push(&format!("{path}/enable")).await.expect(200);
        assert_eq!(deliveries(&tenant, event).await, 1, "enabled");
        tenant.delete(&path).await.expect(204);
        assert_eq!(deliveries(&tenant, event).await, 0, "deleted");
    }
}

#[tokio::test]
async fn a_change_counts_for_publishers_under_way_as_well() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let event = r#"{"type": "a", "payload": 1}"#;
    // Others publish all the time, so that batches mix events from before and after the change.
    let others = async {
        for _ in 0..40 {
            futures_util::future::join_all((0..8).map(|_| tenant.publish_text(event))).await;
        }
    };
    let changing = async {
        for _ in 0..10 {
            let id = tenant.endpoint(&json!({})).await;
            assert_eq!(deliveries(&tenant, event).await, 1, "after creation");
            tenant
                .delete(&format!("/v1/endpoints/{id}"))
                .await
                .expect(204);
            assert_eq!(deliveries(&tenant, event).await, 0, "after deletion");
        }
    };
    tokio::join!(others, changing);
}

#[tokio::test]
async fn an_endpoint_with_a_filter_gets_only_payloads_it_admits() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let filter = "$.amount > 100 && $.currency == \"EUR\"";
    let id = tenant.endpoint(&json!({ "filter": filter })).await;
    let path = format!("/v1/endpoints/{id}");
    assert_eq!(tenant.get(&path).await.expect(200).json()["filter"], filter);
    let big = r#"{"type": "a", "payload": {"amount": 101, "currency": "EUR"}}"#;
    let small = r#"{"type": "a", "payload": {"amount": 100, "currency": "EUR"}}"#;
    assert_eq!(deliveries(&tenant, big).await, 1);
    assert_eq!(deliveries(&tenant, small).await, 0);
    let batch: serde_json::Value = format!("[{small}, {big}]").parse().expect("JSON");
    let answer = tenant.post("/v1/events/batch", &batch).await.expect(202);
    let results = &answer.json()["results"];
    assert_eq!(
        (&results[0]["deliveries"], &results[1]["deliveries"]),
        (&json!(0), &json!(1))
    );

    // What is absent stays; null removes it.
    tenant
        .patch(&path, &json!({ "timeout_ms": 500 }))
        .await
        .expect(200);
    assert_eq!(deliveries(&tenant, small).await, 0);
    let changed = tenant
        .patch(&path, &json!({ "filter": null }))
        .await
        .expect(200);
    assert_eq!(changed.json()["filter"], json!(null));
    assert_eq!(deliveries(&tenant, small).await, 1);
    for bad in ["$.a", "$.a like_regex \"x\"", "$.a == $.b", "$.** == 1"] {
        let refused = tenant.patch(&path, &json!({ "filter": bad })).await;
        let refused = refused.expect_problem(422, "invalid");
        assert_eq!(refused.fields(), ["filter"]);
        assert!(
            refused.text_of("detail").contains("character"),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn patterns_and_channels_narrow_together() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    for (patterns, channels) in [
        (json!(["order.*"]), json!([])),
        (json!(["order.placed"]), json!(["eu"])),
        (json!(["*"]), json!(["us", "eu"])),
        (json!(["order.*", "order.placed", "*"]), json!([])),
    ] {
        tenant
            .endpoint(&json!({ "event_types": patterns, "channels": channels }))
            .await;
    }
    for (event_type, channels, expected) in [
        ("order.placed", json!([]), 2),
        ("order.placed", json!(["eu"]), 4),
        ("order.placed", json!(["us"]), 3),
        ("order.placed", json!(["asia"]), 2),
        ("order.line.added", json!(["eu"]), 3),
        ("order", json!([]), 1),
        ("orders.placed", json!(["eu", "us"]), 2),
    ] {
        let event = json!({ "type": event_type, "payload": 1, "channels": channels });
        let got = deliveries(&tenant, &event.to_string()).await;
        assert_eq!(got, expected, "{event_type} {channels}");
    }
}
