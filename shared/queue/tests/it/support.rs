//! A queue on a Redis of the test's own, and a look behind its back.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use uuid::Uuid;
use zyven_domain::id::{EndpointId, TenantId};
use zyven_queue::{
    Claimed, ClaimedTicket, Completion, Epoch, Lane, LaneSettings, Learned, Next, Pushed, Queue,
    QueueConfig, Ticket,
};
use zyven_testkit::TestRedis;

pub(crate) const LEASE: Duration = Duration::from_secs(60);
pub(crate) const NOW: Duration = Duration::ZERO;

pub(crate) struct Stage {
    pub(crate) redis: TestRedis,
    pub(crate) queue: Queue,
    pub(crate) epoch: Epoch,
}

impl Stage {
    pub(crate) async fn new() -> Stage {
        Stage::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut QueueConfig)) -> Stage {
        let redis = TestRedis::start().await;
        let mut config = QueueConfig {
            url: redis.url(),
            tenant_in_flight_max: 1_000_000, // most tests are about other limits
            ..QueueConfig::default()
        };
        change(&mut config);
        let queue = Queue::connect(&config).unwrap();
        let epoch = queue.begin_epoch().await.unwrap();
        Stage {
            redis,
            queue,
            epoch,
        }
    }

    /// Pushes tickets that are due now; returns how many were new.
    pub(crate) async fn push(&self, lane: Lane, seqs: impl IntoIterator<Item = i64>) -> usize {
        self.push_in(NOW, lane, seqs).await
    }

    pub(crate) async fn push_in(
        &self,
        due_in: Duration,
        lane: Lane,
        seqs: impl IntoIterator<Item = i64>,
    ) -> usize {
        let tickets: Vec<Ticket> = seqs
            .into_iter()
            .map(|seq| ticket(lane, seq, due_in))
            .collect();
        self.offer(&tickets).await
    }

    pub(crate) async fn offer(&self, tickets: &[Ticket]) -> usize {
        match self.queue.push(tickets, &self.epoch).await.unwrap() {
            Pushed::Accepted { added } => added,
            Pushed::EpochLost => panic!("the epoch is lost"),
        }
    }

    pub(crate) async fn claim(&self, tickets_max: usize) -> Vec<ClaimedTicket> {
        self.exchange(tickets_max, &[]).await.tickets
    }

    pub(crate) async fn exchange(&self, tickets_max: usize, completions: &[Completion]) -> Claimed {
        self.queue
            .claim(tickets_max, LEASE, completions)
            .await
            .unwrap()
    }

    /// Completes without taking anything.
    pub(crate) async fn give_back(&self, completions: &[Completion]) {
        assert_eq!(self.exchange(0, completions).await.tickets, []);
    }

    /// What the books say: tickets in flight by lane, as counted and as leased.
    pub(crate) async fn books(&self) -> (BTreeMap<String, i64>, BTreeMap<String, i64>) {
        let mut redis = self.redis.connection().await;
        books(&mut redis).await
    }

    pub(crate) async fn command(&self, words: &[&str]) {
        let mut redis = self.redis.connection().await;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command
            .query_async::<redis::Value>(&mut redis)
            .await
            .unwrap();
    }
}

pub(crate) async fn books(
    redis: &mut MultiplexedConnection,
) -> (BTreeMap<String, i64>, BTreeMap<String, i64>) {
    let counted: BTreeMap<String, i64> = redis::cmd("HGETALL")
        .arg("{z0}:v2:in_flight")
        .query_async(redis)
        .await
        .unwrap();
    // Lanes have the longer names; tenants are counted beside them.
    let counted = (counted.into_iter())
        .filter(|(name, _)| name.len() == 64)
        .collect();
    let members: Vec<String> = redis::cmd("ZRANGE")
        .arg("{z0}:v2:leased")
        .arg(0)
        .arg(-1)
        .query_async(redis)
        .await
        .unwrap();
    let mut leased = BTreeMap::new();
    for member in members {
        let (lane, _) = member.split_once(':').unwrap();
        *leased.entry(lane.to_owned()).or_default() += 1;
    }
    (counted, leased)
}

/// A lane of the tenant to whom all belong unless it matters.
pub(crate) fn new_lane() -> Lane {
    lane_of(1)
}

pub(crate) fn lane_of(tenant: u128) -> Lane {
    Lane {
        tenant_id: TenantId::from_uuid(Uuid::from_u128(tenant)),
        endpoint_id: EndpointId::new(),
    }
}

pub(crate) fn ticket(lane: Lane, seq: i64, due_in: Duration) -> Ticket {
    Ticket {
        seq,
        lane,
        ordering_key: 0,
        is_first: false,
        is_retry: false,
        due_in,
    }
}

pub(crate) fn retry(lane: Lane, seq: i64) -> Ticket {
    Ticket {
        is_retry: true,
        ..ticket(lane, seq, NOW)
    }
}

pub(crate) fn keyed(lane: Lane, seq: i64, ordering_key: i64) -> Ticket {
    Ticket {
        ordering_key,
        ..ticket(lane, seq, NOW)
    }
}

pub(crate) fn seqs(tickets: &[ClaimedTicket]) -> Vec<i64> {
    tickets.iter().map(|ticket| ticket.seq).collect()
}

pub(crate) fn done(tickets: &[ClaimedTicket]) -> Vec<Completion> {
    (tickets.iter())
        .map(|ticket| complete(ticket, Learned::Succeeded, Next::Done))
        .collect()
}

/// Not attempted, and wanting another go.
pub(crate) fn later(ticket: &ClaimedTicket, due_in: Duration) -> Completion {
    complete(ticket, Learned::NothingSent, Next::Later(due_in))
}

pub(crate) fn complete(ticket: &ClaimedTicket, learned: Learned, next: Next) -> Completion {
    Completion {
        ticket: *ticket,
        learned,
        next,
    }
}

pub(crate) fn failed(tickets: &[ClaimedTicket]) -> Vec<Completion> {
    (tickets.iter())
        .map(|ticket| complete(ticket, Learned::Failed, Next::Retry(NOW)))
        .collect()
}

pub(crate) async fn tell(stage: &Stage, lane: (Lane, LaneSettings)) {
    let told = stage.queue.configure(&[lane], &stage.epoch).await;
    assert_eq!(told.unwrap(), Pushed::Accepted { added: 1 });
}

/// Asks until something is handed out: no later than the queue itself says.
pub(crate) async fn claim_in_time(stage: &Stage, tickets_max: usize) -> Vec<ClaimedTicket> {
    let mut waited = Duration::ZERO;
    loop {
        let claimed = stage.exchange(tickets_max, &[]).await;
        if !claimed.tickets.is_empty() {
            return claimed.tickets;
        }
        let next = claimed.next_due_in.expect("something waits");
        waited += next;
        assert!(waited < Duration::from_secs(20), "asked for {next:?} more");
        tokio::time::sleep(next).await;
    }
}
