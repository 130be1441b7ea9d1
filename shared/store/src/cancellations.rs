//! From any unfinished state to DEAD_LETTERED, because somebody called it off.

use zyven_domain::id::{DeliveryId, EventId, TenantId};

use crate::{Store, StoreError};

/// Longest reason of a cancellation, in characters.
pub const CANCEL_REASON_CHARS_MAX: usize = 1_000;

/// What became of the deliveries that were to be cancelled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use = "a delivery that is being attempted has not been cancelled"]
pub struct Cancelled {
    /// Dead letters now.
    pub cancelled: u32,
    /// Cancelled by an earlier call.
    pub cancelled_before: u32,
    /// Under a lease at this moment, and therefore left alone.
    pub being_attempted: u32,
    /// Delivered, or dead letters for another reason.
    pub finished: u32,
}

/// `cancelled_before` needs no look at a dead letter's own table: the view says why a delivery died.
const CANCEL: &str = "
    SELECT cancelled, cancelled_before, being_attempted, finished
      FROM zyven.cancel($1, $2, $3)";
const EVENT_IS_MINE: &str = "
    SELECT EXISTS (SELECT FROM zyven.events WHERE id = $2 AND tenant_id = $1)";
const DELIVERY_IS_MINE: &str = "
    SELECT EXISTS (SELECT FROM zyven.deliveries WHERE delivery_id = $2 AND tenant_id = $1)";

impl Store {
    /// Cancels those of an event's deliveries that nobody is attempting at this moment, with an audit
    /// row that names `decided_by`. `reason` must not be blank nor longer than
    /// [`CANCEL_REASON_CHARS_MAX`]. `None`: the tenant has no such event.
    ///
    /// # Errors
    /// PostgreSQL could not be asked. The call may be repeated.
    pub async fn cancel_event(
        &self,
        tenant: TenantId,
        event: EventId,
        reason: &str,
        decided_by: &str,
    ) -> Result<Option<Cancelled>, StoreError> {
        let mine = (EVENT_IS_MINE, event.uuid());
        self.cancel(tenant, mine, &event.to_string(), reason, decided_by)
            .await
    }

    /// The same for one delivery.
    ///
    /// # Errors
    /// PostgreSQL could not be asked. The call may be repeated.
    pub async fn cancel_delivery(
        &self,
        tenant: TenantId,
        delivery: DeliveryId,
        reason: &str,
        decided_by: &str,
    ) -> Result<Option<Cancelled>, StoreError> {
        let mine = (DELIVERY_IS_MINE, delivery.uuid());
        self.cancel(tenant, mine, &delivery.to_string(), reason, decided_by)
            .await
    }

    async fn cancel(
        &self,
        tenant: TenantId,
        (is_mine, id): (&'static str, uuid::Uuid),
        what: &str,
        reason: &str,
        decided_by: &str,
    ) -> Result<Option<Cancelled>, StoreError> {
        let connection = self.durable("cancelling deliveries").await?;
        let mine = connection
            .query_one(is_mine, &[&tenant.uuid(), &id])
            .await?;
        if !mine.get::<_, bool>(0) {
            return Ok(None);
        }
        let row = connection
            .query_one(CANCEL, &[&what, &reason, &decided_by])
            .await?;
        let count = |column: usize| row.get::<_, i32>(column).unsigned_abs();
        Ok(Some(Cancelled {
            cancelled: count(0),
            cancelled_before: count(1),
            being_attempted: count(2),
            finished: count(3),
        }))
    }
}
