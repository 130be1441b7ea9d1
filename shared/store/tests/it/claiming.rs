//! T2: leases.

use std::time::Duration;

use zyven_store::{RefusedTicket, Settlement};

use crate::fixture::{Fixture, LEASE, TOKEN, record, settling};

#[tokio::test]
async fn a_claim_returns_what_is_to_be_sent_and_counts_the_attempt() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    let event = fixture.event("invoice.paid", None);
    let seqs = fixture.accepted(&event).await;
    let claimed = fixture.claim_one(seqs[0], TOKEN).await;
    assert_eq!(claimed.event_id, event.id);
    assert_eq!(claimed.endpoint_id, endpoint);
    assert_eq!(claimed.payload.as_deref(), Some(&event.payload[..]));
    assert_eq!((claimed.generation, claimed.attempt), (1, 1));
    assert_eq!(
        fixture.state(claimed.delivery_id.uuid()).await,
        ("DISPATCHING".to_owned(), 1)
    );
}

#[tokio::test]
async fn nobody_else_gets_a_leased_delivery_until_the_lease_ends() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let claimed = fixture.claimed().await;
    let refused = fixture
        .store
        .claim(&[claimed.seq], 2, LEASE)
        .await
        .expect("an answer");
    assert!(refused.claimed.is_empty());
    match refused.refused[..] {
        [RefusedTicket::Later { seq, due_in, .. }] if seq == claimed.seq => {
            assert!(due_in > LEASE / 2 && due_in <= LEASE, "{due_in:?}");
        }
        ref other => panic!("{other:?}"),
    }
    fixture.let_leases_expire().await;
    assert_eq!(fixture.claim_one(claimed.seq, 3).await.attempt, 2);
}

#[tokio::test]
async fn of_two_claims_at_once_one_wins_each_row() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let mut seqs = Vec::new();
    for _ in 0..50 {
        seqs.extend(fixture.accepted(&fixture.event("a", None)).await);
    }
    let claims = (1..=4).map(|token| {
        let (store, seqs) = (fixture.store.clone(), seqs.clone());
        tokio::spawn(async move { store.claim(&seqs, token, LEASE).await.expect("an answer") })
    });
    let mut won: Vec<i64> = Vec::new();
    for claim in claims.collect::<Vec<_>>() {
        won.extend(claim.await.expect("no panic").claimed.iter().map(|c| c.seq));
    }
    won.sort_unstable();
    assert_eq!(won, seqs);
}

#[tokio::test]
async fn a_ticket_that_is_early_or_stale_confers_nothing() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let finished = fixture.claimed().await;
    let settlement = Settlement::Delivered(record(200));
    fixture
        .store
        .settle(&[settling(&finished, TOKEN, settlement)])
        .await
        .expect("settled");
    let waiting = fixture.claimed().await;
    let settlement = Settlement::Retry {
        record: record(500),
        retry_in: Duration::from_secs(60),
    };
    fixture
        .store
        .settle(&[settling(&waiting, TOKEN, settlement)])
        .await
        .expect("settled");

    let claim = fixture
        .store
        .claim(&[finished.seq, waiting.seq], 9, LEASE)
        .await
        .expect("an answer");
    assert!(claim.claimed.is_empty());
    assert!(
        claim
            .refused
            .contains(&RefusedTicket::Finished { seq: finished.seq })
    );
    assert!(claim.refused.iter().any(|refused| matches!(
        refused,
        RefusedTicket::Later { seq, due_in, .. }
            if *seq == waiting.seq && *due_in > Duration::from_secs(50)
    )));
}

#[tokio::test]
async fn a_payload_that_is_gone_is_reported_not_hidden() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let seqs = fixture.accepted(&fixture.event("a", None)).await;
    fixture
        .sql
        .execute("DELETE FROM zyven.events", &[])
        .await
        .expect("deleted");
    assert_eq!(fixture.claim_one(seqs[0], TOKEN).await.payload, None);
}
