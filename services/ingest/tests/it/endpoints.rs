//! Endpoints as their owners manage them.

use reqwest::Method;
use serde_json::{Value, json};
use zyven_domain::id::{DeliveryId, EndpointId, EventId};
use zyven_domain::signature::SigningSecret;

use crate::support::{Answer, Api, Tenant};

#[tokio::test]
async fn an_endpoint_is_made_read_changed_and_deleted() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let made = tenant
        .post(
            "/v1/endpoints",
            &json!({ "url": "HTTPS://Example.com:443/Hook?a=1" }),
        )
        .await
        .expect(201);
    let id = made.text_of("id");
    let body = made.json();
    assert_eq!(body["url"], "https://example.com/Hook?a=1");
    assert_eq!(body["event_types"], json!(["*"]));
    assert_eq!(body["attempts_max"], 12);
    assert_eq!(body["timeout_ms"], 15_000);
    assert_eq!(body["status"], "enabled");
    assert!(SigningSecret::parse(&made.text_of("secret")).is_ok());

    let path = format!("/v1/endpoints/{id}");
    let read = tenant.get(&path).await.expect(200);
    assert_eq!(read.json()["secret"], Value::Null, "only when it was made");

    let change = json!({
        "event_types": ["invoice.*", "order.paid"], "channels": ["b", "a"], "description": "ERP",
        "retry_base_ms": 10, "retry_cap_ms": 1000, "attempts_max": 3, "age_max_ms": 5000, "timeout_ms": 500,
    });
    let changed = tenant.patch(&path, &change).await.expect(200).json();
    for (name, value) in change.as_object().expect("an object") {
        if name != "channels" {
            assert_eq!(&changed[name], value, "{name}");
        }
    }
    assert_eq!(changed["channels"], json!(["a", "b"]));
    let changed = tenant
        .patch(&path, &json!({ "description": "" }))
        .await
        .expect(200);
    assert_eq!(changed.json()["attempts_max"], 3, "what is not said stays");

    tenant.delete(&path).await.expect(204);
    tenant.get(&path).await.expect_problem(404, "not_found");
    tenant
        .patch(&path, &json!({}))
        .await
        .expect_problem(404, "not_found");
    tenant.delete(&path).await.expect_problem(404, "not_found");
    let listed = tenant.get("/v1/endpoints").await.expect(200);
    assert_eq!(listed.json()["data"], json!([]));
}

#[tokio::test]
async fn an_endpoints_members_are_checked() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let url = "https://example.com";
    for (body, fields) in [
        (json!({}), &["url"][..]),
        (json!({ "url": "example.com" }), &["url"]),
        (json!({ "url": "http://127.1/" }), &["url"]),
        (json!({ "url": "http://localhost/" }), &["url"]),
        (json!({ "url": "http://169.254.169.254/" }), &["url"]),
        (json!({ "url": "http://[fd00:ec2::254]/" }), &["url"]),
        (
            json!({ "url": url, "event_types": ["zyven.endpoint.dissabled"] }),
            &["event_types[0]"],
        ),
        (json!({ "url": "https://user@example.com" }), &["url"]),
        (json!({ "url": url, "event_types": [] }), &["event_types"]),
        (
            json!({ "url": url, "event_types": ["a", "b*"] }),
            &["event_types[1]"],
        ),
        (json!({ "url": url, "channels": "a" }), &["channels"]),
        (
            json!({ "url": url, "attempts_max": 0, "timeout_ms": 30_001 }),
            &["attempts_max", "timeout_ms"],
        ),
        (
            json!({ "url": url, "retry_base_ms": 2000, "retry_cap_ms": 1000 }),
            &["retry_cap_ms"],
        ),
        (json!({ "url": url, "secret": "whsec_short" }), &["secret"]),
        (
            json!({ "url": url, "description": "x".repeat(501), "id": "mine" }),
            &["description", "id"],
        ),
    ] {
        let answer = tenant.post("/v1/endpoints", &body).await;
        assert_eq!(
            answer.expect_problem(422, "invalid").fields(),
            fields,
            "{body}"
        );
    }
    let id = tenant.endpoint(&json!({})).await;
    let answer = tenant
        .patch(
            &format!("/v1/endpoints/{id}"),
            &json!({ "retry_cap_ms": 4999 }),
        )
        .await;
    assert_eq!(
        answer.expect_problem(422, "invalid").fields(),
        ["retry_cap_ms"]
    );
}

#[tokio::test]
async fn names_that_the_proxy_may_reach_may_be_registered() {
    let api = Api::with(&[("ZYVEN_EGRESS_ALLOW_NAMES", "localhost")]).await;
    let tenant = api.tenant().await;
    tenant
        .endpoint(&json!({ "url": "http://localhost:47090/" }))
        .await;
}

#[tokio::test]
async fn a_rotated_secret_stays_valid_for_its_overlap() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let given = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";
    let id = tenant.endpoint(&json!({ "secret": given })).await;
    let path = format!("/v1/endpoints/{id}/secret");
    let rotate = format!("/v1/endpoints/{id}/rotate-secret");
    assert_eq!(tenant.get(&path).await.expect(200).text_of("secret"), given);

    let rotated = tenant.push(&rotate).await.expect(200);
    assert_eq!(rotated.json()["overlap_s"], 86_400);
    let now = tenant.get(&path).await.expect(200);
    assert_eq!(now.text_of("secret"), rotated.text_of("secret"));
    let previous = &now.json()["previous"];
    assert_eq!(previous[0]["secret"], given);
    assert!(previous[0]["expires_at"].is_string());

    // Both sign: this is what a dispatcher reads.
    let endpoint: EndpointId = id.parse().expect("an id");
    let secrets = async || {
        let found = api.store.endpoints(&[endpoint]).await.expect("endpoints");
        found[0].secrets.len()
    };
    assert_eq!(secrets().await, 2);
    tenant
        .post(&rotate, &json!({ "overlap_s": 0 }))
        .await
        .expect(200);
    assert_eq!(
        secrets().await,
        2,
        "the one without overlap ended at once, the first goes on"
    );
    for _ in 0..10 {
        tenant.push(&rotate).await.expect(200);
    }
    assert_eq!(secrets().await, 5, "a limit on signatures");
    let refused = tenant.post(&rotate, &json!({ "overlap_s": 604_801 })).await;
    assert_eq!(
        refused.expect_problem(422, "invalid").fields(),
        ["overlap_s"]
    );
}

#[tokio::test]
async fn secrets_are_stored_sealed() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let given = [7_u8; 32];
    let text = SigningSecret::from_bytes(given.to_vec())
        .expect("a secret")
        .expose();
    tenant.endpoint(&json!({ "secret": text })).await;
    let client = api.database.client().await;
    let row = client
        .query_one("SELECT envelope FROM zyven.endpoint_secrets", &[])
        .await
        .expect("a row");
    let envelope: Vec<u8> = row.get(0);
    assert!(!envelope.windows(8).any(|window| window == &given[..8]));
}

#[tokio::test]
async fn a_test_goes_to_its_endpoint_alone_whatever_that_subscribes_to() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let id = tenant
        .endpoint(&json!({ "event_types": ["invoice.*"], "channels": ["x"] }))
        .await;
    tenant.endpoint(&json!({})).await;
    let sent = tenant
        .push(&format!("/v1/endpoints/{id}/test"))
        .await
        .expect(202);
    let event: EventId = sent.text_of("event").parse().expect("an event id");
    let endpoint: EndpointId = id.parse().expect("an endpoint id");
    assert_eq!(
        sent.text_of("delivery"),
        DeliveryId::derive(event, endpoint).to_string()
    );
    assert_eq!(api.count("SELECT count(*) FROM zyven.outbox").await, 1);
    let read = tenant.get(&format!("/v1/events/{event}")).await.expect(200);
    assert_eq!(read.text_of("type"), "zyven.test");
    assert_eq!(read.json()["payload"]["endpoint"], json!(id));

    tenant
        .push(&format!("/v1/endpoints/{id}/disable"))
        .await
        .expect(200);
    let refused = tenant.push(&format!("/v1/endpoints/{id}/test")).await;
    refused.expect_problem(409, "endpoint_disabled");
    tenant
        .delete(&format!("/v1/endpoints/{id}"))
        .await
        .expect(204);
    let refused = tenant.push(&format!("/v1/endpoints/{id}/test")).await;
    refused.expect_problem(404, "not_found");
    assert_eq!(api.count("SELECT count(*) FROM zyven.events").await, 1);
}

#[tokio::test]
async fn enabling_and_disabling_can_be_repeated() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let id = tenant.endpoint(&json!({})).await;
    let ask = async |tenant: &Tenant<'_>, what: &str| {
        let answer = tenant.push(&format!("/v1/endpoints/{id}/{what}")).await;
        answer.expect(200).json()
    };
    for _ in 0..2 {
        let disabled = ask(&tenant, "disable").await;
        assert_eq!(disabled["status"], "disabled");
        assert!(disabled["disabled_reason"].is_string());
    }
    for _ in 0..2 {
        let enabled = ask(&tenant, "enable").await;
        assert_eq!(enabled["status"], "enabled");
        assert_eq!(enabled["disabled_reason"], Value::Null);
    }
}

#[tokio::test]
async fn of_two_changes_made_from_the_same_version_one_is_refused() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let types = json!({ "name": "a" });
    let made = tenant.post("/v1/event-types", &types).await.expect(201);
    let endpoint = tenant.endpoint(&json!({})).await;
    let paths = [
        format!("/v1/endpoints/{endpoint}"),
        "/v1/event-types/a".to_owned(),
    ];
    for path in &paths {
        let read = tenant.get(path).await.expect(200);
        let version = read.header("etag").expect("an etag").to_owned();
        let change = async |description: &str, if_match: &str| {
            let request = tenant
                .request(Method::PATCH, path)
                .header("if-match", if_match)
                .json(&json!({ "description": description }));
            Answer::of(request).await
        };
        let (one, other) = tokio::join!(change("one", &version), change("other", &version));
        let statuses = [one.status.as_u16(), other.status.as_u16()];
        assert!(
            statuses == [200, 412] || statuses == [412, 200],
            "{statuses:?}"
        );
        let (done, refused) = if statuses[0] == 200 {
            (one, other)
        } else {
            (other, one)
        };
        refused.expect_problem(412, "precondition_failed");
        let now = tenant.get(path).await.expect(200);
        assert_eq!(now.json()["description"], done.json()["description"]);
        assert_eq!(now.header("etag"), done.header("etag"));
        assert_ne!(now.header("etag"), Some(version.as_str()));
        // A list of versions, any version, and no condition at all.
        let both = format!("{version}, {}", now.header("etag").expect("an etag"));
        change("three", &both).await.expect(200);
        change("four", "*").await.expect(200);
        change("five", "W/\"1\"")
            .await
            .expect_problem(412, "precondition_failed");
        let unconditional = json!({ "description": "six" });
        let last = tenant.patch(path, &unconditional).await.expect(200);
        let delete = async |if_match: &str| {
            let request = tenant.request(Method::DELETE, path);
            Answer::of(request.header("if-match", if_match)).await
        };
        delete(&version)
            .await
            .expect_problem(412, "precondition_failed");
        delete(last.header("etag").expect("an etag"))
            .await
            .expect(204);
    }
    assert!(made.header("etag").is_some());
    let unknown = format!("/v1/endpoints/ep_{}", "0".repeat(32));
    let request = tenant
        .request(Method::PATCH, &unknown)
        .header("if-match", "\"1\"")
        .json(&json!({ "description": "x" }));
    Answer::of(request).await.expect_problem(404, "not_found");
}
