//! A receiver for trying Zyven out: says what arrives, and behaves by path.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use zyven_runtime::shutdown::{self, Shutdown};

use crate::Failure;

/// Largest request shown and counted.
const BODY_BYTES_MAX: usize = 1 << 20;
/// How long `/slow` takes.
const SLOW: Duration = Duration::from_millis(1500);
/// How often `/flaky` fails before it takes an event.
const FLAKY_FAILURES: u32 = 2;
/// How many events `/flaky` remembers; then it forgets them all.
const FLAKY_EVENTS_MAX: usize = 10_000;

/// Run a receiver that prints a line for each request.
///
/// /… answers 200, /flaky fails twice for each event and then answers 200, /slow answers after 1.5 s,
/// /down always answers 503, /gone always answers 410.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
}

/// How often each event was tried at `/flaky`. The lock guards a count and is never held across an
/// await.
type Tries = Arc<Mutex<HashMap<String, u32>>>;

pub(crate) async fn run(args: &Args) -> Result<(), Failure> {
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|error| Failure::Plain(format!("cannot listen on {}: {error}", args.listen)))?;
    println!("receiving on http://{}", args.listen);
    let tries = Tries::default();
    let (trigger, shutdown) = Shutdown::new();
    shutdown::stop_on_signals(trigger).map_err(Failure::other)?;
    loop {
        // Both branches may be dropped at any await without losing anything.
        let connection = tokio::select! {
            () = shutdown.requested() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        let Ok((connection, _)) = connection else {
            tokio::task::yield_now().await;
            continue;
        };
        let tries = Arc::clone(&tries);
        // Ends with its connection, or with the process.
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&tries)));
            // A caller that breaks off is no concern of a receiver.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(connection), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    tries: Tries,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE)),
    };
    let path = head.uri.path().to_owned();
    // A container's health check, every few seconds.
    if path == "/healthz" {
        return Ok(plain(StatusCode::OK));
    }
    let status = match path.as_str() {
        "/flaky" if tried(&tries, text(&head.headers, "webhook-id")) <= FLAKY_FAILURES => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        "/slow" => {
            tokio::time::sleep(SLOW).await;
            StatusCode::OK
        }
        "/down" => StatusCode::SERVICE_UNAVAILABLE,
        "/gone" => StatusCode::GONE,
        _ => StatusCode::OK,
    };
    println!(
        "{} {path} ← {} {} attempt {} ({} bytes)",
        status.as_u16(),
        text(&head.headers, "zyven-event-type"),
        text(&head.headers, "webhook-id"),
        text(&head.headers, "zyven-attempt"),
        body.len()
    );
    Ok(plain(status))
}

fn tried(tries: &Tries, event: &str) -> u32 {
    let mut tries = tries.lock().unwrap_or_else(PoisonError::into_inner);
    if tries.len() >= FLAKY_EVENTS_MAX {
        tries.clear();
    }
    let count = tries.entry(event.to_owned()).or_insert(0);
    *count += 1;
    *count
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("-")
}

fn plain(status: StatusCode) -> Response<Full<Bytes>> {
    let reason = status.canonical_reason().unwrap_or("");
    let mut response = Response::new(Full::from(format!("{reason}\n")));
    *response.status_mut() = status;
    response
}
