//! What requests of an endpoint carry besides signatures, as it is kept.

use std::collections::HashMap;

use uuid::Uuid;
use zyven_domain::id::{EndpointId, TenantId};
use zyven_store::{
    CredentialChange, CredentialKind, EndpointChange, EndpointRefusal, NewCredential,
    SealedCredential,
};

use crate::endpoints::endpoint;
use crate::fixture::Fixture;

fn new(kind: CredentialKind, byte: u8) -> NewCredential {
    NewCredential {
        id: Uuid::now_v7(),
        kind,
        envelope: vec![byte; 8],
        shown: format!("{{\"byte\":{byte}}}"),
    }
}

fn change(set: Vec<NewCredential>, removed: Vec<CredentialKind>) -> EndpointChange {
    EndpointChange {
        credentials: CredentialChange { set, removed },
        ..EndpointChange::default()
    }
}

/// Kind and first byte of each, as a dispatcher gets them.
async fn delivered_with(fixture: &Fixture, id: EndpointId) -> Vec<(String, u8)> {
    let found = fixture.store.endpoints(&[id]).await.expect("asked");
    let credentials: &[SealedCredential] = &found[0].credentials;
    credentials
        .iter()
        .map(|credential| (credential.kind.clone(), credential.envelope[0]))
        .collect()
}

#[tokio::test]
async fn credentials_are_made_replaced_and_removed_together_with_their_endpoint() {
    let fixture = Fixture::new().await;
    let mut made = endpoint(fixture.tenant);
    made.credentials.set = vec![
        new(CredentialKind::Headers, 1),
        new(CredentialKind::Auth, 2),
    ];
    for _ in 0..2 {
        let added = fixture.store.add_endpoint(&made).await.expect("asked");
        assert_eq!(added.expect("made").id, made.id);
    }
    let pairs = |pairs: &[(&str, u8)]| -> Vec<(String, u8)> {
        pairs
            .iter()
            .map(|(kind, byte)| ((*kind).to_owned(), *byte))
            .collect()
    };
    assert_eq!(
        delivered_with(&fixture, made.id).await,
        pairs(&[("auth", 2), ("headers", 1)])
    );

    let replaced = change(
        vec![
            new(CredentialKind::Auth, 3),
            new(CredentialKind::ClientCertificate, 4),
        ],
        vec![CredentialKind::Headers],
    );
    for _ in 0..2 {
        let changed = fixture
            .store
            .change_endpoint(fixture.tenant, made.id, &replaced);
        assert!(changed.await.expect("asked").is_ok());
    }
    let now = pairs(&[("auth", 3), ("client_certificate", 4)]);
    assert_eq!(delivered_with(&fixture, made.id).await, now);

    let safeguards = fixture
        .store
        .safeguards_of(fixture.tenant, &[made.id])
        .await
        .expect("asked");
    let shown = &safeguards[&made.id];
    assert_eq!(shown.signing.as_deref(), Some("hmac"));
    let expected = HashMap::from([
        ("auth".to_owned(), "{\"byte\":3}".to_owned()),
        ("client_certificate".to_owned(), "{\"byte\":4}".to_owned()),
    ]);
    assert_eq!(shown.credentials, expected);
}

#[tokio::test]
async fn another_tenant_neither_changes_nor_sees_credentials() {
    let fixture = Fixture::new().await;
    let mut made = endpoint(fixture.tenant);
    made.credentials.set = vec![new(CredentialKind::Auth, 1)];
    let added = fixture.store.add_endpoint(&made).await.expect("asked");
    assert!(added.is_ok());
    let stranger = TenantId::new();
    for theirs in [
        change(vec![new(CredentialKind::Auth, 9)], Vec::new()),
        change(Vec::new(), vec![CredentialKind::Auth]),
    ] {
        let refused = fixture.store.change_endpoint(stranger, made.id, &theirs);
        assert_eq!(
            refused.await.expect("asked").err(),
            Some(EndpointRefusal::NotFound)
        );
    }
    assert_eq!(
        delivered_with(&fixture, made.id).await,
        [("auth".to_owned(), 1)]
    );
    let seen = fixture.store.safeguards_of(stranger, &[made.id]).await;
    assert!(seen.expect("asked").is_empty());
}

/// A credential that belongs to a new URL must never go out to the old one, nor the other way round.
#[tokio::test]
async fn a_change_that_is_refused_leaves_the_credentials_alone() {
    let fixture = Fixture::new().await;
    let mut made = endpoint(fixture.tenant);
    made.credentials.set = vec![new(CredentialKind::Auth, 1)];
    let added = fixture.store.add_endpoint(&made).await.expect("asked");
    assert!(added.is_ok());
    let refused = EndpointChange {
        retry_cap: Some(std::time::Duration::from_millis(1)),
        ..change(vec![new(CredentialKind::Auth, 2)], Vec::new())
    };
    let refused = fixture
        .store
        .change_endpoint(fixture.tenant, made.id, &refused);
    assert_eq!(
        refused.await.expect("asked").err(),
        Some(EndpointRefusal::RetryCapBelowBase)
    );
    assert_eq!(
        delivered_with(&fixture, made.id).await,
        [("auth".to_owned(), 1)]
    );
}
