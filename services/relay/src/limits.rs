//! Endpoints' own limits, on their way to the lanes.
//!
//! PostgreSQL has them; Redis is told, as it is told of tickets, and forgets them with its epoch. So they
//! are told before an epoch's first ticket, before a lane's first ticket, again with every scrub, and in
//! between what has changed. Whether anything has is found by the look that renews the lead, so that nothing is
//! asked while nothing changes. A pause does not depend on that: a dispatcher looks at the endpoint before it sends.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use zyven_domain::id::EndpointId;
use zyven_queue::{Epoch, Lane, LaneSettings, Pushed, Queue, Rate};
use zyven_store::{LaneLimitsOf, Store};

use crate::RelayError;

/// How far back changes are looked for. What a transaction commits that was open for longer, the next
/// scrub finds.
pub(crate) const CHANGED_WITHIN: Duration = Duration::from_secs(60);

/// Tells lanes their limits.
#[derive(Default)]
pub(crate) struct Limits {
    /// What lanes were told, as far as this relay knows; everybody else has no limits. Held while Redis is
    /// told, so that what is told last is what was read last.
    told: tokio::sync::Mutex<HashMap<Lane, LaneSettings>>,
    /// Whose limits were looked at. Held for look-ups only.
    known: Mutex<HashSet<EndpointId>>,
    /// Whether a look has found changes that were not told since.
    changed: AtomicBool,
}

impl Limits {
    /// Something has changed, or had a moment ago.
    pub(crate) fn note_change(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Whether that was noted since the last call. Should telling fail, the next look notes it again.
    pub(crate) fn take_change(&self) -> bool {
        self.changed.swap(false, Ordering::Relaxed)
    }

    /// Makes what lanes were told, by whomever and whenever, agree with what PostgreSQL says.
    pub(crate) async fn tell_all(
        &self,
        store: &Store,
        queue: &Queue,
        epoch: &Epoch,
    ) -> Result<Pushed, RelayError> {
        let mut told = self.told.lock().await;
        *told = queue.configured().await?;
        let mut all: HashMap<Lane, LaneSettings> = (told.keys())
            .map(|lane| (*lane, LaneSettings::default()))
            .collect();
        all.extend(store.lane_limits().await?.iter().map(settings));
        let news = news(&told, all.into_iter());
        tell(&mut told, queue, epoch, news).await
    }

    /// Tells what has changed of late and was not told yet.
    pub(crate) async fn tell_changed(
        &self,
        store: &Store,
        queue: &Queue,
        epoch: &Epoch,
    ) -> Result<Pushed, RelayError> {
        let mut told = self.told.lock().await;
        let changed = store.lane_limits_changed(CHANGED_WITHIN).await?;
        let news = news(&told, changed.iter().map(settings));
        tell(&mut told, queue, epoch, news).await
    }

    /// Tells the limits of endpoints that are met for the first time: an endpoint made a moment ago is not
    /// to be flooded until the next look at changes.
    pub(crate) async fn tell_new(
        &self,
        store: &Store,
        queue: &Queue,
        epoch: &Epoch,
        endpoints: impl Iterator<Item = EndpointId>,
    ) -> Result<Pushed, RelayError> {
        let unknown: HashSet<EndpointId> = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            endpoints.filter(|id| !known.contains(id)).collect()
        };
        if unknown.is_empty() {
            return Ok(Pushed::Accepted { added: 0 });
        }
        let unknown: Vec<EndpointId> = unknown.into_iter().collect();
        let mut told = self.told.lock().await;
        let new = store.lane_limits_of(&unknown).await?;
        let news = news(&told, new.iter().map(settings));
        let outcome = tell(&mut told, queue, epoch, news).await?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(unknown);
        Ok(outcome)
    }
}

fn news(
    told: &HashMap<Lane, LaneSettings>,
    lanes: impl Iterator<Item = (Lane, LaneSettings)>,
) -> Vec<(Lane, LaneSettings)> {
    lanes
        .filter(|(lane, settings)| told.get(lane).copied().unwrap_or_default() != *settings)
        .collect()
}

async fn tell(
    told: &mut HashMap<Lane, LaneSettings>,
    queue: &Queue,
    epoch: &Epoch,
    lanes: Vec<(Lane, LaneSettings)>,
) -> Result<Pushed, RelayError> {
    let outcome = queue.configure(&lanes, epoch).await?;
    if outcome != Pushed::EpochLost {
        told.extend(lanes);
    }
    Ok(outcome)
}

fn settings(of: &LaneLimitsOf) -> (Lane, LaneSettings) {
    let lane = Lane {
        tenant_id: of.tenant_id,
        endpoint_id: of.endpoint_id,
    };
    let limits = of.limits;
    let settings = LaneSettings {
        in_flight_max: limits.concurrency_max,
        rate: limits.rate_per_minute.map(|per_minute| Rate {
            per_s: f64::from(per_minute) / 60.0,
            burst: limits.burst(),
        }),
        is_paused: limits.is_paused,
    };
    (lane, settings)
}
