//! Open loops: when each request is due.
//!
//! Due times are computed from the number of the request, so errors do not add up; and they do not
//! depend on answers. A latency counted from them includes the time that a request had to wait for
//! its turn, which is the point of an open loop.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::plan::Length;

/// Requests in even distances.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Schedule {
    events_per_s: f64,
    events_per_request: usize,
}

impl Schedule {
    pub(super) fn new(events_per_s: f64, events_per_request: usize) -> Self {
        Self {
            events_per_s,
            events_per_request,
        }
    }

    /// When a request is due after the beginning. The first one has number 0 and is due at once.
    pub(super) fn due(&self, number: u64) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let events_before = number as f64 * self.events_per_request as f64;
        Duration::from_secs_f64(events_before / self.events_per_s)
    }

    /// How many requests are due within a length.
    pub(super) fn requests(&self, length: Length) -> u64 {
        match length {
            Length::Events(events) => events.div_ceil(self.events_per_request as u64),
            Length::For(duration) => {
                #[expect(clippy::cast_precision_loss, reason = "batches are small")]
                let per_s = self.events_per_s / self.events_per_request as f64;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a casted float saturates, and the number is not negative"
                )]
                let requests = (duration.as_secs_f64() * per_s).ceil() as u64;
                requests
            }
        }
    }

    /// Says when each request is due, at that moment. Times are counted from `started`.
    ///
    /// On a thread of its own, because the runtime's timers are a millisecond coarse, and that is the
    /// order of what is measured. It ends after the last request, or when nobody listens.
    pub(super) fn start(
        self,
        started: Instant,
        requests: u64,
    ) -> mpsc::UnboundedReceiver<Duration> {
        let (sender, receiver) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for number in 0..requests {
                let due = self.due(number);
                std::thread::sleep(due.saturating_sub(started.elapsed()));
                if sender.send(due).is_err() {
                    return;
                }
            }
        });
        receiver
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_even_and_errors_do_not_add_up() {
        let schedule = Schedule::new(300.0, 1);
        assert_eq!(schedule.due(0), Duration::ZERO);
        assert_eq!(schedule.due(300), Duration::from_secs(1));
        assert_eq!(schedule.due(3_000_000), Duration::from_secs(10_000));
        assert_eq!(schedule.due(1).as_micros(), 3_333);
    }

    #[test]
    fn a_rate_counts_events_and_not_requests() {
        let schedule = Schedule::new(1_000.0, 100);
        assert_eq!(schedule.due(1), Duration::from_millis(100));
        assert_eq!(schedule.requests(Length::For(Duration::from_secs(2))), 20);
        assert_eq!(schedule.requests(Length::Events(101)), 2);
        assert_eq!(schedule.requests(Length::Events(100)), 1);
    }

    #[test]
    fn the_last_request_is_due_before_the_end() {
        let schedule = Schedule::new(3.0, 1);
        let length = Duration::from_secs(1);
        let requests = schedule.requests(Length::For(length));
        assert_eq!(requests, 3);
        assert!(schedule.due(requests - 1) < length);
    }

    #[test]
    fn nothing_is_due_early_and_everything_is_due() {
        let schedule = Schedule::new(2_000.0, 1);
        let started = Instant::now();
        let mut due = schedule.start(started, 20);
        let mut seen = 0;
        while let Some(at) = due.blocking_recv() {
            assert!(started.elapsed() >= at);
            assert_eq!(at, schedule.due(seen));
            seen += 1;
        }
        assert_eq!(seen, 20);
    }
}
