//! What a console asks first: whose key this is, and how deliveries go.

use serde_json::json;
use tokio::task::JoinSet;
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
    for scope in Scope::ALL {
        let limited = tenant.key_with(&[scope]).await;
        let request = api
            .http
            .get(api.url("/v1/api-keys/current"))
            .bearer_auth(&limited);
        let other = Answer::of(request).await.expect(200).json();
        assert_eq!(other["scopes"], json!([scope.as_str()]));
        assert_eq!(other["tenant"], key["tenant"]);
        assert_ne!(other["id"], key["id"]);
    }
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

/// `count` requests of whoever has this key, under way at the same time.
pub(crate) fn ask_at_once(api: &Api, key: &str, path: &str, count: usize) -> JoinSet<Answer> {
    let request = || api.http.get(api.url(path)).bearer_auth(key);
    (0..count).map(|_| Answer::of(request())).collect()
}

/// The next of these to be answered, which is refused as there is no place for it.
pub(crate) async fn refused_for(asking: &mut JoinSet<Answer>, what: &str) {
    let refused = asking.join_next().await.expect("one that is asked");
    let refused = refused.expect("an answer");
    let refused = refused.expect_problem(503, "overloaded");
    assert_eq!(refused.header("retry-after"), Some("1"));
    let told = format!("This tenant asks for {what} more often");
    assert!(refused.text.contains(&told), "{refused:?}");
}

#[tokio::test]
async fn what_one_tenants_viewers_ask_keeps_no_other_tenant_out() {
    let api = Api::with(&[("ZYVEN_INGEST_REQUEST_DEADLINE", "1s")]).await;
    let (tenant, other) = (api.tenant().await, api.tenant().await);
    let event = other.publish("a").await;
    let link = tenant.push("/v1/view-links").await.expect(201);
    let mut client = api.database.client().await;
    let holding = client.transaction().await.expect("begun");
    // What statistics read, and lists and explanations of events do not.
    holding
        .batch_execute("LOCK TABLE zyven.dead_letter_records IN ACCESS EXCLUSIVE MODE")
        .await
        .expect("locked");
    let mut asking = ask_at_once(&api, &link.text_of("token"), "/v1/statistics", 4);
    for _ in 0..3 {
        refused_for(&mut asking, "statistics, recent events or explanations").await;
    }
    // The fourth has the tenant's place, and keeps it.
    other.get("/v1/events").await.expect(200);
    holding.rollback().await.expect("let go");
    let answer = asking.join_next().await.expect("the fourth");
    answer.expect("an answer").expect(200);
    let path = format!("/v1/events/{event}/explain");
    other.get(&path).await.expect(200);
}
