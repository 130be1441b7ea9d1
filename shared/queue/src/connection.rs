//! Connections to Redis, with a limit on every wait.
//!
//! The pool is bb8's and its connections are made by bb8-redis; [`Manager`] adds what a frozen or
//! restarted server asks for. A connection that was left amid a command (error, time-out, caller
//! dropped) is not used again, and one failure condemns all connections older than it, so that after a
//! restart of Redis the first error is also the last.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bb8_redis::RedisConnectionManager;
use bb8_redis::bb8::{ManageConnection, Pool, RunError};
use futures_util::future::try_join_all;
use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, ErrorKind, RedisError, RedisResult, Script, ServerErrorKind, Value};

/// How long to wait for a connection.
const CONNECTION_TIME_MAX: Duration = Duration::from_millis(800);
/// How long to wait for the answers.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(1_200);
/// The longest any operation of the queue takes.
pub const OPERATION_TIME_MAX: Duration = Duration::from_millis(2_000);
const _: () = assert!(
    CONNECTION_TIME_MAX.as_millis() + ANSWER_TIME_MAX.as_millis() == OPERATION_TIME_MAX.as_millis()
);

/// Redis did not do what it was asked. Whether it did it all the same is unknown; every operation may
/// be repeated.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    /// The configuration cannot work, whatever Redis does.
    #[error("the queue's configuration cannot be used: {0}")]
    Configuration(&'static str, #[source] Option<RedisError>),
    /// No connection in time: Redis is away, frozen, or all connections are in use.
    #[error("no connection to Redis within {} ms", CONNECTION_TIME_MAX.as_millis())]
    NoConnection(#[source] Option<RedisError>),
    /// The connection is there, the answer is not.
    #[error("no answer from Redis within {} ms", ANSWER_TIME_MAX.as_millis())]
    NoAnswer,
    /// The connection broke.
    #[error("the connection to Redis failed")]
    Disconnected(#[source] RedisError),
    /// Redis answered with an error.
    #[error("Redis refused")]
    Refused(#[source] RedisError),
    /// Redis answered what no command of this crate asks for: another program writes to the same keys.
    #[error("Redis gave an answer that makes no sense here")]
    Nonsense,
}

impl QueueError {
    /// Whether waiting may cure it. All others want a person.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoConnection(_) | Self::NoAnswer | Self::Disconnected(_) => true,
            Self::Refused(error) => match error.kind() {
                ErrorKind::Server(
                    ServerErrorKind::BusyLoading
                    | ServerErrorKind::ClusterDown
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::ReadOnly
                    | ServerErrorKind::TryAgain,
                ) => true,
                // Codes the client library has no names for.
                _ => matches!(error.code(), Some("OOM" | "BUSY" | "NOREPLICAS")),
            },
            Self::Configuration(..) | Self::Nonsense => false,
        }
    }

    fn of(error: RedisError) -> Self {
        match error.kind() {
            ErrorKind::Io if error.is_timeout() => Self::NoAnswer,
            ErrorKind::Io => Self::Disconnected(error),
            _ => Self::Refused(error),
        }
    }
}

/// One command, or one call of a script.
pub(crate) struct Question {
    command: Cmd,
    script: Option<&'static Script>,
}

impl Question {
    pub(crate) fn command(name: &str) -> Self {
        Self {
            command: redis::cmd(name),
            script: None,
        }
    }

    /// `arguments` is how many will follow, roughly.
    pub(crate) fn script(script: &'static Script, keys: &[&str], arguments: usize) -> Self {
        let mut command = Cmd::with_capacity(3 + keys.len() + arguments, 256 + 16 * arguments);
        command
            .arg("EVALSHA")
            .arg(script.get_hash())
            .arg(keys.len())
            .arg(keys);
        Self {
            command,
            script: Some(script),
        }
    }

    pub(crate) fn arg(&mut self, argument: impl redis::ToRedisArgs) -> &mut Self {
        self.command.arg(argument);
        self
    }

    async fn put(&self, mut redis: MultiplexedConnection) -> RedisResult<Value> {
        let answer = self.command.query_async(&mut redis).await;
        match (&answer, self.script) {
            // A restarted Redis knows no scripts; the call did nothing.
            (Err(error), Some(script))
                if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) =>
            {
                script.load_async(&mut redis).await?;
                self.command.query_async(&mut redis).await
            }
            _ => answer,
        }
    }
}

/// The pool. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Connections {
    pool: Pool<Manager>,
    client: Client,
    health: Arc<Health>,
}

impl Connections {
    pub(crate) fn new(url: &str, pool_size: u32) -> Result<Self, QueueError> {
        let unusable = |error| QueueError::Configuration("the URL", Some(error));
        let health = Arc::new(Health::default());
        let manager = Manager {
            inner: RedisConnectionManager::new(url).map_err(unusable)?,
            health: Arc::clone(&health),
        };
        let pool = Pool::builder()
            .max_size(pool_size)
            .min_idle(0)
            .idle_timeout(None)
            .max_lifetime(None)
            .connection_timeout(CONNECTION_TIME_MAX)
            .build_unchecked(manager);
        Ok(Self {
            pool,
            client: Client::open(url).map_err(unusable)?,
            health,
        })
    }

    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Puts all questions to Redis at once, in this order, and returns the answers in the same order;
    /// the first error hides all answers. Cancel-safe towards the pool; what was sent is done.
    pub(crate) async fn ask(&self, questions: &[Question]) -> Result<Vec<Value>, QueueError> {
        let mut connection = self.pool.get().await.map_err(|error| match error {
            RunError::User(error) => QueueError::NoConnection(Some(error)),
            RunError::TimedOut => QueueError::NoConnection(self.health.last_failure()),
        })?;
        connection.is_amid_command = true;
        let redis = &connection.redis;
        // The connection writes them one after the other without waiting: a pipeline.
        let answers = try_join_all(questions.iter().map(|question| question.put(redis.clone())));
        let answers = tokio::time::timeout(ANSWER_TIME_MAX, answers)
            .await
            .map_or(Err(QueueError::NoAnswer), |answers| {
                answers.map_err(QueueError::of)
            });
        match &answers {
            Ok(_) => connection.is_amid_command = false,
            Err(_) => self.health.condemn_older_connections(),
        }
        answers
    }
}

/// What the pool's connections have in common.
#[derive(Default)]
struct Health {
    /// Goes up with every failure; a connection of an earlier generation is not used again.
    generation: AtomicU64,
    /// Why the last attempt to connect failed: the pool itself only says that time is up.
    last_failure: Mutex<Option<RedisError>>,
}

impl Health {
    fn condemn_older_connections(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    fn last_failure(&self) -> Option<RedisError> {
        // Held for a clone only; a value is never half-written.
        self.last_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn note(&self, failure: Option<&RedisError>) {
        *self
            .last_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = failure.cloned();
    }
}

struct Manager {
    inner: RedisConnectionManager,
    health: Arc<Health>,
}

struct Connection {
    redis: MultiplexedConnection,
    generation: u64,
    /// Set from before the first byte is sent until the last answer is here.
    is_amid_command: bool,
}

impl ManageConnection for Manager {
    type Connection = Connection;
    type Error = RedisError;

    async fn connect(&self) -> Result<Connection, RedisError> {
        let generation = self.health.generation.load(Ordering::Relaxed);
        let connected = self.inner.connect().await;
        self.health.note(connected.as_ref().err());
        let mut redis = connected?;
        redis.set_response_timeout(ANSWER_TIME_MAX);
        Ok(Connection {
            redis,
            generation,
            is_amid_command: false,
        })
    }

    /// Asked before each use, so it must not cost a round trip.
    async fn is_valid(&self, connection: &mut Connection) -> Result<(), RedisError> {
        if connection.generation == self.health.generation.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err((ErrorKind::Io, "a connection to the same server failed").into())
        }
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.is_amid_command
    }
}
