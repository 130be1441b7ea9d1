//! What the readiness probe says about the dispatcher.

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

    /// Takes note of how a step went, and whether requests can leave; `None` while PostgreSQL does not confirm
    /// that this dispatcher lives.
    pub(crate) fn note(
        &mut self,
        step: &Result<(), IntakeError>,
        reachability: Option<Reachability>,
    ) {
        let state = match (step, reachability) {
            (Err(IntakeError::Queue(_)), _) => State::NoRedis,
            (Err(IntakeError::Store(_)), _) | (Ok(()), None) => State::NoPostgres,
            (Ok(()), Some(Reachability::Open)) => State::Well,
            (Ok(()), Some(Reachability::Doubtful | Reachability::Closed(_))) => State::NoEgress,
        };
        if self.last.replace(state) == Some(state) {
            return;
        }
        for (condition, trouble, reason) in [
            (&self.redis, State::NoRedis, "Redis does not answer"),
            (
                &self.postgres,
                State::NoPostgres,
                "PostgreSQL does not answer",
            ),
            (&self.egress, State::NoEgress, "no egress proxy answers"),
        ] {
            if state == trouble {
                condition.not_ready(reason);
            } else {
                condition.ready();
            }
        }
    }
}
