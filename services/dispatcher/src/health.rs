//! What the readiness probe says about the dispatcher.

use zyven_queue::QueueError;
use zyven_runtime::probes::{Condition, Readiness};

use crate::client::Reachability;
use crate::intake::IntakeError;

/// Three things a dispatcher cannot do without.
pub(crate) struct Health {
    redis: Condition,
    postgres: Condition,
    egress: Condition,
    /// The last state told, so that telling it again costs nothing.
    last: Option<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Well,
    NoRedis,
    PartOfRedis,
    NoPostgres,
    NoEgress,
}

impl Health {
    pub(crate) fn new(readiness: &Readiness) -> Self {
        Self {
            redis: readiness.condition("dispatcher_redis"),
            postgres: readiness.condition("dispatcher_postgres"),
            egress: readiness.condition("dispatcher_egress"),
            last: None,
        }
    }

    /// Takes note of how a step went, of a node of Redis that is left out, and whether requests can leave; `None` while
    /// PostgreSQL does not confirm that this dispatcher lives.
    pub(crate) fn note(
        &mut self,
        step: &Result<(), IntakeError>,
        away: Option<&QueueError>,
        reachability: Option<Reachability>,
    ) {
        let state = match (step, reachability) {
            (Err(IntakeError::Queue(_)), _) => State::NoRedis,
            (Err(IntakeError::Store(_)), _) | (Ok(()), None) => State::NoPostgres,
            (Ok(()), Some(Reachability::Open)) if away.is_some() => State::PartOfRedis,
            (Ok(()), Some(Reachability::Open)) => State::Well,
            (Ok(()), Some(Reachability::Doubtful | Reachability::Closed(_))) => State::NoEgress,
        };
        if self.last.replace(state) == Some(state) {
            return;
        }
        let (redis, postgres, egress) = match state {
            State::Well => (None, None, None),
            State::NoRedis => (Some("Redis does not answer"), None, None),
            State::PartOfRedis => (Some("a node of Redis does not answer"), None, None),
            State::NoPostgres => (None, Some("PostgreSQL does not answer"), None),
            State::NoEgress => (None, None, Some("no egress proxy answers")),
        };
        for (condition, trouble) in [
            (&self.redis, redis),
            (&self.postgres, postgres),
            (&self.egress, egress),
        ] {
            match trouble {
                Some(reason) => condition.not_ready(reason),
                None => condition.ready(),
            }
        }
    }
}
