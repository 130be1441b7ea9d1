//! Operational events: telling a tenant's endpoints what befalls its deliveries and endpoints (ADR 0037).
//!
//! What PostgreSQL decides, it tells by itself: triggers on dead letters and endpoints make the event in the
//! transaction of the fact. Only what Redis decides has to be told here.

use std::time::Duration;

use zyven_domain::id::{EndpointId, EventId};

use crate::{Store, StoreError};

const TELL_BREAKER_OPENED: &str = "SELECT zyven.tell_breaker_opened($1, $2, $3)";

impl Store {
    /// Tells that the breaker of `endpoint` has opened, and in how long it is probed: an event `event` for each
    /// other endpoint of its tenant that subscribes to `zyven.endpoint.breaker_opened`. Returns how many those are.
    ///
    /// May be repeated with the same `event`: nothing is told twice.
    ///
    /// # Errors
    /// PostgreSQL could not be asked, or nobody knows what it did.
    pub async fn tell_breaker_opened(
        &self,
        event: EventId,
        endpoint: EndpointId,
        probe_in: Duration,
    ) -> Result<usize, StoreError> {
        let probe_in_ms = i64::try_from(probe_in.as_millis()).unwrap_or(i64::MAX);
        let connection = self
            .durable("telling that an endpoint is left alone")
            .await?;
        let row = connection
            .query_one(
                TELL_BREAKER_OPENED,
                &[&event.uuid(), &endpoint.uuid(), &probe_in_ms],
            )
            .await?;
        Ok(usize::try_from(row.get::<_, i32>(0)).unwrap_or_default())
    }
}
