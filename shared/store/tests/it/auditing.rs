//! The audit log: complete, in the right name, without secrets, and not to be rewritten.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_postgres::error::SqlState;
use zyven_domain::id::{ApiKeyId, EndpointId, TenantId};
use zyven_store::{
    AUDIT_RETENTION_MIN, Actor, AuditFilter, AuditRecord, DatabaseTls, EndpointChange, Store,
    StoreConfig,
};

use crate::fixture::{Fixture, TOKEN, record, settling};

/// Tables whose rows are work, or follow from other rows, or are records of decisions themselves.
/// Whatever else there is is configuration, and must be audited.
const NOT_CONFIGURATION: [&str; 14] = [
    "attempts",
    "audit_log",
    // What dispatchers have found.
    "breakers",
    // Changed by migrations alone, which are recorded.
    "compatibility",
    "dead_letter_records",
    // Processes that say they are alive.
    "dispatchers",
    "events",
    "finished_deliveries",
    "idempotency_keys",
    "migrations",
    "outbox",
    "relay",
    "routing_versions",
    "subscriptions",
];
/// Records of decisions, which are audited by triggers of their own.
const DECISIONS: [(&str, &str); 2] = [
    ("replays", "dead_letter_records"),
    ("cancellations", "cancellations"),
];

impl Fixture {
    pub(crate) async fn log(&self) -> Vec<AuditRecord> {
        self.log_with(&AuditFilter::default()).await
    }

    /// The oldest first.
    pub(crate) async fn log_with(&self, filter: &AuditFilter) -> Vec<AuditRecord> {
        let log = self
            .store
            .audit_log_of(self.tenant, filter, None, 1000)
            .await;
        let mut log = log.expect("the log");
        log.reverse();
        log
    }

    /// Actions since the fixture made its tenant.
    pub(crate) async fn actions(&self) -> Vec<String> {
        let log = self.log().await;
        log.into_iter().skip(1).map(|entry| entry.action).collect()
    }
}

pub(crate) fn details(entry: &AuditRecord) -> Value {
    serde_json::from_str(&entry.details).expect("JSON")
}

#[tokio::test]
async fn every_configuration_table_is_audited() {
    let fixture = Fixture::new().await;
    let tables = fixture
        .sql
        .query(
            "SELECT c.relname::text,
                    EXISTS (SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
                             WHERE t.tgrelid = c.oid AND p.proname = 'audit' AND t.tgenabled = 'O'
                               AND t.tgtype & 29 = 29), -- for each row, after INSERT, DELETE and UPDATE
                    EXISTS (SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
                             WHERE t.tgrelid = c.oid AND p.proname LIKE 'audit\\__%')
               FROM pg_class c
              WHERE c.relnamespace = 'zyven'::regnamespace
                AND c.relkind IN ('r', 'p')
                AND NOT c.relispartition",
            &[],
        )
        .await
        .expect("the catalog");
    assert!(tables.len() > NOT_CONFIGURATION.len());
    for row in &tables {
        let (name, audited): (String, bool) = (row.get(0), row.get(1));
        if let Some((_, seen_at)) = DECISIONS.iter().find(|(table, _)| *table == name) {
            let at = tables.iter().find(|row| row.get::<_, &str>(0) == *seen_at);
            assert!(at.is_some_and(|row| row.get(2)), "{name} is not audited");
        } else {
            let expected = !NOT_CONFIGURATION.contains(&name.as_str());
            assert_eq!(
                audited, expected,
                "{name}: attach zyven.audit() to it in a migration, or say here why not"
            );
        }
    }
}

#[tokio::test]
async fn an_update_in_psql_is_told_like_a_call_of_the_api() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    fixture
        .sql
        .batch_execute(
            "UPDATE zyven.endpoints SET status = 'disabled', disabled_reason = 'at night'",
        )
        .await
        .expect("disabled");
    let by_key = Actor::Key(ApiKeyId::new());
    fixture
        .store
        .by(by_key)
        .enable_endpoint_of(fixture.tenant, endpoint)
        .await
        .expect("enabled");

    let log = fixture.log().await;
    let [_, created, disabled, enabled] = &log[..] else {
        panic!("{log:#?}");
    };
    let user: String = fixture
        .sql
        .query_one("SELECT session_user::text", &[])
        .await
        .expect("a user")
        .get(0);
    assert_eq!(created.action, "endpoint.create");
    assert_eq!(details(created)["event_types"], json!({ "to": ["*"] }));
    assert_eq!(
        (&disabled.action[..], &disabled.actor),
        ("endpoint.disable", &user)
    );
    assert_eq!(
        details(disabled),
        json!({ "status": { "from": "enabled", "to": "disabled" }, "disabled_reason": { "to": "at night" } })
    );
    assert_eq!(
        (&enabled.action[..], &enabled.actor),
        ("endpoint.enable", &by_key.to_string())
    );
    for entry in &log[1..] {
        assert_eq!(entry.subject, endpoint.to_string());
    }
    assert!(
        log.is_sorted_by_key(|entry| entry.id),
        "in the order in which it happened"
    );
}

#[tokio::test]
async fn what_is_rolled_back_leaves_no_entry_and_what_is_committed_one_of_its_transaction() {
    let (mut fixture, _) = Fixture::with_endpoint().await;
    let rolled_back = fixture.sql.transaction().await.expect("begun");
    rolled_back
        .batch_execute("UPDATE zyven.endpoints SET description = 'x'")
        .await
        .expect("changed");
    rolled_back.rollback().await.expect("rolled back");
    assert_eq!(fixture.actions().await, ["endpoint.create"]);

    let committed = fixture.sql.transaction().await.expect("begun");
    committed
        .batch_execute("UPDATE zyven.endpoints SET description = 'x'")
        .await
        .expect("changed");
    let same: bool = committed
        .query_one(
            "SELECT xact_id = pg_current_xact_id() FROM zyven.audit WHERE action = 'endpoint.change'",
            &[],
        )
        .await
        .expect("an entry")
        .get(0);
    assert!(same);
    committed.commit().await.expect("committed");
    assert_eq!(
        fixture.actions().await,
        ["endpoint.create", "endpoint.change"]
    );
}

/// A transaction-pooling PgBouncer gives the connection to somebody else in between.
#[tokio::test]
async fn an_actor_is_forgotten_with_its_transaction() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    let one = StoreConfig {
        url: fixture.database.url(),
        tls: DatabaseTls::default(),
        pool_size: 1,
    };
    let store = Store::connect(&one).expect("a store");
    let named = store.by(Actor::Dispatcher);
    named
        .enable_endpoint_of(fixture.tenant, endpoint)
        .await
        .expect("asked");
    named
        .disable_endpoint_of(fixture.tenant, endpoint, "x")
        .await
        .expect("asked");
    // A refused statement ends its transaction, too.
    let backwards = EndpointChange {
        retry_base: Some(Duration::from_secs(10)),
        retry_cap: Some(Duration::from_secs(1)),
        ..EndpointChange::default()
    };
    let refused = named
        .change_endpoint(fixture.tenant, endpoint, &backwards)
        .await;
    assert!(refused.expect("asked").is_err());
    // Dropped at some point between its begin and its end.
    for step in 1..20 {
        let change = EndpointChange {
            description: Some(step.to_string()),
            ..EndpointChange::default()
        };
        let changing = named.change_endpoint(fixture.tenant, endpoint, &change);
        let _ = tokio::time::timeout(Duration::from_micros(100 * step), changing).await;
    }
    store
        .enable_endpoint_of(fixture.tenant, endpoint)
        .await
        .expect("asked");
    let log = fixture.log().await;
    let last = log.last().expect("entries");
    assert_eq!(last.action, "endpoint.enable");
    assert_ne!(last.actor, "dispatcher");
    let disabled = log.iter().find(|entry| entry.action == "endpoint.disable");
    assert_eq!(disabled.expect("an entry").actor, "dispatcher");
}

#[tokio::test]
async fn nobody_rewrites_the_log_and_only_what_is_old_is_forgotten() {
    let fixture = Fixture::new().await;
    for sql in [
        "UPDATE zyven.audit_log SET actor = 'nobody'",
        "DELETE FROM zyven.audit_log",
        "TRUNCATE zyven.audit_log",
    ] {
        let refused = fixture.sql.batch_execute(sql).await.expect_err(sql);
        assert_eq!(
            refused.code(),
            Some(&SqlState::INSUFFICIENT_PRIVILEGE),
            "{sql}"
        );
    }
    fixture
        .sql
        .batch_execute(
            "INSERT INTO zyven.audit_log (action, subject, done_at)
             SELECT 'a.b', days::text, now() - make_interval(days => days, mins => minutes)
               FROM (VALUES (29, 1439), (30, 1), (400, 1)) AS old (days, minutes)",
        )
        .await
        .expect("old entries");
    let left = async || {
        let rows = fixture
            .sql
            .query(
                "SELECT subject FROM zyven.audit_log WHERE action = 'a.b' ORDER BY done_at",
                &[],
            )
            .await;
        rows.expect("entries")
            .iter()
            .map(|row| row.get(0))
            .collect::<Vec<String>>()
    };
    let year = Duration::from_secs(400 * 24 * 60 * 60);
    assert_eq!(
        fixture.store.expire_audit_log(year).await.expect("expired"),
        1
    );
    assert_eq!(left().await, ["30", "29"]);
    let too_early = AUDIT_RETENTION_MIN - Duration::from_secs(3600);
    assert!(fixture.store.expire_audit_log(too_early).await.is_err());
    assert_eq!(
        fixture
            .store
            .expire_audit_log(AUDIT_RETENTION_MIN)
            .await
            .expect("expired"),
        1
    );
    assert_eq!(left().await, ["29"]);
    assert_eq!(
        fixture.actions().await.len(),
        0,
        "the tenant's own entry is young"
    );
}

#[tokio::test]
async fn a_replay_is_in_the_log_of_each_tenant_it_concerns() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let mut dead = Vec::new();
    for _ in 0..3 {
        let claimed = fixture.claimed().await;
        let item = settling(
            &claimed,
            TOKEN,
            zyven_store::Settlement::DeadLetter {
                reason: zyven_domain::retry::DeadLetterReason::Rejected,
                record: Some(record(400)),
            },
        );
        let settled = fixture.store.settle(&[item]).await;
        drop(settled.expect("settled"));
        dead.push(claimed.delivery_id);
    }
    let actor = Actor::Key(ApiKeyId::new());
    let replayed = fixture
        .store
        .by(actor)
        .replay(fixture.tenant, dead[0], "mended")
        .await;
    assert_eq!(replayed.expect("asked"), zyven_store::Replayed::Queued);
    fixture
        .sql
        .batch_execute(
            "SELECT zyven.replay_dead_letters('the rest', dry_run => true);
                        SELECT zyven.replay_dead_letters('the rest', dry_run => false)",
        )
        .await
        .expect("replayed");
    let only = AuditFilter {
        action: Some("delivery.".to_owned()),
        ..AuditFilter::default()
    };
    let log = fixture.log_with(&only).await;
    let [one, many] = &log[..] else {
        panic!("{log:#?}");
    };
    assert_eq!(
        (&one.subject, &one.actor),
        (&dead[0].to_string(), &actor.to_string())
    );
    assert_eq!(
        (
            details(one)["reason"].as_str(),
            details(one)["deliveries"].as_i64()
        ),
        (Some("mended"), Some(1))
    );
    assert_eq!(
        (&many.subject, details(many)["deliveries"].as_i64()),
        (&fixture.tenant.to_string(), Some(2))
    );
    let linked = "SELECT count(*) FROM zyven.replays r JOIN zyven.audit_log a
                      ON a.details ->> 'replay' = r.id::text AND a.xact_id = r.xact_id AND a.actor = r.decided_by";
    assert_eq!(fixture.count(linked).await, 2);
}

#[tokio::test]
async fn the_log_is_read_by_tenant_page_and_filter() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    let other = EndpointId::new();
    let stranger = TenantId::new();
    fixture
        .sql
        .execute(
            "INSERT INTO zyven.tenants (id, name) VALUES ($1, 'stranger')",
            &[&stranger.uuid()],
        )
        .await
        .expect("a tenant");
    fixture
        .sql
        .execute(
            "INSERT INTO zyven.endpoints (id, tenant_id, url, event_types) VALUES ($1, $2, 'http://192.0.2.1/', '{*}')",
            &[&other.uuid(), &stranger.uuid()],
        )
        .await
        .expect("an endpoint");
    let operator = fixture.store.by(Actor::CommandLine);
    for n in 0..4 {
        let change = EndpointChange {
            description: Some(n.to_string()),
            ..EndpointChange::default()
        };
        let changed = operator.change_endpoint(fixture.tenant, endpoint, &change);
        changed.await.expect("asked").expect("changed");
    }
    let all = fixture.log().await;
    assert_eq!(all.len(), 6);
    let everything = AuditFilter::default();
    let page = fixture
        .store
        .audit_log_of(fixture.tenant, &everything, Some(all[3].id), 2);
    let page = page.await.expect("a page");
    let ids: Vec<_> = page.iter().map(|entry| entry.id).collect();
    assert_eq!(ids, [all[2].id, all[1].id]);

    let text = |text: &str| Some(text.to_owned());
    let by_action = |action| AuditFilter {
        action: text(action),
        ..AuditFilter::default()
    };
    let by_actor = AuditFilter {
        actor: text("zyven admin"),
        ..AuditFilter::default()
    };
    let by_subject = AuditFilter {
        subject: Some(fixture.tenant.to_string()),
        ..AuditFilter::default()
    };
    let since = AuditFilter {
        since: Some(all[2].done_at),
        ..AuditFilter::default()
    };
    let until = AuditFilter {
        until: Some(all[2].done_at),
        ..AuditFilter::default()
    };
    for (filter, expected) in [
        (by_action("endpoint.change"), 4),
        (by_action("endpoint."), 5),
        (by_action("endpoint"), 0),
        (by_actor, 4),
        (by_subject, 1),
        (since, 4),
        (until, 2),
    ] {
        assert_eq!(
            fixture.log_with(&filter).await.len(),
            expected,
            "{filter:?}"
        );
    }
}
