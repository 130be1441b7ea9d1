//! What operators see of breakers. Redis decides about them; whichever dispatcher learns of a move writes it down here.
//!
//! A hint and nothing more: no delivery waits or goes because of it. A word that gets lost is made good by the next one about
//! the same endpoint, and what nobody confirms is not believed for long (`zyven.left_alone`).

use std::time::Duration;

use zyven_domain::id::EndpointId;

use crate::{Store, StoreError};

/// What has become of a breaker that is not closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerIs {
    /// It has just opened.
    Open,
    /// It was open before: a probe has failed.
    StillOpen,
}

/// Not of an endpoint that is deleted. The few rows that say nothing any more, of deleted endpoints among them, go by the way; the
/// endpoint's own is not among these, as a statement must not touch a row twice.
const OPEN: &str = "
    WITH forgotten AS (
        DELETE FROM zyven.breakers
         WHERE probe_at < now() - interval '1 day'
           AND endpoint_id <> $1
    )
    INSERT INTO zyven.breakers AS b (endpoint_id, opened_at, probe_at)
    SELECT id, now(), now() + $2::bigint * interval '1 millisecond'
      FROM zyven.endpoints
     WHERE id = $1
       AND deleted_at IS NULL
    ON CONFLICT (endpoint_id) DO UPDATE
       SET opened_at = CASE WHEN $3 THEN b.opened_at ELSE excluded.opened_at END,
           probe_at = excluded.probe_at";
const CLOSED: &str = "DELETE FROM zyven.breakers WHERE endpoint_id = $1";
const LEFT_ALONE: &str = "SELECT endpoint_id FROM zyven.left_alone";

impl Store {
    /// Writes down that an endpoint is left alone, and in how long it is probed. May be repeated.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn note_breaker_open(
        &self,
        endpoint: EndpointId,
        breaker: BreakerIs,
        probe_in: Duration,
    ) -> Result<(), StoreError> {
        let probe_in_ms = i64::try_from(probe_in.as_millis()).unwrap_or(i64::MAX);
        let was_open = breaker == BreakerIs::StillOpen;
        let connection = self.relaxed("noting that a breaker is open").await?;
        connection
            .execute(OPEN, &[&endpoint.uuid(), &probe_in_ms, &was_open])
            .await?;
        Ok(())
    }

    /// Writes down that an endpoint's breaker has closed. May be repeated.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn note_breaker_closed(&self, endpoint: EndpointId) -> Result<(), StoreError> {
        let connection = self.relaxed("noting that a breaker has closed").await?;
        connection.execute(CLOSED, &[&endpoint.uuid()]).await?;
        Ok(())
    }

    /// Endpoints whose deliveries wait as they should: paused, or the breaker is open as far as is known here.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn endpoints_left_alone(&self) -> Result<Vec<EndpointId>, StoreError> {
        let connection = self.relaxed("looking for endpoints left alone").await?;
        let rows = connection.query(LEFT_ALONE, &[]).await?;
        let endpoints = rows.iter().map(|row| EndpointId::from_uuid(row.get(0)));
        Ok(endpoints.collect())
    }
}
