//! T7 for a tenant: one dead letter back to the start.

use tokio_postgres::error::SqlState;
use zyven_domain::id::{DeliveryId, TenantId};

use crate::error::Doing;
use crate::{Store, StoreError};

/// Longest reason of a replay, in characters.
pub const REPLAY_REASON_CHARS_MAX: usize = 1_000;

/// What became of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a refused replay has changed nothing"]
pub enum Replayed {
    /// A new generation of the delivery is in the outbox.
    Queued,
    /// It cannot be replayed, for this reason.
    Refused(String),
    /// The tenant has no such delivery.
    NotFound,
}

/// A dead letter outlives its delivery's partition.
const IS_MINE: &str = "
    SELECT EXISTS (SELECT FROM zyven.deliveries WHERE delivery_id = $2 AND tenant_id = $1)
        OR EXISTS (SELECT FROM zyven.dead_letter_records WHERE delivery_id = $2 AND tenant_id = $1)";
const REPLAY: &str = "SELECT zyven.replay($1, $2)";
impl Store {
    /// Sends one of the tenant's dead letters back to the start, with an audit row that names the actor.
    /// `reason` must not be blank nor longer than [`REPLAY_REASON_CHARS_MAX`].
    ///
    /// Repeated after an unknown outcome, it says that the delivery is not dead any more.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn replay(
        &self,
        tenant: TenantId,
        delivery: DeliveryId,
        reason: &str,
    ) -> Result<Replayed, StoreError> {
        const DOING: &str = "replaying a delivery";
        let mut connection = self.durable(DOING).await?;
        let mine = connection
            .query_one(IS_MINE, &[&tenant.uuid(), &delivery.uuid()])
            .await?;
        if !mine.get::<_, bool>(0) {
            return Ok(Replayed::NotFound);
        }
        let transaction = connection.transaction().await?;
        let replayed = transaction
            .execute(REPLAY, &[&delivery.to_string(), &reason])
            .await;
        if let Err(error) = replayed {
            return match error.as_db_error() {
                Some(said) if *said.code() == SqlState::NO_DATA_FOUND => {
                    Ok(Replayed::Refused(reason_of(said.message())))
                }
                Some(_) | None => Err(error).doing(DOING),
            };
        }
        transaction.commit().await.doing(DOING)?;
        Ok(Replayed::Queued)
    }
}

/// "delivery dlv_… cannot be replayed: it was delivered" → "it was delivered".
fn reason_of(message: &str) -> String {
    let reason = message.split_once(": ").map_or(message, |(_, why)| why);
    reason.to_owned()
}
