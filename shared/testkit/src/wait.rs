//! Waiting for a state with a deadline.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// First pause between two looks; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(2);
/// Longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// What one look at the world yields: the awaited thing, or an account of what was seen instead.
///
/// * `bool` – `true` is what we wait for.
/// * `Option<T>` – `Some` is what we wait for.
/// * `Result<T, S>` – `Ok` is what we wait for; `Err(seen)` is kept and shown when time runs out.
pub trait Observation {
    /// What [`wait_until`] returns in the end.
    type Awaited;

    /// Splits the look into success and an account for the panic message.
    ///
    /// # Errors
    ///
    /// The state is not reached yet; the text says what was seen.
    fn judge(self) -> Result<Self::Awaited, String>;
}

impl Observation for bool {
    type Awaited = ();

    fn judge(self) -> Result<(), String> {
        if self {
            Ok(())
        } else {
            Err("false".to_owned())
        }
    }
}

impl<T> Observation for Option<T> {
    type Awaited = T;

    fn judge(self) -> Result<T, String> {
        self.ok_or_else(|| "None".to_owned())
    }
}

impl<T, S: Debug> Observation for Result<T, S> {
    type Awaited = T;

    fn judge(self) -> Result<T, String> {
        self.map_err(|seen| format!("{seen:?}"))
    }
}

/// Looks again and again until the probe is satisfied, and returns what it found.
///
/// ```
/// # use std::time::Duration;
/// # use zyven_testkit::wait_until;
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
/// # runtime.block_on(async {
/// let mut rows = 0;
/// let rows = wait_until("three rows are there", Duration::from_secs(5), async || {
///     rows += 1;
///     if rows == 3 { Ok(rows) } else { Err(rows) }
/// })
/// .await;
/// assert_eq!(rows, 3);
/// # });
/// ```
///
/// # Panics
///
/// When `deadline` has passed: with the description and what the last look saw. A look that hangs is cut off
/// at the deadline, too.
#[track_caller]
pub fn wait_until<O: Observation>(
    description: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> O,
) -> impl Future<Output = O::Awaited> {
    let caller = std::panic::Location::caller();
    async move {
        let started = Instant::now();
        let mut pause = PAUSE_MIN;
        let mut last_seen = "nothing: the first look never returned".to_owned();
        let mut looks = 0_u32;
        loop {
            let left = deadline.saturating_sub(started.elapsed());
            match tokio::time::timeout(left, look()).await.map(O::judge) {
                Ok(Ok(awaited)) => return awaited,
                Ok(Err(seen)) => last_seen = seen,
                Err(_cut_off) => {}
            }
            looks += 1;
            assert!(
                started.elapsed() < deadline,
                "waited {deadline:?} in vain until {description}\n  last seen: {last_seen}\n  after {looks} looks, at {caller}"
            );
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn returns_what_the_look_found() {
        let mut looks = 0;
        let found = wait_until("the third look", Duration::from_secs(5), async || {
            looks += 1;
            (looks == 3).then_some("found")
        })
        .await;
        assert_eq!(found, "found");
    }

    #[tokio::test]
    #[should_panic(expected = "last seen: 7")]
    async fn tells_what_it_last_saw() {
        wait_until("eight", Duration::from_millis(10), async || Err::<(), _>(7)).await;
    }

    #[tokio::test]
    #[should_panic(expected = "the first look never returned")]
    async fn cuts_off_a_look_that_hangs() {
        wait_until("never", Duration::from_millis(10), async || {
            std::future::pending::<bool>().await
        })
        .await;
    }
}
