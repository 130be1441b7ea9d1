//! Which endpoints get an event: `zyven.route` in SQL, remembered here.
//!
//! What is remembered is used only together with the tenant's routing version, which the statement
//! that stores the event compares again. So a cached route is as true as a query in that statement
//! would have been, and costs a thirtieth of it (ADR 0004).

use std::collections::HashMap;
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
    pub(crate) endpoints: Arc<[EndpointId]>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct RouteKey {
    event_type: EventType,
    channels: Vec<Channel>,
}

#[derive(Default)]
struct TenantRoutes {
    version: i64,
    routes: HashMap<RouteKey, Arc<[EndpointId]>>,
}

/// Remembered routes. The lock guards a map and is never held across an await.
#[derive(Default)]
pub(crate) struct Routes {
    tenants: Mutex<HashMap<TenantId, TenantRoutes>>,
}

impl Routes {
    fn get(&self, event: &NewEvent) -> Option<Route> {
        let tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let tenant = tenants.get(&event.tenant_id)?;
        let endpoints = tenant.routes.get(&RouteKey::of(event))?;
        Some(Route {
            version: tenant.version,
            endpoints: Arc::clone(endpoints),
        })
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
            .insert(RouteKey::of(event), Arc::clone(&route.endpoints));
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
    SELECT v.version,
           ARRAY(SELECT zyven.route(i.tenant_id, i.event_type, string_to_array(i.channels, ',')))
      FROM unnest($1::uuid[], $2::text[], $3::text[])
               WITH ORDINALITY AS i (tenant_id, event_type, channels, number)
      JOIN zyven.routing_versions v ON v.tenant_id = i.tenant_id
     ORDER BY i.number";

impl Store {
    /// The route of each event, in order.
    pub(crate) async fn routes(&self, events: &[&NewEvent]) -> Result<Vec<Route>, StoreError> {
        let mut routes: Vec<Option<Route>> = events.iter().map(|e| self.routes.get(e)).collect();
        let unknown: Vec<usize> = (0..events.len()).filter(|&i| routes[i].is_none()).collect();
        if !unknown.is_empty() {
            let loaded = self.load_routes(events, &unknown).await?;
            for (index, route) in unknown.into_iter().zip(loaded) {
                self.routes.put(events[index], &route);
                routes[index] = Some(route);
            }
        }
        Ok(routes.into_iter().flatten().collect())
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
                endpoints: row
                    .get::<_, Vec<Uuid>>(1)
                    .into_iter()
                    .map(EndpointId::from_uuid)
                    .collect(),
            })
            .collect())
    }
}
