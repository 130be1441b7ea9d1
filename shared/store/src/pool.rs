//! Connections, in three kinds that differ only in what the server is told at their start.
//!
//! - *durable*: what must have happened when the call returns (accept, settle, replay).
//! - *relaxed*: `synchronous_commit = off`, for steps that PostgreSQL may forget in a crash because
//!   something repeats them: claims (the lease expires) and the relay's watermark.
//! - *reads*: for questions with many shapes; the only kind whose plans depend on the parameters.
//!
//! The hot kinds plan generically and without sequential or bitmap scans: a plan cached while a table was
//! small, or empty, would otherwise be kept when it no longer is. Settings travel as start-up
//! options, so there is no session state to lose behind a transaction-pooling PgBouncer.

use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deadpool_postgres::{
    Manager, ManagerConfig, Object, Pool, QueueMode, RecyclingMethod, Runtime, Timeouts,
    Transaction,
};
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tokio_postgres::{Config, Row, Statement, types::ToSql};

use crate::connect::Connector;
use crate::error::Doing;
use crate::tls::{self, DatabaseTls};
use crate::{Actor, Store, StoreError};

/// How to reach PostgreSQL.
#[derive(Clone)]
pub struct StoreConfig {
    /// `postgres://user:password@host:port/database`.
    pub url: String,
    /// How PostgreSQL is known, if the URL asks for TLS.
    pub tls: DatabaseTls,
    /// Most connections of each of the three kinds.
    pub pool_size: usize,
}

impl StoreConfig {
    /// Enough for one process of any service.
    pub const POOL_SIZE_DEFAULT: usize = 8;
}

/// Longest wait for a free connection.
const CONNECTION_WAIT: Duration = Duration::from_secs(5);
/// Longest wait for an answer: longer than PostgreSQL lets any statement run, so whoever says nothing by then is frozen,
/// or is no longer the one that ought to answer. A new connection finds out.
const ANSWER_WAIT: Duration = Duration::from_secs(45);
/// A durable commit waits for its standby for as long as that is away, and its session cannot be ended meanwhile: to give
/// up early would leave one session more behind each time.
const DURABLE_ANSWER_WAIT: Duration = Duration::from_secs(300);

// Without bitmap scans: while the outbox is empty, a bitmap scan and a sort seem as good for "the next
// 1,000 rows" as walking the index, and each page then reads all rows behind it (measured: 52 s
// instead of 4 s for a million).
const HOT_OPTIONS: &str = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off \
                           -c enable_bitmapscan=off -c jit=off -c statement_timeout=30s";
/// Rows and keys that others hold are held for milliseconds, unless somebody has left a transaction open. Whoever needs one
/// of those must not keep everybody waiting who shares a statement with it.
const DURABLE_OPTIONS: &str = " -c lock_timeout=1s";
/// Claims find their way round a row that is held.
const RELAXED_OPTIONS: &str = " -c lock_timeout=200ms -c synchronous_commit=off";
const READ_OPTIONS: &str = "-c jit=off -c statement_timeout=10s";

/// The kinds of connections; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionKind {
    /// For what must have happened when the call returns.
    Durable,
    /// For what may be forgotten in a crash.
    Relaxed,
    /// For questions.
    Reads,
}

impl ConnectionKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Durable, Self::Relaxed, Self::Reads];

    /// As metrics name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Durable => "durable",
            Self::Relaxed => "relaxed",
            Self::Reads => "reads",
        }
    }
}

pub(crate) struct Pools {
    durable: Pool,
    relaxed: Pool,
    reads: Pool,
    /// Told of each wait for a connection.
    waits: OnceLock<Box<NoteWait>>,
}

type NoteWait = dyn Fn(ConnectionKind, Duration) + Send + Sync;

impl Pools {
    pub(crate) fn new(config: &StoreConfig) -> Result<Self, StoreError> {
        // As psql and libpq write what "require" means here.
        let url = config.url.replace("sslmode=verify-full", "sslmode=require");
        let base = Config::from_str(&url).map_err(StoreError::Url)?;
        let tls = tls::connector(&base, &config.tls)?;
        let pool = |options: &str| {
            let connector = Connector::new(&base, options, tls.clone())?;
            let create_wait = connector.wait_max();
            let manager = Manager::from_connect(
                base.clone(),
                connector,
                ManagerConfig {
                    recycling_method: RecyclingMethod::Fast,
                },
            );
            Ok::<Pool, StoreError>(
                Pool::builder(manager)
                    .max_size(config.pool_size)
                    // Whoever asks now and then asks the session that has just been asked, whose memory is still in
                    // the processor's caches; in turn all of them would be woken, each one cold.
                    .queue_mode(QueueMode::Lifo)
                    .timeouts(Timeouts {
                        wait: Some(CONNECTION_WAIT),
                        create: Some(create_wait),
                        recycle: Some(CONNECTION_WAIT),
                    })
                    .runtime(Runtime::Tokio1)
                    .build()
                    .expect("a runtime is given, which is all that timeouts need"),
            )
        };
        Ok(Self {
            durable: pool(&format!("{HOT_OPTIONS}{DURABLE_OPTIONS}"))?,
            relaxed: pool(&format!("{HOT_OPTIONS}{RELAXED_OPTIONS}"))?,
            reads: pool(READ_OPTIONS)?,
            waits: OnceLock::new(),
        })
    }

    const fn of(&self, kind: ConnectionKind) -> &Pool {
        match kind {
            ConnectionKind::Durable => &self.durable,
            ConnectionKind::Relaxed => &self.relaxed,
            ConnectionKind::Reads => &self.reads,
        }
    }

    /// A connection that nobody else uses, an open one if there is one.
    async fn take(&self, kind: ConnectionKind, doing: &'static str) -> Result<Object, StoreError> {
        let began = Instant::now();
        let taken = self.of(kind).get().await;
        if let Some(note) = self.waits.get() {
            note(kind, began.elapsed());
        }
        taken.map_err(|source| StoreError::Unreachable { doing, source })
    }

    /// Lets go of every connection nobody uses: where they lead, nothing can be written any more.
    fn forget_idle(&self) {
        for kind in ConnectionKind::ALL {
            self.of(kind).retain(|_, _| false);
        }
    }
}

/// A connection on loan, with its prepared statements.
pub(crate) struct Connection {
    /// Always there until it is dropped.
    client: Option<Object>,
    doing: &'static str,
    /// Longest wait for an answer.
    patience: Duration,
    /// In whose name statements are run.
    actor: Option<Actor>,
    /// Not to be used by anybody else: a transaction was begun here and has not ended, an answer is owed, or the
    /// server takes no writes.
    spoilt: AtomicBool,
    /// Whether a statement has begun whose caller may lose patience, and is not answered yet.
    owes: AtomicBool,
}

/// For this transaction only: behind a transaction-pooling PgBouncer the next one is somebody else's.
const ACT: &str = "SELECT set_config('zyven.actor', $1, true)";

const TAKES_WRITES: &str = "SELECT current_setting('transaction_read_only') = 'off'";

impl Store {
    pub(crate) async fn durable(&self, doing: &'static str) -> Result<Connection, StoreError> {
        let client = self.pools.take(ConnectionKind::Durable, doing).await?;
        let mut connection = Connection::new(client, doing, DURABLE_ANSWER_WAIT);
        connection.actor = self.actor;
        Ok(connection)
    }

    pub(crate) async fn relaxed(&self, doing: &'static str) -> Result<Connection, StoreError> {
        let client = self.pools.take(ConnectionKind::Relaxed, doing).await?;
        Ok(Connection::new(client, doing, ANSWER_WAIT))
    }

    pub(crate) async fn reads(&self, doing: &'static str) -> Result<Connection, StoreError> {
        let client = self.pools.take(ConnectionKind::Reads, doing).await?;
        Ok(Connection::new(client, doing, ANSWER_WAIT))
    }

    /// Has `note` told from now on how long each statement waits for a connection: until one is free, or a new one is
    /// open, or the wait is given up. To be called once, for metrics; a second call changes nothing.
    pub fn note_connection_waits(
        &self,
        note: impl Fn(ConnectionKind, Duration) + Send + Sync + 'static,
    ) {
        drop(self.pools.waits.set(Box::new(note)));
    }

    /// How many connections of this kind are open.
    pub fn connections(&self, kind: ConnectionKind) -> usize {
        self.pools.of(kind).status().size
    }

    /// Asks PostgreSQL whether it takes statements that write. If it does not, connections that wait for
    /// somebody are let go, as new ones may lead to a server that does.
    ///
    /// # Errors
    /// PostgreSQL cannot be reached, or only takes statements that read.
    pub async fn health(&self) -> Result<(), StoreError> {
        let connection = self.reads("health check").await?;
        let row = connection.query_one(TAKES_WRITES, &[]).await?;
        drop(connection);
        if row.get(0) {
            return Ok(());
        }
        self.pools.forget_idle();
        Err(StoreError::ReadOnly)
    }
}

/// Runs a statement, in the actor's name if there is one. A macro, for a function would keep room for the
/// statement's future twice; and that of the few named ones is boxed, or all would be as large as they are.
macro_rules! run {
    ($connection:ident, $statement:expr) => {
        $connection.judge(match $connection.actor {
            None => timeout($connection.patience, $statement)
                .await
                .map(|outcome| outcome.doing($connection.doing)),
            Some(actor) => {
                let statement = $connection.run_in_name_of(actor, $statement);
                timeout($connection.patience, Box::pin(statement)).await
            }
        })
    };
}

impl Connection {
    const fn new(client: Object, doing: &'static str, patience: Duration) -> Self {
        Self {
            client: Some(client),
            doing,
            patience,
            actor: None,
            spoilt: AtomicBool::new(false),
            owes: AtomicBool::new(false),
        }
    }

    fn client(&self) -> &Object {
        self.client.as_ref().expect("only drop takes it away")
    }

    async fn statement(&self, sql: &str) -> Result<Statement, StoreError> {
        let prepared = timeout(self.patience, self.client().prepare_cached(sql)).await;
        self.judge(prepared.map(|outcome| outcome.doing(self.doing)))
    }

    /// Runs one statement in a transaction that tells PostgreSQL whose it is. It may be dropped at any
    /// await: the connection is closed then, which undoes what was not committed.
    async fn run_in_name_of<T>(
        &self,
        actor: Actor,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, StoreError> {
        let act = self.statement(ACT).await?;
        let name = actor.to_string();
        let name: [&(dyn ToSql + Sync); 1] = [&name];
        self.spoilt.store(true, Ordering::Relaxed);
        // Sent one behind the other without waiting; PostgreSQL runs them in this order.
        let outcome = tokio::try_join!(
            biased;
            self.client().batch_execute("BEGIN"),
            self.client().execute(&act, &name),
            statement,
        );
        let end = if outcome.is_ok() {
            "COMMIT"
        } else {
            "ROLLBACK"
        };
        let ended = self.client().batch_execute(end).await;
        self.spoilt.store(ended.is_err(), Ordering::Relaxed);
        let (_, _, result) = outcome.doing(self.doing)?;
        ended.doing(self.doing)?;
        Ok(result)
    }

    /// Gives up on this connection if what came of a statement says so. Only a connection made anew can lead to
    /// another server.
    fn judge<T>(&self, outcome: Result<Result<T, StoreError>, Elapsed>) -> Result<T, StoreError> {
        let outcome = outcome.unwrap_or(Err(StoreError::Unanswered { doing: self.doing }));
        if let Err(error) = &outcome
            && error.is_of_the_connection()
        {
            self.spoilt.store(true, Ordering::Relaxed);
        }
        outcome
    }

    /// Runs a prepared statement and returns its rows.
    pub(crate) async fn query(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let statement = self.statement(sql).await?;
        run!(self, self.client().query(&statement, parameters))
    }

    /// Runs a prepared statement that returns at most one row.
    pub(crate) async fn query_opt(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, StoreError> {
        let statement = self.statement(sql).await?;
        run!(self, self.client().query_opt(&statement, parameters))
    }

    /// Runs a prepared statement that returns exactly one row.
    pub(crate) async fn query_one(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, StoreError> {
        let statement = self.statement(sql).await?;
        run!(self, self.client().query_one(&statement, parameters))
    }

    /// Runs a prepared statement and returns how many rows it touched.
    pub(crate) async fn execute(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, StoreError> {
        let statement = self.statement(sql).await?;
        run!(self, self.client().execute(&statement, parameters))
    }

    /// Like [`execute`](Self::execute), for callers that wait less long than the pool does: dropped before the
    /// answer is there, it closes the connection, which may hang. The next statement gets another one.
    pub(crate) async fn execute_or_close(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, StoreError> {
        self.owes.store(true, Ordering::Relaxed);
        let outcome = self.execute(sql, parameters).await;
        self.owes.store(false, Ordering::Relaxed);
        outcome
    }

    /// A transaction of several statements, in the actor's name if there is one.
    pub(crate) async fn transaction(&mut self) -> Result<Transaction<'_>, StoreError> {
        let (doing, actor) = (self.doing, self.actor);
        let transaction = self.client_mut().transaction().await.doing(doing)?;
        if let Some(actor) = actor {
            let name = actor.to_string();
            transaction.execute(ACT, &[&name]).await.doing(doing)?;
        }
        Ok(transaction)
    }

    /// Keeps it from going back into the pool: its session has state of its own.
    pub(crate) fn spoil(&mut self) {
        *self.spoilt.get_mut() = true;
    }

    /// The connection itself, for the few callers that need more of it than statements.
    pub(crate) fn client_mut(&mut self) -> &mut Object {
        self.client.as_mut().expect("only drop takes it away")
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if (*self.spoilt.get_mut() || *self.owes.get_mut())
            && let Some(client) = self.client.take()
        {
            // Not back into the pool, where somebody else's statement would meet the same.
            drop(Object::take(client));
        }
    }
}
