//! Several relays, of which one works; relays that die amid their work.

use std::time::{Duration, Instant};

use zyven_testkit::wait_until;

use crate::stage::{NEVER, PATIENCE, Running, Stage, metric};

fn leads(relay: &Running) -> bool {
    metric(&relay.metrics, "zyven_relay_leading") > 0.0
}

#[tokio::test]
async fn a_relay_killed_amid_its_work_is_continued_by_the_next() {
    let stage = Stage::new().await;
    let mut seqs = stage.fill_outbox(20_000).await;
    for round in 0..2 {
        let relay = stage.relay_with(|it| it.scrub_interval = NEVER).await;
        wait_until(
            "it leads and has handed something over",
            PATIENCE,
            async || leads(&relay) && metric(&relay.metrics, "zyven_relay_handed_over_total") > 0.0,
        )
        .await;
        relay.kill().await;
        seqs.extend(stage.accept(10 + round).await);
    }
    let relay = stage.relay_with(|it| it.scrub_interval = NEVER).await;
    stage.wait_for_tickets(&seqs).await;
    stage.wait_for_watermark(*seqs.last().unwrap()).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_row_that_a_dead_relay_had_in_its_ledger_is_found_by_the_next() {
    let stage = Stage::new().await;
    let relay = stage.relay_with(|it| it.scrub_interval = NEVER).await;
    let mut slow = stage.database.client().await;
    let slow = slow.transaction().await.unwrap();
    slow.execute("SELECT pg_current_xact_id()", &[])
        .await
        .unwrap();
    let insert = crate::stage::INSERT_ROWS;
    slow.execute(insert, &[&stage.endpoint.uuid(), &stage.tenant.uuid(), &1])
        .await
        .unwrap();
    let fast = stage.accept(5).await;
    stage.wait_for_watermark(*fast.last().unwrap()).await;
    relay.kill().await;
    slow.commit().await.unwrap();

    let relay = stage.relay_with(|it| it.scrub_interval = NEVER).await;
    stage.wait_for_tickets(&stage.seqs("", &[]).await).await;
    relay.stop().await;
}

#[tokio::test]
async fn one_leads_and_the_other_takes_over_when_it_dies() {
    let stage = Stage::new().await;
    let first = stage.relay().await;
    wait_until("the first leads", PATIENCE, async || leads(&first)).await;
    let second = stage.relay().await;
    second.wait_until_ready().await;
    assert!(!leads(&second));

    let died_at = Instant::now();
    first.kill().await;
    let seqs = stage.accept(10).await;
    stage.wait_for_tickets(&seqs).await;
    assert!(leads(&second));
    let took = died_at.elapsed();
    assert!(took < Duration::from_secs(6), "{took:?}");
    second.stop().await;
}

#[tokio::test]
async fn a_relay_that_is_stopped_hands_the_lead_on_at_once() {
    let stage = Stage::new().await;
    let first = stage.relay().await;
    wait_until("the first leads", PATIENCE, async || leads(&first)).await;
    let second = stage.relay().await;
    first.stop().await;
    let stopped_at = Instant::now();
    wait_until("the second leads", PATIENCE, async || leads(&second)).await;
    let took = stopped_at.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    second.stop().await;
}
