//! A clock that moves when the scheduler says so, and then to the next moment somebody waits for.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::ops::Add;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

#[derive(Default)]
struct Clock {
    now: Duration,
    /// By moment, then in order of arrival.
    sleepers: BTreeMap<(Duration, u64), Waker>,
    arrivals: u64,
    /// Whoever moves the clock, while nobody waits for anything.
    mover: Option<Waker>,
    is_over: bool,
}

// All tasks of a run are on one thread, and none is interrupted in here.
thread_local! {
    static CLOCK: RefCell<Clock> = RefCell::default();
}

fn with<T>(look: impl FnOnce(&mut Clock) -> T) -> T {
    CLOCK.with_borrow_mut(look)
}

/// Before each run.
pub(crate) fn reset() {
    let before = with(std::mem::take);
    drop(before);
}

/// Moves the clock up to `until`, and no further. Returns after [`stop`].
pub(crate) async fn run(until: Duration) {
    poll_fn(|context| {
        let (poll, woken) = with(|clock| {
            if clock.is_over {
                return (Poll::Ready(()), None);
            }
            let next = clock.sleepers.first_key_value().map(|(key, _)| *key);
            let Some(next) = next.filter(|(moment, _)| *moment <= until) else {
                clock.mover = Some(context.waker().clone());
                return (Poll::Pending, None);
            };
            clock.now = clock.now.max(next.0);
            (Poll::Pending, clock.sleepers.remove(&next))
        });
        if let Some(sleeper) = woken {
            sleeper.wake();
            context.waker().wake_by_ref();
        }
        poll
    })
    .await;
}

/// Nobody waits for anything any more.
pub(crate) fn stop() {
    let mover = with(|clock| {
        clock.is_over = true;
        clock.mover.take()
    });
    if let Some(mover) = mover {
        mover.wake();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Self {
        Self(with(|clock| clock.now))
    }

    pub(crate) fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, wait: Duration) -> Self {
        Self(self.0 + wait)
    }
}

/// Ready from a moment on.
struct Alarm {
    moment: Duration,
    key: Option<(Duration, u64)>,
}

impl Future for Alarm {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mover = with(|clock| {
            if let Some(key) = self.key.take() {
                clock.sleepers.remove(&key);
            }
            if clock.now >= self.moment {
                return Err(());
            }
            clock.arrivals += 1;
            let key = (self.moment, clock.arrivals);
            clock.sleepers.insert(key, context.waker().clone());
            self.key = Some(key);
            Ok(clock.mover.take())
        });
        let Ok(mover) = mover else {
            return Poll::Ready(());
        };
        if let Some(mover) = mover {
            mover.wake();
        }
        Poll::Pending
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            drop(with(|clock| clock.sleepers.remove(&key)));
        }
    }
}

fn alarm(moment: Instant) -> Alarm {
    Alarm {
        moment: moment.0,
        key: None,
    }
}

pub(crate) async fn sleep(wait: Duration) {
    alarm(Instant::now() + wait).await;
}

#[derive(Debug)]
pub(crate) struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too late")
    }
}

pub(crate) async fn timeout<F: Future>(wait: Duration, future: F) -> Result<F::Output, Elapsed> {
    timeout_at(Instant::now() + wait, future).await
}

/// Like tokio's: what is ready wins over a moment that has come.
pub(crate) async fn timeout_at<F: Future>(
    moment: Instant,
    future: F,
) -> Result<F::Output, Elapsed> {
    let (mut future, mut alarm) = (pin!(future), pin!(alarm(moment)));
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        alarm.as_mut().poll(context).map(|()| Err(Elapsed))
    })
    .await
}
