//! Putting results on record, in batches nobody waits for.
//!
//! While one batch is being committed, further attempts finish; they are the next batch. So batches
//! are as large as the load makes them, and a single result is committed at once. No result is ever
//! dropped for want of PostgreSQL: the same batch is repeated until it is there, and as every result
//! holds a place among those in flight, claiming comes to a halt meanwhile.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use zyven_domain::id::EndpointId;
use zyven_domain::retry::LaneSignal;
use zyven_queue::Completion;
use zyven_runtime::pace::Backoff;
use zyven_runtime::supervisor::Chain;
use zyven_store::{SettleItem, Settled, Settlement, Store, StoreError};

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
/// Why a 410 disables its endpoint, as its owner reads it.
const GONE: &str = "the endpoint answered 410 Gone";

/// What an attempt led to.
pub(crate) struct Finished {
    pub(crate) item: SettleItem,
    /// Set if the endpoint is to be disabled: when what the attempt knew of it had last changed.
    pub(crate) disable_endpoint: Option<DateTime<Utc>>,
    /// What the endpoint's lane learns from it.
    #[expect(dead_code, reason = "read by the queue's completions in the next step")]
    pub(crate) lane: LaneSignal,
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
    let mut is_open = true;
    while is_open || !batch.is_empty() || !flushes.is_empty() {
        let room = BATCH_MAX - batch.len();
        // Both branches may be dropped at any await: receiving takes all or nothing, and flushes go on.
        tokio::select! {
            received = finished.recv_many(&mut batch, room), if is_open && room > 0 => is_open = received > 0,
            Some(completions) = flushes.next(), if !flushes.is_empty() => {
                // The receiver is gone if the process gives up; what was recorded stays recorded.
                let _ = settled.send(completions);
            }
        }
        let may_flush = match flushes.len() {
            0 => !batch.is_empty(),
            running => running < FLUSHES_MAX && batch.len() >= SECOND_BATCH_MIN,
        };
        if may_flush {
            flushes.push(flush(&store, &statistics, std::mem::take(&mut batch)));
        }
    }
}

async fn flush(store: &Store, statistics: &Statistics, batch: Vec<Finished>) -> Vec<Completion> {
    let mut gone: Vec<(EndpointId, DateTime<Utc>)> = Vec::new();
    let mut items: Vec<SettleItem> = Vec::with_capacity(batch.len());
    for finished in batch {
        if let Some(seen) = finished.disable_endpoint {
            gone.push((finished.item.endpoint_id, seen));
        }
        items.push(finished.item);
    }
    statistics.settle_batch.observe(items.len() as f64);
    let completions = settle(store, statistics, &items).await;
    gone.sort_unstable();
    gone.dedup();
    for (endpoint_id, seen) in gone {
        disable(store, endpoint_id, seen).await;
    }
    completions
}

/// Records all items, whatever it takes; those PostgreSQL refuses are told apart from the others.
async fn settle(store: &Store, statistics: &Statistics, items: &[SettleItem]) -> Vec<Completion> {
    match settle_patiently(store, items).await {
        Ok(settled) => completions(statistics, items, &settled),
        Err(error) if items.len() == 1 => {
            tracing::error!(
                delivery.id = %items[0].delivery_id,
                event.id = %items[0].event_id,
                error = %Chain(&error),
                "PostgreSQL refuses to record this result; the delivery will be attempted again"
            );
            vec![later(&items[0], UNRECORDABLE_WAIT)]
        }
        Err(error) => {
            tracing::error!(items = items.len(), error = %Chain(&error), "PostgreSQL refuses a batch; recording one by one");
            let mut all = Vec::with_capacity(items.len());
            for item in items {
                all.extend(Box::pin(settle(store, statistics, std::slice::from_ref(item))).await);
            }
            all
        }
    }
}

/// Repeats while repeating can help. Only what is worth repeating is: the error that comes back is
/// about the items.
async fn settle_patiently(store: &Store, items: &[SettleItem]) -> Result<Vec<Settled>, StoreError> {
    let mut failures = 0;
    loop {
        match store.settle(items).await {
            Err(error) if error.is_transient() => {
                failures += 1;
                report(&error, failures, "could not record results; trying again");
                tokio::time::sleep(BACKOFF.wait(failures)).await;
            }
            settled => return settled,
        }
    }
}

/// Repeated like a settlement, but not for ever: the next delivery is told 410 again.
async fn disable(store: &Store, endpoint_id: EndpointId, seen: DateTime<Utc>) {
    const TRIES_MAX: u32 = 5;
    for failures in 1..=TRIES_MAX {
        match store.disable_endpoint(endpoint_id, seen, GONE).await {
            Ok(is_news) => {
                if is_news {
                    tracing::info!(endpoint.id = %endpoint_id, "disabled: it answered 410");
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

fn completions(
    statistics: &Statistics,
    items: &[SettleItem],
    settled: &[Settled],
) -> Vec<Completion> {
    items
        .iter()
        .zip(settled)
        .map(|(item, settled)| {
            match (settled, &item.settlement) {
                (Settled::Superseded, _) => statistics.superseded.increment(),
                (_, Settlement::DeadLetter { reason, .. }) => statistics.dead_lettered(*reason),
                (Settled::Done | Settled::AlreadyFinished, _) => {}
            }
            completion(item, *settled)
        })
        .collect()
}

fn completion(item: &SettleItem, settled: Settled) -> Completion {
    match (settled, &item.settlement) {
        (Settled::AlreadyFinished, _)
        | (Settled::Done, Settlement::Delivered(_) | Settlement::DeadLetter { .. }) => {
            Completion::Done(item.seq, item.endpoint_id)
        }
        (Settled::Done, Settlement::Retry { retry_in, .. }) => later(item, *retry_in),
        (Settled::Done, Settlement::Release { due_in }) => later(item, *due_in),
        (Settled::Superseded, _) => later(item, SUPERSEDED_WAIT),
    }
}

fn later(item: &SettleItem, due_in: Duration) -> Completion {
    Completion::Later {
        seq: item.seq,
        endpoint_id: item.endpoint_id,
        due_in,
    }
}
