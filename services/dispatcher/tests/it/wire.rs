//! Servers that do on the wire what no HTTP library would do for them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::AbortHandle;

use crate::support::{Dispatcher, Logged, Stage, Terms};

/// Does with each connection what a test wants of it. Ends when dropped; connections end by themselves.
pub(crate) struct WireServer {
    pub(crate) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    listening: AbortHandle,
}

impl WireServer {
    /// `serve` gets every connection, which is closed when it is done with it.
    pub(crate) async fn start<F, S>(serve: S) -> WireServer
    where
        S: Fn(Caller) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&accepted);
        let listening = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::Relaxed);
                stream.set_nodelay(true).unwrap();
                tokio::spawn(serve(Caller {
                    stream,
                    unread: Vec::new(),
                }));
            }
        });
        WireServer {
            address,
            accepted,
            listening: listening.abort_handle(),
        }
    }

    /// Answers every request with these bytes and waits for the next one.
    pub(crate) async fn saying(answer: impl Into<Vec<u8>>) -> WireServer {
        let answer: Arc<[u8]> = answer.into().into();
        WireServer::start(move |mut caller| {
            let answer = Arc::clone(&answer);
            async move {
                while caller.read_request().await {
                    caller.say(&answer).await;
                }
            }
        })
        .await
    }

    /// Answers one request with these bytes and closes.
    pub(crate) async fn saying_once(answer: impl Into<Vec<u8>>) -> WireServer {
        let answer: Arc<[u8]> = answer.into().into();
        WireServer::start(move |mut caller| {
            let answer = Arc::clone(&answer);
            async move {
                if caller.read_request().await {
                    caller.say(&answer).await;
                }
            }
        })
        .await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for WireServer {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// The other end of one connection.
pub(crate) struct Caller {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Caller {
    /// Reads the head of a request; false if the connection ends before.
    pub(crate) async fn read_head(&mut self) -> bool {
        loop {
            if let Some(end) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                return end > 0;
            }
            if !self.read_more().await {
                return false;
            }
        }
    }

    /// Reads one whole request; false if the connection ends before.
    pub(crate) async fn read_request(&mut self) -> bool {
        if !self.read_head().await {
            return false;
        }
        let head_bytes = self
            .unread
            .windows(4)
            .position(|f| f == b"\r\n\r\n")
            .unwrap()
            + 4;
        let head = String::from_utf8_lossy(&self.unread[..head_bytes]).to_ascii_lowercase();
        let body_bytes: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
            .unwrap_or_default();
        while self.unread.len() < head_bytes + body_bytes {
            if !self.read_more().await {
                return false;
            }
        }
        self.unread.drain(..head_bytes + body_bytes);
        true
    }

    async fn read_more(&mut self) -> bool {
        self.stream
            .read_buf(&mut self.unread)
            .await
            .is_ok_and(|bytes| bytes > 0)
    }

    /// Writes; whether the other side still listens is its own affair.
    pub(crate) async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Waits until the other side closes, dropping what it says.
    pub(crate) async fn linger(mut self) {
        self.unread.clear();
        while self.read_more().await {
            self.unread.clear();
        }
    }

    /// Closes with RST.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }
}

/// What became of an attempt, and of its connection.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// `delivered`, or the reason of the dead letter: with one attempt in all, `attempts_exhausted` is
    /// what is otherwise retried.
    pub(crate) verdict: String,
    pub(crate) attempt: Logged,
    /// Whether the next request went out on the same connection.
    pub(crate) reused: bool,
}

/// One attempt at this URL, and a second one to see what became of the connection.
pub(crate) async fn meet(stage: &Stage, url: &str, timeout_ms: u64) -> Outcome {
    let (verdict, attempt) = meet_once(stage, url, timeout_ms).await;
    let (_, second) = stage.first_attempt().await;
    Outcome {
        verdict,
        attempt,
        reused: second.reused,
    }
}

/// One attempt at this URL, on a connection of its own: nothing else goes to any other endpoint.
pub(crate) async fn meet_once(stage: &Stage, url: &str, timeout_ms: u64) -> (String, Logged) {
    stage.retire_endpoints().await;
    let terms = Terms {
        timeout_ms,
        attempts_max: 1,
    };
    stage.endpoint_at(url, terms).await;
    let (event, attempt) = stage.first_attempt().await;
    let delivery = stage.delivery(event).await;
    let verdict = delivery.reason.unwrap_or(delivery.state);
    (verdict, attempt)
}

/// A stage with a dispatcher at work, for many endpoints one after the other.
pub(crate) async fn stage() -> (Stage, Dispatcher) {
    let stage = Stage::new().await;
    let dispatcher = stage.start();
    (stage, dispatcher)
}

/// A name server that says of every name that it does not exist, or nothing at all.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    answering: AbortHandle,
}

impl NameServer {
    pub(crate) async fn knowing_nothing() -> NameServer {
        // QR, RD, RA, and NXDOMAIN.
        NameServer::start(Some([0x81, 0x83])).await
    }

    pub(crate) async fn failing() -> NameServer {
        // The same with SERVFAIL.
        NameServer::start(Some([0x81, 0x82])).await
    }

    pub(crate) async fn silent() -> NameServer {
        NameServer::start(None).await
    }

    async fn start(flags: Option<[u8; 2]>) -> NameServer {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let answering = tokio::spawn(async move {
            let mut query = [0; 512];
            loop {
                let (bytes, from) = socket.recv_from(&mut query).await.unwrap();
                let Some(flags) = flags else { continue };
                // The id; then the flags, one question and nothing else; then the question's own name,
                // type and class.
                let mut answer = query[..2].to_vec();
                answer.extend_from_slice(&flags);
                answer.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
                let name_bytes = query[12..bytes].iter().position(|&byte| byte == 0).unwrap();
                answer.extend_from_slice(&query[12..12 + name_bytes + 5]);
                let _ = socket.send_to(&answer, from).await;
            }
        });
        NameServer {
            address,
            answering: answering.abort_handle(),
        }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.answering.abort();
    }
}
