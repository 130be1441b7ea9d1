//! The second line: even a wrong statement cannot give one tenant what is another's.

use tokio_postgres::error::SqlState;
use zyven_domain::id::TenantId;

use crate::fixture::Fixture;

#[tokio::test]
async fn a_subscription_names_an_endpoint_of_its_own_tenant() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    let stranger = stranger(&fixture).await;
    for (tenant, code) in [
        (stranger, Some(SqlState::FOREIGN_KEY_VIOLATION)),
        (fixture.tenant, None),
    ] {
        let subscribed = fixture
            .sql
            .execute(
                "INSERT INTO zyven.subscriptions (tenant_id, pattern, endpoint_id, channels) VALUES ($1, 'b', $2, '{}')",
                &[&tenant.uuid(), &endpoint.uuid()],
            )
            .await;
        let refused = subscribed.err().and_then(|error| error.code().cloned());
        assert_eq!(refused, code);
    }
}

#[tokio::test]
async fn nothing_is_handed_from_one_tenant_to_another() {
    let (fixture, _) = Fixture::with_endpoint().await;
    fixture.accepted(&fixture.event("a", None)).await;
    let stranger = stranger(&fixture).await;
    fixture
        .sql
        .batch_execute(
            "INSERT INTO zyven.api_keys (id, tenant_id, public_id, secret_hash, name, scopes)
             SELECT gen_random_uuid(), id, 'x', sha256(''), 'x', '{read}' FROM zyven.tenants WHERE name = 'test'",
        )
        .await
        .expect("a key");
    for table in ["api_keys", "endpoints", "outbox"] {
        let moved = format!("UPDATE zyven.{table} SET tenant_id = $1");
        let refused = fixture.sql.execute(&moved, &[&stranger.uuid()]).await;
        let refused = refused.expect_err(table);
        let refused = refused.as_db_error().expect("an error of PostgreSQL");
        assert_eq!(
            refused.constraint(),
            Some("stays_with_its_tenant"),
            "{table}"
        );
        let kept = fixture.sql.execute(&moved, &[&fixture.tenant.uuid()]).await;
        assert_eq!(kept.expect(table), 1, "{table} may say the same again");
    }
}

#[tokio::test]
async fn a_delivery_that_mixes_tenants_is_found_by_the_check_and_carries_no_payload() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    let event = fixture.event("a", None);
    fixture.accepted(&event).await;
    fixture.assert_invariants().await;
    let stranger = stranger(&fixture).await;
    let seq: i64 = fixture
        .sql
        .query_one(
            "INSERT INTO zyven.outbox (delivery_id, event_id, endpoint_id, tenant_id)
             VALUES (gen_random_uuid(), $1, $2, $3) RETURNING seq",
            &[&event.id.uuid(), &endpoint.uuid(), &stranger.uuid()],
        )
        .await
        .expect("a row that must not be")
        .get(0);
    let breaches = fixture.store.invariant_breaches().await.expect("a check");
    assert!(
        breaches
            .iter()
            .any(|breach| breach.invariant.contains("tenant")),
        "{breaches:?}"
    );
    let claimed = fixture.claim_one(seq, 7).await;
    assert_eq!(claimed.payload, None);
}

async fn stranger(fixture: &Fixture) -> TenantId {
    let stranger = TenantId::new();
    fixture
        .sql
        .execute(
            "INSERT INTO zyven.tenants (id, name) VALUES ($1, 'stranger')",
            &[&stranger.uuid()],
        )
        .await
        .expect("a tenant");
    stranger
}
