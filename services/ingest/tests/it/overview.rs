//! What a console asks first: whose key this is, and how deliveries go.

use serde_json::json;
use zyven_domain::api_key::Scope;

use crate::routes::Things;
use crate::support::{Answer, Api};

#[tokio::test]
async fn a_key_is_told_whose_it_is_and_what_it_may() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let key = tenant.get("/v1/api-keys/current").await.expect(200).json();
    assert_eq!(key["tenant"], tenant.id.to_string());
    assert_eq!(key["tenant_name"], "test");
    assert_eq!(key["name"], "first");
    assert_eq!(
        key["scopes"],
        json!(["publish", "read", "manage", "replay"])
    );
    assert_eq!(key["expires_at"], json!(null));
    let reader = tenant.key_with(&[Scope::Read]).await;
    let request = api
        .http
        .get(api.url("/v1/api-keys/current"))
        .bearer_auth(&reader);
    let other = Answer::of(request).await.expect(200).json();
    assert_eq!(other["scopes"], json!(["read"]));
    assert_ne!(other["id"], key["id"]);
    tenant
        .get("/v1/api-keys/current?a=b")
        .await
        .expect_problem(422, "invalid");
}

#[tokio::test]
async fn statistics_have_sixty_steps_and_tell_what_waits() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let things = Things::of(&tenant).await;
    tenant.publish("a").await;
    // Two deliveries were given up; one of them was replayed since, and waits beside the new one.
    let told = tenant.get("/v1/statistics").await.expect(200).json();
    assert_eq!(told["step_s"], 60);
    let steps = told["steps"].as_array().expect("steps");
    assert_eq!(steps.len(), 60);
    assert_eq!(
        (&told["delivered"], &told["dead_lettered"]),
        (&json!(0), &json!(2))
    );
    assert_eq!(told["success_rate"], json!(0.0));
    assert_eq!(told["latency_ms"], json!(null));
    assert_eq!(told["waiting"]["deliveries"], 2);
    assert_eq!(told["dead_letters"], 1);
    assert_eq!(told["dead_letters_is_complete"], true);
    assert_eq!(told["complete_since"], json!(null));
    let in_steps: i64 = steps
        .iter()
        .filter_map(|step| step["dead_lettered"].as_i64())
        .sum();
    assert_eq!(in_steps, 2);
    let endpoint = things.get("endpoints");
    assert_eq!(told["endpoints"][0]["endpoint"], endpoint);
    assert_eq!(told["endpoints"][0]["waiting"]["deliveries"], 2);

    let of_one = tenant
        .get(&format!("/v1/statistics?endpoint={endpoint}&minutes=5"))
        .await;
    let of_one = of_one.expect(200).json();
    assert_eq!(
        (&of_one["step_s"], &of_one["dead_lettered"]),
        (&json!(5), &json!(2))
    );
    for bad in [
        "minutes=4",
        "minutes=1441",
        "minutes=x",
        "endpoint=x",
        "since=2026-01-01T00:00:00Z",
    ] {
        let refused = tenant.get(&format!("/v1/statistics?{bad}")).await;
        let field = bad.split('=').next().expect("a name");
        assert_eq!(refused.expect_problem(422, "invalid").fields(), [field]);
    }
}
