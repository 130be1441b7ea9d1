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
