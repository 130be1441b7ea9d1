//! The one background loop. A caretaker is a `step`; looping, resting, backing off after errors,
//! saying so once, and stopping are written here.

use std::error::Error;
use std::time::Duration;

use tokio::sync::Notify;

use crate::shutdown::Shutdown;
use crate::supervisor::Chain;

/// What a step asks for before the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// None: there is more to do.
    None,
    /// This long, or until there is an alarm (see [`run_with_alarm`]).
    For(Duration),
}

/// Waits after failed steps: doubling from `min` to `max`, spread by half.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// After the first failure.
    pub min: Duration,
    /// At most.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            min: Duration::from_millis(100),
            max: Duration::from_secs(5),
        }
    }
}

impl Backoff {
    /// The wait after `failures` failures in a row (from 1).
    pub fn wait(&self, failures: u32) -> Duration {
        let doubled = self
            .min
            .saturating_mul(1 << failures.saturating_sub(1).min(20));
        doubled.min(self.max).mul_f64(0.75 + 0.5 * chance())
    }
}

/// Repeats `step` until shutdown is requested. A step is never cut off: it ends, then the loop does.
pub async fn run<E: Error + 'static>(
    name: &'static str,
    shutdown: Shutdown,
    backoff: Backoff,
    step: impl AsyncFnMut() -> Result<Rest, E>,
) {
    run_with_alarm(name, shutdown, backoff, tokio::time::sleep, step).await;
}

/// Like [`run`]; a rest ends early when there is an alarm. `alarm` returns when it is rung or after the
/// time it is given, and must be cancel safe: a doorbell, or [`notified`].
pub async fn run_with_alarm<E: Error + 'static>(
    name: &'static str,
    shutdown: Shutdown,
    backoff: Backoff,
    mut alarm: impl AsyncFnMut(Duration),
    mut step: impl AsyncFnMut() -> Result<Rest, E>,
) {
    let mut failures = 0_u32;
    let mut last_error = String::new();
    while !shutdown.is_requested() {
        match step().await {
            Ok(rest) => {
                if failures > 0 {
                    tracing::info!(task = name, failures, "recovered");
                    failures = 0;
                    last_error.clear();
                }
                match rest {
                    // A loop that never waits must still let others run.
                    Rest::None => tokio::task::yield_now().await,
                    Rest::For(rest) => tokio::select! {
                        () = alarm(rest) => {}
                        () = shutdown.requested() => {}
                    },
                }
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                let error = Chain(&error).to_string();
                if error != last_error {
                    tracing::warn!(task = name, failures, %error, "failed; backing off");
                    last_error = error;
                }
                // An alarm does not cut this short: it would turn an outage into a storm.
                tokio::select! {
                    () = tokio::time::sleep(backoff.wait(failures)) => {}
                    () = shutdown.requested() => {}
                }
            }
        }
    }
}

/// Returns when `bell` is notified, or after `at_most`. Cancel safe.
pub async fn notified(bell: &Notify, at_most: Duration) {
    // Which of the two it was does not matter to a loop that looks anyway.
    let _ = tokio::time::timeout(at_most, bell.notified()).await;
}

/// Uniform in 0.0..1.0; for spreading waits, not for secrets.
pub fn chance() -> f64 {
    let bits = getrandom::u32().unwrap_or(u32::MAX / 2);
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::convert::Infallible;

    #[tokio::test(start_paused = true)]
    async fn steps_repeat_until_shutdown_and_rest_between() {
        let (trigger, shutdown) = Shutdown::new();
        let steps = Cell::new(0);
        let started = tokio::time::Instant::now();
        run("test", shutdown, Backoff::default(), async || {
            steps.set(steps.get() + 1);
            if steps.get() == 4 {
                trigger.request();
            }
            Ok::<_, Infallible>(Rest::For(Duration::from_secs(1)))
        })
        .await;
        assert_eq!(steps.get(), 4);
        assert_eq!(started.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_and_a_success_resets_them() {
        let (trigger, shutdown) = Shutdown::new();
        let backoff = Backoff {
            min: Duration::from_secs(1),
            max: Duration::from_secs(4),
        };
        let mut waits = Vec::new();
        let mut last = tokio::time::Instant::now();
        run("test", shutdown, backoff, async || {
            waits.push(last.elapsed().as_secs_f64());
            last = tokio::time::Instant::now();
            if waits.len() == 6 {
                trigger.request();
            }
            Err::<Rest, _>(std::fmt::Error)
        })
        .await;
        for (wait, nominal) in waits.iter().zip([0.0, 1.0, 2.0, 4.0, 4.0, 4.0]) {
            assert!(
                (nominal * 0.74..=nominal * 1.26 + 0.01).contains(wait),
                "{waits:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_bell_ends_a_rest() {
        let (trigger, shutdown) = Shutdown::new();
        let bell = Notify::new();
        bell.notify_one();
        let started = tokio::time::Instant::now();
        let mut steps = 0;
        let alarm = async |at_most| notified(&bell, at_most).await;
        run_with_alarm("test", shutdown, Backoff::default(), alarm, async || {
            steps += 1;
            if steps == 2 {
                trigger.request();
            }
            Ok::<_, Infallible>(Rest::For(Duration::from_secs(3600)))
        })
        .await;
        assert!(started.elapsed() < Duration::from_secs(1));
    }
}
