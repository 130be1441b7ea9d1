//! The operator's scripts, run by the real psql.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::json;
use zyven_testkit::Answer;

use crate::stack::{Spread, Stack};

/// psql from the PATH or from where Debian keeps the server's own programs.
pub(crate) fn psql() -> PathBuf {
    let on_path = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join("psql"))
        .find(|program| program.is_file());
    let beside_server = || {
        let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
        versions
            .flatten()
            .map(|version| version.path().join("bin/psql"))
            .find(|program| program.is_file())
    };
    on_path
        .or_else(beside_server)
        .expect("psql is part of every PostgreSQL installation")
}

fn script(stack: &Stack, name: &str, variables: &[(&str, &str)]) -> Output {
    let file = format!(
        "{}/../../sql/operator/{name}.sql",
        env!("CARGO_MANIFEST_DIR")
    );
    let mut command = Command::new(psql());
    command
        .arg("-X")
        .arg(stack.database.url())
        .args(["-f", &file]);
    for (name, value) in variables {
        command.arg("-v").arg(format!("{name}={value}"));
    }
    command.output().expect("psql runs")
}

pub(crate) fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{text}");
    text
}

#[tokio::test]
async fn an_operator_finds_and_replays_dead_letters_with_psql_alone() {
    let stack = Stack::start(Spread::OneProcess).await;
    let endpoint = stack.endpoint("/hook", json!({})).await;
    let endpoint = endpoint["id"].as_str().expect("an id");
    stack
        .receiver
        .answer(Answer::status(400).body("no such order"));
    let mut events = Vec::new();
    for number in 0..3 {
        events.push(
            stack
                .publish("order.placed", json!({ "number": number }))
                .await,
        );
    }
    for event in &events {
        stack.wait_for_state(event, "DEAD_LETTERED").await;
    }
    let shown = said(&script(&stack, "dead-letters", &[("endpoint", endpoint)]));
    assert!(
        shown.contains("rejected") && shown.contains("(3 rows)"),
        "{shown}"
    );
    assert!(said(&script(&stack, "stuck", &[])).contains("(0 rows)"));

    let delivery = shown
        .split_whitespace()
        .find(|word| word.starts_with("dlv_"))
        .expect("a delivery's id")
        .to_owned();
    let story = said(&script(&stack, "delivery", &[("delivery", &delivery)]));
    assert!(
        story.contains("DEAD_LETTERED") && story.contains("no such order"),
        "{story}"
    );

    let refused = script(&stack, "replay", &[("delivery", &delivery)]);
    assert!(!refused.status.success(), "a replay says why");
    stack.receiver.answer(Answer::status(200));
    let why = ("reason", "receiver fixed");
    said(&script(&stack, "replay", &[("delivery", &delivery), why]));

    let filter = [why, ("endpoint", endpoint)];
    let dry = said(&script(&stack, "replay-dead-letters", &filter));
    assert!(dry.contains("dry run") && dry.contains(" 2 "), "{dry}");
    let go = [why, ("endpoint", endpoint), ("rate", "50"), ("go", "yes")];
    said(&script(&stack, "replay-dead-letters", &go));
    for event in &events {
        stack.wait_for_state(event, "DELIVERED").await;
    }
    stack.assert_settled().await;
}
