//! A running console, the API behind it, and somebody with a browser.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::header::{COOKIE, HeaderMap, ORIGIN, SET_COOKIE};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use zyven_console::{Config, Deps};
use zyven_domain::api_key::{Scope, Scopes};
use zyven_domain::id::TenantId;
use zyven_domain::secret_box::KeyRing;
use zyven_runtime::config::Source;
use zyven_runtime::inherited::Origin;
use zyven_runtime::metrics::Metrics;
use zyven_runtime::probes::Readiness;
use zyven_runtime::shutdown::{Shutdown, Trigger};
use zyven_runtime::traces::Tracer;
use zyven_store::{DatabaseTls, Store, StoreConfig};
use zyven_testkit::TestDatabase;

const MASTER_KEYS: &str = "test:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// Longest a test waits for anything that should happen soon.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Stage {
    pub(crate) console: SocketAddr,
    pub(crate) api: SocketAddr,
    pub(crate) store: Store,
    pub(crate) metrics: Metrics,
    pub(crate) http: reqwest::Client,
    pub(crate) trigger: Trigger,
    pub(crate) running: JoinHandle<()>,
    _api_trigger: Trigger,
    // Last, so that connections are gone when the database is dropped.
    _database: TestDatabase,
}

impl Stage {
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// A console with settings that differ from the defaults.
    pub(crate) async fn with(settings: &[(&str, &str)]) -> Self {
        let database = TestDatabase::new().await;
        let store = Store::connect(&StoreConfig {
            url: database.url(),
            tls: DatabaseTls::default(),
            pool_size: 8,
        })
        .expect("a store");
        // See the API's own tests: made in advance, so that none is amid its handshake at the end.
        store.health().await.expect("a database");
        let (api, api_trigger) = start_api(&store).await;
        let api_url = format!("http://{api}");
        Self::on(database, store, (api, api_trigger), &api_url, settings).await
    }

    /// A console that is told of another API than the one that runs.
    pub(crate) async fn start_apart(api_url: &str) -> Self {
        let database = TestDatabase::new().await;
        let store = Store::connect(&StoreConfig {
            url: database.url(),
            tls: DatabaseTls::default(),
            pool_size: 1,
        })
        .expect("a store");
        store.health().await.expect("a database");
        let api = start_api(&store).await;
        Self::on(database, store, api, api_url, &[]).await
    }

    async fn on(
        database: TestDatabase,
        store: Store,
        (api, api_trigger): (SocketAddr, Trigger),
        api_url: &str,
        settings: &[(&str, &str)],
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let console = listener.local_addr().expect("an address");
        let mut source = Source::from_pairs(settings.iter().copied());
        let config = Config::read(&mut source, Some(api_url.to_owned()));
        source.finish().expect("good settings");
        let config = config.expect("no mistakes");
        let deps = Deps {
            metrics: Metrics::default(),
            readiness: Readiness::default(),
        };
        let metrics = deps.metrics.clone();
        let (trigger, shutdown) = Shutdown::new();
        let running = tokio::spawn(async move {
            zyven_console::run(listener, config, deps, shutdown)
                .await
                .expect("it serves");
        });
        Self {
            console,
            api,
            store,
            metrics,
            http: reqwest::Client::builder()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .expect("a client"),
            trigger,
            running,
            _api_trigger: api_trigger,
            _database: database,
        }
    }

    /// A key of a new tenant.
    pub(crate) async fn key(&self, scopes: &[Scope]) -> String {
        let scopes: Scopes = scopes.iter().copied().collect();
        let (key, row) = zyven_ingest::new_api_key(TenantId::new(), "first key", scopes, None)
            .expect("random bytes");
        self.store
            .create_tenant("a tenant", &row)
            .await
            .expect("a tenant");
        key.expose()
    }

    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.console)
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.origin()))
    }

    /// Sends the login's form as a browser does.
    pub(crate) async fn log_in(&self, key: &str) -> Answer {
        let form = format!("key={key}");
        let request = self
            .request(Method::POST, "/login")
            .header(ORIGIN, self.origin())
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form);
        Answer::of(request).await
    }

    /// Somebody who has logged in.
    pub(crate) async fn browser(&self, scopes: &[Scope]) -> Browser<'_> {
        let key = self.key(scopes).await;
        let answer = self.log_in(&key).await;
        assert_eq!(answer.status, 303, "{answer:?}");
        Browser {
            stage: self,
            key,
            cookie: answer.cookie(),
        }
    }

    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.metrics.render();
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            .unwrap_or_else(|| panic!("no {name} in\n{text}"))
    }
}

async fn start_api(store: &Store) -> (SocketAddr, Trigger) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut source = Source::from_pairs::<&str, &str>([]);
    let config = zyven_ingest::Config::read(&mut source).expect("defaults are enough");
    let deps = zyven_ingest::Deps {
        queue: None,
        store: store.clone(),
        ring: KeyRing::parse(MASTER_KEYS).expect("a key ring"),
        metrics: Metrics::default(),
        tracer: Tracer::default(),
        readiness: Readiness::default(),
        origin: Origin::Own,
    };
    let (trigger, shutdown) = Shutdown::new();
    // Ends with the test.
    tokio::spawn(async move {
        zyven_ingest::run(listener, config, deps, shutdown)
            .await
            .expect("it serves");
    });
    (address, trigger)
}

/// A session, and the key it was begun with.
pub(crate) struct Browser<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) key: String,
    /// `name=value`
    pub(crate) cookie: String,
}

impl Browser<'_> {
    /// A request of the page's script.
    pub(crate) fn script(&self, method: Method, path: &str) -> RequestBuilder {
        self.stage
            .request(method, path)
            .header(COOKIE, &self.cookie)
            .header(ORIGIN, self.stage.origin())
            .header("x-zyven-console", "person")
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.script(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = self
            .script(Method::POST, path)
            .header("content-type", "application/json")
            .body(body.to_string());
        Answer::of(request).await
    }

    /// Asks the API itself, with the same key.
    pub(crate) async fn api(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let url = format!("http://{}{path}", self.stage.api);
        let mut request = self.stage.http.request(method, url).bearer_auth(&self.key);
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        Answer::of(request).await
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.expect("an answer");
        Self {
            status: response.status(),
            headers: response.headers().clone(),
            text: response.text().await.expect("a text"),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {self:?}"))
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
            Some("application/problem+json")
        );
        assert_eq!(answer.json()["code"], code, "{answer:?}");
        answer
    }

    /// The cookie that it sets, as it is sent back.
    #[track_caller]
    pub(crate) fn cookie(&self) -> String {
        let cookie = self.header(SET_COOKIE.as_str());
        let cookie = cookie.unwrap_or_else(|| panic!("no cookie in {self:?}"));
        cookie.split(';').next().unwrap_or_default().to_owned()
    }
}
