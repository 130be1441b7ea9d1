//! "There is new work": an empty UDP datagram from whoever made the work to whoever does it.
//!
//! A bell may be lost, doubled or late. The listener looks for work by itself now and then; the bell
//! only makes "now and then" unnecessary when things go well. So ringing never waits, never fails, and
//! needs no connection that could break (ADR 0005).

mod bell;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

pub use bell::{Bell, ParsePeerError, Peer};

/// Rings taken together at most, so that a storm of them does not keep the listener from its work.
const RINGS_TAKEN_MAX: usize = 1024;

/// Hears the bell.
#[derive(Debug)]
pub struct Doorbell {
    socket: UdpSocket,
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
        match timeout(at_most, self.socket.recv_from(&mut datagram)).await {
            Ok(Ok(_)) => {
                for _ in 0..RINGS_TAKEN_MAX {
                    if self.socket.try_recv_from(&mut datagram).is_err() {
                        break;
                    }
                }
                true
            }
            Ok(Err(error)) => {
                // A socket that fails at once would make its listener spin.
                tracing::debug!(%error, "the doorbell is out of order");
                sleep(at_most).await;
                false
            }
            Err(_elapsed) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn doorbell() -> (Bell, Doorbell) {
        let doorbell = Doorbell::bind(([127, 0, 0, 1], 0).into())
            .await
            .expect("bound");
        let bell = Bell::to([doorbell.address().expect("an address")]).expect("a bell");
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
    async fn a_listener_may_be_named() {
        let doorbell = Doorbell::bind(([127, 0, 0, 1], 0).into())
            .await
            .expect("bound");
        let port = doorbell.address().expect("an address").port();
        let peer: Peer = format!("localhost:{port}").parse().expect("a peer");
        let bell = Bell::to([peer]).expect("a bell");
        // The name is looked up beside; until then rings are lost, as rings may be.
        let heard = timeout(Duration::from_secs(10), async {
            loop {
                bell.ring();
                if doorbell.rung(Duration::from_millis(20)).await {
                    break;
                }
            }
        });
        heard.await.expect("heard");
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
