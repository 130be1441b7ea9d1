//! Signing secrets of endpoints: read by their owner, and rotated with an overlap.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::Row;
use uuid::Uuid;
use zyven_domain::id::{EndpointId, TenantId};

use crate::error::Doing;
use crate::{SealedSecret, Store, StoreError};

/// Most secrets of an endpoint that are valid at once: every request carries one signature for each.
pub const SECRETS_VALID_MAX: u32 = 5;

/// A secret and how long it will be used.
#[derive(Debug, Clone)]
pub struct OwnedSecret {
    /// The secret, sealed.
    pub secret: SealedSecret,
    /// The end of its overlap with its successor; `None` for the current one.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it began to sign.
    pub created_at: DateTime<Utc>,
}

const SECRETS_OF: &str = "
    SELECT s.id, s.envelope, s.scheme, s.expires_at, s.created_at
      FROM zyven.endpoint_secrets s
      JOIN zyven.endpoints e ON e.id = s.endpoint_id
     WHERE e.id = $2
       AND e.tenant_id = $1
       AND e.deleted_at IS NULL
       AND (s.expires_at IS NULL OR s.expires_at > now())
     ORDER BY s.created_at DESC, s.id";
/// Two rotations of one endpoint wait for each other here.
const LOCK: &str = "
    UPDATE zyven.endpoints
       SET updated_at = now()
     WHERE tenant_id = $1
       AND id = $2
       AND deleted_at IS NULL";
const FORGET_EXPIRED: &str = "
    DELETE FROM zyven.endpoint_secrets
     WHERE endpoint_id = $1
       AND expires_at <= now()";
/// The secret to come counts, too. A predecessor's overlap is never made longer.
const RETIRE: &str = "
    UPDATE zyven.endpoint_secrets s
       SET expires_at = least(s.expires_at, now() + CASE WHEN ranked.age < $3 THEN $2::bigint ELSE 0 END
                                                    * interval '1 millisecond')
      FROM (SELECT id, row_number() OVER (ORDER BY created_at DESC, id) AS age
              FROM zyven.endpoint_secrets
             WHERE endpoint_id = $1) AS ranked
     WHERE s.id = ranked.id
       AND (s.expires_at IS NULL OR ranked.age >= $3)";
const INSERT: &str = "
    INSERT INTO zyven.endpoint_secrets (id, endpoint_id, envelope, scheme, created_at)
    VALUES ($1, $2, $3, $4, clock_timestamp())";
const EXISTS: &str = "SELECT FROM zyven.endpoint_secrets WHERE id = $1 AND endpoint_id = $2";

impl Store {
    /// The valid secrets of an endpoint, the current one first; none if the tenant has no such endpoint.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn secrets_of(
        &self,
        tenant: TenantId,
        endpoint: EndpointId,
    ) -> Result<Vec<OwnedSecret>, StoreError> {
        let connection = self.reads("reading signing secrets").await?;
        let rows = connection
            .query(SECRETS_OF, &[&tenant.uuid(), &endpoint.uuid()])
            .await?;
        Ok(rows.iter().map(owned).collect())
    }

    /// Makes `new` the current secret; its predecessor stays valid for `overlap`. Of more than
    /// [`SECRETS_VALID_MAX`] the oldest end at once. A repetition with the same secret changes nothing.
    /// False: the tenant has no such endpoint.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn rotate_secret(
        &self,
        tenant: TenantId,
        endpoint: EndpointId,
        new: &SealedSecret,
        overlap: Duration,
    ) -> Result<bool, StoreError> {
        const DOING: &str = "rotating a signing secret";
        let overlap_ms = i64::try_from(overlap.as_millis()).unwrap_or(i64::MAX);
        let endpoint = endpoint.uuid();
        let mut connection = self.durable(DOING).await?;
        let transaction = connection.transaction().await?;
        let locked = transaction
            .execute(LOCK, &[&tenant.uuid(), &endpoint])
            .await
            .doing(DOING)?;
        if locked == 0 {
            return Ok(false);
        }
        let existing = transaction
            .query_opt(EXISTS, &[&new.id, &endpoint])
            .await
            .doing(DOING)?;
        if existing.is_some() {
            return Ok(true);
        }
        transaction
            .execute(FORGET_EXPIRED, &[&endpoint])
            .await
            .doing(DOING)?;
        transaction
            .execute(
                RETIRE,
                &[&endpoint, &overlap_ms, &i64::from(SECRETS_VALID_MAX)],
            )
            .await
            .doing(DOING)?;
        transaction
            .execute(INSERT, &[&new.id, &endpoint, &new.envelope, &new.scheme])
            .await
            .doing(DOING)?;
        transaction.commit().await.doing(DOING)?;
        Ok(true)
    }
}

fn owned(row: &Row) -> OwnedSecret {
    OwnedSecret {
        secret: SealedSecret {
            id: row.get::<_, Uuid>(0),
            envelope: row.get(1),
            scheme: row.get(2),
        },
        expires_at: row.get(3),
        created_at: row.get(4),
    }
}
