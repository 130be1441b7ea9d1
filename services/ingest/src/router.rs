//! Every route with its method and the scope it needs.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use http::Method;
use zyven_domain::api_key::Scope;

use crate::app::App;
use crate::exchange::Trail;
use crate::problem::{Code, Problem};
use crate::{
    api_keys, audit, cancel, deliveries, endpoints, event_types, events, explain, overview, replays,
};

/// The path of the one route that the exchange answers itself, when the method is POST.
pub(crate) const PUBLISH: &str = "/v1/events";
/// Likewise, for batches.
pub(crate) const PUBLISH_BATCH: &str = "/v1/events/batch";

/// A route of the API: what there is, and who may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its method.
    pub method: Method,
    /// Its path, with `{…}` where an id or a name stands.
    pub path: &'static str,
    /// What a key needs to get in.
    pub scope: Scope,
}

/// Every route there is, from the table that requests are routed by.
pub fn routes() -> Vec<Route> {
    let publish = Route {
        method: Method::POST,
        path: PUBLISH,
        scope: Scope::Publish,
    };
    fill(vec![publish])
}

/// Every other route, and the paths that requests are counted under.
pub(crate) fn router(app: &Arc<App>) -> (Router, Vec<&'static str>) {
    fill(Routes::new(app)).finish()
}

/// The table of routes. Limits on bodies stand in [`crate::config::Limits`].
#[rustfmt::skip] // One route per line.
fn fill<T: Table>(table: T) -> T {
    use MethodFilter as M;
    use Scope::{Manage, Publish, Read, Replay};
    table
        .add(M::GET,    PUBLISH,                            Read,    events::recent)
        .add(M::POST,   PUBLISH_BATCH,                      Publish, events::publish_batch)
        .add(M::GET,    "/v1/events/{id}",                  Read,    events::event)
        .add(M::GET,    "/v1/events/{id}/deliveries",       Read,    events::event_deliveries)
        .add(M::GET,    "/v1/events/{id}/explain",          Read,    explain::event)
        .add(M::POST,   "/v1/events/{id}/cancel",           Publish, cancel::event)
        .add(M::GET,    "/v1/deliveries",                   Read,    deliveries::list)
        .add(M::GET,    "/v1/deliveries/{id}",              Read,    deliveries::delivery)
        .add(M::GET,    "/v1/deliveries/{id}/attempts",     Read,    deliveries::attempts)
        .add(M::GET,    "/v1/deliveries/{id}/explain",      Read,    explain::delivery)
        .add(M::POST,   "/v1/deliveries/{id}/replay",       Replay,  deliveries::replay)
        .add(M::POST,   "/v1/deliveries/{id}/cancel",       Replay,  cancel::delivery)
        .add(M::POST,   "/v1/replays",                      Replay,  replays::begin)
        .add(M::GET,    "/v1/replays/{id}",                 Read,    replays::progress)
        .add(M::GET,    "/v1/endpoints",                    Read,    endpoints::list)
        .add(M::POST,   "/v1/endpoints",                    Manage,  endpoints::create)
        .add(M::GET,    "/v1/endpoints/{id}",               Read,    endpoints::endpoint)
        .add(M::PATCH,  "/v1/endpoints/{id}",               Manage,  endpoints::change)
        .add(M::DELETE, "/v1/endpoints/{id}",               Manage,  endpoints::delete)
        .add(M::POST,   "/v1/endpoints/{id}/enable",        Manage,  endpoints::enable)
        .add(M::POST,   "/v1/endpoints/{id}/disable",       Manage,  endpoints::disable)
        .add(M::POST,   "/v1/endpoints/{id}/pause",         Manage,  endpoints::pause)
        .add(M::POST,   "/v1/endpoints/{id}/resume",        Manage,  endpoints::resume)
        .add(M::POST,   "/v1/endpoints/{id}/test",          Manage,  endpoints::test)
        .add(M::GET,    "/v1/endpoints/{id}/secret",        Manage,  endpoints::secret)
        .add(M::GET,    "/v1/endpoints/{id}/public-key",    Read,    endpoints::public_key)
        .add(M::POST,   "/v1/endpoints/{id}/rotate-secret", Manage,  endpoints::rotate_secret)
        .add(M::GET,    "/v1/event-types",                  Read,    event_types::list)
        .add(M::POST,   "/v1/event-types",                  Manage,  event_types::create)
        .add(M::GET,    "/v1/event-types/{name}",           Read,    event_types::event_type)
        .add(M::PATCH,  "/v1/event-types/{name}",           Manage,  event_types::change)
        .add(M::DELETE, "/v1/event-types/{name}",           Manage,  event_types::archive)
        .add(M::GET,    "/v1/api-keys",                     Manage,  api_keys::list)
        .add(M::POST,   "/v1/api-keys",                     Manage,  api_keys::create)
        .add(M::GET,    "/v1/api-keys/current",             Read,    overview::current_key)
        .add(M::DELETE, "/v1/api-keys/{id}",                Manage,  api_keys::revoke)
        .add(M::GET,    "/v1/audit-log",                    Manage,  audit::list)
        .add(M::GET,    "/v1/statistics",                   Read,    overview::statistics)
}

/// What the table of routes is written into.
trait Table: Sized {
    /// A route whose handler finds the [`crate::auth::Caller`] in the request's extensions.
    fn add<H, T>(self, method: MethodFilter, path: &'static str, scope: Scope, handler: H) -> Self
    where
        H: Handler<T, Arc<App>>,
        T: 'static;
}

impl Table for Vec<Route> {
    fn add<H, T>(mut self, method: MethodFilter, path: &'static str, scope: Scope, _: H) -> Self
    where
        H: Handler<T, Arc<App>>,
        T: 'static,
    {
        const METHODS: [(MethodFilter, Method); 5] = [
            (MethodFilter::GET, Method::GET),
            (MethodFilter::POST, Method::POST),
            (MethodFilter::PUT, Method::PUT),
            (MethodFilter::PATCH, Method::PATCH),
            (MethodFilter::DELETE, Method::DELETE),
        ];
        let known = METHODS.into_iter().find(|(filter, _)| *filter == method);
        let (_, method) = known.expect("the table has no other methods");
        self.push(Route {
            method,
            path,
            scope,
        });
        self
    }
}

struct Routes {
    app: Arc<App>,
    router: Router<Arc<App>>,
    paths: Vec<&'static str>,
}

impl Routes {
    fn new(app: &Arc<App>) -> Self {
        Self {
            app: Arc::clone(app),
            router: Router::new(),
            paths: Vec::new(),
        }
    }

    /// The router, and the paths that requests are counted under.
    fn finish(self) -> (Router, Vec<&'static str>) {
        let router = self
            .router
            // POST never comes here; other methods learn what there is.
            .route(PUBLISH, on(MethodFilter::POST, no_such_route))
            .fallback(no_such_route)
            .method_not_allowed_fallback(other_method)
            .with_state(self.app);
        (router, self.paths)
    }
}

impl Table for Routes {
    fn add<H, T>(
        mut self,
        method: MethodFilter,
        path: &'static str,
        scope: Scope,
        handler: H,
    ) -> Self
    where
        H: Handler<T, Arc<App>>,
        T: 'static,
    {
        let guard = Guard {
            app: Arc::clone(&self.app),
            path,
            scope,
        };
        let guarded = on(method, handler).route_layer(middleware::from_fn_with_state(guard, admit));
        self.paths.push(path);
        Self {
            router: self.router.route(path, guarded),
            ..self
        }
    }
}

#[derive(Clone)]
struct Guard {
    app: Arc<App>,
    path: &'static str,
    scope: Scope,
}

/// Lets a request through to its handler if its key is good and has the scope.
async fn admit(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let mut trail = Trail::on(guard.path);
    let keys = &guard.app.keys;
    let mut response = match keys.authenticate(request.headers(), guard.scope).await {
        Ok(caller) => {
            trail.tenant = Some(caller.tenant);
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };
    response.extensions_mut().insert(trail);
    response
}

async fn no_such_route() -> Problem {
    Problem::not_found("route")
}

async fn other_method(method: Method) -> Problem {
    Problem::new(
        Code::MethodNotAllowed,
        format!("{method} does not apply here; see Allow."),
    )
}
