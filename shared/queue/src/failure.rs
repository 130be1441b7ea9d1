//! What Redis may fail with, what that means, and what a person can do about it.
//!
//! Nothing here ends anything: every failure is waited out. Whether waiting is enough, or somebody has to
//! act, is what the words are for.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::connection::{ANSWER_TIME_MAX, CONNECTION_TIME_MAX};

/// Redis did not do what it was asked. Whether it did it all the same is unknown; every operation may
/// be repeated.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    /// The configuration cannot work, whatever Redis does.
    #[error("the queue's configuration cannot be used: {0}")]
    Configuration(&'static str, #[source] Option<RedisError>),
    /// No connection in time: Redis is away, frozen, or all connections are in use.
    #[error("no connection to Redis within {} ms{}", CONNECTION_TIME_MAX.as_millis(), Advice(.0.as_ref()))]
    NoConnection(#[source] Option<RedisError>),
    /// The connection is there, the answer is not.
    #[error("no answer from Redis within {} ms", ANSWER_TIME_MAX.as_millis())]
    NoAnswer,
    /// The connection broke.
    #[error("the connection to Redis failed")]
    Disconnected(#[source] RedisError),
    /// Redis answered with an error.
    #[error("Redis refused{}", Advice(Some(.0)))]
    Refused(#[source] RedisError),
    /// Redis answered what no command of this crate asks for: another program writes to the same keys.
    #[error("Redis gave an answer that makes no sense here")]
    Nonsense,
}

impl QueueError {
    /// Whether it may end without anybody changing Zyven: Redis comes back, is given room, becomes the
    /// primary again, knows the password again.
    pub fn is_transient(&self) -> bool {
        match self.failure() {
            Failure::Other | Failure::Nonsense => false,
            Failure::NoConnection
            | Failure::NoAnswer
            | Failure::Disconnected
            | Failure::Unauthorized
            | Failure::OutOfMemory
            | Failure::CannotPersist
            | Failure::ReadOnly
            | Failure::NoReplicas
            | Failure::Busy
            | Failure::Loading
            | Failure::ClusterDown
            | Failure::Moving => !matches!(self, Self::Configuration(..)),
        }
    }

    /// What it is called where failures are counted.
    pub fn failure(&self) -> Failure {
        match self {
            Self::NoConnection(Some(error)) => match Failure::of(error) {
                // What kept it from connecting is no answer of Redis.
                Failure::Other | Failure::Disconnected | Failure::NoAnswer => Failure::NoConnection,
                told => told,
            },
            Self::NoConnection(None) => Failure::NoConnection,
            Self::NoAnswer => Failure::NoAnswer,
            Self::Disconnected(_) => Failure::Disconnected,
            Self::Refused(error) => Failure::of(error),
            Self::Configuration(..) => Failure::Other,
            Self::Nonsense => Failure::Nonsense,
        }
    }

    /// Whether the server can do nothing at all for the moment, unlike one that refuses some things.
    pub(crate) fn is_about_the_server(&self) -> bool {
        !self.is_forbidden() && self.is_of_the_server()
    }

    /// Whether the access list lacks what was asked; the rest may be allowed.
    pub(crate) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Refused(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm))
    }

    fn is_of_the_server(&self) -> bool {
        match self.failure() {
            Failure::NoConnection
            | Failure::NoAnswer
            | Failure::Disconnected
            | Failure::Unauthorized
            | Failure::ReadOnly
            | Failure::Loading
            | Failure::ClusterDown => true,
            Failure::OutOfMemory
            | Failure::CannotPersist
            | Failure::NoReplicas
            | Failure::Busy
            | Failure::Moving
            | Failure::Nonsense
            | Failure::Other => false,
        }
    }

    pub(crate) fn of(error: RedisError) -> Self {
        match error.kind() {
            ErrorKind::Io if error.is_timeout() => Self::NoAnswer,
            ErrorKind::Io => Self::Disconnected(error),
            _ => Self::Refused(error),
        }
    }
}

/// The kinds of failures there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nobody answers there.
    NoConnection,
    /// Redis is frozen, or far too slow.
    NoAnswer,
    /// The connection broke.
    Disconnected,
    /// Redis wants another password, or its access list lacks something.
    Unauthorized,
    /// Redis has reached its `maxmemory`. Claims are served, pushes are not.
    OutOfMemory,
    /// Redis cannot write its file, mostly because the disk is full, and takes no writes.
    CannotPersist,
    /// It is a replica.
    ReadOnly,
    /// It has fewer replicas than it wants, and takes no writes.
    NoReplicas,
    /// Somebody's script runs for too long.
    Busy,
    /// It has just started and reads its file.
    Loading,
    /// A cluster without somebody for every slot, or a replica without its primary.
    ClusterDown,
    /// The slot is on its way to another node, or is there.
    Moving,
    /// Another program writes to the same keys.
    Nonsense,
    /// Everything else.
    Other,
}

impl Failure {
    /// All there are.
    pub const ALL: [Self; 14] = [
        Self::NoConnection,
        Self::NoAnswer,
        Self::Disconnected,
        Self::Unauthorized,
        Self::OutOfMemory,
        Self::CannotPersist,
        Self::ReadOnly,
        Self::NoReplicas,
        Self::Busy,
        Self::Loading,
        Self::ClusterDown,
        Self::Moving,
        Self::Nonsense,
        Self::Other,
    ];

    /// As a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoConnection => "no_connection",
            Self::NoAnswer => "no_answer",
            Self::Disconnected => "disconnected",
            Self::Unauthorized => "unauthorized",
            Self::OutOfMemory => "out_of_memory",
            Self::CannotPersist => "cannot_persist",
            Self::ReadOnly => "read_only",
            Self::NoReplicas => "no_replicas",
            Self::Busy => "busy",
            Self::Loading => "loading",
            Self::ClusterDown => "cluster_down",
            Self::Moving => "moving",
            Self::Nonsense => "nonsense",
            Self::Other => "other",
        }
    }

    /// What a person can do, where Redis itself does not say it well enough.
    fn advice(self) -> Option<&'static str> {
        Some(match self {
            Self::Unauthorized => {
                "check user and password in ZYVEN_REDIS_URL and the user's access list"
            }
            Self::OutOfMemory => {
                "it is full: raise its maxmemory; what is in flight drains it meanwhile"
            }
            Self::CannotPersist => {
                "it cannot write its file: give its disk room; Zyven needs no file of Redis"
            }
            Self::ReadOnly => {
                "it is a replica: make it a primary, or name the Sentinels in ZYVEN_REDIS_URL"
            }
            Self::NoReplicas => "it has too few replicas (min-replicas-to-write): bring them back",
            Self::Busy => "a script runs for too long: SCRIPT KILL, if it is not Zyven's",
            Self::Loading => "it has just started and reads its file: wait",
            Self::ClusterDown => {
                "its cluster has nobody for some slots, or it has lost its primary: bring the node back"
            }
            Self::Moving => {
                "the slot is elsewhere or on its way: wait; for a cluster ZYVEN_REDIS_URL begins with redis+cluster://"
            }
            Self::NoConnection
            | Self::NoAnswer
            | Self::Disconnected
            | Self::Nonsense
            | Self::Other => return None,
        })
    }

    fn of(error: &RedisError) -> Self {
        match error.kind() {
            ErrorKind::AuthenticationFailed | ErrorKind::Server(ServerErrorKind::NoPerm) => {
                Self::Unauthorized
            }
            ErrorKind::Server(ServerErrorKind::BusyLoading) => Self::Loading,
            ErrorKind::Server(ServerErrorKind::ClusterDown | ServerErrorKind::MasterDown) => {
                Self::ClusterDown
            }
            ErrorKind::Server(ServerErrorKind::ReadOnly) => Self::ReadOnly,
            ErrorKind::Server(
                ServerErrorKind::TryAgain | ServerErrorKind::Moved | ServerErrorKind::Ask,
            ) => Self::Moving,
            ErrorKind::Io if error.is_timeout() => Self::NoAnswer,
            ErrorKind::Io => Self::Disconnected,
            _ => Self::of_code(error),
        }
    }

    /// Codes the client library has no names for, and those that a script wraps in its own error.
    fn of_code(error: &RedisError) -> Self {
        let code = error.code().unwrap_or_default();
        let text = error.detail().unwrap_or_default();
        let known = [
            ("NOAUTH", Self::Unauthorized),
            ("WRONGPASS", Self::Unauthorized),
            ("OOM", Self::OutOfMemory),
            ("MISCONF", Self::CannotPersist),
            ("READONLY", Self::ReadOnly),
            ("NOREPLICAS", Self::NoReplicas),
            ("BUSY", Self::Busy),
            ("LOADING", Self::Loading),
            ("CLUSTERDOWN", Self::ClusterDown),
            ("MASTERDOWN", Self::ClusterDown),
            ("TRYAGAIN", Self::Moving),
            // BLPOP, when the slot it waits in goes to another node or the server becomes a replica.
            ("UNBLOCKED", Self::Moving),
        ];
        let told = known.iter().find(|(known, _)| {
            let wrapped = text.split_once(known);
            code == *known
                || wrapped.is_some_and(|(before, after)| {
                    (before.ends_with('-') || before.is_empty()) && after.starts_with(' ')
                })
        });
        match told {
            Some((_, failure)) => *failure,
            // A script that meets a key of its slot which is no longer here.
            None if text.contains("non local key") => Self::Moving,
            // NOAUTH, for more words than a stranger may say.
            None if text.contains("unauthenticated") => Self::Unauthorized,
            None => Self::Other,
        }
    }
}

/// What to do, ready to follow a sentence.
struct Advice<'a>(Option<&'a RedisError>);

impl fmt::Display for Advice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.and_then(|error| Failure::of(error).advice()) {
            Some(advice) => write!(f, " ({advice})"),
            None => Ok(()),
        }
    }
}

/// How many there were of each kind.
#[derive(Debug, Default)]
pub(crate) struct Failures([AtomicU64; Failure::ALL.len()]);

impl Failures {
    pub(crate) fn note(&self, error: &QueueError) {
        self.0[error.failure() as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count(&self, failure: Failure) -> u64 {
        self.0[failure as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(text: &str) -> QueueError {
        let answer = redis::parse_redis_value(text.as_bytes()).unwrap();
        QueueError::of(answer.extract_error().unwrap_err())
    }

    #[test]
    fn each_answer_has_its_kind() {
        for (text, failure) in [
            (
                "-NOAUTH Authentication required.\r\n",
                Failure::Unauthorized,
            ),
            (
                "-WRONGPASS invalid username-password pair\r\n",
                Failure::Unauthorized,
            ),
            (
                "-NOPERM User x has no permissions\r\n",
                Failure::Unauthorized,
            ),
            ("-OOM command not allowed\r\n", Failure::OutOfMemory),
            (
                "-MISCONF Redis is configured to save\r\n",
                Failure::CannotPersist,
            ),
            ("-READONLY You can't write\r\n", Failure::ReadOnly),
            (
                "-NOREPLICAS Not enough good replicas to write.\r\n",
                Failure::NoReplicas,
            ),
            ("-BUSY Redis is busy running a script.\r\n", Failure::Busy),
            ("-LOADING Redis is loading\r\n", Failure::Loading),
            ("-CLUSTERDOWN The cluster is down\r\n", Failure::ClusterDown),
            (
                "-MASTERDOWN Link with MASTER is down\r\n",
                Failure::ClusterDown,
            ),
            ("-TRYAGAIN Multiple keys request\r\n", Failure::Moving),
            ("-MOVED 7 127.0.0.1:6379\r\n", Failure::Moving),
            ("-ASK 7 127.0.0.1:6379\r\n", Failure::Moving),
            ("-UNBLOCKED force unblock\r\n", Failure::Moving),
            (
                "-ERR Script attempted to access a non local key in a cluster node\r\n",
                Failure::Moving,
            ),
            // As Redis 6 has it.
            (
                "-ERR Error running script: @user_script: 5: -READONLY You can't write\r\n",
                Failure::ReadOnly,
            ),
            (
                "-ERR Error running script: @user_script: 5: -OOM command not allowed\r\n",
                Failure::OutOfMemory,
            ),
            (
                "-ERR Protocol error: unauthenticated multibulk length\r\n",
                Failure::Unauthorized,
            ),
            ("-ERR unknown command 'BUSYBODY'\r\n", Failure::Other),
            ("-CROSSSLOT Keys in request\r\n", Failure::Other),
        ] {
            let error = answered(text);
            assert_eq!(error.failure(), failure, "{text}");
            assert_eq!(error.is_transient(), failure != Failure::Other, "{text}");
            assert_eq!(
                error.to_string().contains('('),
                failure != Failure::Other,
                "it says what to do: {error}"
            );
        }
    }

    #[test]
    fn failures_are_counted_by_their_kind() {
        let failures = Failures::default();
        failures.note(&QueueError::NoAnswer);
        failures.note(&answered("-OOM command not allowed\r\n"));
        failures.note(&answered("-OOM command not allowed\r\n"));
        let counts = Failure::ALL.map(|failure| failures.count(failure));
        assert_eq!(counts.iter().sum::<u64>(), 3);
        assert_eq!(failures.count(Failure::NoAnswer), 1);
        assert_eq!(failures.count(Failure::OutOfMemory), 2);
        for (index, failure) in Failure::ALL.into_iter().enumerate() {
            assert_eq!(failure as usize, index, "counted where it is read");
        }
    }
}
