//! The outgoing proxy: the only process that opens sockets to endpoints.
//!
//! An endpoint's URL is a customer's text, and the network Zyven runs in is not the customer's. So
//! dispatchers never connect to an endpoint themselves. They ask this proxy with CONNECT, for `https`
//! and `http` alike; TLS stays between dispatcher and endpoint.
//!
//! # Who acts
//!
//! A *caller* connects, sends one *head*, and presents the *credential*. Its *target* becomes
//! *addresses* by one look-up, each address is *vetted* ([`zyven_domain::address`]), the first that
//! accepts a connection is dialled, and the caller's connection becomes a *tunnel*. Everything else is
//! a *refusal* with a reason ([`zyven_domain::target::EgressReason`]).
//!
//! # Promises
//!
//! - No byte reaches an address that was not vetted, and none goes out before the socket itself has
//!   confirmed where it leads. One denied address among a name's answers condemns the name.
//! - No name server is asked on behalf of a caller without the credential.
//! - A refusal never contains an address that a name resolved to.
//! - One log line and one count per decision.
//! - Nothing waits for a free place: beyond its limits the proxy answers 503.
//! - A caller that says within which time it needs the answer gets one in that time, and hears before
//!   that if the decision takes a while ([`zyven_domain::handshake`]).
//!
//! # Architecture invariant
//!
//! No database, no queue, no plain HTTP forwarding, no look at what passes through, no environment
//! variable of the `HTTP_PROXY` kind, and no secret but the credential. When in doubt it refuses.

mod config;
mod connection;
mod credential;
mod decision;
mod dial;
mod head;
mod refusal;
mod resolve;
mod slots;
mod statistics;
mod tunnel;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::net::NetError;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use zyven_domain::target::EgressReason;
use zyven_runtime::metrics::Metrics;
use zyven_runtime::shutdown::Shutdown;

pub use config::{Config, Limits, NameServers, ParseNameServersError};
pub use credential::{Credential, ParseCredentialError};

use connection::Proxy;
use decision::Decision;
use dial::{Dialer, OwnListeners};
use refusal::Refusal;
use resolve::Resolver;
use slots::Slots;
use statistics::Statistics;
use tunnel::TunnelLimits;

/// Connections beyond the open tunnels: callers that are being decided about, or refused politely.
const UNDECIDED_MAX: usize = 512;
/// Rest after a failed accept, which fails again at once while file descriptors are short.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// Why the proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The listener does not know its own address.
    #[error("could not read the address of the egress proxy's listener")]
    Listener(#[source] io::Error),
    /// Without name servers nothing can be resolved.
    #[error("could not set up name resolution for the egress proxy")]
    NameServers(#[source] NetError),
}

/// Serves until shutdown is requested, then lets open tunnels finish within
/// [`Limits::grace`]; whoever supervises this must give it a little longer than that.
///
/// # Errors
///
/// [`Error`] if it cannot start. Once it serves, nothing ends it but the shutdown.
pub async fn run(
    listener: TcpListener,
    config: Config,
    metrics: Metrics,
    shutdown: Shutdown,
) -> Result<(), Error> {
    let grace = config.limits.grace;
    let connections_max = config.limits.tunnels_max + UNDECIDED_MAX;
    let proxy = Arc::new(proxy(&listener, config, &metrics)?);
    let places = Arc::new(Semaphore::new(connections_max));
    let mut connections = JoinSet::new();

    loop {
        // Each branch can be dropped at any await: accepting and joining lose nothing.
        let accepted = tokio::select! {
            () = shutdown.requested() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((caller, _)) => match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => {
                    let (proxy, stop) = (Arc::clone(&proxy), shutdown.clone());
                    // Ends with its connection, or when the set is shut down below.
                    connections.spawn(async move {
                        proxy.serve(caller, stop).await;
                        drop(place);
                    });
                }
                Err(_full) => turn_away(&proxy, &caller),
            },
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                sleep(ACCEPT_REST).await;
            }
        }
    }

    drop(listener);
    let finished = timeout(grace, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
    if finished.is_err() {
        tracing::warn!(
            cut = connections.len(),
            "cutting the tunnels that outlasted the grace time"
        );
        connections.shutdown().await;
    }
    Ok(())
}

fn proxy(listener: &TcpListener, config: Config, metrics: &Metrics) -> Result<Proxy, Error> {
    let Config {
        listen: _,
        credential,
        addresses,
        names,
        name_servers,
        own_listeners,
        limits,
    } = config;
    let own_address = listener.local_addr().map_err(Error::Listener)?;
    if !addresses.allow_cidrs.is_empty() {
        tracing::warn!(
            allow_cidrs = %addresses.allow_cidrs,
            "the egress proxy delivers to addresses that are not public"
        );
    }
    let resolver = Resolver::new(&name_servers, limits.dns_timeout, limits.dns_ttl_max)
        .map_err(Error::NameServers)?;
    let slots = Slots::new(limits.tunnels_max, limits.tunnels_per_host_max);
    Ok(Proxy {
        credential,
        names,
        dialer: Dialer {
            resolver,
            addresses,
            own_listeners: OwnListeners::new(own_listeners.into_iter().chain([own_address])),
            dns_timeout: limits.dns_timeout,
            connect_timeout: limits.connect_timeout,
            dial_timeout: limits.dial_timeout,
        },
        statistics: Statistics::new(metrics, &slots),
        slots,
        head_timeout: limits.head_timeout,
        tunnel_limits: TunnelLimits {
            idle: limits.idle,
            lifetime: limits.tunnel_lifetime,
            bytes_max: limits.tunnel_bytes_max,
        },
    })
}

/// Refuses without a task of its own: there are too many already. The answer fits into an empty send
/// buffer; if it does not arrive, the caller sees a closed connection, which means the same to it.
fn turn_away(proxy: &Proxy, caller: &TcpStream) {
    let refusal = Refusal::new(EgressReason::Overloaded, "too many connections are open");
    Decision::begin().refused(&refusal, &proxy.statistics);
    if let Err(error) = caller.try_write(refusal::answer(&refusal).as_bytes()) {
        tracing::debug!(%error, "could not deliver a refusal");
    }
}
