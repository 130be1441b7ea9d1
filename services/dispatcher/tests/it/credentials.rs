//! What requests carry besides signatures.

use http::HeaderName;
use zyven_domain::credential::{Auth, CustomHeaders, SecretText};
use zyven_store::CredentialKind;
use zyven_testkit::{Answer, wait_until};

use crate::support::{PATIENCE, Stage};

pub(crate) fn headers(pairs: &[(&str, &str)]) -> Vec<u8> {
    let pairs = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), SecretText::new(*value)));
    CustomHeaders::new(pairs.collect())
        .unwrap_or_default()
        .to_bytes()
}

fn basic() -> Vec<u8> {
    let auth = Auth::Basic {
        username: SecretText::new("Aladdin"),
        password: SecretText::new("open sesame"),
    };
    auth.to_bytes()
}

#[tokio::test]
async fn custom_headers_and_authorization_are_sent_and_zyvens_own_headers_win() {
    let stage = Stage::new().await;
    let endpoint = stage.endpoint("/hook").await;
    // More than the API lets through: a row may have been written past it.
    let given = [
        ("x-tenant", "acme"),
        ("authorization", "Bearer other"),
        ("webhook-id", "forged"),
        ("content-type", "text/plain"),
    ];
    stage
        .set_credential(endpoint, CredentialKind::Headers, &headers(&given))
        .await;
    stage
        .set_credential(endpoint, CredentialKind::Auth, &basic())
        .await;
    let dispatcher = stage.start();
    let (event, _) = stage.first_attempt().await;
    let requests = stage.receiver.wait_for_requests(1, PATIENCE).await;
    let all = |name: &'static str| -> Vec<&str> {
        let values = requests[0].headers.get_all(HeaderName::from_static(name));
        values.iter().map(|value| value.to_str().unwrap()).collect()
    };
    assert_eq!(all("x-tenant"), ["acme"]);
    assert_eq!(all("authorization"), ["Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="]);
    assert_eq!(all("webhook-id"), [event.to_string()]);
    assert_eq!(all("content-type"), ["application/json"]);
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_changed_credential_takes_effect_without_a_restart() {
    let stage = Stage::new().await;
    let endpoint = stage.endpoint("/hook").await;
    let bearer = |token: &str| {
        let token = SecretText::new(token);
        Auth::Bearer { token }.to_bytes()
    };
    let auth = CredentialKind::Auth;
    stage.set_credential(endpoint, auth, &bearer("first")).await;
    let dispatcher = stage.start();
    stage.first_attempt().await;
    let requests = stage.receiver.wait_for_requests(1, PATIENCE).await;
    assert_eq!(requests[0].header("authorization"), "Bearer first");
    stage
        .set_credential(endpoint, auth, &bearer("second"))
        .await;
    wait_until("the second token is sent", PATIENCE, async || {
        stage.first_attempt().await;
        let requests = stage.receiver.requests();
        requests.last().unwrap().header("authorization") == "Bearer second"
    })
    .await;
    dispatcher.stop().await;
}

#[tokio::test]
async fn without_a_credential_that_opens_nothing_is_sent_and_nothing_is_lost() {
    for spoil in [
        "UPDATE zyven.endpoint_credentials SET envelope = '\\x00'",
        "UPDATE zyven.endpoint_credentials SET id = gen_random_uuid()",
        "UPDATE zyven.endpoint_credentials SET kind = 'client_certificate'",
        "ALTER TABLE zyven.endpoint_credentials DROP CONSTRAINT credential_has_a_known_kind;
         UPDATE zyven.endpoint_credentials SET kind = 'dpop'",
    ] {
        let stage = Stage::new().await;
        let endpoint = stage.endpoint("/hook").await;
        stage
            .set_credential(endpoint, CredentialKind::Auth, &basic())
            .await;
        stage.sql.run(spoil).await;
        let dispatcher = stage.start();
        let event = stage.publish("{}").await;
        stage.wait_until_put_off().await;
        assert_eq!(stage.delivery(event).await.attempts, 0, "{spoil}");
        assert_eq!(stage.receiver.request_count(), 0, "{spoil}");
        dispatcher.stop().await;
    }
}

#[tokio::test]
async fn what_an_endpoint_repeats_of_its_secrets_is_not_kept() {
    let stage = Stage::new().await;
    let endpoint = stage.endpoint("/hook").await;
    let given = headers(&[("x-key", "open-sesame")]);
    stage
        .set_credential(endpoint, CredentialKind::Headers, &given)
        .await;
    stage
        .set_credential(endpoint, CredentialKind::Auth, &basic())
        .await;
    stage.receiver.answer_by(|request| {
        let echo = |name: &str| request.header(name).to_owned();
        let answer = Answer::status(400)
            .header("x-echo", &echo("x-key"))
            .body(format!("you sent {}", echo("authorization")));
        Some(answer)
    });
    let dispatcher = stage.start();
    let (_, attempt) = stage.first_attempt().await;
    assert_eq!(attempt.http_status, Some(400));
    let headers = attempt.headers.unwrap();
    assert!(headers.contains("x-echo: [concealed]"), "{headers}");
    assert_eq!(attempt.body.unwrap(), b"you sent Basic [concealed]");
    dispatcher.stop().await;
}
