//! Scheme, host and port of endpoints, with the connections kept open to it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use uuid::Uuid;
use zyven_domain::target::{EndpointUrl, Host, Scheme};

use super::connection::Connection;
use super::tls::Identity;

/// What an origin is told apart by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct OriginKey {
    pub(super) scheme: Scheme,
    /// `host:port`.
    pub(super) authority: String,
    /// The credential whose certificate is shown: a connection that was opened in one endpoint's name
    /// never carries another endpoint's request, even if both have the same certificate.
    pub(super) identity: Option<Uuid>,
}

impl OriginKey {
    pub(super) fn of(url: &EndpointUrl, identity: Option<&Identity>) -> Self {
        Self {
            scheme: url.scheme(),
            authority: url.authority().to_owned(),
            identity: identity.map(|identity| identity.id),
        }
    }
}

/// Where connections lead, shared by all endpoints with the same scheme, host and port that show no
/// certificate; an endpoint that shows one has its own.
pub(crate) struct Origin {
    pub(super) authority: String,
    /// The name its certificate must be valid for; none for plain HTTP.
    pub(super) server_name: Option<ServerName<'static>>,
    /// With the client certificate, if one is shown.
    pub(super) tls: TlsConnector,
    /// The one used last is at the end and is used first again, so that surplus ones grow old. The
    /// lock is held for a push or a pop.
    idle: Mutex<Vec<Connection>>,
    limits: Arc<IdleLimits>,
}

/// How many connections are kept, and how long.
pub(super) struct IdleLimits {
    pub(super) per_origin_max: usize,
    pub(super) in_all_max: usize,
    pub(super) age_max: Duration,
    pub(super) in_all: AtomicUsize,
}

impl Origin {
    pub(super) fn new(url: &EndpointUrl, tls: TlsConnector, limits: Arc<IdleLimits>) -> Self {
        let server_name = match (url.scheme(), url.host()) {
            (Scheme::Http, _) => None,
            (Scheme::Https, Host::Address(ip)) => Some(ServerName::from(*ip)),
            (Scheme::Https, Host::Name(name)) => {
                Some(ServerName::try_from(name.clone()).expect("a parsed host name is a DNS name"))
            }
        };
        Self {
            authority: url.authority().to_owned(),
            server_name,
            tls,
            idle: Mutex::default(),
            limits,
        }
    }

    /// The youngest idle connection, if it is young enough. Whether it is still alive is to be seen.
    pub(super) fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle();
        while let Some(connection) = idle.pop() {
            self.limits.in_all.fetch_sub(1, Ordering::Relaxed);
            if connection.idle_time() < self.limits.age_max {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the next request, unless there are enough.
    pub(super) fn keep(&self, mut connection: Connection) {
        connection.rest();
        let mut idle = self.idle();
        if idle.len() >= self.limits.per_origin_max {
            return;
        }
        if self.limits.in_all.fetch_add(1, Ordering::Relaxed) >= self.limits.in_all_max {
            self.limits.in_all.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        idle.push(connection);
    }

    /// Closes idle connections that have grown old or were closed by the other side.
    pub(super) fn sweep(&self) {
        let mut idle = self.idle();
        let before = idle.len();
        idle.retain_mut(|connection| {
            connection.idle_time() < self.limits.age_max && connection.look_alive()
        });
        let closed = before - idle.len();
        self.limits.in_all.fetch_sub(closed, Ordering::Relaxed);
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let closed = self.idle().len();
        self.limits.in_all.fetch_sub(closed, Ordering::Relaxed);
    }
}
