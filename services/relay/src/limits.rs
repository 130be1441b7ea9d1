//! Endpoints' own limits, on their way to the lanes.
//!
//! PostgreSQL has them; Redis is told, as it is told of tickets, and forgets them with its epoch. So they
//! are told before an epoch's first ticket, again with every scrub, and in between what has changed.
//! A pause does not depend on that: a dispatcher looks at the endpoint before it sends.

use std::collections::HashMap;
use std::time::Duration;

use zyven_queue::{Epoch, Lane, LaneSettings, Pushed, Queue, Rate};
use zyven_store::{LaneLimitsOf, Store};

use crate::RelayError;

/// How far back changes are looked for. What a transaction commits that was open for longer, the next
/// scrub finds.
const CHANGED_WITHIN: Duration = Duration::from_secs(60);

/// Tells lanes their limits.
#[derive(Default)]
pub(crate) struct Limits {
    /// Those that were told something. Everybody else has none.
    told: HashMap<Lane, LaneSettings>,
}

impl Limits {
    /// Tells all limits there are, and takes back those that are gone.
    pub(crate) async fn tell_all(
        &mut self,
        store: &Store,
        queue: &Queue,
        epoch: &Epoch,
    ) -> Result<Pushed, RelayError> {
        let mut all: HashMap<Lane, LaneSettings> = (self.told.keys())
            .map(|lane| (*lane, LaneSettings::default()))
            .collect();
        all.extend(store.lane_limits().await?.iter().map(settings));
        self.tell(queue, epoch, all.into_iter().collect()).await
    }

    /// Tells what has changed of late and was not told yet.
    pub(crate) async fn tell_changed(
        &mut self,
        store: &Store,
        queue: &Queue,
        epoch: &Epoch,
    ) -> Result<Pushed, RelayError> {
        let changed = store.lane_limits_changed(CHANGED_WITHIN).await?;
        let is_news = |(lane, settings): &(Lane, LaneSettings)| {
            self.told.get(lane).copied().unwrap_or_default() != *settings
        };
        let news = changed.iter().map(settings).filter(is_news).collect();
        self.tell(queue, epoch, news).await
    }

    async fn tell(
        &mut self,
        queue: &Queue,
        epoch: &Epoch,
        lanes: Vec<(Lane, LaneSettings)>,
    ) -> Result<Pushed, RelayError> {
        let told = queue.configure(&lanes, epoch).await?;
        for (lane, settings) in lanes {
            if settings.is_default() {
                self.told.remove(&lane);
            } else {
                self.told.insert(lane, settings);
            }
        }
        Ok(told)
    }
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
