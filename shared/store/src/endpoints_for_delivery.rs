//! What a dispatcher needs to know of an endpoint.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::Row;
use uuid::Uuid;
use zyven_domain::id::{EndpointId, TenantId};
use zyven_domain::retry::RetryPolicy;

use crate::endpoints::{schedule, statuses};
use crate::{Store, StoreError};

/// Whether an endpoint takes deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointStatus {
    /// It does.
    Enabled,
    /// Its owner, or a 410, has switched it off.
    Disabled,
    /// Its owner has removed it.
    Deleted,
}

/// A signing secret as the database keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSecret {
    /// The row, which the envelope is bound to.
    pub id: Uuid,
    /// An envelope of [`zyven_domain::secret_box`].
    pub envelope: Vec<u8>,
}

impl SealedSecret {
    /// The associated data that the envelope of secret `id` is sealed with.
    pub fn associated_data(id: Uuid) -> String {
        format!("endpoint_secrets/{id}")
    }
}

/// An endpoint, as far as an attempt needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointForDelivery {
    /// The endpoint.
    pub id: EndpointId,
    /// Its owner.
    pub tenant_id: TenantId,
    /// Where requests go.
    pub url: String,
    /// Whether they may.
    pub status: EndpointStatus,
    /// When it last changed: tells one state of it from every other.
    pub updated_at: DateTime<Utc>,
    /// How failures are repeated.
    pub policy: RetryPolicy,
    /// What requests are signed with: the current secret first, then those in their overlap.
    pub secrets: Vec<SealedSecret>,
}

const ENDPOINTS: &str = "
    SELECT e.id, e.tenant_id, e.url, e.status = 'enabled', e.deleted_at IS NOT NULL,
           e.retry_base_ms, e.retry_cap_ms, e.attempts_max, e.age_max_ms, e.timeout_ms,
           ARRAY(SELECT s.id FROM zyven.endpoint_secrets s
                  WHERE s.endpoint_id = e.id AND (s.expires_at IS NULL OR s.expires_at > now())
                  ORDER BY s.created_at DESC, s.id),
           ARRAY(SELECT s.envelope FROM zyven.endpoint_secrets s
                  WHERE s.endpoint_id = e.id AND (s.expires_at IS NULL OR s.expires_at > now())
                  ORDER BY s.created_at DESC, s.id),
           e.retry_schedule_ms, e.retry_statuses, e.updated_at
      FROM zyven.endpoints e
     WHERE e.id = ANY ($1)";
const DISABLE: &str = "
    UPDATE zyven.endpoints
       SET status = 'disabled',
           disabled_reason = $2
     WHERE id = $1
       AND status = 'enabled'
       AND updated_at = $3";

impl Store {
    /// The endpoints `ids`, in no order; those that never existed are missing.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn endpoints(
        &self,
        ids: &[EndpointId],
    ) -> Result<Vec<EndpointForDelivery>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        let connection = self.relaxed("reading endpoints").await?;
        let rows = connection.query(ENDPOINTS, &[&ids]).await?;
        Ok(rows.iter().map(endpoint).collect())
    }

    /// Switches an endpoint off, for example because it answered 410. False if it was off already, or
    /// is no longer what it was when it had last changed at `seen`: what was learnt of an endpoint says
    /// nothing about the one its owner has made of it since.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn disable_endpoint(
        &self,
        id: EndpointId,
        seen: DateTime<Utc>,
        reason: &str,
    ) -> Result<bool, StoreError> {
        let connection = self.durable("disabling an endpoint").await?;
        let touched = connection
            .execute(DISABLE, &[&id.uuid(), &reason, &seen])
            .await?;
        Ok(touched > 0)
    }
}

fn endpoint(row: &Row) -> EndpointForDelivery {
    let ms = |column: usize| Duration::from_millis(row.get::<_, i64>(column).unsigned_abs());
    let status = match (row.get(4), row.get(3)) {
        (true, _) => EndpointStatus::Deleted,
        (false, true) => EndpointStatus::Enabled,
        (false, false) => EndpointStatus::Disabled,
    };
    let secret_ids: Vec<Uuid> = row.get(10);
    let envelopes: Vec<Vec<u8>> = row.get(11);
    EndpointForDelivery {
        id: EndpointId::from_uuid(row.get(0)),
        tenant_id: TenantId::from_uuid(row.get(1)),
        url: row.get(2),
        status,
        updated_at: row.get(14),
        policy: RetryPolicy {
            base: ms(5),
            cap: ms(6),
            attempts_max: row.get::<_, i32>(7).unsigned_abs(),
            schedule: schedule(row, 12),
            statuses: statuses(row, 13),
            age_max: ms(8),
            timeout: Duration::from_millis(u64::from(row.get::<_, i32>(9).unsigned_abs())),
        },
        secrets: secret_ids
            .into_iter()
            .zip(envelopes)
            .map(|(id, envelope)| SealedSecret { id, envelope })
            .collect(),
    }
}
