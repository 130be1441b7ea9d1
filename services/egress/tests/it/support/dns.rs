//! A name server, over UDP and TCP, that answers what a test tells it to.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{CNAME, SOA};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::sleep;

/// What is answered about a name.
#[derive(Clone)]
pub(crate) enum Reply {
    /// These records: addresses of the family that was asked for, and every alias. Nobody may keep them.
    Records(Vec<(String, Value)>),
    /// The same, to be kept for so many seconds.
    Kept(u32, Vec<(String, Value)>),
    Code(ResponseCode),
    /// There is no such name, and that may be kept for so many seconds.
    Missing(u32),
    Silence,
    /// Not now.
    After(Duration, Box<Reply>),
    /// Over UDP only that it is too long; over TCP this.
    OverTcp(Box<Reply>),
    /// These bytes behind the query's id, whatever they mean.
    Garbage(Vec<u8>),
}

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

#[derive(Clone)]
pub(crate) enum Value {
    Ip(IpAddr),
    Alias(String),
}

/// A running server.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    replies: HashMap<String, Vec<Reply>>,
    replies_about: HashMap<(String, RecordType), Reply>,
    queries: Vec<(String, RecordType, Transport)>,
}

impl NameServer {
    pub(crate) async fn start() -> Self {
        let (listener, socket) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            if let Ok(socket) = UdpSocket::bind(address).await {
                break (listener, socket);
            }
        };
        let address = socket.local_addr().unwrap();
        let state: Arc<Mutex<State>> = Arc::default();
        tokio::spawn(serve_udp(Arc::new(socket), Arc::clone(&state)));
        tokio::spawn(serve_tcp(listener, Arc::clone(&state)));
        Self { address, state }
    }

    /// A name has these addresses.
    pub(crate) fn has(&self, name: &str, addresses: &[&str]) {
        self.replies(name, vec![addresses_of(name, addresses)]);
    }

    /// The first look-up of a name gets the first reply, and so on; the last one stays.
    pub(crate) fn replies(&self, name: &str, replies: Vec<Reply>) {
        self.state
            .lock()
            .unwrap()
            .replies
            .insert(format!("{name}."), replies);
    }

    /// One family of a name always gets this reply, whatever the name's replies are.
    pub(crate) fn replies_about(&self, name: &str, kind: RecordType, reply: Reply) {
        let mut state = self.state.lock().unwrap();
        state
            .replies_about
            .insert((format!("{name}."), kind), reply);
    }

    /// What was asked so far, in lower case.
    pub(crate) fn queries(&self) -> Vec<(String, RecordType)> {
        let state = self.state.lock().unwrap();
        let asked = state.queries.iter();
        asked.map(|(name, kind, _)| (name.clone(), *kind)).collect()
    }

    /// How often a name was asked for, in either family, and this way.
    pub(crate) fn count(&self, name: &str, transport: Transport) -> usize {
        let state = self.state.lock().unwrap();
        let is_it = |asked: &&(String, RecordType, Transport)| {
            asked.0.strip_suffix('.') == Some(name) && asked.2 == transport
        };
        state.queries.iter().filter(is_it).count()
    }
}

/// A record that says a name is another one.
pub(crate) fn alias(name: &str, of: &str) -> (String, Value) {
    (format!("{name}."), Value::Alias(format!("{of}.")))
}

/// A record with an address.
pub(crate) fn address(name: &str, ip: &str) -> (String, Value) {
    (format!("{name}."), Value::Ip(ip.parse().unwrap()))
}

/// Records with addresses.
pub(crate) fn records_of(name: &str, addresses: &[&str]) -> Vec<(String, Value)> {
    addresses.iter().map(|ip| address(name, ip)).collect()
}

/// A reply with addresses.
pub(crate) fn addresses_of(name: &str, addresses: &[&str]) -> Reply {
    Reply::Records(records_of(name, addresses))
}

async fn serve_udp(socket: Arc<UdpSocket>, state: Arc<Mutex<State>>) {
    let mut datagram = [0; 1500];
    loop {
        let (bytes, from) = socket.recv_from(&mut datagram).await.unwrap();
        let answer = answer(&datagram[..bytes], Transport::Udp, &state);
        let socket = Arc::clone(&socket);
        tokio::spawn(async move {
            if let Some(bytes) = answer.await {
                // Whoever asked may have stopped listening.
                let _ = socket.send_to(&bytes, from).await;
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, state: Arc<Mutex<State>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(serve_stream(stream, Arc::clone(&state)));
    }
}

/// Each message follows its length (RFC 1035, section 4.2.2).
async fn serve_stream(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    while let Ok(bytes) = stream.read_u16().await {
        let mut query = vec![0; bytes.into()];
        stream.read_exact(&mut query).await.unwrap();
        if let Some(answer) = answer(&query, Transport::Tcp, &state).await {
            let _ = stream.write_u16(answer.len().try_into().unwrap()).await;
            let _ = stream.write_all(&answer).await;
        }
    }
}

/// The answer's bytes, once it is time for them. The query is noted at once.
fn answer(
    query: &[u8],
    transport: Transport,
    state: &Mutex<State>,
) -> impl Future<Output = Option<Vec<u8>>> + use<> {
    let query = Message::from_vec(query).unwrap();
    let reply = next_reply(&query, transport, &mut state.lock().unwrap());
    async move {
        let mut reply = reply;
        loop {
            reply = match (reply, transport) {
                (Reply::After(wait, then), _) => {
                    sleep(wait).await;
                    *then
                }
                (Reply::OverTcp(then), Transport::Tcp) => *then,
                (reply, _) => break message(&query, reply),
            };
        }
    }
}

fn next_reply(query: &Message, transport: Transport, state: &mut State) -> Reply {
    let question = &query.queries[0];
    let name = question.name().to_ascii().to_lowercase();
    let kind = question.query_type();
    state.queries.push((name.clone(), kind, transport));
    if let Some(reply) = state.replies_about.get(&(name.clone(), kind)) {
        return reply.clone();
    }

    // Both families belong to one look-up: the turn is that of the family asked about. A query that
    // comes again over TCP is the same one.
    let turn = state
        .queries
        .iter()
        .filter(|asked| (&asked.0, asked.1, asked.2) == (&name, kind, transport))
        .count()
        - 1;
    match state.replies.get(&name) {
        Some(replies) => replies[turn.min(replies.len() - 1)].clone(),
        None => Reply::Code(ResponseCode::NXDomain),
    }
}

fn message(query: &Message, reply: Reply) -> Option<Vec<u8>> {
    let question = query.queries[0].clone();
    let kind = question.query_type();
    let mut answer = Message::new(query.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    answer.queries.push(question);
    let (ttl, records) = match reply {
        Reply::Silence => return None,
        Reply::Garbage(bytes) => return Some([&query.id.to_be_bytes()[..], &bytes].concat()),
        Reply::Code(code) => {
            answer.metadata.response_code = code;
            (0, vec![])
        }
        Reply::Missing(ttl) => {
            let zone = Name::root();
            let soa = SOA::new(zone.clone(), zone.clone(), 1, 1, 1, 1, ttl);
            answer.metadata.response_code = ResponseCode::NXDomain;
            answer
                .authorities
                .push(Record::from_rdata(zone, ttl, RData::SOA(soa)));
            (0, vec![])
        }
        Reply::OverTcp(_) => {
            answer.metadata.truncation = true;
            (0, vec![])
        }
        Reply::Records(records) => (0, records),
        Reply::Kept(ttl, records) => (ttl, records),
        Reply::After(..) => unreachable!("waited for"),
    };
    answer
        .answers
        .extend(records.into_iter().filter_map(|(name, value)| {
            let data = match value {
                Value::Ip(IpAddr::V4(ip)) if kind == RecordType::A => RData::A(ip.into()),
                Value::Ip(IpAddr::V6(ip)) if kind == RecordType::AAAA => RData::AAAA(ip.into()),
                Value::Ip(_) => return None,
                Value::Alias(of) => RData::CNAME(CNAME(Name::from_ascii(of).unwrap())),
            };
            Some(Record::from_rdata(
                Name::from_ascii(name).unwrap(),
                ttl,
                data,
            ))
        }));
    Some(answer.to_vec().unwrap())
}
