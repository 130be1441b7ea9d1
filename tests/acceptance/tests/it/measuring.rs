//! `zyven bench`: its figures are only worth something if it counts right.

use serde_json::Value;
use zyven_testkit::Finished;

use crate::stack::{PATIENCE, Spread, Stack};

/// Measures the stack, with a key of its tenant and its processes for the counting of CPU time.
async fn bench(stack: &Stack, arguments: &[&str]) -> Finished {
    let pids: Vec<String> = stack
        .processes
        .iter()
        .map(|(name, process)| format!("--pid={name}={}", process.id()))
        .collect();
    // Not the local stack of this checkout.
    let common = ["bench", "--stack-dir=none", "--json", "--warm-up=0s"];
    stack
        .binary
        .clone()
        .with("ZYVEN_API_KEY", &stack.key)
        .run(
            common
                .into_iter()
                .chain(pids.iter().map(String::as_str))
                .chain(arguments.iter().copied()),
            PATIENCE * 2,
        )
        .await
}

/// The figures of the only scenario.
fn figures(output: &str) -> Value {
    let report: Value = serde_json::from_str(output).expect("JSON");
    assert!(report["machine"]["cores"].as_u64() >= Some(1), "{report}");
    report["results"][0].clone()
}

async fn endpoints(stack: &Stack) -> usize {
    let (status, listed) = stack.call("GET", "/v1/endpoints", None).await;
    assert_eq!(status, 200, "{listed}");
    let shown = listed["data"]
        .as_array()
        .or_else(|| listed["endpoints"].as_array());
    shown.unwrap_or_else(|| panic!("{listed}")).len()
}

#[tokio::test]
async fn every_event_is_counted_where_it_should_arrive() {
    let stack = Stack::start(Spread::ProcessEach).await;
    let arguments = [
        "--events=205",
        "--connections=4",
        "--batch=10",
        "--fan-out=3",
    ];
    let figures = figures(&bench(&stack, &arguments).await.expect_success());
    assert_eq!(figures["counts"]["acknowledged"], 205, "{figures}");
    assert_eq!(figures["counts"]["arrived"], 615, "{figures}");
    for nothing in ["missing", "duplicates", "altered", "strays"] {
        assert_eq!(figures["counts"][nothing], 0, "{nothing}: {figures}");
    }
    for latency in ["ack", "arrival"] {
        assert!(figures[latency]["p50_ms"].as_f64() > Some(0.0), "{figures}");
    }
    let processes = figures["processes"].as_array().expect("processes");
    assert_eq!(processes.len(), 4, "{figures}");
    assert!(figures["cpu_s_per_1000_events"].is_f64(), "{figures}");
    assert_eq!(endpoints(&stack).await, 0, "it cleans up");
    stack.assert_settled().await;
}

#[tokio::test]
async fn an_open_loop_sends_on_time_and_first_failures_are_tried_again() {
    let stack = Stack::start(Spread::OneProcess).await;
    let arguments = [
        "--scenario=open",
        "--rate=100",
        "--events=50",
        "--fail-first=10%",
    ];
    let figures = figures(&bench(&stack, &arguments).await.expect_success());
    let counts = &figures["counts"];
    assert_eq!(
        (&counts["sent"], &counts["arrived"]),
        (&50.into(), &50.into()),
        "{figures}"
    );
    assert!(counts["failed_on_purpose"].as_u64() >= Some(1), "{figures}");
    assert_eq!(counts["missing"], 0, "{figures}");
    // The last of 50 is due 490 ms after the first.
    assert!(figures["sending_s"].as_f64() >= Some(0.49), "{figures}");
    assert!(
        figures["retry"]["p50_ms"].as_f64() >= Some(3_900.0),
        "{figures}"
    );
}

#[tokio::test]
async fn what_does_not_arrive_is_missing_and_the_command_fails() {
    let mut stack = Stack::start(Spread::ProcessEach).await;
    stack.process("dispatcher").freeze();
    let finished = bench(&stack, &["--events=20", "--drain-limit=500ms"]).await;
    stack.process("dispatcher").thaw();
    assert_eq!(finished.status.code(), Some(1), "{}", finished.stderr);
    let figures = figures(&finished.stdout);
    assert_eq!(figures["counts"]["acknowledged"], 20, "{figures}");
    assert_eq!(figures["counts"]["missing"], 20, "{figures}");
    assert_eq!(figures["is_drained"], false, "{figures}");
    let report: Value = serde_json::from_str(&finished.stderr).expect("one document");
    let error = report["error"].as_str();
    assert!(
        error.is_some_and(|error| error.contains("20 acknowledged deliveries are missing")),
        "{report}"
    );
    assert_eq!(endpoints(&stack).await, 0, "it cleans up all the same");
}
