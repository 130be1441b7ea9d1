//! The API as these commands use it: HTTP/1.1 or HTTPS on connections that are kept.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, ETAG, IF_MATCH, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use url::Url;

use crate::access::Key;
use crate::failure::{Failure, Refusal, RefusalHead};
use crate::output::Output;
use crate::version::Version;

/// Longer than the API takes to say that it cannot.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// How long nobody may pick up.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// Larger than any answer of the API: a page of its largest items.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Items of a page, at most.
pub(crate) const PAGE_ITEMS_MAX: usize = 200;

/// One HTTP client for the API and for what `listen` forwards to.
pub(crate) type Http = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A server and a key.
pub(crate) struct Api {
    base: Url,
    authorization: HeaderValue,
    http: Http,
}

/// A successful answer.
pub(crate) struct Answer {
    body: Bytes,
    /// Which version of a thing it shows, if it says so.
    pub(crate) version: Option<Version>,
}

/// What a request says besides its method and path.
#[derive(Default)]
struct Said<'a> {
    query: &'a [(&'a str, String)],
    body: Bytes,
    /// The version that the change is meant for; without one, whichever there is.
    meant_for: Option<&'a Version>,
}

/// A page, or several put together.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Page {
    /// Each item as it was written.
    pub(crate) data: Vec<Box<RawValue>>,
    pub(crate) next_cursor: Option<String>,
}

impl Page {
    /// The items as values.
    pub(crate) fn rows(&self) -> Vec<Value> {
        let rows = self.data.iter().map(|item| parsed(item));
        rows.collect()
    }
}

/// An item as a value.
pub(crate) fn parsed(item: &RawValue) -> Value {
    serde_json::from_str(item.get()).unwrap_or_default()
}

impl Answer {
    /// The answer as a value; null if there is none.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The members that the caller knows.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Failure::Failed(format!("the server's answer is not understood: {error}"))
                .advised("is the server another version than `zyven --version`? --json shows what it says as it is")
        })
    }

    /// The same with a further member.
    pub(crate) fn with(self, member: &str, value: Value) -> Self {
        let mut whole = self.value();
        let Some(members) = whole.as_object_mut() else {
            return self;
        };
        members.insert(member.to_owned(), value);
        Self {
            body: whole.to_string().into(),
            ..self
        }
    }

    /// For programs: the answer as it came. For people: what `show` makes of it.
    pub(crate) fn print(
        &self,
        output: &Output,
        show: impl FnOnce(&Value) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if !output.is_json() {
            return show(&self.value());
        }
        if self.body.is_empty() {
            // 204: something that parses.
            return output.line("{}");
        }
        output.json(&String::from_utf8_lossy(&self.body))
    }
}

/// An HTTP client; for `https` with the authorities that this machine trusts.
pub(crate) fn http_client(for_https: bool) -> Result<Http, Failure> {
    let mut plain = HttpConnector::new();
    plain.enforce_http(false);
    plain.set_connect_timeout(Some(CONNECT_TIME_MAX));
    plain.set_nodelay(true);
    let ring = rustls::crypto::ring::default_provider();
    let connector = HttpsConnectorBuilder::new();
    let connector = if for_https {
        let trusting = connector.with_provider_and_native_roots(ring);
        trusting.map_err(|error| {
            let what = "this machine's certificate authorities cannot be read";
            Failure::Failed(format!("{what}: {error}")).advised(
                "install them (ca-certificates), or name a file with them in SSL_CERT_FILE",
            )
        })?
    } else {
        let nobody = rustls::RootCertStore::empty();
        let config = rustls::ClientConfig::builder_with_provider(ring.into())
            .with_safe_default_protocol_versions()
            .expect("ring has all versions")
            .with_root_certificates(nobody)
            .with_no_client_auth();
        connector.with_tls_config(config)
    };
    let connector = connector.https_or_http().enable_http1();
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .build(connector.wrap_connector(plain)))
}

impl Api {
    /// Connects nowhere yet.
    pub(crate) fn new(url: &Url, key: &Key) -> Result<Self, Failure> {
        Ok(Self {
            base: url.clone(),
            authorization: key.authorization(),
            http: http_client(url.scheme() == "https")?,
        })
    }

    /// Where the API is.
    pub(crate) fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    pub(crate) async fn get(&self, path: &[&str]) -> Result<Answer, Failure> {
        self.send(Method::GET, path, Said::default()).await
    }

    pub(crate) async fn delete(
        &self,
        path: &[&str],
        meant_for: Option<&Version>,
    ) -> Result<Answer, Failure> {
        let said = Said {
            meant_for,
            ..Said::default()
        };
        self.send(Method::DELETE, path, said).await
    }

    /// POST without a body.
    pub(crate) async fn push(&self, path: &[&str]) -> Result<Answer, Failure> {
        self.send(Method::POST, path, Said::default()).await
    }

    pub(crate) async fn post(
        &self,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<Answer, Failure> {
        let said = Said {
            body: json(body),
            ..Said::default()
        };
        self.send(Method::POST, path, said).await
    }

    pub(crate) async fn patch(
        &self,
        path: &[&str],
        body: &impl Serialize,
        meant_for: Option<&Version>,
    ) -> Result<Answer, Failure> {
        let said = Said {
            body: json(body),
            meant_for,
            ..Said::default()
        };
        self.send(Method::PATCH, path, said).await
    }

    /// GET with parameters.
    pub(crate) async fn ask(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<Answer, Failure> {
        let said = Said {
            query,
            ..Said::default()
        };
        self.send(Method::GET, path, said).await
    }

    /// One page.
    pub(crate) async fn page(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<Page, Failure> {
        self.ask(path, query).await?.read()
    }

    /// As many pages as `items` take, from `cursor` on.
    pub(crate) async fn list(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        items: usize,
        cursor: Option<String>,
    ) -> Result<Page, Failure> {
        let mut all = Page {
            data: Vec::new(),
            next_cursor: cursor,
        };
        loop {
            let wanted = (items - all.data.len()).min(PAGE_ITEMS_MAX);
            let mut query = query.to_vec();
            query.push(("limit", wanted.to_string()));
            query.extend(all.next_cursor.take().map(|cursor| ("cursor", cursor)));
            let page = self.page(path, &query).await?;
            let page_is_empty = page.data.is_empty();
            all.data.extend(page.data);
            all.next_cursor = page.next_cursor;
            // A page without items leads nowhere, whatever it says.
            if all.next_cursor.is_none() || all.data.len() >= items || page_is_empty {
                return Ok(all);
            }
        }
    }

    async fn send(&self, method: Method, path: &[&str], said: Said<'_>) -> Result<Answer, Failure> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("http and https have paths")
            .pop_if_empty()
            .extend(path);
        if !said.query.is_empty() {
            url.query_pairs_mut().extend_pairs(said.query);
        }
        let request = self.request(&method, &url, said)?;
        let exchange = tokio::time::timeout(ANSWER_TIME_MAX, exchange(&self.http, request)).await;
        let unreachable = |source| Failure::Unreachable {
            url: self.url().to_owned(),
            source,
        };
        let (status, headers, body) = exchange
            .unwrap_or_else(|_| {
                Err(format!("no answer came within {} s", ANSWER_TIME_MAX.as_secs()).into())
            })
            .map_err(unreachable)?;
        if !status.is_success() {
            let request = (method, url.path());
            let refusal = Refusal::new(request, status, RefusalHead::of(&headers), &body);
            return Err(Failure::Refused(Box::new(refusal)));
        }
        // A login page answers 200 as well.
        if !body.is_empty() && serde_json::from_slice::<&RawValue>(&body).is_err() {
            return Err(Failure::Failed(format!(
                "the answer of {} is no JSON, so that is no Zyven API",
                self.url()
            ))
            .advised("say in ZYVEN_API_URL or --api-url where there is one"));
        }
        let version = headers.get(ETAG).and_then(|tag| tag.to_str().ok());
        let version = version.and_then(|tag| tag.parse().ok());
        Ok(Answer { body, version })
    }

    fn request(
        &self,
        method: &Method,
        url: &Url,
        said: Said<'_>,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(url.as_str())
            .header(AUTHORIZATION, &self.authorization)
            .header(USER_AGENT, concat!("zyven/", env!("CARGO_PKG_VERSION")));
        if !said.body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(version) = said.meant_for {
            request = request.header(IF_MATCH, version.tag());
        }
        request
            .body(Full::new(said.body))
            .map_err(|error| Failure::Usage(format!("{url} is not understood: {error}")))
    }
}

type Exchanged = (StatusCode, HeaderMap, Bytes);

async fn exchange(
    http: &Http,
    request: Request<Full<Bytes>>,
) -> Result<Exchanged, Box<dyn std::error::Error + Send + Sync>> {
    let (head, body) = http.request(request).await?.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?;
    Ok((head.status, head.headers, body.to_bytes()))
}

fn json(body: &impl Serialize) -> Bytes {
    let body = serde_json::to_vec(body);
    body.expect("requests have text keys and finite numbers only")
        .into()
}
