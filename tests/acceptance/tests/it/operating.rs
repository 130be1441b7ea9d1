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

/// A script, its variables, and what it says.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

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
    // As docs/operations/runbook.md says it: who does it, in the audit.
    command.env("PGOPTIONS", "-c zyven.actor=ann");
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

    let all: Vec<&str> = shown
        .split_whitespace()
        .filter(|word| word.starts_with("dlv_"))
        .collect();
    let all = all.join(", ");
    let chosen = [why, ("deliveries", all.as_str())];
    let dry = said(&script(&stack, "replay-chosen", &chosen));
    let left_out = format!("\"{delivery}\": \"it ");
    for told in ["dry run", " 2 ", &left_out] {
        assert!(dry.contains(told), "{told}: {dry}");
    }
    let filter = [why, ("endpoint", endpoint)];
    let dry = said(&script(&stack, "replay-dead-letters", &filter));
    assert!(dry.contains("dry run") && dry.contains(" 2 "), "{dry}");
    let go = [why, ("endpoint", endpoint), ("rate", "50"), ("go", "yes")];
    said(&script(&stack, "replay-dead-letters", &go));
    for event in &events {
        stack.wait_for_state(event, "DELIVERED").await;
    }
    stack.assert_settled().await;
    let sql = stack.database.client().await;
    let replays = sql
        .query_one(
            "SELECT string_agg(DISTINCT actor, ' ') FROM zyven.audit WHERE action = 'delivery.replay'",
            &[],
        )
        .await
        .expect("the audit");
    assert_eq!(replays.get::<_, Option<&str>>(0), Some("ann"));
}

/// What a script says where something that was given cannot be meant.
fn refused(stack: &Stack, name: &str, variables: &[(&str, &str)]) -> String {
    let output = script(stack, name, variables);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{name} {variables:?}: {text}");
    assert!(!text.contains("CONTEXT"), "{text}");
    text
}

#[tokio::test]
async fn scripts_take_a_mistake_for_one_and_say_what_is_right() {
    let stack = Stack::start(Spread::OneProcess).await;
    let endpoint = stack.endpoint("/hook", json!({})).await;
    let endpoint = endpoint["id"].as_str().expect("an id");
    let sql = stack.database.client().await;
    let tenant = sql
        .query_one("SELECT zyven.typed_id('ten', id) FROM zyven.tenants", &[])
        .await
        .expect("a tenant");
    let tenant: &str = tenant.get(0);
    let [nobody, delivery, event] = ["ep", "dlv", "evt"].map(|kind| format!("{kind}_{:032x}", 7));
    let (nobody, delivery, event) = (nobody.as_str(), delivery.as_str(), event.as_str());
    let why = ("reason", "a test");
    let at = ("endpoint", endpoint);
    let cases: &[Case<'_>] = &[
        ("delivery", &[], "missing: DELIVERY=dlv_"),
        (
            "delivery",
            &[("delivery", delivery)],
            "there is no delivery dlv_",
        ),
        (
            "dead-letters",
            &[("endpoint", nobody)],
            "there is no endpoint ep_",
        ),
        ("dead-letters", &[("rows", "abc")], "ROWS must be a number"),
        (
            "endpoint-health",
            &[("endpoint", nobody)],
            "there is no endpoint ep_",
        ),
        ("stuck", &[("rows", "0")], "ROWS must be a number"),
        ("stuck", &[("tenant", "ten_1")], "it must be \"ten_\""),
        (
            "cancel",
            &[("what", endpoint), why],
            "it must be \"evt_\" or \"dlv_\"",
        ),
        (
            "cancel",
            &[("what", event), why],
            "there is no event or delivery evt_",
        ),
        (
            "replay",
            &[("delivery", delivery), why],
            "there is no delivery dlv_",
        ),
        (
            "replay-dead-letters",
            &[why, ("endpoint", nobody)],
            "there is no endpoint ep_",
        ),
        (
            "replay-dead-letters",
            &[why, at, ("dead_reason", "exausted")],
            "dead_reason must be one of attempts_exhausted",
        ),
        (
            "replay-dead-letters",
            &[why, at, ("since", "2199-01-01")],
            "since must not lie in the future",
        ),
        (
            "replay-dead-letters",
            &[why, at, ("since", "long ago")],
            "SINCE must be a time",
        ),
        (
            "replay-dead-letters",
            &[why, at, ("go", "maybe")],
            "GO must be yes",
        ),
        (
            "replay-dead-letters",
            &[why, at, ("max", "many")],
            "MAX must be a number",
        ),
        (
            "replay-chosen",
            &[why, ("deliveries", delivery), ("rate", "0")],
            "RATE must be a number",
        ),
        (
            "replay-missing",
            &[why, at, ("since", "2199-01-01")],
            "since must not lie in the future",
        ),
        (
            "replay-progress",
            &[("replay", "7")],
            "there is no replay of this number",
        ),
        (
            "cancel-deliveries",
            &[why, ("endpoint", nobody)],
            "there is no endpoint ep_",
        ),
        (
            "purge-dead-letters",
            &[why, ("tenant", tenant), ("go", "Yes")],
            "GO must be yes",
        ),
        (
            "limit-tenant",
            &[
                ("tenant", tenant),
                ("events", "-1"),
                ("requests", "default"),
            ],
            "EVENTS must be a number",
        ),
    ];
    for (name, variables, complaint) in cases {
        let text = refused(&stack, name, variables);
        assert!(text.contains(complaint), "{name} {variables:?}: {text}");
    }

    let dry = said(&script(
        &stack,
        "replay-dead-letters",
        &[why, at, ("since", "24h")],
    ));
    assert!(dry.contains("do it with GO=yes"), "{dry}");
    stack.receiver.answer(Answer::status(400));
    let refused = stack.publish("order.placed", json!({})).await;
    stack.wait_for_state(&refused, "DEAD_LETTERED").await;
    stack.other_tenant("another").await;
    let other = sql
        .query_one(
            "SELECT zyven.typed_id('ten', id) FROM zyven.tenants WHERE name = 'another'",
            &[],
        )
        .await
        .expect("a tenant");
    for (tenant, rows) in [(tenant, "(1 row)"), (other.get(0), "(0 rows)")] {
        let shown = said(&script(&stack, "dead-letters", &[("tenant", tenant)]));
        assert_eq!(shown.matches(rows).count(), 2, "{tenant}: {shown}");
    }
}
