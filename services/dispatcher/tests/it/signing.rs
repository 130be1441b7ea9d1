//! What requests are signed with.

use zyven_domain::signature::{Scheme, SigningKey, sign};
use zyven_testkit::{ReceivedRequest, wait_until};

use crate::support::{PATIENCE, Stage, private_key, signing_key};

fn expected(keys: &[SigningKey], request: &ReceivedRequest) -> String {
    let timestamp_s = request.header("webhook-timestamp").parse().unwrap();
    sign(
        keys,
        request.header("webhook-id"),
        timestamp_s,
        &request.body,
    )
}

#[tokio::test]
async fn a_private_key_signs_and_while_the_scheme_changes_both_signatures_are_sent() {
    let stage = Stage::new().await;
    let endpoint = stage.endpoint("/hook").await;
    stage
        .sql
        .run("UPDATE zyven.endpoint_secrets SET expires_at = now() + interval '1 hour'")
        .await;
    stage
        .add_secret_of(endpoint, Scheme::Ed25519, private_key().bytes())
        .await;
    let dispatcher = stage.start();
    stage.first_attempt().await;
    let requests = stage.receiver.wait_for_requests(1, PATIENCE).await;
    let asymmetric = SigningKey::asymmetric(&private_key());
    let both = [asymmetric.clone(), signing_key()];
    assert_eq!(
        requests[0].header("webhook-signature"),
        expected(&both, &requests[0])
    );

    // The overlap ends by itself: nobody changes anything any more.
    stage
        .sql
        .run("UPDATE zyven.endpoint_secrets SET expires_at = now() + interval '1 s' WHERE expires_at IS NOT NULL")
        .await;
    wait_until("the old signature is gone", PATIENCE, async || {
        stage.first_attempt().await;
        let requests = stage.receiver.requests();
        let last = requests.last().unwrap();
        last.header("webhook-signature") == expected(std::slice::from_ref(&asymmetric), last)
    })
    .await;
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_scheme_of_a_later_version_is_not_signed_with_and_nothing_is_lost() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    stage
        .sql
        .run(
            "ALTER TABLE zyven.endpoint_secrets DROP CONSTRAINT secret_has_a_known_scheme;
             UPDATE zyven.endpoint_secrets SET scheme = 'ml-dsa'",
        )
        .await;
    let dispatcher = stage.start();
    let event = stage.publish("{}").await;
    stage.wait_until_put_off().await;
    assert_eq!(stage.delivery(event).await.attempts, 0);
    assert_eq!(stage.receiver.request_count(), 0);
    dispatcher.stop().await;
}
