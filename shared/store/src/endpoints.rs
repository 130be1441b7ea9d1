//! Endpoints as their owners manage them. What a dispatcher reads of them is `endpoints_for_delivery`.

pub(crate) mod columns;

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::types::ToSql;
use uuid::Uuid;
use zyven_domain::event::{Channel, Pattern};
use zyven_domain::filter::Filter;
use zyven_domain::id::{EndpointId, TenantId};
use zyven_domain::retry::RetryPolicy;

use self::columns::{bigint, integer, record, record_columns, schedule_ms, smallints};
use crate::endpoint_credentials::change_credentials;
use crate::error::Doing;
use crate::{CredentialChange, LaneLimits, SealedSecret, Store, StoreError};

/// Most endpoints of a tenant that are not deleted: bounds the fan-out of one event, and with it the
/// size of one transaction.
pub const ENDPOINTS_PER_TENANT_MAX: u32 = 10_000;

/// An endpoint ready to be stored: everything in it has been parsed and bounded.
#[derive(Debug, Clone)]
pub struct NewEndpoint {
    /// Made by the caller, so that the same call can be repeated.
    pub id: EndpointId,
    /// The owner.
    pub tenant_id: TenantId,
    /// A normalised [`zyven_domain::target::EndpointUrl`].
    pub url: String,
    /// For people.
    pub description: String,
    /// What it subscribes to; at least one.
    pub event_types: Vec<Pattern>,
    /// Empty: every event; otherwise only events with at least one of these.
    pub channels: Vec<Channel>,
    /// What a payload must be like; `None`: whatever it is.
    pub filter: Option<Filter>,
    /// How failures are repeated.
    pub policy: RetryPolicy,
    /// What it may be asked to bear. A new endpoint is never paused.
    pub limits: LaneLimits,
    /// What its requests are signed with.
    pub secret: SealedSecret,
    /// What else its requests carry.
    pub credentials: CredentialChange,
}

/// What is to be different; `None` leaves as it is.
#[derive(Debug, Clone, Default)]
pub struct EndpointChange {
    /// Nothing is changed unless [`EndpointRecord::updated_at`] is one of these; `None` asks for nothing.
    pub only_of: Option<Vec<DateTime<Utc>>>,
    /// A normalised [`zyven_domain::target::EndpointUrl`].
    pub url: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// What it subscribes to; at least one.
    pub event_types: Option<Vec<Pattern>>,
    /// See [`NewEndpoint::channels`].
    pub channels: Option<Vec<Channel>>,
    /// See [`NewEndpoint::filter`]; `Some(None)` removes it.
    pub filter: Option<Option<Filter>>,
    /// See [`RetryPolicy::base`].
    pub retry_base: Option<Duration>,
    /// See [`RetryPolicy::cap`].
    pub retry_cap: Option<Duration>,
    /// See [`RetryPolicy::attempts_max`].
    pub attempts_max: Option<u32>,
    /// See [`RetryPolicy::schedule`]; an empty one goes back to base, cap and attempts.
    pub retry_schedule: Option<Vec<Duration>>,
    /// See [`RetryPolicy::statuses`].
    pub retry_statuses: Option<Vec<u16>>,
    /// See [`RetryPolicy::age_max`].
    pub age_max: Option<Duration>,
    /// See [`RetryPolicy::timeout`].
    pub timeout: Option<Duration>,
    /// See [`NewEndpoint::credentials`].
    pub credentials: CredentialChange,
    /// See [`LaneLimits::concurrency_max`]; 0 goes back to none.
    pub concurrency_max: Option<u32>,
    /// See [`LaneLimits::rate_per_minute`]; 0 goes back to none.
    pub rate_per_minute: Option<u32>,
    /// See [`LaneLimits::rate_burst`]; 0 goes back to none.
    pub rate_burst: Option<u32>,
}

/// An endpoint as its owner sees it.
#[derive(Debug, Clone)]
pub struct EndpointRecord {
    /// Its id.
    pub id: EndpointId,
    /// Where requests go.
    pub url: String,
    /// For people.
    pub description: String,
    /// Patterns it subscribes to.
    pub event_types: Vec<String>,
    /// See [`NewEndpoint::channels`].
    pub channels: Vec<String>,
    /// See [`NewEndpoint::filter`].
    pub filter: Option<String>,
    /// Why it takes no deliveries; `None` while it does.
    pub disabled_reason: Option<String>,
    /// How failures are repeated.
    pub policy: RetryPolicy,
    /// What it may be asked to bear, and whether it is paused.
    pub limits: LaneLimits,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// Why an endpoint was not made or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointRefusal {
    /// The tenant has no such endpoint.
    NotFound,
    /// The tenant has [`ENDPOINTS_PER_TENANT_MAX`] already.
    TooMany,
    /// The longest wait between attempts would be shorter than the first one.
    RetryCapBelowBase,
    /// It was last changed at another time than those of [`EndpointChange::only_of`].
    Changed,
}

/// The constraint on numbers that are bounded one by one before they come here.
const RETRY_IS_SANE: &str = "endpoint_retry_is_sane";

/// `$14` is [`ENDPOINTS_PER_TENANT_MAX`]; requests that race past it exceed it by their number at most.
const INSERT: &str = "
    WITH added AS (
        INSERT INTO zyven.endpoints
               (id, tenant_id, url, description, event_types, channels,
                retry_base_ms, retry_cap_ms, attempts_max, age_max_ms, timeout_ms,
                retry_schedule_ms, retry_statuses, concurrency_max, rate_per_minute, rate_burst, filter)
        SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $15, $16, $18, $19, $20, $21
         WHERE $14 > (SELECT count(*) FROM zyven.endpoints WHERE tenant_id = $2 AND deleted_at IS NULL)
        ON CONFLICT (id) DO NOTHING
        RETURNING id
    )
    INSERT INTO zyven.endpoint_secrets (id, endpoint_id, envelope, scheme)
    SELECT $12, id, $13, $17
      FROM added";
const ENDPOINTS_OF: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM zyven.endpoints
      WHERE tenant_id = $1
        AND id > $2
        AND deleted_at IS NULL
      ORDER BY id
      LIMIT $3"
);
const ENDPOINT_OF: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM zyven.endpoints
      WHERE tenant_id = $1
        AND id = $2
        AND deleted_at IS NULL"
);
const CHANGE: &str = concat!(
    "UPDATE zyven.endpoints
        SET url = coalesce($3, url),
            description = coalesce($4, description),
            event_types = coalesce($5, event_types),
            channels = coalesce($6, channels),
            retry_base_ms = coalesce($7, retry_base_ms),
            retry_cap_ms = coalesce($8, retry_cap_ms),
            attempts_max = coalesce($9, attempts_max),
            age_max_ms = coalesce($10, age_max_ms),
            timeout_ms = coalesce($11, timeout_ms),
            retry_schedule_ms = coalesce($12, retry_schedule_ms),
            retry_statuses = coalesce($13, retry_statuses),
            concurrency_max = nullif(coalesce($14, concurrency_max), 0),
            rate_per_minute = nullif(coalesce($15, rate_per_minute), 0),
            rate_burst = nullif(coalesce($16, rate_burst), 0),
            filter = nullif(coalesce($17, filter), ''),
            updated_at = now()
      WHERE tenant_id = $1
        AND id = $2
        AND deleted_at IS NULL
        AND ($18::timestamptz[] IS NULL OR updated_at = ANY ($18))
     RETURNING ",
    record_columns!()
);
const ENABLE: &str = concat!(
    "UPDATE zyven.endpoints
        SET status = 'enabled',
            disabled_reason = NULL,
            updated_at = now()
      WHERE tenant_id = $1
        AND id = $2
        AND deleted_at IS NULL
     RETURNING ",
    record_columns!()
);
const DISABLE: &str = concat!(
    "UPDATE zyven.endpoints
        SET status = 'disabled',
            disabled_reason = $3,
            updated_at = now()
      WHERE tenant_id = $1
        AND id = $2
        AND deleted_at IS NULL
     RETURNING ",
    record_columns!()
);
const REMOVE: &str = "
    UPDATE zyven.endpoints
       SET deleted_at = now(),
           updated_at = now()
     WHERE tenant_id = $1
       AND id = $2
       AND deleted_at IS NULL
       AND ($3::timestamptz[] IS NULL OR updated_at = ANY ($3))";

impl Store {
    /// Makes an endpoint. Events accepted after this has returned go to it. A repetition with the same
    /// id changes nothing and returns what is there.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn add_endpoint(
        &self,
        endpoint: &NewEndpoint,
    ) -> Result<Result<EndpointRecord, EndpointRefusal>, StoreError> {
        const DOING: &str = "adding an endpoint";
        let mut connection = self.durable(DOING).await?;
        let transaction = connection.transaction().await?;
        let patterns: Vec<&str> = endpoint.event_types.iter().map(Pattern::as_str).collect();
        let channels: Vec<&str> = endpoint.channels.iter().map(Channel::as_str).collect();
        let inserted = transaction
            .execute(
                INSERT,
                &[
                    &endpoint.id.uuid(),
                    &endpoint.tenant_id.uuid(),
                    &endpoint.url,
                    &endpoint.description,
                    &patterns,
                    &channels,
                    &bigint(endpoint.policy.base.as_millis()),
                    &bigint(endpoint.policy.cap.as_millis()),
                    &integer(endpoint.policy.attempts_max),
                    &bigint(endpoint.policy.age_max.as_millis()),
                    &integer(endpoint.policy.timeout.as_millis()),
                    &endpoint.secret.id,
                    &endpoint.secret.envelope,
                    &i64::from(ENDPOINTS_PER_TENANT_MAX),
                    &schedule_ms(&endpoint.policy.schedule),
                    &smallints(&endpoint.policy.statuses),
                    &endpoint.secret.scheme,
                    &endpoint.limits.concurrency_max.map(integer),
                    &endpoint.limits.rate_per_minute.map(integer),
                    &endpoint.limits.rate_burst.map(integer),
                    &endpoint.filter.as_ref().map(Filter::as_str),
                ],
            )
            .await
            .doing(DOING);
        if let Some(refusal) = refused(&inserted) {
            return Ok(Err(refusal));
        }
        inserted?;
        let (tenant, id) = (endpoint.tenant_id, endpoint.id);
        change_credentials(&transaction, DOING, tenant, id, &endpoint.credentials).await?;
        transaction.commit().await.doing(DOING)?;
        // Only the limit leaves nothing behind; an id that existed is found like a new one.
        let found = connection
            .query_opt(
                ENDPOINT_OF,
                &[&endpoint.tenant_id.uuid(), &endpoint.id.uuid()],
            )
            .await?;
        Ok(found.as_ref().map(record).ok_or(EndpointRefusal::TooMany))
    }

    /// The tenant's endpoints in the order they were made, after the endpoint `after`.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn endpoints_of(
        &self,
        tenant: TenantId,
        after: Option<EndpointId>,
        limit: u32,
    ) -> Result<Vec<EndpointRecord>, StoreError> {
        let after = after.map_or(Uuid::nil(), EndpointId::uuid);
        let connection = self.reads("listing endpoints").await?;
        let rows = connection
            .query(ENDPOINTS_OF, &[&tenant.uuid(), &after, &i64::from(limit)])
            .await?;
        Ok(rows.iter().map(record).collect())
    }

    /// One of the tenant's endpoints; `None` if it has no such one, or deleted it.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn endpoint_of(
        &self,
        tenant: TenantId,
        id: EndpointId,
    ) -> Result<Option<EndpointRecord>, StoreError> {
        let connection = self.reads("reading an endpoint").await?;
        let row = connection
            .query_opt(ENDPOINT_OF, &[&tenant.uuid(), &id.uuid()])
            .await?;
        Ok(row.as_ref().map(record))
    }

    /// Changes what `change` names and returns the endpoint as it is then.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn change_endpoint(
        &self,
        tenant: TenantId,
        id: EndpointId,
        change: &EndpointChange,
    ) -> Result<Result<EndpointRecord, EndpointRefusal>, StoreError> {
        const DOING: &str = "changing an endpoint";
        let mut connection = self.durable(DOING).await?;
        let transaction = connection.transaction().await?;
        let patterns: Option<Vec<&str>> = change
            .event_types
            .as_ref()
            .map(|patterns| patterns.iter().map(Pattern::as_str).collect());
        let channels: Option<Vec<&str>> = change
            .channels
            .as_ref()
            .map(|channels| channels.iter().map(Channel::as_str).collect());
        let filter: Option<&str> = change
            .filter
            .as_ref()
            .map(|filter| filter.as_ref().map_or("", Filter::as_str));
        let ms = |wait: Option<Duration>| wait.map(|wait| bigint(wait.as_millis()));
        let changed = transaction
            .query_opt(
                CHANGE,
                &[
                    &tenant.uuid(),
                    &id.uuid(),
                    &change.url,
                    &change.description,
                    &patterns,
                    &channels,
                    &ms(change.retry_base),
                    &ms(change.retry_cap),
                    &change.attempts_max.map(integer),
                    &ms(change.age_max),
                    &change.timeout.map(|timeout| integer(timeout.as_millis())),
                    &change.retry_schedule.as_deref().map(schedule_ms),
                    &change.retry_statuses.as_deref().map(smallints),
                    &change.concurrency_max.map(integer),
                    &change.rate_per_minute.map(integer),
                    &change.rate_burst.map(integer),
                    &filter,
                    &change.only_of,
                ],
            )
            .await
            .doing(DOING);
        if let Some(refusal) = refused(&changed) {
            return Ok(Err(refusal));
        }
        let Some(changed) = changed?.as_ref().map(record) else {
            if change.only_of.is_none() {
                return Ok(Err(EndpointRefusal::NotFound));
            }
            let mine: &[&(dyn ToSql + Sync)] = &[&tenant.uuid(), &id.uuid()];
            let there = transaction
                .query_opt(ENDPOINT_OF, mine)
                .await
                .doing(DOING)?;
            let refusal = there.map_or(EndpointRefusal::NotFound, |_| EndpointRefusal::Changed);
            return Ok(Err(refusal));
        };
        change_credentials(&transaction, DOING, tenant, id, &change.credentials).await?;
        transaction.commit().await.doing(DOING)?;
        Ok(Ok(changed))
    }

    /// Switches deliveries to an endpoint on. Harmless if they are. `None`: no such endpoint.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn enable_endpoint_of(
        &self,
        tenant: TenantId,
        id: EndpointId,
    ) -> Result<Option<EndpointRecord>, StoreError> {
        let connection = self.durable("enabling an endpoint").await?;
        let row = connection
            .query_opt(ENABLE, &[&tenant.uuid(), &id.uuid()])
            .await?;
        Ok(row.as_ref().map(record))
    }

    /// Switches deliveries to an endpoint off: events accepted from now on do not go to it. `None`: no
    /// such endpoint.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn disable_endpoint_of(
        &self,
        tenant: TenantId,
        id: EndpointId,
        reason: &str,
    ) -> Result<Option<EndpointRecord>, StoreError> {
        let connection = self.durable("disabling an endpoint").await?;
        let row = connection
            .query_opt(DISABLE, &[&tenant.uuid(), &id.uuid(), &reason])
            .await?;
        Ok(row.as_ref().map(record))
    }

    /// Removes an endpoint from everything but the history of its deliveries: any version of it, or only one that was last
    /// changed at one of these moments.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn remove_endpoint(
        &self,
        tenant: TenantId,
        id: EndpointId,
        only_of: Option<&[DateTime<Utc>]>,
    ) -> Result<Result<(), EndpointRefusal>, StoreError> {
        let connection = self.durable("removing an endpoint").await?;
        let touched = connection
            .execute(REMOVE, &[&tenant.uuid(), &id.uuid(), &only_of])
            .await?;
        if touched > 0 {
            return Ok(Ok(()));
        }
        if only_of.is_none() {
            return Ok(Err(EndpointRefusal::NotFound));
        }
        let there = connection
            .query_opt(ENDPOINT_OF, &[&tenant.uuid(), &id.uuid()])
            .await?;
        let refusal = there.map_or(EndpointRefusal::NotFound, |_| EndpointRefusal::Changed);
        Ok(Err(refusal))
    }
}

fn refused<T>(outcome: &Result<T, StoreError>) -> Option<EndpointRefusal> {
    match outcome {
        Err(StoreError::Statement { source, .. })
            if source.as_db_error()?.constraint() == Some(RETRY_IS_SANE) =>
        {
            Some(EndpointRefusal::RetryCapBelowBase)
        }
        Ok(_) | Err(_) => None,
    }
}
