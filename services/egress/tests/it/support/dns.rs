//! A name server on a UDP socket that answers what a test tells it to.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::CNAME;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;

/// What is answered about a name.
#[derive(Clone)]
pub(crate) enum Reply {
    /// These records: addresses of the family that was asked for, and every alias.
    Records(Vec<(String, Value)>),
    Code(ResponseCode),
    Silence,
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
    queries: Vec<(String, RecordType)>,
}

impl NameServer {
    pub(crate) async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let state: Arc<Mutex<State>> = Arc::default();
        tokio::spawn(serve(socket, Arc::clone(&state)));
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

    /// What was asked so far, in lower case.
    pub(crate) fn queries(&self) -> Vec<(String, RecordType)> {
        self.state.lock().unwrap().queries.clone()
    }
}

/// A reply with addresses.
pub(crate) fn addresses_of(name: &str, addresses: &[&str]) -> Reply {
    let record = |ip: &&str| (format!("{name}."), Value::Ip(ip.parse().unwrap()));
    Reply::Records(addresses.iter().map(record).collect())
}

async fn serve(socket: UdpSocket, state: Arc<Mutex<State>>) {
    let mut datagram = [0; 1500];
    loop {
        let (bytes, from) = socket.recv_from(&mut datagram).await.unwrap();
        let query = Message::from_vec(&datagram[..bytes]).unwrap();
        if let Some(answer) = answer(&query, &mut state.lock().unwrap()) {
            let bytes = answer.to_vec().unwrap();
            socket.try_send_to(&bytes, from).unwrap();
        }
    }
}

fn answer(query: &Message, state: &mut State) -> Option<Message> {
    let question = query.queries[0].clone();
    let name = question.name().to_ascii().to_lowercase();
    let kind = question.query_type();
    state.queries.push((name.clone(), kind));

    // Both families belong to one look-up: the turn is that of the family asked about.
    let turn = state
        .queries
        .iter()
        .filter(|asked| **asked == (name.clone(), kind))
        .count()
        - 1;
    let reply = match state.replies.get(&name) {
        Some(replies) => replies[turn.min(replies.len() - 1)].clone(),
        None => Reply::Code(ResponseCode::NXDomain),
    };

    let mut answer = Message::new(query.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    answer.queries.push(question);
    match reply {
        Reply::Silence => return None,
        Reply::Code(code) => answer.metadata.response_code = code,
        Reply::Records(records) => {
            let records = records.into_iter().filter_map(|(name, value)| {
                let data = match value {
                    Value::Ip(IpAddr::V4(ip)) if kind == RecordType::A => RData::A(ip.into()),
                    Value::Ip(IpAddr::V6(ip)) if kind == RecordType::AAAA => RData::AAAA(ip.into()),
                    Value::Ip(_) => return None,
                    Value::Alias(of) => RData::CNAME(CNAME(Name::from_ascii(of).unwrap())),
                };
                // Not cacheable: each look-up is asked anew.
                Some(Record::from_rdata(Name::from_ascii(name).unwrap(), 0, data))
            });
            answer.answers.extend(records);
        }
    }
    Some(answer)
}
