//! What the console counts.

use std::sync::Arc;

use zyven_runtime::metrics::{Counter, Metrics};

use crate::sessions::Sessions;

/// Handles to every series of this service.
pub(crate) struct Statistics {
    /// Keys that were good.
    pub(crate) logins_accepted: Counter,
    /// Keys that were not, or may not read.
    pub(crate) logins_refused: Counter,
    /// Nobody could be asked.
    pub(crate) logins_failed: Counter,
    /// Requests that were passed on and answered, whatever the answer.
    pub(crate) answered: Counter,
    /// Requests that were not passed on.
    pub(crate) refused: Counter,
    /// Requests that were passed on and not answered.
    pub(crate) failed: Counter,
}

impl Statistics {
    pub(crate) fn new(metrics: &Metrics, sessions: &Arc<Sessions>) -> Self {
        let sessions = Arc::clone(sessions);
        metrics.asked_gauge(
            "zyven_console_sessions",
            "Sessions in memory",
            &[],
            move || sessions.count() as f64,
        );
        let logins = |outcome| {
            metrics.counter(
                "zyven_console_logins_total",
                "Attempts to log in, by outcome",
                &[("outcome", outcome)],
            )
        };
        let requests = |outcome| {
            metrics.counter(
                "zyven_console_requests_total",
                "Requests for the API, by outcome",
                &[("outcome", outcome)],
            )
        };
        Self {
            logins_accepted: logins("accepted"),
            logins_refused: logins("refused"),
            logins_failed: logins("failed"),
            answered: requests("answered"),
            refused: requests("refused"),
            failed: requests("failed"),
        }
    }
}
