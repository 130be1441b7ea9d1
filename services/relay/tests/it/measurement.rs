//! How long a rebuild takes. Not a test: run it with `--run-ignored all --no-capture`, in release mode.

use std::time::Instant;

use zyven_relay::{HandOver, Sweep};
use zyven_runtime::metrics::Metrics;
use zyven_runtime::pace::Rest;

use crate::stage::{NEVER, Stage, metric};

#[tokio::test]
#[ignore = "a measurement, to be read by a person"]
async fn a_million_rows_are_handed_over_and_given_back_to_an_emptied_redis() {
    const ROWS: i32 = 1_000_000;
    let stage = Stage::new().await;
    let metrics = Metrics::default();
    let term = stage.term(&metrics);
    let (mut hand_over, mut sweep) = (
        HandOver::new(term.clone(), NEVER),
        Sweep::new(term.clone(), NEVER),
    );
    sweep.rebuild().await.unwrap();
    stage.fill_outbox(ROWS).await;

    let started = Instant::now();
    while hand_over.step().await.unwrap() == Rest::None {}
    println!("handed over in {:?}", started.elapsed());

    stage.redis.flush().await;
    let started = Instant::now();
    sweep.rebuild().await.unwrap();
    println!("rebuilt in {:?}", started.elapsed());

    let started = Instant::now();
    sweep.scrub().await.unwrap();
    println!("scrubbed, without rests, in {:?}", started.elapsed());
    assert_eq!(
        metric(&metrics, "zyven_queue_tickets_waiting"),
        f64::from(ROWS)
    );
}
