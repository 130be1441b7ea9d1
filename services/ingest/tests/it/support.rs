//! A running API, tenants with keys, and requests.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use zyven_domain::api_key::{Scope, Scopes};
use zyven_domain::id::TenantId;
use zyven_domain::secret_box::KeyRing;
use zyven_ingest::{Config, Deps};
use zyven_queue::Queue;
use zyven_runtime::config::Source;
use zyven_runtime::inherited::Origin;
use zyven_runtime::metrics::Metrics;
use zyven_runtime::probes::Readiness;
use zyven_runtime::shutdown::{Shutdown, Trigger};
use zyven_runtime::traces::Tracer;
use zyven_store::{DatabaseTls, Store, StoreConfig};
use zyven_testkit::TestDatabase;

use crate::conformance;

/// Longest a test waits for anything that should happen soon.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) const MASTER_KEYS: &str = "test:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    pub(crate) store: Store,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
    pub(crate) http: reqwest::Client,
    pub(crate) trigger: Trigger,
    pub(crate) running: JoinHandle<()>,
    // Last, so that connections are gone when the database is dropped.
    pub(crate) database: TestDatabase,
}

impl Api {
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// An API with settings that differ from the defaults.
    pub(crate) async fn with(settings: &[(&str, &str)]) -> Self {
        Self::on(TestDatabase::new().await, settings).await
    }

    pub(crate) async fn on(database: TestDatabase, settings: &[(&str, &str)]) -> Self {
        let url = database.url();
        Self::reaching(database, &url, settings).await
    }

    /// An API that reaches its database by way of another URL.
    pub(crate) async fn reaching(
        database: TestDatabase,
        url: &str,
        settings: &[(&str, &str)],
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::listening(database, url, settings, (listener, Origin::Own)).await
    }

    /// An API on this socket.
    pub(crate) async fn listening(
        database: TestDatabase,
        url: &str,
        settings: &[(&str, &str)],
        socket: (TcpListener, Origin),
    ) -> Self {
        Self::launch(database, url, settings, socket, None).await
    }

    /// An API that has been told where Redis is.
    pub(crate) async fn with_queue(queue: Queue) -> Self {
        let database = TestDatabase::new().await;
        let url = database.url();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::launch(database, &url, &[], (listener, Origin::Own), Some(queue)).await
    }

    async fn launch(
        database: TestDatabase,
        url: &str,
        settings: &[(&str, &str)],
        (listener, origin): (TcpListener, Origin),
        queue: Option<Queue>,
    ) -> Self {
        let mut source = Source::from_pairs(settings.iter().copied());
        let config = Config::read(&mut source);
        source.finish().expect("good settings");
        let store = Store::connect(&StoreConfig {
            url: url.to_owned(),
            tls: DatabaseTls::default(),
            pool_size: 8,
        })
        .expect("a store");
        // The health check's connection, made in advance: if a short test ended amid its handshake,
        // PostgreSQL could not drop the database until it gives up on the handshake, a minute later.
        store.health().await.expect("a database");
        let address = listener.local_addr().expect("an address");
        let deps = Deps {
            store: store.clone(),
            queue,
            ring: KeyRing::parse(MASTER_KEYS).expect("a key ring"),
            metrics: Metrics::default(),
            tracer: Tracer::default(),
            readiness: Readiness::default(),
            origin,
        };
        let (metrics, readiness) = (deps.metrics.clone(), deps.readiness.clone());
        let (trigger, shutdown) = Shutdown::new();
        let config = config.expect("no mistakes");
        let running = tokio::spawn(async move {
            zyven_ingest::run(listener, config, deps, shutdown)
                .await
                .expect("it serves");
        });
        Self {
            address,
            store,
            metrics,
            readiness,
            http: reqwest::Client::new(),
            trigger,
            running,
            database,
        }
    }

    /// A new tenant whose key may do everything.
    pub(crate) async fn tenant(&self) -> Tenant<'_> {
        let id = TenantId::new();
        let (key, row) =
            zyven_ingest::new_api_key(id, "first", Scopes::all(), None).expect("random bytes");
        self.store
            .create_tenant("test", &row)
            .await
            .expect("a tenant");
        Tenant {
            api: self,
            id,
            key: key.expose(),
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) async fn count(&self, sql: &str) -> i64 {
        let client = self.database.client().await;
        client.query_one(sql, &[]).await.expect("a count").get(0)
    }

    /// The value of a metric without labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.metrics.render();
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            .unwrap_or_else(|| panic!("no {name} in\n{text}"))
    }
}

/// Somebody with a key.
pub(crate) struct Tenant<'a> {
    pub(crate) api: &'a Api,
    pub(crate) id: TenantId,
    pub(crate) key: String,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    /// The answer to a request, which must be one that the API is described with.
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        let (client, request) = request.build_split();
        let request = request.expect("a request");
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let response = client.execute(request).await.expect("an answer");
        let answer = Self {
            status: response.status(),
            headers: response.headers().clone(),
            text: response.text().await.expect("a text"),
        };
        conformance::check(
            method.as_str(),
            &path,
            answer.status.as_u16(),
            &answer.headers,
            &answer.text,
        );
        answer
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// A member's text.
    pub(crate) fn text_of(&self, name: &str) -> String {
        match &self.json()[name] {
            Value::String(text) => text.clone(),
            other => panic!("{name} is {other} in {self:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self
    }

    /// Asserts a problem document of this status and code.
    #[track_caller]
    pub(crate) fn expect_problem(self, status: u16, code: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json"),
            "{answer:?}"
        );
        let problem = answer.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status);
        for member in ["type", "title", "detail"] {
            assert!(problem[member].is_string(), "{member} in {problem}");
        }
        answer
    }

    /// The fields a 422 names, in order.
    #[track_caller]
    pub(crate) fn fields(&self) -> Vec<String> {
        let problem = self.json();
        problem["errors"]
            .as_array()
            .unwrap_or_else(|| panic!("no errors in {problem}"))
            .iter()
            .map(|error| {
                assert!(error["rule"].is_string(), "{error}");
                error["field"].as_str().expect("a field").to_owned()
            })
            .collect()
    }
}

impl Tenant<'_> {
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.api
            .http
            .request(method, self.api.url(path))
            .bearer_auth(&self.key)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::DELETE, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::PATCH, path).json(body)).await
    }

    /// A POST without a body.
    pub(crate) async fn push(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::POST, path)).await
    }

    /// Publishes an event whose envelope is written exactly like this.
    pub(crate) async fn publish_text(&self, text: &str) -> Answer {
        Answer::of(self.publishing(text)).await
    }

    pub(crate) async fn publish_with_key(&self, text: &str, key: &str) -> Answer {
        Answer::of(self.publishing(text).header("idempotency-key", key)).await
    }

    pub(crate) fn publishing(&self, text: &str) -> RequestBuilder {
        self.request(Method::POST, "/v1/events")
            .header("content-type", "application/json")
            .body(text.to_owned())
    }

    /// Publishes an event of that type and returns its id.
    pub(crate) async fn publish(&self, event_type: &str) -> String {
        let text = format!(r#"{{"type": "{event_type}", "payload": {{}}}}"#);
        self.publish_text(&text).await.expect(202).text_of("id")
    }

    /// Makes an endpoint and returns its id.
    pub(crate) async fn endpoint(&self, members: &Value) -> String {
        let mut body = serde_json::json!({ "url": "https://example.com/hook" });
        for (name, value) in members.as_object().expect("an object") {
            body[name] = value.clone();
        }
        self.post("/v1/endpoints", &body)
            .await
            .expect(201)
            .text_of("id")
    }

    /// Another key of this tenant.
    pub(crate) async fn key_with(&self, scopes: &[Scope]) -> String {
        let names: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
        let body = serde_json::json!({ "name": "another", "scopes": names });
        self.post("/v1/api-keys", &body)
            .await
            .expect(201)
            .text_of("key")
    }
}

/// Sends bytes and returns everything that comes back until the other side closes.
pub(crate) async fn exchange_raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(bytes).await.expect("sent");
    let mut answer = Vec::new();
    tokio::time::timeout(SOON, stream.read_to_end(&mut answer))
        .await
        .expect("the connection is closed")
        .expect("read");
    String::from_utf8_lossy(&answer).into_owned()
}
