//! T0: an event, its idempotency key and one outbox row per matching endpoint, in one statement.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use uuid::Uuid;
use zyven_domain::event::{Channel, EventType, Fingerprint, Source, TraceParent};
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
    /// Sorted, without repetitions.
    pub channels: Vec<Channel>,
    /// Where it comes from.
    pub source: Option<Source>,
    /// The publisher's trace.
    pub traceparent: Option<TraceParent>,
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

/// `$1..$10`: one array per column, one element per event; `$11..$14`: one element per delivery.
///
/// An event is stored only if its tenant's routing version is still the one its route was read
/// with, and only if its key is new. `ORDER BY key` keeps two batches with common keys from
/// deadlocking. Outbox rows are made from the events just inserted, so the transaction owns an xid
/// before it draws a sequence number; the relay's gap ledger depends on that.
const ACCEPT: &str = "
    WITH input AS MATERIALIZED (
        SELECT i.*
          FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::bytea[],
                      $6::text[], $7::text[], $8::text[], $9::uuid[], $10::uuid[])
                   AS i (id, tenant_id, version, type, payload, channels, source, traceparent, key, body)
          JOIN zyven.routing_versions v ON v.tenant_id = i.tenant_id AND v.version = i.version
    ), keyed AS (
        INSERT INTO zyven.idempotency_keys (key, event_id, body)
        SELECT key, id, body
          FROM input
         WHERE key IS NOT NULL
         ORDER BY key
        ON CONFLICT (key) DO NOTHING
        RETURNING event_id
    ), accepted AS (
        INSERT INTO zyven.events (id, tenant_id, type, payload, channels, source, traceparent)
        SELECT id, tenant_id, type, payload, string_to_array(channels, ','), source, traceparent
          FROM input
         WHERE key IS NULL
            OR id IN (SELECT event_id FROM keyed)
        ON CONFLICT (id) DO NOTHING
        RETURNING id
    ), queued AS (
        INSERT INTO zyven.outbox (delivery_id, event_id, endpoint_id, tenant_id)
        SELECT o.delivery_id, a.id, o.endpoint_id, o.tenant_id
          FROM accepted a
          JOIN unnest($11::uuid[], $12::uuid[], $13::uuid[], $14::uuid[])
                   AS o (delivery_id, event_id, endpoint_id, tenant_id) ON o.event_id = a.id
    )
    SELECT id FROM accepted";

/// The events of a batch that were not stored just now, as far as they were stored before.
const FIND_KEYS: &str = "
    SELECT key, event_id, body
      FROM zyven.idempotency_keys
     WHERE key = ANY ($1)";
const FIND_EVENTS: &str = "
    SELECT id
      FROM zyven.events
     WHERE id = ANY ($1)";

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
            .zip(routes)
            .map(|(event, route)| {
                stored.contains(&event.id.uuid()).then_some(Accepted::New {
                    deliveries: route.endpoints.len(),
                })
            })
            .collect();
        if stored.len() < events.len() {
            recognise(&connection, events, routes, &mut results).await?;
        }
        Ok(results)
    }
}

async fn insert_rows(
    connection: &Connection,
    events: &[&NewEvent],
    routes: &[Route],
) -> Result<HashSet<Uuid>, StoreError> {
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

    let fan_out: usize = routes.iter().map(|route| route.endpoints.len()).sum();
    let mut deliveries: [Vec<Uuid>; 4] = std::array::from_fn(|_| Vec::with_capacity(fan_out));
    for (event, route) in events.iter().zip(routes) {
        for endpoint in route.endpoints.iter() {
            let delivery = DeliveryId::derive(event.id, *endpoint);
            deliveries[0].push(delivery.uuid());
            deliveries[1].push(event.id.uuid());
            deliveries[2].push(endpoint.uuid());
            deliveries[3].push(event.tenant_id.uuid());
        }
    }
    let rows = connection
        .query(
            ACCEPT,
            &[
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
                &deliveries[0],
                &deliveries[1],
                &deliveries[2],
                &deliveries[3],
            ],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Finds out why the events that still lack a result were not stored: they were before (a repeated
/// batch, a used key), or their route was stale, which leaves `None`.
async fn recognise(
    connection: &Connection,
    events: &[&NewEvent],
    routes: &[Route],
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
    for index in open {
        let event = events[index];
        let new = Accepted::New {
            deliveries: routes[index].endpoints.len(),
        };
        results[index] = match event.idempotency {
            None => by_id.contains(&event.id.uuid()).then_some(new),
            Some(idempotency) => by_key.get(&idempotency.key).map(|&(first, body)| {
                let first = EventId::from_uuid(first);
                if first == event.id {
                    new
                } else if body == idempotency.body {
                    Accepted::Repeated { first }
                } else {
                    Accepted::Conflict { first }
                }
            }),
        };
    }
    Ok(())
}
