//! Every route with its method, the scope it needs, and the operation that says what it does.

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
use crate::openapi::{self, Operation};
use crate::pages::Query;
use crate::problem::{Code, Problem};
use crate::rates::Counted;
use crate::{
    api_keys, audit, cancel, deliveries, endpoints, event_types, events, explain, overview,
    replays, view_links,
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
    /// What a key needs to get in; none if any good key will do.
    pub scope: Option<Scope>,
}

/// Every route there is, from the table that requests are routed by.
pub fn routes() -> Vec<Route> {
    let routes = described().into_iter();
    routes.map(|(route, _)| route).collect()
}

/// Every route with what it does.
pub(crate) fn described() -> Vec<(Route, Operation)> {
    let publish = Route {
        method: Method::POST,
        path: PUBLISH,
        scope: Some(Scope::Publish),
    };
    fill(vec![(publish, events::operations::publish())])
}

/// Every other route, and the paths that requests are counted under.
pub(crate) fn router(app: &Arc<App>) -> (Router, Vec<&'static str>) {
    fill(Routes::new(app))
        .open(openapi::DOCUMENT, openapi::send_document)
        .open(openapi::REFERENCE, openapi::send_reference)
        .finish()
}

/// The table of routes. Limits on bodies stand in [`crate::config::Limits`].
#[rustfmt::skip] // One route per line.
fn fill<T: Table>(table: T) -> T {
    use MethodFilter as M;
    use Scope::{Manage, Publish, Read, Replay};
    const ANY_KEY: Option<Scope> = None;
    table
        .add(M::GET,    PUBLISH,                            Read,    events::recent,           events::operations::recent)
        .add(M::POST,   PUBLISH_BATCH,                      Publish, events::publish_batch,    events::operations::publish_batch)
        .add(M::GET,    "/v1/events/{id}",                  Read,    events::event,            events::operations::event)
        .add(M::GET,    "/v1/events/{id}/deliveries",       Read,    events::event_deliveries, events::operations::event_deliveries)
        .add(M::GET,    "/v1/events/{id}/explain",          Read,    explain::event,           explain::operations::event)
        .add(M::POST,   "/v1/events/{id}/cancel",           Publish, cancel::event,            cancel::operations::event)
        .add(M::GET,    "/v1/deliveries",                   Read,    deliveries::list,         deliveries::operations::list)
        .add(M::GET,    "/v1/deliveries/{id}",              Read,    deliveries::delivery,     deliveries::operations::delivery)
        .add(M::GET,    "/v1/deliveries/{id}/attempts",     Read,    deliveries::attempts,     deliveries::operations::attempts)
        .add(M::GET,    "/v1/deliveries/{id}/explain",      Read,    explain::delivery,        explain::operations::delivery)
        .add(M::POST,   "/v1/deliveries/{id}/replay",       Replay,  deliveries::replay,       deliveries::operations::replay)
        .add(M::POST,   "/v1/deliveries/{id}/cancel",       Replay,  cancel::delivery,         cancel::operations::delivery)
        .add(M::POST,   "/v1/replays",                      Replay,  replays::begin,           replays::operations::begin)
        .add(M::GET,    "/v1/replays/{id}",                 Read,    replays::progress,        replays::operations::progress)
        .add(M::GET,    "/v1/endpoints",                    Read,    endpoints::list,          endpoints::operations::list)
        .add(M::POST,   "/v1/endpoints",                    Manage,  endpoints::create,        endpoints::operations::create)
        .add(M::GET,    "/v1/endpoints/{id}",               Read,    endpoints::endpoint,      endpoints::operations::endpoint)
        .add(M::PATCH,  "/v1/endpoints/{id}",               Manage,  endpoints::change,        endpoints::operations::change)
        .add(M::DELETE, "/v1/endpoints/{id}",               Manage,  endpoints::delete,        endpoints::operations::delete)
        .add(M::POST,   "/v1/endpoints/{id}/enable",        Manage,  endpoints::enable,        endpoints::operations::enable)
        .add(M::POST,   "/v1/endpoints/{id}/disable",       Manage,  endpoints::disable,       endpoints::operations::disable)
        .add(M::POST,   "/v1/endpoints/{id}/pause",         Manage,  endpoints::pause,         endpoints::operations::pause)
        .add(M::POST,   "/v1/endpoints/{id}/resume",        Manage,  endpoints::resume,        endpoints::operations::resume)
        .add(M::POST,   "/v1/endpoints/{id}/test",          Manage,  endpoints::test,          endpoints::operations::test)
        .add(M::GET,    "/v1/endpoints/{id}/secret",        Manage,  endpoints::secret,        endpoints::operations::secret)
        .add(M::GET,    "/v1/endpoints/{id}/public-key",    Read,    endpoints::public_key,    endpoints::operations::public_key)
        .add(M::POST,   "/v1/endpoints/{id}/rotate-secret", Manage,  endpoints::rotate_secret, endpoints::operations::rotate_secret)
        .add(M::GET,    "/v1/event-types",                  Read,    event_types::list,        event_types::operations::list)
        .add(M::POST,   "/v1/event-types",                  Manage,  event_types::create,      event_types::operations::create)
        .add(M::GET,    "/v1/event-types/{name}",           Read,    event_types::event_type,  event_types::operations::event_type)
        .add(M::PATCH,  "/v1/event-types/{name}",           Manage,  event_types::change,      event_types::operations::change)
        .add(M::DELETE, "/v1/event-types/{name}",           Manage,  event_types::archive,     event_types::operations::archive)
        .add(M::GET,    "/v1/api-keys",                     Manage,  api_keys::list,           api_keys::operations::list)
        .add(M::POST,   "/v1/api-keys",                     Manage,  api_keys::create,         api_keys::operations::create)
        .add(M::GET,    "/v1/api-keys/current",             ANY_KEY, overview::current_key,    overview::operations::current_key)
        .add(M::DELETE, "/v1/api-keys/{id}",                Manage,  api_keys::revoke,         api_keys::operations::revoke)
        .add(M::POST,   "/v1/view-links",                   Manage,  view_links::create,       view_links::operations::create)
        .add(M::GET,    "/v1/audit-log",                    Manage,  audit::list,              audit::operations::list)
        .add(M::GET,    "/v1/statistics",                   Read,    overview::statistics,     overview::operations::statistics)
}

/// What the table of routes is written into.
trait Table: Sized {
    /// A route whose handler finds the [`crate::auth::Caller`] in the request's extensions, and does what the operation says.
    fn add<H, T>(
        self,
        method: MethodFilter,
        path: &'static str,
        scope: impl Into<Option<Scope>>,
        handler: H,
        operation: fn() -> Operation,
    ) -> Self
    where
        H: Handler<T, Arc<App>>,
        T: 'static;
}

impl Table for Vec<(Route, Operation)> {
    fn add<H, T>(
        mut self,
        method: MethodFilter,
        path: &'static str,
        scope: impl Into<Option<Scope>>,
        _: H,
        operation: fn() -> Operation,
    ) -> Self
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
        let route = Route {
            method,
            path,
            scope: scope.into(),
        };
        self.push((route, operation()));
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
        let empty = Self {
            app: Arc::clone(app),
            router: Router::new(),
            paths: Vec::new(),
        };
        // POST comes here with parameters only, of which it has none; and other methods learn that there is one.
        empty.add(
            MethodFilter::POST,
            PUBLISH,
            Scope::Publish,
            no_such_route,
            events::operations::publish,
        )
    }

    /// What anybody may read.
    fn open<H, T>(mut self, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, Arc<App>>,
        T: 'static,
    {
        let counted = middleware::map_response(move |mut response: Response| async move {
            response.extensions_mut().insert(Trail::on(path));
            response
        });
        let route = on(MethodFilter::GET, handler).route_layer(counted);
        self.paths.push(path);
        Self {
            router: self.router.route(path, route),
            ..self
        }
    }

    /// The router, and the paths that requests are counted under.
    fn finish(self) -> (Router, Vec<&'static str>) {
        let router = self
            .router
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
        scope: impl Into<Option<Scope>>,
        handler: H,
        operation: fn() -> Operation,
    ) -> Self
    where
        H: Handler<T, Arc<App>>,
        T: 'static,
    {
        let operation = operation();
        let guard = Guard {
            app: Arc::clone(&self.app),
            path,
            scope: scope.into(),
            counted: match path {
                PUBLISH_BATCH => Counted::Events,
                _ => Counted::Requests,
            },
            parameters: match operation.takes_parameters() {
                true => Part::ReadByHandler,
                false => Part::Refused,
            },
            body: match operation.refuses_a_body() {
                true => Part::Refused,
                false => Part::ReadByHandler,
            },
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
    scope: Option<Scope>,
    counted: Counted,
    /// What stands behind the question mark.
    parameters: Part,
    body: Part,
}

/// Who looks at a part of a request.
#[derive(Clone, Copy)]
enum Part {
    ReadByHandler,
    /// Nothing is known that could stand there, so whatever does is one thing too many.
    Refused,
}

/// Lets a request through to its handler if its key is good and has the scope, and if it has no more than it may have.
async fn admit(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let mut trail = Trail::on(guard.path);
    let keys = &guard.app.keys;
    let mut response = match keys.authenticate(request.headers(), guard.scope).await {
        Ok(caller) => {
            trail.tenant = Some(caller.tenant);
            trail.limit = guard.app.rates.limit(&caller, guard.counted);
            request.extensions_mut().insert(caller);
            let admitted = match guard.app.rates.take(trail.limit.as_ref()) {
                Ok(()) => guard.look_over(request).await,
                Err(problem) => Err(problem),
            };
            match admitted {
                Ok(request) => next.run(request).await,
                Err(problem) => problem.into_response(),
            }
        }
        Err(problem) => problem.into_response(),
    };
    response.extensions_mut().insert(trail);
    response
}

impl Guard {
    /// The request, if it has nothing that nobody would look at.
    async fn look_over(&self, request: Request) -> Result<Request, Problem> {
        match self.parameters {
            Part::ReadByHandler => {}
            Part::Refused => Query::of(&request).finish()?,
        }
        match self.body {
            Part::ReadByHandler => Ok(request),
            Part::Refused => self.app.receive_nothing(request).await,
        }
    }
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
