//! What PostgreSQL ought to hold, in plain Rust.

use std::collections::{BTreeMap, BTreeSet};

use super::{ENDPOINTS, Verdict};

/// A delivery: its event, in the order in which the story made them up, and its endpoint.
pub(super) type Name = (usize, usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Received,
    Dispatching,
    RetryScheduled,
}

impl State {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Received => "RECEIVED",
            Self::Dispatching => "DISPATCHING",
            Self::RetryScheduled => "RETRY_SCHEDULED",
        }
    }
}

/// An outbox row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) seq: i64,
    pub(super) generation: i32,
    pub(super) attempts: i32,
    pub(super) state: State,
    /// 0: nobody has it.
    pub(super) token: i64,
    pub(super) is_leased: bool,
    pub(super) is_due: bool,
    pub(super) order: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Finished {
    /// `None`: delivered.
    pub(super) reason: Option<&'static str>,
    pub(super) attempts: i32,
    pub(super) seq: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeadLetter {
    pub(super) reason: &'static str,
    pub(super) attempts: i32,
    pub(super) is_resolved: bool,
    pub(super) is_replayed: bool,
}

/// An event that was stored, whether or not its row still is.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) is_old: bool,
    pub(super) has_row: bool,
    /// Endpoints it went to when it was accepted.
    pub(super) deliveries: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Enabled,
    Disabled,
    Removed,
}

/// A claim that somebody made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) name: Name,
    pub(super) seq: i64,
    pub(super) generation: i32,
    pub(super) attempt: i32,
    pub(super) token: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    Done,
    Superseded,
    AlreadyFinished,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Cancelled {
    pub(super) cancelled: u32,
    pub(super) cancelled_before: u32,
    pub(super) being_attempted: u32,
    pub(super) finished: u32,
}

pub(super) struct Model {
    pub(super) endpoints: [Endpoint; ENDPOINTS.len()],
    pub(super) events: BTreeMap<usize, Event>,
    /// By tenant and key: the event that was first, and its body.
    pub(super) keys: BTreeMap<(usize, u8), usize>,
    pub(super) outbox: BTreeMap<Name, Row>,
    pub(super) finished: BTreeMap<(Name, i32), Finished>,
    pub(super) dead_letters: BTreeMap<(Name, i32), DeadLetter>,
    /// Failed attempts: the state that followed.
    pub(super) attempts: BTreeMap<(Name, i32, i32), &'static str>,
    pub(super) replays: i64,
    pub(super) cancellations: i64,
    pub(super) watermark: i64,
    pub(super) leader: Option<usize>,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            endpoints: [Endpoint::Enabled; ENDPOINTS.len()],
            events: BTreeMap::new(),
            keys: BTreeMap::new(),
            outbox: BTreeMap::new(),
            finished: BTreeMap::new(),
            dead_letters: BTreeMap::new(),
            attempts: BTreeMap::new(),
            replays: 0,
            cancellations: 0,
            watermark: 0,
            leader: None,
        }
    }

    /// Where an event goes.
    pub(super) fn route(&self, tenant: usize, is_b: bool) -> Vec<usize> {
        let matches = |&endpoint: &usize| {
            let (owner, takes_b) = ENDPOINTS[endpoint];
            owner == tenant && (takes_b || !is_b) && self.endpoints[endpoint] == Endpoint::Enabled
        };
        (0..ENDPOINTS.len()).filter(matches).collect()
    }

    pub(super) fn store(
        &mut self,
        event: usize,
        is_old: bool,
        rows: impl IntoIterator<Item = (Name, Row)>,
    ) {
        let before = self.outbox.len();
        self.outbox.extend(rows);
        let deliveries = self.outbox.len() - before;
        let stored = Event {
            is_old,
            has_row: true,
            deliveries,
        };
        self.events.insert(event, stored);
    }

    /// Whether a delivery that comes before `name` in its order is unfinished.
    pub(super) fn blocked_by(&self, name: Name) -> Option<&Row> {
        let row = &self.outbox[&name];
        row.order?;
        let earlier = |(other, it): &(&Name, &Row)| {
            other.1 == name.1 && it.order == row.order && it.seq < row.seq
        };
        let earlier = self.outbox.iter().filter(earlier).map(|(_, it)| it);
        earlier.min_by_key(|it| it.seq)
    }

    pub(super) fn may_be_claimed(&self, name: Name) -> bool {
        let row = &self.outbox[&name];
        !row.is_leased && row.is_due && self.blocked_by(name).is_none()
    }

    pub(super) fn claim(&mut self, names: &BTreeSet<Name>, token: i64, lives: bool) -> Vec<Held> {
        let free: Vec<Name> = (names.iter().copied())
            .filter(|name| self.outbox.contains_key(name) && self.may_be_claimed(*name))
            .collect();
        let lease = |name: Name| {
            let row = self.outbox.get_mut(&name)?;
            row.state = State::Dispatching;
            row.attempts += 1;
            (row.token, row.is_leased) = (token, lives);
            Some(Held {
                name,
                seq: row.seq,
                generation: row.generation,
                attempt: row.attempts,
                token,
            })
        };
        free.into_iter().filter_map(lease).collect()
    }

    pub(super) fn unclaim(&mut self, seqs: &[i64], token: i64) -> u64 {
        let mut concerned = 0;
        for row in self.outbox.values_mut() {
            if seqs.contains(&row.seq) && row.token == token {
                row.attempts -= 1;
                (row.token, row.is_leased) = (0, false);
                concerned += 1;
            }
        }
        concerned
    }

    /// What became of each, in the order of `items`; successes are dealt with first.
    pub(super) fn settle(&mut self, items: &[(Held, Verdict)]) -> Vec<Settled> {
        let rank = |verdict: Verdict| match verdict {
            Verdict::Delivered => 0,
            Verdict::Retry { .. } => 1,
            Verdict::Dead { .. } => 2,
            Verdict::Release { .. } => 3,
        };
        let mut order: Vec<usize> = (0..items.len()).collect();
        order.sort_by_key(|&index| rank(items[index].1));
        let mut settled = vec![Settled::Superseded; items.len()];
        for index in order {
            let (held, verdict) = items[index];
            settled[index] = match verdict {
                Verdict::Delivered => self.deliver(held),
                _ => self.fail(held, verdict),
            };
        }
        settled
    }

    fn deliver(&mut self, held: Held) -> Settled {
        if self.outbox.get(&held.name).map(|row| row.seq) == Some(held.seq) {
            self.finish(held.name, None, held.attempt);
            return Settled::Done;
        }
        if let Some(dead) = self.dead_letters.get_mut(&(held.name, held.generation))
            && !dead.is_replayed
        {
            dead.is_resolved = true;
        }
        Settled::AlreadyFinished
    }

    fn fail(&mut self, held: Held, verdict: Verdict) -> Settled {
        let Some(row) = self.outbox.get_mut(&held.name) else {
            return Settled::Superseded;
        };
        if row.seq != held.seq || row.token != held.token {
            return Settled::Superseded;
        }
        match verdict {
            Verdict::Delivered => unreachable!("not a failure"),
            Verdict::Release { is_due } => {
                row.attempts -= 1;
                row.is_due = is_due;
                (row.token, row.is_leased) = (0, false);
            }
            Verdict::Retry { is_due } => {
                row.state = State::RetryScheduled;
                row.is_due = is_due;
                (row.token, row.is_leased) = (0, false);
                let attempt = (held.name, held.generation, held.attempt);
                self.attempts.entry(attempt).or_insert("RETRY_SCHEDULED");
            }
            Verdict::Dead { was_sent } => {
                self.finish(
                    held.name,
                    Some("rejected"),
                    held.attempt - i32::from(!was_sent),
                );
                if was_sent {
                    let attempt = (held.name, held.generation, held.attempt);
                    self.attempts.entry(attempt).or_insert("DEAD_LETTERED");
                }
            }
        }
        Settled::Done
    }

    /// From the outbox to what is finished, and to the dead letters if there is a reason.
    fn finish(&mut self, name: Name, reason: Option<&'static str>, attempts: i32) {
        let row = self.outbox.remove(&name).expect("an unfinished delivery");
        let key = (name, row.generation);
        let finished = Finished {
            reason,
            attempts,
            seq: row.seq,
        };
        assert_eq!(self.finished.insert(key, finished), None, "a second end");
        if let Some(reason) = reason {
            let dead = DeadLetter {
                reason,
                attempts,
                is_resolved: false,
                is_replayed: false,
            };
            assert_eq!(self.dead_letters.insert(key, dead), None);
        }
    }

    /// Its latest generation, if that is finished and on record.
    pub(super) fn latest(&self, name: Name) -> Option<&Finished> {
        let of = self.finished.range((name, 0)..=(name, i32::MAX));
        of.last().map(|(_, finished)| finished)
    }

    pub(super) fn cancel(&mut self, names: &BTreeSet<Name>) -> Cancelled {
        let mut answer = Cancelled::default();
        for &name in names {
            match (self.outbox.get(&name).copied(), self.latest(name)) {
                (Some(row), _) if row.is_leased => answer.being_attempted += 1,
                (Some(row), _) => {
                    self.finish(name, Some("cancelled"), row.attempts);
                    answer.cancelled += 1;
                }
                (None, Some(finished)) if finished.reason == Some("cancelled") => {
                    answer.cancelled_before += 1;
                }
                (None, Some(_)) => answer.finished += 1,
                (None, None) => {}
            }
        }
        self.cancellations += i64::from(answer.cancelled);
        answer
    }

    /// The generation that begins, or why none does; `None` if nothing is known of the delivery.
    pub(super) fn replay(&mut self, name: Name) -> Option<Result<i32, &'static str>> {
        let all = (name, 0)..=(name, i32::MAX);
        let is_known = self.outbox.contains_key(&name)
            || self.latest(name).is_some()
            || self.dead_letters.range(all.clone()).next().is_some();
        if !is_known {
            return None;
        }
        let open = (self.dead_letters.range_mut(all.clone()))
            .find(|(_, dead)| !dead.is_resolved && !dead.is_replayed);
        if let Some((&(_, generation), dead)) = open {
            dead.is_replayed = true;
            self.replays += 1;
            if let Some(event) = self.events.get_mut(&name.0) {
                event.has_row = true;
            }
            return Some(Ok(generation + 1));
        }
        let is_resolved = self.dead_letters.range(all).any(|(_, it)| it.is_resolved);
        let is_delivered = self.latest(name).is_some_and(|it| it.reason.is_none());
        Some(Err(if self.outbox.contains_key(&name) {
            "it is still being delivered"
        } else if is_resolved {
            "a late success has resolved it"
        } else if is_delivered {
            "it was delivered"
        } else {
            "there is no such dead letter"
        }))
    }

    /// The oldest day goes as a whole, unless one of its deliveries is unfinished. Dead letters stay.
    pub(super) fn drop_partitions(&mut self) {
        let old: BTreeSet<usize> = (self.events.iter())
            .filter_map(|(&number, event)| event.is_old.then_some(number))
            .collect();
        if self.outbox.keys().any(|(event, _)| old.contains(event)) {
            return;
        }
        for number in &old {
            if let Some(event) = self.events.get_mut(number) {
                event.has_row = false;
            }
        }
        self.finished.retain(|((of, _), _), _| !old.contains(of));
        self.attempts.retain(|((of, _), _, _), _| !old.contains(of));
    }
}
