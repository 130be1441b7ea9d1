//! Which code each step of the models stands for, and what must stand there. A test reads the sources, so
//! that a renamed function, a lost guard or a new statement is noticed here.

use crate::delivery::Action as Delivering;
use crate::delivery::state::Kind;
use crate::hand_over::Action as HandingOver;

/// An item of the sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Below the checkout's root.
    pub file: &'static str,
    /// How the item begins.
    pub item: &'static str,
    /// What it says, in this order, whatever the spaces: the guards and the order the model relies on.
    pub says: &'static [&'static str],
}

const fn place(file: &'static str, item: &'static str, says: &'static [&'static str]) -> Place {
    Place { file, item, says }
}

/// Files whose statements are all modelled, or listed in [`NOT_MODELLED`].
pub const STATEMENTS: [&str; 5] = [
    "shared/store/src/accept.rs",
    "shared/store/src/claim.rs",
    "shared/store/src/presence.rs",
    "shared/store/src/relay.rs",
    "shared/store/src/settle.rs",
];

/// Statements without a step of their own, and why.
pub const NOT_MODELLED: [(&str, &str); 20] = [
    (
        "BE_SURE",
        "changes no row; for what a standby has got, and standbys are left out",
    ),
    ("CLAIM", "claim_of, which is modelled, of the rows named"),
    (
        "CLAIM_UNLOCKED",
        "claim_of, of those that nobody has locked: the others stay as they are",
    ),
    (
        "UNCLAIM",
        "unclaim_of, which is modelled, of the rows named",
    ),
    (
        "UNCLAIM_UNLOCKED",
        "unclaim_of, of those that nobody has locked",
    ),
    (
        "BEAT",
        "when a dispatcher is silent for too long is left open: it may be at any time",
    ),
    ("BEATS", "as BEAT"),
    (
        "REGISTER",
        "numbers are never repeated, which is all that matters of them",
    ),
    ("LEAVE", "of a dispatcher without leases"),
    ("FORGET", "as LEAVE"),
    (
        "LEASES_PAGE",
        "reads; which leases END_LEASES is asked about is left open",
    ),
    (
        "ACCEPT_FILTERED",
        "ACCEPT for fewer endpoints; which ones is no matter of the protocol",
    ),
    ("COUNT_DELIVERIES", "reads; for the publisher's answer only"),
    (
        "EXPLAIN_REFUSALS",
        "reads; says when a ticket should come back, which Redis may do at any time",
    ),
    ("FIND_EVENTS", "FIND_KEYS for events without a key"),
    (
        "LOOK",
        "two relays that lead are harmless: what both write is tickets",
    ),
    ("LOOK_PAST_LOCKS", "as LOOK"),
    ("RESIGN", "as LOOK"),
    ("WATERMARK", "read by `cursor`, which is modelled"),
    ("ROWS", "read by `look_up_gaps`, which is modelled"),
];

const CLAIM: Place = place(
    "shared/store/src/claim.rs",
    "macro_rules! claim_of",
    &[
        "SET state = 'DISPATCHING', lease_token = $2",
        "leased_until = clock_timestamp() + $3",
        "AND leased_until <= clock_timestamp()",
    ],
);
const CLAIM_IS_RELAXED: Place = place(
    "shared/store/src/claim.rs",
    "pub async fn claim(",
    &["self.relaxed("],
);
const UNCLAIM: Place = place(
    "shared/store/src/claim.rs",
    "macro_rules! unclaim_of",
    &[
        "lease_token = 0",
        "AND state = 'DISPATCHING'",
        "AND lease_token = $2",
    ],
);
const UNCLAIM_IS_RELAXED: Place = place(
    "shared/store/src/claim.rs",
    "pub async fn unclaim(",
    &["self.relaxed("],
);
const SETTLE_IS_DURABLE: Place = place(
    "shared/store/src/settle.rs",
    "pub async fn settle(",
    &[
        "self.durable(",
        "deliver(&connection",
        "resolve(&connection",
    ],
);
const DELIVER: Place = place(
    "shared/store/src/settle.rs",
    "const DELIVER: &str",
    &[
        "DELETE FROM zyven.outbox",
        "AND o.delivery_id = i.delivery_id RETURNING",
        "INSERT INTO zyven.finished_deliveries",
    ],
);
const RESOLVE: Place = place(
    "shared/store/src/settle.rs",
    "const RESOLVE: &str",
    &[
        "AND d.generation = i.generation",
        "AND d.resolved_at IS NULL",
        "AND d.replayed_at IS NULL",
    ],
);
const RETRY: Place = place(
    "shared/store/src/settle.rs",
    "const RETRY: &str",
    &[
        "SET state = 'RETRY_SCHEDULED'",
        "lease_token = 0",
        "AND o.state = 'DISPATCHING' AND o.lease_token = i.lease_token",
    ],
);
const BURY: Place = place(
    "shared/store/src/settle.rs",
    "const BURY: &str",
    &[
        "DELETE FROM zyven.outbox",
        "AND o.state = 'DISPATCHING' AND o.lease_token = i.lease_token",
        "INSERT INTO zyven.finished_deliveries",
        "INSERT INTO zyven.dead_letter_records",
    ],
);
const RELEASE: Place = place(
    "shared/store/src/settle.rs",
    "const RELEASE: &str",
    &[
        "lease_token = 0",
        "AND o.state = 'DISPATCHING' AND o.lease_token = i.lease_token",
    ],
);
const REPLAY: Place = place(
    "sql/migrations/0019_content_types.sql",
    "FUNCTION zyven.replay_into_outbox(",
    &[
        "AND d.replayed_at IS NULL AND d.resolved_at IS NULL",
        "generation + 1",
    ],
);
const CANCEL: Place = place(
    "sql/migrations/0019_content_types.sql",
    "FUNCTION zyven.cancel(",
    &[
        "AND o.leased_until <= clock_timestamp() FOR UPDATE SKIP LOCKED",
        "DELETE FROM zyven.outbox",
        "INSERT INTO zyven.finished_deliveries",
        "INSERT INTO zyven.dead_letter_records",
    ],
);
const REDIS_OFFERS: Place = place(
    "shared/queue/lua/claim.lua",
    "local function serve_lane",
    &[],
);
const CONFIRM: Place = place(
    "services/dispatcher/src/intake.rs",
    "async fn confirm(",
    &[
        "self.workshop.presence.next_token()",
        "Lease::of(token, lease_time)",
        "self.store.claim(",
        "self.progress.unclear = Some(",
    ],
);
const RESOLVE_UNCLEAR: Place = place(
    "services/dispatcher/src/intake.rs",
    "async fn resolve_unclear(",
    &["self.store.unclaim("],
);
const BEGIN: Place = place(
    "services/dispatcher/src/intake.rs",
    "fn begin(",
    &["Settlement::Release"],
);
const MAKE: Place = place(
    "services/dispatcher/src/attempt.rs",
    "pub(crate) async fn make(",
    &[
        "while self.lease.covers(timeout) && workshop.presence.covers(self.lease.token)",
        "timeout_at(deadline, exchange)",
    ],
);
const COVERS: Place = place(
    "services/dispatcher/src/attempt.rs",
    "fn covers(",
    &[
        "timeout + CLOCK_ALLOWANCE",
        "<= self.ends",
        "<= self.ends_at",
    ],
);
const GIVE_UP: Place = place(
    "services/dispatcher/src/intake.rs",
    "fn spawn(",
    &["give_up.wait_for(", "Settlement::Release"],
);
const REPEAT: Place = place(
    "services/dispatcher/src/settle.rs",
    "async fn settle_patiently(",
    &["store.settle(items)", "is_transient()"],
);
const RELAXED: Place = place(
    "shared/store/src/pool.rs",
    "const RELAXED_OPTIONS: &str",
    &["synchronous_commit=off"],
);

const DECLARE_DEAD: Place = place(
    "shared/store/src/presence.rs",
    "const DECLARE_DEAD: &str",
    &["AND beat = $2", "AND dead_at IS NULL"],
);
const END_LEASES: Place = place(
    "shared/store/src/presence.rs",
    "const END_LEASES: &str",
    &[
        "lease_token = 0",
        "AND state = 'DISPATCHING' AND lease_token BETWEEN $2 AND $3",
        "AND dead_at IS NOT NULL",
    ],
);
const END_IS_RELAXED: Place = place(
    "shared/store/src/presence.rs",
    "pub async fn end_leases(",
    &["self.relaxed("],
);
const IS_FRESH: Place = place(
    "services/dispatcher/src/presence.rs",
    "fn is_fresh_at(",
    &["< SILENCE_MAX && age_at < SILENCE_MAX"],
);
const ASKED_AT_THE_WIRE: Place = place(
    "services/dispatcher/src/attempt.rs",
    "async fn send(",
    &["presence.covers(self.lease.token)"],
);

/// What a step of [`crate::delivery`] stands for.
pub fn of_delivering(action: Delivering) -> &'static [Place] {
    match action {
        Delivering::Offer(..) => &[REDIS_OFFERS, CONFIRM],
        Delivering::Run(_, kind, _) => match kind {
            Kind::Claim => &[CLAIM, CLAIM_IS_RELAXED, CONFIRM],
            Kind::Unclaim => &[UNCLAIM, UNCLAIM_IS_RELAXED, RESOLVE_UNCLEAR],
            Kind::Deliver => &[DELIVER, RESOLVE, SETTLE_IS_DURABLE, REPEAT],
            Kind::Retry => &[RETRY, SETTLE_IS_DURABLE, REPEAT],
            Kind::Bury => &[BURY, SETTLE_IS_DURABLE, REPEAT],
            Kind::Release => &[RELEASE, SETTLE_IS_DURABLE, REPEAT],
        },
        Delivering::Begin(_) => &[MAKE, COVERS, IS_FRESH, ASKED_AT_THE_WIRE],
        Delivering::EndLease(_) => &[DECLARE_DEAD, END_LEASES, END_IS_RELAXED],
        Delivering::GiveBack(_) => &[BEGIN, GIVE_UP],
        Delivering::Abandon(_) => &[BEGIN],
        Delivering::Accept(_) | Delivering::Fail(_) => &[MAKE],
        Delivering::LogReachesDisk | Delivering::CrashPostgres => &[RELAXED],
        Delivering::Replay(_) => &[REPLAY],
        Delivering::Cancel(_) => &[CANCEL],
        // What nobody wrote: mutants, deaths, time, and what PostgreSQL does with a lost connection.
        Delivering::TellRedis(_)
        | Delivering::Die(_)
        | Delivering::OrphanRuns
        | Delivering::OrphanEnds
        | Delivering::Tick(_) => &[],
    }
}

const ACCEPT_MACRO: Place = place(
    "shared/store/src/accept.rs",
    "macro_rules! accept",
    &[
        "INSERT INTO zyven.idempotency_keys",
        "ON CONFLICT (key) DO NOTHING",
        "INSERT INTO zyven.events",
        "ON CONFLICT (id) DO NOTHING",
    ],
);
const ACCEPT: Place = place(
    "shared/store/src/accept.rs",
    "const ACCEPT: &str",
    &["INSERT INTO zyven.outbox", "FROM accepted a"],
);
const ACCEPT_IS_DURABLE: Place = place(
    "shared/store/src/accept.rs",
    "async fn insert(",
    &["self.durable(", "insert_rows(", "recognise("],
);
const FIND_KEYS: Place = place("shared/store/src/accept.rs", "const FIND_KEYS: &str", &[]);
const PUBLISH: Place = place(
    "sql/migrations/0022_causes.sql",
    "FUNCTION zyven.publish(",
    &["INSERT INTO zyven.events", "INSERT INTO zyven.outbox"],
);
const TRY_STEP: Place = place(
    "services/relay/src/hand_over.rs",
    "async fn try_step(",
    &[
        "self.cursor().await",
        "self.look_up_gaps().await",
        "outbox_page(cursor).await",
        "current_xact_id().await",
        "self.term.offer(&rows).await",
        "self.term.hand_over(next_cursor, walks)",
        "self.gaps.settle(&late.numbers, found, late.xmin)",
        "self.gaps.remember(&missing, xact_id)",
        "self.cursor = Some(cursor)",
        "self.record_watermark(",
    ],
);
const LOOK_UP_GAPS: Place = place(
    "services/relay/src/hand_over.rs",
    "async fn look_up_gaps(",
    &["snapshot_xmin().await", "outbox_rows(&numbers).await"],
);
const ON_ERROR: Place = place(
    "services/relay/src/hand_over.rs",
    "pub async fn step(",
    &["RelayError::Store(_)", "self.cursor = None"],
);
const CURSOR: Place = place(
    "services/relay/src/hand_over.rs",
    "async fn cursor(",
    &["watermark().await", "set_handed_over(watermark)"],
);
const FORGET_GAPS: Place = place(
    "services/relay/src/gaps.rs",
    "pub fn settle(",
    &["*xact_id < xmin"],
);
const MOVE_ON: Place = place(
    "services/relay/src/term.rs",
    "pub(crate) fn hand_over(",
    &[
        "self.lock_standing()",
        "standing.walks == offered_in",
        "self.set_handed_over(seq)",
    ],
);
const PAGE: Place = place(
    "shared/store/src/relay.rs",
    "const PAGE: &str",
    &["o.seq > $1 ORDER BY o.seq LIMIT 1000"],
);
const SNAPSHOT_XMIN: Place = place(
    "shared/store/src/relay.rs",
    "const SNAPSHOT_XMIN: &str",
    &["pg_snapshot_xmin(pg_current_snapshot())"],
);
const CURRENT_XACT_ID: Place = place(
    "shared/store/src/relay.rs",
    "const CURRENT_XACT_ID: &str",
    &["pg_current_xact_id()"],
);
const RECORD_WATERMARK: Place = place(
    "shared/store/src/relay.rs",
    "const RECORD_WATERMARK: &str",
    &["SET watermark = $1 WHERE watermark < $1"],
);
const RECORD_IS_RELAXED: Place = place(
    "shared/store/src/relay.rs",
    "pub async fn record_watermark(",
    &["self.relaxed("],
);
const PUSH: Place = place(
    "shared/queue/lua/push.lua",
    "if redis.call('GET', epoch_key) ~= ARGV[5] then",
    &["return -1"],
);
const LOOK_AFTER_EPOCH: Place = place(
    "services/relay/src/sweep.rs",
    "async fn look_after_epoch(",
    &["(None, _) => self.begin_epoch()", "Reason::TakeOver"],
);
const WALK: Place = place(
    "services/relay/src/sweep.rs",
    "async fn walk_a_page(",
    &[
        "outbox_page(walk.position)",
        "self.term.handed_over()",
        "page.retain(|row| row.seq <= handed_over)",
        "self.term.offer(&page)",
    ],
);
const OFFER: Place = place(
    "services/relay/src/term.rs",
    "pub(crate) async fn offer(",
    &[
        "filter(|row| !row.leased)",
        "self.queue.push(&tickets, &epoch)",
        "self.forget_epoch(&epoch)",
    ],
);
const NEW_TERM: Place = place(
    "services/relay/src/term.rs",
    "pub fn new(",
    &["standing: Mutex::default()", "i64::MAX"],
);
const STALE: Place = place(
    "services/dispatcher/src/intake.rs",
    "fn hand_back(",
    &["RefusedTicket::Finished { seq } => (seq, Next::Done)"],
);

/// What a step of [`crate::hand_over`] stands for.
pub fn of_handing_over(action: HandingOver) -> &'static [Place] {
    match action {
        HandingOver::Begin(_) => &[ACCEPT_MACRO, FIND_KEYS],
        HandingOver::Draw(_) => &[ACCEPT],
        HandingOver::Accept(_) | HandingOver::AcceptUnheard(_) => &[ACCEPT_IS_DURABLE],
        HandingOver::Publish(_) => &[PUBLISH],
        HandingOver::HandOver => &[
            TRY_STEP,
            LOOK_UP_GAPS,
            CURSOR,
            FORGET_GAPS,
            MOVE_ON,
            PAGE,
            SNAPSHOT_XMIN,
            CURRENT_XACT_ID,
            PUSH,
        ],
        HandingOver::LoseConnection => &[ON_ERROR],
        HandingOver::RecordWatermark => &[RECORD_WATERMARK, RECORD_IS_RELAXED],
        HandingOver::Sweep => &[LOOK_AFTER_EPOCH, WALK, OFFER],
        HandingOver::RelayStarts => &[NEW_TERM],
        HandingOver::DropStale(_) => &[STALE],
        HandingOver::CrashPostgres | HandingOver::LogReachesDisk => &[RELAXED],
        HandingOver::RollBack(_)
        | HandingOver::PushFails
        | HandingOver::RelayDies
        | HandingOver::EmptyRedis => &[],
    }
}
