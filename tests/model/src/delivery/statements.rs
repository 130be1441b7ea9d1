//! The statements of `shared/store`, one function each: their guards, their effects, and whether their
//! commits can be forgotten.

use super::Rules;
use super::state::{
    Broken, DeadLetter, Delivery, Kind, Lease, Outcome, Row, State, Statement, Token, Work,
};
use crate::mutant::Mutant;

/// Runs a statement of a dispatcher to its end. Returns whether it touched its row.
pub(crate) fn run(rules: &Rules, state: &mut State, statement: Statement) -> bool {
    let Statement { kind, work, token } = statement;
    match kind {
        Kind::Claim => claim(rules, state, work, token),
        Kind::Unclaim => unclaim(rules, state, work, token),
        Kind::Deliver => deliver(rules, state, work, token),
        Kind::Retry => retry(rules, state, work, token),
        Kind::Bury => bury(rules, state, work, token),
        Kind::Release => release(rules, state, work, token),
    }
}

/// T2. Due times are left out: a wait may be of any length here, also none.
fn claim(rules: &Rules, state: &mut State, work: Work, token: Token) -> bool {
    let lease_ticks = rules.lease_ticks();
    let Some(row) = state.row_mut(work) else {
        return false;
    };
    let is_free = row.now.ends_in == 0 || rules.is(Mutant::ClaimIgnoresTheLease);
    if is_free {
        row.now = Lease {
            token,
            ends_in: lease_ticks,
        };
    }
    is_free
}

/// The inverse of T2, for a claim whose outcome is unknown. Commits asynchronously, as T2 does.
fn unclaim(rules: &Rules, state: &mut State, work: Work, token: Token) -> bool {
    let needs_token = !rules.is(Mutant::UnclaimNeedsNoToken);
    let row = state.row_mut(work).as_mut();
    let Some(row) = row.filter(|row| is_mine(row, token, needs_token)) else {
        return false;
    };
    row.now = Lease::NONE;
    true
}

/// T3; T6 if the row is gone. Needs the row and no token: a 2xx is a 2xx.
fn deliver(rules: &Rules, state: &mut State, work: Work, token: Token) -> bool {
    let needs_token = rules.is(Mutant::SuccessNeedsTheToken);
    let row = state.row_mut(work);
    let is_there = row.is_some_and(|row| !needs_token || row.now.token == token);
    if is_there {
        let generation = row.take().map_or(0, |row| row.generation);
        finish(rules, state, work, generation, Outcome::Delivered);
        commit_durably(state);
        return true;
    }
    let delivery = &mut state.deliveries[usize::from(work.delivery)];
    let letter = &mut delivery.dead_letters[usize::from(work.generation)];
    if *letter == Some(DeadLetter::Open) {
        *letter = Some(DeadLetter::Resolved);
        commit_durably(state);
    }
    false
}

/// T4.
fn retry(rules: &Rules, state: &mut State, work: Work, token: Token) -> bool {
    let needs_token = !rules.is(Mutant::FailureNeedsNoToken);
    clear_lease(state, work, token, needs_token)
}

/// T5.
fn bury(rules: &Rules, state: &mut State, work: Work, token: Token) -> bool {
    let needs_token = !rules.is(Mutant::FailureNeedsNoToken);
    let row = state.row_mut(work);
    let is_mine = row.is_some_and(|row| is_mine(&row, token, needs_token));
    if is_mine {
        let generation = row.take().map_or(0, |row| row.generation);
        die(rules, state, work, generation);
        commit_durably(state);
    }
    is_mine
}

/// The inverse of T2, for an attempt that was not made.
fn release(rules: &Rules, state: &mut State, work: Work, token: Token) -> bool {
    let needs_token = !rules.is(Mutant::ReleaseNeedsNoToken);
    clear_lease(state, work, token, needs_token)
}

fn clear_lease(state: &mut State, work: Work, token: Token, needs_token: bool) -> bool {
    let row = state.row_mut(work).as_mut();
    let mine = row.filter(|row| is_mine(row, token, needs_token));
    let is_mine = mine.is_some();
    if let Some(row) = mine {
        row.now = Lease::NONE;
        commit_durably(state);
    }
    is_mine
}

/// T7. Once per dead letter; a repeated call finds it replayed.
pub(crate) fn replay(rules: &Rules, state: &mut State, delivery: usize) -> bool {
    let Delivery {
        outbox,
        dead_letters,
        ..
    } = &mut state.deliveries[delivery];
    let [first, _] = dead_letters;
    if *first != Some(DeadLetter::Open) {
        return false;
    }
    *first = Some(DeadLetter::Replayed);
    let generation = u8::from(!rules.is(Mutant::ReplayKeepsTheGeneration));
    outbox[1] = Some(Row::new(generation));
    commit_durably(state);
    true
}

/// T8. Leaves alone what is being attempted.
pub(crate) fn cancel(rules: &Rules, state: &mut State, work: Work) -> bool {
    let needs_rest = !rules.is(Mutant::CancelIgnoresTheLease);
    let row = state.row_mut(work);
    let is_free = row.is_some_and(|row| row.now.ends_in == 0 || !needs_rest);
    if is_free {
        let generation = row.take().map_or(0, |row| row.generation);
        die(rules, state, work, generation);
        commit_durably(state);
    }
    is_free
}

/// END_LEASES, for the number in the token it finds. Commits asynchronously. Returns that token.
pub(crate) fn end_lease(state: &mut State, work: Work) -> Token {
    let Some(row) = state.row_mut(work) else {
        return Token::None;
    };
    std::mem::replace(&mut row.now, Lease::NONE).token
}

/// PostgreSQL dies and comes back: with what is on disk, and without the statements it was running.
pub(crate) fn crash(state: &mut State) {
    for row in state.rows_mut() {
        row.now = row.on_disk;
    }
    state.end_orphan();
}

/// All commits so far are on disk: by a synchronous commit, which flushes the log up to itself, or by
/// PostgreSQL's own writer, a moment later.
pub(crate) fn commit_durably(state: &mut State) {
    for row in state.rows_mut() {
        row.on_disk = row.now;
    }
}

/// State `DISPATCHING`, and the claim's own token.
fn is_mine(row: &Row, token: Token, needs_token: bool) -> bool {
    let is_dispatching = row.now.token != Token::None;
    is_dispatching && (!needs_token || row.now.token == token)
}

fn die(rules: &Rules, state: &mut State, work: Work, generation: u8) {
    let letters = &mut state.deliveries[usize::from(work.delivery)].dead_letters;
    let letter = &mut letters[usize::from(generation)];
    if letter.is_none() {
        *letter = Some(DeadLetter::Open);
    }
    finish(rules, state, work, generation, Outcome::DeadLettered);
}

/// The row is gone; its finished row takes its place in the same statement.
fn finish(rules: &Rules, state: &mut State, work: Work, generation: u8, outcome: Outcome) {
    if rules.is(Mutant::FinishesInTwoCommits) {
        // The second one never comes: the process dies between them.
        return;
    }
    let finished = &mut state.deliveries[usize::from(work.delivery)].finished;
    match &mut finished[usize::from(generation)] {
        Some(_) => state.broken = Some(Broken::FinishedTwice),
        empty => *empty = Some(outcome),
    }
}
