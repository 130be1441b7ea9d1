//! Bringing a database to this version's schema. Forward only; each file once, in one transaction.

use std::borrow::Cow;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio_postgres::Client;

use crate::error::Doing;
use crate::{Store, StoreError};

/// Name and text of every migration, made by the build script from `sql/migrations`.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

/// One file of `sql/migrations`.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// The file's name without `.sql`; names sort in the order they are applied.
    pub name: &'static str,
    /// Its statements.
    pub sql: &'static str,
}

impl Migration {
    /// What is written down beside the name, so that a file changed afterwards is noticed.
    pub fn checksum(&self) -> Vec<u8> {
        Sha256::digest(self.sql.as_bytes()).to_vec()
    }

    /// Its statements as this server takes them. One that was built without lz4 keeps payloads with its own compression
    /// ([ADR 0036](../../../docs/adr/0036-lz4-where-the-server-has-it.md)); the checksum is the file's all the same.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn sql_for(&self, client: &Client) -> Result<Cow<'static, str>, StoreError> {
        if self.sql.contains(LZ4) {
            let row = client.query_one(HAS_LZ4, &[]).await;
            let has_lz4: bool = row.doing("asking for lz4")?.get(0);
            if !has_lz4 {
                return Ok(self.sql.replace(LZ4, "").into());
            }
        }
        Ok(self.sql.into())
    }
}

/// A migration that [`Store::migrate`] has just applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppliedMigration {
    /// Its name.
    pub name: &'static str,
}

/// What a database is to this version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schema {
    /// Everything this version needs is there. It may be newer: migrations add first, and take away in a later release.
    Fits,
    /// These migrations of this version were not applied yet.
    Lacks(Vec<&'static str>),
    /// Something that this version uses was taken away.
    TooNew {
        /// A program that works with this database knows this migration.
        needed: String,
    },
}

/// Every migration of this version, in order.
pub fn migrations() -> impl Iterator<Item = Migration> {
    FILES.iter().map(|&(name, sql)| Migration { name, sql })
}

/// How columns ask for it.
const LZ4: &str = " COMPRESSION lz4";
const HAS_LZ4: &str = "
    SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'";
const PREPARE: &str = "
    CREATE SCHEMA IF NOT EXISTS zyven;
    CREATE TABLE IF NOT EXISTS zyven.migrations (
        name       text PRIMARY KEY,
        checksum   bytea NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )";
/// Two migrators wait for each other. Held by the session: migrations run on a connection of their own.
const LOCK: &str = "SELECT pg_advisory_lock(hashtextextended('zyven.migrate', 0))";
/// A migration takes as long as it takes. But it waits for no table for longer than this: whoever comes after waits behind
/// it, so a long query would stop all traffic for as long as it runs.
const TERMS: &str = "SET statement_timeout = 0; SET lock_timeout = '1s'";
/// Waiting for the other migrator is no harm to anybody.
const WAIT_FOR_OTHERS: &str = "SET statement_timeout = 0; SET lock_timeout = 0";
/// How long a migration is tried whose tables others use: some minutes, then an operator has to look.
const TRIES_MAX: u32 = 120;
/// Between two tries, so that what has piled up behind the last one gets through.
const TRY_AGAIN: Duration = Duration::from_secs(2);
const APPLIED: &str = "SELECT name, checksum FROM zyven.migrations ORDER BY name";
/// Whether there are migrations, and whether they say what they need.
const EXISTING: &str = "
    SELECT to_regclass('zyven.migrations') IS NOT NULL, to_regclass('zyven.compatibility') IS NOT NULL";
const NEEDED: &str = "SELECT oldest_known FROM zyven.compatibility";
const RECORD: &str = "INSERT INTO zyven.migrations (name, checksum) VALUES ($1, $2)";

impl Store {
    /// Applies what is missing and returns it. Safe to run by several processes at once, and while traffic flows:
    /// a table that is in use is tried again, and not waited for.
    ///
    /// # Errors
    /// A file that was applied has changed since, the database is newer than this version, or a
    /// statement failed; the failed file has then left nothing behind.
    pub async fn migrate(&self) -> Result<Vec<AppliedMigration>, StoreError> {
        const DOING: &str = "migrating";
        let mut connection = self.reads(DOING).await?;
        // Whatever happens, nobody else gets this session: it has a lock and settings of its own.
        connection.spoil();
        let client = connection.client_mut();
        client.batch_execute(WAIT_FOR_OTHERS).await.doing(DOING)?;
        client.query(LOCK, &[]).await.doing(DOING)?;
        client.batch_execute(TERMS).await.doing(DOING)?;
        apply_missing(client).await
    }

    /// Whether this version can work with the database.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn schema(&self) -> Result<Schema, StoreError> {
        const DOING: &str = "checking the schema version";
        let mut connection = self.reads(DOING).await?;
        let client = connection.client_mut();
        let found = client.query_one(EXISTING, &[]).await.doing(DOING)?;
        let mut known: Vec<String> = Vec::new();
        if found.get(0) {
            let rows = client.query(APPLIED, &[]).await.doing(DOING)?;
            known.extend(rows.iter().map(|row| row.get::<_, String>(0)));
        }
        if found.get(1) {
            let needed: String = client.query_one(NEEDED, &[]).await.doing(DOING)?.get(0);
            if migrations().all(|migration| *migration.name < *needed) {
                return Ok(Schema::TooNew { needed });
            }
        }
        let lacking: Vec<&'static str> = migrations()
            .map(|migration| migration.name)
            .filter(|name| !known.iter().any(|k| k == name))
            .collect();
        Ok(match lacking.is_empty() {
            true => Schema::Fits,
            false => Schema::Lacks(lacking),
        })
    }
}

async fn apply_missing(
    client: &mut deadpool_postgres::Object,
) -> Result<Vec<AppliedMigration>, StoreError> {
    const DOING: &str = "migrating";
    client.batch_execute(PREPARE).await.doing(DOING)?;
    let known: Vec<(String, Vec<u8>)> = client
        .query(APPLIED, &[])
        .await
        .doing(DOING)?
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    for (name, checksum) in &known {
        let what = match migrations().find(|migration| migration.name == name) {
            Some(migration) if migration.checksum() == *checksum => continue,
            Some(_) => format!("migration {name} applied from a file that has changed since"),
            None => format!("migration {name}, which this version of Zyven does not know"),
        };
        return Err(StoreError::Unreadable { doing: DOING, what });
    }
    let mut applied = Vec::new();
    let is_missing = |migration: &Migration| known.iter().all(|(name, _)| name != migration.name);
    for migration in migrations().filter(is_missing) {
        apply_patiently(client, migration).await?;
        tracing::info!(migration = migration.name, "applied");
        applied.push(AppliedMigration {
            name: migration.name,
        });
    }
    Ok(applied)
}

/// Tries again while traffic keeps the tables it needs, or was chosen over it in a deadlock.
async fn apply_patiently(
    client: &mut deadpool_postgres::Object,
    migration: Migration,
) -> Result<(), StoreError> {
    let mut tries = 1;
    loop {
        match apply(client, migration).await {
            Err(error) if error.is_of_the_traffic() && tries < TRIES_MAX => {
                if tries.is_power_of_two() {
                    tracing::warn!(migration = migration.name, tries, error = %error,
                        "tables are in use; trying again");
                }
                tries += 1;
                tokio::time::sleep(TRY_AGAIN).await;
            }
            outcome => return outcome,
        }
    }
}

async fn apply(
    client: &mut deadpool_postgres::Object,
    migration: Migration,
) -> Result<(), StoreError> {
    const DOING: &str = "applying a migration";
    let sql = migration.sql_for(client).await?;
    let transaction = client.transaction().await.doing(DOING)?;
    transaction.batch_execute(&sql).await.doing(DOING)?;
    transaction
        .execute(RECORD, &[&migration.name, &migration.checksum()])
        .await
        .doing(DOING)?;
    transaction.commit().await.doing(DOING)
}
