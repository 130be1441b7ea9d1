//! Visiting all states of a model, and telling how a bad one is reached.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model};

/// A model whose steps can be told as sentences.
///
/// States that differ only in who is who are one state for the checker, so its paths exchange names on the
/// way. A story keeps them.
pub trait Narrated: Model {
    /// The state that stands for this one in the checker.
    fn unnamed(&self, state: &Self::State) -> Self::State;
    /// A step that keeps names; `None` if it changes nothing.
    fn step(&self, state: &Self::State, action: Self::Action) -> Option<Self::State>;
    /// What happens in a step, for a reader.
    fn sentence(&self, before: &Self::State, action: Self::Action, after: &Self::State) -> String;
}

/// What came of visiting every state.
#[derive(Debug)]
pub struct Report {
    /// Different states.
    pub states: usize,
    /// Steps between them.
    pub steps: usize,
    /// Steps to the farthest one.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// What does not hold.
    pub violation: Option<Violation>,
}

/// A property that does not hold, and a shortest way to where it does not.
#[derive(Debug)]
pub struct Violation {
    /// Its name.
    pub property: &'static str,
    /// One sentence per step.
    pub story: Vec<String>,
}

/// Visits every state, or some up to the first bad one.
pub fn visit<M>(model: impl Fn() -> M, threads: usize) -> Report
where
    M: Narrated + Send + Sync + 'static,
    M::State: Clone + Hash + Eq + Send + Sync,
    M::Action: Copy + PartialEq,
{
    let began = Instant::now();
    let checker = (model().checker())
        .threads(threads)
        .finish_when(HasDiscoveries::Any)
        .spawn_bfs()
        .join();
    let is_bad = !checker.discoveries().is_empty();
    Report {
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        took: began.elapsed(),
        violation: is_bad.then(|| shortest(&model()).expect("the checker has found one")),
    }
}

/// Every state, for models that are small enough to keep them.
pub fn reachable<M>(model: &M) -> HashSet<M::State>
where
    M: Model,
    M::State: Clone + Hash + Eq,
{
    let mut next = model.init_states();
    let mut found: HashSet<M::State> = next.iter().cloned().collect();
    while let Some(state) = next.pop() {
        for state in model.next_states(&state) {
            if found.insert(state.clone()) {
                next.push(state);
            }
        }
    }
    found
}

/// The first bad state in order of distance, by a search of its own: the checker's is somewhere among the
/// nearest ones, and under exchanged names.
fn shortest<M>(model: &M) -> Option<Violation>
where
    M: Narrated,
    M::State: Clone + Hash + Eq,
    M::Action: Copy,
{
    let properties = model.properties();
    let broken = |state: &M::State| {
        let broken = properties.iter().find(|p| !(p.condition)(model, state));
        broken.map(|property| property.name)
    };
    let mut found: Vec<Found<M>> = Vec::new();
    let mut seen: HashSet<M::State> = HashSet::new();
    let mut next: VecDeque<usize> = VecDeque::new();
    let mut first: Vec<_> = model.init_states().into_iter().map(|s| (s, None)).collect();
    loop {
        for (state, from) in first.drain(..) {
            if seen.insert(model.unnamed(&state)) {
                next.push_back(found.len());
                found.push((state, from));
            }
        }
        let place = next.pop_front()?;
        let state = found[place].0.clone();
        if let Some(property) = broken(&state) {
            let story = story(model, &found, place);
            return Some(Violation { property, story });
        }
        let mut actions = Vec::new();
        model.actions(&state, &mut actions);
        first.extend(
            actions
                .into_iter()
                .filter_map(|action| Some((model.step(&state, action)?, Some((place, action))))),
        );
    }
}

/// A state, and from which one found before it which step leads there.
type Found<M> = (<M as Model>::State, Option<(usize, <M as Model>::Action)>);

fn story<M: Narrated>(model: &M, found: &[Found<M>], mut place: usize) -> Vec<String>
where
    M::Action: Copy,
{
    let mut story = Vec::new();
    while let (after, Some((from, action))) = &found[place] {
        story.push(model.sentence(&found[*from].0, *action, after));
        place = *from;
    }
    story.reverse();
    story
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        let Self {
            states,
            steps,
            depth,
            ..
        } = self;
        write!(
            f,
            "{states} states, {steps} steps, at most {depth} deep, {seconds:.1} s"
        )?;
        match &self.violation {
            None => Ok(()),
            Some(violation) => write!(f, "\n{violation}"),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "does not hold: {}", self.property)?;
        for (number, sentence) in (1..).zip(&self.story) {
            write!(f, "\n{number:>4}. {sentence}")?;
        }
        Ok(())
    }
}
