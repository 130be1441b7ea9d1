//! A Redis Cluster of three primaries, with or without replicas.

use std::time::Duration;

use crate::environment::free_address;
use crate::redis_server::TestRedis;
use crate::wait::wait_until;

/// For meeting, linking and failing over, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Slots of a Redis Cluster.
const SLOTS: u16 = 16_384;
/// Nodes with slots.
const PRIMARIES: usize = 3;

/// Three nodes that share the slots, in equal ranges, and a replica of each if wanted. All end when dropped.
#[derive(Debug)]
pub struct RedisCluster {
    /// The primaries in the order of their slots, then their replicas in the same order.
    pub nodes: Vec<TestRedis>,
    ids: Vec<String>,
}

/// Whether each node has a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replicas {
    /// None: what a node has is gone with it, and the other nodes go on.
    None,
    /// One each, which takes over.
    One,
}

impl RedisCluster {
    /// Everybody has met everybody, and every slot is served.
    pub async fn start(replicas: Replicas) -> RedisCluster {
        let count = match replicas {
            Replicas::None => PRIMARIES,
            Replicas::One => 2 * PRIMARIES,
        };
        let (mut nodes, mut ids, mut buses) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..count {
            let bus = free_address().port().to_string();
            let node = TestRedis::start_with(&[
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus,
                "--cluster-node-timeout",
                "3000",
                // Slots that have somebody are served, although others have nobody.
                "--cluster-require-full-coverage",
                "no",
                "--repl-diskless-sync-delay",
                "0",
            ])
            .await;
            ids.push(text(node.command(&["CLUSTER", "MYID"]).await));
            buses.push(bus);
            nodes.push(node);
        }
        let cluster = RedisCluster { nodes, ids };
        for (index, node) in cluster.nodes[..PRIMARIES].iter().enumerate() {
            let (first, last) = range(index);
            let (first, last) = (first.to_string(), last.to_string());
            node.command(&["CLUSTER", "ADDSLOTSRANGE", &first, &last])
                .await;
            // Primaries that claim the same epoch would settle that among themselves, after a while.
            let epoch = (index + 1).to_string();
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await;
        }
        for (node, bus) in cluster.nodes.iter().zip(&buses).skip(1) {
            let port = node.address().port().to_string();
            let meet = ["CLUSTER", "MEET", "127.0.0.1", &port, bus];
            cluster.nodes[0].command(&meet).await;
        }
        cluster.wait_until_known().await;
        for (replica, primary) in cluster.nodes[PRIMARIES..].iter().zip(&cluster.ids) {
            replica.command(&["CLUSTER", "REPLICATE", primary]).await;
        }
        for replica in &cluster.nodes[PRIMARIES..] {
            replica
                .wait_for_info("replication", "master_link_status:up")
                .await;
        }
        cluster.wait_until_well().await;
        cluster
    }

    /// As `ZYVEN_REDIS_URL` has it: two of the nodes are enough to find the others.
    #[must_use]
    pub fn url(&self) -> String {
        let [one, other] = [0, 1].map(|index| self.nodes[index].address());
        format!("redis+cluster://{one},{other}")
    }

    /// The slot of a key.
    pub async fn slot_of(&self, key: &str) -> u16 {
        let slot = self.nodes[0].command(&["CLUSTER", "KEYSLOT", key]).await;
        redis::from_redis_value(slot).expect("a slot")
    }

    /// The primary whose range of slots, as it was at first, has this one.
    #[must_use]
    pub fn primary_of(&self, slot: u16) -> usize {
        (0..PRIMARIES)
            .find(|index| (range(*index).0..=range(*index).1).contains(&slot))
            .expect("every slot is in a range")
    }

    /// Begins to move a slot between primaries. Until [`RedisCluster::finish_move`] its keys may be on either.
    pub async fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let importing = ["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.ids[from]];
        self.nodes[to].command(&importing).await;
        let migrating = ["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.ids[to]];
        self.nodes[from].command(&migrating).await;
    }

    /// Moves at most `count` keys of a slot; returns how many there were.
    pub async fn move_keys(&self, slot: u16, from: usize, to: usize, count: u16) -> usize {
        let (slot, count) = (slot.to_string(), count.to_string());
        let keys = self.nodes[from]
            .command(&["CLUSTER", "GETKEYSINSLOT", &slot, &count])
            .await;
        let keys: Vec<String> = redis::from_redis_value(keys).expect("names of keys");
        let port = self.nodes[to].address().port().to_string();
        let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        migrate.extend(keys.iter().map(String::as_str));
        if !keys.is_empty() {
            self.nodes[from].command(&migrate).await;
        }
        keys.len()
    }

    /// Tells the primaries that the slot has moved.
    pub async fn finish_move(&self, slot: u16, to: usize) {
        let slot = slot.to_string();
        let told = ["CLUSTER", "SETSLOT", &slot, "NODE", &self.ids[to]];
        self.nodes[to].command(&told).await;
        for node in &self.nodes[..PRIMARIES] {
            node.command(&told).await;
        }
    }

    /// Returns when all nodes that run say that the cluster is well.
    pub async fn wait_until_well(&self) {
        wait_until("the cluster is well", PATIENCE, async || {
            for node in self.nodes.iter().filter(|node| node.is_running()) {
                let info = text(node.command(&["CLUSTER", "INFO"]).await);
                let all = format!("cluster_slots_ok:{SLOTS}");
                if !info.contains("cluster_state:ok") || !info.contains(&all) {
                    return Err(info);
                }
            }
            Ok(())
        })
        .await;
    }

    async fn wait_until_known(&self) {
        wait_until("the nodes know each other", PATIENCE, async || {
            for node in &self.nodes {
                let known = text(node.command(&["CLUSTER", "NODES"]).await);
                let is_known = |id| {
                    known.lines().any(|line| {
                        line.starts_with(id)
                            && line.contains(" connected")
                            && !line.contains("handshake")
                    })
                };
                if !self.ids.iter().all(is_known) {
                    return Err(known);
                }
            }
            Ok(())
        })
        .await;
    }
}

fn range(index: usize) -> (u16, u16) {
    let size = SLOTS / 3 + 1;
    let first = u16::try_from(index).expect("there are three") * size;
    (first, (first + size - 1).min(SLOTS - 1))
}

fn text(value: redis::Value) -> String {
    redis::from_redis_value(value).expect("a text")
}
