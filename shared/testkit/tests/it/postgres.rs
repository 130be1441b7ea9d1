use zyven_testkit::{Postgres, TestDatabase, wait_until};

use crate::SOON;

#[tokio::test]
async fn every_test_has_a_database_of_its_own() {
    let (first, second) = tokio::join!(TestDatabase::new(), TestDatabase::new());
    assert_ne!(first.url(), second.url());
    first
        .client()
        .await
        .batch_execute("CREATE TABLE only_here ()")
        .await
        .expect("tables can be made");
    let seen = second.client().await.batch_execute("TABLE only_here").await;
    assert!(seen.is_err(), "the other test's table is not visible");
}

#[tokio::test]
async fn a_database_is_gone_with_its_test() {
    let other = TestDatabase::empty().await;
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let name: String = client
        .query_one("SELECT current_database()::text", &[])
        .await
        .expect("answers")
        .get(0);
    drop(database);
    let left = other
        .client()
        .await
        .query("SELECT FROM pg_database WHERE datname = $1", &[&name])
        .await;
    assert!(left.expect("answers").is_empty(), "{name} is still there");
}

#[tokio::test]
async fn a_killed_server_comes_back_with_what_was_committed() {
    let mut server = Postgres::private().await;
    let database = server.database().await;
    let client = database.client().await;
    client
        .batch_execute("CREATE TABLE kept AS SELECT 7 AS value")
        .await
        .expect("tables can be made");
    server.kill().await;
    wait_until("the session notices", SOON, async || client.is_closed()).await;
    assert!(client.batch_execute("SELECT").await.is_err());

    server.restart().await;
    let row = database
        .client()
        .await
        .query_one("SELECT value FROM kept", &[])
        .await;
    assert_eq!(row.expect("answers").get::<_, i32>(0), 7);

    server.stop().await;
    assert!(
        tokio::net::TcpStream::connect(server.address())
            .await
            .is_err()
    );
    server.restart().await;
    database.client().await;
}
