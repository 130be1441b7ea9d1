//! Fewer states for the same behaviour. Each reduction says why it hides nothing; that they do not is also
//! tried: `the_reductions_hide_nothing` visits a small system without them, and finds no state whose reduced
//! form the reduced model has not.

use super::Rules;
use super::state::{
    DeadLetter, Delivery, Hand, Kind, Lease, State, Statement, Token, Verdict, Work, token_of,
};
use crate::mutant::Mutant;

/// The state that stands for this one.
pub(crate) fn reduce(rules: &Rules, state: State) -> State {
    canonical(rules, &forget(rules, state))
}

/// Lets go of what has no effect any more. Who is who stays as it is.
pub(crate) fn forget(rules: &Rules, mut state: State) -> State {
    if rules.is_reduced {
        // With a mutant that needs no token, what is spent here is not.
        let is_spent = match rules.mutant {
            Some(
                Mutant::FailureNeedsNoToken
                | Mutant::ReleaseNeedsNoToken
                | Mutant::UnclaimNeedsNoToken
                | Mutant::ReplayKeepsTheGeneration
                | Mutant::TheSilentSend
                | Mutant::RedisIsToldFirst,
            ) => |_: &State, _: &Statement| false,
            _ => is_spent,
        };
        if state.orphan.is_some_and(|orphan| is_spent(&state, &orphan)) {
            state.end_orphan();
        }
        for dispatcher in 0..rules.dispatchers {
            if has_nothing_left(rules, &state, dispatcher, is_spent) {
                state.let_go(dispatcher);
            }
        }
        if !rules.is(Mutant::ScrubberSkipsLeasedForEver) {
            forget_ended_leases(&mut state);
        }
    }
    state
}

/// A statement that does nothing now and never will: its row is gone, or has another token, also on disk.
/// No row gets the same token twice, and none comes back.
fn is_spent(state: &State, statement: &Statement) -> bool {
    let Statement { kind, work, token } = *statement;
    let row = state.row(work);
    match kind {
        Kind::Claim => row.is_none(),
        Kind::Deliver => row.is_none() && letter(state, work) != Some(DeadLetter::Open),
        Kind::Unclaim | Kind::Retry | Kind::Bury | Kind::Release => {
            row.is_none_or(|row| row.now.token != token && row.on_disk.token != token)
        }
    }
}

/// A dispatcher all of whose next statements are spent is as good as idle: it can become idle without any
/// effect, and whatever else happens meanwhile can also happen then.
fn has_nothing_left(
    rules: &Rules,
    state: &State,
    dispatcher: usize,
    is_spent: fn(&State, &Statement) -> bool,
) -> bool {
    let token = token_of(dispatcher);
    let is_spent = |kind, work| is_spent(state, &Statement { kind, work, token });
    // Its claim may still be running; then taking it back may have something to take.
    let has_orphan = state.orphan.is_some_and(|orphan| orphan.token == token);
    match state.dispatchers[dispatcher] {
        Hand::Settling(work, Verdict::Delivered) => is_spent(Kind::Deliver, work),
        Hand::Settling(work, Verdict::Failed) => is_spent(Kind::Bury, work),
        Hand::Settling(work, Verdict::Release) => is_spent(Kind::Release, work),
        Hand::Unclear(work) => !has_orphan && is_spent(Kind::Unclaim, work),
        Hand::Asking(work, _) => is_spent(Kind::Claim, work),
        // It will not send any more.
        Hand::Claimed(work, clock) => {
            let sends = clock.left >= rules.ticks_to_begin() && !clock.is_dead;
            !sends && is_spent(Kind::Release, work)
        }
        Hand::Idle | Hand::Sending(..) => false,
    }
}

/// A lease that is over and whose token nobody knows is no lease.
fn forget_ended_leases(state: &mut State) {
    for row in state.rows_mut() {
        for lease in [&mut row.now, &mut row.on_disk] {
            if lease.token == Token::Nobodys && lease.ends_in == 0 {
                *lease = Lease::NONE;
            }
        }
    }
}

fn letter(state: &State, work: Work) -> Option<DeadLetter> {
    let Delivery { dead_letters, .. } = state.deliveries[usize::from(work.delivery)];
    dead_letters[usize::from(work.generation)]
}

/// Dispatchers are alike, and so are deliveries: of all states that differ only in who is who, one stands
/// for the others.
fn canonical(rules: &Rules, state: &State) -> State {
    let mut least = *state;
    for dispatchers in permutations(rules.dispatchers) {
        let exchanged = exchange_dispatchers(state, dispatchers);
        for deliveries in permutations(rules.deliveries) {
            least = least.min(exchange_deliveries(&exchanged, deliveries));
        }
    }
    least
}

/// `order[new]` is the old place.
fn exchange_dispatchers(state: &State, order: &[u8]) -> State {
    let mut exchanged = *state;
    for (new, old) in order.iter().enumerate() {
        exchanged.dispatchers[new] = state.dispatchers[usize::from(*old)];
    }
    let place = |old: u8| order.iter().position(|it| *it == old).unwrap_or(0);
    exchanged.rename_tokens(|token| match token {
        Token::Of(old) => token_of(place(old)),
        other => other,
    });
    exchanged
}

fn exchange_deliveries(state: &State, order: &[u8]) -> State {
    let mut exchanged = *state;
    for (new, old) in order.iter().enumerate() {
        exchanged.deliveries[new] = state.deliveries[usize::from(*old)];
    }
    let moved = |mut work: Work| {
        let place = order.iter().position(|it| *it == work.delivery);
        work.delivery = u8::try_from(place.unwrap_or(0)).expect("a few");
        work
    };
    for hand in &mut exchanged.dispatchers {
        if let Some(work) = hand.work() {
            *hand = hand.with_work(moved(work));
        }
    }
    if let Some(orphan) = &mut exchanged.orphan {
        orphan.work = moved(orphan.work);
    }
    exchanged
}

fn permutations(of: usize) -> &'static [&'static [u8]] {
    const OF_THREE: [&[u8]; 6] = [
        &[0, 1, 2],
        &[0, 2, 1],
        &[1, 0, 2],
        &[1, 2, 0],
        &[2, 0, 1],
        &[2, 1, 0],
    ];
    match of {
        0 | 1 => &[&[0]],
        2 => &[&[0, 1], &[1, 0]],
        _ => &OF_THREE,
    }
}
