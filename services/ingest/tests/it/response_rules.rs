//! What an endpoint's owner may say about retrying.

use serde_json::{Value, json};

use crate::support::Api;

#[tokio::test]
async fn a_schedule_and_further_statuses_can_be_given_changed_and_taken_back() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let id = tenant.endpoint(&json!({})).await;
    let path = format!("/v1/endpoints/{id}");
    let usual = tenant.get(&path).await.expect(200).json();
    assert_eq!(usual["retry_schedule_ms"], Value::Null);
    assert_eq!(usual["retry_statuses"], json!([]));

    let change =
        json!({ "retry_schedule_ms": [5000, 1, 604_800_000], "retry_statuses": [409, 404, 409] });
    let changed = tenant.patch(&path, &change).await.expect(200).json();
    assert_eq!(changed["retry_schedule_ms"], change["retry_schedule_ms"]);
    assert_eq!(
        changed["retry_statuses"],
        json!([404, 409]),
        "each one once"
    );
    let changed = tenant.patch(&path, &json!({ "description": "x" })).await;
    let changed = changed.expect(200).json();
    assert_eq!(
        changed["retry_schedule_ms"], change["retry_schedule_ms"],
        "what is not said stays"
    );
    assert_eq!(changed["retry_statuses"], json!([404, 409]));

    let nothing = json!({ "retry_schedule_ms": null, "retry_statuses": null });
    let changed = tenant.patch(&path, &nothing).await.expect(200).json();
    assert_eq!(changed["retry_schedule_ms"], Value::Null);
    assert_eq!(changed["retry_statuses"], json!([]));

    let made = tenant
        .post(
            "/v1/endpoints",
            &json!({
                "url": "https://example.com", "retry_schedule_ms": [10], "retry_statuses": [499],
            }),
        )
        .await
        .expect(201)
        .json();
    assert_eq!(made["retry_schedule_ms"], json!([10]));
    assert_eq!(made["retry_statuses"], json!([499]));
}

#[tokio::test]
async fn a_schedule_or_status_that_cannot_be_kept_is_named_with_its_place() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let id = tenant.endpoint(&json!({})).await;
    let path = format!("/v1/endpoints/{id}");
    for (body, fields) in [
        (
            json!({ "retry_schedule_ms": 5 }),
            &["retry_schedule_ms"][..],
        ),
        (
            json!({ "retry_schedule_ms": [1.5] }),
            &["retry_schedule_ms"],
        ),
        (
            json!({ "retry_schedule_ms": [null] }),
            &["retry_schedule_ms"],
        ),
        (json!({ "retry_schedule_ms": [] }), &["retry_schedule_ms"]),
        (
            json!({ "retry_schedule_ms": [0, 1, 604_800_001] }),
            &["retry_schedule_ms[0]", "retry_schedule_ms[2]"],
        ),
        (json!({ "retry_statuses": "404" }), &["retry_statuses"]),
        (json!({ "retry_statuses": ["404"] }), &["retry_statuses"]),
        (
            json!({ "retry_statuses": [404, 410, 500, 399, 200] }),
            &[
                "retry_statuses[1]",
                "retry_statuses[2]",
                "retry_statuses[3]",
                "retry_statuses[4]",
            ],
        ),
    ] {
        let answer = tenant.patch(&path, &body).await;
        let fields_named = answer.expect_problem(422, "invalid").fields();
        assert_eq!(fields_named, fields, "{body}");
    }
    let waits = |count: usize| json!({ "retry_schedule_ms": vec![1; count] });
    tenant.patch(&path, &waits(100)).await.expect(200);
    let refused = tenant.patch(&path, &waits(101)).await;
    assert_eq!(
        refused.expect_problem(422, "invalid").fields(),
        ["retry_schedule_ms"]
    );
}

/// The bounds of the API and those of the table are the same: both neighbours of each.
#[tokio::test]
async fn the_table_refuses_what_the_api_refuses() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let id = tenant.endpoint(&json!({})).await;
    let path = format!("/v1/endpoints/{id}");
    let sql = api.database.client().await;
    for (member, value, is_good) in [
        ("retry_schedule_ms", json!([0]), false),
        ("retry_schedule_ms", json!([1]), true),
        ("retry_schedule_ms", json!([604_800_000]), true),
        ("retry_schedule_ms", json!([1, 604_800_001]), false),
        ("retry_schedule_ms", json!(vec![1; 100]), true),
        ("retry_schedule_ms", json!(vec![1; 101]), false),
        ("retry_schedule_ms", json!([1, null]), false),
        ("retry_statuses", json!([399]), false),
        ("retry_statuses", json!([400]), true),
        ("retry_statuses", json!([409, 411]), true),
        ("retry_statuses", json!([409, 410]), false),
        ("retry_statuses", json!([499]), true),
        ("retry_statuses", json!([500]), false),
        ("retry_statuses", json!(vec![404; 99]), true),
        ("retry_statuses", json!(vec![404; 100]), false),
        ("retry_statuses", json!([404, null]), false),
    ] {
        let answer = tenant.patch(&path, &json!({ member: value })).await;
        assert_eq!(
            answer.status.is_success(),
            is_good,
            "the API: {member} {value}"
        );
        let array = value.to_string().replace('[', "{").replace(']', "}");
        let updated = sql
            .batch_execute(&format!("UPDATE zyven.endpoints SET {member} = '{array}'"))
            .await;
        assert_eq!(updated.is_ok(), is_good, "the table: {member} {value}");
    }
}
