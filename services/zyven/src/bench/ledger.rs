//! The accounts of one phase: what was sent, what was acknowledged, what arrived where.
//!
//! Times are durations since the phase began. An *arrival* is a complete request at the receiver,
//! whatever it is answered; an event is *missing* at an endpoint if it was acknowledged and never
//! taken there. Events whose request was not answered may arrive or not: nobody promised anything.

use std::time::Duration;

use uuid::Uuid;

use super::latency::Latencies;
use super::plan::Share;

/// See the module.
pub(super) struct Ledger {
    fail_first: Share,
    /// By sequence.
    events: Vec<Event>,
    /// By endpoint, then by sequence.
    endpoints: Vec<Vec<Delivery>>,
    /// Acknowledged deliveries that have not been taken yet.
    outstanding: u64,
    counts: Counts,
    arrival: Latencies,
    retry: Latencies,
    first_arrival_last_at: Duration,
}

/// What was counted in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub(super) struct Counts {
    /// Events in requests.
    pub(super) sent: u64,
    /// Events answered 202 (or 200).
    pub(super) acknowledged: u64,
    /// Pairs of an event and an endpoint that arrived at least once.
    pub(super) arrived: u64,
    /// Arrivals answered 503 because the scenario wants it.
    pub(super) failed_on_purpose: u64,
    /// Acknowledged, and never taken.
    pub(super) missing: u64,
    /// Arrivals of something that had been taken before.
    pub(super) duplicates: u64,
    /// Bodies that are not what was sent, and requests under another event's `webhook-id`.
    pub(super) altered: u64,
    /// Arrivals from before the phase.
    pub(super) strays: u64,
}

#[derive(Clone, Copy)]
struct Event {
    sent_at: Duration,
    /// From the acknowledgement.
    id: Option<Uuid>,
}

#[derive(Clone, Copy, Default)]
struct Delivery {
    /// From the first arrival.
    webhook_id: Option<Uuid>,
    arrived_at: Duration,
    progress: Progress,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    Awaited,
    FailedOnPurpose,
    Taken,
}

/// How the receiver answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    /// 200.
    Take,
    /// 503.
    Fail,
}

impl Ledger {
    pub(super) fn new(endpoints: usize, fail_first: Share) -> Self {
        Self {
            fail_first,
            events: Vec::new(),
            endpoints: vec![Vec::new(); endpoints],
            outstanding: 0,
            counts: Counts::default(),
            arrival: Latencies::new(),
            retry: Latencies::new(),
            first_arrival_last_at: Duration::ZERO,
        }
    }

    /// Draws the sequences of `count` events, and returns the first. `at`: when they should be sent.
    pub(super) fn send(&mut self, count: usize, at: Duration) -> u64 {
        let first = self.events.len();
        let event = Event {
            sent_at: at,
            id: None,
        };
        self.events.resize(first + count, event);
        for deliveries in &mut self.endpoints {
            deliveries.resize(first + count, Delivery::default());
        }
        self.counts.sent += count as u64;
        first as u64
    }

    /// The API has taken responsibility for an event, and named it.
    pub(super) fn acknowledge(&mut self, sequence: u64, id: Uuid) {
        let Some(event) = usize::try_from(sequence)
            .ok()
            .and_then(|at| self.events.get_mut(at))
        else {
            return;
        };
        if event.id.replace(id).is_some() {
            return;
        }
        self.counts.acknowledged += 1;
        // Some may have arrived before the acknowledgement did.
        let open = self
            .deliveries_of(sequence)
            .filter(|delivery| delivery.progress != Progress::Taken)
            .count();
        self.outstanding += open as u64;
    }

    /// A whole request with an event of this phase.
    pub(super) fn arrive(
        &mut self,
        endpoint: usize,
        sequence: u64,
        webhook_id: Option<Uuid>,
        at: Duration,
    ) -> Reply {
        let known = usize::try_from(sequence).ok();
        let event = known.and_then(|index| self.events.get(index)).copied();
        let delivery = known.and_then(|index| self.endpoints.get_mut(endpoint)?.get_mut(index));
        let (Some(event), Some(delivery)) = (event, delivery) else {
            // A number that was never given out, in an otherwise perfect body.
            self.counts.altered += 1;
            return Reply::Take;
        };
        let is_first = delivery.progress == Progress::Awaited;
        if is_first {
            delivery.webhook_id = webhook_id;
            delivery.arrived_at = at;
            self.counts.arrived += 1;
            self.arrival.record(at.saturating_sub(event.sent_at));
            self.first_arrival_last_at = at;
            if self.fail_first.includes(sequence) {
                delivery.progress = Progress::FailedOnPurpose;
                self.counts.failed_on_purpose += 1;
                return Reply::Fail;
            }
        } else {
            if delivery.webhook_id != webhook_id {
                self.counts.altered += 1;
            }
            if delivery.progress == Progress::Taken {
                self.counts.duplicates += 1;
                return Reply::Take;
            }
            self.retry.record(at.saturating_sub(delivery.arrived_at));
        }
        delivery.progress = Progress::Taken;
        if event.id.is_some() {
            self.outstanding -= 1;
        }
        Reply::Take
    }

    /// A request that is none of this phase.
    pub(super) fn stray(&mut self) {
        self.counts.strays += 1;
    }

    /// A request with a body that was never sent.
    pub(super) fn altered(&mut self) {
        self.counts.altered += 1;
    }

    pub(super) fn sent(&self) -> u64 {
        self.counts.sent
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.counts.acknowledged
    }

    /// True when everything acknowledged was taken everywhere.
    pub(super) fn is_settled(&self) -> bool {
        self.outstanding == 0
    }

    /// The end: what has not been taken by now is missing.
    pub(super) fn close(self) -> Accounts {
        let mut counts = self.counts;
        counts.missing = self.outstanding;
        for deliveries in &self.endpoints {
            let pairs = self.events.iter().zip(deliveries);
            counts.altered += pairs
                .filter(|(event, delivery)| is_mislabelled(event, delivery))
                .count() as u64;
        }
        Accounts {
            counts,
            arrival: self.arrival,
            retry: self.retry,
            first_arrival_last_at: self.first_arrival_last_at,
        }
    }

    fn deliveries_of(&self, sequence: u64) -> impl Iterator<Item = &Delivery> {
        let index = usize::try_from(sequence).unwrap_or(usize::MAX);
        self.endpoints
            .iter()
            .filter_map(move |deliveries| deliveries.get(index))
    }
}

/// It came, but not under the name it was acknowledged by.
fn is_mislabelled(event: &Event, delivery: &Delivery) -> bool {
    event.id.is_some() && delivery.progress != Progress::Awaited && delivery.webhook_id != event.id
}

/// A closed ledger.
#[derive(Clone)]
pub(super) struct Accounts {
    pub(super) counts: Counts,
    /// From the intended moment of sending to the first arrival.
    pub(super) arrival: Latencies,
    /// From the arrival that was failed on purpose to the next one.
    pub(super) retry: Latencies,
    /// When the last event arrived for its first time.
    pub(super) first_arrival_last_at: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn ledger(endpoints: usize) -> Ledger {
        Ledger::new(endpoints, Share::NONE)
    }

    #[test]
    fn everything_acknowledged_and_taken_leaves_nothing_to_complain_about() {
        let mut ledger = ledger(2);
        let first = ledger.send(1, ms(10));
        ledger.acknowledge(first, ID);
        assert!(!ledger.is_settled());
        assert_eq!(ledger.arrive(0, first, Some(ID), ms(14)), Reply::Take);
        assert!(!ledger.is_settled(), "the other endpoint is waiting");
        ledger.arrive(1, first, Some(ID), ms(15));
        assert!(ledger.is_settled());
        let accounts = ledger.close();
        let expected = Counts {
            sent: 1,
            acknowledged: 1,
            arrived: 2,
            ..Counts::default()
        };
        assert_eq!(accounts.counts, expected);
        assert_eq!(accounts.first_arrival_last_at, ms(15));
        let arrival = accounts.arrival.percentiles().expect("two arrivals");
        assert!((arrival.max_ms - 5.0).abs() < 0.01, "{arrival:?}");
    }

    #[test]
    fn an_arrival_may_overtake_its_acknowledgement() {
        let mut ledger = ledger(1);
        let first = ledger.send(1, ms(0));
        ledger.arrive(0, first, Some(ID), ms(1));
        ledger.acknowledge(first, ID);
        assert!(ledger.is_settled());
        assert_eq!(ledger.close().counts.missing, 0);
    }

    #[test]
    fn only_what_was_acknowledged_can_be_missing() {
        let mut ledger = ledger(1);
        let first = ledger.send(2, ms(0));
        ledger.acknowledge(first, ID);
        assert_eq!(ledger.close().counts.missing, 1);
    }

    #[test]
    fn a_second_arrival_is_a_duplicate_and_settles_nothing_twice() {
        let mut ledger = ledger(1);
        let first = ledger.send(2, ms(0));
        ledger.acknowledge(first, ID);
        ledger.acknowledge(first + 1, OTHER);
        ledger.arrive(0, first, Some(ID), ms(1));
        ledger.arrive(0, first, Some(ID), ms(2));
        assert!(!ledger.is_settled());
        let counts = ledger.close().counts;
        assert_eq!(
            (counts.duplicates, counts.missing, counts.arrived),
            (1, 1, 1)
        );
    }

    #[test]
    fn a_failure_on_purpose_is_answered_once_and_its_retry_is_no_duplicate() {
        let mut ledger = Ledger::new(1, "100%".parse().expect("a share"));
        let first = ledger.send(1, ms(0));
        ledger.acknowledge(first, ID);
        assert_eq!(ledger.arrive(0, first, Some(ID), ms(3)), Reply::Fail);
        assert!(!ledger.is_settled());
        assert_eq!(ledger.arrive(0, first, Some(ID), ms(5_003)), Reply::Take);
        assert!(ledger.is_settled());
        let accounts = ledger.close();
        assert_eq!(accounts.counts.duplicates, 0);
        assert_eq!(accounts.counts.failed_on_purpose, 1);
        let retry = accounts.retry.percentiles().expect("one");
        assert!((retry.max_ms - 5_000.0).abs() < 5.0, "{retry:?}");
        let arrival = accounts.arrival.percentiles().expect("one");
        assert!(
            arrival.max_ms < 4.0,
            "the first arrival counts: {arrival:?}"
        );
    }

    #[test]
    fn another_webhook_id_than_the_acknowledged_one_is_an_alteration() {
        for second in [None, Some(OTHER)] {
            let mut ledger = ledger(1);
            let first = ledger.send(1, ms(0));
            ledger.acknowledge(first, ID);
            ledger.arrive(0, first, second, ms(1));
            assert_eq!(ledger.close().counts.altered, 1);
        }
    }

    #[test]
    fn an_event_that_was_never_sent_is_an_alteration() {
        let mut ledger = ledger(1);
        ledger.arrive(0, 7, Some(ID), ms(1));
        assert_eq!(ledger.close().counts.altered, 1);
    }
}
