//! Steps as sentences.

use super::actions::{Action, Answer};
use super::state::{Broken, Hand, Kind, State, Token, Work, token_of};

/// What happens, and what it does where that is not obvious.
pub(crate) fn sentence(before: &State, action: Action, after: &State) -> String {
    let told = match action {
        Action::Offer(dispatcher, work) => format!(
            "{} gets a ticket for {} and asks for the lease",
            who(dispatcher),
            what(work)
        ),
        Action::Run(dispatcher, kind, answer) => run(before, after, dispatcher, kind, answer),
        Action::Begin(dispatcher) => match after.dispatchers[dispatcher] {
            Hand::Sending(work, ..) => {
                format!("{} sends the request of {}", who(dispatcher), what(work))
            }
            _ => format!(
                "{} finds its lease nearly over and sends nothing",
                who(dispatcher)
            ),
        },
        Action::GiveBack(dispatcher) => {
            format!("{} makes no attempt and is to release", who(dispatcher))
        }
        Action::Abandon(dispatcher) => {
            format!("{} makes no attempt, and none is to come", who(dispatcher))
        }
        Action::Accept(dispatcher) => format!("the endpoint answers 2xx to {}", who(dispatcher)),
        Action::Fail(dispatcher) => format!("the attempt of {} fails", who(dispatcher)),
        Action::TellRedis(dispatcher) => {
            format!("{} tells Redis that its ticket is done", who(dispatcher))
        }
        Action::Die(dispatcher) => format!("{} is killed, and starts again", who(dispatcher)),
        Action::EndLease(work) => format!(
            "the relay takes a dispatcher for dead and ends its lease of {}",
            what(work)
        ),
        Action::OrphanRuns => match before.orphan {
            Some(orphan) => format!(
                "PostgreSQL runs the {} for {} that nobody waits for{}",
                statement(orphan.kind),
                what(orphan.work),
                effect(before, after, orphan.work)
            ),
            None => "nothing runs".to_owned(),
        },
        Action::OrphanEnds => "PostgreSQL drops a statement that nobody waits for".to_owned(),
        Action::CrashPostgres => {
            "PostgreSQL crashes, comes back, and has forgotten what was not on disk".to_owned()
        }
        Action::LogReachesDisk => "PostgreSQL's log reaches the disk".to_owned(),
        Action::Tick(0) => "time passes".to_owned(),
        Action::Tick(slow) => {
            let slow = (0..8).filter(|dispatcher| slow & (1 << dispatcher) != 0);
            let names: Vec<String> = slow.map(who).collect();
            format!("time passes, unnoticed by {}", names.join(" and "))
        }
        Action::Replay(delivery) => format!("an operator replays delivery {}", delivery + 1),
        Action::Cancel(work) => format!(
            "somebody cancels {}{}",
            what(work),
            effect(before, after, work)
        ),
    };
    match after.broken {
        None => told,
        Some(broken) => format!("{told}. {}", consequence(broken)),
    }
}

fn run(before: &State, after: &State, dispatcher: usize, kind: Kind, answer: Answer) -> String {
    let (who, statement) = (who(dispatcher), statement(kind));
    let work = before.dispatchers[dispatcher].work();
    let effect = work.map_or(String::new(), |work| effect(before, after, work));
    match answer {
        Answer::Arrives => format!("{who} runs {statement}{effect}"),
        Answer::Lost => format!("{who} runs {statement}{effect}; the answer is lost"),
        Answer::NeverSent => format!("{who} loses its connection before {statement} arrives"),
        Answer::StillRunning => format!("{who} loses its connection while {statement} waits"),
    }
}

/// What has become of a row.
fn effect(before: &State, after: &State, work: Work) -> String {
    match (before.row(work), after.row(work)) {
        (Some(_), None) => {
            let finished = after.deliveries[usize::from(work.delivery)].finished;
            match finished[usize::from(work.generation)] {
                Some(outcome) => format!(": the row is gone, {outcome:?}"),
                None => ": the row is gone".to_owned(),
            }
        }
        (Some(was), Some(is)) if was.now != is.now => match is.now.token {
            Token::None => ": the row is free".to_owned(),
            Token::Of(_) | Token::OfOrphan | Token::Nobodys => ": the row is leased".to_owned(),
        },
        _ => ": nothing to do".to_owned(),
    }
}

fn who(dispatcher: usize) -> String {
    let letter = match token_of(dispatcher) {
        Token::Of(0) => 'A',
        Token::Of(1) => 'B',
        _ => 'C',
    };
    format!("dispatcher {letter}")
}

fn what(work: Work) -> String {
    match work.seq {
        0 => format!("delivery {}", work.delivery + 1),
        _ => format!("delivery {}, replayed", work.delivery + 1),
    }
}

fn statement(kind: Kind) -> &'static str {
    match kind {
        Kind::Claim => "CLAIM (T2)",
        Kind::Unclaim => "UNCLAIM",
        Kind::Deliver => "DELIVER (T3, T6)",
        Kind::Retry => "RETRY (T4)",
        Kind::Bury => "BURY (T5)",
        Kind::Release => "RELEASE",
    }
}

fn consequence(broken: Broken) -> &'static str {
    match broken {
        Broken::FinishedTwice => "The generation is finished a second time",
        Broken::SuccessUndone => "A success was undone",
        Broken::SuccessDropped => "The success does not count",
        Broken::LeaseTaken => "A lease is taken from its holder",
    }
}
