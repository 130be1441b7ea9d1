//! What browsers are told, and what other pages cannot do.

use reqwest::Method;
use reqwest::header::{COOKIE, ORIGIN};
use serde_json::json;
use zyven_domain::api_key::Scope;

use crate::support::{Answer, Stage};

#[tokio::test]
async fn every_answer_has_the_policy_and_nothing_is_kept() {
    let stage = Stage::start().await;
    let browser = stage.browser(&[Scope::Read]).await;
    let mut answers = Vec::new();
    for path in [
        "/",
        "/login",
        "/nowhere",
        "/assets/app.js",
        "/assets/console.css",
        "/assets/nothing.js",
        "/api/v1/deliveries",
        "/api/v1/deliveries/dlv_x",
        "/api/v1/endpoints/ep_x/secret",
    ] {
        answers.push((path, browser.get(path).await));
    }
    answers.push(("/login refused", stage.log_in("x").await));
    for (path, answer) in &answers {
        let policy = answer.header("content-security-policy");
        let policy = policy.unwrap_or_else(|| panic!("{path} has no policy"));
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        for directive in [
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'self'",
            "trusted-types 'none'",
        ] {
            assert!(policy.contains(directive), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}: {name}");
        }
        let kept = answer.header("cache-control");
        let is_file = path.starts_with("/assets/") && answer.status == 200;
        let expected = if is_file { "no-cache" } else { "no-store" };
        assert_eq!(kept, Some(expected), "{path}");
        assert!(answer.header("access-control-allow-origin").is_none());
    }
}

#[tokio::test]
async fn a_file_that_has_not_changed_is_not_sent_again() {
    let stage = Stage::start().await;
    let first = Answer::of(stage.request(Method::GET, "/assets/app.js"))
        .await
        .expect(200);
    assert_eq!(
        first.header("content-type"),
        Some("text/javascript; charset=utf-8")
    );
    let tag = first.header("etag").expect("a tag");
    let again = stage
        .request(Method::GET, "/assets/app.js")
        .header("if-none-match", tag);
    assert_eq!(Answer::of(again).await.expect(304).text, "");
}

#[tokio::test]
async fn another_page_can_neither_log_in_nor_out_nor_act() {
    let stage = Stage::start().await;
    let browser = stage.browser(&Scope::ALL).await;
    let made = browser
        .api(
            Method::POST,
            "/v1/endpoints",
            Some(&json!({ "url": "https://example.com/hook" })),
        )
        .await
        .expect(201)
        .json();
    let pause = format!(
        "/api/v1/endpoints/{}/pause",
        made["id"].as_str().expect("an id")
    );

    let origin = stage.origin();
    let evil = [
        vec![(ORIGIN.as_str(), "https://evil.example")],
        vec![(ORIGIN.as_str(), "null")],
        vec![("sec-fetch-site", "cross-site")],
        vec![
            ("sec-fetch-site", "same-site"),
            (ORIGIN.as_str(), origin.as_str()),
        ],
        // Nothing is said of where it comes from.
        vec![],
    ];
    for headers in &evil {
        let send = |path: &str, own: bool, body: String| {
            let mut request = stage
                .request(Method::POST, path)
                .header(COOKIE, &browser.cookie);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            if own {
                request = request.header("x-zyven-console", "person");
            }
            Answer::of(request.body(body))
        };
        let login = send("/login", false, format!("key={}", browser.key)).await;
        assert!(login.expect(403).header("set-cookie").is_none());
        send("/logout", false, String::new())
            .await
            .expect_problem(403, "origin_refused");
        // Even if the header could be added, which needs a preflight that is never answered.
        send(&pause, true, String::new())
            .await
            .expect_problem(403, "origin_refused");
    }
    // From the right place, but by a form or a link: the header of the page's script is missing.
    for method in [Method::GET, Method::POST] {
        let request = stage
            .request(method, &pause)
            .header(COOKIE, &browser.cookie)
            .header(ORIGIN, stage.origin());
        Answer::of(request)
            .await
            .expect_problem(403, "origin_refused");
    }
    let preflight = stage
        .request(Method::OPTIONS, &pause)
        .header(ORIGIN, "https://evil.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "x-zyven-console");
    let preflight = Answer::of(preflight).await;
    assert!(!preflight.status.is_success());
    assert!(preflight.header("access-control-allow-origin").is_none());

    let path = format!("/v1/endpoints/{}", made["id"].as_str().expect("an id"));
    let now = browser
        .api(Method::GET, &path, None)
        .await
        .expect(200)
        .json();
    assert_eq!(now["status"], "enabled", "nothing has happened");
    Answer::of(browser.script(Method::POST, &pause))
        .await
        .expect(200);
}
