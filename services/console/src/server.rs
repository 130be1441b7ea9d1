//! Connections: accepted up to a limit, served by hyper, finished gracefully.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::Service as _;
use zyven_runtime::shutdown::Shutdown;

/// Most open connections. A browser opens six; more wait in the listener's queue.
pub const CONNECTIONS_MAX: usize = 1_024;
/// How long requests in flight may go on after the console was asked to stop: longer than the API may take.
pub const GRACE: Duration = Duration::from_secs(16);
/// How long a client may take over a request's head, silence between two requests included.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a connection is kept: what is under way then has [`GRACE`], for a client that takes nothing of an
/// answer holds its place.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(300);
/// Largest head of a request.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Pause after a failure to accept, which is mostly a lack of file descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Serves connections until shutdown is requested; returns when all have ended, or after [`GRACE`].
pub(crate) async fn serve(listener: TcpListener, router: Router, shutdown: &Shutdown) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        // Every arm may be dropped: a place is given back, and nothing is awaited behind an accept.
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
                let (router, stop) = (router.clone(), shutdown.clone());
                // Ends with its connection, GRACE after CONNECTION_TIME_MAX, or with the set.
                connections.spawn(async move {
                    answer(stream, router, stop).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                sleep(ACCEPT_REST).await;
            }
        }
    }
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if timeout(GRACE, all_ended).await.is_err() {
        connections.shutdown().await;
    }
}

async fn answer(stream: TcpStream, router: Router, stop: Shutdown) {
    let service = service_fn(move |request| router.clone().call(request));
    let mut serving = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        // Errors are the client's: it went away, was too slow, or does not speak HTTP.
        _ = serving.as_mut() => return,
        () = stop.requested() => {}
        () = sleep(CONNECTION_TIME_MAX) => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, serving).await;
}
