//! What processes say at /metrics is what Prometheus wants to hear, and what the documentation says.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::stack::{Spread, Stack};

const SERVICES: [&str; 4] = ["ingest", "relay", "dispatcher", "egress"];

/// Where scripts/check-monitoring.sh finds or puts it.
fn promtool() -> Option<PathBuf> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let unpacked = PathBuf::from(root).join(".zyven/promtool/usr/bin/promtool");
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join("promtool"))
        .chain([unpacked])
        .find(|program| program.is_file())
}

#[tokio::test]
async fn metrics_are_what_prometheus_wants_and_all_are_documented() {
    let stack = Stack::start(Spread::ProcessEach).await;
    stack.endpoint("/hook", json!({})).await;
    let event = stack.publish("a.b", json!({ "a": 1 })).await;
    stack.wait_for_state(&event, "DELIVERED").await;
    for (service, moved) in [
        (
            "ingest",
            "zyven_postgres_pool_wait_seconds_count{service=\"ingest\",kind=\"durable\"}",
        ),
        ("relay", "zyven_relay_lag_seconds_count"),
        (
            "relay",
            "zyven_redis_pool_wait_seconds_count{service=\"relay\"}",
        ),
        (
            "dispatcher",
            "zyven_dispatcher_accepted_to_first_attempt_seconds_count",
        ),
    ] {
        let count = stack.metric(service, moved).await;
        assert!(count >= 1.0, "{moved} is {count}");
    }
    let documented = include_str!("../../../../docs/operations/metrics.md");
    let promtool = promtool();
    if promtool.is_none() {
        println!("SKIPPED in part: promtool is missing (scripts/check-monitoring.sh fetches it)");
    }
    for service in SERVICES {
        let said = stack.metrics(service).await;
        let families = said.lines().filter_map(|line| {
            let rest = line.strip_prefix("# TYPE ")?;
            rest.split(' ').next()
        });
        for family in families {
            assert!(
                documented.contains(&format!("`{family}`"))
                    || documented.contains(&format!("`{family}{{")),
                "{service}: {family} is not in docs/operations/metrics.md"
            );
        }
        if let Some(program) = &promtool {
            let (passed, complaints) = checked(program, &said);
            assert!(passed, "{service}:\n{complaints}");
            assert_eq!(complaints, "", "{service}");
        }
    }
}

fn checked(promtool: &PathBuf, said: &str) -> (bool, String) {
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    let mut input = child.stdin.take().expect("it listens");
    input.write_all(said.as_bytes()).expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}
