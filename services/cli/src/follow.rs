//! What is new in a list that shows the newest first.
//!
//! An id begins with the time at which its event was read, and an event is committed a moment later: ids do not appear in
//! their own order. So each look goes over the last [`OVERLAP`] again and passes over what it has seen. Only times in ids are
//! compared with each other, never with this machine's clock. See ADR 0033.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use serde_json::value::RawValue;
use zyven_domain::id::EventId;
use zyven_runtime::shutdown::{self, Shutdown};

use crate::api::{Api, PAGE_ITEMS_MAX, parsed};
use crate::failure::Failure;
use crate::output::{FAINT, Output, paint, shown};
use crate::time::written;

/// Longer than an event takes from its id to its commit: ZYVEN_INGEST_REQUEST_DEADLINE (10 s), and some for clocks.
const OVERLAP: TimeDelta = TimeDelta::seconds(15);
/// How long to rest between two looks.
const REST: Duration = Duration::from_millis(500);
/// The longest rest while the server does not answer.
const REST_MAX: Duration = Duration::from_secs(10);
/// Most pages of one look; what is older is left out, and said to be.
const PAGES_MAX: usize = 50;

/// One list, and what has been seen of it.
pub(crate) struct Follow {
    path: &'static [&'static str],
    query: Vec<(&'static str, String)>,
    /// The member with the event's id.
    event: &'static str,
    seen: BTreeSet<(EventId, String)>,
    since: Option<DateTime<Utc>>,
    /// When the last look ended, if there was one, by a clock that goes on while this machine sleeps.
    looked_at: Option<DateTime<Utc>>,
}

/// Something new.
pub(crate) struct Item {
    pub(crate) event: EventId,
    pub(crate) text: Box<RawValue>,
    pub(crate) value: Value,
}

impl Item {
    fn key(&self) -> (EventId, String) {
        let id = self.value["id"].as_str().unwrap_or_default();
        (self.event, id.to_owned())
    }
}

impl Follow {
    /// Everything that appears from now on, and what has since `since`.
    pub(crate) async fn begin(
        api: &Api,
        path: &'static [&'static str],
        query: Vec<(&'static str, String)>,
        event: &'static str,
        since: Option<DateTime<Utc>>,
    ) -> Result<Self, Failure> {
        let mut follow = Self {
            path,
            query,
            event,
            seen: BTreeSet::new(),
            since,
            looked_at: None,
        };
        if since.is_some() {
            return Ok(follow);
        }
        let mut newest = follow.query.clone();
        newest.push(("limit", "1".to_owned()));
        let page = api.page(path, &newest).await?;
        for item in page.data {
            let item = follow.item(item)?;
            follow.since = Some(moment(item.event) - OVERLAP);
        }
        if follow.since.is_some() {
            // What is there already is not new.
            let _ = follow.look(api).await?;
        }
        Ok(follow)
    }

    /// What has appeared since the last look, the oldest first.
    async fn look(&mut self, api: &Api) -> Result<Look, Failure> {
        let mut fresh: Vec<Item> = Vec::new();
        let mut query = self.query.clone();
        query.push(("limit", PAGE_ITEMS_MAX.to_string()));
        query.extend(self.since.map(|since| ("since", written(since))));
        let mut cursor = None;
        let mut has_gap = false;
        for _ in 0..PAGES_MAX {
            let mut query = query.clone();
            query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
            let page = match api.page(self.path, &query).await {
                Ok(page) => page,
                // The last look, or what it found, was so long ago that the server no longer looks that far back. What it
                // does list is new, and between the two there may have been more.
                Err(Failure::Refused(refusal))
                    if self.looked_at.is_some() && refusal.names("since") =>
                {
                    has_gap = self.looked_at.is_some_and(|at| Utc::now() - at > OVERLAP);
                    query.retain(|(name, _)| *name != "since");
                    api.page(self.path, &query).await?
                }
                Err(failure) => return Err(failure),
            };
            for text in page.data {
                let item = self.item(text)?;
                if !self.seen.contains(&item.key()) {
                    fresh.push(item);
                }
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        // Only now: what a look that failed had found is found again.
        self.seen.extend(fresh.iter().map(Item::key));
        self.looked_at = Some(Utc::now());
        fresh.sort_by_key(|item| item.event);
        if let Some((newest, _)) = self.seen.last() {
            let from = moment(*newest) - OVERLAP;
            self.since = self.since.max(Some(from));
            self.seen.retain(|(event, _)| moment(*event) >= from);
        }
        Ok(Look {
            fresh,
            is_cut: cursor.is_some() || has_gap,
        })
    }

    /// Hands what appears to `take`, one after the other, until that has had `count`, or a signal comes (whoever awaits
    /// this says so by dropping it). A server that does not answer for a while is waited for, here and in `take`.
    ///
    /// # Errors
    /// The server refuses, or `take` fails for good.
    pub(crate) async fn run(
        mut self,
        api: &Api,
        output: &Output,
        count: Option<u64>,
        mut take: impl AsyncFnMut(&Item) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut left = count;
        loop {
            let look = patiently(output, async || self.look(api).await).await?;
            if look.is_cut {
                output.note(&paint(
                    FAINT,
                    "too many at once: older ones were passed over",
                ));
            }
            for item in look.fresh {
                patiently(output, async || take(&item).await).await?;
                left = left.map(|left| left.saturating_sub(1));
                if left == Some(0) {
                    return Ok(());
                }
            }
            tokio::time::sleep(REST).await;
        }
    }

    fn item(&self, text: Box<RawValue>) -> Result<Item, Failure> {
        let value = parsed(&text);
        let event = value[self.event].as_str().and_then(|id| id.parse().ok());
        let event = event.ok_or_else(|| {
            Failure::Failed(format!(
                "the server's answer is not understood: an item without \"{}\"",
                self.event
            ))
        })?;
        Ok(Item { event, text, value })
    }
}

/// Tries again, with growing rests, for as long as the server does not answer or says that it cannot now.
async fn patiently<T>(
    output: &Output,
    mut attempt: impl AsyncFnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut rest = REST;
    loop {
        match attempt().await {
            Err(failure) if failure.is_transient() => {
                let text = format!("{failure}; trying again in {} s", rest.as_secs_f32());
                output.note(&paint(FAINT, shown(&text)));
                tokio::time::sleep(rest).await;
                rest = (rest * 2).min(REST_MAX);
            }
            outcome => return outcome,
        }
    }
}

struct Look {
    fresh: Vec<Item>,
    /// There was more than [`PAGES_MAX`] pages of it.
    is_cut: bool,
}

/// When an event was read.
fn moment(event: EventId) -> DateTime<Utc> {
    let ms = i64::try_from(event.timestamp_ms()).unwrap_or(i64::MAX);
    DateTime::from_timestamp_millis(ms).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// Requested when somebody interrupts this program.
pub(crate) fn interruption() -> Result<Shutdown, Failure> {
    let (trigger, shutdown) = Shutdown::new();
    shutdown::stop_on_signals(trigger)
        .map_err(|error| Failure::Failed(format!("signals cannot be heard: {error}")))?;
    Ok(shutdown)
}

/// Runs `work` until it ends or somebody interrupts it, which is no failure.
pub(crate) async fn until_interrupted(
    work: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let shutdown = interruption()?;
    // Both may be dropped: what `work` has printed is done, and a request under way is repeated by nobody.
    tokio::select! {
        outcome = work => outcome,
        () = shutdown.requested() => Ok(()),
    }
}
