//! What has become of events: questions that tenants ask. Every statement names the tenant, so that
//! another tenant's row is as absent as one that never was.

use std::str::FromStr as _;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio_postgres::Row;
use uuid::Uuid;
use zyven_domain::event::EventType;
use zyven_domain::id::{DeliveryId, EndpointId, EventId, TenantId};
use zyven_domain::lifecycle::DeliveryState;
use zyven_domain::retry::DeadLetterReason;

use crate::{Store, StoreError};

/// Most attempts shown of one delivery: more than ten generations at the usual twelve.
pub const ATTEMPTS_SHOWN_MAX: u32 = 1_000;

/// An event with its payload, exactly as it was accepted.
#[derive(Debug, Clone)]
pub struct EventRecord {
    /// Its id.
    pub id: EventId,
    /// What kind of fact it is.
    pub event_type: String,
    /// The bytes that were accepted and are sent.
    pub payload: Bytes,
    /// What they are sent as, such as `application/json`.
    pub content_type: String,
    /// Labels that narrowed who got it.
    pub channels: Vec<String>,
    /// Where it comes from.
    pub source: Option<String>,
    /// The publisher's trace.
    pub traceparent: Option<String>,
    /// When it was committed.
    pub accepted_at: DateTime<Utc>,
    /// No attempt begins earlier.
    pub deliver_at: Option<DateTime<Utc>>,
    /// No attempt begins later.
    pub expires_at: Option<DateTime<Utc>>,
    /// What it is in order with.
    pub ordering_key: Option<String>,
}

/// A delivery in its latest generation.
#[derive(Debug, Clone)]
pub struct DeliveryRecord {
    /// Its id.
    pub id: DeliveryId,
    /// What is delivered.
    pub event_id: EventId,
    /// Its type; `None` once the event's retention has passed.
    pub event_type: Option<String>,
    /// Where to.
    pub endpoint_id: EndpointId,
    /// Where it stands.
    pub state: DeliveryState,
    /// Why Zyven stopped trying.
    pub reason: Option<String>,
    /// 1, and one more for each replay.
    pub generation: i32,
    /// Attempts of this generation.
    pub attempts: i32,
    /// The final answer's status.
    pub http_status: Option<i16>,
    /// When this generation began.
    pub enqueued_at: DateTime<Utc>,
    /// When it is tried again, if not at once.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// When it was delivered or given up.
    pub finished_at: Option<DateTime<Utc>>,
}

/// One try.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The delivery's generation it belongs to.
    pub generation: i32,
    /// From 1 in each generation.
    pub number: i32,
    /// Where the delivery stood afterwards.
    pub state_after: DeliveryState,
    /// When it began; `None` only if its dispatcher could not tell.
    pub started_at: Option<DateTime<Utc>>,
    /// The answer's status.
    pub http_status: Option<i16>,
    /// The class of what went wrong.
    pub error: Option<String>,
    /// And in words.
    pub error_detail: Option<String>,
    /// Microseconds to a usable connection; `None` if one was reused.
    pub connect_us: Option<i32>,
    /// Microseconds to the answer's first byte.
    pub first_byte_us: Option<i32>,
    /// Microseconds in all.
    pub total_us: Option<i32>,
    /// The answer's header lines.
    pub response_headers: Option<String>,
    /// The answer's first KiB.
    pub response_body: Option<Vec<u8>>,
}

/// Which deliveries are wanted.
#[derive(Debug, Clone, Default)]
pub struct DeliveryFilter {
    /// In one of these states; empty: in any.
    pub states: Vec<DeliveryState>,
    /// To this endpoint.
    pub endpoint: Option<EndpointId>,
    /// Of events of this type.
    pub event_type: Option<EventType>,
    /// Given up for this reason.
    pub dead_reason: Option<DeadLetterReason>,
    /// Of events accepted at this moment or later.
    pub since: Option<DateTime<Utc>>,
    /// Of events accepted before this moment.
    pub until: Option<DateTime<Utc>>,
}

/// An event without its payload, as a list shows it.
#[derive(Debug, Clone)]
pub struct EventSummary {
    /// Its id.
    pub id: EventId,
    /// What kind of fact it is.
    pub event_type: String,
    /// What its payload is sent as.
    pub content_type: String,
    /// Labels that narrowed who got it.
    pub channels: Vec<String>,
    /// Where it comes from.
    pub source: Option<String>,
    /// When it was committed.
    pub accepted_at: DateTime<Utc>,
    /// No attempt begins earlier.
    pub deliver_at: Option<DateTime<Utc>>,
    /// No attempt begins later.
    pub expires_at: Option<DateTime<Utc>>,
    /// What it is in order with.
    pub ordering_key: Option<String>,
}

const EVENT_OF: &str = "
    SELECT id, type, payload, channels, source, traceparent, accepted_at, deliver_at, expires_at,
           ordering_key, content_type::text
      FROM zyven.events
     WHERE tenant_id = $1
       AND id = $2";
/// By the primary key, which leads through the events of all tenants: whoever asks keeps `$2` recent.
const EVENTS_OF: &str = "
    SELECT id, type, channels, source, accepted_at, deliver_at, expires_at, ordering_key,
           content_type::text
      FROM zyven.events
     WHERE tenant_id = $1
       AND id >= $2
       AND id < $3
       AND ($4::text IS NULL OR type = $4)
     ORDER BY id DESC
     LIMIT $5";
/// The states of an event's deliveries, for its own status. All its deliveries begin with its own
/// time, `$3` to `$4`, by which both indexes find them.
const STATES_OF_EVENT: &str = "
    SELECT state::text, count(*)
      FROM zyven.deliveries
     WHERE tenant_id = $1
       AND event_id = $2
       AND delivery_id >= $3
       AND delivery_id < $4
     GROUP BY state";
const DELIVERIES_OF_EVENT: &str = "
    SELECT d.delivery_id, d.event_id, v.type, d.endpoint_id, d.state::text, d.reason, d.generation,
           d.attempts, d.http_status, d.enqueued_at, d.next_attempt_at, d.finished_at
      FROM zyven.deliveries d
      LEFT JOIN zyven.events v ON v.id = d.event_id
     WHERE d.tenant_id = $1
       AND d.event_id = $2
       AND d.delivery_id > $3
       AND d.delivery_id < $4
     ORDER BY d.delivery_id
     LIMIT $5";
const DELIVERY_OF: &str = "
    SELECT d.delivery_id, d.event_id, v.type, d.endpoint_id, d.state::text, d.reason, d.generation,
           d.attempts, d.http_status, d.enqueued_at, d.next_attempt_at, d.finished_at
      FROM zyven.deliveries d
      LEFT JOIN zyven.events v ON v.id = d.event_id
     WHERE d.tenant_id = $1
       AND d.delivery_id = $2";
/// The view `zyven.deliveries` taken apart, because its halves are found differently: no index leads
/// from a tenant to its finished deliveries, but one leads from each endpoint, newest first, so the
/// page is merged from as many of each endpoint. `$7` and `$8` switch a half off that cannot match.
const DELIVERIES_OF: &str = "
    WITH mine AS MATERIALIZED (
        SELECT id
          FROM zyven.endpoints
         WHERE tenant_id = $1
           AND ($2::uuid IS NULL OR id = $2)
    ), page AS (
        (SELECT o.delivery_id, o.event_id, o.endpoint_id, s.state, NULL::text AS reason, o.generation,
                o.attempts, NULL::smallint AS http_status, o.enqueued_at,
                CASE WHEN o.state = 'RETRY_SCHEDULED' OR o.due_at > now() THEN o.due_at END
                    AS next_attempt_at,
                NULL::timestamptz AS finished_at
           FROM zyven.outbox o
          CROSS JOIN LATERAL (
                SELECT CASE WHEN o.state = 'RECEIVED' AND o.seq <= (SELECT watermark FROM zyven.relay)
                            THEN 'DISPATCHING' ELSE o.state::text END AS state) AS s
          WHERE $7
            AND o.tenant_id = $1
            AND ($2::uuid IS NULL OR o.endpoint_id = $2)
            AND o.delivery_id >= $3
            AND o.delivery_id < $4
            AND s.state = ANY ($5)
            AND ($6::text IS NULL
                 OR EXISTS (SELECT FROM zyven.events v WHERE v.id = o.event_id AND v.type = $6))
          ORDER BY o.delivery_id DESC
          LIMIT $9)
        UNION ALL
        (SELECT of_endpoint.*
           FROM mine m
          CROSS JOIN LATERAL (
                SELECT f.delivery_id, f.event_id, f.endpoint_id, f.state::text, f.reason, f.generation,
                       f.attempts, f.http_status, f.enqueued_at, NULL::timestamptz, f.finished_at
                  FROM zyven.finished_deliveries f
                 WHERE f.endpoint_id = m.id
                   AND f.delivery_id >= $3
                   AND f.delivery_id < $4
                   AND f.state::text = ANY ($5)
                   AND ($10::text IS NULL OR f.reason = $10)
                   AND ($6::text IS NULL
                        OR EXISTS (SELECT FROM zyven.events v WHERE v.id = f.event_id AND v.type = $6))
                   AND (f.state = 'DELIVERED'
                        OR (NOT EXISTS (SELECT FROM zyven.outbox o WHERE o.delivery_id = f.delivery_id)
                            AND NOT EXISTS (SELECT FROM zyven.finished_deliveries g
                                             WHERE g.delivery_id = f.delivery_id
                                               AND g.generation > f.generation)))
                 ORDER BY f.delivery_id DESC
                 LIMIT $9) AS of_endpoint
          WHERE $8
          ORDER BY of_endpoint.delivery_id DESC
          LIMIT $9)
    )
    SELECT p.delivery_id, p.event_id, v.type, p.endpoint_id, p.state, p.reason, p.generation,
           p.attempts, p.http_status, p.enqueued_at, p.next_attempt_at, p.finished_at
      FROM page p
      LEFT JOIN zyven.events v ON v.id = p.event_id
     ORDER BY p.delivery_id DESC
     LIMIT $9";
const ATTEMPTS_OF: &str = "
    SELECT generation, number, state_after::text, started_at, http_status, error, error_detail,
           connect_us, first_byte_us, total_us, response_headers, response_body
      FROM zyven.attempt_log
     WHERE tenant_id = $1
       AND delivery_id = $2
     ORDER BY generation, number
     LIMIT $3";

impl Store {
    /// An event; `None` if the tenant has no such one, or its retention has passed.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn event_of(
        &self,
        tenant: TenantId,
        id: EventId,
    ) -> Result<Option<EventRecord>, StoreError> {
        let connection = self.reads("reading an event").await?;
        let row = connection
            .query_opt(EVENT_OF, &[&tenant.uuid(), &id.uuid()])
            .await?;
        Ok(row.map(|row| EventRecord {
            id: EventId::from_uuid(row.get(0)),
            event_type: row.get(1),
            payload: Bytes::from(row.get::<_, Vec<u8>>(2)),
            channels: row.get::<_, Option<Vec<String>>>(3).unwrap_or_default(),
            source: row.get(4),
            traceparent: row.get(5),
            accepted_at: row.get(6),
            deliver_at: row.get(7),
            expires_at: row.get(8),
            ordering_key: row.get(9),
            content_type: row.get(10),
        }))
    }

    /// The tenant's events since `since`, the newest first, older than the event `before`. The work grows with the
    /// events of *all* tenants since then, so `since` has to be recent.
    ///
    /// # Errors
    /// PostgreSQL could not be asked, or needed longer than it may.
    pub async fn events_of(
        &self,
        tenant: TenantId,
        since: DateTime<Utc>,
        event_type: Option<&EventType>,
        before: Option<EventId>,
        limit: u32,
    ) -> Result<Vec<EventSummary>, StoreError> {
        let from = first_id_at(since);
        let to = before.map_or(Uuid::max(), EventId::uuid);
        let connection = self.reads("listing events").await?;
        let rows = connection
            .query(
                EVENTS_OF,
                &[
                    &tenant.uuid(),
                    &from,
                    &to,
                    &event_type.map(EventType::as_str),
                    &i64::from(limit),
                ],
            )
            .await?;
        let summaries = rows.iter().map(|row| EventSummary {
            id: EventId::from_uuid(row.get(0)),
            event_type: row.get(1),
            channels: row.get::<_, Option<Vec<String>>>(2).unwrap_or_default(),
            source: row.get(3),
            accepted_at: row.get(4),
            deliver_at: row.get(5),
            expires_at: row.get(6),
            ordering_key: row.get(7),
            content_type: row.get(8),
        });
        Ok(summaries.collect())
    }

    /// How many of an event's deliveries stand where.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn states_of_event(
        &self,
        tenant: TenantId,
        id: EventId,
    ) -> Result<Vec<(DeliveryState, i64)>, StoreError> {
        let connection = self
            .reads("reading the states of an event's deliveries")
            .await?;
        let (from, to) = delivery_range(id);
        let rows = connection
            .query(STATES_OF_EVENT, &[&tenant.uuid(), &id.uuid(), &from, &to])
            .await?;
        rows.iter()
            .map(|row| Ok((state(row.get(0))?, row.get(1))))
            .collect()
    }

    /// The deliveries of an event in the order of their ids, after the delivery `after`.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn deliveries_of_event(
        &self,
        tenant: TenantId,
        id: EventId,
        after: Option<DeliveryId>,
        limit: u32,
    ) -> Result<Vec<DeliveryRecord>, StoreError> {
        let connection = self.reads("reading an event's deliveries").await?;
        let (from, to) = delivery_range(id);
        let from = after.map_or(from, |after| from.max(after.uuid()));
        let parameters: [&(dyn postgres_types::ToSql + Sync); 5] =
            [&tenant.uuid(), &id.uuid(), &from, &to, &i64::from(limit)];
        let rows = connection.query(DELIVERIES_OF_EVENT, &parameters).await?;
        rows.iter().map(delivery).collect()
    }

    /// The tenant's deliveries, those of the newest events first, older than the delivery `before`.
    ///
    /// # Errors
    /// PostgreSQL could not be asked, or needed longer than it may: narrow the filter.
    pub async fn deliveries_of(
        &self,
        tenant: TenantId,
        filter: &DeliveryFilter,
        before: Option<DeliveryId>,
        limit: u32,
    ) -> Result<Vec<DeliveryRecord>, StoreError> {
        let wanted: Vec<DeliveryState> = match filter.states.as_slice() {
            [] => DeliveryState::ALL.to_vec(),
            some => some.to_vec(),
        };
        let names: Vec<&str> = wanted.iter().map(|state| state.as_str()).collect();
        let from = filter.since.map_or(Uuid::nil(), first_id_at);
        let to = before.map_or(Uuid::max(), DeliveryId::uuid);
        let to = filter.until.map_or(to, |until| to.min(first_id_at(until)));
        let connection = self.reads("listing deliveries").await?;
        let rows = connection
            .query(
                DELIVERIES_OF,
                &[
                    &tenant.uuid(),
                    &filter.endpoint.map(EndpointId::uuid),
                    &from,
                    &to,
                    &names,
                    &filter.event_type.as_ref().map(EventType::as_str),
                    &(filter.dead_reason.is_none()
                        && wanted.iter().any(|state| !state.is_finished())),
                    &wanted.iter().any(|state| state.is_finished()),
                    &i64::from(limit),
                    &filter.dead_reason.map(DeadLetterReason::as_str),
                ],
            )
            .await?;
        rows.iter().map(delivery).collect()
    }

    /// A delivery; `None` if the tenant has no such one.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn delivery_of(
        &self,
        tenant: TenantId,
        id: DeliveryId,
    ) -> Result<Option<DeliveryRecord>, StoreError> {
        let connection = self.reads("reading a delivery").await?;
        let row = connection
            .query_opt(DELIVERY_OF, &[&tenant.uuid(), &id.uuid()])
            .await?;
        row.as_ref().map(delivery).transpose()
    }

    /// The first [`ATTEMPTS_SHOWN_MAX`] attempts of a delivery, of all its generations, in order.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn attempts_of(
        &self,
        tenant: TenantId,
        delivery: DeliveryId,
    ) -> Result<Vec<Attempt>, StoreError> {
        let connection = self.reads("reading a delivery's attempts").await?;
        let rows = connection
            .query(
                ATTEMPTS_OF,
                &[
                    &tenant.uuid(),
                    &delivery.uuid(),
                    &i64::from(ATTEMPTS_SHOWN_MAX),
                ],
            )
            .await?;
        rows.iter().map(attempt).collect()
    }
}

/// Every id, of any kind, that was made at `moment` or later is at least this.
pub(crate) fn first_id_at(moment: DateTime<Utc>) -> Uuid {
    id_floor(moment.timestamp_millis().max(0).unsigned_abs())
}

/// The ids of an event's deliveries lie from the first to below the second.
fn delivery_range(event: EventId) -> (Uuid, Uuid) {
    let ms = event.timestamp_ms();
    (id_floor(ms), id_floor(ms + 1))
}

/// Ids begin with 48 bits of milliseconds. `zyven.uuid_floor(timestamptz)` in SQL computes the same.
fn id_floor(ms: u64) -> Uuid {
    const MS_MAX: u64 = (1 << 48) - 1;
    Uuid::from_u128(u128::from(ms.min(MS_MAX)) << 80)
}

pub(crate) fn state(name: &str) -> Result<DeliveryState, StoreError> {
    DeliveryState::from_str(name).map_err(|_| StoreError::Unreadable {
        doing: "reading a delivery",
        what: "a state that this version does not know".to_owned(),
    })
}

fn delivery(row: &Row) -> Result<DeliveryRecord, StoreError> {
    Ok(DeliveryRecord {
        id: DeliveryId::from_uuid(row.get(0)),
        event_id: EventId::from_uuid(row.get(1)),
        event_type: row.get(2),
        endpoint_id: EndpointId::from_uuid(row.get(3)),
        state: state(row.get(4))?,
        reason: row.get(5),
        generation: row.get(6),
        attempts: row.get(7),
        http_status: row.get(8),
        enqueued_at: row.get(9),
        next_attempt_at: row.get(10),
        finished_at: row.get(11),
    })
}

pub(crate) fn attempt(row: &Row) -> Result<Attempt, StoreError> {
    Ok(Attempt {
        generation: row.get(0),
        number: row.get(1),
        state_after: state(row.get(2))?,
        started_at: row.get(3),
        http_status: row.get(4),
        error: row.get(5),
        error_detail: row.get(6),
        connect_us: row.get(7),
        first_byte_us: row.get(8),
        total_us: row.get(9),
        response_headers: row.get(10),
        response_body: row.get(11),
    })
}
