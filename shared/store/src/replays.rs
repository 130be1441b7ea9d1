//! T7 for a tenant: one dead letter back to the start, or many, and how far these have come.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use uuid::Uuid;
use zyven_domain::event::EventType;
use zyven_domain::id::{DeliveryId, EndpointId, TenantId};
use zyven_domain::retry::DeadLetterReason;

use crate::error::Doing;
use crate::{Store, StoreError};

/// Longest reason of a replay, in characters.
pub const REPLAY_REASON_CHARS_MAX: usize = 1_000;

/// Dead letters that one call sends back at most: a second of one transaction, in which nothing else waits for it.
pub const REPLAY_DELIVERIES_MAX: u32 = 10_000;

/// Dead letters that may be chosen one by one for one replay: what somebody has looked at. The audit keeps each of them.
pub const REPLAY_CHOSEN_MAX: usize = 1_000;

/// Which of a tenant's dead letters are meant: those that nobody has replayed or resolved, whose payload is stored, and
/// that fit all that is said here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplayFilter {
    /// For this endpoint.
    pub endpoint: Option<EndpointId>,
    /// Of this type exactly.
    pub event_type: Option<EventType>,
    /// Given up for this reason. What was cancelled or has expired comes back only if it is named here.
    pub dead_reason: Option<DeadLetterReason>,
    /// Given up at this moment or later.
    pub since: Option<DateTime<Utc>>,
    /// Given up before this moment.
    pub until: Option<DateTime<Utc>>,
    /// At most so many, the oldest first; 1 to [`REPLAY_DELIVERIES_MAX`].
    pub deliveries_max: u32,
}

/// What a replay of many has found and, unless it was only tried, sent back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayBegun {
    /// Under which it is asked for. `None` if nothing was sent back.
    pub id: Option<i64>,
    /// How many.
    pub deliveries: u32,
    /// When the first of them was given up, and the last.
    pub dead_between: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// Those that were chosen and are left out, with the reason. A filter finds none that it would have to leave out.
    pub refused: BTreeMap<DeliveryId, String>,
}

/// Whether a replay is only tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// Nothing changes.
    DryRun,
    /// It is done; so many a second become due, or all at once.
    Do {
        /// Deliveries a second.
        rate_per_s: Option<u32>,
    },
}

impl Replay {
    /// Whether it is only tried, and its rate.
    fn parts(self) -> (bool, Option<i32>) {
        match self {
            Self::DryRun => (true, None),
            Self::Do { rate_per_s } => (false, rate_per_s.map(count_of)),
        }
    }
}

/// How far a replay has come: a tenant's part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayProgress {
    /// Its number.
    pub id: i64,
    /// When it was decided.
    pub decided_at: DateTime<Utc>,
    /// By whom: a key, or a role of the database.
    pub decided_by: String,
    /// Why.
    pub reason: String,
    /// How many deliveries it has sent back.
    pub deliveries: u32,
    /// Those that are not finished.
    pub waiting: u32,
    /// Those that were delivered.
    pub delivered: u32,
    /// Those that are dead letters again.
    pub dead_lettered: u32,
    /// Those whose result is older than retention keeps.
    pub forgotten: u32,
    /// When the next of those that wait is due, and the last.
    pub due_between: Option<(DateTime<Utc>, DateTime<Utc>)>,
}

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
const REPLAY_MANY: &str = "
    SELECT replay_id, deliveries, oldest, newest, NULL::uuid, NULL::text
      FROM zyven.replay_dead_letters(
               tenant         => $1,
               reason         => $2,
               endpoint       => $3,
               event_type     => $4,
               dead_reason    => $5,
               dead_since     => coalesce($6::timestamptz, '-infinity'),
               dead_until     => coalesce($7::timestamptz, 'infinity'),
               deliveries_max => $8,
               rate_per_s     => $9::integer,
               dry_run        => $10)";
/// A row for each that is left out, or one.
const REPLAY_CHOSEN: &str = "
    SELECT r.replay_id, r.deliveries, r.oldest, r.newest,
           CASE WHEN other.delivery IS NOT NULL THEN zyven.untyped_id('dlv', other.delivery) END,
           other.reason
      FROM zyven.replay_chosen(
               tenant       => $1,
               reason       => $2,
               dead_letters => $3,
               rate_per_s   => $4::integer,
               dry_run      => $5) AS r
      LEFT JOIN LATERAL jsonb_each_text(r.refused) AS other (delivery, reason) ON true";
/// Nothing of it belongs to a tenant that has no part in it.
const PROGRESS: &str = "
    SELECT replay_id, decided_at, decided_by, reason, deliveries, waiting, delivered, dead_lettered, forgotten,
           next_at, last_at
      FROM zyven.replay_progress($2, $1)
     WHERE deliveries > 0";

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

    /// Sends many of the tenant's dead letters back to the start, in one transaction with an audit row that names the actor, or
    /// counts them. `reason` as for [`replay`](Self::replay). When there is nothing to send, nothing is recorded.
    ///
    /// Repeated after an unknown outcome, it finds only what is left.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn replay_dead_letters(
        &self,
        tenant: TenantId,
        filter: &ReplayFilter,
        reason: &str,
        replay: Replay,
    ) -> Result<ReplayBegun, StoreError> {
        let (is_dry, rate_per_s) = replay.parts();
        self.replay_many(
            replay,
            REPLAY_MANY,
            &[
                &tenant.to_string(),
                &reason,
                &filter.endpoint.map(|id| id.to_string()),
                &filter.event_type.as_ref().map(EventType::as_str),
                &filter.dead_reason.map(DeadLetterReason::as_str),
                &filter.since,
                &filter.until,
                &count_of(filter.deliveries_max),
                &rate_per_s,
                &is_dry,
            ],
        )
        .await
    }

    /// Likewise with those that somebody has chosen, at most [`REPLAY_CHOSEN_MAX`], whatever they were given up for. Of those that
    /// cannot be replayed it is told why; one of another tenant is like one that never was.
    ///
    /// Repeated after an unknown outcome, it says of those that were sent back that they are still being delivered.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn replay_chosen(
        &self,
        tenant: TenantId,
        chosen: &[DeliveryId],
        reason: &str,
        replay: Replay,
    ) -> Result<ReplayBegun, StoreError> {
        let (is_dry, rate_per_s) = replay.parts();
        let chosen: Vec<String> = chosen.iter().map(DeliveryId::to_string).collect();
        self.replay_many(
            replay,
            REPLAY_CHOSEN,
            &[&tenant.to_string(), &reason, &chosen, &rate_per_s, &is_dry],
        )
        .await
    }

    /// Asks for a replay of many, and lets it be only if it is meant and there was something to send.
    async fn replay_many(
        &self,
        replay: Replay,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<ReplayBegun, StoreError> {
        const DOING: &str = "replaying dead letters";
        let mut connection = self.durable(DOING).await?;
        let transaction = connection.transaction().await?;
        let rows = transaction
            .query(statement, parameters)
            .await
            .doing(DOING)?;
        let begun = begun(&rows);
        if replay == Replay::DryRun || begun.deliveries == 0 {
            transaction.rollback().await.doing(DOING)?;
        } else {
            transaction.commit().await.doing(DOING)?;
        }
        Ok(begun)
    }

    /// How far a replay of the tenant's dead letters has come. `None` if it has none of them, or they are no longer kept.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn replay_progress(
        &self,
        tenant: TenantId,
        replay: i64,
    ) -> Result<Option<ReplayProgress>, StoreError> {
        let connection = self.reads("reading how far a replay has come").await?;
        let row = connection
            .query_opt(PROGRESS, &[&tenant.to_string(), &replay])
            .await?;
        Ok(row.map(|row| {
            let count = |column: usize| row.get::<_, i32>(column).unsigned_abs();
            ReplayProgress {
                id: row.get(0),
                decided_at: row.get(1),
                decided_by: row.get(2),
                reason: row.get(3),
                deliveries: count(4),
                waiting: count(5),
                delivered: count(6),
                dead_lettered: count(7),
                forgotten: count(8),
                due_between: row.get::<_, Option<_>>(9).zip(row.get(10)),
            }
        }))
    }
}

/// What functions for many answer: the same first columns in each row, and in the last two a delivery that is left out.
fn begun(rows: &[Row]) -> ReplayBegun {
    let first = rows.first().expect("each of them returns a row");
    let deliveries = first.get::<_, i32>(1).unsigned_abs();
    let refused = rows.iter().filter_map(|row| {
        let delivery: Option<Uuid> = row.get(4);
        Some((DeliveryId::from_uuid(delivery?), row.get(5)))
    });
    ReplayBegun {
        id: first.get::<_, Option<i64>>(0).filter(|_| deliveries > 0),
        deliveries,
        dead_between: first.get::<_, Option<_>>(2).zip(first.get(3)),
        refused: refused.collect(),
    }
}

/// A number as PostgreSQL counts.
fn count_of(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// "delivery dlv_… cannot be replayed: it was delivered" → "it was delivered".
fn reason_of(message: &str) -> String {
    let reason = message.split_once(": ").map_or(message, |(_, why)| why);
    reason.to_owned()
}
