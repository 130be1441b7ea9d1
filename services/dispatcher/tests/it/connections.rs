//! Connections that are kept, and those that have died meanwhile.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use zyven_testkit::Answer;

use crate::support::{PATIENCE, Stage, Terms};

#[tokio::test]
async fn a_connection_is_kept_for_the_next_request() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    let dispatcher = stage.start();
    let (_, first) = stage.first_attempt().await;
    let (_, second) = stage.first_attempt().await;
    assert!(!first.reused && second.reused);
    assert_eq!(stage.receiver.connection_count(), 1);
    assert_eq!(
        dispatcher.count("zyven_dispatcher_connections_total{kind=\"reused\"}"),
        1
    );
    dispatcher.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_asks_to_close_gets_a_new_connection() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    let closing = Answer::status(200).header("connection", "close");
    stage.receiver.answer(closing);
    let dispatcher = stage.start();
    stage.first_attempt().await;
    let (_, second) = stage.first_attempt().await;
    assert!(!second.reused);
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_connection_the_endpoint_closed_while_idle_costs_no_attempt() {
    let mut stage = Stage::new().await;
    stage.endpoint("/hook").await;
    let dispatcher = stage.start();
    stage.first_attempt().await;
    stage.receiver.close().await;
    stage.receiver.reopen().await;
    let event = stage.publish("{}").await;
    let delivered = stage.wait_for(event, "DELIVERED").await;
    assert_eq!(delivered.attempts, 1);
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_kept_connection_that_dies_without_a_word_is_replaced_within_the_attempt() {
    let stage = Stage::new().await;
    stage.endpoint("/hook").await;
    // The second request meets a server that closes in the same moment.
    stage
        .receiver
        .answer_in_turn("/hook", [Answer::status(200), Answer::close()]);
    let dispatcher = stage.start();
    stage.first_attempt().await;
    let event = stage.publish("{}").await;
    let delivered = stage.wait_for(event, "DELIVERED").await;
    assert_eq!(delivered.attempts, 1);
    let requests = stage.receiver.wait_for_requests(3, PATIENCE).await;
    assert_eq!(
        requests[1].header("webhook-id"),
        requests[2].header("webhook-id")
    );
    assert_eq!(dispatcher.count("zyven_dispatcher_resent_total"), 1);
    dispatcher.stop().await;
}

#[tokio::test]
async fn what_was_answered_with_one_byte_is_not_sent_again() {
    let stage = Stage::new().await;
    let terms = Terms {
        attempts_max: 1,
        ..Terms::default()
    };
    stage.endpoint_at(&stage.receiver.url("/hook"), terms).await;
    stage
        .receiver
        .answer_in_turn("/hook", [Answer::status(200), Answer::raw("H")]);
    let dispatcher = stage.start();
    stage.first_attempt().await;
    let (event, attempt) = stage.first_attempt().await;
    assert!(attempt.reused);
    assert_eq!(attempt.error.as_deref(), Some("reset"));
    assert_eq!(stage.wait_for_dead(event).await, "attempts_exhausted");
    assert_eq!(stage.receiver.request_count(), 2);
    dispatcher.stop().await;
}

/// Answers every request at once, with more than was asked for, and keeps its connections open.
/// Returns where it listens, and how many connections it has accepted.
async fn talkative_server() -> (SocketAddr, Arc<AtomicUsize>) {
    const ANSWERS: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok\
        HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged";
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&accepted);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counter.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut request = [0; 4_096];
                while stream.read(&mut request).await.is_ok_and(|bytes| bytes > 0) {
                    if stream.write_all(ANSWERS).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (address, accepted)
}

#[tokio::test]
async fn a_connection_with_bytes_behind_the_answer_is_not_reused() {
    let stage = Stage::new().await;
    let (address, accepted) = talkative_server().await;
    stage
        .endpoint_at(&format!("http://{address}/"), Terms::default())
        .await;
    let dispatcher = stage.start();
    for connections in 1..=3 {
        let (_, attempt) = stage.first_attempt().await;
        // The next request must not take the answer nobody asked for as its own.
        assert_eq!(attempt.body.as_deref(), Some(&b"ok"[..]));
        assert!(!attempt.reused);
        assert_eq!(accepted.load(Ordering::Relaxed), connections);
    }
    dispatcher.stop().await;
}

#[tokio::test]
async fn endpoints_of_one_origin_share_connections_and_others_do_not() {
    let stage = Stage::new().await;
    stage.endpoint("/one").await;
    let dispatcher = stage.start();
    stage.first_attempt().await;
    stage
        .sql
        .run("UPDATE zyven.endpoints SET status = 'disabled', disabled_reason = 'test'")
        .await;
    stage.endpoint("/two").await;
    let (_, attempt) = stage.first_attempt().await;
    assert!(attempt.reused);
    assert_eq!(stage.receiver.requests_at("/two").len(), 1);
    dispatcher.stop().await;
}
