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
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_postgres::{
    Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Timeouts, Transaction,
};
use tokio_postgres::{Config, NoTls, Row, Statement, types::ToSql};

use crate::error::Doing;
use crate::{Actor, Store, StoreError};

/// How to reach PostgreSQL.
#[derive(Clone)]
pub struct StoreConfig {
    /// `postgres://user:password@host:port/database`.
    pub url: String,
    /// Most connections of each of the three kinds.
    pub pool_size: usize,
}

impl StoreConfig {
    /// Enough for one process of any service.
    pub const POOL_SIZE_DEFAULT: usize = 8;
}

/// Longest wait for a free or new connection.
const CONNECTION_WAIT: Duration = Duration::from_secs(5);
/// A peer that acknowledges nothing for this long is gone.
const PEER_SILENCE_MAX: Duration = Duration::from_secs(10);
/// A peer that owes an answer owes no acknowledgement, so a host that vanished is found by asking it:
/// within eleven seconds instead of the system's two hours.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_RETRIES: u32 = 3;

// Without bitmap scans: while the outbox is empty, a bitmap scan and a sort seem as good for "the next
// 1,000 rows" as walking the index, and each page then reads all rows behind it (measured: 52 s
// instead of 4 s for a million).
const HOT_OPTIONS: &str = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off \
                           -c enable_bitmapscan=off -c jit=off -c statement_timeout=30s";
const RELAXED_OPTION: &str = " -c synchronous_commit=off";
const READ_OPTIONS: &str = "-c jit=off -c statement_timeout=10s";

pub(crate) struct Pools {
    durable: Pool,
    relaxed: Pool,
    reads: Pool,
}

impl Pools {
    pub(crate) fn new(config: &StoreConfig) -> Result<Self, StoreError> {
        let base = Config::from_str(&config.url).map_err(StoreError::Url)?;
        let pool = |options: &str| {
            let mut config_of_kind = base.clone();
            let own = base.get_options().unwrap_or_default();
            config_of_kind
                .options(format!("{own} {options}"))
                .application_name(base.get_application_name().unwrap_or("zyven"))
                .connect_timeout(CONNECTION_WAIT)
                .tcp_user_timeout(PEER_SILENCE_MAX)
                .keepalives(true)
                .keepalives_idle(KEEPALIVE_IDLE)
                .keepalives_interval(KEEPALIVE_INTERVAL)
                .keepalives_retries(KEEPALIVE_RETRIES);
            let manager = Manager::from_config(
                config_of_kind,
                NoTls,
                ManagerConfig {
                    recycling_method: RecyclingMethod::Fast,
                },
            );
            Pool::builder(manager)
                .max_size(config.pool_size)
                .timeouts(Timeouts {
                    wait: Some(CONNECTION_WAIT),
                    create: Some(CONNECTION_WAIT),
                    recycle: Some(CONNECTION_WAIT),
                })
                .runtime(Runtime::Tokio1)
                .build()
                .expect("a runtime is given, which is all that timeouts need")
        };
        Ok(Self {
            durable: pool(HOT_OPTIONS),
            relaxed: pool(&format!("{HOT_OPTIONS}{RELAXED_OPTION}")),
            reads: pool(READ_OPTIONS),
        })
    }
}

/// A connection on loan, with its prepared statements.
pub(crate) struct Connection {
    /// Always there until it is dropped.
    client: Option<Object>,
    doing: &'static str,
    /// In whose name statements are run.
    actor: Option<Actor>,
    /// A transaction was begun here and has not ended.
    amid: AtomicBool,
}

/// For this transaction only: behind a transaction-pooling PgBouncer the next one is somebody else's.
const ACT: &str = "SELECT set_config('zyven.actor', $1, true)";

impl Store {
    pub(crate) async fn durable(&self, doing: &'static str) -> Result<Connection, StoreError> {
        let mut connection = Connection::from(&self.pools.durable, doing).await?;
        connection.actor = self.actor;
        Ok(connection)
    }

    pub(crate) async fn relaxed(&self, doing: &'static str) -> Result<Connection, StoreError> {
        Connection::from(&self.pools.relaxed, doing).await
    }

    pub(crate) async fn reads(&self, doing: &'static str) -> Result<Connection, StoreError> {
        Connection::from(&self.pools.reads, doing).await
    }

    /// Asks PostgreSQL for a sign of life.
    ///
    /// # Errors
    /// PostgreSQL cannot be reached or is not accepting statements.
    pub async fn health(&self) -> Result<(), StoreError> {
        let connection = self.reads("health check").await?;
        connection.query("SELECT 1", &[]).await.map(|_| ())
    }
}

/// Runs a statement, in the actor's name if there is one. A macro, for a function would keep room for the
/// statement's future twice; and that of the few named ones is boxed, or all would be as large as they are.
macro_rules! run {
    ($connection:ident, $statement:expr) => {
        match $connection.actor {
            None => $statement.await.doing($connection.doing),
            Some(actor) => Box::pin($connection.run_in_name_of(actor, $statement)).await,
        }
    };
}

impl Connection {
    async fn from(pool: &Pool, doing: &'static str) -> Result<Self, StoreError> {
        let client = pool
            .get()
            .await
            .map_err(|source| StoreError::Unreachable { doing, source })?;
        Ok(Self {
            client: Some(client),
            doing,
            actor: None,
            amid: AtomicBool::new(false),
        })
    }

    fn client(&self) -> &Object {
        self.client.as_ref().expect("only drop takes it away")
    }

    async fn statement(&self, sql: &str) -> Result<Statement, StoreError> {
        self.client().prepare_cached(sql).await.doing(self.doing)
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
        self.amid.store(true, Ordering::Relaxed);
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
        self.amid.store(ended.is_err(), Ordering::Relaxed);
        let (_, _, result) = outcome.doing(self.doing)?;
        ended.doing(self.doing)?;
        Ok(result)
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

    /// The connection itself, for the few callers that need more of it than statements.
    pub(crate) fn client_mut(&mut self) -> &mut Object {
        self.client.as_mut().expect("only drop takes it away")
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if *self.amid.get_mut()
            && let Some(client) = self.client.take()
        {
            // Not back into the pool, where somebody else's statement would join the transaction.
            drop(Object::take(client));
        }
    }
}
