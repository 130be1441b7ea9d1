//! What a dispatcher needs to know of an endpoint.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::Row;
use uuid::Uuid;
use zyven_domain::id::{EndpointId, TenantId};
use zyven_domain::retry::RetryPolicy;
use zyven_domain::secret_box::Place;

use crate::endpoints::columns::{schedule, statuses};
use crate::{CredentialKind, SealedCredential, Store, StoreError};

/// Whether an endpoint takes deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointStatus {
    /// It does.
    Enabled,
    /// It does, and its owner wants them to wait.
    Paused,
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
    /// How it signs, as [`zyven_domain::signature::Scheme`] has it. Text, because a newer Zyven may
    /// know more schemes: who reads one it does not know must not send without that signature.
    pub scheme: String,
    /// An envelope of [`zyven_domain::secret_box`].
    pub envelope: Vec<u8>,
}

impl SealedSecret {
    /// The table, as [`Place`] names it.
    pub const TABLE: &'static str = "endpoint_secrets";

    /// What the envelope of secret `id` is bound to.
    pub const fn place(tenant: TenantId, id: Uuid) -> Place {
        Place {
            table: Self::TABLE,
            tenant,
            row: id,
        }
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
    /// What else they carry, ordered by kind.
    pub credentials: Vec<SealedCredential>,
}

impl EndpointForDelivery {
    /// Whether it wants a client certificate shown.
    pub fn shows_certificate(&self) -> bool {
        let kind = CredentialKind::ClientCertificate.as_str();
        self.credentials.iter().any(|known| known.kind == kind)
    }
}

const ENDPOINTS: &str = "
    SELECT e.id, e.tenant_id, e.url, e.status = 'enabled', e.deleted_at IS NOT NULL,
           e.retry_base_ms, e.retry_cap_ms, e.attempts_max, e.age_max_ms, e.timeout_ms,
           s.ids, s.schemes, s.envelopes, c.ids, c.kinds, c.envelopes,
           e.retry_schedule_ms, e.retry_statuses, e.updated_at, e.paused_at IS NOT NULL
      FROM zyven.endpoints e
     CROSS JOIN LATERAL (SELECT coalesce(array_agg(id ORDER BY created_at DESC, id), '{}') AS ids,
                                coalesce(array_agg(scheme ORDER BY created_at DESC, id), '{}') AS schemes,
                                coalesce(array_agg(envelope ORDER BY created_at DESC, id), '{}') AS envelopes
                           FROM zyven.endpoint_secrets
                          WHERE endpoint_id = e.id
                            AND (expires_at IS NULL OR expires_at > now())) AS s
     CROSS JOIN LATERAL (SELECT coalesce(array_agg(id ORDER BY kind), '{}') AS ids,
                                coalesce(array_agg(kind ORDER BY kind), '{}') AS kinds,
                                coalesce(array_agg(envelope ORDER BY kind), '{}') AS envelopes
                           FROM zyven.endpoint_credentials
                          WHERE endpoint_id = e.id) AS c
     WHERE e.id = ANY ($1)";
const DISABLE: &str = "
    UPDATE zyven.endpoints
       SET status = 'disabled',
           disabled_reason = $2
     WHERE id = $1
       AND status = 'enabled'
       AND updated_at = $3";

/// Why an endpoint is disabled that answered 410, as its owner reads it. `zyven.endpoint.disabled` tells it from what owners and
/// operators write, by the same words in SQL.
pub const DISABLED_AS_GONE: &str = "the endpoint answered 410 Gone";

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
    let status = match (row.get(4), row.get(3), row.get(19)) {
        (true, _, _) => EndpointStatus::Deleted,
        (false, false, _) => EndpointStatus::Disabled,
        (false, true, true) => EndpointStatus::Paused,
        (false, true, false) => EndpointStatus::Enabled,
    };
    EndpointForDelivery {
        id: EndpointId::from_uuid(row.get(0)),
        tenant_id: TenantId::from_uuid(row.get(1)),
        url: row.get(2),
        status,
        updated_at: row.get(18),
        policy: RetryPolicy {
            base: ms(5),
            cap: ms(6),
            attempts_max: row.get::<_, i32>(7).unsigned_abs(),
            schedule: schedule(row, 16),
            statuses: statuses(row, 17),
            age_max: ms(8),
            timeout: Duration::from_millis(u64::from(row.get::<_, i32>(9).unsigned_abs())),
        },
        secrets: triples(row, 10, |(id, scheme, envelope)| SealedSecret {
            id,
            scheme,
            envelope,
        }),
        credentials: triples(row, 13, |(id, kind, envelope)| SealedCredential {
            id,
            kind,
            envelope,
        }),
    }
}

/// Three arrays side by side, from `column` on.
fn triples<T>(row: &Row, column: usize, make: impl Fn((Uuid, String, Vec<u8>)) -> T) -> Vec<T> {
    let ids: Vec<Uuid> = row.get(column);
    let texts: Vec<String> = row.get(column + 1);
    let envelopes: Vec<Vec<u8>> = row.get(column + 2);
    ids.into_iter()
        .zip(texts)
        .zip(envelopes)
        .map(|((id, text), envelope)| make((id, text, envelope)))
        .collect()
}
