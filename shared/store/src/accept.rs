//! T0: an event, its idempotency key and one outbox row per matching endpoint, in one statement.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use postgres_types::ToSql;
use tokio_postgres::Row;
use uuid::Uuid;
use zyven_domain::event::{
    Channel, ContentType, DeliveryOptions, EventType, Fingerprint, OrderingKey, Source, TraceParent,
};
use zyven_domain::id::{DeliveryId, EventId, TenantId};

use crate::pool::Connection;
use crate::routing::Route;
use crate::{Store, StoreError};

/// An event ready to be stored: everything in it has been parsed and bounded.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Made by the caller, so that the same call can be repeated.
    pub id: EventId,
    /// The owner, from the API key.
    pub tenant_id: TenantId,
    /// What kind of fact it is.
    pub event_type: EventType,
    /// Exactly the bytes to sign and send.
    pub payload: Bytes,
    /// What they are sent as.
    pub content_type: ContentType,
    /// Sorted, without repetitions.
    pub channels: Vec<Channel>,
    /// Where it comes from.
    pub source: Option<Source>,
    /// The publisher's trace.
    pub traceparent: Option<TraceParent>,
    /// When, until when and in which order it is delivered.
    pub options: DeliveryOptions,
    /// Present if the publisher sent an `Idempotency-Key`.
    pub idempotency: Option<Idempotency>,
}

impl NewEvent {
    /// The channels as they travel to SQL: joined by commas, which no channel contains.
    pub(crate) fn channels_text(&self) -> Option<String> {
        if self.channels.is_empty() {
            return None;
        }
        let channels: Vec<&str> = self.channels.iter().map(Channel::as_str).collect();
        Some(channels.join(","))
    }
}

/// What makes a repetition recognisable.
#[derive(Debug, Clone, Copy)]
pub struct Idempotency {
    /// [`zyven_domain::event::key_fingerprint`].
    pub key: Fingerprint,
    /// [`zyven_domain::event::body_fingerprint`].
    pub body: Fingerprint,
}

/// What became of one event of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "an event that was not accepted must not be acknowledged"]
pub enum Accepted {
    /// Committed now, with this many deliveries.
    New {
        /// How many endpoints it goes to.
        deliveries: usize,
    },
    /// The same event was accepted before, under this id.
    Repeated {
        /// The first event's id.
        first: EventId,
    },
    /// The key was used for a different event.
    Conflict {
        /// That event's id.
        first: EventId,
    },
}

/// How often a batch is tried again because some tenant's endpoints changed under it.
const ROUTING_ROUNDS_MAX: usize = 5;

/// `$1..$14`: one array per column, one element per event; `$15..$18`: one element per delivery, in the
/// order of the events.
///
/// An event is stored only if its tenant's routing version is still the one its route was read
/// with, and only if its key is new. `ORDER BY key` keeps two batches with common keys from
/// deadlocking; of the events with one key the first has it, as if each had come alone. Outbox rows are
/// made from the events just inserted, so the transaction owns an xid before it draws a sequence number;
/// the relay's gap ledger depends on that. Numbers are drawn after the sort, so that they follow the
/// order of the events. A macro because statements are constants.
macro_rules! accept {
    ($queued:literal, $answer:literal) => {
        concat!(
            "
    WITH input AS MATERIALIZED (
        SELECT i.*
          FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::bytea[],
                      $6::text[], $7::text[], $8::text[], $9::uuid[], $10::uuid[],
                      $11::timestamptz[], $12::timestamptz[], $13::text[], $14::text[])
                   WITH ORDINALITY
                   AS i (id, tenant_id, version, type, payload, channels, source, traceparent, key, body,
                         deliver_at, expires_at, ordering_key, content_type, number)
          JOIN zyven.routing_versions v ON v.tenant_id = i.tenant_id AND v.version = i.version
    ), keyed AS (
        INSERT INTO zyven.idempotency_keys (key, event_id, body)
        SELECT key, id, body
          FROM input
         WHERE key IS NOT NULL
         ORDER BY key, number
        ON CONFLICT (key) DO NOTHING
        RETURNING event_id
    ), accepted AS (
        INSERT INTO zyven.events
               (id, tenant_id, type, payload, channels, source, traceparent, deliver_at, expires_at, ordering_key,
                content_type)
        SELECT id, tenant_id, type, payload, string_to_array(channels, ','), source, traceparent,
               deliver_at, expires_at, ordering_key, content_type::zyven.content_type
          FROM input
         WHERE key IS NULL
            OR id IN (SELECT event_id FROM keyed)
        ON CONFLICT (id) DO NOTHING
        RETURNING id, greatest(deliver_at, now()) AS turn, zyven.ordering_number(ordering_key) AS ordering_key
    )",
            $queued,
            $answer
        )
    };
}

const ACCEPT: &str = accept!(
    ", queued AS (
        INSERT INTO zyven.outbox (delivery_id, event_id, endpoint_id, tenant_id, enqueued_at, due_at, ordering_key)
        SELECT o.delivery_id, a.id, o.endpoint_id, o.tenant_id, a.turn, a.turn, a.ordering_key
          FROM accepted a
          JOIN unnest($15::uuid[], $16::uuid[], $17::uuid[], $18::uuid[])
                   WITH ORDINALITY AS o (delivery_id, event_id, endpoint_id, tenant_id, number) ON o.event_id = a.id
         ORDER BY o.number
    )",
    "
    SELECT id
      FROM accepted"
);

/// The same for a batch in which some endpoint has a filter (`$19`, per delivery). Each payload that
/// needs it is read once; the routing version, compared above, vouches for the filters.
const ACCEPT_FILTERED: &str = accept!(
    ", documents AS MATERIALIZED (
        SELECT i.id, zyven.document_of(i.payload) AS document
          FROM input i
         WHERE i.id IN (SELECT f.event_id
                          FROM unnest($16::uuid[], $19::boolean[]) AS f (event_id, has_filter)
                         WHERE f.has_filter)
    ), queued AS (
        INSERT INTO zyven.outbox (delivery_id, event_id, endpoint_id, tenant_id, enqueued_at, due_at, ordering_key)
        SELECT o.delivery_id, a.id, o.endpoint_id, o.tenant_id, a.turn, a.turn, a.ordering_key
          FROM accepted a
          JOIN unnest($15::uuid[], $16::uuid[], $17::uuid[], $18::uuid[], $19::boolean[])
                   WITH ORDINALITY AS o (delivery_id, event_id, endpoint_id, tenant_id, has_filter, number)
            ON o.event_id = a.id
          LEFT JOIN zyven.endpoints p ON o.has_filter AND p.id = o.endpoint_id
          LEFT JOIN documents d ON d.id = a.id
         WHERE NOT o.has_filter
            OR zyven.filter_admits(p.filter, d.document)
         ORDER BY o.number
        RETURNING event_id
    )",
    "
    SELECT a.id, count(q.event_id)
      FROM accepted a
      LEFT JOIN queued q ON q.event_id = a.id
     GROUP BY a.id"
);

/// How many deliveries events have that were stored before: routes may have changed since. An event's
/// deliveries begin with its own millisecond, by which the indexes find them.
const COUNT_DELIVERIES: &str = "
    SELECT i.id, d.count
      FROM unnest($1::uuid[]) AS i (id)
     CROSS JOIN LATERAL (
           SELECT count(*)
             FROM zyven.deliveries
            WHERE event_id = i.id
              AND delivery_id >= zyven.uuid_floor(zyven.uuid_time(i.id))
              AND delivery_id < zyven.uuid_floor(zyven.uuid_time(i.id) + interval '1 millisecond')
           ) AS d";

/// The events of a batch that were not stored just now, as far as they were stored before.
const FIND_KEYS: &str = "
    SELECT key, event_id, body
      FROM zyven.idempotency_keys
     WHERE key = ANY ($1)";
const FIND_EVENTS: &str = "
    SELECT id
      FROM zyven.events
     WHERE id = ANY ($1)";

/// A commit of its own, which waits for a standby as that of an event does. What is recognised was committed here, and PostgreSQL
/// may have crashed while that commit waited for its standby: it waits no more after that. Everything before this
/// message in the log is where the message is, so that whoever is told "stored" is told the truth.
const BE_SURE: &str = "SELECT pg_logical_emit_message(true, 'zyven', '')";

impl Store {
    /// Accepts a batch: when this returns, each event that is [`Accepted::New`] is committed together
    /// with its outbox rows, synchronously. Results are in the order of `events`.
    ///
    /// The same batch may be accepted again after any error; what was stored then is recognised.
    ///
    /// # Errors
    /// PostgreSQL could not be asked, or nobody knows what it did: see [`StoreError::is_transient`].
    pub async fn accept(&self, events: &[NewEvent]) -> Result<Vec<Accepted>, StoreError> {
        let mut results: Vec<Option<Accepted>> = vec![None; events.len()];
        for _ in 0..ROUTING_ROUNDS_MAX {
            let open: Vec<usize> = (0..events.len())
                .filter(|&i| results[i].is_none())
                .collect();
            if open.is_empty() {
                break;
            }
            let batch: Vec<&NewEvent> = open.iter().map(|&i| &events[i]).collect();
            let routes = self.routes(&batch).await?;
            let outcome = match self.insert(&batch, &routes).await {
                Err(error) if error.names_missing_partition() => {
                    self.ensure_partitions().await?;
                    self.insert(&batch, &routes).await
                }
                other => other,
            };
            for (index, accepted) in open.into_iter().zip(outcome?) {
                results[index] = accepted;
                if accepted.is_none() {
                    self.routes.forget(events[index].tenant_id);
                }
            }
        }
        results
            .into_iter()
            .collect::<Option<Vec<Accepted>>>()
            .ok_or(StoreError::RoutingUnsettled(ROUTING_ROUNDS_MAX))
    }

    /// One round: `None` for events whose route was stale.
    async fn insert(
        &self,
        events: &[&NewEvent],
        routes: &[Route],
    ) -> Result<Vec<Option<Accepted>>, StoreError> {
        let connection = self.durable("accepting events").await?;
        let stored = insert_rows(&connection, events, routes).await?;
        let mut results: Vec<Option<Accepted>> = events
            .iter()
            .map(|event| {
                let deliveries = *stored.get(&event.id.uuid())?;
                Some(Accepted::New { deliveries })
            })
            .collect();
        if stored.len() < events.len() {
            recognise(&connection, events, &mut results).await?;
        }
        Ok(results)
    }
}

/// The events that were stored, each with the number of its deliveries.
async fn insert_rows(
    connection: &Connection,
    events: &[&NewEvent],
    routes: &[Route],
) -> Result<HashMap<Uuid, usize>, StoreError> {
    let column =
        |of: fn(&NewEvent) -> Uuid| -> Vec<Uuid> { events.iter().map(|e| of(e)).collect() };
    let text = |of: fn(&NewEvent) -> Option<&str>| -> Vec<Option<&str>> {
        events.iter().map(|e| of(e)).collect()
    };
    let ids = column(|e| e.id.uuid());
    let tenants = column(|e| e.tenant_id.uuid());
    let versions: Vec<i64> = routes.iter().map(|route| route.version).collect();
    let types = text(|e| Some(e.event_type.as_str()));
    let payloads: Vec<&[u8]> = events.iter().map(|e| e.payload.as_ref()).collect();
    let channels: Vec<Option<String>> = events.iter().map(|e| e.channels_text()).collect();
    let sources = text(|e| e.source.as_ref().map(Source::as_str));
    let traces = text(|e| e.traceparent.as_ref().map(TraceParent::as_str));
    let keys: Vec<Option<Uuid>> = events
        .iter()
        .map(|e| e.idempotency.map(|i| i.key))
        .collect();
    let bodies: Vec<Option<Uuid>> = events
        .iter()
        .map(|e| e.idempotency.map(|i| i.body))
        .collect();

    let deliver_at: Vec<_> = events.iter().map(|e| e.options.deliver_at).collect();
    let expires_at: Vec<_> = events.iter().map(|e| e.options.expires_at).collect();
    let ordering_keys = text(|e| e.options.ordering_key.as_ref().map(OrderingKey::as_str));
    let content_types = text(|e| Some(e.content_type.as_str()));

    let queued = Queued::of(events, routes);
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![
        &ids,
        &tenants,
        &versions,
        &types,
        &payloads,
        &channels,
        &sources,
        &traces,
        &keys,
        &bodies,
        &deliver_at,
        &expires_at,
        &ordering_keys,
        &content_types,
        &queued.deliveries,
        &queued.events,
        &queued.endpoints,
        &queued.tenants,
    ];
    if queued.has_filter.contains(&true) {
        parameters.push(&queued.has_filter);
        let rows = connection.query(ACCEPT_FILTERED, &parameters).await?;
        return Ok(rows.iter().map(counted).collect());
    }
    let rows = connection.query(ACCEPT, &parameters).await?;
    let stored: HashSet<Uuid> = rows.iter().map(|row| row.get(0)).collect();
    let counted = events
        .iter()
        .zip(routes)
        .map(|(event, route)| (event.id.uuid(), route.recipients.len()));
    Ok(counted.filter(|(id, _)| stored.contains(id)).collect())
}

fn counted(row: &Row) -> (Uuid, usize) {
    let deliveries = usize::try_from(row.get::<_, i64>(1)).unwrap_or_default();
    (row.get(0), deliveries)
}

/// The deliveries that a batch's routes ask for, one array per column.
#[derive(Default)]
struct Queued {
    deliveries: Vec<Uuid>,
    events: Vec<Uuid>,
    endpoints: Vec<Uuid>,
    tenants: Vec<Uuid>,
    has_filter: Vec<bool>,
}

impl Queued {
    fn of(events: &[&NewEvent], routes: &[Route]) -> Self {
        let fan_out: usize = routes.iter().map(|route| route.recipients.len()).sum();
        let column = || Vec::with_capacity(fan_out);
        let mut queued = Self {
            deliveries: column(),
            events: column(),
            endpoints: column(),
            tenants: column(),
            has_filter: Vec::with_capacity(fan_out),
        };
        for (event, route) in events.iter().zip(routes) {
            for recipient in route.recipients.iter() {
                let delivery = DeliveryId::derive(event.id, recipient.endpoint);
                queued.deliveries.push(delivery.uuid());
                queued.events.push(event.id.uuid());
                queued.endpoints.push(recipient.endpoint.uuid());
                queued.tenants.push(event.tenant_id.uuid());
                queued.has_filter.push(recipient.has_filter);
            }
        }
        queued
    }
}

/// Finds out why the events that still lack a result were not stored: they were before (a repeated
/// batch, a used key), or their route was stale, which leaves `None`.
async fn recognise(
    connection: &Connection,
    events: &[&NewEvent],
    results: &mut [Option<Accepted>],
) -> Result<(), StoreError> {
    let open: Vec<usize> = (0..events.len())
        .filter(|&i| results[i].is_none())
        .collect();
    let keys: Vec<Uuid> = open
        .iter()
        .filter_map(|&i| events[i].idempotency.map(|idempotency| idempotency.key))
        .collect();
    let keyless: Vec<Uuid> = open
        .iter()
        .filter(|&&i| events[i].idempotency.is_none())
        .map(|&i| events[i].id.uuid())
        .collect();
    let by_key: HashMap<Uuid, (Uuid, Uuid)> = connection
        .query(FIND_KEYS, &[&keys])
        .await?
        .iter()
        .map(|row| (row.get(0), (row.get(1), row.get(2))))
        .collect();
    let by_id: HashSet<Uuid> = connection
        .query(FIND_EVENTS, &[&keyless])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let stored_before = |event: &NewEvent| match event.idempotency {
        None => by_id.contains(&event.id.uuid()),
        Some(idempotency) => by_key
            .get(&idempotency.key)
            .is_some_and(|&(first, _)| first == event.id.uuid()),
    };
    let repeated: Vec<Uuid> = open
        .iter()
        .filter(|&&i| stored_before(events[i]))
        .map(|&i| events[i].id.uuid())
        .collect();
    let deliveries: HashMap<Uuid, usize> = connection
        .query(COUNT_DELIVERIES, &[&repeated])
        .await?
        .iter()
        .map(counted)
        .collect();
    if !(by_key.is_empty() && by_id.is_empty()) {
        connection.execute(BE_SURE, &[]).await?;
    }
    for index in open {
        let event = events[index];
        results[index] = if let Some(&deliveries) = deliveries.get(&event.id.uuid()) {
            Some(Accepted::New { deliveries })
        } else {
            let used = event
                .idempotency
                .and_then(|own| Some((own, by_key.get(&own.key)?)));
            used.map(|(own, &(first, body))| {
                let first = EventId::from_uuid(first);
                if body == own.body {
                    Accepted::Repeated { first }
                } else {
                    Accepted::Conflict { first }
                }
            })
        };
    }
    Ok(())
}
