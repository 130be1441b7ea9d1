//! Whatever is pushed, claimed, completed, forgotten and repeated in whatever order: the lanes do what a
//! few lines of plain Rust do, and the books balance after every step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use redis::aio::MultiplexedConnection;
use uuid::Uuid;
use zyven_domain::id::{EndpointId, TenantId};
use zyven_queue::{
    Claimed, ClaimedTicket, Completion, Epoch, Lane, Learned, Next, Pushed, Queue, QueueConfig,
    Ticket,
};
use zyven_testkit::{TestRedis, live_through};

use crate::support::{LEASE, books};

const STORIES: u32 = 200;
const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/seeds.txt");

/// The first one is a tenant's only one, the others belong to another tenant.
const LANES: usize = 3;
const IN_FLIGHT_MAX: usize = 3;
const TENANT_IN_FLIGHT_MAX: usize = 4;
/// Never reached while a test runs.
const FAR: Duration = Duration::from_secs(600);

type Name = (usize, i64);

/// Sequence numbers from here on have the one or the other of two ordering keys.
const KEYED_FROM: i64 = 6;

fn ordering_key((_, seq): Name) -> i64 {
    if seq < KEYED_FROM { 0 } else { 1 + seq % 2 }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Done,
    /// As a fresh ticket or as a retry; due now or later.
    Again {
        is_retry: bool,
        is_due: bool,
    },
    Blocked {
        is_due: bool,
    },
    /// To where it was.
    Back,
}

#[derive(Debug, Clone)]
enum Step {
    /// Due or not, as a retry or not.
    Push(BTreeMap<Name, (bool, bool)>),
    Claim {
        tickets_max: usize,
        lives: bool,
    },
    /// Anything may be completed, held or not.
    Complete(BTreeMap<Name, Then>),
    Forget,
    Begin,
}

#[derive(Default)]
struct Model {
    has_epoch: bool,
    /// True: due now. False: later.
    waiting: BTreeMap<Name, bool>,
    /// True: the lease lives. False: it is over at the next look.
    held: BTreeMap<Name, bool>,
    /// By lane and ordering key.
    chains: BTreeMap<(usize, i64), BTreeSet<Name>>,
}

impl Model {
    fn offer(&mut self, name: Name, is_due: bool) {
        let due = self.waiting.entry(name).or_insert(is_due);
        *due |= is_due;
    }

    fn push(&mut self, tickets: &BTreeMap<Name, (bool, bool)>) {
        let (mut offered, mut followers) = (Vec::new(), Vec::new());
        for (&name, &(is_due, _)) in tickets {
            if self.held.contains_key(&name) {
                continue;
            }
            if ordering_key(name) == 0 || self.join_chain(name) == name {
                offered.push((name, is_due));
            } else {
                followers.push(name);
            }
        }
        for (name, is_due) in offered {
            self.offer(name, is_due);
        }
        for name in followers {
            self.offer_first(name);
        }
    }

    /// Returns the first ticket of the chain.
    fn join_chain(&mut self, name: Name) -> Name {
        let chain = self.chains.entry((name.0, ordering_key(name))).or_default();
        chain.insert(name);
        *chain.first().expect("it has just joined")
    }

    fn offer_first(&mut self, of: Name) {
        let chain = self.chains.get(&(of.0, ordering_key(of)));
        if let Some(first) = chain.and_then(|chain| chain.first().copied())
            && !self.held.contains_key(&first)
        {
            self.waiting.entry(first).or_insert(true);
        }
    }

    fn complete(&mut self, completions: &BTreeMap<Name, Then>) {
        let mut held = BTreeSet::new();
        for name in completions.keys() {
            if self.held.remove(name).is_some() {
                held.insert(*name);
            }
        }
        // Lane by lane, what is simply done first.
        let mut in_order: Vec<_> = completions.iter().collect();
        in_order.sort_by_key(|((lane, seq), then)| (*lane, **then != Then::Done, *seq));
        for (name, then) in in_order {
            let is_chained = ordering_key(*name) != 0;
            match *then {
                Then::Done if is_chained => {
                    if let Some(chain) = self.chains.get_mut(&(name.0, ordering_key(*name))) {
                        chain.remove(name);
                    }
                    self.offer_first(*name);
                }
                Then::Done => {}
                Then::Blocked { .. } if is_chained && self.join_chain(*name) != *name => {
                    self.offer_first(*name);
                }
                Then::Back if !held.contains(name) => {}
                Then::Back => {
                    if is_chained {
                        self.join_chain(*name);
                    }
                    self.waiting.insert(*name, true);
                }
                Then::Again { is_due, .. } | Then::Blocked { is_due } => {
                    if is_chained {
                        self.join_chain(*name);
                    }
                    self.waiting.insert(*name, is_due);
                }
            }
        }
    }

    fn end_leases(&mut self) {
        let over: Vec<Name> = (self.held.iter())
            .filter_map(|(name, lives)| (!lives).then_some(*name))
            .collect();
        for name in over {
            self.held.remove(&name);
            self.waiting.insert(name, true);
        }
    }

    fn serviceable(&self) -> usize {
        let held = |lane: usize| self.held.keys().filter(|(of, _)| *of == lane).count();
        let of_tenant = |lanes: std::ops::Range<usize>| {
            let free = TENANT_IN_FLIGHT_MAX.saturating_sub(lanes.clone().map(held).sum());
            let due = lanes.map(|lane| {
                let due = (self.waiting.iter()).filter(|((of, _), is_due)| *of == lane && **is_due);
                due.count().min(IN_FLIGHT_MAX.saturating_sub(held(lane)))
            });
            due.sum::<usize>().min(free)
        };
        of_tenant(0..1) + of_tenant(1..LANES)
    }

    fn take(&mut self, claimed: &Claimed, lanes: &[Lane], lives: bool) {
        for ticket in &claimed.tickets {
            let lane = (lanes.iter()).position(|lane| *lane == ticket.lane);
            let name = (lane.expect("a known lane"), ticket.seq);
            assert_eq!(ticket.ordering_key, ordering_key(name));
            assert_eq!(
                self.waiting.remove(&name),
                Some(true),
                "{name:?} was not due"
            );
            assert_eq!(self.held.insert(name, lives), None, "{name:?} was held");
        }
    }
}

fn names() -> impl Strategy<Value = Name> {
    (0..LANES, 1..10_i64)
}

fn thens() -> impl Strategy<Value = Then> {
    prop_oneof![
        3 => Just(Then::Done),
        2 => any::<(bool, bool)>()
            .prop_map(|(is_retry, is_due)| Then::Again { is_retry, is_due }),
        1 => any::<bool>().prop_map(|is_due| Then::Blocked { is_due }),
        1 => Just(Then::Back),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::btree_map(names(), any::<(bool, bool)>(), 1..12).prop_map(Step::Push),
        4 => (0..8_usize, prop::bool::weighted(0.7))
            .prop_map(|(tickets_max, lives)| Step::Claim { tickets_max, lives }),
        4 => prop::collection::btree_map(names(), thens(), 1..8).prop_map(Step::Complete),
        1 => Just(Step::Forget),
        2 => Just(Step::Begin),
    ]
}

fn wait(is_due: bool) -> Duration {
    if is_due { Duration::ZERO } else { FAR }
}

struct World {
    queue: Queue,
    redis: MultiplexedConnection,
    lanes: Vec<Lane>,
    epoch: Epoch,
    model: Model,
}

impl World {
    async fn go(&mut self, step: &Step) {
        match step {
            Step::Push(tickets) => self.push(tickets).await,
            Step::Claim { tickets_max, lives } => {
                self.claim(*tickets_max, *lives, &BTreeMap::new()).await;
            }
            Step::Complete(completions) => self.claim(0, true, completions).await,
            Step::Forget => {
                redis::cmd("FLUSHALL")
                    .exec_async(&mut self.redis)
                    .await
                    .unwrap();
                self.model = Model::default();
            }
            Step::Begin => {
                self.epoch = self.queue.begin_epoch().await.unwrap();
                self.model.has_epoch = true;
            }
        }
    }

    async fn push(&mut self, tickets: &BTreeMap<Name, (bool, bool)>) {
        let sent: Vec<Ticket> = (tickets.iter())
            .map(|(name, (is_due, is_retry))| Ticket {
                seq: name.1,
                lane: self.lanes[name.0],
                ordering_key: ordering_key(*name),
                is_first: false,
                is_retry: *is_retry,
                due_in: wait(*is_due),
            })
            .collect();
        let pushed = self.queue.push(&sent, &self.epoch).await.unwrap();
        assert_eq!(pushed == Pushed::EpochLost, !self.model.has_epoch);
        if self.model.has_epoch {
            self.model.push(tickets);
        }
    }

    async fn claim(&mut self, tickets_max: usize, lives: bool, back: &BTreeMap<Name, Then>) {
        let completions: Vec<Completion> = (back.iter())
            .map(|(name, then)| Completion {
                ticket: ClaimedTicket {
                    lane: self.lanes[name.0],
                    seq: name.1,
                    ordering_key: ordering_key(*name),
                },
                learned: match then {
                    Then::Done => Learned::Succeeded,
                    Then::Again { .. } => Learned::Answered,
                    Then::Blocked { .. } | Then::Back => Learned::NothingSent,
                },
                next: match *then {
                    Then::Done => Next::Done,
                    Then::Again {
                        is_retry: true,
                        is_due,
                    } => Next::Retry(wait(is_due)),
                    Then::Again { is_due, .. } => Next::Later(wait(is_due)),
                    Then::Blocked { is_due } => Next::Blocked(wait(is_due)),
                    Then::Back => Next::Back,
                },
            })
            .collect();
        let lease = if lives { LEASE } else { Duration::ZERO };
        let claimed = self.queue.claim(tickets_max, lease, &completions);
        let claimed = claimed.await.unwrap();
        if self.model.has_epoch {
            self.model.complete(back);
            self.model.end_leases();
        }
        let serviceable = self.model.serviceable();
        assert_eq!(claimed.tickets.len(), serviceable.min(tickets_max));
        self.model.take(&claimed, &self.lanes, lives);
        let is_more_told = claimed.next_due_in == Some(Duration::ZERO);
        if serviceable > claimed.tickets.len() {
            assert!(is_more_told, "{claimed:?}");
        } else if claimed.tickets.len() < tickets_max && self.model.held.values().all(|it| *it) {
            // A claim that got all it wanted has not looked any further and may be wrong here.
            assert!(!is_more_told, "{claimed:?}");
        }
    }

    async fn check_books(&mut self) {
        let (counted, leased) = books(&mut self.redis).await;
        assert_eq!(counted, leased);
        assert!(counted.values().all(|count| *count > 0), "{counted:?}");
        assert_eq!(leased.values().sum::<i64>(), self.model.held.len() as i64);
        let depth = self.queue.depth().await.unwrap();
        assert_eq!(depth.waiting, self.model.waiting.len() as u64);
        let lanes: BTreeSet<usize> = self.model.waiting.keys().map(|(lane, _)| *lane).collect();
        assert_eq!(depth.lanes, lanes.len() as u64);
    }
}

#[test]
fn the_lanes_do_what_the_model_does() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(TestRedis::start());
    let stories = prop::collection::vec(steps(), 1..40);
    live_through(STORIES, SEEDS, &stories, |story| {
        runtime.block_on(async {
            server.flush().await;
            let queue = Queue::connect(&QueueConfig {
                url: server.url(),
                pool_size: 1,
                lane_in_flight_max: u32::try_from(IN_FLIGHT_MAX).unwrap(),
                tenant_in_flight_max: u32::try_from(TENANT_IN_FLIGHT_MAX).unwrap(),
                ..QueueConfig::default()
            })
            .unwrap();
            let mut world = World {
                epoch: queue.begin_epoch().await.unwrap(),
                queue,
                redis: server.connection().await,
                // In the order in which the client sorts them.
                lanes: (1..=LANES as u128)
                    .map(|lane| Lane {
                        tenant_id: TenantId::from_uuid(Uuid::from_u128(lane.min(2))),
                        endpoint_id: EndpointId::from_uuid(Uuid::from_u128(lane)),
                    })
                    .collect(),
                model: Model {
                    has_epoch: true,
                    ..Model::default()
                },
            };
            for step in &story {
                world.go(step).await;
                world.check_books().await;
            }
        });
    });
}
