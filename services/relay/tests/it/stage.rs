//! A database, a Redis, a tenant with an endpoint, and relays to start and kill.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use zyven_domain::event::{ContentType, DeliveryOptions, EventType};
use zyven_domain::id::{EndpointId, EventId, TenantId};
use zyven_queue::{ClaimedTicket, Completion, Lane, Learned, Next, Queue, QueueConfig};
use zyven_relay::{Config, Dependencies, Statistics, Term};
use zyven_runtime::config::Source;
use zyven_runtime::doorbell::Doorbell;
use zyven_runtime::metrics::Metrics;
use zyven_runtime::probes::Readiness;
use zyven_runtime::shutdown::{Shutdown, Trigger};
use zyven_store::{DatabaseTls, NewEvent, Store, StoreConfig};
use zyven_testkit::{TestDatabase, TestRedis, wait_until};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// So rarely that no test sees it happen.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);

pub(crate) struct Stage {
    pub(crate) store: Store,
    pub(crate) queue: Queue,
    pub(crate) sql: Client,
    pub(crate) tenant: TenantId,
    pub(crate) endpoint: EndpointId,
    pub(crate) redis: TestRedis,
    // Last, so that the connections above are gone when the database is dropped.
    pub(crate) database: TestDatabase,
}

/// A relay that runs until it is killed or asked to stop.
pub(crate) struct Running {
    task: JoinHandle<()>,
    trigger: Trigger,
    pub(crate) doorbell: std::net::SocketAddr,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Metrics,
}

impl Stage {
    pub(crate) async fn new() -> Stage {
        Stage::on(TestDatabase::new().await).await
    }

    pub(crate) async fn on(database: TestDatabase) -> Stage {
        let redis = TestRedis::start().await;
        let queue = Queue::connect(&QueueConfig {
            url: redis.url(),
            lane_in_flight_max: 1_000_000,
            tenant_in_flight_max: 1_000_000,
            ..QueueConfig::default()
        });
        let store = Store::connect(&StoreConfig {
            url: database.url(),
            tls: DatabaseTls::default(),
            pool_size: 4,
        });
        let sql = database.client().await;
        let (tenant, endpoint) = (TenantId::new(), EndpointId::new());
        sql.execute(
            "INSERT INTO zyven.tenants (id, name) VALUES ($1, 'test')",
            &[&tenant.uuid()],
        )
        .await
        .unwrap();
        sql.execute(
            "INSERT INTO zyven.endpoints (id, tenant_id, url, event_types, channels)
             VALUES ($1, $2, 'http://192.0.2.1/', '{*}', '{}')",
            &[&endpoint.uuid(), &tenant.uuid()],
        )
        .await
        .unwrap();
        Stage {
            store: store.unwrap(),
            queue: queue.unwrap(),
            sql,
            tenant,
            endpoint,
            redis,
            database,
        }
    }

    pub(crate) fn lane(&self) -> Lane {
        Lane {
            tenant_id: self.tenant,
            endpoint_id: self.endpoint,
        }
    }

    /// As it stands in Redis' keys.
    pub(crate) fn lane_name(&self) -> String {
        let (tenant, endpoint) = (self.tenant.uuid(), self.endpoint.uuid());
        format!("{}{}", tenant.as_simple(), endpoint.as_simple())
    }

    /// Waits until the lane was told this.
    pub(crate) async fn wait_for_setting(&self, expected: &str) {
        let mut redis = self.redis.connection().await;
        wait_until("the lane knows its limits", PATIENCE, async || {
            let told: Option<String> = redis::cmd("HGET")
                .arg("{z0}:v2:settings")
                .arg(self.lane_name())
                .query_async(&mut redis)
                .await
                .unwrap();
            if told.as_deref() == Some(expected) {
                Ok(())
            } else {
                Err(told)
            }
        })
        .await;
    }

    /// Changes the endpoint as an operator would.
    pub(crate) async fn set(&self, assignment: &str) {
        let update = format!("UPDATE zyven.endpoints SET {assignment}");
        self.sql.execute(&update, &[]).await.unwrap();
    }

    /// Accepts events as ingest does; returns their sequence numbers.
    pub(crate) async fn accept(&self, count: usize) -> BTreeSet<i64> {
        let events: Vec<NewEvent> = (0..count)
            .map(|_| NewEvent {
                id: EventId::new(),
                tenant_id: self.tenant,
                event_type: EventType::parse("invoice.paid").unwrap(),
                payload: Bytes::from_static(b"{}"),
                content_type: ContentType::Json,
                channels: Vec::new(),
                source: None,
                traceparent: None,
                options: DeliveryOptions::default(),
                idempotency: None,
            })
            .collect();
        let _ = self.store.accept(&events).await.unwrap();
        let ids: Vec<_> = events.iter().map(|event| event.id.uuid()).collect();
        self.seqs("WHERE event_id = ANY ($1)", &[&ids]).await
    }

    /// Many outbox rows at once, without their events, which the relay never reads.
    pub(crate) async fn fill_outbox(&self, count: i32) -> BTreeSet<i64> {
        self.sql
            .execute(
                INSERT_ROWS,
                &[&self.endpoint.uuid(), &self.tenant.uuid(), &count],
            )
            .await
            .unwrap();
        self.seqs("", &[]).await
    }

    pub(crate) async fn seqs(
        &self,
        condition: &str,
        values: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> BTreeSet<i64> {
        let sql = format!("SELECT seq FROM zyven.outbox {condition}");
        let rows = self.sql.query(&sql, values).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Waits until exactly these have been claimed from Redis. Takes them for good.
    pub(crate) async fn wait_for_tickets(&self, expected: &BTreeSet<i64>) {
        let mut taken = BTreeSet::new();
        let mut completions = Vec::new();
        wait_until("all tickets are there", PATIENCE, async || {
            loop {
                let claimed = self.queue.claim(500, PATIENCE, &completions).await;
                let Ok(claimed) = claimed else { break };
                completions = claimed.tickets.iter().map(done).collect();
                if claimed.tickets.is_empty() {
                    break;
                }
                taken.extend(claimed.tickets.iter().map(|ticket| ticket.seq));
            }
            if taken.is_superset(expected) {
                Ok(())
            } else {
                Err(format!("{} of {}", taken.len(), expected.len()))
            }
        })
        .await;
        assert!(taken.is_subset(expected), "{taken:?} beyond {expected:?}");
    }

    pub(crate) async fn wait_for_waiting(&self, waiting: u64) {
        wait_until("so many tickets wait", PATIENCE, async || {
            match self.queue.depth().await {
                Ok(depth) if depth.waiting == waiting => Ok(()),
                seen => Err(format!("{seen:?} instead of {waiting}")),
            }
        })
        .await;
    }

    pub(crate) async fn wait_for_watermark(&self, seq: i64) {
        wait_until("the watermark is recorded", PATIENCE, async || {
            match self.store.watermark().await {
                Ok(watermark) if watermark == seq => Ok(()),
                seen => Err(format!("{seen:?} instead of {seq}")),
            }
        })
        .await;
    }

    pub(crate) async fn relay(&self) -> Running {
        self.relay_with(|_| ()).await
    }

    pub(crate) async fn relay_with(&self, change: impl FnOnce(&mut Config)) -> Running {
        let (trigger, shutdown) = Shutdown::new();
        let (metrics, readiness) = (Metrics::default(), Readiness::default());
        let mut config = config();
        change(&mut config);
        let doorbell = Doorbell::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = doorbell.address().unwrap();
        let dependencies = Dependencies {
            store: self.store.clone(),
            queue: self.queue.clone(),
            doorbell,
            metrics: metrics.clone(),
            readiness: readiness.clone(),
        };
        Running {
            task: tokio::spawn(zyven_relay::run(config, dependencies, shutdown)),
            trigger,
            doorbell: address,
            readiness,
            metrics,
        }
    }

    /// For tests that take the steps themselves.
    pub(crate) fn term(&self, metrics: &Metrics) -> Arc<Term> {
        Arc::new(Term::new(
            self.store.clone(),
            self.queue.clone(),
            Statistics::new(metrics),
        ))
    }
}

impl Running {
    /// Ends it between two instructions, as SIGKILL would.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub(crate) async fn stop(self) {
        self.trigger.request();
        self.task.await.unwrap();
    }

    pub(crate) async fn wait_until_ready(&self) {
        wait_until("the relay is ready", PATIENCE, async || {
            match self.readiness.missing() {
                missing if missing.is_empty() => Ok(()),
                missing => Err(missing),
            }
        })
        .await;
    }

    pub(crate) async fn wait_until_not_ready(&self) {
        wait_until(
            "the relay says that it is not ready",
            PATIENCE,
            async || !self.readiness.missing().is_empty(),
        )
        .await;
    }
}

/// The value of a metric without labels.
pub(crate) fn metric(metrics: &Metrics, name: &str) -> f64 {
    let text = metrics.render();
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in\n{text}"))
}

/// Nothing more is to be done for it.
pub(crate) fn done(ticket: &ClaimedTicket) -> Completion {
    Completion {
        ticket: *ticket,
        learned: Learned::Answered,
        next: Next::Done,
    }
}

pub(crate) fn config() -> Config {
    let none: [(&str, &str); 0] = [];
    Config::read(&mut Source::from_pairs(none)).unwrap()
}

pub(crate) const INSERT_ROWS: &str = "
    INSERT INTO zyven.outbox (delivery_id, event_id, endpoint_id, tenant_id)
    SELECT gen_random_uuid(), gen_random_uuid(), $1, $2
      FROM generate_series(1, $3::integer)";
