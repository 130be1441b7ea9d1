//! A proxy, its callers, and endpoints behind it.

pub(crate) mod dns;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use zyven_domain::handshake::{Request, WORKING, basic};
use zyven_egress::{Config, Error};
use zyven_runtime::config::Source;
use zyven_runtime::metrics::Metrics;
use zyven_runtime::shutdown::{Shutdown, Trigger};

use dns::NameServer;

pub(crate) const CREDENTIAL: &str = "a-credential-for-tests";
/// Longer than anything here takes, shorter than a test's patience.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A running proxy on a free port of loopback.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) metrics: Metrics,
    trigger: Trigger,
    running: JoinHandle<Result<(), Error>>,
}

impl Proxy {
    /// A proxy with the settings given; the rest as tests need it: loopback is open, limits are short.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_beside(settings, Vec::new()).await
    }

    /// A proxy in a process with further listeners.
    pub(crate) async fn start_beside(
        settings: &[(&str, &str)],
        own_listeners: Vec<SocketAddr>,
    ) -> Self {
        let defaults = [
            ("ZYVEN_EGRESS_CREDENTIAL", CREDENTIAL),
            ("ZYVEN_EGRESS_ALLOW_CIDRS", "127.0.0.0/8"),
            // Nobody answers there, and nobody should be asked.
            ("ZYVEN_EGRESS_NAMESERVERS", "127.0.0.1:1"),
            ("ZYVEN_EGRESS_DNS_TIMEOUT", "2s"),
        ];
        let given = |name| settings.iter().any(|(given, _)| *given == name);
        let pairs: Vec<_> = defaults
            .into_iter()
            .filter(|(name, _)| !given(*name))
            .chain(settings.iter().copied())
            .collect();
        let mut config = Config::read(&mut Source::from_pairs(pairs)).unwrap();
        config.own_listeners = own_listeners;

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Metrics::default();
        let (trigger, shutdown) = Shutdown::new();
        let running = tokio::spawn(zyven_egress::run(
            listener,
            config,
            metrics.clone(),
            shutdown,
        ));
        Self {
            address,
            metrics,
            trigger,
            running,
        }
    }

    /// A proxy that asks this name server.
    pub(crate) async fn asking(server: &NameServer, settings: &[(&str, &str)]) -> Self {
        let address = server.address.to_string();
        let mut all = vec![("ZYVEN_EGRESS_NAMESERVERS", address.as_str())];
        all.extend_from_slice(settings);
        Self::start(&all).await
    }

    /// Asks for a tunnel with the right credential.
    pub(crate) async fn connect(&self, target: impl ToString) -> Answer {
        self.send(&connect_request(&target.to_string(), CREDENTIAL))
            .await
    }

    /// Asks as a dispatcher does, which needs the answer within a time.
    pub(crate) async fn connect_within(&self, target: impl ToString, within: Duration) -> Answer {
        let head = Request::write(&target.to_string(), &basic(CREDENTIAL), within);
        self.send(&head).await
    }

    /// Sends a head as it is and reads the answer.
    pub(crate) async fn send(&self, head: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        Answer::read(stream).await
    }

    pub(crate) fn request_stop(&self) {
        self.trigger.request();
    }

    /// Waits until `run` has returned.
    pub(crate) async fn stopped(self) {
        timeout(SOON, self.running).await.unwrap().unwrap().unwrap();
    }
}

/// A CONNECT head with a credential.
pub(crate) fn connect_request(target: &str, credential: &str) -> String {
    let token = STANDARD.encode(format!("dispatcher:{credential}"));
    format!(
        "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic {token}\r\n\r\n"
    )
}

/// What the proxy said, and the connection it said it on.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    /// Of a refusal; empty for a tunnel.
    pub(crate) body: String,
    /// How often the proxy said before that it works on it.
    pub(crate) interim: usize,
    pub(crate) stream: TcpStream,
}

impl Answer {
    pub(crate) async fn read(mut stream: TcpStream) -> Self {
        let mut interim = 0;
        let head = loop {
            let head = read_head(&mut stream).await;
            if head != WORKING {
                break head;
            }
            interim += 1;
        };
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut body = String::new();
        if status != 200 {
            timeout(SOON, stream.read_to_string(&mut body))
                .await
                .unwrap()
                .unwrap();
        }
        Self {
            status,
            head,
            body,
            interim,
            stream,
        }
    }

    pub(crate) fn reason(&self) -> &str {
        self.head
            .lines()
            .find_map(|line| line.strip_prefix("x-zyven-egress-reason: "))
            .unwrap_or("")
    }

    /// The tunnel.
    #[track_caller]
    pub(crate) fn opened(self) -> TcpStream {
        assert_eq!(self.status, 200, "{} {}", self.head, self.body);
        self.stream
    }

    #[track_caller]
    pub(crate) fn refused(&self, status: u16, reason: &str) {
        assert_eq!(
            (self.status, self.reason()),
            (status, reason),
            "{}",
            self.body
        );
    }
}

/// Byte by byte, so that nothing of the tunnel is swallowed.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let byte = timeout(SOON, stream.read_u8()).await.unwrap().unwrap();
        bytes.push(byte);
    }
    String::from_utf8(bytes).unwrap()
}

/// An address that takes no connection and refuses none: the queue of its listener is full.
pub(crate) struct BlackHole {
    pub(crate) address: SocketAddr,
    _listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl BlackHole {
    pub(crate) async fn dig(ip: Ipv4Addr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((ip, 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queue = Vec::new();
        let full = Duration::from_millis(200);
        while let Ok(Ok(stream)) = timeout(full, TcpStream::connect(address)).await {
            queue.push(stream);
        }
        Self {
            address,
            _listener: listener,
            _queue: queue,
        }
    }
}

/// An endpoint that sends back what it receives.
pub(crate) async fn echo() -> SocketAddr {
    echo_on(TcpListener::bind("127.0.0.1:0").await.unwrap())
}

pub(crate) fn echo_on(listener: TcpListener) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

/// Sends bytes through a tunnel to an echo and checks that they come back.
pub(crate) async fn assert_echoes(tunnel: &mut TcpStream) {
    tunnel.write_all(b"ping").await.unwrap();
    let mut back = [0; 4];
    timeout(SOON, tunnel.read_exact(&mut back))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&back, b"ping");
}

/// Waits until the other side has closed.
pub(crate) async fn assert_closes(tunnel: &mut TcpStream) {
    let mut byte = [0];
    match timeout(SOON, tunnel.read(&mut byte)).await.unwrap() {
        Ok(read) => assert_eq!(read, 0, "bytes instead of an end"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}
