//! The books of a fleet balance when something dies, and do not when something is wrong.

use std::time::Duration;

use serde_json::json;
use zyven_chaos::{EventSource, Fleet, Ledger, Load, Service, Shape, Sizes};
use zyven_testkit::wait_until;

const PATIENCE: Duration = Duration::from_secs(90);

#[tokio::test]
async fn the_books_balance_after_every_service_and_both_servers_were_killed() {
    let mut fleet = Fleet::start(&Shape::default()).await;
    let endpoints = vec![
        fleet
            .endpoint("/all", json!({ "timeout_ms": 1000, "retry_base_ms": 200 }))
            .await,
        fleet
            .endpoint(
                "/some",
                json!({ "event_types": ["chaos.b"], "timeout_ms": 1000 }),
            )
            .await,
    ];
    let source = EventSource {
        sizes: Sizes::Varied,
        refused_one_in: Some(20),
        ordered_one_in: Some(5),
        ..EventSource::plain(1)
    };
    let ledger = Ledger::open(source, endpoints, &fleet.receiver);
    let publisher = fleet.publisher();
    let load = Load::new(source, 400, 100.0);
    let publishing = tokio::spawn({
        let ledger = ledger.clone();
        async move { load.run(&publisher, &ledger).await }
    });
    wait_until("some have arrived", PATIENCE, async || {
        ledger.arrivals_count() > 50
    })
    .await;
    for service in Service::ALL {
        fleet.kill(service, 0).await;
        fleet.restart(service, 0);
    }
    fleet.crash_postgres().await;
    fleet.restart_postgres().await;
    fleet.kill_redis();
    fleet.restart_redis().await;
    publishing.await.expect("publishing ends");
    assert!(ledger.wait_until_settled(&fleet, PATIENCE).await);
    let account = ledger.close(&fleet).await;
    assert_eq!(account.verdict(), Ok(()), "{account}");
    assert_eq!((account.acknowledged, account.given_up), (400, 0));
    assert_eq!(account.delivered, 380 + 100);
    assert_eq!(account.dead_letters["rejected"], 20);
    assert_eq!(fleet.ended_unasked(), Vec::<String>::new());
}
