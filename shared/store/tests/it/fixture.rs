//! A tenant with endpoints, and events for them.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;
use zyven_domain::event::{
    ContentType, DeliveryOptions, EventType, IdempotencyKey, body_fingerprint, key_fingerprint,
};
use zyven_domain::id::{EndpointId, EventId, TenantId};
use zyven_store::{
    Accepted, AttemptRecord, ClaimedDelivery, DatabaseTls, Idempotency, NewEvent, SettleItem,
    Settlement, Store, StoreConfig,
};
use zyven_testkit::TestDatabase;

pub(crate) const LEASE: Duration = Duration::from_secs(20);
pub(crate) const TOKEN: i64 = 4711;

pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) sql: tokio_postgres::Client,
    pub(crate) tenant: TenantId,
    // Last, so that the connections above are gone when the database is dropped.
    pub(crate) database: TestDatabase,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::on(TestDatabase::new().await).await
    }

    pub(crate) async fn on(database: TestDatabase) -> Self {
        let store = open(&database);
        let sql = database.client().await;
        let tenant = TenantId::new();
        sql.execute(
            "INSERT INTO zyven.tenants (id, name) VALUES ($1, 'test')",
            &[&tenant.uuid()],
        )
        .await
        .expect("a tenant");
        Self {
            store,
            sql,
            tenant,
            database,
        }
    }

    /// A fixture whose tenant has one endpoint that takes everything.
    pub(crate) async fn with_endpoint() -> (Self, EndpointId) {
        let fixture = Self::new().await;
        let endpoint = fixture.endpoint(&["*"], &[]).await;
        (fixture, endpoint)
    }

    pub(crate) async fn endpoint(&self, patterns: &[&str], channels: &[&str]) -> EndpointId {
        let id = EndpointId::new();
        self.sql
            .execute(
                "INSERT INTO zyven.endpoints (id, tenant_id, url, event_types, channels)
                 VALUES ($1, $2, 'http://192.0.2.1/', $3, $4)",
                &[&id.uuid(), &self.tenant.uuid(), &patterns, &channels],
            )
            .await
            .expect("an endpoint");
        id
    }

    /// When an endpoint last changed, as a dispatcher sees it.
    pub(crate) async fn changed_at(&self, id: EndpointId) -> DateTime<Utc> {
        let found = self.store.endpoints(&[id]).await.expect("asked");
        found[0].updated_at
    }

    pub(crate) fn event(&self, event_type: &str, key: Option<&str>) -> NewEvent {
        self.event_with(event_type, key, br#"{"amount": 1.10}"#)
    }

    pub(crate) fn event_with(&self, kind: &str, key: Option<&str>, payload: &[u8]) -> NewEvent {
        let event_type = EventType::parse(kind).expect("a good type");
        let idempotency = key.map(|key| {
            let key = IdempotencyKey::parse(key).expect("a good key");
            Idempotency {
                key: key_fingerprint(self.tenant, &key),
                body: body_fingerprint(
                    &event_type,
                    &[],
                    None,
                    &DeliveryOptions::default(),
                    payload,
                ),
            }
        });
        NewEvent {
            id: EventId::new(),
            tenant_id: self.tenant,
            event_type,
            payload: Bytes::copy_from_slice(payload),
            content_type: ContentType::Json,
            channels: Vec::new(),
            source: None,
            traceparent: None,
            options: DeliveryOptions::default(),
            idempotency,
        }
    }

    /// Accepts one event and returns its outbox rows' numbers.
    pub(crate) async fn accepted(&self, event: &NewEvent) -> Vec<i64> {
        let results = self.store.accept(std::slice::from_ref(event)).await;
        assert!(matches!(
            results.expect("accepted")[..],
            [Accepted::New { .. }]
        ));
        self.seqs(event.id).await
    }

    pub(crate) async fn seqs(&self, event: EventId) -> Vec<i64> {
        self.sql
            .query(
                "SELECT seq FROM zyven.outbox WHERE event_id = $1 ORDER BY seq",
                &[&event.uuid()],
            )
            .await
            .expect("outbox rows")
            .iter()
            .map(|row| row.get(0))
            .collect()
    }

    /// Accepts an event for the only endpoint and claims its delivery.
    pub(crate) async fn claimed(&self) -> ClaimedDelivery {
        let seqs = self.accepted(&self.event("invoice.paid", None)).await;
        self.claim_one(seqs[0], TOKEN).await
    }

    pub(crate) async fn claim_one(&self, seq: i64, token: i64) -> ClaimedDelivery {
        let mut claim = self.store.claim(&[seq], token, LEASE).await.expect("claim");
        assert_eq!(claim.claimed.len(), 1, "refused: {:?}", claim.refused);
        claim.claimed.remove(0)
    }

    pub(crate) async fn count(&self, sql: &str) -> i64 {
        self.sql.query_one(sql, &[]).await.expect("a count").get(0)
    }

    /// The delivery's state as operators see it, with its number of attempts.
    pub(crate) async fn state(&self, delivery: Uuid) -> (String, i32) {
        let row = self
            .sql
            .query_one(
                "SELECT state::text, attempts FROM zyven.deliveries WHERE delivery_id = $1",
                &[&delivery],
            )
            .await
            .expect("exactly one row in the view");
        (row.get(0), row.get(1))
    }

    /// As if time had passed: every lease ends, everything is due.
    pub(crate) async fn let_leases_expire(&self) {
        self.sql
            .execute(
                "UPDATE zyven.outbox SET leased_until = now() - interval '1 second'
                  WHERE lease_token <> 0",
                &[],
            )
            .await
            .expect("leases");
    }

    pub(crate) async fn assert_invariants(&self) {
        let breaches = self.store.invariant_breaches().await.expect("a check");
        assert!(breaches.is_empty(), "{breaches:#?}");
    }
}

pub(crate) fn open(database: &TestDatabase) -> Store {
    Store::connect(&StoreConfig {
        url: database.url(),
        tls: DatabaseTls::default(),
        pool_size: 4,
    })
    .expect("a store")
}

pub(crate) fn record(status: u16) -> AttemptRecord {
    AttemptRecord {
        started_at: Utc::now(),
        http_status: Some(status),
        error: None,
        error_detail: None,
        connect_us: Some(300),
        first_byte_us: Some(900),
        total_us: 1000,
        response_headers: Some("content-type: text/plain\n".to_owned()),
        response_body: Some(Bytes::from_static(b"thanks")),
    }
}

pub(crate) fn settling(
    claimed: &ClaimedDelivery,
    token: i64,
    settlement: Settlement,
) -> SettleItem {
    SettleItem {
        seq: claimed.seq,
        lease_token: token,
        delivery_id: claimed.delivery_id,
        event_id: claimed.event_id,
        endpoint_id: claimed.endpoint_id,
        generation: claimed.generation,
        attempt: claimed.attempt,
        settlement,
    }
}
