//! Steps as sentences.

use super::actions::Action;
use super::state::{Numbers, Poll, Stage, State, Walk};

/// What happens, and what it shows where that is not obvious.
pub(crate) fn sentence(before: &State, action: Action, after: &State) -> String {
    let number = |writer: usize| match (before.writers[writer].stage, after.writers[writer].stage) {
        (Stage::Drawn(_, number), _) | (_, Stage::Drawn(_, number)) => number,
        _ => 0,
    };
    match action {
        Action::Begin(writer) => match after.writers[writer].stage {
            Stage::Begun(id) => format!("event {} begins transaction {id}", writer + 1),
            _ => format!("event {} is recognised, and acknowledged", writer + 1),
        },
        Action::Draw(writer) => format!("event {} draws number {}", writer + 1, number(writer)),
        Action::Accept(writer) => format!(
            "event {} is committed as number {}, and acknowledged",
            writer + 1,
            number(writer)
        ),
        Action::AcceptUnheard(writer) => format!(
            "event {} is committed as number {}; the answer is lost",
            writer + 1,
            number(writer)
        ),
        Action::Publish(writer) => format!(
            "event {} is committed as number {}, not on disk yet",
            writer + 1,
            number(writer)
        ),
        Action::RollBack(writer) => {
            format!(
                "event {} is rolled back, number {} with it",
                writer + 1,
                number(writer)
            )
        }
        Action::HandOver => hand_over(before, after),
        Action::PushFails => "Redis does not answer the relay".to_owned(),
        Action::LoseConnection => "the relay's connection to PostgreSQL breaks".to_owned(),
        Action::RecordWatermark => format!("the relay records watermark {}", after.now.watermark),
        Action::Sweep => sweep(before, after),
        Action::RelayDies => "the relay is killed".to_owned(),
        Action::RelayStarts => "a relay takes the lead".to_owned(),
        Action::EmptyRedis => "Redis is emptied".to_owned(),
        Action::DropStale(number) => {
            format!("a dispatcher finds no row {number} and drops the ticket")
        }
        Action::CrashPostgres => {
            "PostgreSQL crashes, comes back, and has forgotten what was not on disk".to_owned()
        }
        Action::LogReachesDisk => "PostgreSQL's log reaches the disk".to_owned(),
    }
}

fn hand_over(before: &State, after: &State) -> String {
    if before.relay.cursor.is_none() {
        return format!("the hand-over begins at watermark {}", after.now.watermark);
    }
    match after.relay.poll {
        Poll::HasXmin(xmin) => format!("the hand-over reads xmin {xmin}"),
        Poll::HasLookedUp(evidence) => format!(
            "the hand-over looks up gaps {}, and finds {}",
            list(evidence.looked_up),
            list(evidence.found)
        ),
        Poll::HasPage(_, page) => format!("the hand-over reads a page with {}", list(page)),
        Poll::HasDate(_, _, 0) => "the hand-over has no new gap".to_owned(),
        Poll::HasDate(_, _, date) => format!("the hand-over dates its new gaps {date}"),
        Poll::HasPushed(..) => "the hand-over pushes its tickets".to_owned(),
        Poll::Resting => format!(
            "the hand-over is at {}, with gaps {}",
            after.relay.cursor.unwrap_or(0),
            list(after.relay.open_gaps())
        ),
    }
}

fn sweep(before: &State, after: &State) -> String {
    if before.redis.epoch != after.redis.epoch {
        return format!("the sweep begins epoch {}", after.redis.epoch);
    }
    match (before.relay.walk, after.relay.walk) {
        (_, Walk::HasPage(page)) => format!("the sweep reads {}", list(page)),
        (Walk::HasPage(_), _) => format!(
            "the sweep has offered its rows; tickets are {}",
            list(after.redis.tickets)
        ),
        _ if after.relay.epoch == 0 => "the sweep finds its epoch gone".to_owned(),
        _ => format!("the sweep takes over epoch {}", after.relay.epoch),
    }
}

fn list(numbers: Numbers) -> String {
    let all: Vec<String> = numbers.each().map(|number| number.to_string()).collect();
    if all.is_empty() {
        return "none".to_owned();
    }
    all.join(", ")
}
