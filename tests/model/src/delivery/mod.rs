//! From an outbox row to its end: T2 to T8, dispatchers, leases, clocks, and everything that dies.
//!
//! In reading order: [`state`] is what there is, [`actions`] what may happen, `statements` what PostgreSQL
//! does, [`invariants`] what must hold, `recovery` what must come of every state, `reductions` which
//! states are one, `story` how a step is told.
//!
//! Time is counted in ticks. A lease lasts the longest attempt and a margin; it ends on PostgreSQL's clock. A
//! dispatcher counts from before it asks, and begins nothing that would not end within the lease, with
//! an allowance for clocks that differ: its own may miss one tick while the lease lasts. A dispatcher that is
//! stopped is one that takes no step while time passes.
//!
//! Faults are not counted: any number of them may happen.

pub mod actions;
pub mod invariants;
mod recovery;
mod reductions;
pub mod state;
mod statements;
mod story;

use stateright::{Model, Property};

use crate::check::Narrated;
use crate::mutant::Mutant;
pub use actions::Action;
use state::{Delivery, Hand, State};

/// How large the system is, and by which rules it works.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Acknowledged events with one endpoint each.
    pub deliveries: usize,
    /// Attempts that can be made at the same time.
    pub dispatchers: usize,
    /// The longest attempt, in ticks.
    pub timeout_ticks: u8,
    /// What a lease lasts beyond that.
    pub margin_ticks: u8,
    /// What an attempt leaves of its lease at least, because clocks differ.
    pub allowance_ticks: u8,
    /// The rule that is wrong, if one is.
    pub mutant: Option<Mutant>,
    /// Whether states that differ in nothing that matters are taken for one.
    pub is_reduced: bool,
}

/// The model.
#[derive(Debug)]
pub struct DeliveryModel {
    /// Its rules.
    pub rules: Rules,
    /// Whether two requests on the wire at once are no violation.
    is_duplicate_allowed: bool,
    known: recovery::Known,
}

impl Rules {
    /// The protocol as it is, in this size.
    pub fn of_size(deliveries: usize, dispatchers: usize) -> Self {
        Self {
            deliveries,
            dispatchers,
            timeout_ticks: 1,
            margin_ticks: 1,
            allowance_ticks: 1,
            mutant: None,
            is_reduced: true,
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

    /// `leased_until` of a claim that is made now.
    pub(crate) fn lease_ticks(&self) -> u8 {
        self.timeout_ticks + self.margin_ticks
    }

    /// What must be left of a lease, on the own clock, when an attempt begins.
    pub(crate) fn ticks_to_begin(&self) -> u8 {
        match self.mutant {
            Some(Mutant::NoLookAtTheOwnClock) => 0,
            Some(Mutant::NoAllowanceForClocks) => self.timeout_ticks,
            _ => self.timeout_ticks + self.allowance_ticks,
        }
    }

    /// The deliveries that this model uses.
    pub(crate) fn of<'a>(&self, state: &'a State) -> impl Iterator<Item = &'a Delivery> {
        state.deliveries[..self.deliveries].iter()
    }

    /// The dispatchers that this model uses, with what they are doing.
    pub(crate) fn dispatchers(&self, state: &State) -> impl Iterator<Item = (usize, Hand)> {
        let dispatchers = state.dispatchers.into_iter().enumerate();
        dispatchers.take(self.dispatchers)
    }
}

impl DeliveryModel {
    /// A model that begins with acknowledged events and idle dispatchers.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            is_duplicate_allowed: false,
            known: recovery::Known::default(),
        }
    }

    /// The same, asking about everything but concurrent attempts.
    pub fn allowing_duplicates(self) -> Self {
        Self {
            is_duplicate_allowed: true,
            ..self
        }
    }
}

impl Model for DeliveryModel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::accepted(self.rules.deliveries)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_none() {
            actions::possible(&self.rules, state, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let next = actions::take(&self.rules, *last, action);
        (next != *last).then(|| reductions::reduce(&self.rules, next))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("1 conservation", |model: &Self, state: &State| {
                invariants::conservation(&model.rules, state)
            }),
            Property::always("2 single finish", |model: &Self, state: &State| {
                state.broken != Some(state::Broken::FinishedTwice)
                    && invariants::dead_letters_are_complete(&model.rules, state)
            }),
            Property::always(
                "3 no concurrent attempts inside a lease",
                |model: &Self, state: &State| {
                    state.broken != Some(state::Broken::LeaseTaken)
                        && (model.is_duplicate_allowed || invariants::no_concurrent_attempts(state))
                },
            ),
            Property::always("4 success is sticky", |_, state: &State| {
                state.broken != Some(state::Broken::SuccessUndone)
                    && state.broken != Some(state::Broken::SuccessDropped)
            }),
            Property::always("6 liveness", |model: &Self, state: &State| {
                recovery::recovers(&model.rules, state, &model.known)
            }),
        ]
    }
}

impl Narrated for DeliveryModel {
    fn unnamed(&self, state: &State) -> State {
        reductions::reduce(&self.rules, *state)
    }

    fn step(&self, state: &State, action: Action) -> Option<State> {
        let next = actions::take(&self.rules, *state, action);
        (next != *state).then(|| reductions::forget(&self.rules, next))
    }

    fn sentence(&self, before: &State, action: Action, after: &State) -> String {
        story::sentence(before, action, after)
    }
}
