//! Every route of the console on one screen.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{any, get, post};
use http::{HeaderMap, StatusCode};

use crate::sessions::Doing;
use crate::{App, assets, gate, headers, login};

/// All that is answered.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(page))
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

async fn secured(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    headers::secure(response.headers_mut(), app.config.is_behind_tls());
    response
}
