//! What becomes of a breaker's move: a count, a line in the log, and an event for those who asked for it.

use std::time::Duration;

use tokio::sync::mpsc;
use zyven_domain::id::EventId;
use zyven_queue::{Lane, LaneEvent};
use zyven_runtime::supervisor::Chain;
use zyven_store::Store;

use crate::intake::BACKOFF;
use crate::statistics::Statistics;

/// How often telling is tried. It is a hint, and what there is to know stands in the log and at /metrics as well.
const TRIES_MAX: u32 = 5;
/// Openings that wait to be told. When the way out breaks, all come at once; what is beyond this is in the log only.
const UNTOLD_MAX: usize = 1_024;

/// Tells of openings, one after the other: on one connection at most, however many endpoints fail at the same time.
pub(crate) struct Herald {
    untold: mpsc::Sender<(Lane, Duration)>,
}

impl Herald {
    /// A herald, and the work it has others do, which ends when the herald is gone. Whatever is untold then stays so.
    pub(crate) fn new(store: Store) -> (Self, impl Future<Output = ()>) {
        let (untold, mut openings) = mpsc::channel(UNTOLD_MAX);
        let telling = async move {
            while let Some((lane, probe_in)) = openings.recv().await {
                tell_opened(&store, lane, probe_in).await;
            }
        };
        (Self { untold }, telling)
    }

    fn opened(&self, lane: Lane, probe_in: Duration) {
        if self.untold.try_send((lane, probe_in)).is_err() {
            tracing::warn!(
                tenant.id = %lane.tenant_id,
                endpoint.id = %lane.endpoint_id,
                "too many breakers open at the same time: this one is not told"
            );
        }
    }
}

/// Takes note of a move, which is told to one dispatcher only. Waits for nothing.
pub(crate) fn note(move_of: &LaneEvent, statistics: &Statistics, herald: &Herald) {
    statistics.breaker(move_of);
    match *move_of {
        LaneEvent::Opened(lane, wait) => {
            tracing::warn!(
                tenant.id = %lane.tenant_id,
                endpoint.id = %lane.endpoint_id,
                probe_in_ms = wait.as_millis(),
                "breaker opened: deliveries to this endpoint wait, without spending attempts"
            );
            herald.opened(lane, wait);
        }
        LaneEvent::ProbeFailed(lane, wait) => tracing::warn!(
            tenant.id = %lane.tenant_id,
            endpoint.id = %lane.endpoint_id,
            probe_in_ms = wait.as_millis(),
            "breaker stays open: the probe has failed"
        ),
        LaneEvent::Closed(lane) => tracing::info!(
            tenant.id = %lane.tenant_id,
            endpoint.id = %lane.endpoint_id,
            "breaker closed: deliveries to this endpoint begin again, few at first"
        ),
    }
}

async fn tell_opened(store: &Store, lane: Lane, probe_in: Duration) {
    let event = EventId::new();
    for failures in 1..=TRIES_MAX {
        let told = store
            .tell_breaker_opened(event, lane.endpoint_id, probe_in)
            .await;
        match told {
            Ok(_) => return,
            Err(error) => {
                if failures == TRIES_MAX {
                    tracing::warn!(
                        tenant.id = %lane.tenant_id,
                        endpoint.id = %lane.endpoint_id,
                        error = %Chain(&error),
                        "could not tell that a breaker has opened"
                    );
                    return;
                }
                tokio::time::sleep(BACKOFF.wait(failures)).await;
            }
        }
    }
}
