//! From the outbox into the queue, in spite of writers that commit late or never.

use zyven_relay::{HandOver, Sweep};
use zyven_runtime::metrics::Metrics;
use zyven_testkit::wait_until;

use crate::stage::{INSERT_ROWS, NEVER, PATIENCE, Stage, metric};

#[tokio::test]
async fn accepted_events_get_tickets_and_the_watermark_follows() {
    let stage = Stage::new().await;
    let relay = stage.relay().await;
    let mut seqs = stage.accept(100).await;
    seqs.extend(stage.accept(1).await);
    stage.wait_for_tickets(&seqs).await;
    stage.wait_for_watermark(*seqs.last().unwrap()).await;
    relay.wait_until_ready().await;
    relay.stop().await;
}

#[tokio::test]
async fn a_page_is_not_the_end() {
    let stage = Stage::new().await;
    let seqs = stage.fill_outbox(2_500).await;
    let relay = stage.relay_with(|it| it.scrub_interval = NEVER).await;
    stage.wait_for_tickets(&seqs).await;
    stage.wait_for_watermark(*seqs.last().unwrap()).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_slow_transaction_commits_late_and_is_still_handed_over() {
    let stage = Stage::new().await;
    let relay = stage.relay_with(|it| it.scrub_interval = NEVER).await;
    // The first walk of a new leader must not be what finds the row.
    relay.wait_until_ready().await;

    let mut slow = stage.database.client().await;
    let slow = slow.transaction().await.unwrap();
    slow.execute("SELECT pg_current_xact_id()", &[])
        .await
        .unwrap();
    slow.execute(
        INSERT_ROWS,
        &[&stage.endpoint.uuid(), &stage.tenant.uuid(), &3],
    )
    .await
    .unwrap();
    let fast = stage.accept(5).await;
    stage.wait_for_tickets(&fast).await;
    stage.wait_for_watermark(*fast.last().unwrap()).await;
    assert!(metric(&relay.metrics, "zyven_relay_gaps_open") >= 3.0);

    slow.commit().await.unwrap();
    let late = stage.seqs("WHERE seq < $1", &[fast.first().unwrap()]).await;
    assert_eq!(late.len(), 3);
    stage.wait_for_tickets(&late).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_rolled_back_writers_gap_is_forgotten_once_all_older_writers_have_ended() {
    let stage = Stage::new().await;
    let metrics = Metrics::default();
    let term = stage.term(&metrics);
    let (mut hand_over, mut sweep) = (
        HandOver::new(term.clone(), NEVER),
        Sweep::new(term.clone(), NEVER),
    );
    sweep.rebuild().await.unwrap();

    // It holds xmin back, as any writer does while it runs.
    let mut older = stage.database.client().await;
    let older = older.transaction().await.unwrap();
    older
        .execute("SELECT pg_current_xact_id()", &[])
        .await
        .unwrap();

    let mut unlucky = stage.database.client().await;
    let unlucky = unlucky.transaction().await.unwrap();
    unlucky
        .execute("SELECT pg_current_xact_id()", &[])
        .await
        .unwrap();
    unlucky
        .execute(
            INSERT_ROWS,
            &[&stage.endpoint.uuid(), &stage.tenant.uuid(), &2],
        )
        .await
        .unwrap();
    stage.accept(1).await;
    unlucky.rollback().await.unwrap();

    let open = || metric(&metrics, "zyven_relay_gaps_open");
    for _ in 0..3 {
        hand_over.step().await.unwrap();
        assert!(open() >= 2.0, "somebody who could still commit them runs");
    }
    older.commit().await.unwrap();
    // Transactions of other tests on the same server may hold xmin back for a moment.
    wait_until("the gap is forgotten", PATIENCE, async || {
        hand_over.step().await.unwrap();
        if open() < 1.0 { Ok(()) } else { Err(open()) }
    })
    .await;
    assert!(metric(&metrics, "zyven_relay_gaps_filled_total") < f64::EPSILON);
}

#[tokio::test]
async fn rows_that_are_leased_or_far_away_get_no_ticket() {
    let stage = Stage::new().await;
    stage.fill_outbox(3).await;
    stage
        .sql
        .batch_execute(
            "UPDATE zyven.outbox
                SET state = 'DISPATCHING', lease_token = 1, leased_until = now() + interval '1 hour'
              WHERE seq = (SELECT min(seq) FROM zyven.outbox);
             UPDATE zyven.outbox
                SET due_at = now() + interval '1 hour'
              WHERE seq = (SELECT max(seq) FROM zyven.outbox)",
        )
        .await
        .unwrap();
    let relay = stage.relay().await;
    stage.wait_for_waiting(1).await;

    // The next walk offers what has come near, and what nobody holds any more.
    stage
        .sql
        .batch_execute(
            "UPDATE zyven.outbox SET due_at = now() + interval '5 minutes' WHERE due_at > now();
             UPDATE zyven.outbox SET leased_until = now() WHERE lease_token = 1",
        )
        .await
        .unwrap();
    stage.wait_for_waiting(3).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_step_that_fails_skips_nothing() {
    let mut stage = Stage::new().await;
    let metrics = Metrics::default();
    let term = stage.term(&metrics);
    let (mut hand_over, mut sweep) = (
        HandOver::new(term.clone(), NEVER),
        Sweep::new(term.clone(), NEVER),
    );
    sweep.rebuild().await.unwrap();
    let seqs = stage.accept(4).await;

    stage.redis.freeze();
    hand_over.step().await.unwrap_err();
    stage.redis.thaw();
    hand_over.step().await.unwrap();
    assert_eq!(metric(&metrics, "zyven_relay_handed_over_total"), 4.0);
    stage.wait_for_tickets(&seqs).await;
}

#[tokio::test]
async fn without_an_epoch_nothing_is_read_let_alone_lost() {
    let stage = Stage::new().await;
    let metrics = Metrics::default();
    let term = stage.term(&metrics);
    let mut hand_over = HandOver::new(term.clone(), NEVER);
    stage.accept(2).await;
    hand_over.step().await.unwrap();
    assert_eq!(metric(&metrics, "zyven_relay_handed_over_total"), 0.0);
    Sweep::new(term.clone(), NEVER).rebuild().await.unwrap();
    hand_over.step().await.unwrap();
    assert_eq!(metric(&metrics, "zyven_relay_handed_over_total"), 2.0);
}

#[tokio::test]
async fn a_bell_shortens_the_rest() {
    let stage = Stage::new().await;
    let relay = stage.relay_with(|it| it.poll_interval = NEVER).await;
    relay.wait_until_ready().await;
    let seqs = stage.accept(1).await;
    let ring = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    ring.send_to(&[0], relay.doorbell).await.unwrap();
    stage.wait_for_tickets(&seqs).await;
    relay.stop().await;
}
