//! Liveness (6), as something that can be checked in one state: from here, with no further fault, the
//! ordinary steps of the services empty the outbox within a bounded number of rounds, whatever Redis holds
//! at this moment.
//!
//! That is asked of *every* reachable state. So there is no state in which a delivery is stuck, and none
//! from which one can be reached: no fault, in whatever order with others, leaves something behind that
//! the services do not mend by themselves. The checker's own `eventually` would say less: it does not see
//! cycles, and this model is full of them.
//!
//! Redis is here, and only here, something that holds tickets, because liveness is what depends on it. Its
//! content is not followed through the model; every content is tried.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Rules;
use super::actions::{self, Action, Answer};
use super::state::{Hand, Kind, State, Token, Verdict, Work};
use crate::mutant::Mutant;

/// Walks of the scrubber within which everything must be finished: one finds what has no ticket, and
/// the other is for what failed once.
const ROUNDS_MAX: usize = 4;

/// How an endpoint behaves from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    /// It says 2xx.
    Accepts,
    /// It fails, and each second failure of a delivery is its last one.
    Fails,
}

/// What Redis knows of a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ticket {
    /// Never pushed, or lost.
    Absent,
    /// In its lane.
    Waiting,
    /// Handed out; it returns to its lane when its lease in Redis ends.
    Leased,
}

const TICKETS: [Ticket; 3] = [Ticket::Absent, Ticket::Waiting, Ticket::Leased];

#[derive(Debug, Clone)]
struct Redis {
    has_epoch: bool,
    tickets: Vec<(Work, Ticket)>,
}

/// States in which nobody does anything, from which everything was found to come to its end. Many states
/// lead to few of them.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<HashSet<State>>);

/// Whether the services empty the outbox by themselves.
pub(crate) fn recovers(rules: &Rules, state: &State, known: &Known) -> bool {
    [Endpoint::Accepts, Endpoint::Fails]
        .into_iter()
        .all(|endpoint| {
            let rest = come_to_rest(rules, *state, endpoint);
            known.has(&rest) || (drains_whatever_redis_holds(rules, &rest) && known.add(rest))
        })
}

impl Known {
    fn has(&self, rest: &State) -> bool {
        self.lock().contains(rest)
    }

    fn add(&self, rest: State) -> bool {
        self.lock().insert(rest);
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everybody finishes what is under way, as the endpoint has it.
fn come_to_rest(rules: &Rules, mut state: State, endpoint: Endpoint) -> State {
    if endpoint == Endpoint::Accepts {
        state = actions::take(rules, state, Action::OrphanRuns);
    }
    for dispatcher in 0..rules.dispatchers {
        state = finish(rules, state, dispatcher, endpoint, Kind::Retry);
    }
    state = actions::take(rules, state, Action::OrphanRuns);
    state = actions::take(rules, state, Action::LogReachesDisk);
    state.broken = None;
    state
}

/// One dispatcher does what comes next until its hand is free.
fn finish(
    rules: &Rules,
    mut state: State,
    dispatcher: usize,
    endpoint: Endpoint,
    after_failure: Kind,
) -> State {
    let run = |kind| Action::Run(dispatcher, kind, Answer::Arrives);
    loop {
        let action = match (state.dispatchers[dispatcher], endpoint) {
            (Hand::Idle, _) => return state,
            (Hand::Asking(..), _) => run(Kind::Claim),
            (Hand::Unclear(_), _) => run(Kind::Unclaim),
            (Hand::Claimed(..), _) => Action::Begin(dispatcher),
            (Hand::Sending(..), Endpoint::Accepts) => Action::Accept(dispatcher),
            (Hand::Sending(..), Endpoint::Fails) => Action::Fail(dispatcher),
            (Hand::Settling(_, Verdict::Delivered), _) => run(Kind::Deliver),
            (Hand::Settling(_, Verdict::Failed), _) => run(after_failure),
            (Hand::Settling(_, Verdict::Release), _) => run(Kind::Release),
        };
        state = actions::take(rules, state, action);
    }
}

fn drains_whatever_redis_holds(rules: &Rules, rest: &State) -> bool {
    let rows: Vec<Work> = actions::rows(rules, rest).collect();
    let contents = 0..TICKETS.len().pow(u32::try_from(rows.len()).expect("a few"));
    contents
        .flat_map(|content| [(content, true), (content, false)])
        .map(|(content, has_epoch)| Redis {
            has_epoch,
            tickets: (rows.iter().enumerate())
                .map(|(place, row)| {
                    let digit = content / TICKETS.len().pow(u32::try_from(place).expect("a few"));
                    (*row, TICKETS[digit % TICKETS.len()])
                })
                .collect(),
        })
        .all(|redis| {
            drains(rules, *rest, redis.clone(), Endpoint::Accepts)
                && drains(rules, *rest, redis, Endpoint::Fails)
        })
}

/// The scrubber walks, a dispatcher claims and attempts, time passes; and again.
fn drains(rules: &Rules, mut state: State, mut redis: Redis, endpoint: Endpoint) -> bool {
    for round in 0..ROUNDS_MAX {
        scrub(rules, &state, &mut redis);
        let after_failure = if round == 0 { Kind::Retry } else { Kind::Bury };
        for (row, ticket) in &mut redis.tickets {
            if *ticket == Ticket::Waiting {
                state = actions::take(rules, state, Action::Offer(0, *row));
                state = finish(rules, state, 0, endpoint, after_failure);
                if state.row(*row).is_none() {
                    *ticket = Ticket::Absent;
                }
            }
        }
        for _ in 0..=rules.lease_ticks() {
            state = actions::take(rules, state, Action::Tick(0));
        }
        // A lease in Redis ends later than the one in PostgreSQL, but it ends.
        for (_, ticket) in &mut redis.tickets {
            if *ticket == Ticket::Leased {
                *ticket = Ticket::Waiting;
            }
        }
        if actions::rows(rules, &state).next().is_none() {
            return true;
        }
    }
    false
}

/// The relay's sweep: an epoch if there is none, and a ticket for every row that nobody holds.
fn scrub(rules: &Rules, state: &State, redis: &mut Redis) {
    redis.has_epoch |= !rules.is(Mutant::NobodyBeginsAnEpoch);
    for (work, ticket) in &mut redis.tickets {
        let Some(row) = state.row(*work) else {
            continue;
        };
        let is_left_out = if rules.is(Mutant::ScrubberSkipsLeasedForEver) {
            row.now.token != Token::None
        } else {
            row.now.ends_in > 0
        };
        let is_believed_done = rules.is(Mutant::RedisIsToldFirst)
            && state.deliveries[usize::from(work.delivery)].told_done;
        if redis.has_epoch && *ticket == Ticket::Absent && !is_left_out && !is_believed_done {
            *ticket = Ticket::Waiting;
        }
    }
}
