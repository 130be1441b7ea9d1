use std::time::{Duration, Instant};

use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use zyven_testkit::{ChaosProxy, TestRedis, wait_until};

use crate::SOON;

async fn setting() -> (TestRedis, ChaosProxy, redis::Client) {
    let server = TestRedis::start().await;
    let proxy = ChaosProxy::start(server.address()).await;
    let client = redis::Client::open(server.url_through(proxy.address())).expect("a URL");
    (server, proxy, client)
}

/// Without the client's own time limit, which is half a second by default.
async fn connection(client: &redis::Client) -> redis::RedisResult<MultiplexedConnection> {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

#[tokio::test]
async fn a_cut_ends_connections_until_it_heals() {
    let (_server, proxy, client) = setting().await;
    let mut before = connection(&client).await.expect("connects");
    proxy.cut();
    assert!(before.exists::<_, bool>("key").await.is_err());
    assert!(connection(&client).await.is_err());
    proxy.heal();
    assert!(connection(&client).await.is_ok());
}

#[tokio::test]
async fn a_single_cut_leaves_new_connections_alone() {
    let (_server, proxy, client) = setting().await;
    let mut before = connection(&client).await.expect("connects");
    proxy.cut_once();
    assert!(before.exists::<_, bool>("key").await.is_err());
    assert!(connection(&client).await.is_ok());
}

#[tokio::test]
async fn a_pause_holds_data_back_and_keeps_connections() {
    let (_server, proxy, client) = setting().await;
    let mut held = connection(&client).await.expect("connects");
    proxy.pause();
    let asked = tokio::spawn(async move { held.exists::<_, bool>("key").await });
    tokio::task::yield_now().await;
    assert!(!asked.is_finished());
    proxy.heal();
    assert!(!asked.await.expect("no panic").expect("answers"));
}

#[tokio::test]
async fn a_delay_holds_up_both_directions() {
    let (_server, proxy, client) = setting().await;
    let mut slow = connection(&client).await.expect("connects");
    proxy.delay(Duration::from_millis(20));
    let started = Instant::now();
    slow.exists::<_, bool>("key").await.expect("answers");
    assert!(started.elapsed() >= Duration::from_millis(40));
}

#[tokio::test]
async fn lost_replies_belong_to_requests_that_were_carried_out() {
    let (server, proxy, client) = setting().await;
    let mut deaf = connection(&client).await.expect("connects");
    proxy.lose_replies();
    let asked = tokio::spawn(async move { deaf.set::<_, _, ()>("key", 1).await });
    let mut direct = server.connection().await;
    wait_until("the write is carried out", SOON, async || {
        direct.exists::<_, bool>("key").await.expect("answers")
    })
    .await;
    assert!(!asked.is_finished());
    proxy.cut_once();
    assert!(asked.await.expect("no panic").is_err());
}
