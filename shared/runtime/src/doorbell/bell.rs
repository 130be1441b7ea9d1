//! The ringing side.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

/// How long a name's addresses are believed. A hearer that moved is deaf for as long.
const NAMES_KEPT_FOR: Duration = Duration::from_secs(5);

/// How long to ask for one name.
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(3);

/// Addresses one name may stand for; more are left out.
const ADDRESSES_PER_NAME_MAX: usize = 16;

/// Somebody who hears: an address, or a host name with a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// This address.
    Address(SocketAddr),
    /// Every address that the system's resolver finds for this host, asked again and again.
    Name {
        /// The host.
        host: String,
        /// Its UDP port.
        port: u16,
    },
}

/// Rings the doorbells of its peers. Clones share one bell.
#[derive(Clone)]
pub struct Bell(Arc<Inner>);

struct Inner {
    over_ipv4: UdpSocket,
    /// `None` where the system has no IPv6.
    over_ipv6: Option<UdpSocket>,
    addresses: Arc<Addresses>,
    following: Option<AbortHandle>,
}

/// Where to ring now. Held only to copy or to replace the pointer.
type Addresses = RwLock<Arc<[SocketAddr]>>;

impl Bell {
    /// A bell for these peers, none at all included. With host names among them it must be made inside a
    /// runtime: it starts a task that looks them up, which ends with the last clone of the bell.
    ///
    /// # Errors
    ///
    /// If there is no socket to be had.
    pub fn to<P: Into<Peer>>(peers: impl IntoIterator<Item = P>) -> io::Result<Self> {
        let over_ipv4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        over_ipv4.set_nonblocking(true)?;
        let over_ipv6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).ok();
        if let Some(socket) = &over_ipv6 {
            socket.set_nonblocking(true)?;
        }

        let mut fixed = Vec::new();
        let mut names = Vec::new();
        for peer in peers {
            match peer.into() {
                Peer::Address(address) => fixed.push(address),
                Peer::Name { host, port } => names.push(Name {
                    host,
                    port,
                    addresses: Vec::new(),
                }),
            }
        }
        let addresses = Arc::new(RwLock::new(Arc::from(fixed.as_slice())));
        let following = (!names.is_empty()).then(|| {
            // Ends when the bell is dropped, which aborts it.
            tokio::spawn(follow(names, fixed, Arc::clone(&addresses))).abort_handle()
        });
        Ok(Self(Arc::new(Inner {
            over_ipv4,
            over_ipv6,
            addresses,
            following,
        })))
    }

    /// Rings. Never blocks, never fails: a ring that does not get through is lost.
    pub fn ring(&self) {
        let addresses = {
            let current = self.0.addresses.read();
            Arc::clone(&current.unwrap_or_else(PoisonError::into_inner))
        };
        for address in addresses.iter() {
            let socket = match address {
                SocketAddr::V4(_) => Some(&self.0.over_ipv4),
                SocketAddr::V6(_) => self.0.over_ipv6.as_ref(),
            };
            let rung = socket.map(|socket| socket.send_to(b"!", address));
            if let Some(Err(error)) = rung {
                tracing::debug!(%address, %error, "a ring was lost");
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(following) = &self.following {
            following.abort();
        }
    }
}

struct Name {
    host: String,
    port: u16,
    /// What the last successful lookup found.
    addresses: Vec<SocketAddr>,
}

async fn follow(mut names: Vec<Name>, fixed: Vec<SocketAddr>, addresses: Arc<Addresses>) {
    loop {
        for name in &mut names {
            name.look_up().await;
        }
        let found = names.iter().flat_map(|name| &name.addresses);
        let all: Arc<[SocketAddr]> = fixed.iter().chain(found).copied().collect();
        *addresses.write().unwrap_or_else(PoisonError::into_inner) = all;
        sleep(NAMES_KEPT_FOR).await;
    }
}

impl Name {
    /// Keeps the old addresses when there is no answer: a resolver's pause need not be the hearer's.
    async fn look_up(&mut self) {
        let asked = lookup_host((self.host.as_str(), self.port));
        match timeout(LOOKUP_TIME_MAX, asked).await {
            Ok(Ok(found)) => self.addresses = found.take(ADDRESSES_PER_NAME_MAX).collect(),
            Ok(Err(error)) => {
                tracing::debug!(host = self.host, %error, "could not find a doorbell");
            }
            Err(_elapsed) => {
                tracing::debug!(host = self.host, "could not find a doorbell in time");
            }
        }
    }
}

/// The text names no peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be host:port, such as relay:8091, 192.0.2.1:8091 or [2001:db8::1]:8091")]
pub struct ParsePeerError;

impl FromStr for Peer {
    type Err = ParsePeerError;

    fn from_str(text: &str) -> Result<Self, ParsePeerError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or(ParsePeerError)?;
        let is_host_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if host.is_empty() || !host.bytes().all(is_host_byte) {
            return Err(ParsePeerError);
        }
        match port.parse() {
            Ok(0) | Err(_) => Err(ParsePeerError),
            Ok(port) => Ok(Self::Name {
                host: host.to_owned(),
                port,
            }),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bell")
            .field("addresses", &self.0.addresses)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_addresses_or_names_with_a_port() {
        for text in [
            "127.0.0.1:8091",
            "[::1]:8091",
            "relay:8091",
            "relay-0.relay.svc:1",
        ] {
            let peer: Peer = text.parse().unwrap();
            assert_eq!(peer.to_string(), text);
        }
        for text in [
            "",
            "relay",
            ":1",
            "relay:",
            "relay:0",
            "relay:65536",
            "re lay:1",
            "::1:8091",
            "a/b:1",
        ] {
            assert_eq!(text.parse::<Peer>(), Err(ParsePeerError), "{text}");
        }
    }
}
