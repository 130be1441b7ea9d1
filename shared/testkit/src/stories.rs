//! Stories: sequences of steps made up at random, which a test lives through on the real thing and on a model of it.

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};

use crate::environment::setting;

/// A story that fails is shortened for this many runs of it, each as long as a run of the test.
const SHORTENINGS_MAX: u32 = 400;

/// Lives through `stories` stories of `strategy`; `ZYVEN_TEST_STORIES` asks for another number. `live` panics where
/// the thing and its model differ.
///
/// A story that fails is shortened as long as it keeps failing, and shown. Its seed is appended to the file `seeds`,
/// and tried first from then on.
///
/// # Panics
/// With the shortest story that fails.
pub fn live_through<S: Strategy>(
    stories: u32,
    seeds: &'static str,
    strategy: &S,
    live: impl Fn(S::Value),
) {
    let cases = setting("ZYVEN_TEST_STORIES").map_or(stories, |number| {
        number
            .parse()
            .unwrap_or_else(|_| panic!("ZYVEN_TEST_STORIES must be a number, not {number}"))
    });
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(seeds))),
        max_shrink_iters: SHORTENINGS_MAX,
        ..Config::default()
    });
    let outcome = runner.run(strategy, |story| {
        live(story);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}\nThe seed is in {seeds}.");
    }
}
