//! The invariants of ARCHITECTURE.md, as far as this model has them: 1 to 4 and 7. They mention rows and
//! requests only; there is no Redis here that they could mention.

use super::Rules;
use super::state::{
    Broken, DELIVERIES_MAX, DeadLetter, Delivery, Hand, Kind, Outcome, Row, State, Statement, Work,
};

/// 1. For every generation that has begun exactly one of {outbox row, finished row} exists.
pub fn conservation(rules: &Rules, state: &State) -> bool {
    rules.of(state).all(|delivery| {
        let begun = 1 + usize::from(delivery.dead_letters[0] == Some(DeadLetter::Replayed));
        (0..delivery.finished.len()).all(|generation| {
            let rows = rows_of(delivery, generation).count();
            let finished = usize::from(delivery.finished[generation].is_some());
            rows + finished == usize::from(generation < begun)
        })
    })
}

/// A dead delivery has its dead letter, and no other one has.
pub fn dead_letters_are_complete(rules: &Rules, state: &State) -> bool {
    rules.of(state).all(|delivery| {
        let pairs = delivery.finished.iter().zip(&delivery.dead_letters);
        pairs
            .into_iter()
            .all(|(outcome, letter)| letter.is_some() == (*outcome == Some(Outcome::DeadLettered)))
    })
}

/// 3. No two requests of one delivery are on the wire at once, unless PostgreSQL has forgotten a claim.
pub fn no_concurrent_attempts(state: &State) -> bool {
    let sending = |hand: &Hand| match *hand {
        Hand::Sending(work, clock, _) if !clock.is_excused => Some(work.delivery),
        _ => None,
    };
    let mut on_the_wire = [false; DELIVERIES_MAX];
    let mut sent = state.dispatchers.iter().filter_map(sending);
    sent.all(|delivery| !std::mem::replace(&mut on_the_wire[usize::from(delivery)], true))
}

/// Rules about a step of a dispatcher's statement.
pub(crate) fn judge_statement(before: &State, after: &mut State, statement: Statement) {
    let work = statement.work;
    if statement.kind == Kind::Deliver {
        if !counts(after, work) {
            after.broken.get_or_insert(Broken::SuccessDropped);
        }
    } else if is_held(before, work)
        && before.row(work).map(|row| row.now.token) != Some(statement.token)
    {
        judge_lease(before, after, work);
    }
    judge_success(before, after, work);
}

/// The same for a cancellation, which holds no lease.
pub(crate) fn judge_cancellation(before: &State, after: &mut State, work: Work) {
    if is_held(before, work) {
        judge_lease(before, after, work);
    }
    judge_success(before, after, work);
}

/// 3, too: a lease is its holder's until it ends on PostgreSQL's clock.
fn judge_lease(before: &State, after: &mut State, work: Work) {
    let lease = |state: &State| state.row(work).map(|row| row.now);
    if lease(before) != lease(after) {
        after.broken.get_or_insert(Broken::LeaseTaken);
    }
}

/// 4. Nothing turns `DELIVERED` into anything else.
fn judge_success(before: &State, after: &mut State, work: Work) {
    let index = usize::from(work.delivery);
    let (was, is) = (&before.deliveries[index], after.deliveries[index]);
    for generation in 0..was.finished.len() {
        let was_delivered = was.finished[generation] == Some(Outcome::Delivered);
        let is_delivered = is.finished[generation] == Some(Outcome::Delivered)
            && rows_of(&is, generation).next().is_none();
        if was_delivered && !is_delivered {
            after.broken.get_or_insert(Broken::SuccessUndone);
        }
    }
}

fn is_held(state: &State, work: Work) -> bool {
    state.row(work).is_some_and(|row| row.now.ends_in > 0)
}

/// Whether a 2xx that has just been recorded is on record: its generation is delivered, or was given up
/// and is resolved or already replayed.
fn counts(state: &State, work: Work) -> bool {
    let delivery = &state.deliveries[usize::from(work.delivery)];
    let generation = usize::from(work.generation);
    match delivery.finished[generation] {
        None => false,
        Some(Outcome::Delivered) => true,
        Some(Outcome::DeadLettered) => delivery.dead_letters[generation] != Some(DeadLetter::Open),
    }
}

fn rows_of(delivery: &Delivery, generation: usize) -> impl Iterator<Item = &Row> {
    let rows = delivery.outbox.iter().flatten();
    rows.filter(move |row| usize::from(row.generation) == generation)
}
