//! Redis is there and does not do what it is asked. It is waited for, told apart, and used again.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use zyven_queue::{Failure, Queue, QueueConfig, Tls};
use zyven_testkit::{TestCa, TestRedis, wait_until};

use crate::support::{NOW, Stage, new_lane, ticket};

const SOON: Duration = Duration::from_secs(30);

/// Waits until pushes fail in this way, and that with advice.
async fn refuses(stage: &Stage, failure: Failure) {
    let tickets = [ticket(new_lane(), 1, NOW)];
    let error = wait_until(
        &format!("it fails: {failure:?}"),
        SOON,
        async || match stage.queue.push(&tickets, &stage.epoch).await {
            Err(error) if error.failure() == failure => Ok(error),
            other => Err(other),
        },
    )
    .await;
    assert!(error.is_transient(), "{error:?}");
    assert!(error.to_string().contains('('), "what to do: {error}");
    assert!(stage.queue.failures(failure) > 0, "it is counted");
}

/// Waits until everything works, without anybody making a new queue.
async fn works_again(stage: &Stage) {
    let lane = new_lane();
    let _ = wait_until("pushes are taken", SOON, async || {
        stage
            .queue
            .push(&[ticket(lane, 2, NOW)], &stage.epoch)
            .await
    })
    .await;
    assert_eq!(stage.queue.lane(lane).await.unwrap().fresh, 1);
}

async fn command(redis: &mut MultiplexedConnection, words: &[&str]) {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    let answer = command.query_async::<redis::Value>(redis).await;
    answer.unwrap_or_else(|error| panic!("{words:?}: {error}"));
}

#[tokio::test]
async fn what_a_setting_of_redis_forbids_is_waited_for() {
    let stage = Stage::new().await;
    for (failure, forbid, allow) in [
        (
            Failure::ReadOnly,
            ["REPLICAOF", "127.0.0.1", "1"].as_slice(),
            ["REPLICAOF", "NO", "ONE"].as_slice(),
        ),
        (
            Failure::NoReplicas,
            &["CONFIG", "SET", "min-replicas-to-write", "1"],
            &["CONFIG", "SET", "min-replicas-to-write", "0"],
        ),
        (
            Failure::OutOfMemory,
            &["CONFIG", "SET", "maxmemory", "1"],
            &["CONFIG", "SET", "maxmemory", "0"],
        ),
        (
            Failure::Unauthorized,
            &["ACL", "SETUSER", "default", "-evalsha"],
            &["ACL", "SETUSER", "default", "+evalsha"],
        ),
    ] {
        works_again(&stage).await;
        stage.command(forbid).await;
        refuses(&stage, failure).await;
        stage.command(allow).await;
    }
    works_again(&stage).await;
}

#[tokio::test]
async fn a_password_that_changes_is_waited_for() {
    let mut stage = Stage::new().await;
    works_again(&stage).await;
    let mut redis = stage.redis.connection().await;
    command(&mut redis, &["CONFIG", "SET", "requirepass", "another"]).await;
    command(&mut redis, &["CLIENT", "KILL", "TYPE", "normal"]).await;
    refuses(&stage, Failure::Unauthorized).await;

    // One that is wrong, instead of none.
    let address = stage.redis.address();
    stage.queue = Queue::connect(&QueueConfig {
        url: format!("redis://:secret@{address}"),
        ..QueueConfig::default()
    })
    .unwrap();
    refuses(&stage, Failure::Unauthorized).await;
    command(&mut redis, &["CONFIG", "SET", "requirepass", "secret"]).await;
    works_again(&stage).await;
}

#[tokio::test]
async fn a_disk_that_takes_no_snapshot_is_waited_for() {
    let stage = Stage::new().await;
    works_again(&stage).await;
    // In the way of the file, for everybody, root included.
    let file = stage.redis.folder().join("dump.rdb");
    std::fs::create_dir(&file).unwrap();
    std::fs::write(file.join("x"), "").unwrap();
    stage.command(&["CONFIG", "SET", "save", "3600 1"]).await;
    stage.command(&["BGSAVE"]).await;
    refuses(&stage, Failure::CannotPersist).await;

    std::fs::remove_dir_all(&file).unwrap();
    stage.command(&["BGSAVE"]).await;
    works_again(&stage).await;
}

#[tokio::test]
async fn somebodys_endless_script_is_waited_for() {
    let stage = Stage::new().await;
    works_again(&stage).await;
    stage
        .command(&["CONFIG", "SET", "busy-reply-threshold", "20"])
        .await;
    let mut redis = stage.redis.connection().await;
    redis.set_response_timeout(SOON);
    let endless = tokio::spawn(async move {
        let mut eval = redis::cmd("EVAL");
        eval.arg("while true do end").arg(0);
        eval.query_async::<redis::Value>(&mut redis).await
    });
    refuses(&stage, Failure::Busy).await;
    stage.command(&["SCRIPT", "KILL"]).await;
    works_again(&stage).await;
    endless.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_redis_that_reads_its_file_is_waited_for() {
    let mut stage = Stage::new().await;
    stage.redis = TestRedis::start_with(&[
        "--enable-debug-command",
        "yes",
        "--loading-process-events-interval-bytes",
        "1024",
    ])
    .await;
    stage.queue = Queue::connect(&QueueConfig {
        url: stage.redis.url(),
        ..QueueConfig::default()
    })
    .unwrap();
    stage.epoch = stage.queue.begin_epoch().await.unwrap();
    works_again(&stage).await;
    stage.command(&["DEBUG", "POPULATE", "3000"]).await;
    stage
        .command(&["CONFIG", "SET", "key-load-delay", "1000"])
        .await;
    let mut redis = stage.redis.connection().await;
    redis.set_response_timeout(SOON);
    let reload = tokio::spawn(async move {
        let mut reload = redis::cmd("DEBUG");
        reload
            .arg("RELOAD")
            .query_async::<redis::Value>(&mut redis)
            .await
    });
    refuses(&stage, Failure::Loading).await;
    works_again(&stage).await;
    reload.await.unwrap().unwrap();
}

#[tokio::test]
async fn how_full_redis_is_and_whether_it_evicts_is_told() {
    let stage = Stage::new().await;
    let memory = stage.queue.memory().await.unwrap();
    assert!(memory.used_bytes > 0, "{memory:?}");
    assert_eq!((memory.max_bytes, memory.evicts), (0, false));
    stage
        .command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"])
        .await;
    assert!(!stage.queue.memory().await.unwrap().evicts, "it never will");
    stage
        .command(&["CONFIG", "SET", "maxmemory", "100mb"])
        .await;
    let memory = stage.queue.memory().await.unwrap();
    assert_eq!((memory.max_bytes, memory.evicts), (100 << 20, true));
    stage
        .command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])
        .await;
    assert!(!stage.queue.memory().await.unwrap().evicts);
}

#[tokio::test]
async fn over_tls_both_sides_show_who_they_are() {
    let authority = TestCa::new();
    let redis = TestRedis::start_tls(&authority).await;
    let mine = authority.client_certificate("zyven", (2020, 2090));
    let tls = Tls {
        authorities_pem: Some(authority.certificate_pem().into_bytes()),
        identity_pem: Some((
            mine.certificate_pem.into_bytes(),
            mine.private_key_pem.into_bytes(),
        )),
    };
    let queue = |tls: &Tls| {
        let config = QueueConfig {
            url: redis.tls_url(),
            tls: tls.clone(),
            ..QueueConfig::default()
        };
        Queue::connect(&config).unwrap()
    };
    let works = queue(&tls);
    let epoch = works.begin_epoch().await.unwrap();
    let _ = works
        .push(&[ticket(new_lane(), 1, NOW)], &epoch)
        .await
        .unwrap();
    assert_eq!(
        works.doorbell().wait(SOON).await,
        zyven_queue::Wake::Rung,
        "the doorbell is encrypted as well"
    );

    let stranger = Tls {
        authorities_pem: Some(TestCa::new().certificate_pem().into_bytes()),
        ..tls.clone()
    };
    let error = queue(&stranger).health().await.unwrap_err();
    assert_eq!(error.failure(), Failure::NoConnection, "{error:?}");
    let nobody = Tls {
        identity_pem: None,
        ..tls
    };
    queue(&nobody).health().await.unwrap_err();
}
