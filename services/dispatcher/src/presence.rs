//! Being known to live: a registration in PostgreSQL, and a beat every second (ADR 0029).
//!
//! All leases of this process bear its number. Who watches the beats ends the leases of a number that has
//! been silent for [`SILENCE_MAX`] and longer, so that what a dead process held is attempted elsewhere within
//! seconds. This process must therefore begin no request unless its last beat is younger than [`SILENCE_MAX`],
//! on its own clocks: a process that was frozen, or cut off from PostgreSQL, stops before anybody may take it
//! for dead. If it was declared dead, its next beat says so; it then goes on under a new number.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use zyven_domain::lease::DispatcherNumber;
use zyven_runtime::pace::{self, Backoff, Rest};
use zyven_runtime::shutdown::Shutdown;
use zyven_runtime::supervisor::Chain;
use zyven_store::{Store, StoreError};

/// How often it says that it lives.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// How old the last beat may be for a request to begin. Less than the silence after which the relay
/// declares a dispatcher dead (`zyven_relay::Watch`), by as much as a request may take from the last look at
/// the clock to the wire.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// Longest wait for one beat. The connection it waited for is closed then, as it may hang, and the next beat
/// uses another one.
const BEAT_TIME_MAX: Duration = Duration::from_secs(1);
/// Longest wait for a registration, which is committed synchronously.
const REGISTERING_TIME_MAX: Duration = Duration::from_secs(5);
/// After a beat that failed. Short: behind an outage of PostgreSQL the relay gives each dispatcher the
/// time of a silence to be heard again.
const BACKOFF: Backoff = Backoff {
    min: Duration::from_millis(100),
    max: Duration::from_millis(500),
};
/// Longest wait for the end of the registration, when stopping.
const LEAVE_TIME_MAX: Duration = Duration::from_millis(500);

/// Whether this dispatcher may act, and under which number. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Presence(Arc<Shared>);

struct Shared {
    standing: watch::Sender<Option<Standing>>,
    claims: AtomicU64,
}

/// What PostgreSQL has confirmed last.
#[derive(Debug, Clone, Copy)]
struct Standing {
    number: DispatcherNumber,
    /// From before the beat was sent.
    beaten: Instant,
    /// The same on the wall clock, which goes on while a virtual machine is paused.
    beaten_at: DateTime<Utc>,
}

/// Why a beat is not known to have been heard.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PresenceError {
    #[error("could not say that this dispatcher lives: {}", Chain(.0))]
    Store(#[from] StoreError),
    #[error("PostgreSQL did not confirm in time that this dispatcher lives")]
    TimedOut,
    #[error("the number drawn for this dispatcher is taken")]
    Taken,
}

impl Standing {
    fn of(number: DispatcherNumber) -> Self {
        Self {
            number,
            beaten: Instant::now(),
            beaten_at: Utc::now(),
        }
    }

    fn is_fresh(&self) -> bool {
        self.is_fresh_at(Instant::now(), Utc::now())
    }

    fn is_fresh_at(&self, now: Instant, now_at: DateTime<Utc>) -> bool {
        let age_at = (now_at - self.beaten_at).to_std().unwrap_or_default();
        now.saturating_duration_since(self.beaten) < SILENCE_MAX && age_at < SILENCE_MAX
    }
}

impl Presence {
    /// Not registered yet.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            standing: watch::Sender::new(None),
            claims: AtomicU64::new(0),
        }))
    }

    /// A token for one claim, never given before; `None` while nothing may be claimed.
    pub(crate) fn next_token(&self) -> Option<i64> {
        let standing = (*self.0.standing.borrow()).filter(Standing::is_fresh)?;
        let claim = self.0.claims.fetch_add(1, Ordering::Relaxed);
        Some(standing.number.token(claim))
    }

    /// Whether a request may begin under a lease with this token: nobody can have ended it early.
    pub(crate) fn covers(&self, token: i64) -> bool {
        (*self.0.standing.borrow())
            .is_some_and(|it| it.is_fresh() && it.number.tokens().contains(&token))
    }

    /// Whether something may be claimed.
    pub(crate) fn is_fresh(&self) -> bool {
        (*self.0.standing.borrow()).is_some_and(|it| it.is_fresh())
    }

    /// Returns with the next beat that PostgreSQL confirms. Cancel safe.
    pub(crate) async fn confirmed(&self) {
        let mut standing = self.0.standing.subscribe();
        // The sender is this very presence.
        let _ = standing.changed().await;
    }

    /// Registers and beats until shutdown is requested.
    pub(crate) async fn keep(self, store: Store, shutdown: Shutdown) {
        pace::run("dispatcher presence", shutdown, BACKOFF, async move || {
            self.step(&store).await
        })
        .await;
    }

    async fn step(&self, store: &Store) -> Result<Rest, PresenceError> {
        let registered = *self.0.standing.borrow();
        let standing = match registered {
            None => register(store).await?,
            Some(Standing { number, .. }) => {
                let standing = Standing::of(number);
                let beat = timeout(BEAT_TIME_MAX, store.beat(number)).await;
                if !beat.map_err(|_| PresenceError::TimedOut)?? {
                    tracing::warn!(
                        dispatcher = %number,
                        "was silent for too long and taken for dead; going on under another number"
                    );
                    self.0.standing.send_replace(None);
                    return Ok(Rest::None);
                }
                standing
            }
        };
        self.0.standing.send_replace(Some(standing));
        Ok(Rest::For(
            BEAT_EVERY.saturating_sub(standing.beaten.elapsed()),
        ))
    }

    /// Ends the registration. Only for a dispatcher that holds no lease any more: what is left of one that
    /// does is found by the silence of its beat.
    pub(crate) async fn leave(&self, store: &Store) {
        let Some(standing) = self.0.standing.send_replace(None) else {
            return;
        };
        match timeout(LEAVE_TIME_MAX, store.leave(standing.number)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "could not end the registration"),
            Err(_elapsed) => tracing::debug!("could not end the registration in time"),
        }
    }
}

async fn register(store: &Store) -> Result<Standing, PresenceError> {
    let chance = getrandom::u64().expect("the operating system has random numbers");
    let standing = Standing::of(DispatcherNumber::of_chance(chance));
    let registered = timeout(
        REGISTERING_TIME_MAX,
        store.register_dispatcher(standing.number),
    );
    if !registered.await.map_err(|_| PresenceError::TimedOut)?? {
        return Err(PresenceError::Taken);
    }
    tracing::info!(dispatcher = %standing.number, "registered");
    Ok(standing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence(standing: Standing) -> Presence {
        let presence = Presence::new();
        presence.0.standing.send_replace(Some(standing));
        presence
    }

    fn number(number: i64) -> DispatcherNumber {
        DispatcherNumber::from_i64(number).unwrap()
    }

    #[tokio::test]
    async fn an_unregistered_dispatcher_claims_and_sends_nothing() {
        let presence = Presence::new();
        assert_eq!(presence.next_token(), None);
        assert!(!presence.covers(number(1).token(1)));
    }

    #[tokio::test]
    async fn a_lease_under_an_earlier_number_is_not_covered() {
        let presence = presence(Standing::of(number(7)));
        let token = presence.next_token().unwrap();
        assert!(presence.covers(token));
        assert_ne!(presence.next_token(), Some(token));
        presence
            .0
            .standing
            .send_replace(Some(Standing::of(number(8))));
        assert!(!presence.covers(token));
    }

    #[test]
    fn nothing_begins_when_the_last_beat_is_two_seconds_old() {
        let standing = Standing::of(number(7));
        let is_fresh_after =
            |age: Duration| standing.is_fresh_at(standing.beaten + age, standing.beaten_at + age);
        assert!(is_fresh_after(SILENCE_MAX - Duration::from_millis(1)));
        assert!(!is_fresh_after(SILENCE_MAX));
        let old = presence(Standing {
            beaten: standing.beaten.checked_sub(SILENCE_MAX).unwrap(),
            ..standing
        });
        assert!(!old.covers(number(7).token(0)));
        assert_eq!(old.next_token(), None);
    }

    #[tokio::test]
    async fn a_pause_that_only_the_wall_clock_has_seen_counts() {
        let standing = Standing::of(number(7));
        let paused = Standing {
            beaten_at: standing.beaten_at - SILENCE_MAX,
            ..standing
        };
        assert!(!presence(paused).is_fresh());
    }
}
