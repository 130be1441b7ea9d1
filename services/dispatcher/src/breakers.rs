//! What becomes of a breaker's move: a count, a line in the log, a row for operators, and an event for those who asked for it.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use zyven_domain::id::EventId;
use zyven_queue::{Lane, LaneEvent};
use zyven_runtime::supervisor::Chain;
use zyven_store::{BreakerIs, Store, StoreError};

use crate::intake::BACKOFF;
use crate::statistics::Statistics;

/// How often telling is tried. It is a hint, and what there is to know stands in the log and at /metrics as well.
const TRIES_MAX: u32 = 5;
/// Moves that wait to be told. When the way out breaks, all come at once; what is beyond this is in the log only.
const UNTOLD_MAX: usize = 1_024;

/// Tells of moves, one after the other: on one connection at most, however many endpoints fail at the same time.
pub(crate) struct Herald {
    untold: mpsc::Sender<Heard>,
}

/// A move, and when this dispatcher heard of it: its wait has begun then.
struct Heard {
    move_of: LaneEvent,
    at: Instant,
}

impl Herald {
    /// A herald, and the work it has others do, which ends when the herald is gone. Whatever is untold then stays so.
    pub(crate) fn new(store: Store) -> (Self, impl Future<Output = ()>) {
        let (untold, mut moves) = mpsc::channel::<Heard>(UNTOLD_MAX);
        let telling = async move {
            while let Some(heard) = moves.recv().await {
                heard.say_patiently(&store, Saying::Row).await;
                let event = Saying::Event(EventId::new());
                heard.say_patiently(&store, event).await;
            }
        };
        (Self { untold }, telling)
    }

    fn heard(&self, move_of: LaneEvent) {
        let at = Instant::now();
        if self.untold.try_send(Heard { move_of, at }).is_err() {
            let lane = lane_of(move_of);
            tracing::warn!(
                tenant.id = %lane.tenant_id,
                endpoint.id = %lane.endpoint_id,
                "too many breakers move at the same time: this one is not told"
            );
        }
    }
}

/// Takes note of a move, which is told to one dispatcher only. Waits for nothing.
pub(crate) fn note(move_of: &LaneEvent, statistics: &Statistics, herald: &Herald) {
    statistics.breaker(move_of);
    herald.heard(*move_of);
    match *move_of {
        LaneEvent::Opened(lane, wait) => tracing::warn!(
            tenant.id = %lane.tenant_id,
            endpoint.id = %lane.endpoint_id,
            probe_in_ms = milliseconds(wait),
            "breaker opened: deliveries to this endpoint wait, without spending attempts"
        ),
        LaneEvent::ProbeFailed(lane, wait) => tracing::warn!(
            tenant.id = %lane.tenant_id,
            endpoint.id = %lane.endpoint_id,
            probe_in_ms = milliseconds(wait),
            "breaker stays open: the probe has failed"
        ),
        LaneEvent::Closed(lane) => tracing::info!(
            tenant.id = %lane.tenant_id,
            endpoint.id = %lane.endpoint_id,
            "breaker closed: deliveries to this endpoint begin again, few at first"
        ),
    }
}

/// As a number: JSON has none of 128 bits, and the log would show a text.
fn milliseconds(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}

fn lane_of(move_of: LaneEvent) -> Lane {
    match move_of {
        LaneEvent::Opened(lane, _) | LaneEvent::ProbeFailed(lane, _) | LaneEvent::Closed(lane) => {
            lane
        }
    }
}

/// What there is to say of a move, each by itself: one must not be missing because the other is refused.
#[derive(Clone, Copy)]
enum Saying {
    /// The row that operators see.
    Row,
    /// The operational event of an opening.
    Event(EventId),
}

impl Heard {
    /// May be repeated.
    async fn say(&self, store: &Store, saying: Saying) -> Result<(), StoreError> {
        let endpoint = lane_of(self.move_of).endpoint_id;
        let left = |wait: Duration| wait.saturating_sub(self.at.elapsed());
        match (saying, self.move_of) {
            (Saying::Row, LaneEvent::Opened(_, wait)) => {
                store
                    .note_breaker_open(endpoint, BreakerIs::Open, left(wait))
                    .await
            }
            (Saying::Row, LaneEvent::ProbeFailed(_, wait)) => {
                store
                    .note_breaker_open(endpoint, BreakerIs::StillOpen, left(wait))
                    .await
            }
            (Saying::Row, LaneEvent::Closed(_)) => store.note_breaker_closed(endpoint).await,
            (Saying::Event(event), LaneEvent::Opened(_, wait)) => {
                let told = store.tell_breaker_opened(event, endpoint, wait).await;
                told.map(drop)
            }
            (Saying::Event(_), LaneEvent::ProbeFailed(..) | LaneEvent::Closed(_)) => Ok(()),
        }
    }

    /// Repeats what may succeed when it is repeated, and says so in the end if it did not.
    async fn say_patiently(&self, store: &Store, saying: Saying) {
        let lane = lane_of(self.move_of);
        for failures in 1..=TRIES_MAX {
            let Err(error) = self.say(store, saying).await else {
                return;
            };
            if failures == TRIES_MAX || !error.is_transient() {
                tracing::warn!(
                    tenant.id = %lane.tenant_id,
                    endpoint.id = %lane.endpoint_id,
                    error = %Chain(&error),
                    "could not tell what a breaker does"
                );
                return;
            }
            tokio::time::sleep(BACKOFF.wait(failures)).await;
        }
    }
}
