//! The dispatcher between real neighbours: PostgreSQL, Redis, the egress proxy, and a receiver.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use zyven_dispatcher::{Config, Deps};
use zyven_domain::id::{EndpointId, EventId, TenantId};
use zyven_domain::secret_box::KeyRing;
use zyven_domain::signature::{PrivateKey, Scheme, SigningKey, SigningSecret};
use zyven_queue::{Epoch, Lane, Queue, QueueConfig, Ticket};
use zyven_runtime::config::Source;
use zyven_runtime::metrics::Metrics;
use zyven_runtime::probes::Readiness;
use zyven_runtime::shutdown::{Shutdown, Trigger};
use zyven_runtime::traces::Tracer;
use zyven_store::{
    CredentialKind, DatabaseTls, SealedCredential, SealedSecret, Store, StoreConfig,
};
use zyven_testkit::{Receiver, TestDatabase, TestRedis, wait_until};

/// Long enough for a loaded machine; nothing here waits for it to pass.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

const CREDENTIAL: &str = "correct-horse-battery";
const MASTER_KEYS: &str = "test:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// What a test arranges and looks at.
pub(crate) struct Stage {
    pub(crate) database: TestDatabase,
    pub(crate) sql: Sql,
    pub(crate) redis: TestRedis,
    pub(crate) queue: Queue,
    pub(crate) epoch: Epoch,
    pub(crate) receiver: Receiver,
    pub(crate) proxy: Proxy,
    pub(crate) tenant: TenantId,
}

/// How an endpoint differs from one that retries at once and has five seconds to answer.
pub(crate) struct Terms {
    pub(crate) timeout_ms: u64,
    pub(crate) attempts_max: u32,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            timeout_ms: 5_000,
            attempts_max: 12,
        }
    }
}

/// An outbox or finished row, whichever there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) state: String,
    pub(crate) reason: Option<String>,
    pub(crate) attempts: i32,
    pub(crate) http_status: Option<i16>,
}

/// One row of the attempt log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Logged {
    pub(crate) http_status: Option<i16>,
    pub(crate) error: Option<String>,
    pub(crate) detail: Option<String>,
    pub(crate) reused: bool,
    pub(crate) headers: Option<String>,
    pub(crate) body: Option<Vec<u8>>,
}

impl Stage {
    pub(crate) async fn new() -> Stage {
        Stage::with(Receiver::start().await).await
    }

    pub(crate) async fn with(receiver: Receiver) -> Stage {
        Stage::behind(Proxy::start().await, receiver).await
    }

    /// With a proxy of its own kind.
    pub(crate) async fn behind(proxy: Proxy, receiver: Receiver) -> Stage {
        let (database, redis) = tokio::join!(TestDatabase::new(), TestRedis::start());
        let queue = Queue::connect(&QueueConfig {
            url: redis.url(),
            lane_in_flight_max: 64,
            ..QueueConfig::default()
        })
        .unwrap();
        let epoch = queue.begin_epoch().await.unwrap();
        let sql = Sql(database.client().await);
        let tenant = TenantId::new();
        let id = tenant.uuid();
        sql.run(&format!(
            "INSERT INTO zyven.tenants (id, name) VALUES ('{id}', 'test')"
        ))
        .await;
        Stage {
            database,
            sql,
            redis,
            queue,
            epoch,
            receiver,
            proxy,
            tenant,
        }
    }

    /// An endpoint for all events at this path of the receiver.
    pub(crate) async fn endpoint(&self, path: &str) -> EndpointId {
        self.endpoint_at(&self.receiver.url(path), Terms::default())
            .await
    }

    pub(crate) async fn endpoint_at(&self, url: &str, terms: Terms) -> EndpointId {
        let endpoint = EndpointId::new();
        let (id, tenant) = (endpoint.uuid(), self.tenant.uuid());
        let Terms {
            timeout_ms,
            attempts_max,
        } = terms;
        self.sql
            .run(&format!(
                "INSERT INTO zyven.endpoints (id, tenant_id, url, event_types, retry_base_ms, timeout_ms, attempts_max)
                 VALUES ('{id}', '{tenant}', '{url}', '{{*}}', 1, {timeout_ms}, {attempts_max})"
            ))
            .await;
        self.add_secret(endpoint).await;
        endpoint
    }

    /// From now on events are for endpoints made later.
    pub(crate) async fn retire_endpoints(&self) {
        self.sql
            .run(
                "UPDATE zyven.endpoints SET status = 'disabled', disabled_reason = 'the test is done with it'
                  WHERE status = 'enabled'",
            )
            .await;
    }

    /// The endpoint's current secret.
    pub(crate) async fn add_secret(&self, endpoint: EndpointId) {
        self.add_secret_of(endpoint, Scheme::Hmac, signing_secret().bytes())
            .await;
    }

    pub(crate) async fn add_secret_of(&self, endpoint: EndpointId, scheme: Scheme, bytes: &[u8]) {
        let (id, endpoint) = (EndpointId::new().uuid(), endpoint.uuid());
        let envelope = KeyRing::parse(MASTER_KEYS).unwrap().seal(
            bytes,
            &SealedSecret::place(self.tenant, id),
            [9; 24],
        );
        let envelope: String = envelope.iter().map(|byte| format!("{byte:02x}")).collect();
        self.sql
            .run(&format!(
                "INSERT INTO zyven.endpoint_secrets (id, endpoint_id, envelope, scheme)
                 VALUES ('{id}', '{endpoint}', '\\x{envelope}', '{}')",
                scheme.as_str()
            ))
            .await;
    }

    /// The endpoint's credential of this kind: a new row, as each value has.
    pub(crate) async fn set_credential(
        &self,
        endpoint: EndpointId,
        kind: CredentialKind,
        bytes: &[u8],
    ) {
        let (id, endpoint, kind) = (EndpointId::new().uuid(), endpoint.uuid(), kind.as_str());
        let envelope = KeyRing::parse(MASTER_KEYS).unwrap().seal(
            bytes,
            &SealedCredential::place(self.tenant, id),
            [9; 24],
        );
        let envelope: String = envelope.iter().map(|byte| format!("{byte:02x}")).collect();
        self.sql
            .run(&format!(
                "INSERT INTO zyven.endpoint_credentials (id, endpoint_id, kind, envelope, shown)
                 VALUES ('{id}', '{endpoint}', '{kind}', '\\x{envelope}', '{{}}')
                 ON CONFLICT (endpoint_id, kind) DO UPDATE SET id = excluded.id, envelope = excluded.envelope"
            ))
            .await;
    }

    /// An event for every endpoint, and a ticket for each of its deliveries.
    pub(crate) async fn publish(&self, payload: &str) -> EventId {
        let event = self.publish_silently(payload).await;
        self.offer().await;
        event
    }

    /// An event nobody has told Redis about.
    pub(crate) async fn publish_silently(&self, payload: &str) -> EventId {
        let tenant = self.tenant;
        let published = self
            .sql
            .text(&format!(
                "SELECT zyven.publish('{tenant}', 'invoice.paid', $j${payload}$j$::json,
                     traceparent => '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01')"
            ))
            .await;
        published.parse().unwrap()
    }

    /// An endpoint that takes over from all others, with a lane that has learned nothing yet.
    pub(crate) async fn fresh_endpoint(&self, path: &str) {
        self.sql.run("DELETE FROM zyven.subscriptions").await;
        self.endpoint(path).await;
    }

    /// What the relay does: a ticket for each outbox row.
    pub(crate) async fn offer(&self) {
        self.offer_up_to(i64::MAX).await;
    }

    /// A ticket for each outbox row up to this one.
    pub(crate) async fn offer_up_to(&self, seq_max: i64) {
        let rows = self
            .sql
            .rows(&format!(
                "SELECT seq, tenant_id::text, endpoint_id::text, ordering_key, attempts > 0
                   FROM zyven.outbox WHERE seq <= {seq_max} ORDER BY seq"
            ))
            .await;
        let tickets: Vec<Ticket> = rows
            .iter()
            .map(|row| Ticket {
                seq: row.get(0),
                lane: Lane {
                    tenant_id: TenantId::from_uuid(row.get::<_, String>(1).parse().unwrap()),
                    endpoint_id: EndpointId::from_uuid(row.get::<_, String>(2).parse().unwrap()),
                },
                ordering_key: row.get(3),
                is_first: false,
                is_retry: row.get(4),
                due_in: Duration::ZERO,
            })
            .collect();
        let _ = self.queue.push(&tickets, &self.epoch).await.unwrap();
    }

    /// A ticket for each outbox row, in a lane that is not its own.
    pub(crate) async fn offer_in_a_strange_lane(&self) {
        let strange = Lane {
            tenant_id: TenantId::new(),
            endpoint_id: EndpointId::new(),
        };
        let rows = self.sql.rows("SELECT seq FROM zyven.outbox").await;
        let tickets: Vec<Ticket> = rows
            .iter()
            .map(|row| Ticket {
                seq: row.get(0),
                lane: strange,
                ordering_key: 0,
                is_first: false,
                is_retry: false,
                due_in: Duration::ZERO,
            })
            .collect();
        let _ = self.queue.push(&tickets, &self.epoch).await.unwrap();
    }

    pub(crate) fn config(&self) -> Config {
        config(&[self.proxy.address])
    }

    pub(crate) fn start(&self) -> Dispatcher {
        self.start_with(self.config())
    }

    pub(crate) fn start_with(&self, config: Config) -> Dispatcher {
        self.start_at(&self.database.url(), config)
    }

    /// A dispatcher that reaches its database by way of another URL.
    pub(crate) fn start_at(&self, database_url: &str, config: Config) -> Dispatcher {
        let store = Store::connect(&StoreConfig {
            url: database_url.to_owned(),
            tls: DatabaseTls::default(),
            pool_size: 4,
        })
        .unwrap();
        Dispatcher::start(config, store, self.queue.clone())
    }

    /// Waits until the only delivery of `event` is in this state.
    pub(crate) async fn wait_for(&self, event: EventId, state: &str) -> Delivery {
        wait_until(&format!("{event} is {state}"), PATIENCE, async || {
            let delivery = self.delivery(event).await;
            if delivery.state == state {
                Ok(delivery)
            } else {
                Err(delivery)
            }
        })
        .await
    }

    /// Waits until the only delivery of `event` was given up, and returns why.
    pub(crate) async fn wait_for_dead(&self, event: EventId) -> String {
        let delivery = self.wait_for(event, "DEAD_LETTERED").await;
        delivery.reason.unwrap()
    }

    pub(crate) async fn delivery(&self, event: EventId) -> Delivery {
        let id = event.uuid();
        let rows = self
            .sql
            .rows(&format!(
                "SELECT state::text, reason, attempts, http_status FROM zyven.deliveries WHERE event_id = '{id}'"
            ))
            .await;
        assert_eq!(rows.len(), 1, "deliveries of {event}");
        Delivery {
            state: rows[0].get(0),
            reason: rows[0].get(1),
            attempts: rows[0].get(2),
            http_status: rows[0].get(3),
        }
    }

    /// All attempts at `event` that are on record, the first one first.
    pub(crate) async fn attempts(&self, event: EventId) -> Vec<Logged> {
        let id = event.uuid();
        let rows = self
            .sql
            .rows(&format!(
                "SELECT http_status, error, error_detail, connect_us IS NULL, response_headers, response_body
                   FROM zyven.attempt_log WHERE event_id = '{id}' ORDER BY number"
            ))
            .await;
        rows.iter()
            .map(|row| Logged {
                http_status: row.get(0),
                error: row.get(1),
                detail: row.get(2),
                reused: row.get(3),
                headers: row.get(4),
                body: row.get(5),
            })
            .collect()
    }

    /// Waits until the only delivery waits for an operator.
    pub(crate) async fn wait_until_put_off(&self) {
        wait_until("it was put off", PATIENCE, async || {
            let put_off = "SELECT count(*) FROM zyven.outbox WHERE due_at > now() + interval '5 s'";
            self.sql.number(put_off).await == 1
        })
        .await;
    }

    /// Publishes, waits for the first attempt to be on record, and returns it.
    pub(crate) async fn first_attempt(&self) -> (EventId, Logged) {
        let event = self.publish("{}").await;
        let attempt = wait_until("the first attempt is on record", PATIENCE, async || {
            self.attempts(event).await.into_iter().next()
        })
        .await;
        (event, attempt)
    }
}

/// A connection to the test's database, for arranging and looking.
pub(crate) struct Sql(tokio_postgres::Client);

impl Sql {
    pub(crate) async fn run(&self, statements: &str) {
        self.0.batch_execute(statements).await.unwrap();
    }

    pub(crate) async fn rows(&self, query: &str) -> Vec<tokio_postgres::Row> {
        self.0.query(query, &[]).await.unwrap()
    }

    /// The only value of the only row.
    pub(crate) async fn text(&self, query: &str) -> String {
        self.0.query_one(query, &[]).await.unwrap().get(0)
    }

    pub(crate) async fn number(&self, query: &str) -> i64 {
        self.0.query_one(query, &[]).await.unwrap().get(0)
    }
}

/// The egress proxy, delivering to loopback.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    _running: Option<(Trigger, JoinHandle<()>)>,
}

impl Proxy {
    pub(crate) async fn start() -> Proxy {
        Proxy::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    pub(crate) async fn start_at(address: SocketAddr) -> Proxy {
        Proxy::start_with(address, &[]).await
    }

    /// With settings besides the usual ones.
    pub(crate) async fn start_with(address: SocketAddr, settings: &[(&str, &str)]) -> Proxy {
        let usual = [
            ("ZYVEN_EGRESS_CREDENTIAL", CREDENTIAL),
            ("ZYVEN_EGRESS_ALLOW_CIDRS", "127.0.0.0/8"),
        ];
        let mut source = Source::from_pairs(usual.iter().chain(settings).copied());
        let config = zyven_egress::Config::read(&mut source).unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (trigger, shutdown) = Shutdown::new();
        let running = tokio::spawn(async move {
            zyven_egress::run(listener, config, Metrics::default(), shutdown)
                .await
                .unwrap();
        });
        Proxy {
            address,
            _running: Some((trigger, running)),
        }
    }
}

/// An address where nobody listens.
pub(crate) async fn closed_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    listener.local_addr().unwrap()
}

/// An address that takes no connection and refuses none: the queue of its listener is full.
pub(crate) struct BlackHole {
    pub(crate) address: SocketAddr,
    _listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl BlackHole {
    pub(crate) async fn dig() -> BlackHole {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queue = Vec::new();
        let full = Duration::from_millis(200);
        while let Ok(Ok(stream)) = timeout(full, TcpStream::connect(address)).await {
            queue.push(stream);
        }
        BlackHole {
            address,
            _listener: listener,
            _queue: queue,
        }
    }
}

/// Something that listens in a proxy's place and says the same to everybody.
pub(crate) struct Parrot {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Parrot {
    /// Says it and leaves the connection open.
    pub(crate) async fn saying(words: &str) -> Parrot {
        Parrot::start(words.to_owned(), false).await
    }

    /// Says it, reads the request and closes.
    pub(crate) async fn refusing(words: &str) -> Parrot {
        Parrot::start(words.to_owned(), true).await
    }

    async fn start(words: String, closes: bool) -> Parrot {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut open = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                // Nobody who left is missed.
                let _ = stream.write_all(words.as_bytes()).await;
                if closes {
                    let _ = stream.read(&mut [0; 1024]).await;
                    let _ = stream.shutdown().await;
                }
                open.push(stream);
            }
        });
        Parrot { address, asked }
    }

    /// How many connections it has taken.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

pub(crate) fn config(proxies: &[SocketAddr]) -> Config {
    let proxies: Vec<String> = proxies.iter().map(SocketAddr::to_string).collect();
    let mut source = Source::from_pairs([
        ("ZYVEN_EGRESS_PROXIES", proxies.join(",")),
        ("ZYVEN_EGRESS_CREDENTIAL", CREDENTIAL.to_owned()),
    ]);
    Config::read(&mut source).unwrap()
}

/// A dispatcher at work.
pub(crate) struct Dispatcher {
    trigger: Trigger,
    metrics: Metrics,
    readiness: Readiness,
    running: JoinHandle<Result<(), zyven_dispatcher::Error>>,
}

impl Dispatcher {
    fn start(config: Config, store: Store, queue: Queue) -> Dispatcher {
        let (trigger, shutdown) = Shutdown::new();
        let (metrics, readiness) = (Metrics::default(), Readiness::default());
        let deps = Deps {
            store,
            queue,
            key_ring: KeyRing::parse(MASTER_KEYS).unwrap(),
            readiness: readiness.clone(),
            metrics: metrics.clone(),
            tracer: Tracer::default(),
        };
        let running = tokio::spawn(zyven_dispatcher::run(config, deps, shutdown));
        Dispatcher {
            trigger,
            metrics,
            readiness,
            running,
        }
    }

    /// Asks it to stop and waits until it has.
    pub(crate) async fn stop(self) {
        self.trigger.request();
        let stopped = tokio::time::timeout(PATIENCE, self.running).await;
        stopped.expect("it stops").unwrap().unwrap();
    }

    /// How it ended by itself.
    pub(crate) async fn ended(self) -> Result<(), zyven_dispatcher::Error> {
        let ended = tokio::time::timeout(PATIENCE, self.running).await;
        ended.expect("it ends").unwrap()
    }

    pub(crate) fn ask_to_stop(&self) {
        self.trigger.request();
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.readiness.missing().is_empty()
    }

    /// What it says is missing before it can work.
    pub(crate) fn misses(&self, check: &str) -> bool {
        self.readiness.missing().contains_key(check)
    }

    /// The value of a series, `name{labels}` as it is rendered.
    pub(crate) fn count(&self, series: &str) -> u64 {
        let rendered = self.metrics.render();
        let line = rendered
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        let value = line.unwrap_or_else(|| panic!("no {series} in\n{rendered}"));
        value.parse().unwrap()
    }
}

/// The secret of every endpoint here.
pub(crate) fn signing_secret() -> SigningSecret {
    SigningSecret::from_bytes((0..32).collect()).unwrap()
}

pub(crate) fn signing_key() -> SigningKey {
    SigningKey::new(&signing_secret())
}

pub(crate) fn private_key() -> PrivateKey {
    PrivateKey::from_bytes(std::array::from_fn(|index| index as u8))
}
