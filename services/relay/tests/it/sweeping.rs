//! What was lost in Redis comes back.

use std::time::Duration;

use zyven_relay::{HandOver, Sweep};
use zyven_runtime::metrics::Metrics;
use zyven_store::BreakerIs;
use zyven_testkit::wait_until;

use crate::stage::{NEVER, PATIENCE, Stage, metric};

#[tokio::test]
async fn a_flushed_redis_delays_events_but_loses_none() {
    let stage = Stage::new().await;
    let seqs = stage.fill_outbox(5_000).await;
    let relay = stage.relay_with(|it| it.scrub_interval = NEVER).await;
    stage.wait_for_waiting(5_000).await;
    stage.wait_for_watermark(*seqs.last().unwrap()).await;

    stage.redis.flush().await;
    stage.wait_for_waiting(5_000).await;
    relay.wait_until_ready().await;
    assert!(metric(&relay.metrics, "zyven_relay_epochs_lost_total") >= 2.0);
    let mut seqs = seqs;
    seqs.extend(stage.accept(3).await);
    stage.wait_for_tickets(&seqs).await;
    relay.stop().await;
}

#[tokio::test]
async fn events_accepted_while_redis_is_emptied_again_and_again_all_get_tickets() {
    let stage = Stage::new().await;
    let relay = stage.relay_with(|it| it.scrub_interval = NEVER).await;
    relay.wait_until_ready().await;
    let mut seqs = std::collections::BTreeSet::new();
    for _ in 0..20 {
        seqs.extend(stage.accept(25).await);
        stage.redis.flush().await;
        seqs.extend(stage.accept(25).await);
    }
    stage.wait_for_waiting(1_000).await;
    stage.wait_for_tickets(&seqs).await;
    relay.stop().await;
}

/// Found by the model of the protocol (tests/model): the answer to a push is on its way while Redis is emptied and
/// filled again. The walk leaves the rows out, as they are not handed over yet.
#[tokio::test]
async fn rows_pushed_just_before_redis_was_emptied_are_pushed_again() {
    let mut stage = Stage::new().await;
    let metrics = Metrics::default();
    let term = stage.term(&metrics);
    let mut hand_over = HandOver::new(term.clone(), NEVER);
    let mut sweep = Sweep::new(term.clone(), NEVER);
    sweep.rebuild().await.unwrap();
    // The lane's limits are told, and the script is loaded: the next step asks Redis one thing only.
    let mut seqs = stage.accept(1).await;
    hand_over.step().await.unwrap();
    seqs.extend(stage.accept(4).await);

    stage.redis.freeze();
    {
        let mut step = std::pin::pin!(hand_over.step());
        // However far it comes in this time; what is sent later is sent when the step goes on.
        let _ = tokio::time::timeout(Duration::from_secs(1), &mut step).await;
        stage.redis.thaw();
        stage.wait_for_waiting(5).await; // the answer is there, and the step does not know it
        stage.redis.flush().await;
        sweep.rebuild().await.unwrap();
        step.await.unwrap();
    }
    hand_over.step().await.unwrap();
    stage.wait_for_tickets(&seqs).await;
}

#[tokio::test]
async fn a_lost_ticket_comes_back_with_the_next_walk() {
    let stage = Stage::new().await;
    let interval = Duration::from_millis(200);
    let relay = stage.relay_with(|it| it.scrub_interval = interval).await;
    let seqs = stage.accept(10).await;
    stage.wait_for_waiting(10).await;
    // All but the epoch is gone, so nobody can tell from outside.
    let mut redis = stage.redis.connection().await;
    let lane = format!("{{z0}}:v2:fresh:{}", stage.lane_name());
    let was_there: u64 = redis::cmd("DEL")
        .arg(&[lane.as_str(), "{z0}:v2:fresh_tenants"])
        .query_async(&mut redis)
        .await
        .unwrap();
    assert_eq!(was_there, 2);
    stage.wait_for_tickets(&seqs).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_walk_restores_nothing_where_nothing_is_missing() {
    let stage = Stage::new().await;
    let metrics = Metrics::default();
    let term = stage.term(&metrics);
    let (mut hand_over, mut sweep) = (
        HandOver::new(term.clone(), NEVER),
        Sweep::new(term.clone(), NEVER),
    );
    sweep.rebuild().await.unwrap();
    let seqs = stage.fill_outbox(2_500).await;
    for _ in 0..4 {
        hand_over.step().await.unwrap();
    }
    sweep.scrub().await.unwrap();
    assert_eq!(metric(&metrics, "zyven_relay_outbox_rows"), 2_500.0);
    assert_eq!(
        metric(&metrics, "zyven_relay_scrub_tickets_restored_total"),
        0.0
    );
    assert_eq!(metric(&metrics, "zyven_queue_tickets_waiting"), 2_500.0);

    stage.redis.flush().await;
    sweep.rebuild().await.unwrap();
    assert_eq!(
        metric(&metrics, "zyven_relay_rebuild_tickets_total"),
        2_500.0
    );
    stage.wait_for_tickets(&seqs).await;
}

#[tokio::test]
async fn a_walk_tells_for_how_long_the_oldest_delivery_that_nobody_holds_has_been_due() {
    let stage = Stage::new().await;
    let metrics = Metrics::default();
    let term = stage.term(&metrics);
    let mut hand_over = HandOver::new(term.clone(), NEVER);
    let mut sweep = Sweep::new(term, NEVER);
    sweep.rebuild().await.unwrap();
    let seqs: Vec<i64> = stage.fill_outbox(3).await.into_iter().collect();
    hand_over.step().await.unwrap();
    let sql = stage.database.client().await;
    let age =
        "UPDATE zyven.outbox SET due_at = now() - $2::bigint * interval '1 second' WHERE seq = $1";
    for (seq, seconds) in [(seqs[0], 7_200_i64), (seqs[1], 3_600)] {
        sql.execute(age, &[&seq, &seconds]).await.unwrap();
    }
    let lease = "UPDATE zyven.outbox SET state = 'DISPATCHING', attempts = 1, lease_token = 1, leased_until = now() + interval '1 hour' WHERE seq = $1";
    sql.execute(lease, &[&seqs[0]]).await.unwrap();
    sweep.scrub().await.unwrap();
    let told = metric(&metrics, "zyven_relay_oldest_due_seconds");
    assert!((3_600.0..3_700.0).contains(&told), "{told}");

    // What waits as it should is not overdue: that of another endpoint is told instead.
    let gauge = async |sweep: &mut Sweep| {
        sweep.scrub().await.unwrap();
        metric(&metrics, "zyven_relay_oldest_due_seconds")
    };
    let (patient, failing) = (stage.endpoint, zyven_domain::id::EndpointId::new());
    sql.batch_execute(&format!(
        "INSERT INTO zyven.endpoints (id, tenant_id, url, event_types)
         SELECT '{}', tenant_id, 'http://192.0.2.1/', '{{other}}' FROM zyven.endpoints WHERE id = '{}';
         UPDATE zyven.outbox SET endpoint_id = '{}', due_at = now() - interval '30 minutes' WHERE seq = {}",
        failing.uuid(),
        patient.uuid(),
        failing.uuid(),
        seqs[2],
    ))
    .await
    .unwrap();
    let pause = |at: &str| {
        format!(
            "UPDATE zyven.endpoints SET paused_at = {at} WHERE id = '{}'",
            patient.uuid()
        )
    };
    sql.batch_execute(&pause("now()")).await.unwrap();
    let told = gauge(&mut sweep).await;
    assert!((1_800.0..1_900.0).contains(&told), "{told}");
    let note = |left| {
        stage
            .store
            .note_breaker_open(failing, BreakerIs::Open, left)
    };
    note(Duration::from_secs(30)).await.unwrap();
    assert_eq!(gauge(&mut sweep).await, 0.0);
    sql.batch_execute(&pause("NULL")).await.unwrap();
    let told = gauge(&mut sweep).await;
    assert!((3_600.0..3_700.0).contains(&told), "{told}");
}

#[tokio::test]
async fn two_sweeps_that_both_believe_to_lead_agree_on_an_epoch() {
    let stage = Stage::new().await;
    let (one_metrics, other_metrics) = (Metrics::default(), Metrics::default());
    let (one_term, other_term) = (stage.term(&one_metrics), stage.term(&other_metrics));
    let mut one = Sweep::new(one_term, Duration::ZERO);
    let mut other = Sweep::new(other_term, Duration::ZERO);
    one.scrub().await.unwrap();
    other.scrub().await.unwrap();
    let epoch = stage.queue.epoch().await.unwrap();
    for _ in 0..5 {
        one.scrub().await.unwrap();
        other.scrub().await.unwrap();
    }
    assert!(epoch.is_some());
    assert_eq!(stage.queue.epoch().await.unwrap(), epoch);
}

#[tokio::test]
async fn a_walk_reads_each_row_once_with_plans_made_for_an_empty_table_too() {
    let stage = Stage::new().await;
    stage
        .sql
        .batch_execute("ALTER TABLE zyven.outbox SET (autovacuum_enabled = off)")
        .await
        .unwrap();
    let metrics = Metrics::default();
    let term = stage.term(&metrics);
    let mut sweep = Sweep::new(term.clone(), NEVER);
    sweep.rebuild().await.unwrap(); // plans are made here, for a table never analysed
    stage.fill_outbox(10_000).await;
    sweep.rebuild().await.unwrap();

    // A session reports what it has read when it ends.
    let Stage { sql, store, .. } = stage;
    drop((sweep, term, store));
    wait_until("the store's sessions have ended", PATIENCE, async || {
        let others = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND application_name = 'zyven'";
        let left: i64 = sql.query_one(others, &[]).await.unwrap().get(0);
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
    let read = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'outbox_pkey'";
    let read: i64 = sql.query_one(read, &[]).await.unwrap().get(0);
    assert!((10_000..15_000).contains(&read), "{read}");
}
