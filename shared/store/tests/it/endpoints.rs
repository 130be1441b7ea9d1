//! Endpoints as their owners manage them, and events for one of them.

use std::time::Duration;

use uuid::Uuid;
use zyven_domain::event::Pattern;
use zyven_domain::id::{DeliveryId, EndpointId, TenantId};
use zyven_domain::retry::RetryPolicy;
use zyven_store::{
    AcceptedFor, CredentialChange, EndpointChange, EndpointRefusal, LaneLimits, NewEndpoint,
    SECRETS_VALID_MAX, SealedSecret,
};

use crate::fixture::Fixture;

fn sealed(byte: u8) -> SealedSecret {
    SealedSecret {
        id: Uuid::now_v7(),
        scheme: "hmac".to_owned(),
        envelope: vec![byte; 8],
    }
}

pub(crate) fn endpoint(tenant: TenantId) -> NewEndpoint {
    NewEndpoint {
        id: EndpointId::new(),
        tenant_id: tenant,
        url: "https://example.com/".to_owned(),
        description: String::new(),
        event_types: vec![Pattern::parse("*").expect("a pattern")],
        channels: Vec::new(),
        filter: None,
        policy: RetryPolicy::default(),
        limits: LaneLimits::default(),
        secret: sealed(1),
        credentials: CredentialChange::default(),
    }
}

async fn envelopes(fixture: &Fixture, id: EndpointId) -> Vec<u8> {
    let secrets = fixture
        .store
        .secrets_of(fixture.tenant, id)
        .await
        .expect("secrets");
    secrets
        .iter()
        .map(|owned| owned.secret.envelope[0])
        .collect()
}

#[tokio::test]
async fn making_and_rotating_can_be_repeated() {
    let fixture = Fixture::new().await;
    let new = endpoint(fixture.tenant);
    for _ in 0..2 {
        let made = fixture.store.add_endpoint(&new).await.expect("asked");
        assert_eq!(made.expect("made").id, new.id);
    }
    assert_eq!(envelopes(&fixture, new.id).await, [1]);
    let second = sealed(2);
    for _ in 0..2 {
        let hour = Duration::from_secs(3600);
        let rotated = fixture
            .store
            .rotate_secret(fixture.tenant, new.id, &second, hour)
            .await;
        assert!(rotated.expect("asked"));
    }
    assert_eq!(
        envelopes(&fixture, new.id).await,
        [2, 1],
        "the current one first"
    );
    for number in 3..20 {
        let hour = Duration::from_secs(3600);
        let next = sealed(number);
        let rotated = fixture
            .store
            .rotate_secret(fixture.tenant, new.id, &next, hour)
            .await;
        assert!(rotated.expect("asked"));
    }
    assert_eq!(envelopes(&fixture, new.id).await, [19, 18, 17, 16, 15]);
    assert_eq!(SECRETS_VALID_MAX, 5);
    let rows = fixture
        .count("SELECT count(*) FROM zyven.endpoint_secrets")
        .await;
    assert!(rows <= 6, "expired ones are forgotten: {rows}");
}

#[tokio::test]
async fn rotations_at_the_same_time_leave_one_current_secret() {
    let fixture = Fixture::new().await;
    let new = endpoint(fixture.tenant);
    fixture
        .store
        .add_endpoint(&new)
        .await
        .expect("asked")
        .expect("made");
    let racers: Vec<_> = (2..6)
        .map(|number| {
            let (store, tenant, id) = (fixture.store.clone(), fixture.tenant, new.id);
            let hour = Duration::from_secs(3600);
            tokio::spawn(
                async move { store.rotate_secret(tenant, id, &sealed(number), hour).await },
            )
        })
        .collect();
    for racer in racers {
        assert!(racer.await.expect("no panic").expect("asked"));
    }
    let secrets = fixture
        .store
        .secrets_of(fixture.tenant, new.id)
        .await
        .expect("secrets");
    let current = secrets
        .iter()
        .filter(|owned| owned.expires_at.is_none())
        .count();
    assert_eq!((secrets.len(), current), (5, 1));
    assert!(secrets[0].expires_at.is_none());
}

#[tokio::test]
async fn a_change_that_contradicts_what_stays_is_refused() {
    let fixture = Fixture::new().await;
    let new = endpoint(fixture.tenant);
    fixture
        .store
        .add_endpoint(&new)
        .await
        .expect("asked")
        .expect("made");
    let change = EndpointChange {
        retry_cap: Some(Duration::from_secs(1)),
        ..EndpointChange::default()
    };
    let changed = fixture
        .store
        .change_endpoint(fixture.tenant, new.id, &change)
        .await;
    assert_eq!(
        changed.expect("asked").err(),
        Some(EndpointRefusal::RetryCapBelowBase)
    );
    let stranger = TenantId::new();
    let changed = fixture
        .store
        .change_endpoint(stranger, new.id, &change)
        .await;
    assert_eq!(
        changed.expect("asked").err(),
        Some(EndpointRefusal::NotFound)
    );
}

#[tokio::test]
async fn an_event_for_one_endpoint_is_stored_once_and_only_for_its_owner() {
    let fixture = Fixture::new().await;
    let (mine, other) = (endpoint(fixture.tenant), endpoint(fixture.tenant));
    for new in [&mine, &other] {
        fixture
            .store
            .add_endpoint(new)
            .await
            .expect("asked")
            .expect("made");
    }
    let today: String = fixture
        .sql
        .query_one("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')", &[])
        .await
        .expect("a date")
        .get(0);
    let drop_partition = format!("DROP TABLE zyven.events_{today}");
    fixture
        .sql
        .batch_execute(&drop_partition)
        .await
        .expect("dropped");

    let event = fixture.event("zyven.test", None);
    let delivery = DeliveryId::derive(event.id, mine.id);
    for _ in 0..2 {
        let accepted = fixture.store.accept_for(&event, mine.id).await;
        assert_eq!(accepted.expect("asked"), AcceptedFor::Accepted(delivery));
    }
    assert_eq!(fixture.seqs(event.id).await.len(), 1);

    let mut foreign = fixture.event("zyven.test", None);
    foreign.tenant_id = TenantId::new();
    let refused = fixture.store.accept_for(&foreign, mine.id).await;
    assert_eq!(refused.expect("asked"), AcceptedFor::NotFound);
    let seen = fixture.changed_at(mine.id).await;
    let disabled = fixture.store.disable_endpoint(mine.id, seen, "test").await;
    assert!(disabled.expect("asked"));
    let event = fixture.event("zyven.test", None);
    let refused = fixture.store.accept_for(&event, mine.id).await;
    assert_eq!(refused.expect("asked"), AcceptedFor::Disabled);
    assert_eq!(fixture.count("SELECT count(*) FROM zyven.events").await, 1);
    fixture.assert_invariants().await;
}

#[tokio::test]
async fn an_endpoint_is_disabled_only_as_it_was_seen() {
    let fixture = Fixture::new().await;
    let new = endpoint(fixture.tenant);
    fixture
        .store
        .add_endpoint(&new)
        .await
        .expect("asked")
        .expect("made");
    let (store, id) = (&fixture.store, new.id);
    let seen = fixture.changed_at(id).await;
    let change = EndpointChange {
        url: Some("https://example.com/moved".to_owned()),
        ..EndpointChange::default()
    };
    let changed = store.change_endpoint(fixture.tenant, id, &change).await;
    changed.expect("asked").expect("changed");
    let disabled = store.disable_endpoint(id, seen, "too late").await;
    assert!(!disabled.expect("asked"));

    let seen = fixture.changed_at(id).await;
    let disabled = store.disable_endpoint(id, seen, "gone").await;
    assert!(disabled.expect("asked"));
    let disabled = store.disable_endpoint(id, seen, "gone").await;
    assert!(!disabled.expect("asked"), "it is already");

    // Its owner takes it up again, while an attempt from before is still under way.
    let enabled = store.enable_endpoint_of(fixture.tenant, id).await;
    assert_eq!(
        enabled.expect("asked").expect("found").disabled_reason,
        None
    );
    let disabled = store.disable_endpoint(id, seen, "too late").await;
    assert!(!disabled.expect("asked"));
}

#[tokio::test]
async fn a_schedule_and_statuses_are_kept_and_read_alike_by_owners_and_dispatchers() {
    let fixture = Fixture::new().await;
    let policy = RetryPolicy {
        schedule: [1, 604_800_000].map(Duration::from_millis).to_vec(),
        statuses: vec![400, 409, 499],
        ..RetryPolicy::default()
    };
    let new = NewEndpoint {
        policy: policy.clone(),
        ..endpoint(fixture.tenant)
    };
    let made = fixture.store.add_endpoint(&new).await;
    assert_eq!(made.expect("asked").expect("made").policy, policy);
    let read = fixture.store.endpoints(&[new.id]).await.expect("asked");
    assert_eq!(read[0].policy, policy);

    let change = EndpointChange {
        retry_schedule: Some(Vec::new()),
        ..EndpointChange::default()
    };
    let changed = fixture
        .store
        .change_endpoint(fixture.tenant, new.id, &change)
        .await;
    let expected = RetryPolicy {
        schedule: Vec::new(),
        ..policy
    };
    assert_eq!(changed.expect("asked").expect("changed").policy, expected);
}
