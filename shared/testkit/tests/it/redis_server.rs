use redis::AsyncCommands;
use zyven_testkit::{TestRedis, wait_until};

use crate::SOON;

#[tokio::test]
async fn a_restarted_server_is_empty_at_the_same_address() {
    let mut server = TestRedis::start().await;
    let url = server.url();
    let () = server
        .connection()
        .await
        .set("key", 1)
        .await
        .expect("writes");
    server.kill();
    assert!(
        tokio::net::TcpStream::connect(server.address())
            .await
            .is_err()
    );
    server.restart().await;
    assert_eq!(server.url(), url);
    assert!(
        !server
            .connection()
            .await
            .exists::<_, bool>("key")
            .await
            .expect("answers")
    );
}

#[tokio::test]
async fn an_append_only_server_keeps_what_it_had_until_it_is_flushed() {
    let mut server = TestRedis::start_append_only().await;
    let () = server
        .connection()
        .await
        .set("key", 1)
        .await
        .expect("writes");
    server.restart().await;
    assert!(
        server
            .connection()
            .await
            .exists::<_, bool>("key")
            .await
            .expect("answers")
    );
    server.flush().await;
    assert!(
        !server
            .connection()
            .await
            .exists::<_, bool>("key")
            .await
            .expect("answers")
    );
}

#[tokio::test]
async fn a_frozen_server_answers_once_it_is_thawed() {
    let mut server = TestRedis::start().await;
    let mut connection = server.connection().await;
    server.freeze();
    let asked = tokio::spawn(async move { connection.exists::<_, bool>("key").await });
    tokio::task::yield_now().await;
    assert!(!asked.is_finished());
    server.thaw();
    wait_until("the answer comes", SOON, async || asked.is_finished()).await;
}
