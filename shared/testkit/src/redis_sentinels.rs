//! Three Sentinels, a primary and its replica.

use std::fs::File;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::child::{self, Signal};
use crate::environment::{Folder, free_address, machine};
use crate::redis_server::{TestRedis, connect, process_id};
use crate::wait::wait_until;

/// What the Sentinels call the servers they watch.
const SERVICE: &str = "main";
/// For starting, linking and failing over, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Three Sentinels over two servers, one of which replicates the other. All end when dropped.
#[derive(Debug)]
pub struct RedisSentinels {
    sentinels: Vec<Sentinel>,
    /// At first the second one replicates the first one.
    pub servers: [TestRedis; 2],
}

#[derive(Debug)]
struct Sentinel {
    child: Child,
    address: SocketAddr,
    _folder: Folder,
}

impl RedisSentinels {
    /// Everybody knows everybody, and the replica is in step. `options` are those of both servers.
    pub async fn start(options: &[&str]) -> RedisSentinels {
        let primary = TestRedis::start_with(options).await;
        let of = primary.address().port().to_string();
        // Without a link the replica must not wait for a snapshot on disk, nor ten seconds for the next try.
        let replica_options = [
            "--replicaof",
            "127.0.0.1",
            &of,
            "--repl-diskless-sync-delay",
            "0",
        ];
        let replica = TestRedis::start_with(&[options, &replica_options].concat()).await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(Sentinel::start(primary.address()).await);
        }
        let group = RedisSentinels {
            sentinels,
            servers: [primary, replica],
        };
        group.servers[1]
            .wait_for_info("replication", "master_link_status:up")
            .await;
        for sentinel in &group.sentinels {
            wait_until("the Sentinels know everybody", PATIENCE, async || {
                sentinel.knows_everybody().await
            })
            .await;
        }
        group
    }

    /// As `ZYVEN_REDIS_URL` has it.
    #[must_use]
    pub fn url(&self) -> String {
        let hosts: Vec<String> = (self.sentinels.iter())
            .map(|sentinel| sentinel.address.to_string())
            .collect();
        format!("redis+sentinel://{}/{SERVICE}", hosts.join(","))
    }

    /// Returns when at least two Sentinels name that server.
    pub async fn wait_for_primary(&self, server: SocketAddr) {
        wait_until("the Sentinels name another primary", PATIENCE, async || {
            let mut named = Vec::new();
            for sentinel in &self.sentinels {
                named.push(sentinel.names().await);
            }
            let agreed = named.iter().filter(|named| **named == Ok(server)).count();
            if agreed >= 2 { Ok(()) } else { Err(named) }
        })
        .await;
    }

    /// SIGSTOP: this Sentinel says nothing until [`RedisSentinels::thaw`], and then what it knew before.
    pub fn freeze(&mut self, index: usize) {
        child::send(&mut self.sentinels[index].child, Signal::Freeze);
    }

    /// Goes on after [`RedisSentinels::freeze`].
    pub fn thaw(&mut self, index: usize) {
        child::send(&mut self.sentinels[index].child, Signal::Thaw);
    }
}

impl Sentinel {
    async fn start(primary: SocketAddr) -> Sentinel {
        let (address, folder) = (free_address(), Folder::new("sentinel"));
        let port = address.port();
        let dir = folder.path().display();
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {dir}\n\
             sentinel monitor {SERVICE} 127.0.0.1 {} 2\n\
             sentinel down-after-milliseconds {SERVICE} 2000\n\
             sentinel failover-timeout {SERVICE} 6000\n",
            primary.port()
        );
        let file = folder.path().join("conf");
        std::fs::write(&file, text).expect("the test's own folder can be written");
        let log = File::create(folder.path().join("log")).expect("likewise");
        let mut command = Command::new(&machine().redis_server);
        command.arg(&file).arg("--sentinel").stdin(Stdio::null());
        command
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log);
        let child = child::start(command).unwrap_or_else(|error| panic!("no Sentinel: {error}"));
        let sentinel = Sentinel {
            child,
            address,
            _folder: folder,
        };
        let pid = sentinel.child.id();
        wait_until("the Sentinel answers", PATIENCE, async || {
            process_id(&sentinel.url())
                .await
                .map(|answering| answering == pid)
        })
        .await;
        sentinel
    }

    fn url(&self) -> String {
        format!("redis://{}/", self.address)
    }

    async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> Result<T, String> {
        let asked = async {
            let mut connection = connect(&self.url()).await?;
            redis::cmd("SENTINEL")
                .arg(words)
                .query_async(&mut connection)
                .await
        };
        asked
            .await
            .map_err(|error: redis::RedisError| error.to_string())
    }

    async fn names(&self) -> Result<SocketAddr, String> {
        let (host, port): (String, String) =
            self.ask(&["GET-MASTER-ADDR-BY-NAME", SERVICE]).await?;
        format!("{host}:{port}")
            .parse()
            .map_err(|_| format!("{host}:{port}"))
    }

    async fn knows_everybody(&self) -> Result<(), String> {
        let of: std::collections::HashMap<String, String> = self.ask(&["MASTER", SERVICE]).await?;
        let others = (of.get("num-slaves"), of.get("num-other-sentinels"));
        match others {
            (Some(replicas), Some(sentinels)) if replicas == "1" && sentinels == "2" => Ok(()),
            others => Err(format!("{others:?}")),
        }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        child::end(&mut self.child);
    }
}
