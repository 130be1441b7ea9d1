//! A Redis Cluster of real nodes: shards on different ones, slots that move, nodes that go and come back.

use std::collections::BTreeSet;
use std::time::Duration;

use zyven_queue::{
    Claimed, Completion, Epoch, Failure, Lane, Next, Pushed, Queue, QueueConfig, Ticket, Wake,
};
use zyven_testkit::{RedisCluster, Replicas, wait_until};

use crate::support::{LEASE, NOW, done, new_lane, ticket};

/// Failing over takes seconds, on a loaded machine more.
const PATIENCE: Duration = Duration::from_secs(90);
const SHARDS: u16 = 8;

struct Stage {
    cluster: RedisCluster,
    queue: Queue,
    epoch: Epoch,
}

impl Stage {
    async fn new(replicas: Replicas) -> Self {
        let cluster = RedisCluster::start(replicas).await;
        let queue = Queue::connect(&QueueConfig {
            url: cluster.url(),
            shards: SHARDS,
            tenant_in_flight_max: 1_000_000,
            ..QueueConfig::default()
        })
        .unwrap();
        let epoch = queue.begin_epoch().await.unwrap();
        Self {
            cluster,
            queue,
            epoch,
        }
    }

    async fn slot_of(&self, shard: u16) -> u16 {
        let key = format!("{{z{shard}}}:v2:epoch");
        self.cluster.slot_of(&key).await
    }

    /// A shard whose slot was on that node at first.
    async fn shard_on(&self, node: usize) -> u16 {
        for shard in 0..SHARDS {
            if self.cluster.primary_of(self.slot_of(shard).await) == node {
                return shard;
            }
        }
        panic!("no shard is on node {node}");
    }

    async fn is_lane_on(&self, lane: Lane, node: usize) -> bool {
        self.cluster.primary_of(self.slot_of(shard_of(lane)).await) == node
    }

    /// Takes everything there is; hands back what was taken.
    async fn drain(&self) -> BTreeSet<i64> {
        let mut taken = BTreeSet::new();
        let mut completions: Vec<Completion> = Vec::new();
        loop {
            let Claimed {
                tickets, kept_back, ..
            } = self.queue.claim(200, LEASE, &completions).await.unwrap();
            completions = kept_back;
            if tickets.is_empty() {
                return taken;
            }
            taken.extend(tickets.iter().map(|ticket| ticket.seq));
            completions.extend(done(&tickets));
        }
    }

    async fn asks_everybody(&self) {
        wait_until("no node is left out", PATIENCE, async || {
            let _ = self.queue.health().await;
            self.queue.away().map_or(Ok(()), Err)
        })
        .await;
    }

    async fn works_everywhere(&mut self, seqs: std::ops::Range<i64>) {
        self.asks_everybody().await;
        self.epoch = wait_until("there is one epoch", PATIENCE, async || {
            match self.queue.epoch().await {
                Ok(Some(epoch)) => Ok(epoch),
                Ok(None) => self.queue.begin_epoch().await,
                Err(error) => Err(error),
            }
        })
        .await;
        let tickets = tickets(seqs);
        let _ = wait_until("all shards take pushes", PATIENCE, async || {
            match self.queue.push(&tickets, &self.epoch).await {
                Ok(Pushed::Accepted { .. }) if self.queue.away().is_none() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        let mut missing: BTreeSet<i64> = tickets.iter().map(|ticket| ticket.seq).collect();
        wait_until("everything is claimed", PATIENCE, async || {
            for seq in self.drain().await {
                missing.remove(&seq);
            }
            if missing.is_empty() {
                Ok(())
            } else {
                Err(missing.clone())
            }
        })
        .await;
    }
}

fn shard_of(lane: Lane) -> u16 {
    // As the queue has it; the test on each shard's node would fail otherwise.
    let (_, chance) = lane.endpoint_id.uuid().as_u64_pair();
    u16::try_from((chance & 0xffff_ffff) % u64::from(SHARDS)).unwrap()
}

/// One ticket for each of so many new lanes.
fn tickets(seqs: std::ops::Range<i64>) -> Vec<Ticket> {
    seqs.map(|seq| ticket(new_lane(), seq, NOW)).collect()
}

#[tokio::test]
async fn each_shard_is_on_the_node_that_has_its_slot() {
    let stage = Stage::new(Replicas::None).await;
    let offered = tickets(1..201);
    let _ = stage.queue.push(&offered, &stage.epoch).await.unwrap();
    assert_eq!(stage.queue.depth().await.unwrap().waiting, 200);
    for (index, node) in stage.cluster.nodes.iter().enumerate() {
        let keys: usize = redis::from_redis_value(node.command(&["DBSIZE"]).await).unwrap();
        assert!(keys > 0, "node {index} has some");
        for ticket in &offered {
            if stage.is_lane_on(ticket.lane, index).await {
                assert_eq!(stage.queue.lane(ticket.lane).await.unwrap().fresh, 1);
            }
        }
    }
    let mut doorbell = stage.queue.doorbell();
    assert_eq!(doorbell.wait(PATIENCE).await, Wake::Rung);
    assert_eq!(stage.drain().await.len(), 200);
    assert_eq!(
        stage.queue.depth().await.unwrap(),
        zyven_queue::Depth::default()
    );
}

#[tokio::test]
async fn a_bell_on_any_node_wakes_a_sleeper() {
    let stage = Stage::new(Replicas::None).await;
    let mut doorbell = stage.queue.doorbell();
    for node in 0..3 {
        let lane = loop {
            let lane = new_lane();
            if stage.is_lane_on(lane, node).await {
                break lane;
            }
        };
        // What was rung before is heard first.
        while doorbell.wait(Duration::from_millis(50)).await == Wake::Rung {}
        let tickets = [ticket(lane, 1, NOW)];
        let (woken, pushed) = tokio::join!(
            doorbell.wait(PATIENCE),
            stage.queue.push(&tickets, &stage.epoch)
        );
        assert_eq!(
            (woken, pushed.unwrap()),
            (Wake::Rung, Pushed::Accepted { added: 1 })
        );
        stage.drain().await;
    }
}

#[tokio::test]
async fn a_slot_moves_while_tickets_flow() {
    let mut stage = Stage::new(Replicas::None).await;
    let (from, to) = (0, 1);
    let slot = stage.slot_of(stage.shard_on(from).await).await;
    let offered = tickets(1..2_001);
    let _ = stage.queue.push(&offered, &stage.epoch).await.unwrap();

    let (queue, epoch) = (stage.queue.clone(), stage.epoch.clone());
    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    let more = offered.clone();
    let flow = tokio::spawn(async move {
        let (mut taken, mut completions) = (BTreeSet::new(), Vec::new());
        let mut left_out = 0;
        while stopped.try_recv().is_err() {
            let pushed = queue.push(&more[..100], &epoch).await;
            assert!(
                matches!(pushed, Ok(Pushed::Accepted { .. })),
                "the other shards take theirs: {pushed:?}"
            );
            left_out += u32::from(queue.away().is_some());
            match queue.claim(20, LEASE, &completions).await {
                Ok(claimed) => {
                    completions = claimed.kept_back;
                    taken.extend(claimed.tickets.iter().map(|ticket| ticket.seq));
                    completions.extend(done(&claimed.tickets));
                }
                Err(error) => assert!(error.is_transient(), "{error:?}"),
            }
        }
        let _ = queue.claim(0, LEASE, &completions).await;
        (taken, left_out)
    });
    stage.cluster.begin_move(slot, from, to).await;
    // Keys on both sides: TRYAGAIN.
    wait_until("it is noticed", PATIENCE, async || {
        stage.cluster.move_keys(slot, from, to, 5).await;
        stage.queue.failures(Failure::Moving) > 0
    })
    .await;
    while stage.cluster.move_keys(slot, from, to, 100).await > 0 {}
    stage.cluster.finish_move(slot, to).await;
    stop.send(()).unwrap();
    let (taken, left_out) = flow.await.unwrap();
    assert!(left_out > 0, "the move was noticed");

    // What an interrupted script has dropped, the relay's walk offers again.
    let left: Vec<Ticket> = (offered.into_iter())
        .filter(|ticket| !taken.contains(&ticket.seq))
        .collect();
    stage.asks_everybody().await;
    assert!(stage.queue.revivals() > 0, "a walk is owed");
    stage.queue.mend().await.unwrap();
    let _ = stage.queue.push(&left, &stage.epoch).await.unwrap();
    let rest = stage.drain().await;
    stage.works_everywhere(5_001..5_201).await;
    assert_eq!(
        taken.union(&rest).filter(|seq| **seq <= 2_000).count(),
        2_000
    );
    let slot = slot.to_string();
    let count = ["CLUSTER", "COUNTKEYSINSLOT", &slot];
    let keys = stage.cluster.nodes[from].command(&count).await;
    assert_eq!(keys, redis::Value::Int(0));
}

#[tokio::test]
async fn a_node_that_is_gone_holds_up_its_own_shards_only() {
    let mut stage = Stage::new(Replicas::None).await;
    let offered = tickets(1..101);
    let _ = stage.queue.push(&offered, &stage.epoch).await.unwrap();
    let held = stage.queue.claim(100, LEASE, &[]).await.unwrap();
    let mut of_the_node = Vec::new();
    for ticket in &held.tickets {
        if stage.is_lane_on(ticket.lane, 2).await {
            of_the_node.push(*ticket);
        }
    }
    assert!(!of_the_node.is_empty());
    stage.cluster.nodes[2].kill();

    // Claims go on, and what cannot be handed back is kept.
    let claimed = wait_until("the others are asked", PATIENCE, async || {
        stage.queue.claim(0, LEASE, &done(&held.tickets)).await
    })
    .await;
    let kept: BTreeSet<i64> = claimed.kept_back.iter().map(|it| it.ticket.seq).collect();
    assert_eq!(kept, of_the_node.iter().map(|ticket| ticket.seq).collect());
    assert!(stage.queue.away().is_some());
    let freed: Vec<_> = (held.tickets.iter())
        .map(|ticket| (*ticket, Next::Done))
        .collect();
    let kept = stage.queue.give_back(&freed).await.unwrap();
    let kept: BTreeSet<i64> = kept.iter().map(|(ticket, _)| ticket.seq).collect();
    assert_eq!(kept, of_the_node.iter().map(|ticket| ticket.seq).collect());
    // What is for that node alone is left out, and is no error either: it would hold up what comes behind it.
    let lane = of_the_node[0].lane;
    let mine = [ticket(lane, 999, NOW)];
    let pushed = stage.queue.push(&mine, &stage.epoch).await.unwrap();
    assert_eq!(pushed, Pushed::Accepted { added: 0 });
    stage.queue.lane(lane).await.unwrap_err();
    let asked = std::time::Instant::now();
    for round in 0..20 {
        let offered = tickets(1_000 + 20 * round..1_020 + 20 * round);
        let pushed = stage.queue.push(&offered, &stage.epoch).await.unwrap();
        assert_ne!(pushed, Pushed::EpochLost);
    }
    // Nobody waits 20 times for a node that is known to be gone.
    assert!(
        asked.elapsed() < Duration::from_secs(8),
        "{:?}",
        asked.elapsed()
    );
    assert!(stage.drain().await.len() > 100);
    assert_eq!(
        stage.queue.epoch().await.unwrap(),
        Some(stage.epoch.clone())
    );

    // It comes back empty, and everything goes on everywhere.
    let revivals = stage.queue.revivals();
    stage.cluster.nodes[2].restart().await;
    stage.works_everywhere(5_001..5_201).await;
    assert!(stage.queue.revivals() > revivals);
}

#[tokio::test]
async fn a_node_that_refuses_holds_up_its_own_shards_only() {
    for (failure, setting, forbidding, allowing) in [
        (Failure::OutOfMemory, "maxmemory", "1", "0"),
        (Failure::NoReplicas, "min-replicas-to-write", "1", "0"),
    ] {
        let mut stage = Stage::new(Replicas::None).await;
        let offered = tickets(1..101);
        let _ = stage.queue.push(&offered, &stage.epoch).await.unwrap();
        let node = &stage.cluster.nodes[2];
        node.command(&["CONFIG", "SET", setting, forbidding]).await;

        for round in 0..20 {
            let offered = tickets(1_000 + 20 * round..1_020 + 20 * round);
            let pushed = stage.queue.push(&offered, &stage.epoch).await.unwrap();
            assert_ne!(pushed, Pushed::EpochLost);
        }
        assert_eq!(stage.queue.away().unwrap().failure(), failure);
        stage.queue.mend().await.unwrap();
        let epoch = stage.queue.epoch().await.unwrap();
        assert_eq!(epoch, Some(stage.epoch.clone()));
        // It cannot be given an epoch, which is no reason to give the others one after another.
        stage.epoch = stage.queue.begin_epoch().await.unwrap();
        let epoch = stage.queue.epoch().await.unwrap();
        assert_eq!(epoch, Some(stage.epoch.clone()));
        let pushed = stage.queue.push(&offered, &stage.epoch).await.unwrap();
        assert_ne!(pushed, Pushed::EpochLost);
        // Claims make room.
        if failure == Failure::OutOfMemory {
            let taken = stage.drain().await;
            assert!(offered.iter().all(|ticket| taken.contains(&ticket.seq)));
        }

        let revivals = stage.queue.revivals();
        let node = &stage.cluster.nodes[2];
        node.command(&["CONFIG", "SET", setting, allowing]).await;
        stage.works_everywhere(5_001..5_201).await;
        assert!(stage.queue.revivals() > revivals, "a walk is owed");
    }
}

#[tokio::test]
async fn a_node_that_does_not_tell_its_memory_is_used_all_the_same() {
    let stage = Stage::new(Replicas::None).await;
    stage.queue.memory().await.unwrap();
    let node = &stage.cluster.nodes[1];
    node.command(&["ACL", "SETUSER", "default", "-info"]).await;
    let error = stage.queue.memory().await.unwrap_err();
    assert_eq!(error.failure(), Failure::Unauthorized);
    assert!(stage.queue.away().is_none());
}

#[tokio::test]
async fn a_cluster_that_wants_all_its_slots_is_waited_for() {
    let mut stage = Stage::new(Replicas::None).await;
    for node in &stage.cluster.nodes {
        node.command(&["CONFIG", "SET", "cluster-require-full-coverage", "yes"])
            .await;
    }
    stage.works_everywhere(1..101).await;
    stage.cluster.nodes[1].kill();
    let offered = tickets(101..201);
    wait_until("the cluster is down", PATIENCE, async || {
        let pushed = stage.queue.push(&offered, &stage.epoch).await;
        pushed.is_err() && stage.queue.failures(Failure::ClusterDown) > 0
    })
    .await;
    stage.cluster.nodes[1].restart().await;
    stage.works_everywhere(201..301).await;
}

#[tokio::test]
async fn a_replica_takes_over_from_a_killed_node() {
    let mut stage = Stage::new(Replicas::One).await;
    stage.works_everywhere(1..101).await;
    stage.cluster.nodes[0].kill();
    stage.works_everywhere(101..301).await;
    stage.cluster.wait_until_well().await;
    // The one that is back replicates, and knows it.
    stage.cluster.nodes[0].restart().await;
    stage.works_everywhere(301..401).await;
}
