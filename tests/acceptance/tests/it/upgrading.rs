//! Two versions side by side.

use std::collections::HashSet;
use std::io::Write as _;

use serde_json::json;
use zyven_testkit::{previous_program, wait_until};

use crate::stack::{PATIENCE, Spread, Stack};

const SERVICES: [&str; 4] = ["egress", "dispatcher", "relay", "ingest"];

/// Every mixture of two versions, each one restart away from the one before it: a Gray code. Bit n is set where service n is
/// of the previous version.
fn mixtures() -> impl Iterator<Item = usize> {
    (0..1 << SERVICES.len()).map(|n| n ^ (n >> 1))
}

#[tokio::test]
async fn fleets_of_two_versions_deliver_in_every_mixture() {
    let Some(previous) = previous_program() else {
        let line = "SKIPPED: two versions side by side: there is no previous one (scripts/previous-release.sh)";
        let _ = writeln!(std::io::stderr().lock(), "{line}");
        return;
    };
    let mut stack = Stack::start(Spread::ProcessEach).await;
    let previous = stack.binary.as_program(previous);
    stack
        .endpoint("/hook", json!({ "timeout_ms": 2000, "retry_base_ms": 200 }))
        .await;
    let mut events = HashSet::new();
    let mut before = 0;
    for mixture in mixtures() {
        let changed = mixture ^ before;
        if changed != 0 {
            let index = changed.trailing_zeros() as usize;
            let name = SERVICES[index];
            let is_previous = mixture & changed != 0;
            stack
                .replace_service(name, is_previous.then(|| previous.clone()))
                .await;
        }
        before = mixture;
        for number in 0..5 {
            let payload = json!({ "mixture": mixture, "number": number });
            events.insert(stack.publish("a.b", payload).await);
        }
        wait_until(
            &format!("mixture {mixture:04b} delivers"),
            PATIENCE * 2,
            async || {
                let arrived: HashSet<String> = stack
                    .receiver
                    .requests()
                    .iter()
                    .map(|request| request.header("webhook-id").to_owned())
                    .collect();
                match events.difference(&arrived).count() {
                    0 => Ok(()),
                    missing => Err(missing),
                }
            },
        )
        .await;
    }
    stack.assert_settled().await;
}

#[tokio::test]
async fn a_process_does_not_start_on_a_database_that_is_too_new_for_it() {
    let mut stack = Stack::start(Spread::ProcessEach).await;
    let sql = stack.database.client().await;
    sql.batch_execute("UPDATE zyven.compatibility SET oldest_known = '9999_later'")
        .await
        .expect("raised");
    // One that runs looks once a minute; one that starts, at once.
    let mut ingest = stack.take_process("ingest");
    ingest.kill();
    stack.start_service("ingest");
    let ended = stack.take_process("ingest").ended(PATIENCE).await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("too new") && ended.stderr.contains("9999_later"),
        "{}",
        ended.stderr
    );
}
