//! The server behind the paths.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::Service;

use super::Readiness;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

/// A probe, a scraper and somebody curious, a few times over. More wait in the listener's queue.
const CONNECTIONS_MAX: usize = 64;

/// How long a connection may take over its request's head.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a connection may last, whatever it does: one that does not read its answer must not keep its
/// place.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(60);

/// Pause after a failure to accept, which is mostly a lack of file descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Answers on this listener until the shutdown is asked for. Stop it last: until then it tells that the
/// process is about to end. It cannot fail; the result is what a supervisor wants.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: Metrics,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let router = router(readiness, metrics);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        // Every arm may be dropped: an acquired place is given back, and an accepted connection is not
        // dropped because nothing is awaited behind it.
        let (place, accepted) = tokio::select! {
            () = shutdown.requested() => break,
            Some(_) = connections.join_next() => continue,
            both = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, listener.accept().await)
            } => both,
        };
        match accepted {
            Ok((stream, _)) => {
                let router = router.clone();
                // Ends with its connection, after CONNECTION_TIME_MAX, or with the set.
                connections.spawn(async move {
                    answer(stream, router).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a probe's connection");
                sleep(ACCEPT_REST).await;
            }
        }
    }
    // Answers take no time; a connection that is still open is idle or stuck.
    connections.shutdown().await;
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

fn router(readiness: Readiness, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(|| async { Json(json!({"status": "ok"})) }))
        .route("/readyz", get(ready).with_state(readiness))
        .route("/metrics", get(render).with_state(metrics))
}

async fn ready(State(readiness): State<Readiness>) -> impl IntoResponse {
    let reasons = readiness.reasons();
    if reasons.is_empty() {
        return (StatusCode::OK, Json(json!({"status": "ready"})));
    }
    let reasons: Map<String, Value> = reasons
        .into_iter()
        .map(|(name, reason)| (name.to_owned(), Value::from(reason)))
        .collect();
    let answer = json!({"status": "not ready", "reasons": reasons});
    (StatusCode::SERVICE_UNAVAILABLE, Json(answer))
}

async fn render(State(metrics): State<Metrics>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)],
        metrics.render(),
    )
}
