//! Access tokens: fetched, shared, renewed, and what happens without one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use zyven_domain::credential::{Auth, ClientAuth, ClientCredentials, SecretText};
use zyven_domain::id::EndpointId;
use zyven_store::CredentialKind;
use zyven_testkit::{Answer, Receiver, wait_until};

use crate::support::{PATIENCE, Stage, Terms, closed_address};

/// A stage whose endpoint wants a token, and where tokens come from.
struct Guarded {
    stage: Stage,
    issuer: Receiver,
    endpoint: EndpointId,
}

impl Guarded {
    async fn new(terms: Terms) -> Self {
        let stage = Stage::new().await;
        let issuer = Receiver::start().await;
        let url = stage.receiver.url("/hook");
        let endpoint = stage.endpoint_at(&url, terms).await;
        let guarded = Self {
            stage,
            issuer,
            endpoint,
        };
        let token_url = guarded.issuer.url("/token");
        guarded.get_tokens_from(&token_url).await;
        guarded
    }

    async fn get_tokens_from(&self, token_url: &str) {
        let client = ClientCredentials {
            token_url: token_url.to_owned(),
            client_id: "s6BhdRkqt3".to_owned(),
            client_secret: SecretText::new("7Fjfp0ZBr1KtDRbnfVdmIw"),
            scope: Some("hooks".to_owned()),
            audience: None,
            client_auth: ClientAuth::Basic,
        };
        let auth = Auth::OAuth2(client).to_bytes();
        self.stage
            .set_credential(self.endpoint, CredentialKind::Auth, &auth)
            .await;
    }

    /// Issues `token-1`, `token-2`, … from now on.
    fn issue(&self, expires_in: u32) {
        let issued = AtomicUsize::new(0);
        self.issuer.answer_by(move |_| {
            let number = issued.fetch_add(1, Ordering::Relaxed) + 1;
            Some(Answer::status(200).header("content-type", "application/json").body(format!(
                "{{\"access_token\":\"token-{number}\",\"token_type\":\"Bearer\",\"expires_in\":{expires_in}}}"
            )))
        });
    }

    /// The tokens that came with requests, in their order.
    fn tokens(&self) -> Vec<String> {
        let requests = self.stage.receiver.requests();
        requests
            .iter()
            .map(|request| request.header("authorization").to_owned())
            .collect()
    }
}

fn once() -> Terms {
    Terms {
        attempts_max: 1,
        ..Terms::default()
    }
}

#[tokio::test]
async fn one_token_is_fetched_and_shared_by_all_requests() {
    const EVENTS: usize = 20;
    let guarded = Guarded::new(Terms::default()).await;
    guarded.issue(3600);
    for _ in 0..EVENTS {
        guarded.stage.publish_silently("{}").await;
    }
    guarded.stage.offer().await;
    let dispatcher = guarded.stage.start();
    guarded
        .stage
        .receiver
        .wait_for_requests(EVENTS, PATIENCE)
        .await;
    assert_eq!(guarded.tokens(), vec!["Bearer token-1"; EVENTS]);
    let asked = guarded.issuer.requests();
    assert_eq!(asked.len(), 1, "the others waited for the one that asked");
    assert_eq!(asked[0].method, "POST");
    assert_eq!(asked[0].path, "/token");
    assert_eq!(
        asked[0].header("authorization"),
        "Basic czZCaGRSa3F0Mzo3RmpmcDBaQnIxS3REUmJuZlZkbUl3"
    );
    assert_eq!(
        asked[0].header("content-type"),
        "application/x-www-form-urlencoded"
    );
    assert_eq!(asked[0].body, "grant_type=client_credentials&scope=hooks");
    // A re-sealed envelope is another row version of the same credential: the token is kept.
    guarded
        .stage
        .sql
        .run("UPDATE zyven.endpoints SET description = 'changed', updated_at = now()")
        .await;
    guarded.stage.first_attempt().await;
    assert_eq!(guarded.issuer.request_count(), 1);
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends() {
    let guarded = Guarded::new(Terms::default()).await;
    guarded.issue(6);
    let dispatcher = guarded.stage.start();
    wait_until("a second token is sent", PATIENCE, async || {
        guarded.stage.first_attempt().await;
        guarded.tokens().last().map(String::as_str) == Some("Bearer token-2")
    })
    .await;
    assert_eq!(guarded.issuer.request_count(), 2);
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_token_that_the_endpoint_refuses_is_renewed_within_the_same_attempt() {
    let guarded = Guarded::new(once()).await;
    guarded.issue(3600);
    guarded.stage.receiver.answer_by(|request| {
        let is_revoked = request.header("authorization") == "Bearer token-1";
        Some(Answer::status(if is_revoked { 401 } else { 200 }))
    });
    let dispatcher = guarded.stage.start();
    let event = guarded.stage.publish("{}").await;
    let delivery = guarded.stage.wait_for(event, "DELIVERED").await;
    assert_eq!(delivery.attempts, 1);
    assert_eq!(guarded.tokens(), ["Bearer token-1", "Bearer token-2"]);
    let ids: Vec<String> = guarded
        .stage
        .receiver
        .requests()
        .iter()
        .map(|request| request.header("webhook-id").to_owned())
        .collect();
    assert_eq!(ids, vec![event.to_string(); 2]);
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_fresh_token_that_is_refused_too_is_the_endpoints_answer() {
    let guarded = Guarded::new(Terms::default()).await;
    guarded.issue(3600);
    guarded.stage.receiver.answer(Answer::status(401));
    let dispatcher = guarded.stage.start();
    let event = guarded.stage.publish("{}").await;
    assert_eq!(guarded.stage.wait_for_dead(event).await, "rejected");
    assert_eq!(guarded.stage.delivery(event).await.attempts, 1);
    assert_eq!(guarded.tokens(), ["Bearer token-1", "Bearer token-2"]);
    dispatcher.stop().await;
}

#[tokio::test]
async fn without_a_token_nothing_is_sent_and_the_attempt_is_retried_until_there_is_one() {
    let secret = "7Fjfp0ZBr1KtDRbnfVdmIw";
    for (answer, detail) in [
        (
            Answer::status(401).body(format!(
                "{{\"error\":\"invalid_client\",\"error_description\":\"{secret}\"}}"
            )),
            "the token endpoint answered 401 (invalid_client)",
        ),
        (
            Answer::status(500).body(secret),
            "the token endpoint answered 500",
        ),
        (
            Answer::status(302).header("location", "/x"),
            "the token endpoint answered 302",
        ),
        (
            Answer::status(200).body(secret),
            "the token endpoint answered 200 without an access token",
        ),
        (
            Answer::reset(),
            "no access token: the connection ended before the answer was complete",
        ),
    ] {
        let guarded = Guarded::new(Terms::default()).await;
        guarded.issuer.answer(answer);
        // Few failures until it is mended, or the lane is left alone for a while.
        let patient = "UPDATE zyven.endpoints SET retry_base_ms = 500";
        guarded.stage.sql.run(patient).await;
        let dispatcher = guarded.stage.start();
        let (event, attempt) = guarded.stage.first_attempt().await;
        assert_eq!(attempt.error.as_deref(), Some("oauth"), "{detail}");
        assert_eq!(attempt.detail.as_deref(), Some(detail));
        assert_eq!(attempt.http_status, None);
        assert_eq!(guarded.stage.receiver.request_count(), 0, "{detail}");
        guarded.issue(60);
        guarded.stage.wait_for(event, "DELIVERED").await;
        dispatcher.stop().await;
    }
}

#[tokio::test]
async fn a_token_endpoint_that_cannot_be_reached_or_must_not_be_is_no_dead_letter() {
    let closed = format!("http://{}/token", closed_address().await);
    for (token_url, detail) in [
        (closed.as_str(), "no access token: "),
        ("http://10.0.0.1/token", "no access token: "),
        ("http://169.254.169.254/token", "no access token: "),
    ] {
        let guarded = Guarded::new(Terms::default()).await;
        guarded.get_tokens_from(token_url).await;
        let dispatcher = guarded.stage.start();
        let (event, attempt) = guarded.stage.first_attempt().await;
        assert_eq!(attempt.error.as_deref(), Some("oauth"), "{token_url}");
        let said = attempt.detail.unwrap();
        assert!(said.starts_with(detail), "{token_url}: {said}");
        assert!(
            !said.contains("10.0.0.1") && !said.contains("169.254"),
            "{said}"
        );
        assert_ne!(guarded.stage.delivery(event).await.state, "DEAD_LETTERED");
        assert_eq!(guarded.stage.receiver.request_count(), 0);
        dispatcher.stop().await;
    }
}

#[tokio::test]
async fn a_token_endpoint_that_hangs_costs_the_attempt_its_time_and_no_more() {
    let terms = Terms {
        timeout_ms: 1_000,
        attempts_max: 1,
    };
    let guarded = Guarded::new(terms).await;
    guarded.issuer.answer(Answer::hang());
    for _ in 0..3 {
        guarded.stage.publish_silently("{}").await;
    }
    guarded.stage.offer().await;
    let dispatcher = guarded.stage.start();
    let dead = "SELECT count(*) FROM zyven.deliveries WHERE reason = 'attempts_exhausted'";
    wait_until("all were given up", PATIENCE, async || {
        guarded.stage.sql.number(dead).await == 3
    })
    .await;
    let classes = "SELECT string_agg(DISTINCT error, ',') FROM zyven.attempt_log";
    assert_eq!(guarded.stage.sql.text(classes).await, "oauth");
    assert_eq!(guarded.stage.receiver.request_count(), 0);
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_token_that_an_endpoint_repeats_is_not_kept() {
    let guarded = Guarded::new(once()).await;
    guarded.issue(3600);
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    guarded.stage.receiver.answer_by(move |request| {
        counted.fetch_add(1, Ordering::Relaxed);
        let body = request.header("authorization").to_owned();
        Some(Answer::status(400).body(body))
    });
    let dispatcher = guarded.stage.start();
    let (_, attempt) = guarded.stage.first_attempt().await;
    assert_eq!(attempt.body.unwrap(), b"Bearer [concealed]");
    assert_eq!(seen.load(Ordering::Relaxed), 1);
    dispatcher.stop().await;
}
