//! T0 for an event that goes to one endpoint of the caller's choice, whatever it subscribes to: tests
//! that an owner sends to an endpoint.

use zyven_domain::event::{Source, TraceParent};
use zyven_domain::id::{DeliveryId, EndpointId};

use crate::pool::Connection;
use crate::{NewEvent, Store, StoreError};

/// What became of an event for one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "an event that was not accepted must not be acknowledged"]
pub enum AcceptedFor {
    /// Committed, with this one delivery.
    Accepted(DeliveryId),
    /// The endpoint takes no deliveries at present; nothing was stored.
    Disabled,
    /// The tenant has no such endpoint; nothing was stored.
    NotFound,
}

/// As in `Store::accept`, outbox rows come from events just inserted, so that the transaction owns an
/// xid before it draws a sequence number.
const ACCEPT_FOR: &str = "
    WITH accepted AS (
        INSERT INTO zyven.events (id, tenant_id, type, payload, channels, source, traceparent, content_type)
        SELECT $1, e.tenant_id, $4, $5, string_to_array($6, ','), $7, $8, $10::text::zyven.content_type
          FROM zyven.endpoints e
         WHERE e.id = $3
           AND e.tenant_id = $2
           AND e.status = 'enabled'
           AND e.deleted_at IS NULL
        ON CONFLICT (id) DO NOTHING
        RETURNING id, tenant_id
    ), noted AS (
        INSERT INTO zyven.audit_log (tenant_id, action, subject, details)
        SELECT tenant_id, 'endpoint.test', zyven.typed_id('ep', $3),
               jsonb_build_object('event', zyven.typed_id('evt', id))
          FROM accepted
    )
    INSERT INTO zyven.outbox (delivery_id, event_id, endpoint_id, tenant_id)
    SELECT $9, a.id, $3, a.tenant_id
      FROM accepted a";
const FIND: &str = "
    SELECT EXISTS (SELECT FROM zyven.events v WHERE v.id = $3 AND v.tenant_id = $1)
      FROM zyven.endpoints e
     WHERE e.id = $2
       AND e.tenant_id = $1
       AND e.deleted_at IS NULL";

impl Store {
    /// Accepts an event for `endpoint` alone. When this returns [`AcceptedFor::Accepted`], event and
    /// outbox row are committed, synchronously. The event's idempotency key is not looked at; the same
    /// call may be repeated, for its event id is.
    ///
    /// # Errors
    /// PostgreSQL could not be asked, or nobody knows what it did.
    pub async fn accept_for(
        &self,
        event: &NewEvent,
        endpoint: EndpointId,
    ) -> Result<AcceptedFor, StoreError> {
        let delivery = DeliveryId::derive(event.id, endpoint);
        let connection = self.durable("accepting an event for one endpoint").await?;
        let queued = match insert(&connection, event, endpoint, delivery).await {
            Err(error) if error.names_missing_partition() => {
                self.ensure_partitions().await?;
                insert(&connection, event, endpoint, delivery).await
            }
            other => other,
        }?;
        if queued > 0 {
            return Ok(AcceptedFor::Accepted(delivery));
        }
        let found = connection
            .query_opt(
                FIND,
                &[&event.tenant_id.uuid(), &endpoint.uuid(), &event.id.uuid()],
            )
            .await?;
        Ok(match found.map(|row| row.get::<_, bool>(0)) {
            Some(true) => AcceptedFor::Accepted(delivery),
            Some(false) => AcceptedFor::Disabled,
            None => AcceptedFor::NotFound,
        })
    }
}

async fn insert(
    connection: &Connection,
    event: &NewEvent,
    endpoint: EndpointId,
    delivery: DeliveryId,
) -> Result<u64, StoreError> {
    connection
        .execute(
            ACCEPT_FOR,
            &[
                &event.id.uuid(),
                &event.tenant_id.uuid(),
                &endpoint.uuid(),
                &event.event_type.as_str(),
                &event.payload.as_ref(),
                &event.channels_text(),
                &event.source.as_ref().map(Source::as_str),
                &event.traceparent.as_ref().map(TraceParent::as_str),
                &delivery.uuid(),
                &event.content_type.as_str(),
            ],
        )
        .await
}
