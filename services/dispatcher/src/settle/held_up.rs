//! Results whose deliveries somebody has locked.

use std::time::Duration;

use zyven_queue::Completion;
use zyven_runtime::supervisor::Chain;
use zyven_store::Store;

use super::{Pending, completions, settle_patiently, unrecordable};
use crate::statistics::Statistics;

/// Between two tries at one after the other. Each waits for its lock as well, up to a second.
const REST: Duration = Duration::from_millis(100);

/// One try to record one result; it comes back if it is still held up.
pub(super) async fn record(
    store: &Store,
    statistics: &Statistics,
    pending: Pending,
) -> Result<Vec<Completion>, Pending> {
    match settle_patiently(store, &pending.items).await {
        Ok(settled) => Ok(completions(statistics, &pending, &settled)),
        Err(error) if error.is_of_the_content() => {
            tracing::debug!(error = %Chain(&error), "a result is still held up");
            tokio::time::sleep(REST).await;
            Err(pending)
        }
        Err(error) => Ok(unrecordable(&pending, &error)),
    }
}
