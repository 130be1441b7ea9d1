//! `/healthz`, `/readyz` and `/metrics`, on a listener of their own, which customers never see.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tower::Service as _;

use crate::connections;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

/// A probe, a scraper and somebody curious, a few times over. More wait in the listener's queue.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may take over its request's head.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a connection may last, whatever it does.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(60);

/// What must be true before a process can do its work. Cheap to clone.
#[derive(Clone, Default)]
pub struct Readiness {
    // Guards a map of a few entries; never held across an await.
    reasons: Arc<Mutex<BTreeMap<&'static str, Option<String>>>>,
}

/// One condition, in the hands of whoever knows about it.
#[derive(Clone)]
pub struct Condition {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// Adds a condition that is not met yet.
    pub fn condition(&self, name: &'static str) -> Condition {
        let condition = Condition {
            name,
            readiness: self.clone(),
        };
        condition.not_ready("starting");
        condition
    }

    /// What is missing, by condition. Ready when empty.
    pub fn missing(&self) -> BTreeMap<&'static str, String> {
        self.reasons
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter_map(|(name, reason)| Some((*name, reason.clone()?)))
            .collect()
    }
}

impl Condition {
    /// It is met.
    pub fn ready(&self) {
        self.set(None);
    }

    /// It is not met, and why.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    fn set(&self, reason: Option<String>) {
        let mut reasons = self
            .readiness
            .reasons
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = reasons.insert(self.name, reason.clone());
        drop(reasons);
        match (before.flatten(), reason) {
            (Some(_), None) => tracing::info!(condition = self.name, "ready"),
            (None, Some(reason)) => tracing::info!(condition = self.name, reason, "not ready"),
            _ => {}
        }
    }
}

#[derive(Clone)]
struct Shown {
    readiness: Readiness,
    metrics: Metrics,
}

/// Serves the probes until shutdown is requested.
///
/// # Errors
/// None: once it serves, nothing ends it but the shutdown.
pub async fn run(
    listener: TcpListener,
    readiness: Readiness,
    metrics: Metrics,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(render_metrics))
        .with_state(Shown { readiness, metrics });
    // Each ends after CONNECTION_TIME_MAX.
    let serve = |stream| answer(stream, router.clone());
    let mut open = connections::serve(listener, CONNECTIONS_MAX, &shutdown, serve).await;
    // Answers take no time; a connection that is still open is idle or stuck.
    open.shutdown().await;
    Ok(())
}

async fn answer(stream: TcpStream, router: Router) {
    let service = service_fn(move |request| router.clone().call(request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_TIME_MAX, connection).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a probe's connection failed"),
    }
}

async fn ready(State(shown): State<Shown>) -> Response {
    let missing = shown.readiness.missing();
    let status = if missing.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = serde_json::json!({ "ready": missing.is_empty(), "missing": missing });
    (status, Json(body)).into_response()
}

async fn render_metrics(State(shown): State<Shown>) -> Response {
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (kind, shown.metrics.render()).into_response()
}
