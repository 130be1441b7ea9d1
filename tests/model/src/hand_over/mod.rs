//! From an event to the tickets of its outbox rows: T0, T1, and the gap ledger.
//!
//! Writers own a transaction id, then draw a sequence number, then commit, in any order: synchronously, as
//! ingest does, or asynchronously, as a publisher in SQL may. The relay's two tasks take one question to
//! PostgreSQL or Redis per step. The hand-over reads behind its cursor and keeps a ledger of gaps; the sweep
//! looks after the epoch and walks. Nothing is delivered here: a row that is there stays.
//!
//! Liveness is asked twice. *Without the scrubber*, because it takes seconds, and hides every mistake of the
//! hand-over by finding what that has lost: all that was drawn or committed since the relay began, and all
//! that was there when it began, has its ticket without it. What remains for the scrubber is a number that a
//! transaction had drawn, and not committed, when a relay died that had seen the gap. *With the
//! scrubber*: everything.
//!
//! A crash of PostgreSQL is one that the relay notices, by an error of its next question. If the connection is
//! replaced without an error, a number given out again may lie behind the cursor; its row is found by
//! the scrubber.

pub mod actions;
mod recovery;
mod reductions;
pub mod state;
mod story;

use stateright::{Model, Property};

use crate::check::Narrated;
use crate::mutant::Mutant;
pub use actions::Action;
use state::State;

/// How large the system is, and by which rules it works.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Events, one transaction and one outbox row each.
    pub writers: usize,
    /// Crashes, lost answers and emptied Redises, in any mixture.
    pub faults: u8,
    /// The rule that is wrong, if one is.
    pub mutant: Option<Mutant>,
}

/// The model.
#[derive(Debug)]
pub struct HandOverModel {
    /// Its rules.
    pub rules: Rules,
}

impl Rules {
    /// The protocol as it is, in this size.
    pub fn of_size(writers: usize, faults: u8) -> Self {
        Self {
            writers,
            faults,
            mutant: None,
        }
    }

    /// The same with one rule changed.
    pub fn with(self, mutant: Mutant) -> Self {
        Self {
            mutant: Some(mutant),
            ..self
        }
    }

    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

impl HandOverModel {
    /// A model that begins with an empty database, and a relay that starts.
    pub fn new(rules: Rules) -> Self {
        Self { rules }
    }
}

impl Model for HandOverModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self.rules.faults)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions::possible(&self.rules, state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        self.step(last, action).map(|next| self.unnamed(&next))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("1 conservation", |model: &Self, state: &State| {
                (0..model.rules.writers).all(|writer| {
                    let event = actions::event_of(writer);
                    state.now.rows.iter().filter(|row| **row == event).count() <= 1
                })
            }),
            Property::always(
                "5 acknowledged means durable",
                |model: &Self, state: &State| {
                    (0..model.rules.writers).all(|writer| {
                        !state.writers[writer].is_acknowledged
                            || state.on_disk.rows.contains(&actions::event_of(writer))
                    })
                },
            ),
            Property::always(
                "6 liveness: without the scrubber",
                |model: &Self, state: &State| recovery::offers_at_once(&model.rules, state),
            ),
            Property::always(
                "6 liveness: with the scrubber",
                |model: &Self, state: &State| recovery::offers_everything(&model.rules, state),
            ),
        ]
    }
}

impl Narrated for HandOverModel {
    fn unnamed(&self, state: &State) -> State {
        reductions::reduce(self.rules.writers, state)
    }

    fn step(&self, state: &State, action: Action) -> Option<State> {
        let next = actions::take(&self.rules, *state, action);
        (next != *state).then_some(next)
    }

    fn sentence(&self, before: &State, action: Action, after: &State) -> String {
        story::sentence(before, action, after)
    }
}
