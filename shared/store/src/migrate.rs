//! Bringing a database to this version's schema. Forward only; each file once, in one transaction.

use sha2::{Digest, Sha256};

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
}

/// A migration that [`Store::migrate`] has just applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppliedMigration {
    /// Its name.
    pub name: &'static str,
}

/// Every migration of this version, in order.
pub fn migrations() -> impl Iterator<Item = Migration> {
    FILES.iter().map(|&(name, sql)| Migration { name, sql })
}

const PREPARE: &str = "
    CREATE SCHEMA IF NOT EXISTS zyven;
    CREATE TABLE IF NOT EXISTS zyven.migrations (
        name       text PRIMARY KEY,
        checksum   bytea NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )";
/// Two migrators wait for each other. Held by the session: migrations run on a connection of their own.
const LOCK: &str = "SELECT pg_advisory_lock(hashtextextended('zyven.migrate', 0))";
const UNLOCK: &str = "SELECT pg_advisory_unlock(hashtextextended('zyven.migrate', 0))";
const APPLIED: &str = "SELECT name, checksum FROM zyven.migrations ORDER BY name";
const RECORD: &str = "INSERT INTO zyven.migrations (name, checksum) VALUES ($1, $2)";

impl Store {
    /// Applies what is missing and returns it. Safe to run by several processes at once.
    ///
    /// # Errors
    /// A file that was applied has changed since, the database is newer than this version, or a
    /// statement failed; the failed file has then left nothing behind.
    pub async fn migrate(&self) -> Result<Vec<AppliedMigration>, StoreError> {
        const DOING: &str = "migrating";
        let mut connection = self.reads(DOING).await?;
        let client = connection.client_mut();
        client
            .batch_execute("SET statement_timeout = 0")
            .await
            .doing(DOING)?;
        client.query(LOCK, &[]).await.doing(DOING)?;
        let outcome = apply_missing(client).await;
        client.query(UNLOCK, &[]).await.doing(DOING)?;
        client
            .batch_execute("RESET statement_timeout")
            .await
            .doing(DOING)?;
        outcome
    }

    /// Names of migrations of this version that the database lacks.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn pending_migrations(&self) -> Result<Vec<&'static str>, StoreError> {
        const DOING: &str = "checking the schema version";
        let mut connection = self.reads(DOING).await?;
        let client = connection.client_mut();
        let exists: bool = client
            .query_one("SELECT to_regclass('zyven.migrations') IS NOT NULL", &[])
            .await
            .doing(DOING)?
            .get(0);
        let mut known: Vec<String> = Vec::new();
        if exists {
            let rows = client.query(APPLIED, &[]).await.doing(DOING)?;
            known.extend(rows.iter().map(|row| row.get::<_, String>(0)));
        }
        Ok(migrations()
            .map(|migration| migration.name)
            .filter(|name| !known.iter().any(|k| k == name))
            .collect())
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
    for migration in migrations().skip(known.len()) {
        let transaction = client.transaction().await.doing(DOING)?;
        transaction
            .batch_execute(migration.sql)
            .await
            .doing("applying a migration")?;
        transaction
            .execute(RECORD, &[&migration.name, &migration.checksum()])
            .await
            .doing(DOING)?;
        transaction.commit().await.doing(DOING)?;
        tracing::info!(migration = migration.name, "applied");
        applied.push(AppliedMigration {
            name: migration.name,
        });
    }
    Ok(applied)
}
