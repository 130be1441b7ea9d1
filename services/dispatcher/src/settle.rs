//! Putting results on record, in batches nobody waits for.
//!
//! While one batch is being committed, further attempts finish; they are the next batch. So batches
//! are as large as the load makes them, and a single result is committed at once. No result is ever
//! dropped for want of PostgreSQL: the same batch is repeated until it is there, and as every result
//! holds a place among those in flight, claiming comes to a halt meanwhile.
//!
//! A result whose delivery somebody else has locked, in a transaction left open, must not keep the others of its batch
//! waiting. It is [`held_up`] and recorded by itself, one at a time, whenever that becomes possible.

mod held_up;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use zyven_domain::id::{DeliveryId, EndpointId, EventId, TenantId};
use zyven_domain::retry::LaneSignal;
use zyven_queue::{ClaimedTicket, Completion, Learned, Next};
use zyven_runtime::pace::Backoff;
use zyven_runtime::supervisor::Chain;
use zyven_store::{Actor, DISABLED_AS_GONE, SettleItem, Settled, Settlement, Store, StoreError};

use crate::statistics::Statistics;

/// Most results recorded at once.
const BATCH_MAX: usize = 128;
/// A second batch is only sent on its way beside the first if it is this large: many small commits
/// cost more than few large ones.
const SECOND_BATCH_MIN: usize = BATCH_MAX / 2;
/// Batches on their way at the same time.
const FLUSHES_MAX: usize = 2;
/// After the lease was lost the ticket is offered again this much later: whoever holds the delivery
/// now refuses it, and if nobody does (PostgreSQL has forgotten the lease in a crash) it is soon done.
const SUPERSEDED_WAIT: Duration = Duration::from_secs(1);
/// A result that cannot be recorded leaves its delivery to its lease, and its ticket waits this long.
const UNRECORDABLE_WAIT: Duration = Duration::from_secs(60);
/// Between two tries to record the same batch.
const BACKOFF: Backoff = Backoff {
    min: Duration::from_millis(50),
    max: Duration::from_secs(2),
};

/// What an attempt led to.
pub(crate) struct Finished {
    pub(crate) item: SettleItem,
    /// Set if the endpoint is to be disabled: when what the attempt knew of it had last changed.
    pub(crate) disable_endpoint: Option<DateTime<Utc>>,
    /// The ticket that goes back.
    pub(crate) ticket: ClaimedTicket,
    /// What the endpoint's lane learns from it.
    pub(crate) lane: LaneSignal,
}

/// An endpoint that answered 410, and which delivery of whom.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Gone {
    endpoint_id: EndpointId,
    /// When what the attempt knew of the endpoint had last changed.
    seen: DateTime<Utc>,
    tenant_id: TenantId,
    event_id: EventId,
    delivery_id: DeliveryId,
}

/// What goes back to Redis once an item is on record.
struct Return {
    ticket: ClaimedTicket,
    lane: LaneSignal,
}

/// Results on their way to PostgreSQL; each has its item and its return.
#[derive(Default)]
struct Pending {
    items: Vec<SettleItem>,
    returns: Vec<Return>,
}

impl Pending {
    fn split_off(&mut self, at: usize) -> Self {
        Self {
            items: self.items.split_off(at),
            returns: self.returns.split_off(at),
        }
    }
}

/// What became of a batch.
#[derive(Default)]
struct Flushed {
    completions: Vec<Completion>,
    /// Single results to be recorded one by one, later.
    held_up: Vec<Pending>,
}

/// Records what comes in and passes on what Redis is to be told, a batch at a time. Each result that
/// came in goes out as exactly one completion. Ends when the last sender is gone and everything is
/// on record.
pub(crate) async fn run(
    store: Store,
    statistics: Arc<Statistics>,
    mut finished: mpsc::UnboundedReceiver<Finished>,
    settled: mpsc::UnboundedSender<Vec<Completion>>,
) {
    let mut batch: Vec<Finished> = Vec::new();
    let mut flushes = FuturesUnordered::new();
    let mut held_up: VecDeque<Pending> = VecDeque::new();
    let mut waiting = FuturesUnordered::new();
    let mut is_open = true;
    while is_open || !batch.is_empty() || !flushes.is_empty() || !waiting.is_empty() {
        let room = BATCH_MAX - batch.len();
        // All branches may be dropped at any await: receiving takes all or nothing, and flushes go on.
        // The receiver of completions is gone if the process gives up; what was recorded stays recorded.
        tokio::select! {
            received = finished.recv_many(&mut batch, room), if is_open && room > 0 => is_open = received > 0,
            Some(flushed) = flushes.next(), if !flushes.is_empty() => {
                let Flushed { completions, held_up: more } = flushed;
                let _ = settled.send(completions);
                held_up.extend(more);
            }
            Some(outcome) = waiting.next(), if !waiting.is_empty() => match outcome {
                Ok(completions) => {
                    let _ = settled.send(completions);
                }
                Err(pending) => held_up.push_back(pending),
            }
        }
        let may_flush = match flushes.len() {
            0 => !batch.is_empty(),
            running => running < FLUSHES_MAX && batch.len() >= SECOND_BATCH_MIN,
        };
        if may_flush {
            flushes.push(flush(&store, &statistics, std::mem::take(&mut batch)));
        }
        // One at a time: each takes a connection for as long as it is held up.
        if waiting.is_empty()
            && let Some(pending) = held_up.pop_front()
        {
            waiting.push(held_up::record(&store, &statistics, pending));
        }
    }
}

async fn flush(store: &Store, statistics: &Statistics, batch: Vec<Finished>) -> Flushed {
    let mut gone: Vec<Gone> = Vec::new();
    let mut pending = Pending {
        items: Vec::with_capacity(batch.len()),
        returns: Vec::with_capacity(batch.len()),
    };
    for finished in batch {
        if let Some(seen) = finished.disable_endpoint {
            gone.push(Gone {
                endpoint_id: finished.item.endpoint_id,
                seen,
                tenant_id: finished.ticket.lane.tenant_id,
                event_id: finished.item.event_id,
                delivery_id: finished.item.delivery_id,
            });
        }
        pending.items.push(finished.item);
        pending.returns.push(Return {
            ticket: finished.ticket,
            lane: finished.lane,
        });
    }
    statistics.settle_batch.observe(pending.items.len() as f64);
    let flushed = settle(store, statistics, pending).await;
    gone.sort_unstable();
    gone.dedup_by_key(|gone| (gone.endpoint_id, gone.seen));
    for gone in gone {
        disable(store, gone).await;
    }
    flushed
}

/// Records all of them, whatever it takes; those that PostgreSQL refuses, or somebody holds up, are told apart from the
/// others.
async fn settle(store: &Store, statistics: &Statistics, mut pending: Pending) -> Flushed {
    let count = pending.items.len();
    match settle_patiently(store, &pending.items).await {
        Ok(settled) => Flushed {
            completions: completions(statistics, &pending, &settled),
            held_up: Vec::new(),
        },
        Err(error) if count > 1 => {
            tracing::warn!(items = count, error = %Chain(&error), "a batch of results cannot be recorded; trying by halves");
            let second = pending.split_off(count / 2);
            let mut flushed = Box::pin(settle(store, statistics, pending)).await;
            let more = Box::pin(settle(store, statistics, second)).await;
            flushed.completions.extend(more.completions);
            flushed.held_up.extend(more.held_up);
            flushed
        }
        Err(error) if error.is_of_the_content() => Flushed {
            completions: Vec::new(),
            held_up: vec![pending],
        },
        Err(error) => Flushed {
            completions: unrecordable(&pending, &error),
            held_up: Vec::new(),
        },
    }
}

fn unrecordable(pending: &Pending, error: &StoreError) -> Vec<Completion> {
    let each = pending.items.iter().zip(&pending.returns);
    each.map(|(item, returned)| {
        tracing::error!(
            delivery.id = %item.delivery_id,
            event.id = %item.event_id,
            error = %Chain(error),
            "PostgreSQL refuses to record this result; the delivery will be attempted again"
        );
        back(item, returned, Next::Retry(UNRECORDABLE_WAIT))
    })
    .collect()
}

/// Repeats while repeating can help all of them. The error that comes back is about the items.
async fn settle_patiently(store: &Store, items: &[SettleItem]) -> Result<Vec<Settled>, StoreError> {
    let mut failures = 0;
    loop {
        match store.settle(items).await {
            Err(error) if error.is_transient() && !error.is_of_the_content() => {
                failures += 1;
                report(&error, failures, "could not record results; trying again");
                tokio::time::sleep(BACKOFF.wait(failures)).await;
            }
            settled => return settled,
        }
    }
}

/// Repeated like a settlement, but not for ever: the next delivery is told 410 again.
async fn disable(store: &Store, gone: Gone) {
    const TRIES_MAX: u32 = 5;
    for failures in 1..=TRIES_MAX {
        match store
            .by(Actor::Dispatcher)
            .disable_endpoint(gone.endpoint_id, gone.seen, DISABLED_AS_GONE)
            .await
        {
            Ok(is_news) => {
                if is_news {
                    tracing::warn!(
                        tenant.id = %gone.tenant_id,
                        endpoint.id = %gone.endpoint_id,
                        event.id = %gone.event_id,
                        delivery.id = %gone.delivery_id,
                        "endpoint disabled: it answered 410"
                    );
                }
                return;
            }
            Err(error) => {
                report(
                    &error,
                    failures,
                    "could not disable an endpoint that answered 410",
                );
                tokio::time::sleep(BACKOFF.wait(failures)).await;
            }
        }
    }
}

/// Says so the first time, and then every so often.
fn report(error: &StoreError, failures: u32, what: &'static str) {
    if failures == 1 || failures.is_multiple_of(30) {
        tracing::warn!(failures, error = %Chain(error), "{what}");
    }
}

fn completions(statistics: &Statistics, pending: &Pending, settled: &[Settled]) -> Vec<Completion> {
    let each = pending.items.iter().zip(&pending.returns).zip(settled);
    each.map(|((item, returned), settled)| {
        match (settled, &item.settlement) {
            (Settled::Superseded, _) => statistics.superseded.increment(),
            (_, Settlement::DeadLetter { reason, .. }) => statistics.dead_lettered(*reason),
            (Settled::Done | Settled::AlreadyFinished, _) => {}
        }
        back(item, returned, next(item, *settled))
    })
    .collect()
}

fn next(item: &SettleItem, settled: Settled) -> Next {
    match (settled, &item.settlement) {
        (Settled::AlreadyFinished, _)
        | (Settled::Done, Settlement::Delivered(_) | Settlement::DeadLetter { .. }) => Next::Done,
        (Settled::Done, Settlement::Retry { retry_in, .. }) => Next::Retry(*retry_in),
        (Settled::Done, Settlement::Release { due_in }) if item.attempt > 1 => Next::Retry(*due_in),
        (Settled::Done, Settlement::Release { due_in }) => Next::Later(*due_in),
        (Settled::Superseded, _) => Next::Retry(SUPERSEDED_WAIT),
    }
}

fn back(item: &SettleItem, returned: &Return, next: Next) -> Completion {
    let was_sent = match &item.settlement {
        Settlement::Delivered(_) | Settlement::Retry { .. } => true,
        Settlement::DeadLetter { record, .. } => record.is_some(),
        Settlement::Release { .. } => false,
    };
    let learned = match returned.lane {
        LaneSignal::Succeeded => Learned::Succeeded,
        LaneSignal::Failed => Learned::Failed,
        LaneSignal::Throttled(wait) => Learned::Throttled(wait),
        LaneSignal::Neutral if was_sent => Learned::Answered,
        LaneSignal::Neutral => Learned::NothingSent,
    };
    Completion {
        ticket: returned.ticket,
        learned,
        next,
    }
}
