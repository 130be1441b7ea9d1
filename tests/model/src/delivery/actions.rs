//! What can happen next, and what it does.

use super::state::{Clock, Hand, Kind, Row, State, Statement, Verdict, Work, token_of};
use super::{Rules, invariants, statements};
use crate::mutant::Mutant;

/// One step of somebody. Each variant names the code it stands for in [`crate::bridge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Redis offers a ticket, whatever it knows; a dispatcher draws a token, looks at its clock, and asks.
    Offer(usize, Work),
    /// PostgreSQL runs what the dispatcher has sent.
    Run(usize, Kind, Answer),
    /// The request is written, if the lease covers the attempt; else the lease goes back.
    Begin(usize),
    /// The lease goes back unused: an endpoint is paused, a proxy is away, the process is asked to stop.
    GiveBack(usize),
    /// No attempt, and none to come: the endpoint is gone, the event has expired.
    Abandon(usize),
    /// The endpoint said 2xx.
    Accept(usize),
    /// Any other end of a request.
    Fail(usize),
    /// The mutant [`Mutant::RedisIsToldFirst`] only: Redis hears of the end before PostgreSQL does.
    TellRedis(usize),
    /// Killed, at any point.
    Die(usize),
    /// The relay has not heard a dispatcher for too long, declares it dead, and ends its lease; or that of one that died.
    EndLease(Work),
    /// A statement runs whose connection is gone.
    OrphanRuns,
    /// Such a statement is given up by the server.
    OrphanEnds,
    /// PostgreSQL is killed and comes back.
    CrashPostgres,
    /// PostgreSQL's log reaches the disk by itself.
    LogReachesDisk,
    /// Time passes, on all clocks but those of these dispatchers (a bit each).
    Tick(u8),
    /// An operator replays a dead letter.
    Replay(usize),
    /// Somebody cancels what is not being attempted.
    Cancel(Work),
}

/// What comes back of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Its result.
    Arrives,
    /// Nothing: the connection died after it had run.
    Lost,
    /// Nothing: the connection died before it arrived.
    NeverSent,
    /// Nothing, and it may still run.
    StillRunning,
}

/// Everything that may happen in this state.
pub(crate) fn possible(rules: &Rules, state: &State, actions: &mut Vec<Action>) {
    for (dispatcher, hand) in rules.dispatchers(state) {
        of_dispatcher(rules, state, dispatcher, hand, actions);
    }
    if state.orphan.is_some() {
        actions.extend([Action::OrphanRuns, Action::OrphanEnds]);
    }
    actions.extend([Action::CrashPostgres, Action::LogReachesDisk]);
    let clocks = rules.dispatchers(state).filter(|(_, hand)| may_slow(hand));
    let slow: u8 = clocks.fold(0, |mask, (dispatcher, _)| mask | 1 << dispatcher);
    actions.extend(subsets(slow).map(Action::Tick));
    for delivery in 0..rules.deliveries {
        actions.push(Action::Replay(delivery));
    }
    actions.extend(rows(rules, state).map(Action::Cancel));
    actions.extend(rows(rules, state).map(Action::EndLease));
}

fn of_dispatcher(
    rules: &Rules,
    state: &State,
    dispatcher: usize,
    hand: Hand,
    actions: &mut Vec<Action>,
) {
    let mut run = |kind, answers: &[Answer]| {
        let is_possible =
            |answer: &&Answer| **answer != Answer::StillRunning || state.orphan.is_none();
        let answers = answers.iter().filter(is_possible);
        actions.extend(answers.map(|answer| Action::Run(dispatcher, kind, *answer)));
    };
    // A statement that never arrived leaves everything as it was, but for a claim.
    const REPEATED: [Answer; 3] = [Answer::Arrives, Answer::Lost, Answer::StillRunning];
    match hand {
        // A ticket for a row that is not there is refused and changes nothing. One that appears while
        // the question is on its way could as well have been asked for then.
        Hand::Idle => {
            actions.extend(rows(rules, state).map(|work| Action::Offer(dispatcher, work)));
            return;
        }
        Hand::Asking(..) => {
            run(Kind::Claim, &REPEATED);
            run(Kind::Claim, &[Answer::NeverSent]);
        }
        Hand::Unclear(_) => run(Kind::Unclaim, &REPEATED),
        Hand::Claimed(..) => actions.extend([
            Action::Begin(dispatcher),
            Action::GiveBack(dispatcher),
            Action::Abandon(dispatcher),
        ]),
        Hand::Sending(..) => actions.extend([
            Action::Accept(dispatcher),
            Action::Fail(dispatcher),
            Action::GiveBack(dispatcher),
        ]),
        Hand::Settling(_, Verdict::Delivered) => run(Kind::Deliver, &REPEATED),
        Hand::Settling(_, Verdict::Failed) => {
            run(Kind::Retry, &REPEATED);
            run(Kind::Bury, &REPEATED);
        }
        Hand::Settling(_, Verdict::Release) => run(Kind::Release, &REPEATED),
    }
    if rules.is(Mutant::RedisIsToldFirst) && matches!(hand, Hand::Settling(..)) {
        actions.push(Action::TellRedis(dispatcher));
    }
    actions.push(Action::Die(dispatcher));
}

/// Takes a step.
pub(crate) fn take(rules: &Rules, mut state: State, action: Action) -> State {
    let hand = |dispatcher: usize| state.dispatchers[dispatcher];
    match action {
        Action::Offer(dispatcher, work) => {
            let clock = Clock::started(rules);
            state.dispatchers[dispatcher] = Hand::Asking(work, clock);
        }
        Action::Run(dispatcher, kind, answer) => run(rules, &mut state, dispatcher, kind, answer),
        Action::Begin(dispatcher) => {
            if let Hand::Claimed(work, clock) = hand(dispatcher) {
                state.dispatchers[dispatcher] = begin(rules, work, clock);
            }
        }
        Action::GiveBack(dispatcher) => settle(&mut state, dispatcher, Verdict::Release),
        Action::Abandon(dispatcher) | Action::Fail(dispatcher) => {
            settle(&mut state, dispatcher, Verdict::Failed);
        }
        Action::Accept(dispatcher) => settle(&mut state, dispatcher, Verdict::Delivered),
        Action::TellRedis(dispatcher) => {
            if let Some(work) = hand(dispatcher).work() {
                state.deliveries[usize::from(work.delivery)].told_done = true;
            }
        }
        Action::Die(dispatcher) => state.let_go(dispatcher),
        Action::EndLease(work) => end_lease(rules, &mut state, work),
        Action::OrphanRuns => {
            if let Some(statement) = state.orphan {
                run_judged(rules, &mut state, statement);
                state.end_orphan();
            }
        }
        Action::OrphanEnds => state.end_orphan(),
        Action::CrashPostgres => crash_postgres(&mut state),
        Action::LogReachesDisk => statements::commit_durably(&mut state),
        Action::Tick(slow) => tick(rules, &mut state, slow),
        Action::Replay(delivery) => {
            if statements::replay(rules, &mut state, delivery) {
                state.deliveries[delivery].told_done = false;
            }
        }
        Action::Cancel(work) => {
            let before = state;
            statements::cancel(rules, &mut state, work);
            invariants::judge_cancellation(&before, &mut state, work);
        }
    }
    state
}

/// A statement of a dispatcher, and what the dispatcher makes of the answer.
fn run(rules: &Rules, state: &mut State, dispatcher: usize, kind: Kind, answer: Answer) {
    let hand = state.dispatchers[dispatcher];
    let Some(work) = hand.work() else { return };
    let statement = Statement {
        kind,
        work,
        token: token_of(dispatcher),
    };
    let has_touched = match answer {
        Answer::Arrives | Answer::Lost => run_judged(rules, state, statement),
        Answer::NeverSent => false,
        Answer::StillRunning => {
            state.orphan = Some(statement);
            false
        }
    };
    match (hand, answer) {
        (Hand::Asking(work, clock), Answer::Arrives) if has_touched => {
            state.dispatchers[dispatcher] = Hand::Claimed(work, clock);
        }
        (_, Answer::Arrives) => state.let_go(dispatcher),
        (Hand::Asking(work, _), _) => state.dispatchers[dispatcher] = Hand::Unclear(work),
        // Repeated until an answer comes.
        (_, Answer::Lost | Answer::NeverSent | Answer::StillRunning) => {}
    }
}

fn run_judged(rules: &Rules, state: &mut State, statement: Statement) -> bool {
    let before = *state;
    let has_touched = statements::run(rules, state, statement);
    invariants::judge_statement(&before, state, statement);
    has_touched
}

/// The dispatcher's look at its own clock, just before it sends.
fn begin(rules: &Rules, work: Work, clock: Clock) -> Hand {
    let is_silent = clock.is_dead && !rules.is(Mutant::TheSilentSend);
    if clock.left < rules.ticks_to_begin() || is_silent {
        return Hand::Settling(work, Verdict::Release);
    }
    // From here on only the attempt's own deadline counts.
    Hand::Sending(work, Clock { left: 0, ..clock }, rules.timeout_ticks)
}

fn settle(state: &mut State, dispatcher: usize, verdict: Verdict) {
    if let Some(work) = state.dispatchers[dispatcher].work() {
        state.dispatchers[dispatcher] = Hand::Settling(work, verdict);
    }
}

/// A dispatcher begins nothing when its last beat is older than it may be before it is taken for dead. So
/// what it has not begun it never will, and what is under way may be sent again by somebody else.
fn end_lease(rules: &Rules, state: &mut State, work: Work) {
    let ended = statements::end_lease(state, work);
    let is_declared = !rules.is(Mutant::LeasesEndUndeclared);
    for (dispatcher, hand) in state.dispatchers.iter_mut().enumerate() {
        if ended == token_of(dispatcher) && is_declared {
            match hand {
                Hand::Sending(_, clock, _) => clock.is_excused = true,
                Hand::Asking(_, clock) | Hand::Claimed(_, clock) => clock.is_dead = true,
                Hand::Idle | Hand::Unclear(_) | Hand::Settling(..) => {}
            }
        }
    }
}

fn crash_postgres(state: &mut State) {
    let before = *state;
    statements::crash(state);
    let after = *state;
    for (dispatcher, hand) in state.dispatchers.iter_mut().enumerate() {
        let Some(work) = hand.work() else { continue };
        let holds =
            |state: &State| state.row(work).map(|row| row.now.token) == Some(token_of(dispatcher));
        let is_forgotten = holds(&before) && !holds(&after);
        if let Some(clock) = hand.clock_mut().filter(|_| is_forgotten) {
            clock.is_excused = true;
        }
        // A lease that is there again was ended by a commit that is forgotten, as is that of the mark before it.
        let is_back = !holds(&before) && holds(&after);
        if let Some(clock) = hand.clock_mut().filter(|_| is_back) {
            clock.is_dead = false;
        }
    }
}

fn tick(rules: &Rules, state: &mut State, slow: u8) {
    for row in state.rows_mut() {
        row.now.ends_in = row.now.ends_in.saturating_sub(1);
        row.on_disk.ends_in = row.on_disk.ends_in.saturating_sub(1);
    }
    for (dispatcher, hand) in state.dispatchers.iter_mut().enumerate() {
        let is_slow = slow & (1 << dispatcher) != 0;
        if let Hand::Sending(work, clock, left) = hand {
            *hand = match (is_slow, *left) {
                (true, left) => Hand::Sending(
                    *work,
                    Clock {
                        is_slow: true,
                        ..*clock
                    },
                    left,
                ),
                (false, 0 | 1) => Hand::Settling(*work, Verdict::Failed),
                (false, left) => Hand::Sending(*work, *clock, left - 1),
            };
        } else if let Some(clock) = hand.clock_mut() {
            clock.tick(rules, is_slow);
        }
    }
}

impl Clock {
    /// A lease about to be asked for.
    fn started(rules: &Rules) -> Self {
        Self {
            left: rules.lease_ticks(),
            is_slow: false,
            is_dead: false,
            is_excused: false,
        }
    }

    fn tick(&mut self, rules: &Rules, is_slow: bool) {
        if is_slow {
            self.is_slow = true;
        } else if !rules.is(Mutant::LeaseCountsFromTheAnswer) {
            // The answer may take as long as it likes; with that mutant nothing counts until it is there.
            self.left = self.left.saturating_sub(1);
        }
        if self.left < rules.ticks_to_begin() {
            // Nothing is sent any more, so nothing else matters.
            *self = Self {
                left: 0,
                is_slow: false,
                is_dead: false,
                is_excused: false,
            };
        }
    }
}

fn may_slow(hand: &Hand) -> bool {
    match hand {
        Hand::Asking(_, clock) | Hand::Claimed(_, clock) => clock.left > 0 && !clock.is_slow,
        Hand::Sending(_, clock, _) => !clock.is_slow,
        Hand::Idle | Hand::Unclear(_) | Hand::Settling(..) => false,
    }
}

/// Every subset of a set of bits, the whole set and the empty one included.
fn subsets(set: u8) -> impl Iterator<Item = u8> {
    (0..=set).filter(move |subset| subset & !set == 0)
}

/// What tickets can lead to.
pub(crate) fn rows(rules: &Rules, state: &State) -> impl Iterator<Item = Work> {
    let deliveries = state.deliveries;
    (0..rules.deliveries).flat_map(move |delivery| {
        let rows = deliveries[delivery].outbox.into_iter().enumerate();
        rows.filter_map(move |(seq, row): (usize, Option<Row>)| {
            Some(Work {
                delivery: u8::try_from(delivery).expect("a few"),
                seq: u8::try_from(seq).expect("two"),
                generation: row?.generation,
            })
        })
    })
}
