//! A scripted HTTP receiver on a real socket.

mod answer;
mod serve;

use std::collections::HashMap;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

pub use answer::Answer;

use crate::tls::TestCa;
use crate::wait::wait_until;

/// One request as it arrived, to the byte.
#[derive(Debug, Clone)]
pub struct ReceivedRequest {
    /// Counts connections of this receiver from 1: the same number means a reused connection.
    pub connection: u64,
    /// When the last byte of the body was here.
    pub arrived_at: Instant,
    /// The request's method.
    pub method: Method,
    /// The path without the query.
    pub path: String,
    /// The query without its question mark.
    pub query: Option<String>,
    /// All headers, in order of arrival per name.
    pub headers: HeaderMap,
    /// The exact body.
    pub body: Bytes,
    /// The certificate that the client has shown on this connection.
    pub client_certificate: Option<CertificateDer<'static>>,
}

impl ReceivedRequest {
    /// The header's text, or an empty one where it is absent or not ASCII.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

type Decide = Box<dyn FnMut(&ReceivedRequest) -> Option<Answer> + Send>;

/// What is shared between the handle, the listener's task and the connections' tasks. The lock is held for
/// look-ups and appends only, never across an await.
#[derive(Default)]
struct Shared {
    script: Mutex<Script>,
    requests: Mutex<Vec<ReceivedRequest>>,
    arrivals: watch::Sender<usize>,
    connections: watch::Sender<u64>,
}

#[derive(Default)]
struct Script {
    decide: Option<Decide>,
    in_turn: HashMap<String, VecDeque<Answer>>,
    always: HashMap<String, Answer>,
    otherwise: Answer,
}

impl Shared {
    fn record(&self, request: &ReceivedRequest) -> Answer {
        let answer = guard(&self.script).next(request);
        let mut requests = guard(&self.requests);
        requests.push(request.clone());
        self.arrivals.send_replace(requests.len());
        answer
    }
}

impl Script {
    fn next(&mut self, request: &ReceivedRequest) -> Answer {
        if let Some(answer) = self.decide.as_mut().and_then(|decide| decide(request)) {
            return answer;
        }
        if let Some(answer) = self
            .in_turn
            .get_mut(&request.path)
            .and_then(VecDeque::pop_front)
        {
            return answer;
        }
        self.always
            .get(&request.path)
            .unwrap_or(&self.otherwise)
            .clone()
    }
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// An HTTP/1.1 server that answers by script and remembers every request. Answers 200 to whatever the script
/// does not mention. Ends, with its connections, when dropped.
pub struct Receiver {
    shared: Arc<Shared>,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    /// Ends the listener's task, which ends its connections' tasks with it.
    listening: Option<tokio::task::AbortHandle>,
}

impl Receiver {
    /// A receiver at `http://127.0.0.1:<some port>`.
    pub async fn start() -> Receiver {
        Receiver::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), None).await
    }

    /// A receiver at `https://127.0.0.1:<some port>`, with a certificate of the CA for these names and addresses.
    pub async fn start_tls(ca: &TestCa, names: &[&str]) -> Receiver {
        Receiver::start_tls_with(ca.server_config(names)).await
    }

    /// A receiver at `https://127.0.0.1:<some port>` that shakes hands as it is told to.
    pub async fn start_tls_with(config: Arc<ServerConfig>) -> Receiver {
        let tls = TlsAcceptor::from(config);
        Receiver::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Some(tls)).await
    }

    async fn start_at(address: SocketAddr, tls: Option<TlsAcceptor>) -> Receiver {
        let mut receiver = Receiver {
            shared: Arc::default(),
            address,
            tls,
            listening: None,
        };
        receiver.reopen().await;
        receiver
    }

    /// Where it listens; the same after [`Receiver::reopen`].
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// URL of a path, which starts with a slash.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address)
    }

    /// The answer for requests that nothing else is scripted for.
    pub fn answer(&self, answer: Answer) {
        guard(&self.shared.script).otherwise = answer;
    }

    /// The answer for this path, unless answers in turn are left.
    pub fn answer_at(&self, path: &str, answer: Answer) {
        guard(&self.shared.script)
            .always
            .insert(path.to_owned(), answer);
    }

    /// Answers for the next requests at this path, one each; afterwards as if they had not been there.
    pub fn answer_in_turn(&self, path: &str, answers: impl IntoIterator<Item = Answer>) {
        guard(&self.shared.script)
            .in_turn
            .entry(path.to_owned())
            .or_default()
            .extend(answers);
    }

    /// Asked first for every request; `None` leaves it to the rest of the script.
    pub fn answer_by(
        &self,
        decide: impl FnMut(&ReceivedRequest) -> Option<Answer> + Send + 'static,
    ) {
        guard(&self.shared.script).decide = Some(Box::new(decide));
    }

    /// Everything received so far, in order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        guard(&self.shared.requests).clone()
    }

    /// What has been received at one path so far.
    #[must_use]
    pub fn requests_at(&self, path: &str) -> Vec<ReceivedRequest> {
        guard(&self.shared.requests)
            .iter()
            .filter(|request| request.path == path)
            .cloned()
            .collect()
    }

    /// Number of requests so far, without copying them.
    #[must_use]
    pub fn request_count(&self) -> usize {
        guard(&self.shared.requests).len()
    }

    /// Number of connections accepted so far.
    #[must_use]
    pub fn connection_count(&self) -> u64 {
        *self.shared.connections.borrow()
    }

    /// Forgets what was received; the script and the connections stay.
    pub fn forget_requests(&self) {
        let mut requests = guard(&self.shared.requests);
        requests.clear();
        self.shared.arrivals.send_replace(0);
    }

    /// Waits until at least `count` requests are here and returns all of them.
    ///
    /// # Panics
    ///
    /// When `deadline` has passed.
    #[track_caller]
    pub fn wait_for_requests(
        &self,
        count: usize,
        deadline: Duration,
    ) -> impl Future<Output = Vec<ReceivedRequest>> {
        let shared = Arc::clone(&self.shared);
        let description = format!("the receiver at {} has {count} requests", self.address);
        let caller = std::panic::Location::caller();
        async move {
            let mut arrivals = shared.arrivals.subscribe();
            let arrived =
                tokio::time::timeout(deadline, arrivals.wait_for(|&arrived| arrived >= count))
                    .await;
            let requests = guard(&shared.requests).clone();
            if arrived.is_err() {
                let paths: Vec<&str> = requests
                    .iter()
                    .map(|request| request.path.as_str())
                    .collect();
                panic!(
                    "waited {deadline:?} in vain until {description}\n  received: {paths:?}\n  at {caller}"
                );
            }
            requests
        }
    }

    /// Like [`Receiver::wait_for_requests`], counting only those at one path.
    pub async fn wait_for_requests_at(
        &self,
        path: &str,
        count: usize,
        deadline: Duration,
    ) -> Vec<ReceivedRequest> {
        wait_until(
            &format!("{path} has {count} requests"),
            deadline,
            async || {
                let requests = self.requests_at(path);
                if requests.len() >= count {
                    Ok(requests)
                } else {
                    Err(requests.len())
                }
            },
        )
        .await
    }

    /// Stops listening and cuts every connection: further connections are refused.
    pub async fn close(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
            let address = self.address;
            wait_until(
                "the receiver refuses connections",
                Duration::from_secs(5),
                async || TcpStream::connect(address).await.is_err(),
            )
            .await;
        }
    }

    /// Listens again, at the same address; harmless when it does.
    pub async fn reopen(&mut self) {
        if self.listening.is_some() {
            return;
        }
        let listener = TcpListener::bind(self.address)
            .await
            .unwrap_or_else(|error| {
                panic!("the receiver cannot listen at {}: {error}", self.address)
            });
        self.address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let task = serve::listen(listener, self.tls.clone(), Arc::clone(&self.shared));
        self.listening = Some(tokio::spawn(task).abort_handle());
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
        }
    }
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver")
            .field("address", &self.address)
            .field("requests", &self.request_count())
            .finish_non_exhaustive()
    }
}
