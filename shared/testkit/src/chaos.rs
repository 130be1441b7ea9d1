//! A TCP proxy that misbehaves on demand.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

const PIECE_BYTES: usize = 16 * 1024;

/// How the network behaves at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Weather {
    reachable: bool,
    flowing: bool,
    delay: Duration,
    replies_lost: bool,
    /// Every change ends the connections that were made before it.
    era: u64,
}

/// A proxy between a service and PostgreSQL, Redis or anything else on TCP. Ends when dropped.
///
/// Changes take effect at once, for connections that exist as for later ones.
#[derive(Debug)]
pub struct ChaosProxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    listening: tokio::task::AbortHandle,
}

impl ChaosProxy {
    /// A proxy to `target` that behaves well so far.
    pub async fn start(target: SocketAddr) -> ChaosProxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port is free");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let weather = Weather {
            reachable: true,
            flowing: true,
            delay: Duration::ZERO,
            replies_lost: false,
            era: 0,
        };
        let (weather, forecast) = watch::channel(weather);
        let listening = tokio::spawn(listen(listener, target, forecast)).abort_handle();
        ChaosProxy {
            address,
            weather,
            listening,
        }
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection and every attempt at one, until [`ChaosProxy::heal`].
    pub fn cut(&self) {
        self.weather.send_modify(|weather| {
            weather.reachable = false;
            weather.era += 1;
        });
    }

    /// Ends the connections that exist; new ones work.
    pub fn cut_once(&self) {
        self.weather.send_modify(|weather| weather.era += 1);
    }

    /// Lets nothing through in either direction while connections stay open, until [`ChaosProxy::heal`].
    pub fn pause(&self) {
        self.weather.send_modify(|weather| weather.flowing = false);
    }

    /// Holds up each piece of data, in each direction, for this long.
    pub fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    /// Requests arrive, replies vanish, until [`ChaosProxy::heal`]. Followed by [`ChaosProxy::cut_once`] this is how a
    /// COMMIT's outcome becomes unknown. A healed connection has a hole in its replies: cut it.
    pub fn lose_replies(&self) {
        self.weather
            .send_modify(|weather| weather.replies_lost = true);
    }

    /// Behaves well again. What was held back by a pause flows on.
    pub fn heal(&self) {
        self.weather.send_modify(|weather| {
            let era = weather.era;
            *weather = Weather {
                reachable: true,
                flowing: true,
                delay: Duration::ZERO,
                replies_lost: false,
                era,
            };
        });
    }
}

impl Drop for ChaosProxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// Accepts until aborted; the connections' tasks end with it.
async fn listen(listener: TcpListener, target: SocketAddr, weather: watch::Receiver<Weather>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _peer)) = listener.accept().await else {
            continue;
        };
        while connections.try_join_next().is_some() {}
        connections.spawn(connect(client, target, weather.clone()));
    }
}

async fn connect(client: TcpStream, target: SocketAddr, mut weather: watch::Receiver<Weather>) {
    let now = *weather.borrow();
    if !now.reachable {
        // Refusing would need the port itself to go; a reset is what a client of a dead host's NAT sees.
        let _ = client.set_zero_linger();
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    let up = forward(
        client_reads,
        server_writes,
        weather.clone(),
        Direction::Request,
    );
    let down = forward(
        server_reads,
        client_writes,
        weather.clone(),
        Direction::Reply,
    );
    tokio::select! {
        // Both directions done, or the era over: the sockets close as they are dropped.
        _ = async { tokio::join!(up, down) } => {}
        _ = weather.wait_for(|weather| weather.era != now.era) => {}
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Reply,
}

async fn forward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
    direction: Direction,
) {
    let mut piece = vec![0; PIECE_BYTES];
    while let Ok(bytes @ 1..) = from.read(&mut piece).await {
        let Ok(now) = weather
            .wait_for(|weather| weather.flowing)
            .await
            .map(|weather| *weather)
        else {
            return;
        };
        if !now.delay.is_zero() {
            tokio::time::sleep(now.delay).await;
        }
        if now.replies_lost && direction == Direction::Reply {
            continue;
        }
        if to.write_all(&piece[..bytes]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
