//! Connections: accepted up to a limit, served by hyper, finished gracefully.
//!
//! hyper itself rather than `axum::serve`, which has no deadline for a request's head, no limit on
//! connections, and no way to bound how long a graceful stop takes.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::CONNECTION;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use zyven_runtime::inherited::Origin;
use zyven_runtime::shutdown::Shutdown;

use crate::config::HEAD_BYTES_MAX;
use crate::exchange::Exchange;
use crate::socket::{Socket, Speaker};
use crate::statistics::Statistics;

/// Rest after a failed accept, which fails again at once while file descriptors are short.
const ACCEPT_REST: Duration = Duration::from_millis(50);
/// Connections beyond the limit that are seen off properly at the same time; others are just closed.
const SEEN_OFF_MAX: usize = 64;
/// Longest time spent on one of them.
const SEEING_OFF_MAX: Duration = Duration::from_secs(1);
/// What an answer says that is the last one of its connection.
const CLOSE: HeaderValue = HeaderValue::from_static("close");
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
///
/// # How connections end
///
/// A server cannot close a kept connection without the risk that the client's next request is on its way. So
/// from the request to stop on each answer says `connection: close`, and connections are still taken; a
/// client in use learns that way. When that time, the *lame-duck* time, is over, connections on which the
/// client has said nothing since its last answer are closed, others after their answer. Whoever finds a
/// connection closed without a byte of an answer meets what is left of the risk, the time a packet travels.
pub(crate) async fn serve(
    listener: TcpListener,
    exchange: Arc<Exchange>,
    limits: ConnectionLimits,
    statistics: &Statistics,
    shutdown: &Shutdown,
) -> Instant {
    let (close, closing) = Shutdown::new();
    let mut reception = Reception {
        places: Arc::new(Semaphore::new(limits.connections_max)),
        exits: Arc::new(Semaphore::new(SEEN_OFF_MAX)),
        connections: JoinSet::new(),
        exchange,
        limits,
        statistics,
        stop: shutdown.clone(),
        closing,
    };
    let mut over = pin!(limits.taking_connections(shutdown));
    loop {
        // Each branch can be dropped at any await: accepting and joining lose nothing.
        let accepted = tokio::select! {
            () = over.as_mut() => break,
            Some(_) = reception.connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => reception.take(stream),
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                sleep(ACCEPT_REST).await;
            }
        }
    }
    let mut closes_at = Instant::now();
    let mut deadline = closes_at + limits.grace;
    match limits.origin {
        Origin::Own => {
            deadline -= limits.lame_duck();
            // Whoever the system has let in already would be reset.
            while let Ok(Ok((stream, _))) = timeout(Duration::ZERO, listener.accept()).await {
                reception.take(stream);
            }
        }
        Origin::Inherited => closes_at += limits.lame_duck(),
    }
    drop(listener);
    sleep_until(closes_at).await;
    close.request();
    let Reception {
        mut connections, ..
    } = reception;
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

/// Who lets connections in.
struct Reception<'a> {
    places: Arc<Semaphore>,
    exits: Arc<Semaphore>,
    connections: JoinSet<()>,
    exchange: Arc<Exchange>,
    limits: ConnectionLimits,
    statistics: &'a Statistics,
    /// Asked for when each answer is to be the last one of its connection.
    stop: Shutdown,
    /// Asked for when the lame-duck time is over.
    closing: Shutdown,
}

impl Reception<'_> {
    fn take(&mut self, stream: TcpStream) {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            let (exchange, head) = (Arc::clone(&self.exchange), self.limits.head);
            let (stop, closing) = (self.stop.clone(), self.closing.clone());
            // Ends with its connection, or when the set is shut down.
            self.connections.spawn(async move {
                connection(stream, exchange, head, stop, closing).await;
                drop(place);
            });
            return;
        }
        self.statistics.connections_refused.increment();
        if let Ok(exit) = Arc::clone(&self.exits).try_acquire_owned() {
            // Ends within SEEING_OFF_MAX.
            self.connections.spawn(async move {
                let _ = timeout(SEEING_OFF_MAX, turn_away(stream)).await;
                drop(exit);
            });
        }
    }
}

/// How many connections, and how long they may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    pub(crate) connections_max: usize,
    pub(crate) head: Duration,
    pub(crate) grace: Duration,
    pub(crate) lame_duck: Duration,
    pub(crate) origin: Origin,
}

impl ConnectionLimits {
    /// Returns when no further connection is to be taken. From an inherited socket the next process takes
    /// them, if need be when it is there.
    async fn taking_connections(&self, shutdown: &Shutdown) {
        shutdown.requested().await;
        if self.origin == Origin::Own {
            sleep(self.lame_duck()).await;
        }
    }

    fn lame_duck(&self) -> Duration {
        self.lame_duck.min(self.grace)
    }
}

async fn connection(
    stream: TcpStream,
    exchange: Arc<Exchange>,
    head: Duration,
    stop: Shutdown,
    closing: Shutdown,
) {
    // Without it, an answer may wait for the client's acknowledgement of the one before.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let socket = Socket::new(stream, head);
    let hearing = socket.hearing();
    let service = service_fn(async |request| {
        let mut answer = exchange.answer(request).await?;
        if stop.is_requested() {
            answer.headers_mut().insert(CONNECTION, CLOSE);
        }
        Ok::<_, Infallible>(answer)
    });
    let mut serving = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head)
            .max_header_size(HEAD_BYTES_MAX)
            // A client that has said all it wants to say still wants to hear the answer.
            .half_close(true)
            // Answers are small: copied together they are one write without a list of pieces.
            .writev(false)
            .serve_connection(TokioIo::new(socket), service)
    );
    let asked_to_close = pin!(closing.requested());
    tokio::select! {
        biased;
        // Errors are the client's: it went away, was too slow, or does not speak HTTP.
        _ = serving.as_mut() => return,
        () = asked_to_close => {}
    }
    // It was polled just now, so whatever had arrived has been read.
    match hearing.last_speaker() {
        Speaker::Nobody => return,
        // Closes at once what is idle; what is being answered is finished.
        Speaker::Server => serving.as_mut().graceful_shutdown(),
        // Its answer will be the last.
        Speaker::Client => {}
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
