//! The view that applications embed: who may frame it, what opens it, and that no session has part in it.

use reqwest::header::{COOKIE, ORIGIN};
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use zyven_domain::api_key::Scope;

use crate::support::{Answer, Browser, Stage};

const SETTING: &str = "ZYVEN_CONSOLE_FRAME_ANCESTORS";
const APPLICATION: &str = "https://app.example.com";

async fn view_link(browser: &Browser<'_>, scopes: &[&str]) -> String {
    let wanted = json!({ "scopes": scopes });
    let made = browser
        .api(Method::POST, "/v1/view-links", Some(&wanted))
        .await;
    let made = made.expect(201).json();
    made["token"].as_str().expect("a token").to_owned()
}

/// A request of the embedded page's script.
fn embedded(stage: &Stage, method: Method, path: &str, token: &str) -> RequestBuilder {
    stage
        .request(method, path)
        .header(ORIGIN, stage.origin())
        .header("x-zyven-console", "page")
        .bearer_auth(token)
}

#[tokio::test]
async fn only_pages_of_listed_origins_may_frame_the_view_and_none_anything_else() {
    let both = format!("{APPLICATION} http://localhost:3000");
    let stage = Stage::with(&[(SETTING, &both)]).await;
    let get = |path: &str| Answer::of(stage.request(Method::GET, path));
    let view = get("/embed").await.expect(200);
    let policy = view.header("content-security-policy").expect("a policy");
    let ancestors = format!("; frame-ancestors {both}");
    assert!(policy.ends_with(&ancestors), "{policy}");
    assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"));
    assert_eq!(view.header("x-frame-options"), None);
    assert_eq!(view.header("set-cookie"), None);
    assert_eq!(view.header("cache-control"), Some("no-store"));
    assert_eq!(view.header("x-content-type-options"), Some("nosniff"));
    assert!(!view.text.contains("Log out"));
    for path in [
        "/",
        "/login",
        "/embed/",
        "/assets/app.js",
        "/api/v1/endpoints",
    ] {
        let answer = get(path).await;
        let policy = answer.header("content-security-policy").expect("a policy");
        assert!(policy.ends_with("; frame-ancestors 'none'"), "{path}");
        assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{path}");
    }
}

#[tokio::test]
async fn without_the_setting_there_is_no_view_and_no_link_is_taken() {
    let stage = Stage::start().await;
    let browser = stage.browser(&Scope::ALL).await;
    let token = view_link(&browser, &["read"]).await;
    let view = Answer::of(stage.request(Method::GET, "/embed")).await;
    let view = view.expect(404);
    assert_eq!(view.header("x-frame-options"), Some("DENY"));
    let asked = embedded(&stage, Method::GET, "/api/v1/endpoints", &token);
    let refused = Answer::of(asked).await;
    refused.expect_problem(401, "session_ended");
}

#[tokio::test]
async fn the_page_says_whose_colours_it_has() {
    let stage = Stage::with(&[(SETTING, APPLICATION)]).await;
    for (query, when) in [
        ("", "(prefers-color-scheme: dark)"),
        ("?theme=dark", "all"),
        ("?theme=light", "not all"),
        ("?theme=%22onload%3D", "(prefers-color-scheme: dark)"),
    ] {
        let page = stage.request(Method::GET, &format!("/embed{query}"));
        let page = Answer::of(page).await.expect(200);
        let link = format!("href=\"/assets/dark.css\" media=\"{when}\"");
        assert!(page.text.contains(&link), "{query}");
        assert!(!page.text.contains("onload"), "{query}");
    }
}

#[tokio::test]
async fn a_view_link_opens_what_it_allows_and_no_session_does() {
    let stage = Stage::with(&[(SETTING, APPLICATION)]).await;
    let (owner, stranger) = (
        stage.browser(&Scope::ALL).await,
        stage.browser(&Scope::ALL).await,
    );
    let token = view_link(&owner, &["read"]).await;
    // Beside a session of somebody else, as a browser sends it that frames a console of the same site.
    let asked = |method: Method, path: &str| {
        let asked = embedded(&stage, method, path, &token);
        Answer::of(asked.header(COOKIE, &stranger.cookie))
    };
    let current = asked(Method::GET, "/api/v1/api-keys/current").await;
    let current = current.expect(200);
    assert_eq!(current.header("set-cookie"), None);
    let own = owner.get("/api/v1/api-keys/current").await.json();
    assert_eq!(current.json()["tenant"], own["tenant"]);
    assert_eq!(current.json()["scopes"], json!(["read"]));
    let keys = asked(Method::GET, "/api/v1/api-keys").await;
    keys.expect_problem(403, "scope_missing");
    let replay = asked(Method::POST, "/api/v1/replays").await;
    replay.expect_problem(403, "scope_missing");
    let links = asked(Method::POST, "/api/v1/view-links").await;
    links.expect_problem(404, "not_found");

    // One that is changed does not fall back to the session, and does not end it.
    let changed = embedded(&stage, Method::GET, "/api/v1/endpoints", &token[..60]);
    let refused = Answer::of(changed.header(COOKIE, &stranger.cookie)).await;
    refused.expect_problem(401, "view_ended");
    let mut swapped = token.clone().into_bytes();
    swapped[60] = if swapped[60] == b'A' { b'B' } else { b'A' };
    let swapped = String::from_utf8(swapped).expect("ASCII");
    let changed = embedded(&stage, Method::GET, "/api/v1/endpoints", &swapped);
    let refused = Answer::of(changed.header(COOKIE, &stranger.cookie)).await;
    refused.expect_problem(401, "view_ended");
    stranger.get("/api/v1/endpoints").await.expect(200);
}

#[tokio::test]
async fn a_key_in_a_header_is_no_view_link_and_other_pages_have_no_use_of_one() {
    let stage = Stage::with(&[(SETTING, APPLICATION)]).await;
    let browser = stage.browser(&Scope::ALL).await;
    let asked = embedded(&stage, Method::GET, "/api/v1/endpoints", &browser.key);
    let refused = Answer::of(asked).await;
    refused.expect_problem(401, "session_ended");

    let token = view_link(&browser, &["read", "replay"]).await;
    for origin in [APPLICATION, "null"] {
        let asked = stage
            .request(Method::POST, "/api/v1/replays")
            .header(ORIGIN, origin)
            .header("x-zyven-console", "person")
            .bearer_auth(&token);
        let refused = Answer::of(asked).await;
        refused.expect_problem(403, "origin_refused");
    }
    // Without the header of the page's own script.
    let asked = stage.request(Method::GET, "/api/v1/endpoints");
    let refused = Answer::of(asked.bearer_auth(&token)).await;
    refused.expect_problem(403, "origin_refused");
    let login = stage.log_in(&token).await.expect(401);
    assert!(login.text.contains("not an API key"));
}
