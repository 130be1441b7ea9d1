//! A graceful stop.

use serde_json::json;
use tokio::net::TcpStream;
use zyven_testkit::{ChaosProxy, TestDatabase, wait_until};

use crate::support::{Api, SOON};

#[tokio::test]
async fn requests_in_flight_are_finished_and_new_ones_are_not_begun() {
    let database = TestDatabase::new().await;
    let network = ChaosProxy::start(database.address()).await;
    let url = database.url_through(network.address());
    let api = Api::reaching(database, &url, &[]).await;
    let tenant = api.tenant().await;
    tenant.endpoint(&json!({})).await;
    tenant.publish("a").await;
    let idle = TcpStream::connect(api.address).await.expect("connected");

    network.pause();
    let publishing = tenant.publish_text(r#"{"type": "a", "payload": 1}"#);
    let stopping = async {
        wait_until("the event is on its way", SOON, async || {
            api.metric("zyven_ingest_batch_events_count") > 1.0
        })
        .await;
        api.trigger.request();
        wait_until("nobody is let in any more", SOON, async || {
            TcpStream::connect(api.address).await.is_err()
        })
        .await;
        network.heal();
    };
    let (answer, ()) = tokio::join!(publishing, stopping);
    assert_eq!(answer.expect(202).header("connection"), Some("close"));
    assert_eq!(api.count("SELECT count(*) FROM zyven.outbox").await, 2);
    wait_until("the service has ended", SOON, async || {
        api.running.is_finished()
    })
    .await;
    drop(idle);
}

#[tokio::test]
async fn a_client_that_never_finishes_does_not_hold_up_the_stop() {
    let api = Api::with(&[("ZYVEN_INGEST_GRACE", "200ms")]).await;
    let tenant = api.tenant().await;
    let mut slow = TcpStream::connect(api.address).await.expect("connected");
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 100\r\n\r\n",
        tenant.key
    );
    tokio::io::AsyncWriteExt::write_all(&mut slow, head.as_bytes())
        .await
        .expect("sent");
    wait_until("the request has begun", SOON, async || {
        api.metric("zyven_ingest_bodies_bytes") > 0.0
    })
    .await;
    api.trigger.request();
    wait_until("the service has ended", SOON, async || {
        api.running.is_finished()
    })
    .await;
}
