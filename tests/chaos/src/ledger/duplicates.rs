//! Where a duplicate comes from: the list in `docs/guarantees.md`, and what the history says.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::arrivals::{Arrival, Treatment};
use crate::history::{History, Trouble};
use crate::service::{Link, Service};

/// The longest an attempt and the recording of its result take while nothing is wrong.
const ATTEMPT_TIME_MAX: Duration = Duration::from_secs(30);

/// The sources of duplicates, numbered as in `docs/guarantees.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// 1: a dispatcher died amid a request, or before its result was on record.
    DispatcherDied,
    /// 2: a lease ended while its owner still worked.
    LeaseEnded,
    /// 3: PostgreSQL crashed and forgot a claim.
    ClaimForgotten,
    /// 4: a graceful stop cut a request.
    StopCut,
    /// 5: the receiver's 2xx came late, or was lost on its way.
    AnswerLost,
    /// 6: a kept connection died under a request, which was sent once more within its attempt.
    ConnectionDied,
    /// Nothing on record explains it: a defect, of Zyven or of this list.
    Unexplained,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::DispatcherDied => "1 dispatcher died",
            Self::LeaseEnded => "2 lease ended",
            Self::ClaimForgotten => "3 claim forgotten",
            Self::StopCut => "4 stop cut it",
            Self::AnswerLost => "5 answer lost",
            Self::ConnectionDied => "6 connection died",
            Self::Unexplained => "unexplained",
        })
    }
}

/// Why `again` came although `first` was taken. `unanswered` are the attempts that Zyven has on record as failed
/// without a status. Several things may have been wrong at the same time; the first that explains it, in the order
/// below, is told.
pub(super) fn source_of(
    first: &Arrival,
    again: &Arrival,
    unanswered: &[i32],
    history: &History,
) -> Source {
    let before = |moment: SystemTime| moment.checked_sub(ATTEMPT_TIME_MAX).unwrap_or(moment);
    let answered_by = again.at.min(first.at + ATTEMPT_TIME_MAX);
    let between = |is_such: fn(Trouble) -> bool| history.overlaps(first.at, again.at, is_such);
    let is_unanswered = unanswered.contains(&first.attempt);
    if first.treatment == Treatment::TakenLate || is_unanswered && first.attempt < again.attempt {
        Source::AnswerLost
    } else if between(|one| matches!(one, Trouble::Killed(Service::Dispatcher, _))) {
        Source::DispatcherDied
    } else if history.overlaps(before(first.at), again.at, |one| {
        one == Trouble::PostgresCrashed
    }) {
        Source::ClaimForgotten
    } else if between(|one| matches!(one, Trouble::Terminated(Service::Dispatcher, _))) {
        Source::StopCut
    } else if history.overlaps(first.at, answered_by, breaks_answers) {
        Source::AnswerLost
    } else if history.overlaps(before(first.at), again.at, holds_up_results) {
        Source::LeaseEnded
    } else if first.attempt == again.attempt {
        Source::ConnectionDied
    } else {
        Source::Unexplained
    }
}

/// What can keep a 2xx from reaching the dispatcher.
fn breaks_answers(trouble: Trouble) -> bool {
    match trouble {
        Trouble::Link(Link::EgressReceiver | Link::DispatcherEgress)
        | Trouble::Killed(Service::Egress, _)
        | Trouble::Terminated(Service::Egress, _)
        | Trouble::Frozen(Service::Egress, _)
        | Trouble::Receiver => true,
        Trouble::Link(_)
        | Trouble::Killed(..)
        | Trouble::Terminated(..)
        | Trouble::Frozen(..)
        | Trouble::PostgresCrashed
        | Trouble::PostgresFrozen
        | Trouble::RedisAway
        | Trouble::RedisFrozen
        | Trouble::RedisEmptied => false,
    }
}

/// What can keep a result from being recorded within its lease.
fn holds_up_results(trouble: Trouble) -> bool {
    matches!(
        trouble,
        Trouble::Frozen(Service::Dispatcher, _)
            | Trouble::Link(Link::DispatcherPostgres)
            | Trouble::PostgresFrozen
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(at: SystemTime, attempt: i32, treatment: Treatment) -> Arrival {
        Arrival {
            at,
            endpoint: 0,
            webhook_id: None,
            attempt,
            treatment,
        }
    }

    /// Two arrivals around what happens between them.
    fn source(trouble: Option<Trouble>, attempts: (i32, i32), treatment: Treatment) -> Source {
        let mut history = History::default();
        let now = SystemTime::now();
        let first = arrival(now - Duration::from_secs(1), attempts.0, treatment);
        if let Some(trouble) = trouble {
            history.happened(trouble);
        }
        let again = arrival(now + Duration::from_secs(1), attempts.1, Treatment::Taken);
        source_of(&first, &again, &[], &history)
    }

    #[test]
    fn each_source_is_told_by_what_happened() {
        for (trouble, expected) in [
            (
                Trouble::Killed(Service::Dispatcher, 0),
                Source::DispatcherDied,
            ),
            (Trouble::PostgresCrashed, Source::ClaimForgotten),
            (Trouble::Terminated(Service::Dispatcher, 0), Source::StopCut),
            (Trouble::Killed(Service::Egress, 0), Source::AnswerLost),
            (Trouble::Link(Link::EgressReceiver), Source::AnswerLost),
            (Trouble::Frozen(Service::Dispatcher, 0), Source::LeaseEnded),
            (Trouble::Link(Link::DispatcherPostgres), Source::LeaseEnded),
        ] {
            assert_eq!(source(Some(trouble), (1, 2), Treatment::Taken), expected);
        }
        assert_eq!(
            source(None, (1, 1), Treatment::Taken),
            Source::ConnectionDied
        );
        assert_eq!(
            source(None, (1, 2), Treatment::TakenLate),
            Source::AnswerLost
        );
    }

    #[test]
    fn an_attempt_on_record_without_an_answer_explains_the_next_one_only() {
        let (then, now) = (SystemTime::UNIX_EPOCH, SystemTime::now());
        let told = |attempts: (i32, i32)| {
            let first = arrival(then, attempts.0, Treatment::Taken);
            let again = arrival(now, attempts.1, Treatment::Taken);
            source_of(&first, &again, &[1], &History::default())
        };
        assert_eq!(told((1, 2)), Source::AnswerLost);
        assert_eq!(told((1, 1)), Source::ConnectionDied);
        assert_eq!(told((2, 3)), Source::Unexplained);
    }

    #[test]
    fn what_has_nothing_to_do_with_it_explains_nothing() {
        for trouble in [
            Trouble::Killed(Service::Relay, 0),
            Trouble::Killed(Service::Ingest, 0),
            Trouble::RedisEmptied,
            Trouble::RedisAway,
            Trouble::Link(Link::RelayPostgres),
            Trouble::Link(Link::DispatcherRedis),
            Trouble::Link(Link::ClientIngest),
        ] {
            let told = source(Some(trouble), (1, 2), Treatment::Taken);
            assert_eq!(told, Source::Unexplained, "{trouble:?}");
        }
        assert_eq!(source(None, (1, 2), Treatment::Taken), Source::Unexplained);
    }
}
