//! Connections: accepted up to a limit, served by hyper, finished gracefully.
//!
//! hyper itself rather than `axum::serve`, which has no deadline for a request's head, no limit on
//! connections, and no way to bound how long a graceful stop takes.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use zyven_runtime::shutdown::Shutdown;

use crate::config::HEAD_BYTES_MAX;
use crate::exchange::Exchange;
use crate::socket::Socket;
use crate::statistics::Statistics;

/// Rest after a failed accept, which fails again at once while file descriptors are short.
const ACCEPT_REST: Duration = Duration::from_millis(50);
/// Connections beyond the limit that are seen off properly at the same time; others are just closed.
const SEEN_OFF_MAX: usize = 64;
/// Longest time spent on one of them.
const SEEING_OFF_MAX: Duration = Duration::from_secs(1);
/// What a connection beyond the limit is told.
const TURNED_AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/problem+json\r\n\
    content-length: 162\r\n\
    retry-after: 1\r\n\
    connection: close\r\n\r\n\
    {\"type\":\"urn:zyven:problem:overloaded\",\"title\":\"There is more to do than can be done\",\
    \"status\":503,\"detail\":\"There are too many connections.\",\"code\":\"overloaded\"}";

/// Serves connections until shutdown is requested; returns when all have ended, or at the end of the
/// grace time, which cuts those that are left. Returns when that end is.
pub(crate) async fn serve(
    listener: TcpListener,
    exchange: Arc<Exchange>,
    limits: ConnectionLimits,
    statistics: &Statistics,
    shutdown: &Shutdown,
) -> Instant {
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let exits = Arc::new(Semaphore::new(SEEN_OFF_MAX));
    let mut connections = JoinSet::new();
    loop {
        // Each branch can be dropped at any await: accepting and joining lose nothing.
        let accepted = tokio::select! {
            () = shutdown.requested() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => {
                    let (exchange, stop) = (Arc::clone(&exchange), shutdown.clone());
                    // Ends with its connection, or when the set is shut down below.
                    connections.spawn(async move {
                        connection(stream, exchange, limits.head, stop).await;
                        drop(place);
                    });
                }
                Err(_full) => {
                    statistics.connections_refused.increment();
                    if let Ok(exit) = Arc::clone(&exits).try_acquire_owned() {
                        // Ends within SEEING_OFF_MAX.
                        connections.spawn(async move {
                            let _ = timeout(SEEING_OFF_MAX, turn_away(stream)).await;
                            drop(exit);
                        });
                    }
                }
            },
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                sleep(ACCEPT_REST).await;
            }
        }
    }
    drop(listener);
    let deadline = Instant::now() + limits.grace;
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if timeout_at(deadline, all_ended).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "cutting connections at the end of the grace time"
        );
        connections.shutdown().await;
    }
    deadline
}

/// How many connections, and how long they may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    pub(crate) connections_max: usize,
    pub(crate) head: Duration,
    pub(crate) grace: Duration,
}

async fn connection(stream: TcpStream, exchange: Arc<Exchange>, head: Duration, stop: Shutdown) {
    // Without it, an answer may wait for the client's acknowledgement of the one before.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(|request| exchange.answer(request));
    let mut serving = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head)
            .max_header_size(HEAD_BYTES_MAX)
            // A client that has said all it wants to say still wants to hear the answer.
            .half_close(true)
            // Answers are small: copied together they are one write without a list of pieces.
            .writev(false)
            .serve_connection(TokioIo::new(Socket::new(stream, head)), service)
    );
    let asked_to_stop = pin!(stop.requested());
    tokio::select! {
        biased;
        // Errors are the client's: it went away, was too slow, or does not speak HTTP.
        _ = serving.as_mut() => return,
        () = asked_to_stop => serving.as_mut().graceful_shutdown(),
    }
    let _ = serving.await;
}

/// Says why, and reads on until the client has gone: a socket that is closed with unread bytes is
/// reset, and the client may never see what it was told.
async fn turn_away(mut stream: TcpStream) {
    if stream.write_all(TURNED_AWAY).await.is_err() || stream.shutdown().await.is_err() {
        return;
    }
    let mut unread = [0; 4096];
    while stream.read(&mut unread).await.is_ok_and(|bytes| bytes > 0) {}
}
