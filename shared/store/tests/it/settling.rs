//! T3 to T6.

use std::time::Duration;

use zyven_domain::retry::DeadLetterReason;
use zyven_store::{Settled, Settlement};

use crate::fixture::{Fixture, TOKEN, record, settling};

const RETRY_IN: Duration = Duration::from_secs(60);

fn retry() -> Settlement {
    Settlement::Retry {
        record: record(500),
        retry_in: RETRY_IN,
    }
}

fn dead() -> Settlement {
    Settlement::DeadLetter {
        record: Some(record(404)),
        reason: DeadLetterReason::Rejected,
    }
}

fn delivered() -> Settlement {
    Settlement::Delivered(record(200))
}

#[tokio::test]
async fn a_success_is_finished_and_on_record() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let claimed = fixture.claimed().await;
    let item = settling(&claimed, TOKEN, delivered());
    let delivery = claimed.delivery_id.uuid();
    for expected in [Settled::Done, Settled::AlreadyFinished] {
        let settled = fixture.store.settle(std::slice::from_ref(&item)).await;
        assert_eq!(settled.expect("settled"), [expected]);
        assert_eq!(fixture.state(delivery).await, ("DELIVERED".to_owned(), 1));
    }
    let row = fixture
        .sql
        .query_one(
            "SELECT number, http_status, response_body, total_us FROM zyven.attempt_log",
            &[],
        )
        .await
        .expect("one attempt");
    assert_eq!((row.get::<_, i32>(0), row.get::<_, i16>(1)), (1, 200));
    assert_eq!(row.get::<_, &[u8]>(2), b"thanks");
    assert_eq!(row.get::<_, i32>(3), 1000);
    fixture.assert_invariants().await;
}

#[tokio::test]
async fn a_retry_waits_for_its_time_and_is_on_record() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let claimed = fixture.claimed().await;
    let item = settling(&claimed, TOKEN, retry());
    for expected in [Settled::Done, Settled::Superseded] {
        let settled = fixture.store.settle(std::slice::from_ref(&item)).await;
        assert_eq!(settled.expect("settled"), [expected]);
    }
    assert_eq!(
        fixture.state(claimed.delivery_id.uuid()).await,
        ("RETRY_SCHEDULED".to_owned(), 1)
    );
    let waits: f64 = fixture
        .sql
        .query_one(
            "SELECT extract(epoch FROM next_attempt_at - now())::float8 FROM zyven.deliveries",
            &[],
        )
        .await
        .expect("one row")
        .get(0);
    assert!((50.0..=60.0).contains(&waits), "{waits}");
    assert_eq!(
        fixture
            .count("SELECT count(*) FROM zyven.attempt_log")
            .await,
        1
    );
}

#[tokio::test]
async fn a_dead_letter_keeps_its_own_copy_of_the_payload() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let claimed = fixture.claimed().await;
    fixture
        .store
        .settle(&[settling(&claimed, TOKEN, dead())])
        .await
        .expect("settled");
    fixture
        .sql
        .execute("DELETE FROM zyven.events", &[])
        .await
        .expect("deleted");
    let row = fixture
        .sql
        .query_one(
            "SELECT payload, reason, event_type, attempts FROM zyven.dead_letter_records",
            &[],
        )
        .await
        .expect("one dead letter");
    assert_eq!(Some(row.get::<_, &[u8]>(0)), claimed.payload.as_deref());
    assert_eq!(row.get::<_, &str>(1), "rejected");
    assert_eq!(row.get::<_, &str>(2), "invoice.paid");
    assert_eq!(row.get::<_, i32>(3), 1);
    assert_eq!(
        fixture.state(claimed.delivery_id.uuid()).await,
        ("DEAD_LETTERED".to_owned(), 1)
    );
    fixture.assert_invariants().await;
}

#[tokio::test]
async fn a_dead_letter_without_an_attempt_counts_none() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let claimed = fixture.claimed().await;
    let settlement = Settlement::DeadLetter {
        record: None,
        reason: DeadLetterReason::EndpointDeleted,
    };
    fixture
        .store
        .settle(&[settling(&claimed, TOKEN, settlement)])
        .await
        .expect("settled");
    assert_eq!(
        fixture.state(claimed.delivery_id.uuid()).await,
        ("DEAD_LETTERED".to_owned(), 0)
    );
    assert_eq!(
        fixture
            .count("SELECT count(*) FROM zyven.attempt_log")
            .await,
        0
    );
}

#[tokio::test]
async fn a_failure_reported_on_a_lost_lease_changes_nothing() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let first = fixture.claimed().await;
    fixture.let_leases_expire().await;
    let second = fixture.claim_one(first.seq, 2).await;
    for settlement in [retry(), dead()] {
        let settled = fixture
            .store
            .settle(&[settling(&first, TOKEN, settlement)])
            .await;
        assert_eq!(settled.expect("an answer"), [Settled::Superseded]);
    }
    let settled = fixture.store.settle(&[settling(&second, 2, retry())]).await;
    assert_eq!(settled.expect("settled"), [Settled::Done]);
}

#[tokio::test]
async fn a_success_on_a_lost_lease_still_counts() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let first = fixture.claimed().await;
    fixture.let_leases_expire().await;
    let second = fixture.claim_one(first.seq, 2).await;
    let settled = fixture
        .store
        .settle(&[settling(&first, TOKEN, delivered())])
        .await;
    assert_eq!(settled.expect("settled"), [Settled::Done]);
    let settled = fixture.store.settle(&[settling(&second, 2, retry())]).await;
    assert_eq!(settled.expect("an answer"), [Settled::Superseded]);
    assert_eq!(
        fixture.state(first.delivery_id.uuid()).await,
        ("DELIVERED".to_owned(), 1)
    );
    fixture.assert_invariants().await;
}

#[tokio::test]
async fn a_success_after_a_failure_was_recorded_delivers_too() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let first = fixture.claimed().await;
    fixture.let_leases_expire().await;
    let second = fixture.claim_one(first.seq, 2).await;
    fixture
        .store
        .settle(&[settling(&second, 2, retry())])
        .await
        .expect("settled");
    let settled = fixture
        .store
        .settle(&[settling(&first, TOKEN, delivered())])
        .await;
    assert_eq!(settled.expect("settled"), [Settled::Done]);
    assert_eq!(fixture.state(first.delivery_id.uuid()).await.0, "DELIVERED");
}

#[tokio::test]
async fn a_success_after_dead_lettering_resolves_the_dead_letter() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let first = fixture.claimed().await;
    fixture.let_leases_expire().await;
    let second = fixture.claim_one(first.seq, 2).await;
    fixture
        .store
        .settle(&[settling(&second, 2, dead())])
        .await
        .expect("settled");
    let settled = fixture
        .store
        .settle(&[settling(&first, TOKEN, delivered())])
        .await;
    assert_eq!(settled.expect("an answer"), [Settled::AlreadyFinished]);
    assert_eq!(
        fixture
            .count("SELECT count(*) FROM zyven.dead_letters")
            .await,
        0
    );
    assert_eq!(
        fixture
            .count("SELECT count(*) FROM zyven.dead_letter_records WHERE resolved_at IS NOT NULL")
            .await,
        1
    );
}

#[tokio::test]
async fn what_was_not_sent_is_not_counted() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let claimed = fixture.claimed().await;
    let settlement = Settlement::Release {
        due_in: Duration::ZERO,
    };
    let settled = fixture
        .store
        .settle(&[settling(&claimed, TOKEN, settlement)])
        .await;
    assert_eq!(settled.expect("settled"), [Settled::Done]);
    assert_eq!(
        fixture.state(claimed.delivery_id.uuid()).await,
        ("DISPATCHING".to_owned(), 0)
    );
    assert_eq!(fixture.claim_one(claimed.seq, 2).await.attempt, 1);
}

#[tokio::test]
async fn a_mixed_batch_is_settled_item_by_item() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let mut items = Vec::new();
    for settlement in [delivered(), retry(), dead(), delivered()] {
        items.push(settling(&fixture.claimed().await, TOKEN, settlement));
    }
    items[3].seq = i64::MAX; // a row that does not exist
    let settled = fixture.store.settle(&items).await.expect("settled");
    assert_eq!(
        settled,
        [
            Settled::Done,
            Settled::Done,
            Settled::Done,
            Settled::AlreadyFinished
        ]
    );
}

/// A PostgreSQL that crashed or failed over may give a sequence number out a second time.
#[tokio::test]
async fn a_success_never_finishes_another_delivery_that_got_its_number() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let first = fixture.claimed().await;
    fixture
        .sql
        .batch_execute(&format!(
            "DELETE FROM zyven.outbox;
             ALTER TABLE zyven.outbox ALTER COLUMN seq RESTART WITH {}",
            first.seq
        ))
        .await
        .expect("as after a crash");
    let second = fixture.event("a", None);
    assert_eq!(fixture.accepted(&second).await, [first.seq]);
    let settled = fixture
        .store
        .settle(&[settling(&first, TOKEN, delivered())])
        .await;
    assert_eq!(settled.expect("an answer"), [Settled::AlreadyFinished]);
    assert_eq!(
        fixture.seqs(second.id).await,
        [first.seq],
        "still to be delivered"
    );
}

#[tokio::test]
async fn successes_of_two_deliveries_that_had_one_number_are_told_apart() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let first = fixture.claimed().await;
    fixture
        .sql
        .batch_execute(&format!(
            "DELETE FROM zyven.outbox;
             ALTER TABLE zyven.outbox ALTER COLUMN seq RESTART WITH {}",
            first.seq
        ))
        .await
        .expect("as after a crash");
    let second = fixture.claimed().await;
    assert_eq!(second.seq, first.seq);
    let items = [
        settling(&first, TOKEN, delivered()),
        settling(&second, TOKEN, delivered()),
    ];
    let settled = fixture.store.settle(&items).await.expect("settled");
    assert_eq!(settled, [Settled::AlreadyFinished, Settled::Done]);
    let state = fixture.state(second.delivery_id.uuid()).await;
    assert_eq!(state, ("DELIVERED".to_owned(), 1));
}

/// A dispatcher that was paused may hold a delivery under a lost lease and under the present one.
#[tokio::test]
async fn two_successes_of_one_delivery_in_one_batch_finish_it_once() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let first = fixture.claimed().await;
    fixture.let_leases_expire().await;
    let second = fixture.claim_one(first.seq, 2).await;
    let items = [
        settling(&first, TOKEN, delivered()),
        settling(&second, 2, delivered()),
    ];
    let settled = fixture.store.settle(&items).await.expect("settled");
    assert_eq!(settled, [Settled::Done, Settled::AlreadyFinished]);
    let state = fixture.state(first.delivery_id.uuid()).await;
    assert_eq!(state, ("DELIVERED".to_owned(), 1));
    fixture.assert_invariants().await;
}

#[tokio::test]
async fn a_lost_leases_failure_beside_the_present_ones_result_is_superseded() {
    for (present, expected) in [(retry(), "RETRY_SCHEDULED"), (delivered(), "DELIVERED")] {
        let (fixture, _) = Fixture::with_endpoint().await;
        let first = fixture.claimed().await;
        fixture.let_leases_expire().await;
        let second = fixture.claim_one(first.seq, 2).await;
        let items = [
            settling(&first, TOKEN, dead()),
            settling(&second, 2, present),
        ];
        let settled = fixture.store.settle(&items).await.expect("settled");
        assert_eq!(settled, [Settled::Superseded, Settled::Done]);
        let state = fixture.state(first.delivery_id.uuid()).await;
        assert_eq!(state, (expected.to_owned(), 2));
    }
}

/// The batch names the number with one item and the delivery with another.
#[tokio::test]
async fn a_success_is_recorded_for_its_own_number_and_delivery_or_not_at_all() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let [one, other] = [fixture.claimed().await, fixture.claimed().await];
    let items = [
        settling(&one, TOKEN, delivered()),
        settling(&other, TOKEN, delivered()),
    ];
    let mut crossed = items.clone();
    (crossed[0].seq, crossed[1].seq) = (other.seq, one.seq);
    let settled = fixture.store.settle(&crossed).await.expect("an answer");
    assert_eq!(settled, [Settled::AlreadyFinished; 2]);
    let unfinished = "SELECT count(*) FROM zyven.outbox";
    assert_eq!(fixture.count(unfinished).await, 2);
    let settled = fixture.store.settle(&items).await.expect("settled");
    assert_eq!(settled, [Settled::Done; 2]);
}
