//! PostgreSQL away, slow, or cut off in the middle of a commit.

use std::time::Duration;

use serde_json::json;
use zyven_testkit::{ChaosProxy, Postgres, TestDatabase, wait_until};

use crate::support::{Api, SOON};

const EVENT: &str = r#"{"type": "a", "payload": 1}"#;

#[tokio::test]
async fn while_postgres_is_stopped_publishers_are_asked_to_come_again() {
    let mut server = Postgres::private().await;
    let database = server.database().await;
    let api = Api::on(database, &[("ZYVEN_INGEST_REQUEST_DEADLINE", "500ms")]).await;
    let tenant = api.tenant().await;
    tenant.publish("a").await;
    server.stop().await;

    let refused = tenant.publish_with_key(EVENT, "k").await;
    let refused = refused.expect_problem(503, "unavailable");
    assert_eq!(refused.header("retry-after"), Some("1"));
    for path in ["/v1/endpoints", "/v1/deliveries"] {
        let refused = tenant.get(path).await.expect_problem(503, "unavailable");
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    let batch = tenant
        .post("/v1/events/batch", &json!([{ "type": "a", "payload": 1 }]))
        .await;
    batch.expect_problem(503, "unavailable");
    wait_until("it says that it is not ready", SOON, async || {
        api.readiness.missing().contains_key("ingest")
    })
    .await;

    server.restart().await;
    wait_until("it works again by itself", SOON, async || {
        let answer = tenant.publish_with_key(EVENT, "k").await;
        if answer.status.is_success() {
            Ok(())
        } else {
            Err(answer.text)
        }
    })
    .await;
    wait_until("it says so", SOON, async || {
        api.readiness.missing().is_empty()
    })
    .await;
    assert_eq!(api.count("SELECT count(*) FROM zyven.events").await, 2);
}

#[tokio::test]
async fn an_outage_shorter_than_the_deadline_costs_time_and_no_error() {
    let database = TestDatabase::new().await;
    let network = ChaosProxy::start(database.address()).await;
    let url = database.url_through(network.address());
    let api = Api::reaching(database, &url, &[]).await;
    let tenant = api.tenant().await;
    tenant.publish("a").await;
    network.cut();
    let publishing = futures_util::future::join_all((0..20).map(|n| {
        let tenant = &tenant;
        async move { tenant.publish_with_key(EVENT, &format!("k{n}")).await }
    }));
    let healing = async {
        wait_until("a batch is waiting for the database", SOON, async || {
            api.metric("zyven_ingest_batch_events_count") > 1.0
        })
        .await;
        network.heal();
    };
    let (answers, ()) = tokio::join!(publishing, healing);
    for answer in answers {
        answer.expect(202);
    }
    assert_eq!(api.count("SELECT count(*) FROM zyven.events").await, 21);
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_recognised() {
    let database = TestDatabase::new().await;
    let network = ChaosProxy::start(database.address()).await;
    let url = database.url_through(network.address());
    let api = Api::reaching(database, &url, &[]).await;
    let tenant = api.tenant().await;
    tenant.endpoint(&json!({})).await;
    tenant.publish("a").await;
    network.lose_replies();
    let publishing = tenant.publish_text(EVENT);
    let healing = async {
        wait_until("the event is committed all the same", SOON, async || {
            api.count("SELECT count(*) FROM zyven.events").await == 2
        })
        .await;
        network.heal();
        network.cut_once();
    };
    let (answer, ()) = tokio::join!(publishing, healing);
    assert_eq!(answer.expect(202).json()["deliveries"], 1);
    assert_eq!(
        api.count("SELECT count(*) FROM zyven.events").await,
        2,
        "without any key"
    );
    assert_eq!(api.count("SELECT count(*) FROM zyven.outbox").await, 2);
}

#[tokio::test]
async fn more_events_than_may_wait_are_refused_at_once() {
    let database = TestDatabase::new().await;
    let network = ChaosProxy::start(database.address()).await;
    let url = database.url_through(network.address());
    let settings = [
        ("ZYVEN_INGEST_QUEUE_EVENTS_MAX", "3"),
        ("ZYVEN_INGEST_BATCH_EVENTS_MAX", "3"),
        ("ZYVEN_INGEST_WRITERS", "1"),
        ("ZYVEN_INGEST_REQUEST_DEADLINE", "30s"),
    ];
    let api = Api::reaching(database, &url, &settings).await;
    let tenant = api.tenant().await;
    tenant.publish("a").await;
    network.pause();
    let publish = |n: u32| {
        let tenant = &tenant;
        async move { tenant.publish_with_key(EVENT, &format!("k{n}")).await }
    };
    let under_way = async {
        // The first goes to the writer; the next three wait.
        let first = publish(0);
        let others = async {
            wait_until("the writer is busy", SOON, async || {
                api.metric("zyven_ingest_batch_events_count") >= 2.0
            })
            .await;
            futures_util::future::join_all((1..4).map(publish)).await
        };
        let (first, mut answers) = tokio::join!(first, others);
        answers.push(first);
        answers
    };
    let one_more = async {
        wait_until("the queue is full", SOON, async || {
            api.metric("zyven_ingest_queue_events") >= 3.0
        })
        .await;
        let refused = publish(9).await.expect_problem(503, "overloaded");
        assert_eq!(refused.header("retry-after"), Some("1"));
        network.heal();
    };
    let (answers, ()) = tokio::join!(under_way, one_more);
    for answer in answers {
        answer.expect(202);
    }
    publish(9).await.expect(202);
}

#[tokio::test]
async fn a_publisher_that_hangs_up_takes_nothing_back() {
    let database = TestDatabase::new().await;
    let network = ChaosProxy::start(database.address()).await;
    let url = database.url_through(network.address());
    let api = Api::reaching(database, &url, &[]).await;
    let tenant = api.tenant().await;
    tenant.publish("a").await;
    network.pause();
    let impatient = tenant
        .publishing(EVENT)
        .timeout(Duration::from_millis(100))
        .send()
        .await;
    assert!(impatient.is_err());
    network.heal();
    wait_until("the event is stored", SOON, async || {
        api.count("SELECT count(*) FROM zyven.events").await == 2
    })
    .await;
}
