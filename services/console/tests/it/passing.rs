//! What goes through to the API, with which rights, and what comes back.

use reqwest::Method;
use reqwest::header::COOKIE;
use serde_json::{Value, json};
use zyven_domain::api_key::Scope;

use crate::support::{Answer, Stage};

async fn published(browser: &crate::support::Browser<'_>, event_type: &str) -> String {
    let event = json!({ "type": event_type, "payload": { "note": "<b>&\"" } });
    let answer = browser.api(Method::POST, "/v1/events", Some(&event)).await;
    let answer = answer.expect(202).json();
    answer["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_session_sees_what_its_key_may_see() {
    let stage = Stage::start().await;
    let (browser, stranger) = (
        stage.browser(&Scope::ALL).await,
        stage.browser(&Scope::ALL).await,
    );
    browser
        .api(
            Method::POST,
            "/v1/endpoints",
            Some(&json!({ "url": "https://example.com/hook" })),
        )
        .await
        .expect(201);
    let event = published(&browser, "invoice.paid").await;
    let path = format!("/v1/events/{event}");
    let direct = browser.api(Method::GET, &path, None).await.expect(200);
    let passed = browser.get(&format!("/api{path}")).await.expect(200);
    assert_eq!(passed.text, direct.text, "word for word");
    assert_eq!(passed.header("content-type"), Some("application/json"));
    stranger
        .get(&format!("/api{path}"))
        .await
        .expect_problem(404, "not_found");

    let listed = browser
        .get("/api/v1/deliveries?event_type=invoice.paid")
        .await
        .expect(200);
    assert_eq!(listed.json()["data"][0]["event"], event);
    let refused = browser.get("/api/v1/deliveries?nonsense=1").await;
    assert_eq!(
        refused.expect_problem(422, "invalid").json()["errors"][0]["field"],
        "nonsense"
    );
}

#[tokio::test]
async fn a_session_may_do_what_its_key_may_do() {
    let stage = Stage::start().await;
    let reader = stage.browser(&[Scope::Read]).await;
    reader.get("/api/v1/statistics").await.expect(200);
    reader
        .get("/api/v1/audit-log")
        .await
        .expect_problem(403, "scope_missing");
    let body = json!({ "name": "n", "scopes": ["read"] });
    reader
        .post("/api/v1/api-keys", &body)
        .await
        .expect_problem(403, "scope_missing");

    let manager = stage.browser(&[Scope::Read, Scope::Manage]).await;
    let made = manager
        .post("/api/v1/api-keys", &body)
        .await
        .expect(201)
        .json();
    assert!(
        made["key"]
            .as_str()
            .is_some_and(|key| key.starts_with("zyk_"))
    );
    let current = manager
        .get("/api/v1/api-keys/current")
        .await
        .expect(200)
        .json();
    assert_eq!(current["scopes"], json!(["read", "manage"]));
    assert_eq!(current["name"], "first key");
    assert_eq!(current["tenant_name"], "a tenant");
    let log = manager
        .get("/api/v1/audit-log?action=api_key.create")
        .await
        .expect(200)
        .json();
    assert_eq!(
        log["data"][0]["actor"], current["id"],
        "done in the key's name"
    );
}

#[tokio::test]
async fn what_the_page_does_not_ask_for_is_not_passed_on() {
    let stage = Stage::start().await;
    let browser = stage.browser(&Scope::ALL).await;
    let endpoint = browser
        .api(
            Method::POST,
            "/v1/endpoints",
            Some(&json!({ "url": "https://example.com/hook" })),
        )
        .await
        .expect(201)
        .json();
    let endpoint = endpoint["id"].as_str().expect("an id");
    for (method, path) in [
        (Method::GET, format!("/api/v1/endpoints/{endpoint}/secret")),
        (
            Method::POST,
            format!("/api/v1/endpoints/{endpoint}/rotate-secret"),
        ),
        (Method::PATCH, format!("/api/v1/endpoints/{endpoint}")),
        (Method::DELETE, format!("/api/v1/endpoints/{endpoint}")),
        (Method::POST, "/api/v1/events".to_owned()),
        (Method::POST, "/api/v1/events/batch".to_owned()),
        (Method::GET, "/api/openapi.json".to_owned()),
        (Method::GET, "/api/v1/deliveries/a%2Fb".to_owned()),
    ] {
        let request = browser.script(method.clone(), &path);
        let answer = Answer::of(request).await;
        answer.expect_problem(404, "not_found");
    }
    let long = json!({ "reason": "x".repeat(zyven_console::BODY_BYTES_MAX) });
    let path = "/api/v1/deliveries/dlv_x/replay";
    browser
        .post(path, &long)
        .await
        .expect_problem(413, "body_too_large");
    assert!(stage.metric("zyven_console_requests_total{outcome=\"refused\"}") >= 9.0);
}

#[tokio::test]
async fn the_browsers_own_headers_do_not_reach_the_api() {
    let stage = Stage::start().await;
    let (browser, stranger) = (
        stage.browser(&[Scope::Read]).await,
        stage.browser(&[Scope::Read]).await,
    );
    // Another's key beside a session changes nothing.
    let request = browser
        .script(Method::GET, "/api/v1/api-keys/current")
        .bearer_auth(&stranger.key);
    let seen = Answer::of(request).await.expect(200).json();
    let own = browser
        .get("/api/v1/api-keys/current")
        .await
        .expect(200)
        .json();
    assert_eq!(seen, own);
    // And without a session a key is none.
    let request = stage
        .request(Method::GET, "/api/v1/api-keys/current")
        .header("x-zyven-console", "person")
        .bearer_auth(&browser.key);
    Answer::of(request)
        .await
        .expect_problem(401, "session_ended");
    let request = stage
        .request(Method::GET, "/api/v1/api-keys/current")
        .header("x-zyven-console", "person")
        .header(COOKIE, format!("zyven_console={}", "0".repeat(64)));
    Answer::of(request)
        .await
        .expect_problem(401, "session_ended");
}

#[tokio::test]
async fn an_api_that_is_away_is_a_problem_and_ends_no_session() {
    // Nobody listens there: the port was just given back.
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = gone.local_addr().expect("an address");
    drop(gone);
    let away = Stage::start_apart(&format!("http://{address}")).await;
    let answer = away
        .log_in(
            &"zyk_00010203040506ff_"
                .chars()
                .chain(std::iter::repeat_n('A', 43))
                .collect::<String>(),
        )
        .await;
    let answer = answer.expect(502);
    assert!(answer.text.contains("does not answer"), "{answer:?}");
    assert_eq!(
        away.metric("zyven_console_logins_total{outcome=\"failed\"}"),
        1.0
    );
}

#[tokio::test]
async fn asked_to_stop_it_stops() {
    let stage = Stage::start().await;
    let browser = stage.browser(&[Scope::Read]).await;
    let page: Value = browser.get("/api/v1/endpoints").await.expect(200).json();
    assert_eq!(page["data"], json!([]));
    stage.trigger.request();
    tokio::time::timeout(crate::support::SOON, stage.running)
        .await
        .expect("it stops although connections are kept")
        .expect("in an orderly way");
}
