//! Connections: accepted up to a limit, served by hyper, finished gracefully.

use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tower::Service as _;
use zyven_runtime::connections;
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

/// Serves connections until shutdown is requested; returns when all have ended, or after [`GRACE`].
pub(crate) async fn serve(listener: TcpListener, router: Router, shutdown: &Shutdown) {
    // Each ends GRACE after CONNECTION_TIME_MAX.
    let serve = |stream| answer(stream, router.clone(), shutdown.clone());
    let mut open = connections::serve(listener, CONNECTIONS_MAX, shutdown, serve).await;
    let all_ended = async { while open.join_next().await.is_some() {} };
    if timeout(GRACE, all_ended).await.is_err() {
        open.shutdown().await;
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
