//! Zyven's API as the bench uses it: plain HTTP/1.1 on connections of its own.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;
use uuid::Uuid;
use zyven_cli::{Key, Refusal, RefusalHead};

use super::error::Error;

/// Longer than the API takes to say that it cannot.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// What stands before an event's id in an answer.
const BEFORE_ID: &[u8] = br#""id":"evt_"#;
const ID_DIGITS: usize = 32;

/// Where the API is, and what opens it.
pub(super) struct Api {
    url: String,
    address: SocketAddr,
    /// The same for all requests.
    headers: HeaderMap,
    events: Uri,
    batches: Uri,
}

/// One connection, for one request at a time. Dropping it closes it.
pub(super) struct Connection(SendRequest<Full<Bytes>>);

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// How long the API wants to be left alone.
    pub(super) retry_after: Option<Duration>,
    /// Nothing is kept of a success's.
    refusal: RefusalHead,
    pub(super) body: Bytes,
}

/// Why there was no answer. It is unknown whether the request had an effect.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    #[error("connecting failed")]
    Connect(#[source] std::io::Error),
    #[error("the exchange failed")]
    Exchange(#[source] hyper::Error),
    #[error("no answer came within {ANSWER_TIME_MAX:?}")]
    TimedOut,
}

impl Api {
    /// Looks the host up; connects nowhere.
    pub(super) async fn new(url: &Url, key: &Key) -> Result<Self, Error> {
        let wrong_url = || Error::ApiUrl(url.to_string());
        let host = url
            .host_str()
            .filter(|_| url.scheme() == "http")
            .ok_or_else(wrong_url)?;
        let port = url.port_or_known_default().ok_or_else(wrong_url)?;
        let authority = format!("{host}:{port}");
        let unknown = |source| Error::ApiHost {
            host: host.to_owned(),
            source,
        };
        let address = tokio::net::lookup_host(&authority)
            .await
            .map_err(unknown)?
            .next()
            .ok_or_else(|| unknown(std::io::ErrorKind::NotFound.into()))?;
        let uri = |path: &str| {
            let base = url.path().trim_end_matches('/');
            format!("{base}{path}").parse().map_err(|_| wrong_url())
        };
        let mut headers = HeaderMap::new();
        headers.insert(
            HOST,
            HeaderValue::try_from(authority).map_err(|_| wrong_url())?,
        );
        headers.insert(AUTHORIZATION, key.authorization());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(Self {
            url: url.as_str().trim_end_matches('/').to_owned(),
            address,
            headers,
            events: uri("/v1/events")?,
            batches: uri("/v1/events/batch")?,
        })
    }

    pub(super) async fn connect(&self) -> Result<Connection, Unanswered> {
        let stream = TcpStream::connect(self.address)
            .await
            .map_err(Unanswered::Connect)?;
        // Requests are written whole; waiting for more would measure the wait.
        stream.set_nodelay(true).map_err(Unanswered::Connect)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(Unanswered::Exchange)?;
        // Ends when the sender is dropped or the API closes; what is wrong, the sender says.
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        Ok(Connection(sender))
    }

    /// A request with one event.
    pub(super) fn publish(&self, body: Bytes, key: Option<String>) -> Request<Full<Bytes>> {
        let mut request = self.request(Method::POST, self.events.clone(), body);
        if let Some(key) = key.and_then(|key| HeaderValue::try_from(key).ok()) {
            request.headers_mut().insert(IDEMPOTENCY_KEY, key);
        }
        request
    }

    /// A request with many events.
    pub(super) fn publish_batch(&self, body: Bytes) -> Request<Full<Bytes>> {
        self.request(Method::POST, self.batches.clone(), body)
    }

    fn request(&self, method: Method, uri: Uri, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// Makes an endpoint that takes one type of events, and returns its id.
    pub(super) async fn make_endpoint(&self, url: &str, event_type: &str) -> Result<String, Error> {
        let endpoint = json!({
            "url": url,
            "description": "made by zyven bench",
            "event_types": [event_type],
        });
        let body = endpoint.to_string().into();
        let answer = self.manage(Method::POST, "/v1/endpoints", body).await?;
        let made: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let id = made.get("id").and_then(Value::as_str);
        id.map(str::to_owned)
            .ok_or_else(|| refused((Method::POST, "/v1/endpoints"), &answer))
    }

    pub(super) async fn delete_endpoint(&self, id: &str) -> Result<(), Error> {
        self.manage(Method::DELETE, &format!("/v1/endpoints/{id}"), Bytes::new())
            .await
            .map(drop)
    }

    async fn manage(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, Error> {
        let base = self.events.path().trim_end_matches("/v1/events");
        let uri = format!("{base}{path}")
            .parse()
            .map_err(|_| Error::ApiUrl(self.url.clone()))?;
        let unreachable = |source| Error::Unreachable {
            url: self.url.clone(),
            source,
        };
        let mut connection = self.connect().await.map_err(unreachable)?;
        let request = self.request(method.clone(), uri, body);
        let answer = connection.exchange(request).await.map_err(unreachable)?;
        if answer.status.is_success() {
            Ok(answer)
        } else {
            Err(refused((method, path), &answer))
        }
    }
}

/// An answer that makes going on pointless.
pub(super) fn refused(request: (Method, &str), answer: &Answer) -> Error {
    let head = answer.refusal.clone();
    let refusal = Refusal::new(request, answer.status, head, &answer.body);
    Error::Refused(Box::new(refusal))
}

impl Connection {
    /// Whether the API has not closed it.
    pub(super) fn is_open(&self) -> bool {
        !self.0.is_closed()
    }

    /// After an error the connection is of no further use.
    pub(super) async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, Unanswered> {
        let exchange = async {
            self.0.ready().await?;
            let (head, body) = self.0.send_request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            let retry_after = head.headers.get(RETRY_AFTER).and_then(seconds);
            let refusal = if head.status.is_success() {
                RefusalHead::default()
            } else {
                RefusalHead::of(&head.headers)
            };
            Ok(Answer {
                status: head.status,
                retry_after,
                refusal,
                body,
            })
        };
        match timeout(ANSWER_TIME_MAX, exchange).await {
            Ok(answer) => answer.map_err(Unanswered::Exchange),
            Err(_) => Err(Unanswered::TimedOut),
        }
    }
}

fn seconds(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// The ids of the events in an answer, in its order. Looks for the text rather than parse a batch's
/// whole answer: this happens in the time that is measured.
pub(super) fn event_ids(body: &[u8]) -> Vec<Uuid> {
    let mut ids = Vec::with_capacity(body.len() / 64 + 1);
    let mut rest = body;
    while let Some(at) = rest
        .windows(BEFORE_ID.len())
        .position(|window| window == BEFORE_ID)
    {
        rest = &rest[at + BEFORE_ID.len()..];
        ids.extend(
            rest.get(..ID_DIGITS)
                .and_then(|digits| Uuid::try_parse_ascii(digits).ok()),
        );
    }
    ids
}

/// The event id in a `webhook-id`.
pub(super) fn webhook_id(headers: &HeaderMap) -> Option<Uuid> {
    let text = headers.get("webhook-id")?.as_bytes();
    Uuid::try_parse_ascii(text.strip_prefix(b"evt_")?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "0198c5a7b1c27def8123456789abcdef";

    #[test]
    fn ids_are_found_in_single_and_batch_answers() {
        let id = Uuid::try_parse(ONE).expect("an id");
        let single = format!(r#"{{"id":"evt_{ONE}","status":"RECEIVED"}}"#);
        assert_eq!(event_ids(single.as_bytes()), [id]);
        let batch =
            format!(r#"{{"results":[{{"id":"evt_{ONE}"}},{{"deliveries":1,"id":"evt_{ONE}"}}]}}"#);
        assert_eq!(event_ids(batch.as_bytes()), [id, id]);
        assert!(event_ids(br#"{"id":"evt_cut"#).is_empty());
        assert!(event_ids(b"").is_empty());
    }

    #[tokio::test]
    async fn only_plain_http_urls_are_taken() {
        let key: Key = "zyk_00010203040506ff_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
            .parse()
            .expect("a key");
        let new = async |url: &str| Api::new(&Url::parse(url).expect("a URL"), &key).await;
        for wrong in ["https://127.0.0.1:80", "ftp://127.0.0.1"] {
            let refused = new(wrong).await;
            assert!(matches!(refused, Err(Error::ApiUrl(_))), "{wrong}");
        }
        let api = new("http://127.0.0.1:8080/zyven/").await.expect("a URL");
        assert_eq!(api.batches, "/zyven/v1/events/batch");
    }
}
