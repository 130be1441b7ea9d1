//! Whatever is pushed, claimed, completed, forgotten and repeated in whatever order: the lanes do what a
//! few lines of plain Rust do, and the books balance after every step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use redis::aio::MultiplexedConnection;
use uuid::Uuid;
use zyven_domain::id::EndpointId;
use zyven_queue::{Claimed, Completion, Epoch, Pushed, Queue, QueueConfig, Ticket};
use zyven_testkit::TestRedis;

use crate::support::{LEASE, books};

const LANES: usize = 3;
const IN_FLIGHT_MAX: usize = 3;
/// Never reached while a test runs.
const FAR: Duration = Duration::from_secs(600);

type Name = (usize, i64);

#[derive(Debug, Clone)]
enum Step {
    Push(Vec<(Name, bool)>),
    Claim {
        tickets_max: usize,
        lives: bool,
    },
    /// Anything may be completed, held or not.
    Complete(Vec<(Name, Option<bool>)>),
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
}

impl Model {
    fn offer(&mut self, name: Name, is_due: bool) {
        let due = self.waiting.entry(name).or_insert(is_due);
        *due |= is_due;
    }

    fn push(&mut self, tickets: &[(Name, bool)]) {
        for (name, is_due) in tickets {
            if !self.held.contains_key(name) {
                self.offer(*name, *is_due);
            }
        }
    }

    fn complete(&mut self, completions: &[(Name, Option<bool>)]) {
        for (name, _) in completions {
            self.held.remove(name);
        }
        for (name, later) in completions {
            if let Some(is_due) = later {
                self.waiting.insert(*name, *is_due);
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
        (0..LANES)
            .map(|lane| {
                let due = (self.waiting.iter()).filter(|((of, _), is_due)| *of == lane && **is_due);
                let held = self.held.keys().filter(|(of, _)| *of == lane).count();
                due.count().min(IN_FLIGHT_MAX.saturating_sub(held))
            })
            .sum()
    }

    fn take(&mut self, claimed: &Claimed, lanes: &[EndpointId], lives: bool) {
        for ticket in &claimed.tickets {
            let lane = (lanes.iter()).position(|lane| *lane == ticket.endpoint_id);
            let name = (lane.expect("a known lane"), ticket.seq);
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
    (0..LANES, 1..9_i64)
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec((names(), any::<bool>()), 1..12).prop_map(Step::Push),
        4 => (0..8_usize, prop::bool::weighted(0.7))
            .prop_map(|(tickets_max, lives)| Step::Claim { tickets_max, lives }),
        4 => prop::collection::btree_map(names(), any::<Option<bool>>(), 1..8)
            .prop_map(|completions| Step::Complete(completions.into_iter().collect())),
        1 => Just(Step::Forget),
        2 => Just(Step::Begin),
    ]
}

struct World {
    queue: Queue,
    redis: MultiplexedConnection,
    lanes: Vec<EndpointId>,
    epoch: Epoch,
    model: Model,
}

impl World {
    async fn go(&mut self, step: &Step) {
        match step {
            Step::Push(tickets) => self.push(tickets).await,
            Step::Claim { tickets_max, lives } => self.claim(*tickets_max, *lives, &[]).await,
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

    async fn push(&mut self, tickets: &[(Name, bool)]) {
        let sent: Vec<Ticket> = (tickets.iter())
            .map(|((lane, seq), is_due)| Ticket {
                seq: *seq,
                endpoint_id: self.lanes[*lane],
                due_in: if *is_due { Duration::ZERO } else { FAR },
            })
            .collect();
        let pushed = self.queue.push(&sent, &self.epoch).await.unwrap();
        assert_eq!(pushed == Pushed::EpochLost, !self.model.has_epoch);
        if self.model.has_epoch {
            self.model.push(tickets);
        }
    }

    async fn claim(&mut self, tickets_max: usize, lives: bool, back: &[(Name, Option<bool>)]) {
        let completions: Vec<Completion> = (back.iter())
            .map(|((lane, seq), later)| match later {
                None => Completion::Done(*seq, self.lanes[*lane]),
                Some(is_due) => Completion::Later {
                    seq: *seq,
                    endpoint_id: self.lanes[*lane],
                    due_in: if *is_due { Duration::ZERO } else { FAR },
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
    let mut runner = TestRunner::new(Config {
        cases: 200,
        failure_persistence: None,
        ..Config::default()
    });
    let stories = prop::collection::vec(steps(), 1..40);
    let outcome = runner.run(&stories, |story| {
        runtime.block_on(async {
            server.flush().await;
            let queue = Queue::connect(&QueueConfig {
                url: server.url(),
                pool_size: 1,
                lane_in_flight_max: u32::try_from(IN_FLIGHT_MAX).unwrap(),
                ..QueueConfig::default()
            })
            .unwrap();
            let mut world = World {
                epoch: queue.begin_epoch().await.unwrap(),
                queue,
                redis: server.connection().await,
                lanes: (1..=LANES as u128)
                    .map(|lane| EndpointId::from_uuid(Uuid::from_u128(lane)))
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
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}
