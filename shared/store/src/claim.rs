//! T2: Redis proposes tickets, PostgreSQL confirms them, before any byte is sent.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use postgres_types::ToSql;
use tokio_postgres::Row;
use zyven_domain::event::ContentType;
use zyven_domain::id::{DeliveryId, EndpointId, EventId, TenantId};

use crate::{Store, StoreError};

/// What a batch of tickets turned out to be.
#[derive(Debug, Default)]
pub struct Claim {
    /// Deliveries that are now leased to the caller.
    pub claimed: Vec<ClaimedDelivery>,
    /// Tickets that confer nothing.
    pub refused: Vec<RefusedTicket>,
}

/// A delivery leased for one attempt, with everything that is to be sent.
#[derive(Debug, Clone)]
pub struct ClaimedDelivery {
    /// The outbox row.
    pub seq: i64,
    /// One event for one endpoint.
    pub delivery_id: DeliveryId,
    /// The event; sent as `webhook-id`.
    pub event_id: EventId,
    /// Where it goes.
    pub endpoint_id: EndpointId,
    /// Who owns it.
    pub tenant_id: TenantId,
    /// Of one endpoint and key only the first unfinished delivery is ever claimed; 0: it has no key.
    pub ordering_key: i64,
    /// 1, and one more for each replay.
    pub generation: i32,
    /// The number of this attempt within its generation, from 1.
    pub attempt: u32,
    /// The event's type.
    pub event_type: String,
    /// Exactly the accepted bytes; `None` if they are no longer stored.
    pub payload: Option<Bytes>,
    /// What they are sent as.
    pub content_type: ContentType,
    /// The publisher's trace.
    pub traceparent: Option<String>,
    /// When this generation began. Its age counts from here.
    pub accepted_at: DateTime<Utc>,
    /// No attempt begins at this moment or later. A replay lifts it.
    pub expires_at: Option<DateTime<Utc>>,
}

impl ClaimedDelivery {
    /// How long it has been on its way; zero where clocks disagree.
    pub fn age(&self, now: DateTime<Utc>) -> Duration {
        (now - self.accepted_at).to_std().unwrap_or_default()
    }

    /// Time until the event expires; zero if it has, `None` if it never does.
    pub fn expires_in(&self, now: DateTime<Utc>) -> Option<Duration> {
        let expires_at = self.expires_at?;
        Some((expires_at - now).to_std().unwrap_or_default())
    }
}

/// Why a ticket conferred nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefusedTicket {
    /// The delivery is finished: the ticket was stale.
    Finished {
        /// The outbox row that no longer exists.
        seq: i64,
    },
    /// Not due yet, or leased by somebody.
    Later {
        /// The outbox row.
        seq: i64,
        /// How long to wait before it is worth asking again.
        due_in: Duration,
        /// Whether it was attempted before.
        is_retry: bool,
    },
    /// An earlier delivery with the same endpoint and ordering key is unfinished.
    Blocked {
        /// The outbox row.
        seq: i64,
        /// How long that one is leased, or waits, at least.
        due_in: Duration,
    },
}

/// A ticket may be this early: Redis' clock and PostgreSQL's are compared by way of relative waits,
/// and refusing a ticket for a millisecond costs more than sending it that early.
const EARLY_MS_MAX: i64 = 20;

/// The lease ends on PostgreSQL's clock. A row that somebody holds is not taken, whatever the ticket
/// says; two claims of one row queue on it, and the second finds the first's lease. Nor is a row taken
/// while one before it in its order is unfinished: Redis offers them one at a time, and may be wrong.
/// A macro because statements are constants.
macro_rules! claim_of {
    ($rows:literal) => {
        concat!(
            "
    WITH claimed AS (
        UPDATE zyven.outbox o
           SET state = 'DISPATCHING',
               lease_token = $2,
               leased_until = clock_timestamp() + $3::bigint * interval '1 millisecond',
               attempts = attempts + 1
         WHERE seq = ANY (",
            $rows,
            ")
           AND leased_until <= clock_timestamp()
           AND due_at <= clock_timestamp() + $4::bigint * interval '1 millisecond'
           AND (ordering_key = 0
                OR NOT EXISTS (SELECT FROM zyven.outbox earlier
                                WHERE earlier.endpoint_id = o.endpoint_id
                                  AND earlier.ordering_key = o.ordering_key
                                  AND earlier.ordering_key <> 0
                                  AND earlier.seq < o.seq))
        RETURNING seq, delivery_id, event_id, endpoint_id, tenant_id, generation, attempts, enqueued_at,
                  ordering_key
    )
    SELECT c.seq, c.delivery_id, c.event_id, c.endpoint_id, c.tenant_id, c.generation, c.attempts,
           c.enqueued_at, e.type, e.payload, e.traceparent,
           CASE WHEN c.generation = 1 THEN e.expires_at END, c.ordering_key, e.content_type::text
      FROM claimed c
      LEFT JOIN zyven.events e ON e.id = c.event_id AND e.tenant_id = c.tenant_id"
        )
    };
}

const CLAIM: &str = claim_of!("$1");

/// The same of those rows that nobody has locked. To lock them first costs half as much again, so it is done only after
/// somebody has kept the other statement waiting: a transaction left open in which rows were cancelled, for example.
const CLAIM_UNLOCKED: &str = claim_of!(
    "ARRAY (SELECT free.seq FROM zyven.outbox free WHERE free.seq = ANY ($1) ORDER BY free.seq FOR UPDATE SKIP LOCKED)"
);

/// Milliseconds until the row itself is free and due, and until the one that comes before it is.
const EXPLAIN_REFUSALS: &str = "
    SELECT o.seq,
           (extract(epoch FROM greatest(o.due_at, o.leased_until) - clock_timestamp()) * 1000)::bigint,
           CASE WHEN o.ordering_key <> 0 THEN
               (SELECT (extract(epoch FROM greatest(earlier.due_at, earlier.leased_until) - clock_timestamp()) * 1000)::bigint
                  FROM zyven.outbox earlier
                 WHERE earlier.endpoint_id = o.endpoint_id
                   AND earlier.ordering_key = o.ordering_key
                   AND earlier.ordering_key <> 0
                   AND earlier.seq < o.seq
                 ORDER BY earlier.seq
                 LIMIT 1)
           END,
           o.attempts > 0
      FROM zyven.outbox o
     WHERE o.seq = ANY ($1)";

/// Undoes a claim as if it had not been made. A macro because statements are constants.
macro_rules! unclaim_of {
    ($rows:literal) => {
        concat!(
            "
    UPDATE zyven.outbox
       SET attempts = attempts - 1,
           lease_token = 0,
           leased_until = '-infinity'
     WHERE seq = ANY (",
            $rows,
            ")
       AND state = 'DISPATCHING'
       AND lease_token = $2"
        )
    };
}

const UNCLAIM: &str = unclaim_of!("$1");
const UNCLAIM_UNLOCKED: &str = unclaim_of!(
    "ARRAY (SELECT free.seq FROM zyven.outbox free WHERE free.seq = ANY ($1) FOR UPDATE SKIP LOCKED)"
);

/// A row somebody else has just let go of is worth asking for again, but not in a tight circle.
const ASK_AGAIN_MS_MIN: i64 = 10;
/// A row that somebody has locked for longer than a claim waits may stay so for any time.
const ASK_FOR_LOCKED_AGAIN_MS_MIN: i64 = 5_000;

impl Store {
    /// Leases what may be attempted of `seqs` until `lease` from now, under `lease_token` (never 0,
    /// never used before).
    ///
    /// Commits asynchronously: a crash of PostgreSQL may forget the claim, which then is as if the
    /// dispatcher had crashed before it sent anything (C15 in ARCHITECTURE.md).
    ///
    /// # Errors
    /// PostgreSQL could not be asked. Rows may have been leased; they come free when the lease ends.
    pub async fn claim(
        &self,
        seqs: &[i64],
        lease_token: i64,
        lease: Duration,
    ) -> Result<Claim, StoreError> {
        let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
        let connection = self.relaxed("claiming deliveries").await?;
        let parameters: [&(dyn ToSql + Sync); 4] = [&seqs, &lease_token, &lease_ms, &EARLY_MS_MAX];
        let (rows, ask_again_ms_min) = match connection.query(CLAIM, &parameters).await {
            Err(error) if error.is_of_the_content() => {
                tracing::warn!(error = %error, "somebody has locked deliveries for long; claiming the others");
                let rows = connection.query(CLAIM_UNLOCKED, &parameters).await?;
                (rows, ASK_FOR_LOCKED_AGAIN_MS_MIN)
            }
            outcome => (outcome?, ASK_AGAIN_MS_MIN),
        };
        let claimed: Vec<ClaimedDelivery> = rows.iter().map(claimed_delivery).collect();
        let mut claim = Claim {
            claimed,
            refused: Vec::new(),
        };
        if claim.claimed.len() == seqs.len() {
            return Ok(claim);
        }
        let taken: HashSet<i64> = claim.claimed.iter().map(|c| c.seq).collect();
        let refused: Vec<i64> = seqs
            .iter()
            .copied()
            .filter(|seq| !taken.contains(seq))
            .collect();
        let unfinished = connection.query(EXPLAIN_REFUSALS, &[&refused]).await?;
        let mut finished: HashSet<i64> = refused.into_iter().collect();
        for row in unfinished {
            let seq: i64 = row.get(0);
            finished.remove(&seq);
            let wait = |ms: i64| Duration::from_millis(ms.max(ask_again_ms_min).unsigned_abs());
            claim.refused.push(match row.get::<_, Option<i64>>(2) {
                None => RefusedTicket::Later {
                    seq,
                    due_in: wait(row.get(1)),
                    is_retry: row.get(3),
                },
                Some(ms) => RefusedTicket::Blocked {
                    seq,
                    due_in: wait(ms),
                },
            });
        }
        let stale = finished.into_iter();
        claim
            .refused
            .extend(stale.map(|seq| RefusedTicket::Finished { seq }));
        Ok(claim)
    }

    /// Takes back a [`Store::claim`] whose outcome is unknown: whatever of `seqs` it leased under
    /// `lease_token` is free again, and the attempt does not count. To be called before anything is
    /// sent. What somebody has locked for long is left to the end of its lease. Returns how many rows it concerned.
    ///
    /// # Errors
    /// PostgreSQL could not be asked. Repeat it, or leave the rows to the end of their lease.
    pub async fn unclaim(&self, seqs: &[i64], lease_token: i64) -> Result<u64, StoreError> {
        let connection = self.relaxed("taking back a claim").await?;
        let parameters: [&(dyn ToSql + Sync); 2] = [&seqs, &lease_token];
        match connection.execute(UNCLAIM, &parameters).await {
            Err(error) if error.is_of_the_content() => {
                connection.execute(UNCLAIM_UNLOCKED, &parameters).await
            }
            outcome => outcome,
        }
    }
}

fn claimed_delivery(row: &Row) -> ClaimedDelivery {
    ClaimedDelivery {
        seq: row.get(0),
        delivery_id: DeliveryId::from_uuid(row.get(1)),
        event_id: EventId::from_uuid(row.get(2)),
        endpoint_id: EndpointId::from_uuid(row.get(3)),
        tenant_id: TenantId::from_uuid(row.get(4)),
        generation: row.get(5),
        attempt: row.get::<_, i32>(6).unsigned_abs(),
        accepted_at: row.get(7),
        event_type: row.get::<_, Option<String>>(8).unwrap_or_default(),
        payload: row.get::<_, Option<&[u8]>>(9).map(Bytes::copy_from_slice),
        traceparent: row.get(10),
        expires_at: row.get(11),
        ordering_key: row.get(12),
        content_type: content_type(row.get(13)),
    }
}

/// Nothing is known of an event that is no longer stored. What only a later version knows is JSON as well.
fn content_type(name: Option<&str>) -> ContentType {
    name.and_then(|name| name.parse().ok()).unwrap_or_default()
}
