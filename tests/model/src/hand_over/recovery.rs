//! Liveness, asked of every state: from here, with no further fault, the ordinary steps of the relay give a
//! ticket to every row that is there.

use super::Rules;
use super::actions::{self, Action};
use super::state::{Numbers, Stage, State, Walk};

/// Steps of each task within which everything must have its ticket: the rest of a poll, a walk, and some
/// polls of six steps.
const STEPS_MAX: usize = 30;

/// Without the scrubber: whatever was drawn or committed since this relay began, and whatever was there
/// when it began. Whether the transactions that are open now stay open, or end.
pub(crate) fn offers_at_once(rules: &Rules, state: &State) -> bool {
    [
        relay_works(rules, *state),
        relay_works(rules, all_commit(rules, *state)),
    ]
    .iter()
    .all(|state| {
        without_ticket(state)
            .each()
            .all(|number| is_late(state, number))
    })
}

/// With one walk of the scrubber: everything.
pub(crate) fn offers_everything(rules: &Rules, state: &State) -> bool {
    let mut state = relay_works(rules, all_commit(rules, *state));
    state.relay.walk = Walk::Due;
    let state = relay_works(rules, state);
    without_ticket(&state) == Numbers::default()
}

fn relay_works(rules: &Rules, mut state: State) -> State {
    if !state.relay.is_up {
        state = actions::take(rules, state, Action::RelayStarts);
    }
    for _ in 0..STEPS_MAX {
        state = actions::take(rules, state, Action::Sweep);
        state = actions::take(rules, state, Action::HandOver);
    }
    state
}

fn all_commit(rules: &Rules, mut state: State) -> State {
    for writer in 0..rules.writers {
        while state.writers[writer].stage != Stage::Ended {
            let possible = actions::of_writer(rules, &state, writer);
            let Some(next) = possible.first() else { break };
            state = actions::take(rules, state, *next);
        }
    }
    state
}

fn without_ticket(state: &State) -> Numbers {
    state.now.visible().without(state.redis.tickets)
}

fn is_late(state: &State, number: u8) -> bool {
    let event = state.now.rows[usize::from(number)];
    let mut writers = (0..).zip(&state.writers);
    writers.any(|(writer, it)| it.is_late && actions::event_of(writer) == event)
}
