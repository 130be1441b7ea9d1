//! Who may do what: every route, without a key, with too little of one, and with another tenant's.

use reqwest::Method;
use serde_json::{Value, json};
use zyven_domain::api_key::{ApiKey, Scope};

use crate::support::{Answer, Api, Tenant};

/// Every route: method, path with the ids of one tenant's things, body, scope.
fn routes(things: &Things) -> Vec<(Method, String, Option<Value>, Scope)> {
    let Things {
        event,
        delivery,
        endpoint,
        key,
    } = things;
    let (get, post, patch, delete) = (Method::GET, Method::POST, Method::PATCH, Method::DELETE);
    let event_body = json!({ "type": "a", "payload": 1 });
    let new_key = json!({ "name": "n", "scopes": ["read"] });
    vec![
        (
            post.clone(),
            "/v1/events".into(),
            Some(event_body.clone()),
            Scope::Publish,
        ),
        (
            post.clone(),
            "/v1/events/batch".into(),
            Some(json!([event_body])),
            Scope::Publish,
        ),
        (
            get.clone(),
            format!("/v1/events/{event}"),
            None,
            Scope::Read,
        ),
        (
            get.clone(),
            format!("/v1/events/{event}/deliveries"),
            None,
            Scope::Read,
        ),
        (get.clone(), "/v1/deliveries".into(), None, Scope::Read),
        (
            get.clone(),
            format!("/v1/deliveries/{delivery}"),
            None,
            Scope::Read,
        ),
        (
            get.clone(),
            format!("/v1/deliveries/{delivery}/attempts"),
            None,
            Scope::Read,
        ),
        (
            post.clone(),
            format!("/v1/deliveries/{delivery}/replay"),
            Some(json!({ "reason": "r" })),
            Scope::Replay,
        ),
        (
            post.clone(),
            format!("/v1/events/{event}/cancel"),
            Some(json!({ "reason": "r" })),
            Scope::Publish,
        ),
        (
            post.clone(),
            format!("/v1/deliveries/{delivery}/cancel"),
            Some(json!({ "reason": "r" })),
            Scope::Replay,
        ),
        (get.clone(), "/v1/endpoints".into(), None, Scope::Read),
        (
            post.clone(),
            "/v1/endpoints".into(),
            Some(json!({ "url": "https://example.com" })),
            Scope::Manage,
        ),
        (
            get.clone(),
            format!("/v1/endpoints/{endpoint}"),
            None,
            Scope::Read,
        ),
        (
            patch,
            format!("/v1/endpoints/{endpoint}"),
            Some(json!({})),
            Scope::Manage,
        ),
        (
            post.clone(),
            format!("/v1/endpoints/{endpoint}/enable"),
            None,
            Scope::Manage,
        ),
        (
            post.clone(),
            format!("/v1/endpoints/{endpoint}/disable"),
            None,
            Scope::Manage,
        ),
        (
            post.clone(),
            format!("/v1/endpoints/{endpoint}/test"),
            None,
            Scope::Manage,
        ),
        (
            get.clone(),
            format!("/v1/endpoints/{endpoint}/secret"),
            None,
            Scope::Manage,
        ),
        (
            post.clone(),
            format!("/v1/endpoints/{endpoint}/rotate-secret"),
            None,
            Scope::Manage,
        ),
        (
            get.clone(),
            format!("/v1/endpoints/{endpoint}/public-key"),
            None,
            Scope::Read,
        ),
        (
            delete.clone(),
            format!("/v1/endpoints/{endpoint}"),
            None,
            Scope::Manage,
        ),
        (get, "/v1/api-keys".into(), None, Scope::Manage),
        (post, "/v1/api-keys".into(), Some(new_key), Scope::Manage),
        (delete, format!("/v1/api-keys/{key}"), None, Scope::Manage),
    ]
}

struct Things {
    event: String,
    delivery: String,
    endpoint: String,
    key: String,
}

impl Things {
    async fn of(tenant: &Tenant<'_>) -> Self {
        let endpoint = tenant.endpoint(&json!({})).await;
        let event = tenant.publish("a").await;
        let deliveries = tenant.get(&format!("/v1/events/{event}/deliveries")).await;
        let delivery = deliveries.json()["data"][0]["id"]
            .as_str()
            .expect("an id")
            .to_owned();
        let keys = tenant.get("/v1/api-keys").await.json();
        let key = keys["data"][0]["id"].as_str().expect("an id").to_owned();
        Self {
            event,
            delivery,
            endpoint,
            key,
        }
    }
}

async fn send(
    api: &Api,
    key: Option<&str>,
    route: &(Method, String, Option<Value>, Scope),
) -> Answer {
    let (method, path, body, _) = route;
    let mut request = api.http.request(method.clone(), api.url(path));
    if let Some(body) = body {
        request = request.json(body);
    }
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    Answer::of(request).await
}

#[tokio::test]
async fn the_list_of_routes_in_this_test_is_complete() {
    let router = include_str!("../../src/router.rs");
    let declared = router.matches(".add(M::").count() + 1; // and POST /v1/events
    let things = Things {
        event: String::new(),
        delivery: String::new(),
        endpoint: String::new(),
        key: String::new(),
    };
    assert_eq!(routes(&things).len(), declared);
}

#[tokio::test]
async fn another_tenants_things_do_not_exist() {
    let api = Api::start().await;
    let (owner, stranger) = (api.tenant().await, api.tenant().await);
    let things = Things::of(&owner).await;
    for route in routes(&things) {
        let answer = send(&api, Some(&stranger.key), &route).await;
        if route.1.contains('_') {
            answer.expect_problem(404, "not_found");
        } else {
            assert!(answer.status.is_success(), "{route:?}: {answer:?}");
            for id in [
                &things.event,
                &things.delivery,
                &things.endpoint,
                &things.key,
            ] {
                assert!(!answer.text.contains(id.as_str()), "{route:?} shows {id}");
            }
        }
    }
    // Nothing has happened to them either.
    let endpoint = owner
        .get(&format!("/v1/endpoints/{}", things.endpoint))
        .await
        .expect(200);
    assert_eq!(endpoint.text_of("status"), "enabled");
    let secrets = owner
        .get(&format!("/v1/endpoints/{}/secret", things.endpoint))
        .await;
    assert_eq!(secrets.expect(200).json()["previous"], json!([]));
}

#[tokio::test]
async fn without_a_good_key_every_route_is_the_same_401() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let things = Things::of(&tenant).await;
    let known = ApiKey::parse(&tenant.key).expect("a key");
    let (kept, last) = tenant.key.split_at(tenant.key.len() - 1);
    let wrong_secret = format!("{kept}{}", if last == "A" { "E" } else { "A" });
    let unknown = ApiKey::from_random([1; 8], [2; 32]).expose();
    let bad_keys = [
        None,
        Some("zyk_"),
        Some("nonsense"),
        Some(unknown.as_str()),
        Some(wrong_secret.as_str()),
    ];
    assert_ne!(wrong_secret, tenant.key);
    assert!(wrong_secret.contains(&known.public_id().to_string()));
    let mut bodies = Vec::new();
    for route in routes(&things) {
        for key in bad_keys {
            let answer = send(&api, key, &route).await;
            let answer = answer.expect_problem(401, "unauthenticated");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            bodies.push(answer.text);
        }
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "all alike");
}

#[tokio::test]
async fn each_route_needs_its_scope() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let things = Things::of(&tenant).await;
    for scope in Scope::ALL {
        let others: Vec<Scope> = Scope::ALL
            .into_iter()
            .filter(|other| *other != scope)
            .collect();
        let key = tenant.key_with(&others).await;
        for route in routes(&things).iter().filter(|route| route.3 == scope) {
            let answer = send(&api, Some(&key), route).await;
            let answer = answer.expect_problem(403, "scope_missing");
            let named = format!("\\\"{scope}\\\"");
            assert!(answer.text.contains(&named), "{route:?}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn authentication_comes_before_anything_that_is_in_the_body() {
    let api = Api::start().await;
    for body in ["not json", &"x".repeat(300_000)] {
        let request = api
            .http
            .post(api.url("/v1/events"))
            .body((*body).to_owned());
        Answer::of(request)
            .await
            .expect_problem(401, "unauthenticated");
    }
}

#[tokio::test]
async fn unknown_routes_and_methods_say_so() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let paths = [
        "/",
        "/v1",
        "/v1/event",
        "/v1/events/",
        "/v1/events/a/b",
        "/v1/events/%FF",
    ];
    for path in paths {
        tenant.get(path).await.expect_problem(404, "not_found");
    }
    let answer = tenant
        .get("/v1/events")
        .await
        .expect_problem(405, "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("POST"));
    let answer = tenant
        .delete("/v1/endpoints")
        .await
        .expect_problem(405, "method_not_allowed");
    let mut allowed: Vec<&str> = answer.header("allow").expect("Allow").split(',').collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
}
