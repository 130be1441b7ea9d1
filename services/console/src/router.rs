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

/// The page, for whoever has a session; where it leads is the page's own affair (`/#/events/evt_…`).
async fn page(State(app): State<Arc<App>>, request_headers: HeaderMap) -> Response {
    let token = login::token(&request_headers, &app.config);
    let key = token.and_then(|token| app.sessions.key(&token, Doing::Person));
    match key {
        Some(_) => assets::page(),
        None => Redirect::to("/login").into_response(),
    }
}

/// The page for whoever brings a view link, behind the `#`, which does not come here. Nobody has one where nobody may frame it.
async fn embedded(State(app): State<Arc<App>>, uri: Uri) -> Response {
    match app.config.frame_ancestors {
        Some(_) => assets::embedded(uri.query().unwrap_or_default()),
        None => StatusCode::NOT_FOUND.into_response(),
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
