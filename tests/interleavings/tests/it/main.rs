//! Ingest's batcher, in thousands of orders.

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};
use zyven_interleavings::{Time, publish_and_stop};

/// About a second each.
const RUNS: usize = 3_000;
/// Preemptions that a defect may need: schedules with few of them are tried on their own.
const DEPTH: usize = 3;

fn explore(time: Time) {
    let random = Runner::new(RandomScheduler::new(RUNS), Config::new());
    random.run(move || publish_and_stop(time));
    let few = Runner::new(PctScheduler::new(DEPTH, RUNS), Config::new());
    few.run(move || publish_and_stop(time));
}

#[test]
fn every_publisher_gets_its_own_answer_in_whatever_order_things_happen() {
    explore(Time::BeforeDeadlines);
}

#[test]
fn deadlines_that_pass_at_any_moment_lose_no_answered_event() {
    explore(Time::PastDeadlines);
}
