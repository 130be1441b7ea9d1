//! Which endpoints get an event: `zyven.route` in SQL, remembered here.
//!
//! What is remembered is used only together with the tenant's routing version, which the statement
//! that stores the event compares again. So a cached route is as true as a query in that statement
//! would have been, and costs a thirtieth of it (ADR 0004).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;
use zyven_domain::event::{Channel, EventType};
use zyven_domain::id::{EndpointId, TenantId};

use crate::{NewEvent, Store, StoreError};

/// A tenant's routes are forgotten when it has used more (type, channels) pairs than this.
const ROUTES_PER_TENANT_MAX: usize = 4096;
/// All routes are forgotten when more tenants than this were seen.
const TENANTS_MAX: usize = 16_384;

/// A route as of one version of its tenant's configuration.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) version: i64,
    pub(crate) recipients: Arc<[Recipient]>,
}

/// An endpoint that subscribes to an event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recipient {
    pub(crate) endpoint: EndpointId,
    /// True if it gets the event only if its filter admits the payload.
    pub(crate) has_filter: bool,
    /// True if that filter may go through all elements of something, and so through the whole payload.
    pub(crate) walks: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct RouteKey {
    event_type: EventType,
    channels: Vec<Channel>,
}

#[derive(Default)]
struct TenantRoutes {
    version: i64,
    routes: HashMap<RouteKey, Arc<[Recipient]>>,
}

/// Remembered routes. The lock guards a map and is never held across an await.
#[derive(Default)]
pub(crate) struct Routes {
    tenants: Mutex<HashMap<TenantId, TenantRoutes>>,
}

impl Routes {
    /// What is known of each event's route. Read under one lock: those of one tenant are of one version.
    fn known(&self, events: &[&NewEvent]) -> Vec<Option<Route>> {
        let tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |event: &&NewEvent| {
            let tenant = tenants.get(&event.tenant_id)?;
            let recipients = tenant.routes.get(&RouteKey::of(event))?;
            Some(Route {
                version: tenant.version,
                recipients: Arc::clone(recipients),
            })
        };
        events.iter().map(known).collect()
    }

    fn put(&self, event: &NewEvent, route: &Route) {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if tenants.len() >= TENANTS_MAX && !tenants.contains_key(&event.tenant_id) {
            tenants.clear();
        }
        let tenant = tenants.entry(event.tenant_id).or_default();
        if tenant.version != route.version || tenant.routes.len() >= ROUTES_PER_TENANT_MAX {
            tenant.routes.clear();
            tenant.version = route.version;
        }
        tenant
            .routes
            .insert(RouteKey::of(event), Arc::clone(&route.recipients));
    }

    pub(crate) fn forget(&self, tenant: TenantId) {
        self.tenants
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&tenant);
    }
}

impl RouteKey {
    fn of(event: &NewEvent) -> Self {
        Self {
            event_type: event.event_type.clone(),
            channels: event.channels.clone(),
        }
    }
}

/// One row per question, in order; version and route are read by one snapshot.
const ROUTE: &str = "
    SELECT v.version, r.endpoints, r.filtered, r.walking
      FROM unnest($1::uuid[], $2::text[], $3::text[])
               WITH ORDINALITY AS i (tenant_id, event_type, channels, number)
      JOIN zyven.routing_versions v ON v.tenant_id = i.tenant_id
     CROSS JOIN LATERAL (
           SELECT coalesce(array_agg(e.endpoint_id), '{}'),
                  coalesce(array_agg(e.filter IS NOT NULL), '{}'),
                  coalesce(array_agg(e.filter IS NOT NULL AND position('*' IN e.filter) > 0), '{}')
             FROM zyven.routes(i.tenant_id, i.event_type, string_to_array(i.channels, ',')) AS e
           ) AS r (endpoints, filtered, walking)
     ORDER BY i.number";

/// What asking one filter costs beside going through the payload, in bytes that are gone through in that time.
const FILTER_BYTES: u64 = 32;

impl Store {
    /// What the filters of the endpoints that subscribe to an event will have to go through when it is accepted, in bytes,
    /// for each of `events`: a measure of the time that takes, at most some 80 ns for each (ADR 0028).
    ///
    /// # Errors
    /// PostgreSQL could not be asked.
    pub async fn filter_work(&self, events: &[&NewEvent]) -> Result<Vec<u64>, StoreError> {
        let routes = self.routes(events).await?;
        let work = events.iter().zip(routes).map(|(event, route)| {
            let bytes = event.payload.len() as u64;
            let filters = route.recipients.iter().filter(|r| r.has_filter);
            filters
                .map(|r| FILTER_BYTES + if r.walks { bytes } else { 0 })
                .sum()
        });
        Ok(work.collect())
    }

    /// The route of each event, in order. Those of one tenant are of one version, so that its events
    /// are stored together or not at all.
    pub(crate) async fn routes(&self, events: &[&NewEvent]) -> Result<Vec<Route>, StoreError> {
        let mut routes = self.routes.known(events);
        let unknown: Vec<usize> = (0..events.len()).filter(|&i| routes[i].is_none()).collect();
        if unknown.is_empty() {
            return Ok(routes.into_iter().flatten().collect());
        }
        self.fill(events, &unknown, &mut routes).await?;
        // What was remembered may be older than what has just been read.
        let read: HashMap<TenantId, i64> = unknown
            .iter()
            .filter_map(|&i| Some((events[i].tenant_id, routes[i].as_ref()?.version)))
            .collect();
        let is_other = |i: usize| {
            let version = routes[i].as_ref().map(|route| route.version);
            let read = read.get(&events[i].tenant_id).copied();
            read.is_some() && read != version
        };
        let changed: HashSet<TenantId> = (0..events.len())
            .filter(|&i| is_other(i))
            .map(|i| events[i].tenant_id)
            .collect();
        if !changed.is_empty() {
            let again: Vec<usize> = (0..events.len())
                .filter(|&i| changed.contains(&events[i].tenant_id))
                .collect();
            self.fill(events, &again, &mut routes).await?;
        }
        Ok(routes.into_iter().flatten().collect())
    }

    async fn fill(
        &self,
        events: &[&NewEvent],
        wanted: &[usize],
        routes: &mut [Option<Route>],
    ) -> Result<(), StoreError> {
        let loaded = self.load_routes(events, wanted).await?;
        for (&index, route) in wanted.iter().zip(loaded) {
            self.routes.put(events[index], &route);
            routes[index] = Some(route);
        }
        Ok(())
    }

    async fn load_routes(
        &self,
        events: &[&NewEvent],
        wanted: &[usize],
    ) -> Result<Vec<Route>, StoreError> {
        const DOING: &str = "reading routes";
        let tenants: Vec<Uuid> = wanted.iter().map(|&i| events[i].tenant_id.uuid()).collect();
        let types: Vec<&str> = wanted
            .iter()
            .map(|&i| events[i].event_type.as_str())
            .collect();
        let channels: Vec<Option<String>> =
            wanted.iter().map(|&i| events[i].channels_text()).collect();
        let connection = self.durable(DOING).await?;
        let rows = connection
            .query(ROUTE, &[&tenants, &types, &channels])
            .await?;
        if rows.len() != wanted.len() {
            return Err(StoreError::Unreadable {
                doing: DOING,
                what: "a tenant without a routing version".to_owned(),
            });
        }
        Ok(rows
            .iter()
            .map(|row| Route {
                version: row.get(0),
                recipients: row
                    .get::<_, Vec<Uuid>>(1)
                    .into_iter()
                    .zip(row.get::<_, Vec<bool>>(2))
                    .zip(row.get::<_, Vec<bool>>(3))
                    .map(|((endpoint, has_filter), walks)| Recipient {
                        endpoint: EndpointId::from_uuid(endpoint),
                        has_filter,
                        walks,
                    })
                    .collect(),
            })
            .collect())
    }
}
