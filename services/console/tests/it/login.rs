//! Sessions: how they begin, what the browser holds, and how they end.

use reqwest::Method;
use reqwest::header::{COOKIE, ORIGIN};
use zyven_domain::api_key::{ApiKey, Scope};
use zyven_testkit::wait_until;

use crate::support::{Answer, SOON, Stage};

#[tokio::test]
async fn a_good_key_begins_a_session_whose_cookie_no_script_can_read() {
    let stage = Stage::start().await;
    let key = stage.key(&[Scope::Read]).await;
    let page = Answer::of(stage.request(Method::GET, "/"))
        .await
        .expect(303);
    assert_eq!(page.header("location"), Some("/login"));
    let form = Answer::of(stage.request(Method::GET, "/login"))
        .await
        .expect(200);
    assert!(form.text.contains("type=\"password\""));

    let answer = stage.log_in(&key).await.expect(303);
    assert_eq!(answer.header("location"), Some("/"));
    let cookie = answer.header("set-cookie").expect("a cookie").to_owned();
    for part in [
        "; HttpOnly",
        "; SameSite=Strict",
        "; Path=/",
        "; Max-Age=43200",
    ] {
        assert!(cookie.contains(part), "{part} in {cookie}");
    }
    assert!(!cookie.contains("Secure"), "plain HTTP: {cookie}");
    let secret = key.rsplit('_').next().expect("a secret");
    assert!(!cookie.contains(secret), "the key is not in it");
    assert_eq!(stage.metric("zyven_console_sessions"), 1.0);
    assert_eq!(
        stage.metric("zyven_console_logins_total{outcome=\"accepted\"}"),
        1.0
    );

    let with_cookie = |path: &str| {
        stage
            .request(Method::GET, path)
            .header(COOKIE, answer.cookie())
    };
    let page = Answer::of(with_cookie("/")).await.expect(200);
    assert!(!page.text.contains(secret));
    let again = Answer::of(with_cookie("/login")).await.expect(303);
    assert_eq!(again.header("location"), Some("/"));
}

#[tokio::test]
async fn behind_tls_the_cookie_is_secure_and_bound_to_the_host() {
    const PUBLIC: &str = "https://console.example.com";
    let stage = Stage::with(&[("ZYVEN_CONSOLE_URL", PUBLIC)]).await;
    let key = stage.key(&[Scope::Read]).await;
    let from = |origin: &str| {
        stage
            .request(Method::POST, "/login")
            .header(ORIGIN, origin)
            .body(format!("key={key}"))
    };
    let answer = Answer::of(from(PUBLIC)).await.expect(303);
    let cookie = answer.header("set-cookie").expect("a cookie");
    assert!(cookie.starts_with("__Host-zyven_console="), "{cookie}");
    assert!(cookie.contains("; Secure"), "{cookie}");
    assert!(answer.header("strict-transport-security").is_some());
    // The address it listens on is not where browsers find it.
    Answer::of(from(&stage.origin())).await.expect(403);
}

#[tokio::test]
async fn a_key_that_is_not_good_or_may_not_read_begins_nothing() {
    let stage = Stage::start().await;
    let unknown = ApiKey::from_random([1; 8], [2; 32]).expose();
    let publisher = stage.key(&[Scope::Publish, Scope::Manage]).await;
    for (key, status, says) in [
        ("", 401, "not an API key"),
        ("hunter2", 401, "not an API key"),
        (unknown.as_str(), 401, "not accepted"),
        (publisher.as_str(), 403, "may not read"),
    ] {
        let answer = stage.log_in(key).await.expect(status);
        assert!(answer.text.contains(says), "{key}: {answer:?}");
        assert!(answer.header("set-cookie").is_none());
        assert!(
            key.is_empty() || !answer.text.contains(key),
            "what was typed is not shown"
        );
    }
    let long = format!("key={}", "x".repeat(2_000));
    let too_long = stage
        .request(Method::POST, "/login")
        .header(ORIGIN, stage.origin())
        .body(long);
    Answer::of(too_long).await.expect(400);
    assert_eq!(stage.metric("zyven_console_sessions"), 0.0);
    assert_eq!(
        stage.metric("zyven_console_logins_total{outcome=\"refused\"}"),
        5.0
    );
}

#[tokio::test]
async fn logging_out_ends_the_session_here_and_in_the_browser() {
    let stage = Stage::start().await;
    let browser = stage.browser(&[Scope::Read]).await;
    browser.get("/api/v1/deliveries").await.expect(200);
    let out = Answer::of(browser.script(Method::POST, "/logout"))
        .await
        .expect(303);
    let cookie = out.header("set-cookie").expect("a cookie");
    assert!(
        cookie.starts_with("zyven_console=; ") && cookie.contains("Max-Age=0"),
        "{cookie}"
    );
    browser
        .get("/api/v1/deliveries")
        .await
        .expect_problem(401, "session_ended");
    let page = stage
        .request(Method::GET, "/")
        .header(COOKIE, &browser.cookie);
    let sent = Answer::of(page).await.expect(303);
    assert_eq!(sent.header("location"), Some("/login?ended"));
    assert_eq!(stage.metric("zyven_console_sessions"), 0.0);
}

#[tokio::test]
async fn the_login_says_that_a_session_has_ended_and_leads_nowhere_else() {
    const SAYS: &str = "Your session has ended";
    let stage = Stage::start().await;
    let key = stage.key(&[Scope::Read]).await;
    for (target, says) in [
        ("/login", false),
        ("/login?ended", true),
        ("/login?ended=https://evil.example", false),
        ("/login?to=//evil.example", false),
    ] {
        let form = Answer::of(stage.request(Method::GET, target)).await;
        let form = form.expect(200).text;
        assert_eq!(form.contains(SAYS), says, "{target}");
        assert!(!form.contains("evil.example"), "{target}");
        let log_in = stage
            .request(Method::POST, target)
            .header(ORIGIN, stage.origin())
            .body(format!("key={key}"));
        let sent = Answer::of(log_in).await.expect(303);
        assert_eq!(sent.header("location"), Some("/"), "{target}");
    }
}

#[tokio::test]
async fn a_second_login_of_a_browser_ends_its_first_session() {
    let stage = Stage::start().await;
    let browser = stage.browser(&[Scope::Read]).await;
    let again = stage
        .request(Method::POST, "/login")
        .header(ORIGIN, stage.origin())
        .header(COOKIE, &browser.cookie)
        .body(format!("key={}", browser.key));
    let answer = Answer::of(again).await.expect(303);
    assert_ne!(answer.cookie(), browser.cookie);
    browser
        .get("/api/v1/deliveries")
        .await
        .expect_problem(401, "session_ended");
    assert_eq!(stage.metric("zyven_console_sessions"), 1.0);
}

#[tokio::test]
async fn a_revoked_key_ends_its_session() {
    let stage = Stage::start().await;
    let browser = stage.browser(&[Scope::Read, Scope::Manage]).await;
    let current = browser
        .get("/api/v1/api-keys/current")
        .await
        .expect(200)
        .json();
    let id = current["id"].as_str().expect("an id");
    let revoke = browser.script(Method::DELETE, &format!("/api/v1/api-keys/{id}"));
    Answer::of(revoke).await.expect(204);
    wait_until("the key is refused", SOON, async || {
        match browser.get("/api/v1/deliveries").await.status.as_u16() {
            401 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(stage.metric("zyven_console_sessions"), 0.0);
}
