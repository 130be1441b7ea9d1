//! What the proxy says, and what follows when there is none.

use zyven_testkit::wait_until;

use crate::support::{BlackHole, PATIENCE, Proxy, Stage, Terms, closed_address, config};

#[tokio::test]
async fn what_the_policy_denies_is_dead_at_once() {
    for url in [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "https://[::1]/",
    ] {
        let stage = Stage::new().await;
        stage.endpoint_at(url, Terms::default()).await;
        let dispatcher = stage.start();
        let event = stage.publish("{}").await;
        assert_eq!(stage.wait_for_dead(event).await, "egress_denied", "{url}");
        let attempts = stage.attempts(event).await;
        assert_eq!(attempts.len(), 1, "{url}");
        assert_eq!(attempts[0].error.as_deref(), Some("egress_denied"), "{url}");
        assert!(attempts[0].detail.is_some(), "{url}");
        dispatcher.stop().await;
    }
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_is_an_ordinary_failure() {
    let stage = Stage::new().await;
    let terms = Terms {
        attempts_max: 2,
        ..Terms::default()
    };
    let url = format!("http://{}/", closed_address().await);
    stage.endpoint_at(&url, terms).await;
    let dispatcher = stage.start();
    let event = stage.publish("{}").await;
    assert_eq!(stage.wait_for_dead(event).await, "attempts_exhausted");
    let attempts = stage.attempts(event).await;
    assert_eq!(attempts.len(), 2);
    assert_eq!(attempts[0].error.as_deref(), Some("connect"));
    dispatcher.stop().await;
}

#[tokio::test]
async fn while_no_proxy_answers_deliveries_wait_and_spend_no_attempt() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    let address = closed_address().await;
    let dispatcher = stage.start_with(config(&[address]));
    let event = stage.publish("{}").await;
    let unsent = "zyven_dispatcher_attempts_total{outcome=\"unsent\"}";
    // More than once: it goes on trying, with one delivery at a time.
    wait_until("it was tried twice", PATIENCE, async || {
        dispatcher.count(unsent) >= 2
    })
    .await;
    assert!(dispatcher.misses("dispatcher_egress"));
    assert_eq!(stage.attempts(event).await, []);

    let _proxy = Proxy::start_at(address).await;
    let delivered = stage.wait_for(event, "DELIVERED").await;
    assert_eq!(delivered.attempts, 1);
    wait_until("it says so", PATIENCE, async || dispatcher.is_ready()).await;
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_dead_proxy_is_passed_over() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    // Two dead ones, so that wherever the turn begins, some attempt meets one first.
    let (one, other) = (closed_address().await, closed_address().await);
    let dispatcher = stage.start_with(config(&[one, stage.proxy.address, other]));
    let (event, attempt) = stage.first_attempt().await;
    assert_eq!(attempt.http_status, Some(200));
    assert_eq!(stage.delivery(event).await.attempts, 1);
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_proxy_that_knows_another_credential_is_not_the_endpoints_fault() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    let mut config = stage.config();
    config.credential = "another-horse-battery".parse().unwrap();
    let dispatcher = stage.start_with(config);
    let event = stage.publish("{}").await;
    let unsent = "zyven_dispatcher_attempts_total{outcome=\"unsent\"}";
    wait_until("it was refused", PATIENCE, async || {
        dispatcher.count(unsent) >= 1
    })
    .await;
    assert_eq!(stage.attempts(event).await, []);
    assert_eq!(stage.receiver.request_count(), 0);
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_proxy_that_accepts_nothing_is_not_the_endpoints_fault() {
    let stage = Stage::new().await;
    let terms = Terms {
        timeout_ms: 300,
        ..Terms::default()
    };
    stage.endpoint_at(&stage.receiver.url("/hook"), terms).await;
    let hole = BlackHole::dig().await;
    let dispatcher = stage.start_with(config(&[hole.address]));
    let event = stage.publish("{}").await;
    let unsent = "zyven_dispatcher_attempts_total{outcome=\"unsent\"}";
    wait_until("it ran out of time", PATIENCE, async || {
        dispatcher.count(unsent) >= 1
    })
    .await;
    assert_eq!(stage.attempts(event).await, []);
    dispatcher.stop().await;
}
