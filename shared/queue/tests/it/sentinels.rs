//! Sentinels say which server is the primary, and change their minds.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use zyven_queue::{Epoch, Failure, Queue, QueueConfig, Wake};
use zyven_testkit::{RedisSentinels, TestRedis, wait_until};

use crate::support::{LEASE, NOW, done, new_lane, ticket};

/// Failing over takes seconds, on a loaded machine more.
const PATIENCE: Duration = Duration::from_secs(90);
/// A connection's age at most, 10 s, and some time for a machine that has other things to do.
const LEFT_TIME_MAX: Duration = Duration::from_secs(15);

fn queue_at(url: &str) -> Queue {
    Queue::connect(&QueueConfig {
        url: url.to_owned(),
        ..QueueConfig::default()
    })
    .unwrap()
}

/// The epoch that the server has which is the primary now, or a new one.
async fn epoch(queue: &Queue) -> Epoch {
    wait_until("a primary takes writes", PATIENCE, async || {
        match queue.epoch().await {
            Ok(Some(epoch)) => Ok(epoch),
            Ok(None) => queue.begin_epoch().await,
            Err(error) => Err(error),
        }
    })
    .await
}

/// Pushes a ticket and hears the bell, at whichever server that is.
async fn works(queue: &Queue, seq: i64) {
    let epoch = epoch(queue).await;
    let lane = new_lane();
    let _ = wait_until("it takes a push", PATIENCE, async || {
        queue.push(&[ticket(lane, seq, NOW)], &epoch).await
    })
    .await;
    wait_until("the bell rings", PATIENCE, async || {
        queue.doorbell().wait(Duration::from_secs(1)).await == Wake::Rung
    })
    .await;
    let claimed = wait_until("it is claimed", PATIENCE, async || {
        let claimed = queue
            .claim(500, LEASE, &[])
            .await
            .map_err(|error| error.to_string())?;
        if claimed.tickets.is_empty() {
            Err("nothing".to_owned())
        } else {
            Ok(claimed)
        }
    })
    .await;
    let _ = queue
        .claim(0, LEASE, &done(&claimed.tickets))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_killed_primary_is_replaced_and_comes_back_as_a_replica() {
    let mut group = RedisSentinels::start(&[]).await;
    let queue = queue_at(&group.url());
    works(&queue, 1).await;
    let [old, new] = [0, 1].map(|index| group.servers[index].address());
    group.servers[0].kill();
    works(&queue, 2).await;
    group.wait_for_primary(new).await;

    group.servers[0].restart().await;
    group.servers[0]
        .wait_for_info("replication", "role:slave")
        .await;
    works(&queue, 3).await;
    assert_ne!(old, new);
}

#[tokio::test]
async fn a_primary_that_was_frozen_misleads_nobody_when_it_thaws() {
    let mut group = RedisSentinels::start(&[]).await;
    let queue = queue_at(&group.url());
    works(&queue, 1).await;
    let new = group.servers[1].address();
    // It still takes connections, and one Sentinel knows nothing of what follows.
    group.freeze(0);
    group.servers[0].freeze();
    group.wait_for_primary(new).await;
    works(&queue, 2).await;
    group.servers[0].thaw();
    group.thaw(0);
    works(&queue, 3).await;
    let info = group.servers[1].info("replication").await.unwrap();
    assert!(info.contains("role:master"), "{info}");
}

#[tokio::test]
async fn the_sentinel_with_the_newest_configuration_is_believed() {
    let [old, new] = [TestRedis::start().await, TestRedis::start().await];
    // Cut off together with the old primary, which still takes everything.
    let stale = Impostor::start(1, old.address()).await;
    let fresh = Impostor::start(2, new.address()).await;
    for url in [
        format!("redis+sentinel://{},{}/main", stale.address, fresh.address),
        format!("redis+sentinel://{},{}/main", fresh.address, stale.address),
        format!("redis+sentinel://127.0.0.1:1,{}/main", fresh.address),
    ] {
        works(&queue_at(&url), 1).await;
    }
    assert_eq!(old.command(&["DBSIZE"]).await, redis::Value::Int(0));
}

#[tokio::test]
async fn a_deposed_primary_that_still_answers_is_left() {
    let [old, new] = [TestRedis::start().await, TestRedis::start().await];
    let sentinel = Impostor::start(1, old.address()).await;
    let queue = queue_at(&format!("redis+sentinel://{}/main", sentinel.address));
    works(&queue, 1).await;
    let before = epoch(&queue).await;
    *sentinel.says.lock().unwrap() = (2, new.address());
    // No error tells: only age ends these connections.
    wait_until("the new primary is asked", LEFT_TIME_MAX, async || {
        queue
            .epoch()
            .await
            .is_ok_and(|epoch| epoch != Some(before.clone()))
    })
    .await;
    works(&queue, 2).await;
    assert_ne!(new.command(&["DBSIZE"]).await, redis::Value::Int(0));
}

#[tokio::test]
async fn a_server_that_is_no_primary_is_not_used() {
    let primary = TestRedis::start().await;
    let port = primary.address().port().to_string();
    let replica = TestRedis::start_with(&["--replicaof", "127.0.0.1", &port]).await;
    let sentinel = Impostor::start(1, replica.address()).await;
    let queue = queue_at(&format!("redis+sentinel://{}/main", sentinel.address));
    let error = queue.health().await.unwrap_err();
    assert_eq!(error.failure(), Failure::ReadOnly, "{error:?}");
    replica.command(&["REPLICAOF", "NO", "ONE"]).await;
    works(&queue, 1).await;
}

/// Answers like a Sentinel whose mind the test makes up.
struct Impostor {
    address: SocketAddr,
    says: Arc<Mutex<(u64, SocketAddr)>>,
}

impl Impostor {
    async fn start(config_epoch: u64, primary: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let says = Arc::new(Mutex::new((config_epoch, primary)));
        let mind = Arc::clone(&says);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, Arc::clone(&mind)));
            }
        });
        Self { address, says }
    }
}

async fn converse(stream: TcpStream, mind: Arc<Mutex<(u64, SocketAddr)>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut words = Vec::new();
        for _ in 0..length(&mut stream).await? {
            let mut word = vec![0; length(&mut stream).await? + 2];
            stream.read_exact(&mut word).await.ok()?;
            words.push(String::from_utf8_lossy(&word).trim_end().to_uppercase());
        }
        let (epoch, primary) = *mind.lock().unwrap();
        let (epoch, port) = (epoch.to_string(), primary.port().to_string());
        let answer = match words.first().map(String::as_str) {
            Some("SENTINEL") => ["ip", "127.0.0.1", "port", &port, "config-epoch", &epoch]
                .iter()
                .fold("*6\r\n".to_owned(), |answer, word| {
                    format!("{answer}${}\r\n{word}\r\n", word.len())
                }),
            _ => "+OK\r\n".to_owned(),
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

/// The number behind `*` or `$`.
async fn length(stream: &mut BufReader<TcpStream>) -> Option<usize> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    line.get(1..)?.trim_end().parse().ok()
}
