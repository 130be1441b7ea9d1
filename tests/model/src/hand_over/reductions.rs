//! Of states that differ in names only, one stands for the others.

use super::actions::event_of;
use super::state::{Evidence, FIRST_XACT_ID, Poll, Stage, State, WRITERS_MAX};

/// The state that stands for this one.
pub(crate) fn reduce(writers: usize, state: &State) -> State {
    count_ids_from_the_first(exchange_writers(writers, state))
}

/// Writers are alike but for what they have drawn and stored.
fn exchange_writers(writers: usize, state: &State) -> State {
    let mut order: [usize; WRITERS_MAX] = std::array::from_fn(|writer| writer);
    let row_of = |writer: usize, rows: &[u8]| rows.iter().position(|row| *row == event_of(writer));
    order[..writers].sort_by_key(|writer| {
        let rows = (
            row_of(*writer, &state.now.rows),
            row_of(*writer, &state.on_disk.rows),
        );
        (state.writers[*writer], rows)
    });
    let mut exchanged = *state;
    let mut new_event = [0; WRITERS_MAX + 1];
    for (new, old) in order.iter().enumerate() {
        exchanged.writers[new] = state.writers[*old];
        new_event[usize::from(event_of(*old))] = event_of(new);
    }
    for database in [&mut exchanged.now, &mut exchanged.on_disk] {
        for row in &mut database.rows {
            *row = new_event[usize::from(*row)];
        }
    }
    exchanged
}

/// Transaction ids are only ever compared, so all of them may be smaller by the same amount.
fn count_ids_from_the_first(mut state: State) -> State {
    let mut least = state.next_xact_id;
    each_id(&mut state, |id| least = least.min(*id));
    each_id(&mut state, |id| *id = *id - least + FIRST_XACT_ID);
    state
}

fn each_id(state: &mut State, mut visit: impl FnMut(&mut u8)) {
    let mut visit = |id: &mut u8| {
        if *id > 0 {
            visit(id);
        }
    };
    visit(&mut state.next_xact_id);
    for writer in &mut state.writers {
        if let Stage::Begun(id) | Stage::Drawn(id, _) = &mut writer.stage {
            visit(id);
        }
    }
    for date in &mut state.relay.gaps {
        visit(date);
    }
    match &mut state.relay.poll {
        Poll::Resting => {}
        Poll::HasXmin(xmin)
        | Poll::HasLookedUp(Evidence { xmin, .. })
        | Poll::HasPage(Evidence { xmin, .. }, _) => visit(xmin),
        Poll::HasDate(Evidence { xmin, .. }, _, date)
        | Poll::HasPushed(Evidence { xmin, .. }, _, date, _) => {
            visit(xmin);
            visit(date);
        }
    }
}
