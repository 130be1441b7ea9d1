//! Proxies that fail by themselves: that is never charged to an endpoint. And the opposite: an endpoint
//! that cannot be reached in time is charged, on the proxy's word.

use std::time::Duration;

use zyven_domain::handshake::WORKING;
use zyven_domain::retry::Outcome;
use zyven_domain::target::{EGRESS_REASON_HEADER, EgressReason};
use zyven_testkit::{Answer, wait_until};

use crate::support::{BlackHole, PATIENCE, Parrot, Stage, Terms, config};

const UNSENT: &str = "zyven_dispatcher_attempts_total{outcome=\"unsent\"}";

fn timeout_of(timeout_ms: u64) -> Terms {
    Terms {
        timeout_ms,
        ..Terms::default()
    }
}

/// An event is released, again and again, and no attempt is on record.
async fn assert_spends_nothing(stage: &Stage, proxies: &[&Parrot]) {
    let addresses: Vec<_> = proxies.iter().map(|proxy| proxy.address).collect();
    let dispatcher = stage.start_with(config(&addresses));
    let event = stage.publish("{}").await;
    wait_until(
        "every proxy was asked, and it was released",
        PATIENCE,
        async || dispatcher.count(UNSENT) >= 1 && proxies.iter().all(|proxy| proxy.asked() > 0),
    )
    .await;
    assert_eq!(stage.attempts(event).await, []);
    wait_until("it says what is missing", PATIENCE, async || {
        dispatcher.misses("dispatcher_egress")
    })
    .await;
    dispatcher.stop().await;
    let delivery = stage.delivery(event).await;
    assert_eq!(
        (delivery.state.as_str(), delivery.attempts),
        ("DISPATCHING", 0)
    );
}

#[tokio::test]
async fn a_proxy_that_accepts_and_says_nothing_spends_no_attempt_of_any_timeout() {
    // Shorter than what a proxy may be silent for, and both sides of what asking one may take in all.
    for timeout_ms in [300, 5_000, 14_000, 30_000] {
        let stage = Stage::new().await;
        let url = stage.receiver.url("/hook");
        stage.endpoint_at(&url, timeout_of(timeout_ms)).await;
        assert_spends_nothing(&stage, &[&Parrot::saying("").await]).await;
    }
}

#[tokio::test]
async fn several_mute_proxies_spend_no_attempt_either() {
    let stage = Stage::new().await;
    stage
        .endpoint_at(&stage.receiver.url("/hook"), timeout_of(15_000))
        .await;
    let (one, other) = (Parrot::saying("").await, Parrot::saying("").await);
    assert_spends_nothing(&stage, &[&one, &other]).await;
}

#[tokio::test]
async fn a_proxy_that_falls_silent_amid_its_work_spends_no_attempt() {
    let stage = Stage::new().await;
    stage
        .endpoint_at(&stage.receiver.url("/hook"), timeout_of(1_000))
        .await;
    assert_spends_nothing(&stage, &[&Parrot::saying(WORKING).await]).await;
    assert_spends_nothing(&stage, &[&Parrot::saying("HTTP/1.1 200 Conn").await]).await;
}

#[tokio::test]
async fn a_mute_proxy_costs_the_attempt_two_seconds_and_the_endpoint_nothing() {
    let stage = Stage::new().await;
    // With what the proxy cost it takes longer than its timeout; by itself it does not.
    stage
        .receiver
        .answer(Answer::status(200).after(Duration::from_millis(3_000)));
    stage
        .endpoint_at(&stage.receiver.url("/hook"), timeout_of(4_500))
        .await;
    let mute = Parrot::saying("").await;
    let dispatcher = stage.start_with(config(&[mute.address, stage.proxy.address]));
    let (event, attempt) = stage.first_attempt().await;
    assert_eq!(attempt.http_status, Some(200), "{attempt:?}");
    assert_eq!(mute.asked(), 1);
    assert_eq!(stage.delivery(event).await.attempts, 1);
    assert_eq!(stage.receiver.request_count(), 1);
    dispatcher.stop().await;
}

#[tokio::test]
async fn two_mute_proxies_and_one_that_works_are_one_attempt() {
    let stage = Stage::new().await;
    stage
        .endpoint_at(&stage.receiver.url("/hook"), timeout_of(15_000))
        .await;
    let (one, other) = (Parrot::saying("").await, Parrot::saying("").await);
    let proxies = [one.address, other.address, stage.proxy.address];
    let dispatcher = stage.start_with(config(&proxies));
    let (event, attempt) = stage.first_attempt().await;
    assert_eq!(attempt.http_status, Some(200), "{attempt:?}");
    assert_eq!(stage.delivery(event).await.attempts, 1);
    assert!(one.asked() > 0 && other.asked() > 0);
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_proxy_without_a_place_hands_over_to_the_next() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    let full = Parrot::refusing(&format!(
        "HTTP/1.1 503 X\r\n{EGRESS_REASON_HEADER}: overloaded\r\n\r\n"
    ))
    .await;
    let dispatcher = stage.start_with(config(&[full.address, stage.proxy.address]));
    let (event, attempt) = stage.first_attempt().await;
    assert_eq!(attempt.http_status, Some(200), "{attempt:?}");
    assert_eq!(full.asked(), 1);
    assert_eq!(stage.delivery(event).await.attempts, 1);
    assert!(
        !dispatcher.misses("dispatcher_egress"),
        "a full one is not down"
    );
    dispatcher.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_takes_no_connection_is_charged_on_the_proxys_word() {
    // One is decided before the proxy says that it works on it, the other after that.
    for timeout_ms in [400, 2_000] {
        let stage = Stage::new().await;
        let hole = BlackHole::dig().await;
        let terms = Terms {
            timeout_ms,
            attempts_max: 1,
        };
        let url = format!("http://{}/", hole.address);
        stage.endpoint_at(&url, terms).await;
        let dispatcher = stage.start();
        let event = stage.publish("{}").await;
        assert_eq!(stage.wait_for_dead(event).await, "attempts_exhausted");
        let attempts = stage.attempts(event).await;
        assert_eq!(attempts.len(), 1);
        assert_eq!(attempts[0].error.as_deref(), Some("connect"));
        let detail = attempts[0].detail.as_deref();
        assert_eq!(detail, Some("no address accepted the connection in time"));
        wait_until("nothing is wrong with the proxy", PATIENCE, async || {
            dispatcher.is_ready()
        })
        .await;
        dispatcher.stop().await;
    }
}

#[tokio::test]
async fn what_a_proxy_says_becomes_the_outcome_of_the_attempt() {
    let stage = Stage::new().await;
    let terms = Terms {
        attempts_max: 1,
        ..Terms::default()
    };
    stage.endpoint_at(&stage.receiver.url("/hook"), terms).await;
    for reason in EgressReason::ALL {
        let status = reason.status();
        let proxy = Parrot::refusing(&format!(
            "{WORKING}HTTP/1.1 {status} X\r\n{EGRESS_REASON_HEADER}: {reason}\r\n\r\nin its words"
        ))
        .await;
        let dispatcher = stage.start_with(config(&[proxy.address]));
        let event = stage.publish("{}").await;
        let expected = match reason.outcome() {
            Outcome::Refused(_) if status == 400 => Some("invalid_url"),
            Outcome::Refused(_) => Some("egress_denied"),
            Outcome::Failed(kind) => Some(kind.as_str()),
            Outcome::Unsent => None,
            Outcome::Answered { .. } | Outcome::TimedOut => unreachable!("{reason}"),
        };
        if let Some(expected) = expected {
            stage.wait_for_dead(event).await;
            let attempts = stage.attempts(event).await;
            assert_eq!(attempts.len(), 1, "{reason}");
            assert_eq!(attempts[0].error.as_deref(), Some(expected), "{reason}");
            assert_eq!(
                attempts[0].detail.as_deref(),
                Some("in its words"),
                "{reason}"
            );
        } else {
            wait_until(&format!("{reason}: released"), PATIENCE, async || {
                dispatcher.count(UNSENT) >= 1
            })
            .await;
            assert_eq!(stage.attempts(event).await, [], "{reason}");
        }
        dispatcher.stop().await;
        stage.sql.run("TRUNCATE zyven.outbox").await;
    }
    assert_eq!(stage.receiver.request_count(), 0);
}
