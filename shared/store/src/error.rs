//! What can go wrong between Zyven and PostgreSQL.

use tokio_postgres::error::{Severity, SqlState};

/// A step that did not happen, or whose outcome is unknown.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The connection string cannot be used.
    #[error("the database URL is not a PostgreSQL connection string")]
    Url(#[source] tokio_postgres::Error),
    /// The connection string's hosts cannot be used.
    #[error("the database URL names no host, or not as many ports as hosts")]
    Hosts,
    /// The files for TLS cannot be used.
    #[error("TLS to the database: {0}")]
    Tls(&'static str),
    /// No connection was to be had.
    #[error("no database connection for {doing}")]
    Unreachable {
        /// The step, for the log.
        doing: &'static str,
        /// The pool's reason.
        #[source]
        source: deadpool_postgres::PoolError,
    },
    /// The statement failed or its outcome is unknown.
    #[error("database: {doing}")]
    Statement {
        /// The step, for the log.
        doing: &'static str,
        /// PostgreSQL's or the connection's reason.
        #[source]
        source: tokio_postgres::Error,
    },
    /// PostgreSQL said nothing for longer than any statement may run. The outcome is unknown.
    #[error("database: no answer while {doing}")]
    Unanswered {
        /// The step, for the log.
        doing: &'static str,
    },
    /// The server takes no statements that write: a standby, or one that was made read-only.
    #[error("the database takes no writes: it is a standby or was made read-only")]
    ReadOnly,
    /// A row holds what this version of Zyven cannot read.
    #[error("database: {doing} found {what}")]
    Unreadable {
        /// The step, for the log.
        doing: &'static str,
        /// The finding.
        what: String,
    },
    /// Configuration kept changing faster than a batch could be routed.
    #[error("routing changed {0} times while a batch was being accepted")]
    RoutingUnsettled(usize),
}

impl StoreError {
    /// True if the same call is worth repeating later: PostgreSQL is away, restarting, in recovery,
    /// out of connections or space, or chose this transaction as a victim.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Unanswered { .. }
            | Self::ReadOnly
            | Self::RoutingUnsettled(_) => true,
            Self::Statement { source, .. } => match source.code() {
                None => true, // the connection broke; nothing came from the server
                Some(code) => is_transient_code(code),
            },
            Self::Url(_) | Self::Hosts | Self::Tls(_) | Self::Unreadable { .. } => false,
        }
    }

    /// True if what a statement asked for took too long, or if somebody else had locked a row or key of it for
    /// too long. It had no effect. Whoever shares a statement with others tries again without them, or without it.
    pub fn is_of_the_content(&self) -> bool {
        let Self::Statement { source, .. } = self else {
            return false;
        };
        source.as_db_error().is_some_and(|said| {
            *said.code() == SqlState::QUERY_CANCELED
                // PostgreSQL names the row or key; it names none where a whole table is locked, which is everybody's wait.
                || (*said.code() == SqlState::LOCK_NOT_AVAILABLE && said.where_().is_some())
        })
    }

    /// True if others held the locks it needed, or won in a deadlock.
    pub(crate) fn is_of_the_traffic(&self) -> bool {
        self.code().is_some_and(|code| {
            *code == SqlState::LOCK_NOT_AVAILABLE || *code == SqlState::T_R_DEADLOCK_DETECTED
        })
    }

    /// True if PostgreSQL itself has said that the statement had no effect. Otherwise nobody knows.
    pub fn is_certain(&self) -> bool {
        match self {
            // What ends the session may come after the commit, and before its answer.
            Self::Statement { source, .. } => source
                .as_db_error()
                .is_some_and(|said| said.parsed_severity() == Some(Severity::Error)),
            Self::Unanswered { .. } => false,
            Self::Unreachable { .. }
            | Self::ReadOnly
            | Self::RoutingUnsettled(_)
            | Self::Url(_)
            | Self::Hosts
            | Self::Tls(_)
            | Self::Unreadable { .. } => true,
        }
    }

    /// True if another connection might fare better.
    pub(crate) fn is_of_the_connection(&self) -> bool {
        matches!(self, Self::Unanswered { .. })
            || self.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
    }

    fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Statement { source, .. } => source.code(),
            _ => None,
        }
    }

    pub(crate) fn names_missing_partition(&self) -> bool {
        match self {
            Self::Statement { source, .. } => source.as_db_error().is_some_and(|error| {
                *error.code() == SqlState::CHECK_VIOLATION
                    && error.constraint().is_none()
                    && error.message().starts_with("no partition of relation")
            }),
            _ => false,
        }
    }
}

fn is_transient_code(code: &SqlState) -> bool {
    // Classes 08 connection, 53 insufficient resources, 57 operator intervention, 58 system error;
    // 40 rolled back by the server, 25006 a standby that has not been promoted yet.
    let text = code.code();
    ["08", "40", "53", "57", "58"]
        .iter()
        .any(|class| text.starts_with(class))
        || *code == SqlState::READ_ONLY_SQL_TRANSACTION
        || *code == SqlState::LOCK_NOT_AVAILABLE
}

/// Names the step a fallible statement belongs to.
pub(crate) trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, StoreError>;
}

impl<T> Doing<T> for Result<T, tokio_postgres::Error> {
    fn doing(self, doing: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Statement { doing, source })
    }
}
