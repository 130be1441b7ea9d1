//! The one background loop.
//!
//! A caretaker has a public `step` that does what is to be done now and says how long there is nothing
//! to do; a test calls it directly. [`run`] repeats it: at once while it finds work, after the rest it
//! asks for otherwise, and after a growing delay while it fails. A step is never cut: it bounds its own
//! time, and the loop looks at the shutdown between steps.
//!
//! ```
//! use std::convert::Infallible;
//! use zyven_runtime::pace::{self, Backoff, Rest};
//! use zyven_runtime::shutdown::Shutdown;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let (trigger, shutdown) = Shutdown::new();
//! let mut pages = 3;
//! pace::run("pages", shutdown, Backoff::default(), async || {
//!     pages -= 1;
//!     if pages == 0 {
//!         trigger.request();
//!     }
//!     Ok::<_, Infallible>(Rest::None)
//! })
//! .await;
//! assert_eq!(pages, 0);
//! # }
//! ```

use std::error::Error;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep, timeout};

use crate::shutdown::Shutdown;
use crate::telemetry::chain;

/// How long there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// There is more: the next step comes at once.
    None,
    /// Nothing for this long, unless an alarm says otherwise.
    For(Duration),
}

/// How long a loop waits after failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest delay after the first failure.
    pub min: Duration,
    /// The longest delay ever.
    pub max: Duration,
}

impl Default for Backoff {
    /// 100 ms to 5 s: a database that comes back is noticed within 5 s.
    fn default() -> Self {
        Self {
            min: Duration::from_millis(100),
            max: Duration::from_secs(5),
        }
    }
}

impl Backoff {
    /// The delay after so many failures in a row, doubling from `min` to `max`. `jitter` of 0 to 1 takes
    /// between half of it and all of it, so that many processes that failed together do not return
    /// together.
    pub fn delay(&self, failures: u32, jitter: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let most = self.min.saturating_mul(1 << doublings).min(self.max);
        most.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
    }
}

/// Repeats a step until the shutdown is asked for; then returns after the step under way, without
/// taking another.
///
/// Logs the first error of a row, every error that differs from the one before, and the recovery.
pub async fn run<E: Error + 'static>(
    name: &'static str,
    shutdown: Shutdown,
    backoff: Backoff,
    step: impl AsyncFnMut() -> Result<Rest, E>,
) {
    run_with_alarm(name, shutdown, backoff, sleep, step).await;
}

/// Like [`run`], and a rest ends early when there is an alarm: `alarm` returns when it is rung, or after
/// the time it is given. It must be cancel-safe. The delay after a failure is not cut short: a bell
/// that rings often must not turn an outage into a storm.
///
/// An alarm is a [`Doorbell`](crate::doorbell::Doorbell) (`async |at_most| { bell.rung(at_most).await; }`), a
/// [`Notify`] (`|at_most| notified(&notify, at_most)`) or anything alike.
pub async fn run_with_alarm<E: Error + 'static>(
    name: &'static str,
    shutdown: Shutdown,
    backoff: Backoff,
    mut alarm: impl AsyncFnMut(Duration),
    mut step: impl AsyncFnMut() -> Result<Rest, E>,
) {
    let mut trouble = Trouble::default();
    while !shutdown.is_requested() {
        match step().await {
            Ok(rest) => {
                trouble.is_over(name);
                match rest {
                    // A step that never waits must not keep its thread from everybody else.
                    Rest::None => consume_budget().await,
                    Rest::For(time) => unless_requested(&shutdown, alarm(time)).await,
                }
            }
            Err(error) => {
                let delay = backoff.delay(trouble.failures.saturating_add(1), chance());
                trouble.goes_on(name, &chain(&error).to_string(), delay);
                unless_requested(&shutdown, sleep(delay)).await;
            }
        }
    }
}

/// Returns when notified, or after `at_most`. Cancel-safe: a notification that was stored with
/// [`Notify::notify_one`] is kept for the next call.
pub async fn notified(notify: &Notify, at_most: Duration) {
    // Elapsed is as good an end as any.
    let _ = timeout(at_most, notify.notified()).await;
}

async fn unless_requested(shutdown: &Shutdown, rest: impl Future<Output = ()>) {
    // Both arms may be dropped: a rest holds nothing, and the request stays.
    tokio::select! {
        () = shutdown.requested() => {}
        () = rest => {}
    }
}

/// A row of failures.
#[derive(Debug, Default)]
struct Trouble {
    failures: u32,
    since: Option<Instant>,
    last: String,
}

impl Trouble {
    fn goes_on(&mut self, name: &'static str, error: &str, delay: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.since.get_or_insert_with(Instant::now);
        let (failures, delay_ms) = (self.failures, milliseconds(delay));
        if self.last == error {
            tracing::debug!(pace = name, error, failures, delay_ms, "step fails still");
        } else {
            tracing::warn!(pace = name, error, failures, delay_ms, "step failed");
            error.clone_into(&mut self.last);
        }
    }

    fn is_over(&mut self, name: &'static str) {
        let Some(since) = self.since.take() else {
            return;
        };
        let duration_ms = milliseconds(since.elapsed());
        tracing::info!(
            pace = name,
            failures = self.failures,
            duration_ms,
            "step works again"
        );
        *self = Self::default();
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Uniform in 0 to 1. Without an entropy source there is no jitter, and nothing else is worse.
fn chance() -> f64 {
    getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_their_limit() {
        let backoff = Backoff {
            min: Duration::from_millis(100),
            max: Duration::from_secs(1),
        };
        for (failures, milliseconds) in [
            (0, 100),
            (1, 100),
            (2, 200),
            (4, 800),
            (5, 1000),
            (u32::MAX, 1000),
        ] {
            let delay = backoff.delay(failures, 1.0);
            assert_eq!(delay, Duration::from_millis(milliseconds), "{failures}");
        }
    }

    #[test]
    fn jitter_takes_between_half_and_all() {
        let backoff = Backoff::default();
        for (jitter, milliseconds) in [(0.0, 50), (0.5, 75), (1.0, 100), (7.0, 100), (-1.0, 50)] {
            let delay = backoff.delay(1, jitter);
            assert_eq!(delay, Duration::from_millis(milliseconds), "{jitter}");
        }
    }
}
