//! What a publisher may ask of an event's delivery, and calling it off.

use chrono::{SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::support::{Api, Tenant};

fn in_seconds(seconds: i64) -> String {
    (Utc::now() + TimeDelta::seconds(seconds)).to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn event(options: &Value) -> Value {
    let mut event = json!({ "type": "a", "payload": { "n": 1 } });
    for (name, value) in options.as_object().expect("members") {
        event[name] = value.clone();
    }
    event
}

async fn published(tenant: &Tenant<'_>, options: Value) -> String {
    let answer = tenant.post("/v1/events", &event(&options)).await;
    answer.expect(202).text_of("id")
}

#[tokio::test]
async fn options_are_kept_and_shown() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    tenant.endpoint(&json!({})).await;
    let (later, end) = (in_seconds(60), in_seconds(120));
    let id = published(&tenant, json!({ "deliver_at": later, "expires_at": end })).await;
    let shown = tenant
        .get(&format!("/v1/events/{id}"))
        .await
        .expect(200)
        .json();
    assert_eq!(
        (&shown["deliver_at"], &shown["expires_at"]),
        (&json!(later), &json!(end))
    );
    assert_eq!(shown["ordering_key"], Value::Null);
    let deliveries = tenant.get(&format!("/v1/events/{id}/deliveries")).await;
    assert_eq!(
        deliveries.json()["data"][0]["next_attempt_at"],
        json!(later)
    );

    let id = published(&tenant, json!({ "ordering_key": "customer-17" })).await;
    let shown = tenant
        .get(&format!("/v1/events/{id}"))
        .await
        .expect(200)
        .json();
    assert_eq!(shown["ordering_key"], "customer-17");
}

#[tokio::test]
async fn options_that_make_no_sense_are_refused_by_name() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let month = 30 * 86_400;
    published(&tenant, json!({ "deliver_at": in_seconds(month - 60) })).await;
    published(&tenant, json!({ "deliver_at": in_seconds(-60) })).await;
    for (options, field) in [
        (json!({ "deliver_at": "tomorrow" }), "deliver_at"),
        (
            json!({ "deliver_at": in_seconds(month + 60) }),
            "deliver_at",
        ),
        (
            json!({ "deliver_at": in_seconds(9), "ordering_key": "k" }),
            "deliver_at",
        ),
        (json!({ "expires_at": 7 }), "expires_at"),
        (json!({ "expires_at": in_seconds(-1) }), "expires_at"),
        (
            json!({ "deliver_at": in_seconds(99), "expires_at": in_seconds(98) }),
            "expires_at",
        ),
        (json!({ "ordering_key": "a b" }), "ordering_key"),
        (json!({ "ordering_key": "x".repeat(129) }), "ordering_key"),
    ] {
        let refused = tenant.post("/v1/events", &event(&options)).await;
        let refused = refused.expect_problem(422, "invalid");
        assert_eq!(refused.fields(), [field], "{options}");
    }
    let batch = json!([event(&json!({})), event(&json!({ "ordering_key": "" }))]);
    let refused = tenant.post("/v1/events/batch", &batch).await;
    assert_eq!(
        refused.expect_problem(422, "invalid").fields(),
        ["[1].ordering_key"]
    );
}

#[tokio::test]
async fn an_event_with_other_options_is_another_event() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let (later, end) = (in_seconds(60), in_seconds(120));
    let asked = [
        json!({}),
        json!({ "deliver_at": later }),
        json!({ "expires_at": end }),
        json!({ "ordering_key": "k" }),
    ];
    for (first, options) in asked.iter().enumerate() {
        let key = format!("key-{first}");
        for (second, other) in asked.iter().enumerate() {
            let text = event(other).to_string();
            if first == second {
                let same = event(options).to_string();
                tenant.publish_with_key(&same, &key).await.expect(202);
                tenant.publish_with_key(&text, &key).await.expect(200);
            }
        }
        for (_, other) in asked
            .iter()
            .enumerate()
            .filter(|(second, _)| *second != first)
        {
            let text = event(other).to_string();
            let refused = tenant.publish_with_key(&text, &key).await;
            refused.expect_problem(409, "idempotency_conflict");
        }
    }
}

#[tokio::test]
async fn an_event_is_called_off_once_and_for_all() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    for _ in 0..2 {
        tenant.endpoint(&json!({})).await;
    }
    let id = published(&tenant, json!({ "deliver_at": in_seconds(600) })).await;
    let path = format!("/v1/events/{id}/cancel");
    let refused = tenant.post(&path, &json!({})).await;
    assert_eq!(refused.expect_problem(422, "invalid").fields(), ["reason"]);
    for _ in 0..2 {
        let answer = tenant
            .post(&path, &json!({ "reason": "sent by mistake" }))
            .await;
        let body = answer.expect(200).json();
        assert_eq!(
            (&body["cancelled"], &body["finished"]),
            (&json!(2), &json!(0))
        );
    }
    let shown = tenant.get(&format!("/v1/events/{id}")).await.expect(200);
    assert_eq!(shown.text_of("status"), "DEAD_LETTERED");
    let key = api
        .count("SELECT count(*) FROM zyven.cancellations WHERE decided_by LIKE 'key\\_%'")
        .await;
    assert_eq!(key, 1);
}

#[tokio::test]
async fn a_delivery_under_way_or_finished_says_why_it_cannot_be_called_off() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    tenant.endpoint(&json!({})).await;
    let event = published(&tenant, json!({})).await;
    let deliveries = tenant
        .get(&format!("/v1/events/{event}/deliveries"))
        .await
        .json();
    let id = deliveries["data"][0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let sql = api.database.client().await;
    sql.batch_execute(
        "UPDATE zyven.outbox SET state = 'DISPATCHING', lease_token = 1, attempts = 1,
                leased_until = now() + interval '1 hour'",
    )
    .await
    .expect("leased");
    let reason = json!({ "reason": "r" });
    for path in [
        format!("/v1/deliveries/{id}/cancel"),
        format!("/v1/events/{event}/cancel"),
    ] {
        let refused = tenant.post(&path, &reason).await;
        let refused = refused.expect_problem(409, "being_attempted");
        assert!(
            refused.text_of("detail").contains("again in a few seconds"),
            "{refused:?}"
        );
    }
    sql.batch_execute("UPDATE zyven.outbox SET lease_token = 0, leased_until = '-infinity'")
        .await
        .expect("released");
    let path = format!("/v1/deliveries/{id}/cancel");
    for _ in 0..2 {
        let cancelled = tenant.post(&path, &reason).await.expect(200);
        assert_eq!(cancelled.text_of("reason"), "cancelled");
    }
    let replayed = tenant
        .post(&format!("/v1/deliveries/{id}/replay"), &reason)
        .await;
    replayed.expect(202);
    sql.batch_execute(
        "DELETE FROM zyven.outbox;
         UPDATE zyven.finished_deliveries SET reason = 'rejected'",
    )
    .await
    .expect("finished otherwise");
    tenant
        .post(&path, &reason)
        .await
        .expect_problem(409, "not_cancellable");
}
