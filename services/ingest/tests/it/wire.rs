//! One TCP connection, spoken to byte by byte.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::SOON;

pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

/// One answer, framed by what its own head says.
#[derive(Debug)]
pub(crate) struct WireAnswer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl WireAnswer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The stable code of a problem; empty if it is none.
    pub(crate) fn code(&self) -> String {
        serde_json::from_str::<Value>(&self.body)
            .ok()
            .and_then(|problem| Some(problem["code"].as_str()?.to_owned()))
            .unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn expect(&self, status: u16, code: &str) {
        assert_eq!(
            (self.status, self.code()),
            (status, code.to_owned()),
            "{self:?}"
        );
    }
}

impl Wire {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        Self {
            stream: TcpStream::connect(address).await.expect("connected"),
            read: Vec::new(),
        }
    }

    /// The other side may have closed by now; what it said before is read all the same.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// The next answer, or `None` if the other side closes without one more. `to_head` is true if the
    /// request was a HEAD, whose answers have no body whatever they say.
    pub(crate) async fn answer_to(&mut self, to_head: bool) -> Option<WireAnswer> {
        loop {
            if let Some(answer) = self.parse(to_head) {
                return Some(answer);
            }
            if self.fill().await == 0 {
                assert!(self.read.is_empty(), "half an answer: {:?}", self.rest());
                return None;
            }
        }
    }

    pub(crate) async fn maybe_answer(&mut self) -> Option<WireAnswer> {
        self.answer_to(false).await
    }

    pub(crate) async fn answer(&mut self) -> WireAnswer {
        self.maybe_answer().await.expect("an answer")
    }

    /// Waits until the other side closes, which must not say anything before.
    pub(crate) async fn closed(&mut self) {
        let answer = self.maybe_answer().await;
        assert!(answer.is_none(), "{answer:?}");
    }

    /// True if nothing comes for that long.
    pub(crate) async fn silent_for(&mut self, wait: Duration) -> bool {
        let mut byte = [0];
        timeout(wait, self.stream.peek(&mut byte)).await.is_err()
    }

    fn rest(&self) -> String {
        String::from_utf8_lossy(&self.read).into_owned()
    }

    /// A reset counts as an end.
    async fn fill(&mut self) -> usize {
        let mut piece = [0; 4096];
        let bytes = timeout(SOON, self.stream.read(&mut piece))
            .await
            .unwrap_or_else(|_| panic!("it hangs after {:?}", self.rest()))
            .unwrap_or(0);
        self.read.extend_from_slice(&piece[..bytes]);
        bytes
    }

    fn parse(&mut self, to_head: bool) -> Option<WireAnswer> {
        let mut lines = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Response::new(&mut lines);
        let parsed = head.parse(&self.read);
        let httparse::Status::Complete(head_bytes) = parsed.unwrap_or_else(|error| {
            panic!(
                "no answer ({error}): {:?}",
                String::from_utf8_lossy(&self.read)
            )
        }) else {
            return None;
        };
        let status = head.code.expect("a status");
        let headers: Vec<(String, String)> = head
            .headers
            .iter()
            .map(|line| {
                let value = String::from_utf8_lossy(line.value).into_owned();
                (line.name.to_ascii_lowercase(), value)
            })
            .collect();
        let length = headers
            .iter()
            .find(|(name, _)| name == "content-length")
            .map_or(0, |(_, value)| value.parse().expect("a length"));
        let has_body = !to_head && status != 204 && status >= 200;
        let end = head_bytes + if has_body { length } else { 0 };
        if self.read.len() < end {
            return None;
        }
        let body = String::from_utf8_lossy(&self.read[head_bytes..end]).into_owned();
        self.read.drain(..end);
        Some(WireAnswer {
            status,
            headers,
            body,
        })
    }
}

/// A request as somebody writes it who knows how.
pub(crate) fn request(method: &str, target: &str, key: &str, lines: &str, body: &str) -> String {
    let length = match (method, lines.to_ascii_lowercase()) {
        ("GET" | "HEAD", _) if body.is_empty() => String::new(),
        (_, lines) if lines.contains("content-length") || lines.contains("transfer-encoding") => {
            String::new()
        }
        _ => format!("content-length: {}\r\n", body.len()),
    };
    format!(
        "{method} {target} HTTP/1.1\r\nhost: zyven.test\r\nauthorization: Bearer {key}\r\n\
         {length}{lines}\r\n{body}"
    )
}

/// The line a body of JSON needs.
pub(crate) const JSON: &str = "content-type: application/json\r\n";

/// A good event.
pub(crate) const EVENT: &str = r#"{"type":"a","payload":1}"#;

/// An event, published as usual.
pub(crate) fn publishing(key: &str) -> String {
    request("POST", "/v1/events", key, JSON, EVENT)
}
