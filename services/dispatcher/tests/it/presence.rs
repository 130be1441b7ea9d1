//! A dispatcher that is known to live, that is not, and that was taken for dead.

use std::time::Duration;

use zyven_domain::credential::{Auth, ClientAuth, ClientCredentials, SecretText};
use zyven_store::CredentialKind;
use zyven_testkit::{Answer, ChaosProxy, Receiver, wait_until};

use crate::support::{Dispatcher, PATIENCE, Stage, Terms};

const UNSENT: &str = "zyven_dispatcher_attempts_total{outcome=\"unsent\"}";
const LIVING: &str = "SELECT count(*) FROM zyven.dispatchers WHERE dead_at IS NULL";

async fn wait_until_ready(dispatcher: &Dispatcher) {
    wait_until("it is ready", PATIENCE, async || dispatcher.is_ready()).await;
}

#[tokio::test]
async fn a_dispatcher_registers_beats_and_leaves_when_it_stops() {
    let stage = Stage::new().await;
    let dispatcher = stage.start();
    wait_until("it beats", PATIENCE, async || {
        let beats = "SELECT coalesce(sum(beat), 0)::bigint FROM zyven.dispatchers";
        stage.sql.number(beats).await >= 2
    })
    .await;
    wait_until_ready(&dispatcher).await;
    assert_eq!(stage.sql.number(LIVING).await, 1);
    dispatcher.stop().await;
    let rows = "SELECT count(*) FROM zyven.dispatchers";
    assert_eq!(stage.sql.number(rows).await, 0);
}

#[tokio::test]
async fn leases_bear_the_number_of_their_dispatcher() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    stage.receiver.answer(Answer::hang());
    let dispatcher = stage.start();
    stage.publish("{}").await;
    stage.receiver.wait_for_requests(1, PATIENCE).await;
    let mine = "SELECT count(*) FROM zyven.outbox o
                  JOIN zyven.dispatchers d ON o.lease_token >> 24 = d.number";
    assert_eq!(stage.sql.number(mine).await, 1);
    dispatcher.ask_to_stop();
}

#[tokio::test]
async fn one_that_was_taken_for_dead_goes_on_under_another_number() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    let dispatcher = stage.start();
    wait_until_ready(&dispatcher).await;
    stage
        .sql
        .run("UPDATE zyven.dispatchers SET dead_at = now()")
        .await;
    wait_until("it is back", PATIENCE, async || {
        stage.sql.number(LIVING).await == 1
    })
    .await;
    stage.publish("{}").await;
    stage.receiver.wait_for_requests(1, PATIENCE).await;
    dispatcher.stop().await;
    // The dead one's row is the relay's to remove.
    assert_eq!(stage.sql.number(LIVING).await, 0);
}

#[tokio::test]
async fn a_request_does_not_begin_while_nobody_knows_whether_its_dispatcher_lives() {
    let stage = Stage::new().await;
    let issuer = Receiver::start().await;
    let terms = Terms {
        timeout_ms: 30_000,
        ..Terms::default()
    };
    let endpoint = stage.endpoint_at(&stage.receiver.url("/hook"), terms).await;
    let auth = Auth::OAuth2(ClientCredentials {
        token_url: issuer.url("/token"),
        client_id: "s6BhdRkqt3".to_owned(),
        client_secret: SecretText::new("7Fjfp0ZBr1KtDRbnfVdmIw"),
        scope: None,
        audience: None,
        client_auth: ClientAuth::Basic,
    });
    stage
        .set_credential(endpoint, CredentialKind::Auth, &auth.to_bytes())
        .await;
    // What comes before the request takes longer than a beat is believed.
    let token = "{\"access_token\":\"t\",\"token_type\":\"Bearer\",\"expires_in\":600}";
    issuer.answer(
        Answer::status(200)
            .header("content-type", "application/json")
            .body(token)
            .after(Duration::from_secs(7)),
    );
    let chaos = ChaosProxy::start(stage.database.address()).await;
    let dispatcher = stage.start_at(&stage.database.url_through(chaos.address()), stage.config());
    let event = stage.publish("{}").await;
    issuer.wait_for_requests(1, PATIENCE).await;
    chaos.cut();
    wait_until(
        "it says that it may be taken for dead",
        PATIENCE,
        async || dispatcher.misses("dispatcher_postgres"),
    )
    .await;
    wait_until("it has let go", PATIENCE, async || {
        dispatcher.count(UNSENT) == 1
    })
    .await;
    assert_eq!(stage.receiver.request_count(), 0);
    chaos.heal();
    let delivered = stage.wait_for(event, "DELIVERED").await;
    assert_eq!(delivered.attempts, 1, "what was not sent spends no attempt");
    assert_eq!(stage.receiver.request_count(), 1);
    wait_until_ready(&dispatcher).await;
    dispatcher.stop().await;
}
