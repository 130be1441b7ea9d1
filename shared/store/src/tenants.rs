//! Tenants: who owns everything else.

use chrono::{DateTime, Utc};
use tokio_postgres::Row;
use uuid::Uuid;
use zyven_domain::id::TenantId;

use crate::api_keys::{API_KEYS_PER_TENANT_MAX, INSERT_KEY, key_columns};
use crate::error::Doing;
use crate::{NewApiKey, Store, StoreError};

/// Longest name of a tenant, in characters.
pub const TENANT_NAME_CHARS_MAX: usize = 200;

/// Tenants of one name that are told apart: more than one is a mistake already.
pub const TENANTS_NAMED_MAX: u32 = 10;

/// Highest rate of a tenant, in events or requests per second.
pub const RATE_PER_SECOND_MAX: u32 = 1_000_000;

/// How often a tenant may ask each process of the API. `None`: not for this to say; zero: without limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TenantRates {
    /// Events that it publishes, per second.
    pub events_per_second: Option<u32>,
    /// Requests that publish nothing, per second.
    pub requests_per_second: Option<u32>,
}

/// A tenant as an operator sees it.
#[derive(Debug, Clone)]
pub struct TenantRecord {
    /// Its id.
    pub id: TenantId,
    /// What its operator calls it.
    pub name: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// How often it may ask, if that is its own affair.
    pub rates: TenantRates,
}

impl TenantRates {
    /// From two columns, which a constraint keeps from being negative.
    pub(crate) fn of(row: &Row, events: usize, requests: usize) -> Self {
        let rate = |column| {
            let rate: Option<i32> = row.get(column);
            rate.and_then(|rate| u32::try_from(rate).ok())
        };
        Self {
            events_per_second: rate(events),
            requests_per_second: rate(requests),
        }
    }

    fn columns(self) -> [Option<i32>; 2] {
        // Beyond any rate that the columns take: refused there.
        let column = |rate: Option<u32>| rate.map(|rate| i32::try_from(rate).unwrap_or(i32::MAX));
        [
            column(self.events_per_second),
            column(self.requests_per_second),
        ]
    }
}

const INSERT_TENANT: &str = "
    INSERT INTO zyven.tenants (id, name)
    VALUES ($1, $2)
    ON CONFLICT (id) DO NOTHING";
const TENANTS: &str = "
    SELECT id, name, created_at, events_per_second, requests_per_second
      FROM zyven.tenants
     ORDER BY name, id
     LIMIT $1";
const HAS_TENANT: &str = "SELECT EXISTS (SELECT FROM zyven.tenants WHERE id = $1)";
const LIMIT_TENANT: &str = "
    UPDATE zyven.tenants
       SET events_per_second = $2,
           requests_per_second = $3
     WHERE id = $1";
/// Names need not be unique.
const TENANTS_NAMED: &str = "
    SELECT id
      FROM zyven.tenants
     WHERE name = $1
     ORDER BY created_at, id
     LIMIT $2";

impl Store {
    /// Makes a tenant together with its first key, whose `tenant_id` is the new tenant's id. A
    /// repetition with the same ids changes nothing.
    ///
    /// # Errors
    /// PostgreSQL could not be asked, or refuses the name: 1 to [`TENANT_NAME_CHARS_MAX`] characters.
    pub async fn create_tenant(&self, name: &str, first_key: &NewApiKey) -> Result<(), StoreError> {
        const DOING: &str = "creating a tenant";
        let mut connection = self.durable(DOING).await?;
        let transaction = connection.transaction().await?;
        transaction
            .execute(INSERT_TENANT, &[&first_key.tenant_id.uuid(), &name])
            .await
            .doing(DOING)?;
        let (public_id, hash, scopes) = key_columns(first_key);
        transaction
            .execute(
                INSERT_KEY,
                &[
                    &first_key.id.uuid(),
                    &first_key.tenant_id.uuid(),
                    &public_id,
                    &hash,
                    &first_key.name,
                    &scopes,
                    &first_key.expires_at,
                    &i64::from(API_KEYS_PER_TENANT_MAX),
                ],
            )
            .await
            .doing(DOING)?;
        transaction.commit().await.doing(DOING)
    }

    /// The first `limit` tenants in the order of their names.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn tenants(&self, limit: u32) -> Result<Vec<TenantRecord>, StoreError> {
        let connection = self.reads("listing tenants").await?;
        let rows = connection.query(TENANTS, &[&i64::from(limit)]).await?;
        let record = |row: &Row| TenantRecord {
            id: TenantId::from_uuid(row.get(0)),
            name: row.get(1),
            created_at: row.get(2),
            rates: TenantRates::of(row, 3, 4),
        };
        Ok(rows.iter().map(record).collect())
    }

    /// Whether there is such a tenant.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn has_tenant(&self, tenant: TenantId) -> Result<bool, StoreError> {
        let connection = self.reads("looking for a tenant").await?;
        let row = connection.query_one(HAS_TENANT, &[&tenant.uuid()]).await?;
        Ok(row.get(0))
    }

    /// Says how often a tenant may ask. False: there is no such tenant.
    ///
    /// # Errors
    /// PostgreSQL could not be asked, or refuses a rate beyond [`RATE_PER_SECOND_MAX`].
    pub async fn limit_tenant(
        &self,
        tenant: TenantId,
        rates: TenantRates,
    ) -> Result<bool, StoreError> {
        let connection = self.durable("limiting a tenant").await?;
        let [events, requests] = rates.columns();
        let touched = connection
            .execute(LIMIT_TENANT, &[&tenant.uuid(), &events, &requests])
            .await?;
        Ok(touched > 0)
    }

    /// The tenants of that name, the oldest first, at most [`TENANTS_NAMED_MAX`].
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn tenants_named(&self, name: &str) -> Result<Vec<TenantId>, StoreError> {
        let connection = self.reads("looking for a tenant").await?;
        let rows = connection
            .query(TENANTS_NAMED, &[&name, &i64::from(TENANTS_NAMED_MAX)])
            .await?;
        let id = |row: &Row| TenantId::from_uuid(row.get::<_, Uuid>(0));
        Ok(rows.iter().map(id).collect())
    }
}
