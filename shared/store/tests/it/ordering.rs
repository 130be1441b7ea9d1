//! Of one endpoint and ordering key only the first unfinished delivery is claimed, whatever Redis offers.

use std::time::Duration;

use zyven_domain::id::EndpointId;
use zyven_store::{ClaimedDelivery, RefusedTicket, Settled, Settlement};

use crate::fixture::{Fixture, LEASE, TOKEN, record, settling};

/// Three deliveries in order, and one of another key; their numbers.
async fn in_order(fixture: &Fixture) -> [i64; 4] {
    let mut seqs = Vec::new();
    for key in [7_i64, 7, 7, 8] {
        let seq = fixture.accepted(&fixture.event("a.b", None)).await[0];
        let set = "UPDATE zyven.outbox SET ordering_key = $2 WHERE seq = $1";
        fixture.sql.execute(set, &[&seq, &key]).await.expect("set");
        seqs.push(seq);
    }
    seqs.try_into().expect("four")
}

async fn claim(fixture: &Fixture, seqs: &[i64]) -> (Vec<ClaimedDelivery>, Vec<RefusedTicket>) {
    let claim = fixture.store.claim(seqs, TOKEN, LEASE).await;
    let claim = claim.expect("asked");
    (claim.claimed, claim.refused)
}

async fn settle(fixture: &Fixture, claimed: &ClaimedDelivery, settlement: Settlement) {
    let item = settling(claimed, TOKEN, settlement);
    let settled = fixture.store.settle(&[item]).await.expect("settled");
    assert_eq!(settled, [Settled::Done]);
}

fn seqs(claimed: &[ClaimedDelivery]) -> Vec<i64> {
    let mut seqs: Vec<i64> = claimed.iter().map(|claimed| claimed.seq).collect();
    seqs.sort_unstable();
    seqs
}

#[tokio::test]
async fn only_the_first_of_a_key_is_claimed() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let [one, two, three, other] = in_order(&fixture).await;
    let (claimed, refused) = claim(&fixture, &[three, two, one, other]).await;
    assert_eq!(seqs(&claimed), [one, other]);
    assert_eq!(
        claimed
            .iter()
            .find(|it| it.seq == one)
            .expect("it")
            .ordering_key,
        7
    );
    for (seq, refused) in [two, three].into_iter().zip(in_order_of(refused)) {
        let RefusedTicket::Blocked { seq: of, due_in } = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(of, seq);
        assert!(due_in > LEASE / 2 && due_in <= LEASE, "{due_in:?}");
    }
    // Not even alone.
    assert_eq!(seqs(&claim(&fixture, &[two]).await.0), [0; 0]);
}

fn in_order_of(mut refused: Vec<RefusedTicket>) -> Vec<RefusedTicket> {
    refused.sort_by_key(|refused| match refused {
        RefusedTicket::Finished { seq }
        | RefusedTicket::Later { seq, .. }
        | RefusedTicket::Blocked { seq, .. } => *seq,
    });
    refused
}

#[tokio::test]
async fn the_next_may_go_when_the_one_before_it_is_finished_and_no_sooner() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let [one, two, ..] = in_order(&fixture).await;
    let (claimed, _) = claim(&fixture, &[one]).await;
    let wait = Duration::from_secs(3_600);
    let failed = Settlement::Retry {
        record: record(503),
        retry_in: wait,
    };
    settle(&fixture, &claimed[0], failed).await;
    let (claimed, refused) = claim(&fixture, &[two]).await;
    assert_eq!(
        seqs(&claimed),
        [0; 0],
        "the one before it waits for a retry"
    );
    let [RefusedTicket::Blocked { due_in, .. }] = refused[..] else {
        panic!("{refused:?}");
    };
    assert!(due_in > wait / 2, "{due_in:?}");

    let make_due = "UPDATE zyven.outbox SET due_at = now() WHERE seq = $1";
    fixture.sql.execute(make_due, &[&one]).await.expect("due");
    let (claimed, _) = claim(&fixture, &[one]).await;
    settle(&fixture, &claimed[0], Settlement::Delivered(record(200))).await;
    assert_eq!(seqs(&claim(&fixture, &[two]).await.0), [two]);
}

#[tokio::test]
async fn order_is_kept_for_each_endpoint_by_itself() {
    let (fixture, _) = Fixture::with_endpoint().await;
    let [one, ..] = in_order(&fixture).await;
    // The same key at another endpoint.
    let elsewhere = EndpointId::new();
    let later = fixture.accepted(&fixture.event("a.b", None)).await[0];
    let set = "UPDATE zyven.outbox SET ordering_key = 7, endpoint_id = $2 WHERE seq = $1";
    fixture
        .sql
        .execute(set, &[&later, &elsewhere.uuid()])
        .await
        .expect("set");
    assert_eq!(seqs(&claim(&fixture, &[one, later]).await.0), [one, later]);
}

#[tokio::test]
async fn what_waits_says_for_what() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    let [one, two, ..] = in_order(&fixture).await;
    let overdue = "UPDATE zyven.outbox SET due_at = now() - interval '1 minute'";
    fixture.sql.execute(overdue, &[]).await.expect("overdue");
    fixture.store.record_watermark(two).await.expect("passed");
    let why = async |seq: i64| -> String {
        let row = (fixture.sql)
            .query_one("SELECT why FROM zyven.stuck WHERE seq = $1", &[&seq])
            .await;
        row.expect("it is stuck").get(0)
    };
    assert!(
        why(one)
            .await
            .starts_with("it waits in its endpoint's lane")
    );
    assert_eq!(
        why(two).await,
        "an earlier delivery with its ordering key is unfinished"
    );
    let pause = "SELECT zyven.pause($1)";
    fixture
        .sql
        .query_one(pause, &[&endpoint.to_string()])
        .await
        .expect("paused");
    assert_eq!(why(one).await, "its endpoint is paused");
}
