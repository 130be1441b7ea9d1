//! A graceful stop.

use std::time::Duration;

use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use zyven_runtime::inherited::Origin;
use zyven_testkit::{ChaosProxy, TestDatabase, wait_until};

use crate::support::{Api, SOON};
use crate::wire::{Wire, publishing};

async fn wait_for_end(api: &Api) {
    wait_until("the service has ended", SOON, async || {
        api.running.is_finished()
    })
    .await;
}

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

#[tokio::test]
async fn a_lame_duck_serves_who_comes_and_ends_each_connection_with_an_answer() {
    // So long that no pause of this machine outlasts it; nothing waits for its end.
    let lame = [
        ("ZYVEN_INGEST_LAME_DUCK", "60s"),
        ("ZYVEN_INGEST_GRACE", "90s"),
    ];
    let api = Api::with(&lame).await;
    let tenant = api.tenant().await;
    let mut kept = Wire::to(api.address).await;
    kept.send(publishing(&tenant.key)).await;
    let answer = kept.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (202, None));
    let mut silent = Wire::to(api.address).await;

    api.trigger.request();
    for wire in [&mut kept, &mut Wire::to(api.address).await] {
        wire.send(publishing(&tenant.key)).await;
        let answer = wire.answer().await;
        assert_eq!(
            (answer.status, answer.header("connection")),
            (202, Some("close"))
        );
        wire.closed().await;
    }
    assert!(
        silent.silent_for(Duration::from_millis(50)).await,
        "not closed yet"
    );
    api.running.abort();
}

#[tokio::test]
async fn a_request_whose_head_has_begun_is_answered_although_the_lame_duck_time_ends() {
    let api = Api::with(&[("ZYVEN_INGEST_LAME_DUCK", "200ms")]).await;
    let tenant = api.tenant().await;
    let request = publishing(&tenant.key);
    let (begin, rest) = request.split_at(20);
    let (mut kept, mut idle) = (Wire::to(api.address).await, Wire::to(api.address).await);
    for wire in [&mut kept, &mut idle] {
        wire.send(&request).await;
        assert_eq!(wire.answer().await.status, 202);
    }
    let mut fresh = Wire::to(api.address).await;
    for wire in [&mut kept, &mut fresh] {
        wire.send(begin).await;
    }
    // Its answer shows that the server has read what was sent before on other connections, too.
    let mut last = Wire::to(api.address).await;
    last.send(&request).await;
    assert_eq!(last.answer().await.status, 202);

    api.trigger.request();
    idle.closed().await;
    for wire in [&mut kept, &mut fresh] {
        wire.send(rest).await;
        let answer = wire.answer().await;
        assert_eq!(
            (answer.status, answer.header("connection")),
            (202, Some("close"))
        );
        wire.closed().await;
    }
    wait_for_end(&api).await;
}

#[tokio::test]
async fn an_inherited_socket_is_left_to_the_next_process_at_once() {
    let database = TestDatabase::new().await;
    let url = database.url();
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    socket
        .set_nonblocking(true)
        .expect("a socket takes options");
    let passed = TcpListener::from_std(socket.try_clone().expect("a copy")).expect("a listener");
    let lame = [("ZYVEN_INGEST_LAME_DUCK", "300ms")];
    let first = Api::listening(database, &url, &lame, (passed, Origin::Inherited)).await;
    let tenant = first.tenant().await;
    let mut kept = Wire::to(first.address).await;
    kept.send(publishing(&tenant.key)).await;
    assert_eq!(kept.answer().await.status, 202);
    first.trigger.request();
    kept.closed().await;
    // Nobody takes it, and nobody refuses it.
    let mut waiting = Wire::to(first.address).await;
    waiting.send(publishing(&tenant.key)).await;
    wait_for_end(&first).await;

    let passed = TcpListener::from_std(socket).expect("a listener");
    let database = TestDatabase::new().await;
    let next = Api::listening(database, &url, &[], (passed, Origin::Inherited)).await;
    assert_eq!(waiting.answer().await.status, 202);
    next.trigger.request();
    wait_for_end(&next).await;
}
