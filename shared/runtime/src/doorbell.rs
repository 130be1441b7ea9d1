//! "There is new work": an empty UDP datagram from whoever made the work to whoever does it.
//!
//! A bell may be lost, doubled or late. The listener looks for work by itself now and then; the bell
//! only makes "now and then" unnecessary when things go well. So ringing never waits, never fails, and
//! needs no connection that could break (ADR 0005).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdUdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;

/// Rings every listener. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bell {
    sockets: Arc<Vec<(StdUdpSocket, SocketAddr)>>,
}

/// Hears the bell.
#[derive(Debug)]
pub struct Doorbell {
    socket: UdpSocket,
}

impl Bell {
    /// A bell at each of these addresses. An address that cannot be used is left out: its listener
    /// then finds its work by looking.
    pub fn to(listeners: &[SocketAddr]) -> Self {
        let socket_to = |listener: &SocketAddr| {
            let local: SocketAddr = if listener.is_ipv4() {
                (Ipv4Addr::UNSPECIFIED, 0).into()
            } else {
                (Ipv6Addr::UNSPECIFIED, 0).into()
            };
            let socket = StdUdpSocket::bind(local).and_then(|socket| {
                socket.set_nonblocking(true)?;
                Ok(socket)
            });
            match socket {
                Ok(socket) => Some((socket, *listener)),
                Err(error) => {
                    tracing::warn!(%listener, %error, "cannot ring this doorbell");
                    None
                }
            }
        };
        Self {
            sockets: Arc::new(listeners.iter().filter_map(socket_to).collect()),
        }
    }

    /// Rings. Never blocks, never fails.
    pub fn ring(&self) {
        for (socket, listener) in self.sockets.iter() {
            // Not connected, so that an absent listener's ICMP answer does not come back as an error.
            let _ = socket.send_to(&[0], listener);
        }
    }
}

impl Doorbell {
    /// Listens at `address`.
    ///
    /// # Errors
    /// The address is taken or not this machine's.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        Ok(Self {
            socket: UdpSocket::bind(address).await?,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The operating system's.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Returns true as soon as somebody rings, false after `at_most`. Any number of rings since the
    /// last call are one. Cancel safe.
    pub async fn rung(&self, at_most: Duration) -> bool {
        let mut datagram = [0_u8; 8];
        let rung = tokio::time::timeout(at_most, self.socket.recv_from(&mut datagram)).await;
        while self.socket.try_recv_from(&mut datagram).is_ok() {}
        rung.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn doorbell() -> (Bell, Doorbell) {
        let doorbell = Doorbell::bind(([127, 0, 0, 1], 0).into())
            .await
            .expect("bound");
        let bell = Bell::to(&[doorbell.address().expect("an address")]);
        (bell, doorbell)
    }

    #[tokio::test]
    async fn a_ring_is_heard() {
        let (bell, doorbell) = doorbell().await;
        bell.ring();
        assert!(doorbell.rung(Duration::from_secs(10)).await);
    }

    #[tokio::test]
    async fn many_rings_are_one() {
        let (bell, doorbell) = doorbell().await;
        for _ in 0..100 {
            bell.ring();
        }
        assert!(doorbell.rung(Duration::from_secs(10)).await);
        assert!(!doorbell.rung(Duration::from_millis(20)).await);
    }

    #[tokio::test]
    async fn ringing_an_absent_listener_is_no_error() {
        let (bell, doorbell) = doorbell().await;
        drop(doorbell);
        for _ in 0..3 {
            bell.ring();
        }
    }
}
