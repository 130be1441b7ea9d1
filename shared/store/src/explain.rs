//! Why an event reached an endpoint or did not, and what a delivery waits for: `zyven.explain_event` and
//! `zyven.explain_delivery`, asked for a tenant (ADR 0032). Never part of accepting or delivering.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use tokio_postgres::Row;
use uuid::Uuid;
use zyven_domain::id::{DeliveryId, EndpointId, EventId, TenantId};
use zyven_domain::lease::DispatcherNumber;
use zyven_domain::lifecycle::DeliveryState;

use crate::pool::Connection;
use crate::reads::{attempt, state};
use crate::{Attempt, Store, StoreError};

/// How many attempts of a delivery an explanation shows, the last ones.
pub const EXPLAINED_ATTEMPTS_MAX: u32 = 3;
/// How much of each answer's body it shows.
pub const EXPLAINED_BODY_BYTES_MAX: u32 = 256;

/// Why an event has a delivery to an endpoint, or has none: every [`Explanation::code`] there is, as `zyven.explain_event` has them.
pub const EXPLANATION_CODES: [&str; 12] = [
    "matched",
    "test_event",
    "created_later",
    "other_endpoints_test",
    "about_itself",
    "event_type",
    "channel",
    "filter",
    "filter_not_asked",
    "deleted",
    "disabled",
    "no_delivery",
];

/// What of an event decides about its deliveries.
#[derive(Debug, Clone)]
pub struct ExplainedEvent {
    /// Its id.
    pub id: EventId,
    /// What patterns are compared with.
    pub event_type: String,
    /// What endpoints' channels are compared with.
    pub channels: Vec<String>,
    /// When it was committed.
    pub accepted_at: DateTime<Utc>,
    /// No attempt begins earlier.
    pub deliver_at: Option<DateTime<Utc>>,
    /// No attempt begins later.
    pub expires_at: Option<DateTime<Utc>>,
    /// What it is in order with.
    pub ordering_key: Option<String>,
}

/// An event and an endpoint of its tenant.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// Where it is.
    pub url: String,
    /// Whether the event has a delivery to it.
    pub matched: bool,
    /// Why, or why not: one of [`EXPLANATION_CODES`].
    pub code: String,
    /// The same in words.
    pub sentence: String,
    /// `record`, `unchanged_configuration` or `present_configuration`.
    pub judged_by: String,
    /// When the endpoint was last changed.
    pub endpoint_updated_at: DateTime<Utc>,
    /// The patterns that it has now.
    pub event_types: Vec<String>,
    /// Its channels now.
    pub channels: Vec<String>,
    /// Its filter now.
    pub filter: Option<String>,
    /// The delivery, if there is one.
    pub delivery: Option<ExplainedDelivery>,
}

/// Where a delivery stands, and why.
#[derive(Debug, Clone)]
pub struct ExplainedDelivery {
    /// Its id.
    pub id: DeliveryId,
    /// In its latest generation.
    pub state: DeliveryState,
    /// What it waits for, or how it has ended: stable.
    pub code: String,
    /// The same in words.
    pub sentence: String,
    /// 1, and one more for each replay.
    pub generation: i32,
    /// Attempts of this generation, one under way included.
    pub attempts: i32,
    /// The outbox row's number, now or once.
    pub seq: i64,
    /// See [`crate::ClaimedDelivery::ordering_key`]; 0 for a finished one.
    pub ordering_key: i64,
    /// When this generation began.
    pub enqueued_at: DateTime<Utc>,
    /// No attempt begins earlier; `None` if nothing but the reason keeps it.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// When it was delivered or given up.
    pub finished_at: Option<DateTime<Utc>>,
    /// When a success arrived after it had been given up.
    pub resolved_at: Option<DateTime<Utc>>,
    /// The first unfinished one with its ordering key.
    pub waits_for: Option<DeliveryId>,
    /// Who has it in hand.
    pub lease: Option<ExplainedLease>,
    /// The last [`EXPLAINED_ATTEMPTS_MAX`] on record, the latest first, without headers and with the first
    /// [`EXPLAINED_BODY_BYTES_MAX`] of the body.
    pub last_attempts: Vec<Attempt>,
}

/// Who has a delivery in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExplainedLease {
    /// The dispatcher, as its own log names it.
    pub dispatcher: Option<DispatcherNumber>,
    /// It has had it since then at least. When exactly is not on record.
    pub since_max: DateTime<Utc>,
    /// When others may take it.
    pub until: DateTime<Utc>,
}

const EVENT: &str = "
    SELECT id, type, channels, accepted_at, deliver_at, expires_at, ordering_key
      FROM zyven.events
     WHERE tenant_id = $1
       AND id = $2";
const DELIVERY: &str = "
    SELECT event_id, endpoint_id
      FROM zyven.explain_delivery($2)
     WHERE tenant_id = $1";
/// `$1` is an event that was found to be the tenant's.
const EXPLAIN: &str = "
    SELECT e.endpoint_id, e.url, e.matched, e.code, zyven.explain_sentence(e.code), e.judged_by,
           e.endpoint_updated_at, d.delivery_id, d.state::text, d.code, zyven.explain_sentence(d.code),
           d.generation, d.attempts, d.seq, d.ordering_number, d.enqueued_at, d.next_attempt_at, d.finished_at,
           d.resolved_at, d.waits_for, d.dispatcher, d.leased_since_max, d.leased_until,
           p.event_types, p.channels, p.filter
      FROM zyven.explain_event($1, $2, $3, $4) AS e
      JOIN zyven.endpoints p ON p.id = e.endpoint_id
      LEFT JOIN LATERAL zyven.explain_delivery(e.delivery_id) AS d ON true
     ORDER BY e.endpoint_id";
const LAST_ATTEMPTS: &str = "
    SELECT a.generation, a.number, a.state_after::text, a.started_at, a.http_status, a.error, a.error_detail,
           a.connect_us, a.first_byte_us, a.total_us, NULL::text, substring(a.response_body FROM 1 FOR $4),
           a.delivery_id
      FROM unnest($2::uuid[]) AS i (delivery_id)
     CROSS JOIN LATERAL (
           SELECT l.*
             FROM zyven.attempt_log l
            WHERE l.delivery_id = i.delivery_id
              AND l.tenant_id = $1
            ORDER BY l.generation DESC, l.number DESC
            LIMIT $3
           ) AS a
     ORDER BY a.delivery_id, a.generation DESC, a.number DESC";

impl Store {
    /// For the tenant's endpoints behind `after`, in the order of their ids and `limit` at most: whether the
    /// event has a delivery to it, why or why not, and where that stands. `None` if the tenant has no such
    /// event, or its retention has passed.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn explain_event(
        &self,
        tenant: TenantId,
        id: EventId,
        after: Option<EndpointId>,
        limit: u32,
    ) -> Result<Option<(ExplainedEvent, Vec<Explanation>)>, StoreError> {
        let connection = self.reads("explaining an event").await?;
        let Some(event) = event(&connection, tenant, id.uuid()).await? else {
            return Ok(None);
        };
        let after = after.map_or(Uuid::nil(), EndpointId::uuid);
        let page = Page {
            event: id.uuid(),
            after,
            limit: i32::try_from(limit).unwrap_or(i32::MAX),
            only: None,
        };
        let explanations = explain(&connection, tenant, page).await?;
        Ok(Some((event, explanations)))
    }

    /// The same of one delivery. The event is `None` if it is no longer stored.
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn explain_delivery(
        &self,
        tenant: TenantId,
        id: DeliveryId,
    ) -> Result<Option<(Option<ExplainedEvent>, Explanation)>, StoreError> {
        let connection = self.reads("explaining a delivery").await?;
        let found = connection
            .query_opt(DELIVERY, &[&tenant.uuid(), &id.uuid()])
            .await?;
        let Some(found) = found else {
            return Ok(None);
        };
        let page = Page {
            event: found.get(0),
            after: Uuid::nil(),
            limit: 1,
            only: Some(found.get(1)),
        };
        let event = event(&connection, tenant, page.event).await?;
        let explanation = explain(&connection, tenant, page).await?.pop();
        Ok(explanation.map(|explanation| (event, explanation)))
    }
}

struct Page {
    event: Uuid,
    after: Uuid,
    limit: i32,
    only: Option<Uuid>,
}

async fn event(
    connection: &Connection,
    tenant: TenantId,
    id: Uuid,
) -> Result<Option<ExplainedEvent>, StoreError> {
    let row = connection.query_opt(EVENT, &[&tenant.uuid(), &id]).await?;
    Ok(row.map(|row| ExplainedEvent {
        id: EventId::from_uuid(row.get(0)),
        event_type: row.get(1),
        channels: row.get::<_, Option<Vec<String>>>(2).unwrap_or_default(),
        accepted_at: row.get(3),
        deliver_at: row.get(4),
        expires_at: row.get(5),
        ordering_key: row.get(6),
    }))
}

async fn explain(
    connection: &Connection,
    tenant: TenantId,
    page: Page,
) -> Result<Vec<Explanation>, StoreError> {
    let rows = connection
        .query(
            EXPLAIN,
            &[&page.event, &page.after, &page.limit, &page.only],
        )
        .await?;
    let deliveries: Vec<Uuid> = rows.iter().filter_map(|row| row.get(7)).collect();
    let mut attempts = last_attempts(connection, tenant, &deliveries).await?;
    rows.iter()
        .map(|row| explanation(row, &mut attempts))
        .collect()
}

async fn last_attempts(
    connection: &Connection,
    tenant: TenantId,
    deliveries: &[Uuid],
) -> Result<HashMap<Uuid, Vec<Attempt>>, StoreError> {
    let mut attempts: HashMap<Uuid, Vec<Attempt>> = HashMap::new();
    if deliveries.is_empty() {
        return Ok(attempts);
    }
    let body_bytes_max = i32::try_from(EXPLAINED_BODY_BYTES_MAX).unwrap_or(i32::MAX);
    let rows = connection
        .query(
            LAST_ATTEMPTS,
            &[
                &tenant.uuid(),
                &deliveries,
                &i64::from(EXPLAINED_ATTEMPTS_MAX),
                &body_bytes_max,
            ],
        )
        .await?;
    for row in &rows {
        attempts.entry(row.get(12)).or_default().push(attempt(row)?);
    }
    Ok(attempts)
}

fn explanation(
    row: &Row,
    attempts: &mut HashMap<Uuid, Vec<Attempt>>,
) -> Result<Explanation, StoreError> {
    let delivery = row
        .get::<_, Option<Uuid>>(7)
        .map(|id| delivery(row, id, attempts.remove(&id).unwrap_or_default()))
        .transpose()?;
    Ok(Explanation {
        endpoint_id: EndpointId::from_uuid(row.get(0)),
        url: row.get(1),
        matched: row.get(2),
        code: row.get(3),
        sentence: row.get::<_, Option<String>>(4).unwrap_or_default(),
        judged_by: row.get(5),
        endpoint_updated_at: row.get(6),
        event_types: row.get(23),
        channels: row.get(24),
        filter: row.get(25),
        delivery,
    })
}

fn delivery(
    row: &Row,
    id: Uuid,
    last_attempts: Vec<Attempt>,
) -> Result<ExplainedDelivery, StoreError> {
    let lease = row
        .get::<_, Option<DateTime<Utc>>>(22)
        .map(|until| ExplainedLease {
            dispatcher: row
                .get::<_, Option<i64>>(20)
                .and_then(DispatcherNumber::from_i64),
            since_max: row.get::<_, Option<_>>(21).unwrap_or(until),
            until,
        });
    Ok(ExplainedDelivery {
        id: DeliveryId::from_uuid(id),
        state: state(row.get(8))?,
        code: row.get(9),
        sentence: row.get::<_, Option<String>>(10).unwrap_or_default(),
        generation: row.get(11),
        attempts: row.get(12),
        seq: row.get(13),
        ordering_key: row.get(14),
        enqueued_at: row.get(15),
        next_attempt_at: row.get(16),
        finished_at: row.get(17),
        resolved_at: row.get(18),
        waits_for: row.get::<_, Option<Uuid>>(19).map(DeliveryId::from_uuid),
        lease,
        last_attempts,
    })
}
