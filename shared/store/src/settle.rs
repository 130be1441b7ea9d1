//! T3 to T6, and giving a lease back: what follows an attempt, a batch at a time.
//!
//! | Settlement | Statement | Guard |
//! |---|---|---|
//! | delivered | outbox row → finished row | the row exists: a 2xx is a 2xx, whoever holds the lease |
//! | retry | due time set, lease cleared, attempt recorded | the lease is mine |
//! | dead letter | outbox row → finished row, dead letter with its payload, attempt | the lease is mine |
//! | release | lease cleared, attempt not counted | the lease is mine |

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use postgres_types::ToSql;
use uuid::Uuid;
use zyven_crash_points::CrashPoint;
use zyven_domain::id::{DeliveryId, EndpointId, EventId};
use zyven_domain::retry::DeadLetterReason;

use crate::pool::Connection;
use crate::{Store, StoreError};

/// What a dispatcher observed of one attempt.
#[derive(Debug, Clone)]
pub struct AttemptRecord {
    /// When the attempt began, on the dispatcher's clock.
    pub started_at: DateTime<Utc>,
    /// The answer's status, if there was an answer.
    pub http_status: Option<u16>,
    /// The class of what went wrong, for example `timeout`.
    pub error: Option<&'static str>,
    /// A sentence for the endpoint's owner. Never an internal address.
    pub error_detail: Option<String>,
    /// Microseconds to a usable connection; `None` when one was reused.
    pub connect_us: Option<u32>,
    /// Microseconds to the answer's first byte.
    pub first_byte_us: Option<u32>,
    /// Microseconds in all.
    pub total_us: u32,
    /// `name: value` lines, at most 4 KiB.
    pub response_headers: Option<String>,
    /// The first KiB of the answer's body.
    pub response_body: Option<Bytes>,
}

/// What is to become of a claimed delivery.
#[derive(Debug, Clone)]
pub enum Settlement {
    /// The endpoint took it.
    Delivered(AttemptRecord),
    /// Another attempt after this wait.
    Retry {
        /// The failed attempt.
        record: AttemptRecord,
        /// From now, on PostgreSQL's clock.
        retry_in: Duration,
    },
    /// No further attempt.
    DeadLetter {
        /// The failed attempt; `None` if none was made (the endpoint is gone).
        record: Option<AttemptRecord>,
        /// Why.
        reason: DeadLetterReason,
    },
    /// Nothing was sent: the attempt does not count.
    Release {
        /// Wait before it is offered again.
        due_in: Duration,
    },
}

/// A settlement and the claim it belongs to.
#[derive(Debug, Clone)]
pub struct SettleItem {
    /// The outbox row.
    pub seq: i64,
    /// The token the row was claimed with.
    pub lease_token: i64,
    /// The delivery.
    pub delivery_id: DeliveryId,
    /// Its event.
    pub event_id: EventId,
    /// Its endpoint.
    pub endpoint_id: EndpointId,
    /// Its generation.
    pub generation: i32,
    /// The attempt's number.
    pub attempt: u32,
    /// What is to become of it.
    pub settlement: Settlement,
}

/// What became of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is on record now.
    Done,
    /// The lease had been lost: somebody else decides about this delivery.
    Superseded,
    /// The delivery had already been finished (a repeated call, or a success that came late).
    AlreadyFinished,
}

/// By number *and* delivery: a PostgreSQL that crashed or failed over may give a number out again, and
/// a success must not finish whichever delivery has its number now.
const DELIVER: &str = "
    WITH gone AS (
        DELETE FROM zyven.outbox o
         USING unnest($1::bigint[], $2::integer[], $3::timestamptz[], $4::smallint[], $5::integer[],
                      $6::integer[], $7::integer[], $8::text[], $9::bytea[], $10::uuid[])
                   AS i (seq, attempt, started_at, http_status, connect_us, first_byte_us, total_us,
                         response_headers, response_body, delivery_id)
         WHERE o.seq = ANY ($1)
           AND o.seq = i.seq
           AND o.delivery_id = i.delivery_id
        RETURNING o.delivery_id, o.generation, i.attempt, o.seq, o.event_id, o.endpoint_id, o.tenant_id,
                  o.enqueued_at, i.started_at, i.http_status, i.connect_us, i.first_byte_us, i.total_us,
                  i.response_headers, i.response_body
    )
    INSERT INTO zyven.finished_deliveries
           (delivery_id, generation, attempts, seq, event_id, endpoint_id, tenant_id, state, enqueued_at,
            started_at, http_status, connect_us, first_byte_us, total_us, response_headers, response_body)
    SELECT delivery_id, generation, attempt, seq, event_id, endpoint_id, tenant_id, 'DELIVERED', enqueued_at,
           started_at, http_status, connect_us, first_byte_us, total_us, response_headers, response_body
      FROM gone
    RETURNING seq, delivery_id";

/// A success that arrived after Zyven had given up: the dead letter is resolved, unless it has been
/// replayed meanwhile.
const RESOLVE: &str = "
    UPDATE zyven.dead_letter_records d
       SET resolved_at = now()
      FROM unnest($1::uuid[], $2::integer[]) AS i (delivery_id, generation)
     WHERE d.delivery_id = i.delivery_id
       AND d.generation = i.generation
       AND d.resolved_at IS NULL
       AND d.replayed_at IS NULL";

const RETRY: &str = "
    WITH input AS MATERIALIZED (
        SELECT *
          FROM unnest($1::bigint[], $2::bigint[], $3::integer[], $4::timestamptz[], $5::smallint[], $6::text[],
                      $7::text[], $8::integer[], $9::integer[], $10::integer[], $11::text[], $12::bytea[],
                      $13::bigint[])
                   AS i (seq, lease_token, attempt, started_at, http_status, error, error_detail, connect_us,
                         first_byte_us, total_us, response_headers, response_body, retry_in_ms)
    ), retried AS (
        UPDATE zyven.outbox o
           SET state = 'RETRY_SCHEDULED',
               due_at = clock_timestamp() + i.retry_in_ms * interval '1 millisecond',
               lease_token = 0,
               leased_until = '-infinity'
          FROM input i
         WHERE o.seq = ANY ($1)
           AND o.seq = i.seq
           AND o.state = 'DISPATCHING'
           AND o.lease_token = i.lease_token
        RETURNING o.seq, o.delivery_id, o.generation, o.event_id, o.endpoint_id, o.tenant_id, i.lease_token
    ), recorded AS (
        INSERT INTO zyven.attempts
               (delivery_id, generation, number, event_id, endpoint_id, tenant_id, state_after, started_at,
                http_status, error, error_detail, connect_us, first_byte_us, total_us, response_headers,
                response_body)
        SELECT r.delivery_id, r.generation, i.attempt, r.event_id, r.endpoint_id, r.tenant_id, 'RETRY_SCHEDULED',
               i.started_at, i.http_status, i.error, i.error_detail, i.connect_us, i.first_byte_us, i.total_us,
               i.response_headers, i.response_body
          FROM retried r
          JOIN input i ON i.seq = r.seq AND i.lease_token = r.lease_token
        ON CONFLICT DO NOTHING
    )
    SELECT seq, lease_token FROM retried";

/// An attempt without a record was never made: it leaves no row and does not count.
const BURY: &str = "
    WITH input AS MATERIALIZED (
        SELECT *
          FROM unnest($1::bigint[], $2::bigint[], $3::integer[], $4::timestamptz[], $5::smallint[], $6::text[],
                      $7::text[], $8::integer[], $9::integer[], $10::integer[], $11::text[], $12::bytea[],
                      $13::text[])
                   AS i (seq, lease_token, attempt, started_at, http_status, error, error_detail, connect_us,
                         first_byte_us, total_us, response_headers, response_body, reason)
    ), gone AS (
        DELETE FROM zyven.outbox o
         USING input i
         WHERE o.seq = ANY ($1)
           AND o.seq = i.seq
           AND o.state = 'DISPATCHING'
           AND o.lease_token = i.lease_token
        RETURNING o.seq, o.delivery_id, o.generation, o.event_id, o.endpoint_id, o.tenant_id, o.enqueued_at,
                  i.lease_token
    ), finished AS (
        INSERT INTO zyven.finished_deliveries
               (delivery_id, generation, attempts, seq, event_id, endpoint_id, tenant_id, state, reason,
                enqueued_at, http_status)
        SELECT g.delivery_id, g.generation, i.attempt - CASE WHEN i.started_at IS NULL THEN 1 ELSE 0 END,
               g.seq, g.event_id, g.endpoint_id, g.tenant_id, 'DEAD_LETTERED', i.reason, g.enqueued_at,
               i.http_status
          FROM gone g
          JOIN input i ON i.seq = g.seq AND i.lease_token = g.lease_token
    ), buried AS (
        INSERT INTO zyven.dead_letter_records
               (delivery_id, generation, event_id, endpoint_id, tenant_id, event_type, payload, channels, source,
                traceparent, accepted_at, reason, attempts, http_status, error, deliver_at, expires_at, ordering_key,
                content_type)
        SELECT g.delivery_id, g.generation, g.event_id, g.endpoint_id, g.tenant_id, coalesce(e.type, ''),
               e.payload, e.channels, e.source, e.traceparent, coalesce(e.accepted_at, g.enqueued_at), i.reason,
               i.attempt - CASE WHEN i.started_at IS NULL THEN 1 ELSE 0 END, i.http_status, i.error,
               e.deliver_at, e.expires_at, e.ordering_key, coalesce(e.content_type, 'application/json')
          FROM gone g
          JOIN input i ON i.seq = g.seq AND i.lease_token = g.lease_token
          LEFT JOIN zyven.events e ON e.id = g.event_id
    ), recorded AS (
        INSERT INTO zyven.attempts
               (delivery_id, generation, number, event_id, endpoint_id, tenant_id, state_after, started_at,
                http_status, error, error_detail, connect_us, first_byte_us, total_us, response_headers,
                response_body)
        SELECT g.delivery_id, g.generation, i.attempt, g.event_id, g.endpoint_id, g.tenant_id, 'DEAD_LETTERED',
               i.started_at, i.http_status, i.error, i.error_detail, i.connect_us, i.first_byte_us, i.total_us,
               i.response_headers, i.response_body
          FROM gone g
          JOIN input i ON i.seq = g.seq AND i.lease_token = g.lease_token
         WHERE i.started_at IS NOT NULL
        ON CONFLICT DO NOTHING
    )
    SELECT seq, lease_token FROM gone";

const RELEASE: &str = "
    UPDATE zyven.outbox o
       SET attempts = o.attempts - 1,
           due_at = clock_timestamp() + i.due_in_ms * interval '1 millisecond',
           lease_token = 0,
           leased_until = '-infinity'
      FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS i (seq, lease_token, due_in_ms)
     WHERE o.seq = ANY ($1)
       AND o.seq = i.seq
       AND o.state = 'DISPATCHING'
       AND o.lease_token = i.lease_token
    RETURNING o.seq, i.lease_token";

impl Store {
    /// Puts a batch of settlements on record, synchronously committed. Results are in the order of
    /// `items`. One call may run up to four statements, each atomic by itself.
    ///
    /// After an error the same items may be settled again: what is on record is recognised.
    ///
    /// # Errors
    /// PostgreSQL could not be asked, or nobody knows what it did: see [`StoreError::is_transient`].
    pub async fn settle(&self, items: &[SettleItem]) -> Result<Vec<Settled>, StoreError> {
        let connection = self.durable("settling attempts").await?;
        let mut groups = Groups::default();
        for item in items {
            groups.sort_in(item);
        }
        // Of two successes of one delivery the first one finishes it. Also by delivery, as PostgreSQL may have
        // given its number to another one meanwhile.
        let mut delivered: HashSet<(i64, Uuid)> = HashSet::new();
        // By number and token: a batch may hold a lost lease's failure beside the present one's.
        let mut failed: HashSet<(i64, i64)> = HashSet::with_capacity(items.len());
        if !groups.delivered.is_empty() {
            delivered = deliver(&connection, &groups.delivered).await?;
            CrashPoint::SettleAfterDelivered.reached();
            let late: Vec<&SettleItem> = groups
                .delivered
                .iter()
                .map(|(item, _)| *item)
                .filter(|item| !delivered.contains(&row_of(item)))
                .collect();
            if !late.is_empty() {
                resolve(&connection, &late).await?;
            }
        }
        if !groups.retried.is_empty() {
            failed.extend(retry(&connection, &groups.retried).await?);
            CrashPoint::SettleAfterRetried.reached();
        }
        if !groups.buried.is_empty() {
            failed.extend(bury(&connection, &groups.buried).await?);
            CrashPoint::SettleAfterBuried.reached();
        }
        if !groups.released.is_empty() {
            failed.extend(release(&connection, &groups.released).await?);
            CrashPoint::SettleAfterReleased.reached();
        }
        let became = |item: &SettleItem| match &item.settlement {
            Settlement::Delivered(_) if delivered.remove(&row_of(item)) => Settled::Done,
            Settlement::Delivered(_) => Settled::AlreadyFinished,
            _ if failed.contains(&(item.seq, item.lease_token)) => Settled::Done,
            _ => Settled::Superseded,
        };
        Ok(items.iter().map(became).collect())
    }
}

/// The items of one call by what is to become of them.
#[derive(Default)]
struct Groups<'a> {
    /// The first success of each row: a row cannot be finished twice.
    delivered: Vec<(&'a SettleItem, &'a AttemptRecord)>,
    delivered_rows: HashSet<(i64, Uuid)>,
    retried: Vec<(&'a SettleItem, &'a AttemptRecord, Duration)>,
    buried: Vec<(&'a SettleItem, Option<&'a AttemptRecord>, DeadLetterReason)>,
    released: Vec<(&'a SettleItem, Duration)>,
}

impl<'a> Groups<'a> {
    fn sort_in(&mut self, item: &'a SettleItem) {
        match &item.settlement {
            Settlement::Delivered(record) => {
                if self.delivered_rows.insert(row_of(item)) {
                    self.delivered.push((item, record));
                }
            }
            Settlement::Retry { record, retry_in } => self.retried.push((item, record, *retry_in)),
            Settlement::DeadLetter { record, reason } => {
                self.buried.push((item, record.as_ref(), *reason));
            }
            Settlement::Release { due_in } => self.released.push((item, *due_in)),
        }
    }
}

/// A number alone may be another delivery's by now.
fn row_of(item: &SettleItem) -> (i64, Uuid) {
    (item.seq, item.delivery_id.uuid())
}

async fn deliver(
    connection: &Connection,
    items: &[(&SettleItem, &AttemptRecord)],
) -> Result<HashSet<(i64, Uuid)>, StoreError> {
    let columns = Columns::of(items.iter().map(|(item, record)| (*item, Some(*record))));
    let deliveries: Vec<Uuid> = items.iter().map(|(i, _)| i.delivery_id.uuid()).collect();
    let parameters: [&(dyn ToSql + Sync); 10] = [
        &columns.seq,
        &columns.attempt,
        &columns.started_at,
        &columns.http_status,
        &columns.connect_us,
        &columns.first_byte_us,
        &columns.total_us,
        &columns.response_headers,
        &columns.response_body,
        &deliveries,
    ];
    let rows = connection.query(DELIVER, &parameters).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn resolve(connection: &Connection, items: &[&SettleItem]) -> Result<(), StoreError> {
    let deliveries: Vec<Uuid> = items.iter().map(|i| i.delivery_id.uuid()).collect();
    let generations: Vec<i32> = items.iter().map(|i| i.generation).collect();
    connection
        .execute(RESOLVE, &[&deliveries, &generations])
        .await
        .map(|_| ())
}

async fn retry(
    connection: &Connection,
    items: &[(&SettleItem, &AttemptRecord, Duration)],
) -> Result<Vec<(i64, i64)>, StoreError> {
    let columns = Columns::of(items.iter().map(|(item, record, _)| (*item, Some(*record))));
    let waits: Vec<i64> = items
        .iter()
        .map(|(_, _, wait)| milliseconds(*wait))
        .collect();
    rows(connection, RETRY, &columns.failed(&waits)).await
}

async fn bury(
    connection: &Connection,
    items: &[(&SettleItem, Option<&AttemptRecord>, DeadLetterReason)],
) -> Result<Vec<(i64, i64)>, StoreError> {
    let columns = Columns::of(items.iter().map(|(item, record, _)| (*item, *record)));
    let reasons: Vec<&str> = items.iter().map(|(_, _, reason)| reason.as_str()).collect();
    rows(connection, BURY, &columns.failed(&reasons)).await
}

async fn release(
    connection: &Connection,
    items: &[(&SettleItem, Duration)],
) -> Result<Vec<(i64, i64)>, StoreError> {
    let numbers: Vec<i64> = items.iter().map(|(item, _)| item.seq).collect();
    let tokens: Vec<i64> = items.iter().map(|(item, _)| item.lease_token).collect();
    let waits: Vec<i64> = items.iter().map(|(_, wait)| milliseconds(*wait)).collect();
    rows(connection, RELEASE, &[&numbers, &tokens, &waits]).await
}

/// The rows that a statement touched, each by its number and the token it had.
async fn rows(
    connection: &Connection,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<(i64, i64)>, StoreError> {
    let rows = connection.query(sql, parameters).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn milliseconds(wait: Duration) -> i64 {
    i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)
}

/// A batch, one array per column: what `unnest` takes.
#[derive(Default)]
struct Columns<'a> {
    seq: Vec<i64>,
    lease_token: Vec<i64>,
    attempt: Vec<i32>,
    started_at: Vec<Option<DateTime<Utc>>>,
    http_status: Vec<Option<i16>>,
    error: Vec<Option<&'static str>>,
    error_detail: Vec<Option<&'a str>>,
    connect_us: Vec<Option<i32>>,
    first_byte_us: Vec<Option<i32>>,
    total_us: Vec<Option<i32>>,
    response_headers: Vec<Option<&'a str>>,
    response_body: Vec<Option<&'a [u8]>>,
}

impl<'a> Columns<'a> {
    fn of(items: impl Iterator<Item = (&'a SettleItem, Option<&'a AttemptRecord>)>) -> Self {
        // A phase of more than 35 minutes does not fit; it cannot happen within a 30 s deadline.
        let us = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
        let mut columns = Self::default();
        for (item, record) in items {
            columns.seq.push(item.seq);
            columns.lease_token.push(item.lease_token);
            columns
                .attempt
                .push(i32::try_from(item.attempt).unwrap_or(i32::MAX));
            let of = |pick: fn(&AttemptRecord) -> Option<u32>| record.and_then(pick).map(us);
            columns.started_at.push(record.map(|r| r.started_at));
            columns.http_status.push(
                record
                    .and_then(|r| r.http_status)
                    .and_then(|status| i16::try_from(status).ok()),
            );
            columns.error.push(record.and_then(|r| r.error));
            columns
                .error_detail
                .push(record.and_then(|r| r.error_detail.as_deref()));
            columns.connect_us.push(of(|r| r.connect_us));
            columns.first_byte_us.push(of(|r| r.first_byte_us));
            columns.total_us.push(of(|r| Some(r.total_us)));
            columns
                .response_headers
                .push(record.and_then(|r| r.response_headers.as_deref()));
            columns
                .response_body
                .push(record.and_then(|r| r.response_body.as_deref()));
        }
        columns
    }

    /// The parameters of RETRY and BURY, which differ in the last.
    fn failed<'b>(&'b self, last: &'b (dyn ToSql + Sync)) -> [&'b (dyn ToSql + Sync); 13] {
        [
            &self.seq,
            &self.lease_token,
            &self.attempt,
            &self.started_at,
            &self.http_status,
            &self.error,
            &self.error_detail,
            &self.connect_us,
            &self.first_byte_us,
            &self.total_us,
            &self.response_headers,
            &self.response_body,
            last,
        ]
    }
}
