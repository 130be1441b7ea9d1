//! Publishers that keep their connections, publish at a steady pace, and count what they are told.
//!
//! The client is as plain as can be: no retries behind anybody's back. What a client library must do by itself
//! is written out here, and counted: open another connection when an answer says `connection: close`, and repeat a
//! request on a kept connection that was closed without a byte of an answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Longest wait for an answer: four services may have to end and start meanwhile, on a busy machine.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);

/// What they were told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Ids of acknowledged events.
    pub(crate) acknowledged: Vec<String>,
    /// Requests that failed: another status than 200 or 202, an answer cut short, or none at all.
    pub(crate) failures: Vec<String>,
    /// Requests that met a closed connection without a byte of an answer, and were repeated.
    pub(crate) repeated: usize,
    /// Connections that were refused, and tried at the next address.
    pub(crate) refused: usize,
}

pub(crate) struct Publishers {
    running: JoinSet<Told>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
}

impl Publishers {
    /// So many clients, each of which publishes once in `pace`, over the first of these addresses that takes it.
    pub(crate) fn start(
        addresses: &[SocketAddr],
        key: &str,
        clients: usize,
        pace: Duration,
    ) -> Publishers {
        let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut running = JoinSet::new();
        for name in 0..clients {
            let mut client = Client {
                addresses: addresses.to_vec(),
                key: key.to_owned(),
                name,
                connection: None,
                told: Told::default(),
            };
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            running.spawn(async move {
                let mut ticks = interval(pace);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    ticks.tick().await;
                    number += 1;
                    if client.publish(number).await {
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                }
                client.told
            });
        }
        Publishers {
            running,
            stop,
            acknowledged,
        }
    }

    /// Events acknowledged so far.
    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Lets them finish, and adds up what they were told.
    pub(crate) async fn stop(mut self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Told::default();
        while let Some(told) = self.running.join_next().await {
            let told = told.expect("no publisher panics");
            all.acknowledged.extend(told.acknowledged);
            all.failures.extend(told.failures);
            all.repeated += told.repeated;
            all.refused += told.refused;
        }
        all
    }
}

struct Client {
    addresses: Vec<SocketAddr>,
    key: String,
    name: usize,
    /// A kept connection has carried an answer before.
    connection: Option<BufReader<TcpStream>>,
    told: Told,
}

/// How a request on one connection ended without an answer.
enum Lost {
    /// Not a byte came.
    Silently,
    Amid(String),
}

impl Client {
    async fn publish(&mut self, number: usize) -> bool {
        let body = format!("{{\"type\":\"a.b\",\"payload\":{{\"number\":{number}}}}}");
        let request = format!(
            "POST /v1/events HTTP/1.1\r\nhost: zyven\r\nauthorization: Bearer {}\r\n\
             idempotency-key: {}-{number}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            self.key,
            self.name,
            body.len()
        );
        if let Some(connection) = self.connection.take() {
            match self.ask(connection, &request).await {
                Ok(answer) => return self.hear(answer),
                Err(Lost::Silently) => self.told.repeated += 1,
                Err(Lost::Amid(what)) => return self.fail(what),
            }
        }
        let Some(connection) = self.connect().await else {
            return self.fail("nobody takes a connection".to_owned());
        };
        match self.ask(connection, &request).await {
            Ok(answer) => self.hear(answer),
            Err(Lost::Silently) => self.fail("a fresh connection was closed".to_owned()),
            Err(Lost::Amid(what)) => self.fail(what),
        }
    }

    async fn connect(&mut self) -> Option<BufReader<TcpStream>> {
        for index in 0..self.addresses.len() {
            match TcpStream::connect(self.addresses[index]).await {
                Ok(stream) => {
                    stream.set_nodelay(true).expect("a socket takes options");
                    self.addresses.rotate_left(index);
                    return Some(BufReader::new(stream));
                }
                Err(_) => self.told.refused += 1,
            }
        }
        None
    }

    /// Sends and reads; keeps the connection unless the answer says otherwise.
    async fn ask(
        &mut self,
        mut connection: BufReader<TcpStream>,
        request: &str,
    ) -> Result<(u16, String), Lost> {
        if connection.write_all(request.as_bytes()).await.is_err() {
            return Err(Lost::Silently);
        }
        let answer = match timeout(ANSWER_TIME_MAX, read(&mut connection)).await {
            Ok(answer) => answer?,
            Err(_elapsed) => return Err(Lost::Amid("no answer in time".to_owned())),
        };
        let (status, body, closes) = answer;
        if !closes {
            self.connection = Some(connection);
        }
        Ok((status, body))
    }

    fn hear(&mut self, (status, body): (u16, String)) -> bool {
        if !matches!(status, 200 | 202) {
            return self.fail(format!("{status} {body}"));
        }
        let accepted: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let id = accepted["id"].as_str().expect("an id").to_owned();
        self.told.acknowledged.push(id);
        true
    }

    fn fail(&mut self, what: String) -> bool {
        self.told.failures.push(what);
        false
    }
}

/// Status, body, and whether the connection ends with it.
async fn read(connection: &mut BufReader<TcpStream>) -> Result<(u16, String, bool), Lost> {
    let mut line = String::new();
    match connection.read_line(&mut line).await {
        Ok(0) => return Err(Lost::Silently),
        Err(_) if line.is_empty() => return Err(Lost::Silently),
        Ok(_) => {}
        Err(error) => return Err(Lost::Amid(error.to_string())),
    }
    let amid = |error: std::io::Error| Lost::Amid(error.to_string());
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| Lost::Amid(line.clone()))?;
    let (mut length, mut closes) = (0, false);
    loop {
        line.clear();
        connection.read_line(&mut line).await.map_err(amid)?;
        let header = line.trim_end().to_ascii_lowercase();
        match header.split_once(": ") {
            Some(("content-length", value)) => length = value.parse().expect("a length"),
            Some(("connection", value)) => closes = value == "close",
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body).await.map_err(amid)?;
    let body = String::from_utf8(body).expect("UTF-8");
    Ok((status, body, closes))
}
