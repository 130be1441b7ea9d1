//! Tenants and API keys.

use chrono::{DateTime, TimeDelta, Utc};
use zyven_domain::api_key::{ApiKey, Scope, Scopes};
use zyven_domain::id::{ApiKeyId, TenantId};
use zyven_store::{API_KEYS_PER_TENANT_MAX, NewApiKey};

use crate::fixture::Fixture;

fn key(tenant: TenantId, seed: u8, expires_at: Option<DateTime<Utc>>) -> NewApiKey {
    let key = ApiKey::from_random([seed; 8], [seed; 32]);
    NewApiKey {
        id: ApiKeyId::new(),
        tenant_id: tenant,
        public_id: key.public_id(),
        secret_hash: key.secret_hash(),
        name: format!("key {seed}"),
        scopes: [Scope::Read, Scope::Publish].into_iter().collect(),
        expires_at,
    }
}

#[tokio::test]
async fn a_key_is_found_by_its_public_id_until_it_is_revoked() {
    let fixture = Fixture::new().await;
    let end = DateTime::from_timestamp_millis(Utc::now().timestamp_millis() + 60_000);
    let new = key(fixture.tenant, 1, end);
    for _ in 0..2 {
        let record = fixture.store.add_api_key(&new).await.expect("added");
        let record = record.expect("there is room");
        assert_eq!(record.id, new.id);
        assert_eq!(record.scopes, new.scopes);
    }
    let found = fixture
        .store
        .credential(new.public_id)
        .await
        .expect("asked");
    let found = found.expect("the key");
    assert_eq!((found.key_id, found.tenant_id), (new.id, fixture.tenant));
    assert_eq!(found.secret_hash, new.secret_hash);
    assert_eq!((found.scopes, found.expires_at), (new.scopes, end));

    let unknown = key(fixture.tenant, 2, None).public_id;
    assert!(
        fixture
            .store
            .credential(unknown)
            .await
            .expect("asked")
            .is_none()
    );

    let stranger = TenantId::new();
    assert!(
        !fixture
            .store
            .revoke_api_key(stranger, new.id)
            .await
            .expect("asked")
    );
    assert!(
        fixture
            .store
            .credential(new.public_id)
            .await
            .expect("asked")
            .is_some()
    );
    let mut revoked_at = Vec::new();
    for _ in 0..2 {
        assert!(
            fixture
                .store
                .revoke_api_key(fixture.tenant, new.id)
                .await
                .expect("asked")
        );
        let keys = fixture.store.api_keys_of(fixture.tenant, None, 10).await;
        revoked_at.push(keys.expect("keys")[0].revoked_at.expect("a time"));
    }
    assert_eq!(revoked_at[0], revoked_at[1], "the first revocation stands");
    assert!(
        fixture
            .store
            .credential(new.public_id)
            .await
            .expect("asked")
            .is_none()
    );
}

#[tokio::test]
async fn a_tenant_is_made_with_its_first_key_once() {
    let fixture = Fixture::new().await;
    assert_eq!(
        fixture.store.tenants_named("demo").await.expect("asked"),
        []
    );
    let tenant = TenantId::new();
    let first = NewApiKey {
        scopes: Scopes::all(),
        ..key(tenant, 3, Some(Utc::now() + TimeDelta::days(1)))
    };
    for _ in 0..2 {
        fixture
            .store
            .create_tenant("demo", &first)
            .await
            .expect("made");
    }
    assert_eq!(
        fixture.store.tenants_named("demo").await.expect("asked"),
        [tenant]
    );
    let keys = fixture
        .store
        .api_keys_of(tenant, None, 10)
        .await
        .expect("keys");
    assert_eq!(keys.len(), 1);

    let other = key(TenantId::new(), 4, None);
    fixture
        .store
        .create_tenant("demo", &other)
        .await
        .expect("made");
    let found = fixture.store.tenants_named("demo").await.expect("asked");
    assert_eq!(found, [tenant, other.tenant_id], "the older one first");
}

#[tokio::test]
async fn a_tenant_has_no_more_than_a_thousand_keys_that_work() {
    let fixture = Fixture::new().await;
    let add = async |seed| {
        let new = key(fixture.tenant, seed, None);
        let added = fixture.store.add_api_key(&new);
        added.await.expect("asked").is_some()
    };
    // Neither an expired nor a revoked key counts.
    fixture
        .sql
        .execute(
            "INSERT INTO zyven.api_keys (id, tenant_id, public_id, secret_hash, name, scopes, expires_at, revoked_at)
             SELECT gen_random_uuid(), $1, n::text, sha256(''), 'many', '{read}',
                    CASE WHEN n = -1 THEN now() END, CASE WHEN n = 0 THEN now() END
               FROM generate_series(-1, $2::integer - 1) AS n",
            &[&fixture.tenant.uuid(), &API_KEYS_PER_TENANT_MAX.cast_signed()],
        )
        .await
        .expect("keys");
    assert!(add(1).await, "the thousandth");
    assert!(!add(2).await, "one more");
    fixture
        .sql
        .batch_execute("UPDATE zyven.api_keys SET revoked_at = now() WHERE public_id = '7'")
        .await
        .expect("revoked");
    assert!(add(3).await, "another one's place");
    assert!(!add(4).await);
}
