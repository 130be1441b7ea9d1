//! Whatever is accepted, claimed, settled, called off, replayed, dropped and repeated, in whatever order: PostgreSQL
//! holds what a few lines of plain Rust hold, and no invariant breaks at any step.
//!
//! Time is a step like any other: leases end, and deliveries become due, when the story says so. Everything else is
//! what services call.

mod accepting;
mod claiming;
mod comparison;
mod reference;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use zyven_testkit::{TestDatabase, live_through};

use world::{Stage, World};

/// What the whole tests take is seconds; `ZYVEN_TEST_STORIES` asks for more of them.
const STORIES: u32 = 50;
const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/model/seeds.txt");

/// Endpoints, each with its tenant and whether it takes events of type `b` as well as `a`.
const ENDPOINTS: [(usize, bool); 3] = [(0, true), (0, false), (1, true)];
const TENANTS: usize = 2;
/// Processes, each with its own pool and its own memory of routes.
const PROCESSES: usize = 2;

/// Points at one of what there is at that moment, counted from the first, or at nothing.
type Pick = usize;

/// An event that somebody publishes.
#[derive(Debug, Clone)]
struct Draft {
    tenant: usize,
    is_b: bool,
    /// One of two idempotency keys.
    key: Option<u8>,
    body: u8,
    /// One of two ordering keys.
    order: Option<u8>,
    /// `deliver_at` is far away.
    is_later: bool,
    /// Its id is days old, as if it had been waiting for so long.
    is_old: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Delivered,
    Retry { is_due: bool },
    Dead { was_sent: bool },
    Release { is_due: bool },
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Enable,
    Disable,
    Remove,
    Pause,
    Resume,
}

#[derive(Debug, Clone, Copy)]
enum Expiry {
    IdempotencyKeys,
    DeadLetters,
    Partitions,
}

#[derive(Debug, Clone)]
enum Step {
    /// A batch, by one of the processes.
    Accept(usize, Vec<Draft>),
    /// A batch once more, as after an answer that got lost.
    AcceptAgain(usize, Pick),
    /// `zyven.publish` in a transaction that stays open.
    Publish(Draft),
    /// The end of that transaction.
    End {
        commits: bool,
    },
    /// Tickets of whatever deliveries, finished ones and made-up ones included.
    Claim {
        process: usize,
        tickets: BTreeSet<Pick>,
        lives: bool,
    },
    /// Both processes want the same.
    ClaimAtOnce(BTreeSet<Pick>),
    Unclaim(Pick),
    /// Of claims made before, whatever became of their leases. True: under a token that is not theirs.
    Settle(usize, BTreeMap<Pick, (Verdict, bool)>),
    SettleAgain(usize),
    LeasesEnd(BTreeSet<Pick>),
    BecomeDue(BTreeSet<Pick>),
    CancelEvent(Pick),
    CancelDelivery(Pick),
    Replay(Pick),
    /// All of them by one decision of each tenant.
    ReplayChosen(BTreeSet<Pick>),
    Change(usize, Change),
    /// The relay reads on behind one of the rows and records how far it has come.
    HandOver(Pick),
    Lead(usize),
    Resign(usize),
    Expire(Expiry),
}

fn drafts() -> impl Strategy<Value = Draft> {
    let rare = || prop::bool::weighted(0.1);
    (
        0..TENANTS,
        any::<bool>(),
        prop::option::of(0..2_u8),
        0..2_u8,
        prop::option::weighted(0.4, 0..2_u8),
        rare(),
        rare(),
    )
        .prop_map(|(tenant, is_b, key, body, order, is_later, is_old)| Draft {
            tenant,
            is_b,
            key,
            body,
            order,
            is_later: is_later && order.is_none(),
            is_old,
        })
}

fn verdicts() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        3 => Just(Verdict::Delivered),
        3 => any::<bool>().prop_map(|is_due| Verdict::Retry { is_due }),
        3 => any::<bool>().prop_map(|was_sent| Verdict::Dead { was_sent }),
        2 => any::<bool>().prop_map(|is_due| Verdict::Release { is_due }),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let process = || 0..PROCESSES;
    let pick = || 0..12_usize;
    let picks = || prop::collection::btree_set(0..12_usize, 1..8);
    let change = prop_oneof![
        2 => Just(Change::Disable),
        3 => Just(Change::Enable),
        1 => Just(Change::Remove),
        1 => Just(Change::Pause),
        1 => Just(Change::Resume),
    ];
    let expiry = prop_oneof![
        2 => Just(Expiry::IdempotencyKeys),
        1 => Just(Expiry::DeadLetters),
        2 => Just(Expiry::Partitions),
    ];
    let settlement = (verdicts(), prop::bool::weighted(0.15));
    prop_oneof![
        6 => (process(), prop::collection::vec(drafts(), 1..4)).prop_map(|(by, batch)| Step::Accept(by, batch)),
        2 => (process(), pick()).prop_map(|(by, batch)| Step::AcceptAgain(by, batch)),
        2 => drafts().prop_map(Step::Publish),
        2 => any::<bool>().prop_map(|commits| Step::End { commits }),
        8 => (process(), picks(), prop::bool::weighted(0.7))
            .prop_map(|(process, tickets, lives)| Step::Claim { process, tickets, lives }),
        2 => picks().prop_map(Step::ClaimAtOnce),
        1 => pick().prop_map(Step::Unclaim),
        8 => (process(), prop::collection::btree_map(pick(), settlement, 1..5))
            .prop_map(|(by, items)| Step::Settle(by, items)),
        2 => process().prop_map(Step::SettleAgain),
        3 => picks().prop_map(Step::LeasesEnd),
        2 => picks().prop_map(Step::BecomeDue),
        2 => pick().prop_map(Step::CancelEvent),
        2 => pick().prop_map(Step::CancelDelivery),
        4 => pick().prop_map(Step::Replay),
        2 => picks().prop_map(Step::ReplayChosen),
        2 => (0..ENDPOINTS.len(), change).prop_map(|(endpoint, change)| Step::Change(endpoint, change)),
        2 => pick().prop_map(Step::HandOver),
        1 => process().prop_map(Step::Lead),
        1 => process().prop_map(Step::Resign),
        2 => expiry.prop_map(Step::Expire),
    ]
}

#[test]
fn the_store_does_what_the_model_does() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let database = runtime.block_on(TestDatabase::new());
    let stage = runtime.block_on(Stage::new(&database));
    let stories = prop::collection::vec(steps(), 1..40);
    live_through(STORIES, SEEDS, &stories, |story| {
        runtime.block_on(async {
            let mut world = World::new(&stage).await;
            for step in &story {
                world.go(step).await;
                world.compare().await;
            }
        });
    });
}
