//! The endpoints: one listener, one path for each of them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::Error;
use super::api;
use super::ledger::Reply;
use super::phase::Phase;
use super::template::Seen;

/// How an endpoint behaves.
#[derive(Debug, Clone, Copy)]
pub(super) enum Route {
    /// Books what arrives under this number, and answers as the phase wants.
    Counted { endpoint: usize },
    /// Takes the request and never answers.
    Silent,
}

/// Receives deliveries until it is dropped.
pub(super) struct Receiver {
    state: Rc<State>,
    url: String,
    accepting: AbortHandle,
}

#[derive(Default)]
struct State {
    routes: RefCell<HashMap<u32, Route>>,
    last_path: RefCell<u32>,
    phase: RefCell<Option<Rc<Phase>>>,
    /// Lets go whoever waits at a silent endpoint.
    released: Notify,
}

impl Receiver {
    /// Listens. Endpoints are made under `url` if it is given, otherwise under the listener's address.
    pub(super) async fn start(listen: SocketAddr, url: Option<&str>) -> Result<Self, Error> {
        let cannot = |source| Error::Listen { listen, source };
        let listener = TcpListener::bind(listen).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let state = Rc::<State>::default();
        // Ends with the receiver.
        let accepting = tokio::task::spawn_local(accept(listener, Rc::clone(&state)));
        Ok(Self {
            state,
            url: url.map_or_else(
                || format!("http://{address}"),
                |url| url.trim_end_matches('/').to_owned(),
            ),
            accepting: accepting.abort_handle(),
        })
    }

    /// The URL of a new endpoint. Paths are not used again.
    pub(super) fn add(&self, route: Route) -> String {
        let mut last = self.state.last_path.borrow_mut();
        *last += 1;
        self.state.routes.borrow_mut().insert(*last, route);
        format!("{}/{last}", self.url)
    }

    /// Where arrivals are booked from now on.
    pub(super) fn enter(&self, phase: &Rc<Phase>) {
        *self.state.phase.borrow_mut() = Some(Rc::clone(phase));
    }

    /// Forgets all endpoints: whatever still comes for them is answered 410, which ends its retries.
    pub(super) fn clear(&self) {
        self.state.routes.borrow_mut().clear();
        *self.state.phase.borrow_mut() = None;
        self.state.released.notify_waiters();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, state: Rc<State>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely; others may give theirs back meanwhile.
            tokio::task::yield_now().await;
            continue;
        };
        // An answer is written whole; without this, failing only costs latency.
        let _ = stream.set_nodelay(true);
        let state = Rc::clone(&state);
        // Ends with its connection.
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| answer(request, &state));
            let mut server = http1::Builder::new();
            server.auto_date_header(false);
            // A sender that breaks off comes again.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    state: &State,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().trim_start_matches('/').parse().ok();
    let route = path.and_then(|path: u32| state.routes.borrow().get(&path).copied());
    let Ok(body) = body.collect().await else {
        return Ok(plain(StatusCode::BAD_REQUEST));
    };
    let status = match route {
        Some(Route::Counted { endpoint }) => {
            let phase = state.phase.borrow();
            phase.as_ref().map_or(StatusCode::OK, |phase| {
                book(
                    phase,
                    endpoint,
                    api::webhook_id(&head.headers),
                    &body.to_bytes(),
                )
            })
        }
        Some(Route::Silent) => {
            state.released.notified().await;
            StatusCode::GONE
        }
        None => StatusCode::GONE,
    };
    Ok(plain(status))
}

fn book(phase: &Phase, endpoint: usize, id: Option<uuid::Uuid>, body: &[u8]) -> StatusCode {
    let at = phase.elapsed();
    match phase.template.recognise(body) {
        Seen::Event { sequence } => match phase.arrive(endpoint, sequence, id, at) {
            Reply::Take => StatusCode::OK,
            Reply::Fail => StatusCode::SERVICE_UNAVAILABLE,
        },
        Seen::Stray => {
            phase.ledger.borrow_mut().stray();
            StatusCode::OK
        }
        Seen::Altered => {
            phase.ledger.borrow_mut().altered();
            StatusCode::OK
        }
    }
}

fn plain(status: StatusCode) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    response
}
