//! Envelopes as a rotation of master keys sees them.

use uuid::Uuid;
use zyven_store::{
    CredentialKind, ENVELOPES_PAGE, EnvelopeTable, NewCredential, ResealedEnvelope, StoredEnvelope,
};

use crate::endpoints::endpoint;
use crate::fixture::Fixture;

async fn all(fixture: &Fixture, table: EnvelopeTable) -> Vec<StoredEnvelope> {
    let found = fixture.store.envelopes_after(table, Uuid::nil()).await;
    found.expect("asked")
}

#[tokio::test]
async fn an_envelope_is_replaced_unless_somebody_changed_it_meanwhile() {
    let fixture = Fixture::new().await;
    let mut made = endpoint(fixture.tenant);
    made.credentials.set = vec![NewCredential {
        id: Uuid::now_v7(),
        kind: CredentialKind::Auth,
        envelope: vec![1; 8],
        shown: "{}".to_owned(),
    }];
    let added = fixture.store.add_endpoint(&made).await.expect("asked");
    assert!(added.is_ok());
    for table in EnvelopeTable::ALL {
        let [found] = &all(&fixture, table).await[..] else {
            panic!("one envelope in {table:?}");
        };
        assert_eq!(found.place.tenant, fixture.tenant);
        assert_eq!(found.place.table, table.as_str());
        let anew = |byte: u8| {
            [ResealedEnvelope {
                found: found.clone(),
                envelope: vec![byte; 8],
            }]
        };
        let replace = async |byte| {
            let replaced = fixture.store.replace_envelopes(table, &anew(byte)).await;
            replaced.expect("asked")
        };
        assert_eq!(replace(2).await, 1);
        assert_eq!(replace(3).await, 0, "it is no longer as it was found");
        assert_eq!(all(&fixture, table).await[0].envelope, [2; 8]);
        let last = found.place.row;
        let rest = fixture.store.envelopes_after(table, last).await;
        assert!(rest.expect("asked").is_empty());
    }
}

#[tokio::test]
async fn pages_of_envelopes_follow_each_other_without_a_gap() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    let rows = i32::try_from(ENVELOPES_PAGE).expect("small") + 1;
    fixture
        .sql
        .execute(
            "INSERT INTO zyven.endpoint_secrets (id, endpoint_id, envelope, expires_at)
             SELECT gen_random_uuid(), $1, '\\x00', now() FROM generate_series(1, $2)",
            &[&endpoint.uuid(), &rows],
        )
        .await
        .expect("secrets");
    let first = all(&fixture, EnvelopeTable::EndpointSecrets).await;
    assert_eq!(first.len(), ENVELOPES_PAGE as usize);
    let after = first[first.len() - 1].place.row;
    let second = fixture
        .store
        .envelopes_after(EnvelopeTable::EndpointSecrets, after)
        .await;
    assert_eq!(second.expect("asked").len(), 1);
}

/// A table that is forgotten here would keep its old master key for ever.
#[tokio::test]
async fn every_table_with_envelopes_is_rotated() {
    let fixture = Fixture::new().await;
    let rows = fixture
        .sql
        .query(
            "SELECT table_name::text FROM information_schema.columns
              WHERE table_schema = 'zyven' AND (column_name LIKE '%envelope%' OR column_name LIKE '%sealed%')
              ORDER BY 1",
            &[],
        )
        .await
        .expect("asked");
    let tables: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let mut known = EnvelopeTable::ALL.map(EnvelopeTable::as_str);
    known.sort_unstable();
    assert_eq!(tables, known);
}
