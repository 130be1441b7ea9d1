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
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Timeouts};
use tokio_postgres::{Config, NoTls, Row, Statement, types::ToSql};

use crate::error::Doing;
use crate::{Store, StoreError};

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
    client: Object,
    doing: &'static str,
}

impl Store {
    pub(crate) async fn durable(&self, doing: &'static str) -> Result<Connection, StoreError> {
        Connection::from(&self.pools.durable, doing).await
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

impl Connection {
    async fn from(pool: &Pool, doing: &'static str) -> Result<Self, StoreError> {
        let client = pool
            .get()
            .await
            .map_err(|source| StoreError::Unreachable { doing, source })?;
        Ok(Self { client, doing })
    }

    async fn statement(&self, sql: &str) -> Result<Statement, StoreError> {
        self.client.prepare_cached(sql).await.doing(self.doing)
    }

    /// Runs a prepared statement and returns its rows.
    pub(crate) async fn query(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let statement = self.statement(sql).await?;
        self.client
            .query(&statement, parameters)
            .await
            .doing(self.doing)
    }

    /// Runs a prepared statement that returns at most one row.
    pub(crate) async fn query_opt(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, StoreError> {
        let statement = self.statement(sql).await?;
        self.client
            .query_opt(&statement, parameters)
            .await
            .doing(self.doing)
    }

    /// Runs a prepared statement that returns exactly one row.
    pub(crate) async fn query_one(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, StoreError> {
        let statement = self.statement(sql).await?;
        self.client
            .query_one(&statement, parameters)
            .await
            .doing(self.doing)
    }

    /// Runs a prepared statement and returns how many rows it touched.
    pub(crate) async fn execute(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, StoreError> {
        let statement = self.statement(sql).await?;
        self.client
            .execute(&statement, parameters)
            .await
            .doing(self.doing)
    }

    /// The connection itself, for the few callers that need a transaction of several statements.
    pub(crate) fn client_mut(&mut self) -> &mut Object {
        &mut self.client
    }
}
