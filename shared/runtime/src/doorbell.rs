//! "There is new work": a datagram between processes.
//!
//! A [`Bell`] is rung by whoever has made work, a [`Doorbell`] is heard by whoever does it. The bell
//! carries nothing; a ring that is lost costs its hearer the rest of its rest, so nobody waits for an
//! answer, and nothing about a bell can fail or block. A thousand rings before the hearer listens are one.
//!
//! A datagram is not authenticated: whoever can send one can make the hearer look for work and find
//! none. Doorbells belong on a private network.

mod bell;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until, timeout_at};

pub use self::bell::{Bell, ParsePeerError, Peer};

/// Datagrams taken off the socket for one answer. A flood beyond that is heard next time.
const COALESCED_MAX: usize = 4096;

/// Hears its bell.
#[derive(Debug)]
pub struct Doorbell {
    socket: UdpSocket,
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// The bell has been rung since the last wait ended.
    Rung,
    /// The time is up.
    Quiet,
}

impl Doorbell {
    /// Listens on a UDP address.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(address).await?;
        Ok(Self { socket })
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// If the operating system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Returns when the bell is rung, at once if it was rung since the last wait ended, or after
    /// `at_most`. Cancel-safe: a ring during a wait that was dropped ends the next one.
    pub async fn rung(&self, at_most: Duration) -> Wake {
        let deadline = Instant::now() + at_most;
        // What a datagram says does not matter, so that one byte of it is enough.
        let mut byte = [0];
        // Nothing is lost with a dropped future: it has not taken the datagram off the socket yet.
        match timeout_at(deadline, self.socket.recv(&mut byte)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "could not listen to the doorbell");
                // Without this, a socket that goes on failing would ring without end.
                sleep_until(deadline).await;
                return Wake::Quiet;
            }
            Err(_elapsed) => return Wake::Quiet,
        }
        for _ in 0..COALESCED_MAX {
            if self.socket.try_recv(&mut byte).is_err() {
                break;
            }
        }
        Wake::Rung
    }
}
