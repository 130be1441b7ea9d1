//! What endpoints may be asked to bear, as the relay tells it to their lanes.

use std::time::Duration;

use tokio_postgres::Row;
use uuid::Uuid;
use zyven_domain::id::{EndpointId, TenantId};

use crate::{EndpointRecord, Store, StoreError};

/// An endpoint's own limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LaneLimits {
    /// Requests in flight at the same time; `None`: the deployment's limit.
    pub concurrency_max: Option<u32>,
    /// Requests a minute, by a token bucket; `None`: not limited.
    pub rate_per_minute: Option<u32>,
    /// Size of the bucket; `None`: one second's worth, at least 1.
    pub rate_burst: Option<u32>,
    /// Whether its deliveries wait.
    pub is_paused: bool,
}

/// An endpoint and its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneLimitsOf {
    /// Its owner.
    pub tenant_id: TenantId,
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// The limits.
    pub limits: LaneLimits,
}

impl LaneLimits {
    /// Size of the bucket, whether the owner has chosen one or not.
    pub fn burst(&self) -> u32 {
        let one_second = self.rate_per_minute.unwrap_or_default().div_ceil(60);
        self.rate_burst.unwrap_or(one_second.max(1))
    }
}

/// A deleted endpoint has no limits any more; what waits for it is to be dead-lettered, pause or not.
const ALL: &str = "
    SELECT tenant_id, id, concurrency_max, rate_per_minute, rate_burst, paused_at IS NOT NULL
      FROM zyven.endpoints
     WHERE deleted_at IS NULL
       AND (paused_at IS NOT NULL OR concurrency_max IS NOT NULL OR rate_per_minute IS NOT NULL)";
/// A macro because statements are constants: of some endpoints, whether they have limits or not.
macro_rules! limits_where {
    ($condition:literal) => {
        concat!(
            "SELECT tenant_id, id,
                    CASE WHEN deleted_at IS NULL THEN concurrency_max END,
                    CASE WHEN deleted_at IS NULL THEN rate_per_minute END,
                    CASE WHEN deleted_at IS NULL THEN rate_burst END,
                    deleted_at IS NULL AND paused_at IS NOT NULL
               FROM zyven.endpoints
              WHERE ",
            $condition
        )
    };
}

const CHANGED: &str =
    limits_where!("updated_at > statement_timestamp() - $1::bigint * interval '1 millisecond'");
const OF: &str = limits_where!("id = ANY ($1)");
const PAUSE: &str = "
    UPDATE zyven.endpoints
       SET paused_at = CASE WHEN $3 THEN coalesce(paused_at, now()) END
     WHERE tenant_id = $1
       AND id = $2
       AND deleted_at IS NULL";

/// Whether an endpoint's deliveries go out or wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// They go out.
    Running,
    /// They wait, without spending attempts. Events are accepted for it as ever.
    Paused,
}

impl Store {
    /// Pauses an endpoint, or lets it go on. Harmless if that is how it is. `None`: no such endpoint.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn set_flow(
        &self,
        tenant: TenantId,
        id: EndpointId,
        flow: Flow,
    ) -> Result<Option<EndpointRecord>, StoreError> {
        let connection = self.durable("pausing or resuming an endpoint").await?;
        let pauses = flow == Flow::Paused;
        connection
            .execute(PAUSE, &[&tenant.uuid(), &id.uuid(), &pauses])
            .await?;
        drop(connection);
        self.endpoint_of(tenant, id).await
    }

    /// All endpoints that have limits of their own, or are paused.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn lane_limits(&self) -> Result<Vec<LaneLimitsOf>, StoreError> {
        let connection = self.relaxed("reading limits of endpoints").await?;
        let rows = connection.query(ALL, &[]).await?;
        Ok(rows.iter().map(limits_of).collect())
    }

    /// The limits of all endpoints that have changed, or were made, within this time, whether they have
    /// any or not. A transaction that was open for longer than it hides its changes from this.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn lane_limits_changed(
        &self,
        within: Duration,
    ) -> Result<Vec<LaneLimitsOf>, StoreError> {
        let within_ms = i64::try_from(within.as_millis()).unwrap_or(i64::MAX);
        let connection = self.relaxed("reading changed limits of endpoints").await?;
        let rows = connection.query(CHANGED, &[&within_ms]).await?;
        Ok(rows.iter().map(limits_of).collect())
    }

    /// The limits of these endpoints, whether they have any or not.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn lane_limits_of(
        &self,
        ids: &[EndpointId],
    ) -> Result<Vec<LaneLimitsOf>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        let connection = self.relaxed("reading limits of new endpoints").await?;
        let rows = connection.query(OF, &[&ids]).await?;
        Ok(rows.iter().map(limits_of).collect())
    }
}

fn limits_of(row: &Row) -> LaneLimitsOf {
    let count = |column: usize| row.get::<_, Option<i32>>(column).map(i32::unsigned_abs);
    LaneLimitsOf {
        tenant_id: TenantId::from_uuid(row.get(0)),
        endpoint_id: EndpointId::from_uuid(row.get(1)),
        limits: LaneLimits {
            concurrency_max: count(2),
            rate_per_minute: count(3),
            rate_burst: count(4),
            is_paused: row.get(5),
        },
    }
}
