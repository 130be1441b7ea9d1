//! Calling deliveries off.

use std::time::Duration;

use zyven_domain::id::{EventId, TenantId};
use zyven_store::{Cancelled, RefusedTicket, Settled, Settlement};

use crate::fixture::{Fixture, LEASE, TOKEN, record, settling};

async fn cancel(fixture: &Fixture, event: EventId) -> Cancelled {
    fixture
        .store
        .cancel_event(fixture.tenant, event, "by mistake", "tester")
        .await
        .expect("an answer")
        .expect("the tenant's event")
}

fn only(cancelled: u32) -> Cancelled {
    Cancelled {
        cancelled,
        ..Cancelled::default()
    }
}

#[tokio::test]
async fn a_cancelled_event_is_a_dead_letter_and_its_tickets_are_stale() {
    let (fixture, _) = Fixture::with_endpoint().await;
    fixture.endpoint(&["*"], &[]).await;
    let event = fixture.event("a", None);
    let seqs = fixture.accepted(&event).await;
    assert_eq!(cancel(&fixture, event.id).await, only(2));

    let claim = fixture
        .store
        .claim(&seqs, TOKEN, LEASE)
        .await
        .expect("an answer");
    assert!(claim.claimed.is_empty());
    assert!(
        claim
            .refused
            .iter()
            .all(|r| matches!(r, RefusedTicket::Finished { .. }))
    );
    let dead = fixture
        .count("SELECT count(*) FROM zyven.dead_letters WHERE reason = 'cancelled' AND payload_bytes > 0")
        .await;
    assert_eq!(dead, 2);
    let audited = fixture
        .count("SELECT sum(deliveries) FROM zyven.cancellations WHERE decided_by = 'tester' AND reason = 'by mistake'")
        .await;
    assert_eq!(audited, 2);
    fixture.assert_invariants().await;
}

#[tokio::test]
async fn cancelling_again_changes_nothing_and_says_so() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let event = fixture.event("a", None);
    fixture.accepted(&event).await;
    assert_eq!(cancel(&fixture, event.id).await, only(1));
    let again = Cancelled {
        cancelled_before: 1,
        ..Cancelled::default()
    };
    assert_eq!(cancel(&fixture, event.id).await, again);
    assert_eq!(
        fixture
            .count("SELECT count(*) FROM zyven.cancellations")
            .await,
        1
    );
}

#[tokio::test]
async fn what_is_being_attempted_is_left_alone_until_its_attempt_is_over() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let claimed = fixture.claimed().await;
    let busy = Cancelled {
        being_attempted: 1,
        ..Cancelled::default()
    };
    assert_eq!(cancel(&fixture, claimed.event_id).await, busy);
    let settlement = Settlement::Retry {
        record: record(500),
        retry_in: Duration::from_secs(3_600),
    };
    let settled = fixture
        .store
        .settle(&[settling(&claimed, TOKEN, settlement)])
        .await;
    assert_eq!(
        settled.expect("settled"),
        [Settled::Done],
        "it was not disturbed"
    );
    assert_eq!(cancel(&fixture, claimed.event_id).await, only(1));
    let state = fixture.state(claimed.delivery_id.uuid()).await;
    assert_eq!(state, ("DEAD_LETTERED".to_owned(), 1));
    fixture.assert_invariants().await;
}

#[tokio::test]
async fn a_success_on_a_lease_that_had_ended_resolves_the_cancelled_dead_letter() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let claimed = fixture.claimed().await;
    fixture.let_leases_expire().await;
    assert_eq!(cancel(&fixture, claimed.event_id).await, only(1));
    let settlement = Settlement::Delivered(record(200));
    let settled = fixture
        .store
        .settle(&[settling(&claimed, TOKEN, settlement)])
        .await;
    assert_eq!(settled.expect("settled"), [Settled::AlreadyFinished]);
    let resolved = "SELECT count(*) FROM zyven.dead_letter_records WHERE resolved_at IS NOT NULL";
    assert_eq!(fixture.count(resolved).await, 1);
}

#[tokio::test]
async fn what_is_delivered_cannot_be_cancelled() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let claimed = fixture.claimed().await;
    let settlement = Settlement::Delivered(record(200));
    let settled = fixture
        .store
        .settle(&[settling(&claimed, TOKEN, settlement)])
        .await;
    assert_eq!(settled.expect("settled"), [Settled::Done]);
    let finished = Cancelled {
        finished: 1,
        ..Cancelled::default()
    };
    assert_eq!(cancel(&fixture, claimed.event_id).await, finished);
    assert_eq!(
        fixture.state(claimed.delivery_id.uuid()).await.0,
        "DELIVERED"
    );
}

#[tokio::test]
async fn a_cancelled_delivery_can_be_replayed_and_another_tenants_cannot_be_cancelled() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    let event = fixture.event("a", None);
    fixture.accepted(&event).await;
    let delivery = zyven_domain::id::DeliveryId::derive(event.id, endpoint);
    let stranger = TenantId::new();
    for asked in [
        fixture
            .store
            .cancel_delivery(stranger, delivery, "r", "s")
            .await,
        fixture
            .store
            .cancel_event(stranger, event.id, "r", "s")
            .await,
    ] {
        assert_eq!(asked.expect("an answer"), None);
    }
    let cancelled = fixture
        .store
        .cancel_delivery(fixture.tenant, delivery, "r", "s")
        .await;
    assert_eq!(cancelled.expect("an answer"), Some(only(1)));
    fixture
        .sql
        .query(
            "SELECT zyven.replay($1, 'after all')",
            &[&delivery.to_string()],
        )
        .await
        .expect("replayed");
    let again = fixture
        .claim_one(fixture.seqs(event.id).await[0], TOKEN)
        .await;
    assert_eq!(again.generation, 2);
    fixture.assert_invariants().await;
}

#[tokio::test]
async fn a_claim_and_a_cancellation_at_once_leave_one_winner() {
    let (fixture, _) = Fixture::with_endpoint().await;
    for _ in 0..20 {
        let event = fixture.event("a", None);
        let seqs = fixture.accepted(&event).await;
        let (claim, cancelled) = tokio::join!(
            fixture.store.claim(&seqs, TOKEN, LEASE),
            cancel(&fixture, event.id)
        );
        let claimed = claim.expect("an answer").claimed.len();
        let cancelled = usize::try_from(cancelled.cancelled).expect("0 or 1");
        assert_eq!(claimed + cancelled, 1);
    }
    fixture.assert_invariants().await;
}

/// Neither retention nor any statement of ours takes an event away from its delivery; an operator can.
#[tokio::test]
async fn a_cancelled_delivery_whose_event_is_gone_is_counted_once() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    let event = fixture.event("a", None);
    fixture.accepted(&event).await;
    let delete = "DELETE FROM zyven.events";
    fixture.sql.execute(delete, &[]).await.expect("deleted");
    let delivery = zyven_domain::id::DeliveryId::derive(event.id, endpoint);
    let finished = Cancelled {
        finished: 1,
        ..Cancelled::default()
    };
    for expected in [only(1), finished] {
        let answer = fixture
            .store
            .cancel_delivery(fixture.tenant, delivery, "r", "s")
            .await;
        assert_eq!(answer.expect("an answer"), Some(expected));
    }
}
