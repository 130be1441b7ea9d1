//! HTTP/1.1 through the egress proxy: one request, one bounded answer, one deadline.
//!
//! A *connection* is a tunnel through a proxy, with TLS inside it for `https`. After an exchange that
//! left nothing over it is kept for its *origin* (scheme, host and port). What makes an attempt fail
//! for good, for now, or not at all is decided by [`Failure::outcome`].
//!
//! # When a request is sent again
//!
//! Servers close idle connections whenever they like, also in the moment a request is on its way. So
//! a request on a *reused* connection is sent once more, on a fresh one and under the same deadline,
//! if the connection turned out to be dead: closed before the request was written, or closed without
//! a single byte of an answer. In the second case the endpoint may have got it twice; but an
//! unanswered request is repeated in any case, seconds later and as a second attempt, and carries the
//! same `webhook-id`. Never sent again: anything that was answered with even one byte, anything that
//! ran out of time, anything on a fresh connection.
//!
//! # What is deliberately absent
//!
//! Redirects, `Accept-Encoding`, cookies, HTTP/2, proxies from the environment, sockets to anything
//! but the configured proxies.

mod connection;
mod failure;
mod origin;
mod proxies;
mod tls;
mod wire;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::Builder;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use uuid::Uuid;
use zyven_crash_points::CrashPoint;
use zyven_domain::credential::ClientCertificate;
use zyven_domain::retry::FailureKind;
use zyven_domain::target::EndpointUrl;

use connection::Connection;
pub(crate) use failure::{Failure, error_class};
pub(crate) use origin::Origin;
use origin::{IdleLimits, OriginKey};
use proxies::Proxies;
pub(crate) use proxies::Reachability;
pub use proxies::{ParseProxyAddressError, ProxyAddress};
pub(crate) use tls::Identity;
pub use tls::TlsError;
use tls::{IdentityError, Trust};
use wire::Stream;

/// The largest head of an answer. Proxies in front of endpoints allow 8 to 32 KiB.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How much of an answer's body is read. An answer that goes on is cut off, and counts as given.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// How much of it is kept.
const BODY_BYTES_KEPT: usize = 1024;
/// How the client is set up.
pub(crate) struct ClientConfig<'a> {
    /// Where tunnels can be had; at least one.
    pub(crate) proxies: Vec<ProxyAddress>,
    /// What the proxies want to see.
    pub(crate) credential: &'a str,
    /// A PEM file of authorities trusted besides Mozilla's.
    pub(crate) tls_ca_file: Option<&'a Path>,
    /// Idle connections kept in all.
    pub(crate) idle_max: usize,
    /// Idle connections kept for one origin.
    pub(crate) idle_per_origin_max: usize,
    /// How long an idle connection is kept; must be shorter than the proxy's patience.
    pub(crate) idle_time_max: Duration,
}

/// Sends requests. One for the whole process.
pub(crate) struct Client {
    proxies: Proxies,
    trust: Trust,
    /// For origins that are shown no certificate.
    anonymous: TlsConnector,
    http: Builder,
    idle_limits: Arc<IdleLimits>,
    /// Weak: an origin lives as long as an endpoint in the cache, or an attempt, refers to it. The
    /// lock is held for look-ups, when an endpoint is loaded.
    origins: Mutex<HashMap<OriginKey, Weak<Origin>>>,
}

/// How far an exchange has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Stage {
    /// There is no tunnel yet. What becomes of the endpoint until then is a proxy's to say, and silence
    /// is not the endpoint's.
    #[default]
    Leaving,
    /// The TLS handshake is under way.
    Connecting,
    /// The access token that the request needs is being fetched.
    Authorizing,
    /// The request is on its way.
    Waiting,
    /// The answer's head is here.
    Answering,
}

/// What is seen of an exchange, as it goes on: whatever ends it, this much is known.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    pub(crate) stage: Stage,
    /// Time to a usable connection; none if one was reused.
    pub(crate) connect: Option<Duration>,
    /// Time to the head of the answer.
    pub(crate) first_byte: Option<Duration>,
    /// The answer's status.
    pub(crate) status: Option<u16>,
    /// The answer's headers.
    pub(crate) headers: HeaderMap,
    /// The beginning of the answer's body.
    pub(crate) body_start: Bytes,
    /// How much of the answer's body is kept.
    pub(crate) body_kept: Kept,
    /// Time to the end of the answer, or to where it was cut off: it counts as given.
    pub(crate) complete: Option<Duration>,
    /// Whether the request went out a second time because a kept connection was dead.
    pub(crate) was_resent: bool,
}

/// A number of bytes, usually what is put on record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept(usize);

impl Default for Kept {
    fn default() -> Self {
        Self(BODY_BYTES_KEPT)
    }
}

impl Observed {
    /// For an exchange whose answer is read rather than recorded.
    pub(crate) fn keeping(bytes: usize) -> Self {
        Self {
            body_kept: Kept(bytes),
            ..Self::default()
        }
    }

    /// Counts time that went by before the exchange began.
    pub(crate) fn delay(&mut self, waited: Duration) {
        for time in [&mut self.first_byte, &mut self.complete] {
            *time = time.map(|time| time + waited);
        }
    }
}

/// How a request on one connection ended, if not with an answer.
enum Lost {
    /// The connection was dead before it said a word.
    Dead(Failure),
    Failed(Failure),
}

/// What is left of the connection behind an answer.
enum Remainder {
    Nothing,
    /// Bytes nobody will read, or a framing that ends with the connection.
    Something,
}

impl Client {
    pub(crate) fn new(config: ClientConfig<'_>) -> Result<Self, TlsError> {
        let mut http = Builder::new();
        http.max_buf_size(HEAD_BYTES_MAX)
            .max_header_size(HEAD_BYTES_MAX);
        let trust = Trust::new(config.tls_ca_file)?;
        Ok(Self {
            proxies: Proxies::new(config.proxies, config.credential),
            anonymous: trust.anonymous(),
            trust,
            http,
            idle_limits: Arc::new(IdleLimits {
                per_origin_max: config.idle_per_origin_max,
                in_all_max: config.idle_max,
                age_max: config.idle_time_max,
                in_all: AtomicUsize::new(0),
            }),
            origins: Mutex::default(),
        })
    }

    /// What shows this certificate, the credential `id`.
    pub(crate) fn identity(
        &self,
        id: Uuid,
        certificate: &ClientCertificate,
    ) -> Result<Identity, IdentityError> {
        self.trust.identity(id, certificate)
    }

    /// The origin of an endpoint's URL; the same one for all endpoints that share it and show the same.
    pub(crate) fn origin(&self, url: &EndpointUrl, identity: Option<&Identity>) -> Arc<Origin> {
        let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = origins.entry(OriginKey::of(url, identity)).or_default();
        entry.upgrade().unwrap_or_else(|| {
            let tls = identity.map_or(&self.anonymous, |identity| &identity.connector);
            let limits = Arc::clone(&self.idle_limits);
            let origin = Arc::new(Origin::new(url, tls.clone(), limits));
            *entry = Arc::downgrade(&origin);
            origin
        })
    }

    /// Whether requests can leave at all.
    pub(crate) fn reachability(&self) -> Reachability {
        self.proxies.reachability()
    }

    /// Connections that wait for their next request.
    pub(crate) fn idle_connections(&self) -> usize {
        self.idle_limits.in_all.load(Ordering::Relaxed)
    }

    /// Closes what has been idle for too long, and forgets origins nobody refers to.
    pub(crate) fn sweep(&self) {
        let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        origins.retain(|_, origin| match origin.upgrade() {
            Some(origin) => {
                origin.sweep();
                true
            }
            None => false,
        });
    }

    /// Sends what `request` makes, unless it then finds that nothing may be sent, and reads the answer into `observed`, which is complete when this
    /// returns `Ok`. The caller enforces the deadline by dropping the future, which closes the
    /// connection; it is given here so that nothing is sent after it, however late this is polled.
    pub(crate) async fn exchange(
        &self,
        origin: &Origin,
        request: impl Fn() -> Result<Request<Full<Bytes>>, Failure>,
        deadline: Instant,
        observed: &mut Observed,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        if let Some(connection) = take_alive(origin).await {
            let sent = send(connection, origin, &request, began, deadline, observed).await;
            match sent {
                Ok(()) => return Ok(()),
                Err(Lost::Failed(failure)) => return Err(failure),
                Err(Lost::Dead(_)) => observed.was_resent = true,
            }
        }
        let connection = self.connect(origin, deadline, &mut observed.stage).await?;
        observed.connect = Some(began.elapsed());
        match send(connection, origin, &request, began, deadline, observed).await {
            Ok(()) => Ok(()),
            Err(Lost::Dead(failure) | Lost::Failed(failure)) => Err(failure),
        }
    }

    async fn connect(
        &self,
        origin: &Origin,
        deadline: Instant,
        stage: &mut Stage,
    ) -> Result<Connection, Failure> {
        *stage = Stage::Leaving;
        let tunnel = self.proxies.open(&origin.authority, deadline).await?;
        *stage = Stage::Connecting;
        let stream = match &origin.server_name {
            None => Stream::Plain(tunnel),
            Some(name) => Stream::Tls(Box::new(
                tls::secure(&origin.tls, name.clone(), tunnel).await?,
            )),
        };
        Connection::open(&self.http, stream)
            .await
            .map_err(|error| Failure::from_hyper(&error))
    }
}

async fn take_alive(origin: &Origin) -> Option<Connection> {
    loop {
        let mut connection = origin.take_idle()?;
        if connection.is_reusable().await {
            return Some(connection);
        }
    }
}

/// One request and its answer. The connection goes back to its origin if nothing was left over.
async fn send(
    mut connection: Connection,
    origin: &Origin,
    request: impl Fn() -> Result<Request<Full<Bytes>>, Failure>,
    began: Instant,
    deadline: Instant,
    observed: &mut Observed,
) -> Result<(), Lost> {
    CrashPoint::DispatcherBeforeRequest.reached();
    // A process that was stopped and goes on does not notice that its timer has rung before it has
    // sent; and behind the deadline somebody else may hold the lease.
    if Instant::now() >= deadline {
        return Err(Lost::Failed(Failure::late(
            "no time was left to send the request",
        )));
    }
    let request = request().map_err(Lost::Failed)?;
    observed.stage = Stage::Waiting;
    let answer = match connection.ask(request).await {
        Ok(answer) => answer,
        Err(mut error) => {
            let was_unsent = error.take_message().is_some();
            let was_heard = connection.has_heard_anything();
            let failure = if was_unsent && was_heard {
                Failure::unasked()
            } else {
                Failure::from_hyper(error.error())
            };
            return Err(if was_unsent || !was_heard {
                Lost::Dead(failure)
            } else {
                Lost::Failed(failure)
            });
        }
    };
    observed.stage = Stage::Answering;
    observed.first_byte = Some(began.elapsed());
    let (head, body) = answer.into_parts();
    if head.status.is_informational() {
        return Err(Lost::Failed(Failure::failed(
            FailureKind::Protocol,
            format!("the endpoint switched protocols with {}", head.status),
        )));
    }
    observed.status = Some(head.status.as_u16());
    observed.headers = head.headers;
    let has_one_framing = has_one_framing(&observed.headers);
    let remainder = connection
        .drive(read(body, &mut observed.body_start, observed.body_kept))
        .await
        .map_err(|error| Lost::Failed(Failure::from_hyper(&error)))?;
    observed.complete = Some(began.elapsed());
    let nothing_left = matches!(remainder, Remainder::Nothing);
    if nothing_left && has_one_framing && connection.is_reusable().await {
        origin.keep(connection);
    }
    Ok(())
}

/// Whether it can only be read in one way where the answer ends. With both headers the transfer
/// encoding counts, but whoever sends both may have forged what follows (RFC 9112, section 6.3).
fn has_one_framing(headers: &HeaderMap) -> bool {
    !(headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH))
}

/// Reads a body up to [`BODY_BYTES_MAX`] and keeps its beginning in `kept`, also if it fails.
async fn read(
    mut body: Incoming,
    kept: &mut Bytes,
    kept_max: Kept,
) -> Result<Remainder, hyper::Error> {
    let mut read_bytes = 0;
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else {
            break;
        };
        // Trailers are read and forgotten.
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        read_bytes += data.len();
        keep_start(kept, data, kept_max);
        if read_bytes > BODY_BYTES_MAX {
            return Ok(Remainder::Something);
        }
    }
    Ok(Remainder::Nothing)
}

/// Most answers are one small piece, which is kept without a copy.
fn keep_start(kept: &mut Bytes, mut data: Bytes, Kept(kept_max): Kept) {
    let room = kept_max - kept.len();
    data.truncate(room);
    if kept.is_empty() {
        *kept = data;
    } else if !data.is_empty() {
        let mut both = BytesMut::with_capacity(kept.len() + data.len());
        both.extend_from_slice(kept);
        both.extend_from_slice(&data);
        *kept = both.freeze();
    }
}
