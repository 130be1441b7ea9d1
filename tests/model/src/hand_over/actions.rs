//! What can happen next, and what it does.

use super::Rules;
use super::state::{
    Evidence, NUMBERS_MAX, Numbers, Poll, Redis, Relay, Stage, State, Walk, Writer,
};
use crate::mutant::Mutant;

/// One step of somebody. Each variant names the code it stands for in [`crate::bridge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A writer inserts its event, and with that owns a transaction id.
    Begin(usize),
    /// It inserts the outbox row, which draws a number.
    Draw(usize),
    /// It commits synchronously, and the publisher gets its 202.
    Accept(usize),
    /// It commits synchronously, and the answer is lost.
    AcceptUnheard(usize),
    /// A publisher in SQL commits asynchronously. Nobody was promised anything.
    Publish(usize),
    /// It ends without a commit. The number is lost.
    RollBack(usize),
    /// The hand-over takes its next step.
    HandOver,
    /// Redis takes no tickets: it is away, or the answer does not come.
    PushFails,
    /// The relay's connection to PostgreSQL breaks.
    LoseConnection,
    /// The watermark is recorded, asynchronously.
    RecordWatermark,
    /// The sweep takes its next step.
    Sweep,
    /// The relay is killed.
    RelayDies,
    /// A relay takes the lead.
    RelayStarts,
    /// Redis is emptied.
    EmptyRedis,
    /// A dispatcher is told by PostgreSQL that there is no such row, and the ticket is dropped.
    DropStale(u8),
    /// PostgreSQL is killed and comes back.
    CrashPostgres,
    /// PostgreSQL's log reaches the disk by itself.
    LogReachesDisk,
}

/// Everything that may happen in this state.
pub(crate) fn possible(rules: &Rules, state: &State, actions: &mut Vec<Action>) {
    for writer in 0..rules.writers {
        actions.extend(of_writer(rules, state, writer));
    }
    let relay = &state.relay;
    if relay.is_up {
        actions.extend([Action::HandOver, Action::Sweep]);
        if relay
            .cursor
            .is_some_and(|cursor| cursor > state.now.watermark)
        {
            actions.push(Action::RecordWatermark);
        }
    } else {
        actions.push(Action::RelayStarts);
    }
    let stale = state.redis.tickets.without(state.now.visible());
    actions.extend(stale.each().map(Action::DropStale));
    actions.push(Action::LogReachesDisk);
    if state.faults_left > 0 {
        actions.extend([Action::EmptyRedis, Action::CrashPostgres]);
        if relay.is_up {
            actions.push(Action::RelayDies);
            if relay.poll != Poll::Resting {
                actions.extend([Action::PushFails, Action::LoseConnection]);
            }
        }
    }
}

pub(crate) fn of_writer(rules: &Rules, state: &State, writer: usize) -> Vec<Action> {
    let has_room = usize::from(state.now.next_number) <= NUMBERS_MAX;
    match state.writers[writer].stage {
        Stage::Waiting if rules.is(Mutant::DrawsBeforeOwningAnId) => vec![Action::Draw(writer)],
        Stage::Waiting => vec![Action::Begin(writer)],
        Stage::Begun(_) if has_room => vec![Action::Draw(writer)],
        Stage::Drawn(..) => {
            let mut ends = vec![
                Action::Accept(writer),
                Action::Publish(writer),
                Action::RollBack(writer),
            ];
            if state.faults_left > 0 {
                ends.push(Action::AcceptUnheard(writer));
            }
            ends
        }
        Stage::Begun(_) | Stage::Ended => vec![],
    }
}

/// Takes a step.
pub(crate) fn take(rules: &Rules, mut state: State, action: Action) -> State {
    match action {
        Action::Begin(writer) => begin(rules, &mut state, writer),
        Action::Draw(writer) => draw(rules, &mut state, writer),
        Action::Accept(writer) => {
            commit(&mut state, writer);
            if !rules.is(Mutant::AcknowledgesWhatMayBeForgotten) {
                state.on_disk = state.now;
            }
            end(&mut state, writer, Stage::Ended, true);
        }
        Action::AcceptUnheard(writer) => {
            commit(&mut state, writer);
            state.on_disk = state.now;
            state.faults_left -= 1;
            end(&mut state, writer, Stage::Waiting, false);
        }
        Action::Publish(writer) => {
            commit(&mut state, writer);
            end(&mut state, writer, Stage::Ended, false);
        }
        Action::RollBack(writer) => end(&mut state, writer, Stage::Ended, false),
        Action::HandOver => hand_over(rules, &mut state),
        Action::PushFails => {
            state.faults_left -= 1;
            state.relay.poll = Poll::Resting;
        }
        Action::LoseConnection => {
            state.faults_left -= 1;
            lose_connection(rules, &mut state.relay);
        }
        Action::RecordWatermark => {
            let cursor = state.relay.cursor.unwrap_or(0);
            state.now.watermark = state.now.watermark.max(cursor);
        }
        Action::Sweep => sweep(rules, &mut state),
        Action::RelayDies => {
            state.faults_left -= 1;
            state.relay = Relay {
                is_up: false,
                ..Relay::started()
            };
        }
        Action::RelayStarts => start_relay(&mut state),
        Action::EmptyRedis => {
            state.faults_left -= 1;
            state.redis = Redis {
                epoch: 0,
                tickets: Numbers::default(),
            };
        }
        Action::DropStale(number) => {
            state.redis.tickets = state.redis.tickets.without(Numbers::one(number));
        }
        Action::CrashPostgres => crash_postgres(rules, &mut state),
        Action::LogReachesDisk => state.on_disk = state.now,
    }
    state
}

/// An event that is there is recognised, and its publisher told.
fn begin(rules: &Rules, state: &mut State, writer: usize) {
    if !is_recognised(rules, state, writer) {
        state.writers[writer].stage = Stage::Begun(take_xact_id(state));
    }
}

fn is_recognised(rules: &Rules, state: &mut State, writer: usize) -> bool {
    let is_there = state.now.rows.contains(&event_of(writer));
    let is_recognised = is_there && !rules.is(Mutant::RepetitionsAreNotRecognised);
    if is_recognised {
        end(state, writer, Stage::Ended, true);
    }
    is_recognised
}

fn draw(rules: &Rules, state: &mut State, writer: usize) {
    if state.writers[writer].stage == Stage::Waiting && is_recognised(rules, state, writer) {
        return; // only the mutant comes here without an id
    }
    let number = state.now.next_number;
    state.now.next_number += 1;
    let id = match state.writers[writer].stage {
        Stage::Begun(id) => id,
        _ => 0,
    };
    state.writers[writer].stage = Stage::Drawn(id, number);
    if rules.is(Mutant::TicketsBeforeTheCommit) && state.redis.epoch > 0 {
        state.redis.tickets = state.redis.tickets.and(Numbers::one(number));
    }
    if rules.is(Mutant::AcknowledgesBeforeTheCommit) {
        state.writers[writer].is_acknowledged = true;
    }
}

fn commit(state: &mut State, writer: usize) {
    if let Stage::Drawn(_, number) = state.writers[writer].stage {
        state.now.rows[usize::from(number)] = event_of(writer);
    }
}

fn end(state: &mut State, writer: usize, stage: Stage, is_acknowledged: bool) {
    let it = &mut state.writers[writer];
    it.stage = stage;
    it.is_acknowledged |= is_acknowledged;
}

/// `HandOver::step`, one question at a time: xmin, the rows of the gaps, the page, an own transaction id, the
/// push, and then at once what follows from it.
fn hand_over(rules: &Rules, state: &mut State) {
    let visible = state.now.visible();
    let xmin = if rules.is(Mutant::ComparesWithXmax) {
        state.next_xact_id
    } else {
        state.xmin()
    };
    let relay = &mut state.relay;
    let Some(cursor) = relay.cursor else {
        read_watermark(state);
        return;
    };
    if relay.epoch == 0 && relay.poll == Poll::Resting {
        return; // the sweep is about to begin one
    }
    let behind = visible.without(Numbers::up_to(cursor));
    match relay.poll {
        Poll::Resting if rules.is(Mutant::DatesGapsBeforeThePage) => {
            let evidence = look_up(relay, visible, xmin);
            let earlier = state.next_xact_id - 1;
            relay.poll = Poll::HasDate(evidence, Numbers::default(), earlier);
        }
        Poll::Resting if relay.open_gaps() == Numbers::default() => {
            read_page(rules, relay, Evidence::default(), behind);
        }
        Poll::Resting if rules.is(Mutant::ReadsXminAfterTheLookUp) => {
            relay.poll = Poll::HasLookedUp(look_up(relay, visible, 0));
        }
        Poll::Resting => relay.poll = Poll::HasXmin(xmin),
        Poll::HasXmin(xmin) => relay.poll = Poll::HasLookedUp(look_up(relay, visible, xmin)),
        Poll::HasLookedUp(mut evidence) => {
            if rules.is(Mutant::ReadsXminAfterTheLookUp) {
                evidence.xmin = xmin;
            }
            read_page(rules, relay, evidence, behind);
        }
        Poll::HasPage(evidence, page) => {
            let date = take_xact_id(state);
            state.relay.poll = Poll::HasDate(evidence, page, date);
        }
        Poll::HasDate(evidence, page, date) if rules.is(Mutant::MovesBeforeItPushes) => {
            let epoch = relay.epoch;
            settle(rules, relay, evidence, page, date, epoch);
            relay.poll = Poll::HasPushed(evidence, page, date, epoch);
        }
        Poll::HasPushed(evidence, page, ..) if rules.is(Mutant::MovesBeforeItPushes) => {
            push(rules, state, evidence, page, 0);
            state.relay.poll = Poll::Resting;
        }
        Poll::HasDate(evidence, _, date) if rules.is(Mutant::DatesGapsBeforeThePage) => {
            push(rules, state, evidence, behind, date);
        }
        Poll::HasDate(evidence, page, date) => push(rules, state, evidence, page, date),
        Poll::HasPushed(evidence, page, date, epoch) => {
            settle(rules, relay, evidence, page, date, epoch);
        }
    }
}

/// The page behind the cursor; what follows needs no question if it brought nothing.
fn read_page(rules: &Rules, relay: &mut Relay, evidence: Evidence, page: Numbers) {
    let cursor = relay.cursor.unwrap_or(0);
    if missing(cursor, page) != Numbers::default() {
        relay.poll = Poll::HasPage(evidence, page);
    } else if evidence.found.and(page) != Numbers::default() {
        relay.poll = Poll::HasDate(evidence, page, 0);
    } else {
        let epoch = relay.epoch;
        settle(rules, relay, evidence, page, 0, epoch);
    }
}

/// Another process takes the lead, or the same one again. It knows nothing of the last one's ledger.
fn start_relay(state: &mut State) {
    state.relay = Relay::started();
    let watermark = state.now.watermark;
    for writer in &mut state.writers {
        writer.is_late = match writer.stage {
            Stage::Drawn(_, number) => number <= watermark,
            Stage::Waiting | Stage::Begun(_) | Stage::Ended => false,
        };
    }
}

fn read_watermark(state: &mut State) {
    let watermark = state.now.watermark;
    state.relay.cursor = Some(watermark);
    state.relay.handed_over = Some(watermark);
}

fn look_up(relay: &Relay, visible: Numbers, xmin: u8) -> Evidence {
    let looked_up = relay.open_gaps();
    Evidence {
        xmin,
        looked_up,
        found: looked_up.within(visible),
    }
}

/// The numbers between the cursor and the last of the page that are not on it.
fn missing(cursor: u8, page: Numbers) -> Numbers {
    let last = page.last().unwrap_or(cursor);
    let between = Numbers::up_to(last).without(Numbers::up_to(cursor));
    between.without(page)
}

fn push(rules: &Rules, state: &mut State, evidence: Evidence, page: Numbers, date: u8) {
    let rows = if rules.is(Mutant::TicketsBeforeTheCommit) {
        Numbers::default() // ingest has pushed them
    } else {
        evidence.found.and(page)
    };
    let relay = &mut state.relay;
    let epoch = relay.epoch;
    relay.poll = Poll::HasPushed(evidence, page, date, epoch);
    if rows == Numbers::default() {
        return;
    }
    if epoch != 0 && epoch == state.redis.epoch {
        state.redis.tickets = state.redis.tickets.and(rows);
    } else {
        relay.epoch = 0;
        relay.poll = Poll::Resting;
    }
}

/// The ledger and the cursor, in one go.
fn settle(
    rules: &Rules,
    relay: &mut Relay,
    evidence: Evidence,
    page: Numbers,
    date: u8,
    epoch: u8,
) {
    let cursor = relay.cursor.unwrap_or(0);
    relay.poll = Poll::Resting;
    // The sweep begins a walk with each epoch, not with forgetting one.
    let has_walk_begun = relay.epoch != 0 && relay.epoch != epoch;
    if has_walk_begun && !rules.is(Mutant::MovesBehindAWalk) {
        return; // the tickets may be gone, and the walk may have left these rows to us
    }
    for number in evidence.looked_up.each() {
        let gap = &mut relay.gaps[usize::from(number)];
        if evidence.found.has(number) || *gap < evidence.xmin {
            *gap = 0;
        }
    }
    if !rules.is(Mutant::KeepsNoLedger) {
        for number in missing(cursor, page).each() {
            relay.gaps[usize::from(number)] = date;
        }
    }
    relay.cursor = Some(page.last().unwrap_or(cursor));
    relay.handed_over = relay.cursor;
}

/// Looks after the epoch, then walks: reads the outbox, and offers what has been handed over.
fn sweep(rules: &Rules, state: &mut State) {
    let visible = state.now.visible();
    let State { relay, redis, .. } = state;
    if relay.epoch == 0 || (relay.walk == Walk::None && relay.epoch != redis.epoch) {
        let is_emptied = redis.epoch == 0;
        if is_emptied {
            redis.epoch = fresh_epoch(relay);
        }
        relay.epoch = redis.epoch;
        let walks = is_emptied || !rules.is(Mutant::TakesOverWithoutAWalk);
        relay.walk = if walks { Walk::Due } else { Walk::None };
        return;
    }
    relay.walk = match relay.walk {
        Walk::None => Walk::None,
        Walk::Due => {
            for (writer, it) in (0..).zip(&mut state.writers) {
                it.is_late &= !state.now.rows.contains(&event_of(writer));
            }
            Walk::HasPage(visible)
        }
        Walk::HasPage(page) => {
            let known = relay.handed_over.map_or(page, Numbers::up_to);
            let rows = page.within(known);
            if rows != Numbers::default() && relay.epoch == redis.epoch {
                redis.tickets = redis.tickets.and(rows);
            } else if rows != Numbers::default() {
                relay.epoch = 0;
            }
            Walk::None
        }
    };
}

/// Epochs are random. A small number that nobody has in mind is as good.
fn fresh_epoch(relay: &Relay) -> u8 {
    let known = |epoch: &u8| match relay.poll {
        Poll::HasPushed(_, _, _, pushed) => pushed == *epoch || relay.epoch == *epoch,
        _ => relay.epoch == *epoch,
    };
    (1..).find(|epoch| !known(epoch)).unwrap_or(u8::MAX)
}

/// An error from PostgreSQL: the position is read anew, the ledger is kept.
fn lose_connection(rules: &Rules, relay: &mut Relay) {
    relay.poll = Poll::Resting;
    if !rules.is(Mutant::KeepsItsPlaceAfterAnError) {
        relay.cursor = None;
    }
}

/// Running transactions are gone, and so is what was not on disk: rows, numbers, ids, the watermark. Ingest
/// runs its batch again. The relay meets the error with its next question.
fn crash_postgres(rules: &Rules, state: &mut State) {
    state.faults_left -= 1;
    state.now = state.on_disk;
    for writer in &mut state.writers {
        if let Stage::Begun(_) | Stage::Drawn(..) = writer.stage {
            *writer = Writer {
                stage: Stage::Waiting,
                ..*writer
            };
        }
    }
    lose_connection(rules, &mut state.relay);
    if let Walk::HasPage(_) = state.relay.walk {
        state.relay.walk = Walk::Due;
    }
}

fn take_xact_id(state: &mut State) -> u8 {
    state.next_xact_id += 1;
    state.next_xact_id - 1
}

/// Events are counted from 1, as 0 stands for no row.
pub(crate) fn event_of(writer: usize) -> u8 {
    u8::try_from(writer + 1).expect("a few")
}
