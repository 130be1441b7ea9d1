//! What the audit log calls each kind of change, and what it shows of it.

use std::time::Duration;

use serde_json::json;
use zyven_domain::api_key::{ApiKey, Scope, Scopes};
use zyven_domain::id::{ApiKeyId, TenantId};
use zyven_store::{Actor, AuditFilter, AuditRecord, EndpointChange, NewApiKey, SealedSecret};

use crate::auditing::details;
use crate::fixture::Fixture;

fn secret() -> SealedSecret {
    SealedSecret {
        id: uuid::Uuid::now_v7(),
        scheme: "hmac".to_owned(),
        envelope: b"top-secret-envelope".to_vec(),
    }
}

fn new_key(tenant: TenantId) -> NewApiKey {
    let key = ApiKey::from_random([7; 8], [7; 32]);
    NewApiKey {
        id: ApiKeyId::new(),
        tenant_id: tenant,
        public_id: key.public_id(),
        secret_hash: key.secret_hash(),
        name: "deploy".to_owned(),
        scopes: Scopes::all(),
        expires_at: None,
    }
}

#[tokio::test]
async fn every_kind_of_change_has_its_action() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    let (store, tenant) = (fixture.store.by(Actor::CommandLine), fixture.tenant);
    let key = new_key(tenant);
    store.add_api_key(&key).await.expect("added").expect("room");
    for _ in 0..2 {
        store.revoke_api_key(tenant, key.id).await.expect("revoked");
    }
    let change = EndpointChange {
        description: Some("billing".to_owned()),
        ..EndpointChange::default()
    };
    for _ in 0..2 {
        let changed = store.change_endpoint(tenant, endpoint, &change).await;
        changed.expect("asked").expect("changed");
    }
    for _ in 0..2 {
        let overlap = Duration::from_secs(60);
        assert!(
            store
                .rotate_secret(tenant, endpoint, &secret(), overlap)
                .await
                .expect("rotated")
        );
    }
    store
        .note_secret_reveal(tenant, endpoint)
        .await
        .expect("noted");
    let scopes = [Scope::Read].into_iter().collect();
    store
        .note_view_link(tenant, key.id, scopes, Duration::from_secs(60))
        .await
        .expect("noted");
    for sql in [
        "SELECT zyven.pause(zyven.typed_id('ep', id)) FROM zyven.endpoints",
        "SELECT zyven.pause(zyven.typed_id('ep', id)) FROM zyven.endpoints",
        "SELECT zyven.resume(zyven.typed_id('ep', id)) FROM zyven.endpoints",
        "UPDATE zyven.endpoint_secrets SET envelope = '\\x00' WHERE expires_at IS NULL",
        "UPDATE zyven.endpoints SET updated_at = now()",
        "DELETE FROM zyven.endpoint_secrets WHERE expires_at IS NOT NULL",
        "UPDATE zyven.tenants SET name = 'other'",
    ] {
        fixture.sql.batch_execute(sql).await.expect(sql);
    }
    let removed = store.remove_endpoint(tenant, endpoint, None).await;
    assert_eq!(removed.expect("an answer"), Ok(()));
    // What changed nothing is no action.
    assert_eq!(
        fixture.actions().await,
        [
            "endpoint.create",
            "api_key.create",
            "api_key.revoke",
            "endpoint.change",
            "endpoint_secret.create",
            "endpoint_secret.retire",
            "endpoint_secret.create",
            "endpoint_secret.reveal",
            "view_link.create",
            "endpoint.pause",
            "endpoint.resume",
            "endpoint_secret.reseal",
            "endpoint_secret.delete",
            "tenant.change",
            "endpoint.delete",
        ]
    );
    let log = fixture.log().await;
    for entry in &log {
        for hidden in [
            "top-secret",
            "746f702d736563726574",
            "\\x",
            &hex(&key.secret_hash.0),
        ] {
            assert!(!entry.details.contains(hidden), "{hidden} in {entry:?}");
        }
    }
    let revoked = log.iter().find(|entry| entry.action == "api_key.revoke");
    let revoked = revoked.expect("a revocation");
    assert_eq!(
        (revoked.subject.clone(), revoked.actor.as_str()),
        (key.id.to_string(), "zyven admin")
    );
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn an_entry_stands_for_the_links_of_an_hour_that_allow_no_more() {
    let fixture = Fixture::new().await;
    let store = fixture.store.by(Actor::CommandLine);
    let mut keys = Vec::new();
    for number in 0..2 {
        let mut key = new_key(fixture.tenant);
        key.public_id = ApiKey::from_random([number; 8], [7; 32]).public_id();
        store.add_api_key(&key).await.expect("added").expect("room");
        keys.push(key.id);
    }
    let only = AuditFilter {
        action: Some("view_link.create".to_owned()),
        ..AuditFilter::default()
    };
    let (both, read) = (&[Scope::Read, Scope::Replay][..], &[Scope::Read][..]);
    for (key, scopes, expires_in_s, entries) in [
        (0, read, 900, 1),
        (0, read, 900, 1),
        (0, read, 60, 1),
        // More than any entry says.
        (0, read, 901, 2),
        (0, both, 60, 3),
        // As much as some.
        (0, read, 901, 3),
        (0, both, 59, 3),
        (0, both, 61, 4),
        // Another key's.
        (1, read, 60, 5),
    ] {
        let expires_in = Duration::from_secs(expires_in_s);
        let scopes = scopes.iter().copied().collect();
        store
            .note_view_link(fixture.tenant, keys[key], scopes, expires_in)
            .await
            .expect("noted");
        let log = fixture.log_with(&only).await;
        assert_eq!(log.len(), entries, "{key} {expires_in:?}: {log:#?}");
    }
    let log = fixture.log_with(&only).await;
    assert_eq!(
        details(&log[0]),
        json!({ "scopes": { "to": ["read"] }, "expires_in_s": { "to": 900 } })
    );
    // After its hour an entry stands for nothing. Nobody but a test can make it older.
    let aged = |minutes: u32| {
        format!(
            "SET session_replication_role = replica;
             UPDATE zyven.audit_log
                SET done_at = now() - interval '{minutes} minutes',
                    id = (left(zyven.uuid_floor(now() - interval '{minutes} minutes')::text, 13) || right(id::text, 23))::uuid"
        )
    };
    for (minutes, entries) in [(59, 5), (61, 6)] {
        fixture
            .sql
            .batch_execute(&aged(minutes))
            .await
            .expect("aged");
        let scopes = read.iter().copied().collect();
        store
            .note_view_link(fixture.tenant, keys[1], scopes, Duration::from_secs(60))
            .await
            .expect("noted");
        assert_eq!(fixture.log_with(&only).await.len(), entries, "{minutes}");
    }
}

#[tokio::test]
async fn links_that_are_made_at_the_same_time_leave_one_entry() {
    let fixture = Fixture::new().await;
    let store = fixture.store.by(Actor::CommandLine);
    let key = new_key(fixture.tenant);
    store.add_api_key(&key).await.expect("added").expect("room");
    let mut making = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (store, tenant, key) = (store.clone(), fixture.tenant, key.id);
        making.spawn(async move {
            let scopes = [Scope::Read].into_iter().collect();
            let expires_in = Duration::from_secs(60);
            store.note_view_link(tenant, key, scopes, expires_in).await
        });
    }
    while let Some(made) = making.join_next().await {
        made.expect("it ends").expect("noted");
    }
    let made = fixture.actions().await;
    assert_eq!(made, ["api_key.create", "view_link.create"]);
}

#[tokio::test]
async fn what_belongs_to_an_endpoint_or_goes_by_a_name_is_told_of_the_endpoint_or_the_name() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    let tenant = fixture.tenant.uuid();
    for sql in [
        format!(
            "INSERT INTO zyven.endpoint_credentials (id, endpoint_id, kind, envelope, shown)
             VALUES (gen_random_uuid(), '{}', 'headers', 'top-secret', '[\"x-shown\"]')",
            endpoint.uuid()
        ),
        "UPDATE zyven.endpoint_credentials SET envelope = 'top-secret-too'".to_owned(),
        "UPDATE zyven.endpoint_credentials SET id = gen_random_uuid(), envelope = 'top-secret-new'"
            .to_owned(),
        "DELETE FROM zyven.endpoint_credentials".to_owned(),
        format!(
            "INSERT INTO zyven.event_types (tenant_id, name) VALUES ('{tenant}', 'invoice.paid')"
        ),
        "UPDATE zyven.event_types SET version = version + 1".to_owned(),
        "UPDATE zyven.event_types SET version = version + 1, description = repeat('x', 5000), schema = '{}'".to_owned(),
        "UPDATE zyven.event_types SET archived_at = now()".to_owned(),
    ] {
        fixture.sql.batch_execute(&sql).await.expect(&sql);
    }
    let log: Vec<AuditRecord> = fixture.log().await.into_iter().skip(2).collect();
    let told: Vec<(&str, &str)> = log
        .iter()
        .map(|entry| (entry.action.as_str(), entry.subject.as_str()))
        .collect();
    let ep = endpoint.to_string();
    assert_eq!(
        told,
        [
            ("endpoint_credential.create", ep.as_str()),
            ("endpoint_credential.reseal", &ep),
            ("endpoint_credential.change", &ep),
            ("endpoint_credential.delete", &ep),
            ("event_type.create", "invoice.paid"),
            ("event_type.change", "invoice.paid"),
            ("event_type.archive", "invoice.paid"),
        ]
    );
    assert!(log[0].details.contains("x-shown"), "{:?}", log[0]);
    assert_eq!(details(&log[1]), json!({ "envelope": "not shown" }));
    let long = details(&log[5])["description"]["to"]
        .as_str()
        .map(|text| text.chars().count());
    assert_eq!(long, Some(2001), "cut, and marked as cut");
    for entry in &log {
        for hidden in ["top-secret", "746f702d736563726574"] {
            assert!(!entry.details.contains(hidden), "{entry:?}");
        }
    }
}

#[tokio::test]
async fn a_cancellation_is_told_to_the_tenant_whose_event_or_delivery_it_was() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let (first, second) = (fixture.event("a", None), fixture.event("a", None));
    fixture.accepted(&first).await;
    let seqs = fixture.accepted(&second).await;
    let delivery = format!(
        "(SELECT zyven.typed_id('dlv', delivery_id) FROM zyven.outbox WHERE seq = {})",
        seqs[0]
    );
    for what in [&format!("'{}'", first.id), &delivery] {
        let sql = format!("SELECT zyven.cancel({what}, 'a mistake')");
        for _ in 0..2 {
            // The second time there is nothing left to cancel.
            let _ = fixture.sql.batch_execute(&sql).await;
        }
    }
    let only = AuditFilter {
        action: Some("delivery.cancel".to_owned()),
        ..AuditFilter::default()
    };
    let log = fixture.log_with(&only).await;
    assert_eq!(log.len(), 2, "{log:#?}");
    assert_eq!(log[0].subject, first.id.to_string());
    assert!(log[1].subject.starts_with("dlv_"));
    for entry in &log {
        assert_eq!(details(entry)["reason"], "a mistake");
        assert_eq!(details(entry)["deliveries"], 1);
    }
}
