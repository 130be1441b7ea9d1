//! From a target to a connected socket: resolve once, judge every answer, dial what was judged.
//!
//! The dialer takes [`Vetted`] addresses, never names, so there is no second look-up between verdict
//! and connection that could answer differently (DNS rebinding).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use zyven_domain::address::{AddressClass, AddressPolicy, Vetted, classify};
use zyven_domain::target::{Authority, EgressReason, Host};

use crate::refusal::Refusal;
use crate::resolve::Resolver;

/// The proxy's own sockets, which no tunnel may lead to: a caller could reach around the policy, or
/// tie the proxy into a knot.
#[derive(Debug)]
pub(crate) struct OwnListeners(Vec<SocketAddr>);

impl OwnListeners {
    pub(crate) fn new(listeners: impl IntoIterator<Item = SocketAddr>) -> Self {
        let canonical =
            |listener: SocketAddr| SocketAddr::new(listener.ip().to_canonical(), listener.port());
        Self(listeners.into_iter().map(canonical).collect())
    }

    /// Whether an address is known beforehand to be one of them.
    fn contain(&self, ip: IpAddr, port: u16) -> bool {
        self.0.iter().any(|listener| {
            let everywhere = listener.ip().is_unspecified() && ip.is_loopback();
            listener.port() == port && (listener.ip() == ip || everywhere)
        })
    }

    /// Whether a connection turned out to lead to one of them: a listener on every interface is also
    /// reached at addresses of this machine that nobody has told us. Such a connection has the same
    /// address at both ends.
    fn are_at_the_end_of(&self, local: SocketAddr, peer: SocketAddr) -> bool {
        local.ip() == peer.ip()
            && self
                .0
                .iter()
                .any(|own| own.ip().is_unspecified() && own.port() == peer.port())
    }
}

/// What dialling needs to know.
pub(crate) struct Dialer {
    pub(crate) resolver: Resolver,
    pub(crate) addresses: AddressPolicy,
    pub(crate) own_listeners: OwnListeners,
    /// Limit for the name servers.
    pub(crate) dns_timeout: Duration,
    /// Limit for one address.
    pub(crate) connect_timeout: Duration,
    /// Limit for all of them.
    pub(crate) dial_timeout: Duration,
}

/// A connection to the endpoint, and what kind of address it leads to.
pub(crate) struct Dialled {
    pub(crate) stream: TcpStream,
    pub(crate) class: AddressClass,
}

impl Dialer {
    /// Connects to the target, if policy lets it. Takes no longer than `within`, and never longer than
    /// the limits above together.
    pub(crate) async fn dial(
        &self,
        target: &Authority,
        within: Option<Duration>,
    ) -> Result<Dialled, Refusal> {
        let longest = self.dns_timeout + self.dial_timeout;
        let deadline = Instant::now() + within.map_or(longest, |within| within.min(longest));
        let addresses = self.vet(target, deadline).await?;
        self.connect(&addresses, target.port(), deadline).await
    }

    /// Every address of the target, each of them judged. One that is denied condemns all: a name that
    /// mixes public and private answers is an attack, not a receiver.
    async fn vet(&self, target: &Authority, deadline: Instant) -> Result<Vec<Vetted>, Refusal> {
        let addresses = match target.host() {
            Host::Address(ip) => vec![*ip],
            Host::Name(name) => {
                let deadline = deadline.min(Instant::now() + self.dns_timeout);
                self.resolver.addresses(name, deadline).await?
            }
        };
        let mut vetted = Vec::with_capacity(addresses.len());
        for ip in addresses {
            let address = classify(ip, &self.addresses)?;
            if self.own_listeners.contain(address.ip(), target.port()) {
                return Err(own_listener(address.class()));
            }
            vetted.push(address);
        }
        Ok(vetted)
    }

    async fn connect(
        &self,
        addresses: &[Vetted],
        port: u16,
        deadline: Instant,
    ) -> Result<Dialled, Refusal> {
        let deadline = deadline.min(Instant::now() + self.dial_timeout);
        let mut timed_out = false;
        let mut last_error = None;
        for address in addresses {
            let until = deadline.min(Instant::now() + self.connect_timeout);
            let peer = SocketAddr::new(address.ip(), port);
            match timeout_at(until, TcpStream::connect(peer)).await {
                Ok(Ok(stream)) => return self.check(stream, peer, address.class()),
                Ok(Err(error)) if is_exhaustion(&error) => {
                    tracing::warn!(%error, "out of resources for outgoing connections");
                    return Err(Refusal::new(
                        EgressReason::Overloaded,
                        "the proxy is out of resources",
                    ));
                }
                Ok(Err(error)) => {
                    timed_out |= error.kind() == io::ErrorKind::TimedOut;
                    last_error = Some(error);
                }
                Err(_elapsed) => timed_out = true,
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Err(unreachable(timed_out, last_error.as_ref()))
    }

    /// The socket's own word on where it leads, before the caller may use it.
    fn check(
        &self,
        stream: TcpStream,
        wanted: SocketAddr,
        class: AddressClass,
    ) -> Result<Dialled, Refusal> {
        let ends = stream
            .local_addr()
            .and_then(|local| Ok((local, stream.peer_addr()?)));
        let (local, peer) = ends.map_err(|error| unreachable(false, Some(&error)))?;
        if peer.ip() != wanted.ip() || peer.port() != wanted.port() {
            return Err(Refusal::new(
                EgressReason::DeniedIp,
                "the connection leads elsewhere than was asked for",
            ));
        }
        if self.own_listeners.are_at_the_end_of(local, peer) {
            return Err(own_listener(class));
        }
        // A request is one small write; waiting to fill a segment would only add latency.
        stream
            .set_nodelay(true)
            .map_err(|error| unreachable(false, Some(&error)))?;
        Ok(Dialled { stream, class })
    }
}

fn own_listener(class: AddressClass) -> Refusal {
    Refusal {
        reason: EgressReason::DeniedIp,
        detail: "the proxy does not connect to itself".to_owned(),
        class: Some(class),
    }
}

/// The kind of error only: what the system says about a connection can contain the address.
fn unreachable(timed_out: bool, error: Option<&io::Error>) -> Refusal {
    if timed_out {
        return Refusal::new(
            EgressReason::ConnectTimeout,
            "no address accepted the connection in time",
        );
    }
    let kind = error.map_or(io::ErrorKind::Other, io::Error::kind);
    let detail = format!("no address accepted the connection: {kind}");
    Refusal::new(EgressReason::ConnectFailed, detail)
}

/// Errors that are this machine's fault: the endpoint must not pay for them with an attempt.
fn is_exhaustion(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(1);

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// The check behind the connection is a second line: nothing gets past the first one that it would
    /// stop, so it is given what a kernel rule or a defect would give it.
    #[tokio::test]
    async fn a_connection_that_leads_elsewhere_than_was_judged_is_not_used() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = listener.local_addr().unwrap();
        let dialer = Dialer {
            resolver: Resolver::new(&"127.0.0.1:1".parse().unwrap(), TIME, TIME).unwrap(),
            addresses: AddressPolicy::default(),
            own_listeners: OwnListeners::new([]),
            dns_timeout: TIME,
            connect_timeout: TIME,
            dial_timeout: TIME,
        };
        let check = async |wanted: SocketAddr| {
            let stream = TcpStream::connect(peer).await.unwrap();
            let checked = dialer.check(stream, wanted, AddressClass::Loopback);
            checked.map_err(|refusal| refusal.reason).err()
        };
        assert_eq!(check(peer).await, None);
        let other_ip = SocketAddr::new(at("127.0.0.2:1").ip(), peer.port());
        assert_eq!(check(other_ip).await, Some(EgressReason::DeniedIp));
        let other_port = SocketAddr::new(peer.ip(), peer.port() ^ 1);
        assert_eq!(check(other_port).await, Some(EgressReason::DeniedIp));
    }

    #[test]
    fn own_listeners_are_recognised_beforehand() {
        let own = OwnListeners::new([at("10.0.0.1:8092"), at("[::ffff:10.0.0.2]:8099")]);
        let contain = |text| own.contain(at(text).ip(), at(text).port());
        assert!(contain("10.0.0.1:8092"));
        assert!(contain("10.0.0.2:8099"));
        assert!(!contain("10.0.0.1:8093"));
        assert!(!contain("10.0.0.3:8092"));
        assert!(!contain("127.0.0.1:8092"));
    }

    #[test]
    fn a_listener_everywhere_is_recognised_at_any_own_address() {
        for everywhere in ["0.0.0.0:8092", "[::]:8092"] {
            let own = OwnListeners::new([at(everywhere)]);
            assert!(own.contain(at("127.0.0.9:8092").ip(), 8092));
            assert!(own.contain(at("[::1]:8092").ip(), 8092));
            assert!(!own.contain(at("127.0.0.9:80").ip(), 80));
            assert!(own.are_at_the_end_of(at("10.0.0.7:40000"), at("10.0.0.7:8092")));
            assert!(!own.are_at_the_end_of(at("10.0.0.7:40000"), at("10.0.0.8:8092")));
            assert!(!own.are_at_the_end_of(at("10.0.0.7:40000"), at("10.0.0.7:80")));
        }
    }
}
