//! Every route of the console on one screen.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{any, get, post};
use http::{HeaderMap, StatusCode, Uri};

use crate::headers::FramedBy;
use crate::sessions::Doing;
use crate::{App, assets, gate, headers, login};

/// The one page that others may frame.
const EMBEDDED: &str = "/embed";

/// What is said instead of it where nobody may.
const NOT_EMBEDDED: &str = "There is no embedded view here: ZYVEN_CONSOLE_FRAME_ANCESTORS has to name the pages that may show it.\n";

/// All that is answered.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(page))
        .route(EMBEDDED, get(embedded))
        .route("/login", get(login::form).post(login::log_in))
        .route("/logout", post(login::log_out))
        .route("/assets/{name}", get(assets::asset))
        .route("/api/{*path}", any(gate::pass))
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(middleware::from_fn_with_state(Arc::clone(&app), secured))
        .with_state(app)
}

/// The page, for whoever has a session; where it leads is the page's own affair (`/#/event/evt_…`), and a browser keeps that part of
/// the address when it is sent to the login.
async fn page(State(app): State<Arc<App>>, request_headers: HeaderMap) -> Response {
    let token = login::token(&request_headers, &app.config);
    let has_session = |token| app.sessions.key(token, Doing::Person).is_some();
    match &token {
        Some(token) if has_session(token) => assets::page(),
        Some(_) => Redirect::to(login::AFTER_THE_END).into_response(),
        None => Redirect::to("/login").into_response(),
    }
}

/// The page for whoever brings a view link, behind the `#`, which does not come here. Nobody has one where nobody may frame it.
async fn embedded(State(app): State<Arc<App>>, uri: Uri) -> Response {
    match app.config.frame_ancestors {
        Some(_) => assets::embedded(uri.query().unwrap_or_default()),
        None => (StatusCode::NOT_FOUND, NOT_EMBEDDED).into_response(),
    }
}

async fn secured(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let framed_by = match &app.config.frame_ancestors {
        Some(these) if request.uri().path() == EMBEDDED => FramedBy::These(these),
        Some(_) | None => FramedBy::Nobody,
    };
    let mut response = next.run(request).await;
    let is_behind_tls = app.config.is_behind_tls();
    headers::secure(response.headers_mut(), framed_by, is_behind_tls);
    response
}
