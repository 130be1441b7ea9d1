//! The audit log: who changed what. Triggers write most of it, so that no change can forget to; here
//! stands in whose name they do, what no trigger can see, and how the log is read.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;
use zyven_domain::api_key::{Scope, Scopes};
use zyven_domain::id::{ApiKeyId, AuditId, EndpointId, TenantId};

use crate::error::Doing;
use crate::{Store, StoreError};

/// The database refuses to delete entries that are younger.
pub const AUDIT_RETENTION_MIN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// In whose name something is done. Displays as the audit log shows it; see [`Store::by`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// Whoever holds this API key.
    Key(ApiKeyId),
    /// A dispatcher, on its own.
    Dispatcher,
    /// An operator with the command line.
    CommandLine,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(id) => id.fmt(f),
            Self::Dispatcher => f.write_str("dispatcher"),
            Self::CommandLine => f.write_str("zyven admin"),
        }
    }
}

/// One administrative action.
#[derive(Debug, Clone)]
pub struct AuditRecord {
    /// Its id; later actions have greater ones.
    pub id: AuditId,
    /// When its transaction began.
    pub done_at: DateTime<Utc>,
    /// In whose name; a database role if it was done in SQL.
    pub actor: String,
    /// What was done, such as `endpoint.disable`.
    pub action: String,
    /// To what: a typed id, or a name.
    pub subject: String,
    /// What changed, as JSON.
    pub details: String,
}

/// Which actions; `None` is all of them.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Exactly this action, or with a trailing full stop all that begin with it.
    pub action: Option<String>,
    /// In whose name.
    pub actor: Option<String>,
    /// To what.
    pub subject: Option<String>,
    /// Not before.
    pub since: Option<DateTime<Utc>>,
    /// Before.
    pub until: Option<DateTime<Utc>>,
}

const AUDIT_LOG_OF: &str = "
    SELECT id, done_at, actor, action, subject, details::text
      FROM zyven.audit_log
     WHERE tenant_id = $1
       AND ($2::uuid IS NULL OR id < $2)
       AND ($4::text IS NULL OR action = $4 OR (right($4, 1) = '.' AND starts_with(action, $4)))
       AND ($5::text IS NULL OR actor = $5)
       AND ($6::text IS NULL OR subject = $6)
       AND ($7::timestamptz IS NULL OR done_at >= $7)
       AND ($8::timestamptz IS NULL OR done_at < $8)
     ORDER BY id DESC
     LIMIT $3";
const NOTE_REVEAL: &str = "
    INSERT INTO zyven.audit_log (tenant_id, action, subject)
    SELECT tenant_id, 'endpoint_secret.reveal', zyven.typed_id('ep', id)
      FROM zyven.endpoints
     WHERE tenant_id = $1
       AND id = $2";
/// An entry covers what its key makes within an hour and what allows no more than it says. Its id is made when it is written, so
/// the index leads to those of the last hour.
const VIEW_LINK_IS_NOTED: &str = "
    SELECT EXISTS (
           SELECT FROM zyven.audit_log
            WHERE tenant_id = $1
              AND id >= zyven.uuid_floor(now() - interval '1 hour')
              AND done_at > now() - interval '1 hour'
              AND action = 'view_link.create'
              AND subject = zyven.typed_id('key', $2)
              AND details #> '{scopes,to}' @> to_jsonb($3::text[])
              AND details #> '{expires_in_s,to}' >= to_jsonb($4::bigint))";
/// Those that come at the same time look one after the other. Until the end of the transaction.
const NOTE_VIEW_LINKS_IN_TURN: &str =
    "SELECT pg_advisory_xact_lock(hashtextextended('zyven view links of ' || $1::uuid, 0))";
const NOTE_VIEW_LINK: &str = "
    INSERT INTO zyven.audit_log (tenant_id, action, subject, details)
    SELECT tenant_id, 'view_link.create', zyven.typed_id('key', id),
           jsonb_build_object('scopes', jsonb_build_object('to', $3::text[]), 'expires_in_s', jsonb_build_object('to', $4::bigint))
      FROM zyven.api_keys
     WHERE tenant_id = $1
       AND id = $2";
const EXPIRE: &str = "SELECT zyven.expire_audit_log($1::bigint * interval '1 millisecond')";

impl Store {
    /// What was done to and by a tenant, the latest first, before the entry `before`.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn audit_log_of(
        &self,
        tenant: TenantId,
        filter: &AuditFilter,
        before: Option<AuditId>,
        limit: u32,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        let connection = self.reads("reading the audit log").await?;
        let rows = connection
            .query(
                AUDIT_LOG_OF,
                &[
                    &tenant.uuid(),
                    &before.map(AuditId::uuid),
                    &i64::from(limit),
                    &filter.action,
                    &filter.actor,
                    &filter.subject,
                    &filter.since,
                    &filter.until,
                ],
            )
            .await?;
        Ok(rows.iter().map(record).collect())
    }

    /// Notes that the secrets of an endpoint are about to be shown to its owner: no change that a trigger
    /// could see.
    ///
    /// # Errors
    /// PostgreSQL could not be asked; then nothing must be shown.
    pub async fn note_secret_reveal(
        &self,
        tenant: TenantId,
        endpoint: EndpointId,
    ) -> Result<(), StoreError> {
        let connection = self.durable("noting that a secret is shown").await?;
        connection
            .execute(NOTE_REVEAL, &[&tenant.uuid(), &endpoint.uuid()])
            .await
            .map(|_| ())
    }

    /// Notes that a key is about to give somebody a view link with these scopes, that is good for at most so long. Nothing else of
    /// it is stored.
    ///
    /// An entry stands for all links that the key makes within an hour of it and that allow no more: an application which makes one
    /// for each page that is looked at would otherwise fill the log with them. When there is one, nothing is written.
    ///
    /// # Errors
    /// PostgreSQL could not be asked; then the link must not be given away.
    pub async fn note_view_link(
        &self,
        tenant: TenantId,
        key: ApiKeyId,
        scopes: Scopes,
        expires_in: Duration,
    ) -> Result<(), StoreError> {
        const DOING: &str = "noting that a view link is made";
        let scopes: Vec<&str> = scopes.iter().map(Scope::as_str).collect();
        let expires_in_s = i64::try_from(expires_in.as_secs()).unwrap_or(i64::MAX);
        let (tenant, key) = (tenant.uuid(), key.uuid());
        let link: [&(dyn ToSql + Sync); 4] = [&tenant, &key, &scopes, &expires_in_s];
        let reads = self.reads(DOING).await?;
        if reads.query_one(VIEW_LINK_IS_NOTED, &link).await?.get(0) {
            return Ok(());
        }
        drop(reads);
        let mut connection = self.durable(DOING).await?;
        let transaction = connection.transaction().await?;
        transaction
            .execute(NOTE_VIEW_LINKS_IN_TURN, &[&key])
            .await
            .doing(DOING)?;
        let noted = transaction.query_one(VIEW_LINK_IS_NOTED, &link).await;
        if !noted.doing(DOING)?.get::<_, bool>(0) {
            transaction
                .execute(NOTE_VIEW_LINK, &link)
                .await
                .doing(DOING)?;
        }
        transaction.commit().await.doing(DOING)
    }

    /// Deletes up to 1,000 entries older than `retention`, which is at least [`AUDIT_RETENTION_MIN`].
    /// Returns how many.
    ///
    /// # Errors
    /// PostgreSQL could not be asked, or the retention is too short.
    pub async fn expire_audit_log(&self, retention: Duration) -> Result<u64, StoreError> {
        let retention_ms = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        let connection = self.durable("expiring the audit log").await?;
        let row = connection.query_one(EXPIRE, &[&retention_ms]).await?;
        Ok(row.get::<_, i64>(0).unsigned_abs())
    }
}

fn record(row: &Row) -> AuditRecord {
    AuditRecord {
        id: AuditId::from_uuid(row.get::<_, Uuid>(0)),
        done_at: row.get(1),
        actor: row.get(2),
        action: row.get(3),
        subject: row.get(4),
        details: row.get(5),
    }
}
