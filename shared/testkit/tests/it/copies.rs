//! Standbys, backups, and disks that are full.

use std::sync::Arc;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use zyven_testkit::{OnDisk, Postgres, SmallDisk, Stop, wait_until};

use crate::SOON;

async fn count(client: &Client) -> Result<i64, String> {
    let row = client.query_one("SELECT count(*) FROM kept", &[]).await;
    row.map(|row| row.get(0)).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_synchronous_standby_has_what_was_committed_and_takes_over() {
    let mut primary = Postgres::private().await;
    let database = primary.database().await;
    let client = database.client().await;
    let standby = primary.standby("second", &[]).await;
    primary.wait_for_only("second").await;
    client
        .batch_execute("CREATE TABLE kept AS SELECT 7 AS value")
        .await
        .expect("tables can be made");
    let copy = standby.copy_of(&database);
    let reader = copy.client().await;
    wait_until("the standby shows it", SOON, async || {
        match count(&reader).await {
            Ok(1) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let refused = reader.batch_execute("INSERT INTO kept VALUES (8)").await;
    let refused = refused.expect_err("a standby takes no writes");
    assert_eq!(refused.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION));
    primary.kill().await;
    standby.promote().await;
    let written = reader.batch_execute("INSERT INTO kept VALUES (8)").await;
    written.expect("a primary takes writes, also by a session of before");
    assert_eq!(count(&reader).await, Ok(2));
}

#[tokio::test]
async fn a_backup_holds_what_was_committed_before_it_and_nothing_that_came_after() {
    let primary = Postgres::private().await;
    let database = primary.database().await;
    let client = database.client().await;
    client
        .batch_execute("CREATE TABLE kept AS SELECT 7 AS value")
        .await
        .expect("tables can be made");
    let backup = primary.base_backup().await;
    client
        .batch_execute("INSERT INTO kept VALUES (8)")
        .await
        .expect("rows can be added");
    let restored = backup.restore(&[]).await;
    let copy = restored.copy_of(&database);
    assert_eq!(count(&copy.client().await).await, Ok(1));
    assert_eq!(count(&client).await, Ok(2));
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_room() {
    let disk = match SmallDisk::mount(160) {
        Ok(disk) => Arc::new(disk),
        Err(reason) => return SmallDisk::skip(&reason),
    };
    let server = Postgres::private_on(Arc::clone(&disk), OnDisk::Data, &[]).await;
    let database = server.database().await;
    let client = database.client().await;
    client
        .batch_execute("CREATE TABLE kept (filler text)")
        .await
        .expect("tables can be made");
    disk.fill();
    const MUCH: &str = "INSERT INTO kept SELECT repeat('x', 1000) FROM generate_series(1, 10000)";
    let refused = client.batch_execute(MUCH).await;
    let refused = refused.expect_err("there is no room");
    assert_eq!(refused.code(), Some(&SqlState::DISK_FULL));
    disk.free();
    client.batch_execute(MUCH).await.expect("there is room");
    assert_eq!(count(&client).await, Ok(10_000));
}

#[tokio::test]
async fn a_server_asked_to_end_smartly_waits_for_its_sessions() {
    let mut server = Postgres::private().await;
    let database = server.database().await;
    let client = database.client().await;
    server.ask_to_stop(Stop::Smart);
    wait_until("it lets nobody in", SOON, async || {
        let url = database.url();
        let refused = tokio_postgres::connect(&url, tokio_postgres::NoTls).await;
        match refused.map(|_| ()).map_err(|error| error.code().cloned()) {
            Err(Some(SqlState::CANNOT_CONNECT_NOW)) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    client.batch_execute("SELECT 1").await.expect("it goes on");
    drop(client);
    server.ended().await;
}
