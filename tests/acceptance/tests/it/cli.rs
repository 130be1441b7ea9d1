//! The commands for developers, each as its user calls it, against a whole stack.

use serde_json::{Value, json};
use zyven_testkit::{Answer, Binary, Finished, Running};

use crate::stack::{PATIENCE, Spread, Stack};

/// A developer's shell.
pub(crate) struct Shell(Binary);

impl Shell {
    pub(crate) fn on(stack: &Stack) -> Self {
        Self::at(&stack.api, &stack.key)
    }

    pub(crate) fn at(url: &str, key: &str) -> Self {
        let binary = Binary::find();
        Self(binary.with("ZYVEN_API_URL", url).with("ZYVEN_API_KEY", key))
    }

    pub(crate) fn with(self, name: &str, value: &str) -> Self {
        Self(self.0.with(name, value))
    }

    /// Starts a command that goes on.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        self.0.start(arguments)
    }

    /// Runs a command to its end, whatever it says.
    pub(crate) async fn run_any(&self, arguments: &[&str]) -> Finished {
        self.0.run(arguments, PATIENCE).await
    }

    /// Runs a command to its end. Nothing it says is for a terminal, as none is there.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Finished {
        let finished = self.run_any(arguments).await;
        for said in [&finished.stdout, &finished.stderr] {
            assert!(!said.contains('\u{1b}'), "{arguments:?}: {said:?}");
        }
        finished
    }

    pub(crate) async fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).await.expect_success()
    }

    /// The one document that the command prints with `--json`.
    pub(crate) async fn json(&self, arguments: &[&str]) -> Value {
        let said = self.ok(&[arguments, &["--json"]].concat()).await;
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {said}"))
    }

    /// Runs a command that has to fail with this code; returns what it says on standard error.
    pub(crate) async fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let finished = self.run(arguments).await;
        assert_eq!(
            finished.status.code(),
            Some(code),
            "{arguments:?}: {finished:?}"
        );
        finished.stderr
    }
}

pub(crate) fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    let text = value[member].as_str();
    text.unwrap_or_else(|| panic!("no {member} in {value}"))
}

fn file(name: &str, content: &[u8]) -> std::path::PathBuf {
    let file = std::env::temp_dir().join(format!("zyven-cli-{}-{name}", std::process::id()));
    std::fs::write(&file, content).expect("a file");
    file
}

#[tokio::test]
async fn a_developer_publishes_an_event_and_sees_what_became_of_it() {
    let stack = Stack::start(Spread::OneProcess).await;
    let shell = Shell::on(&stack);
    let url = stack.receiver.url("/hook");
    let endpoint = shell.json(&["endpoints", "create", &url]).await;
    let endpoint = text(&endpoint, "id");

    let payload = "{ \"z\":1.10, \"a\" : [1e2,\"é\"]}";
    let send = [
        "events",
        "send",
        "invoice.paid",
        "--payload",
        payload,
        "--idempotency-key",
        "mine",
    ];
    let accepted = shell.json(&send).await;
    let event = text(&accepted, "id");
    assert_eq!(accepted["deliveries"], 1);
    let again = shell.ok(&send).await;
    assert!(
        again.contains(event) && again.contains("accepted before"),
        "{again}"
    );
    stack.wait_for_state(event, "DELIVERED").await;
    assert_eq!(stack.receiver.requests()[0].body, payload, "byte for byte");

    let seen = shell.ok(&["events", "get", event]).await;
    for part in [payload, "invoice.paid", "DELIVERED", endpoint] {
        assert!(seen.contains(part), "{part} in {seen}");
    }
    assert_eq!(
        text(&shell.json(&["events", "get", event]).await, "status"),
        "DELIVERED"
    );

    let list = [
        "deliveries",
        "list",
        "--status",
        "delivered",
        "--endpoint",
        endpoint,
        "--since",
        "1h",
    ];
    let listed = shell.json(&list).await;
    let delivery = text(&listed["data"][0], "id");
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(1), "{listed}");
    let table = shell
        .ok(&["deliveries", "list", "--type", "invoice.paid"])
        .await;
    assert!(
        table.starts_with("DELIVERY") && table.contains(delivery),
        "{table}"
    );
    let none = shell
        .ok(&["deliveries", "list", "--status", "DEAD_LETTERED"])
        .await;
    assert_eq!(none, "no delivery is like this\n");
    let one = shell.json(&["deliveries", "get", delivery]).await;
    assert_eq!(one["http_status"], 200);
    let attempts = shell.json(&["deliveries", "attempts", delivery]).await;
    assert_eq!(attempts["data"][0]["number"], 1);
    let seen = shell.ok(&["deliveries", "get", delivery]).await;
    assert!(
        seen.contains("GENERATION") && seen.contains(event),
        "{seen}"
    );

    let refused = shell
        .fails(1, &["deliveries", "replay", delivery, "--reason", "r"])
        .await;
    assert!(refused.contains("not_replayable"), "{refused}");
    let refused = shell
        .fails(1, &["deliveries", "cancel", delivery, "--reason", "r"])
        .await;
    assert!(refused.contains("not_cancellable"), "{refused}");
    let cancelled = shell
        .json(&["events", "cancel", event, "--reason", "r"])
        .await;
    assert_eq!(
        cancelled,
        json!({ "id": event, "cancelled": 0, "finished": 1 })
    );
}

#[tokio::test]
async fn payloads_come_from_files_and_lists_go_on_where_they_ended() {
    let stack = Stack::start(Spread::OneProcess).await;
    let shell = Shell::on(&stack);
    let payload = file("payload.json", b"{\"n\":\n 1}\n");
    let path = payload.to_str().expect("UTF-8");
    let from_file = [
        "events",
        "send",
        "a",
        "--payload-file",
        path,
        "--channel",
        "x",
        "--source",
        "test",
    ];
    let nobody = shell.run(&from_file).await;
    assert!(
        nobody.stderr.contains("zyven events explain evt_"),
        "{nobody:?}"
    );
    let piped = Shell(shell.0.clone().reading(&payload));
    let piped = piped
        .json(&["events", "send", "a", "--payload-file", "-"])
        .await;
    let stored = shell.ok(&["events", "get", text(&piped, "id")]).await;
    assert!(stored.contains("{\"n\":\n 1}\n"), "{stored}");

    for name in ["one", "two", "three"] {
        shell
            .ok(&[
                "keys",
                "create",
                name,
                "--scope",
                "read",
                "--expires-at",
                "1h",
            ])
            .await;
    }
    let first = shell.json(&["keys", "list", "--limit", "3"]).await;
    let cursor = text(&first, "next_cursor");
    let rest = shell
        .json(&["keys", "list", "--limit", "3", "--cursor", cursor])
        .await;
    assert_eq!(
        rest["data"][0]["name"], "three",
        "after the stack's own key, one and two"
    );
    assert_eq!(rest["next_cursor"], Value::Null);
}

#[tokio::test]
async fn endpoints_are_made_changed_tested_and_deleted() {
    let stack = Stack::start(Spread::OneProcess).await;
    let shell = Shell::on(&stack);
    let url = stack.receiver.url("/hook");
    let more = file(
        "endpoint.json",
        b"{\"headers\": {\"x-gate\": \"open\"}, \"timeout_ms\": 1}",
    );
    let more = more.to_str().expect("UTF-8");
    let create = [
        "endpoints",
        "create",
        &url,
        "--event-type",
        "a.*",
        "--event-type",
        "b",
        "--description",
        "mine",
        "--timeout-ms",
        "5000",
        "--attempts-max",
        "1",
        "--from",
        more,
    ];
    let made = shell.json(&create).await;
    let id = text(&made, "id");
    assert_eq!(made["event_types"], json!(["a.*", "b"]));
    assert_eq!(made["headers"], json!(["x-gate"]));
    assert_eq!(made["timeout_ms"], 5000, "an option beats the file");
    assert!(shell.ok(&["endpoints", "list"]).await.contains("a.* b"));
    let changed = shell
        .json(&["endpoints", "update", id, "--event-type", "c"])
        .await;
    assert_eq!(changed["event_types"], json!(["c"]));
    shell.fails(2, &["endpoints", "update", id]).await;

    for (step, status) in [
        ("pause", "paused"),
        ("resume", "enabled"),
        ("disable", "disabled"),
        ("enable", "enabled"),
    ] {
        let said = shell.ok(&["endpoints", step, id]).await;
        assert_eq!(said, format!("{id} is {status}\n"));
        assert_eq!(
            shell.json(&["endpoints", "get", id]).await["status"],
            status
        );
    }

    let tested = shell.json(&["endpoints", "test", id, "--wait"]).await;
    assert_eq!(tested["status"], "DELIVERED");
    assert_eq!(
        stack.receiver.requests_at("/hook")[0].header("x-gate"),
        "open"
    );
    assert!(
        shell
            .ok(&["endpoints", "test", id])
            .await
            .contains("is on its way")
    );
    stack.receiver.answer(Answer::status(400));
    let failed = shell.fails(1, &["endpoints", "test", id, "--wait"]).await;
    assert!(
        failed.contains("zyven deliveries attempts dlv_"),
        "{failed}"
    );

    let secret = shell.json(&["endpoints", "secrets", id]).await;
    assert_eq!(secret["secret"], made["secret"]);
    let rotated = shell
        .json(&["endpoints", "secrets", id, "--rotate", "--overlap", "1h"])
        .await;
    assert_eq!(rotated["overlap_s"], 3600);
    let both = shell.ok(&["endpoints", "secrets", id]).await;
    assert!(both.starts_with(text(&rotated, "secret")), "{both}");
    assert!(both.contains(text(&made, "secret")), "{both}");
    let rotate = [
        "endpoints",
        "secrets",
        id,
        "--rotate",
        "--signing",
        "ed25519",
    ];
    assert!(shell.ok(&rotate).await.starts_with("whpk_"));

    shell.fails(2, &["endpoints", "delete", id]).await;
    assert_eq!(
        shell.json(&["endpoints", "delete", id, "--yes"]).await,
        json!({})
    );
    let gone = shell.fails(1, &["endpoints", "get", id]).await;
    assert!(gone.contains("not_found"), "{gone}");
}

#[tokio::test]
async fn a_key_is_shown_once_and_revoked() {
    let stack = Stack::start(Spread::OneProcess).await;
    let shell = Shell::on(&stack);
    let made = shell
        .json(&["keys", "create", "billing", "--scope", "publish"])
        .await;
    assert_eq!(made["scopes"], json!(["publish"]));
    let other = Shell::at(&stack.api, text(&made, "key"));
    other.ok(&["events", "send", "a", "--payload", "1"]).await;
    let refused = other.fails(1, &["endpoints", "list"]).await;
    assert!(
        refused.contains("scope_missing") && refused.contains("next: "),
        "{refused}"
    );
    let id = text(&made, "id");
    assert_eq!(
        shell.ok(&["keys", "revoke", id]).await,
        format!("{id} is revoked\n")
    );
    let listed = shell.json(&["keys", "list"]).await;
    let listed = listed["data"].as_array().expect("keys");
    let revoked = listed.iter().find(|key| key["id"] == id).expect("it");
    assert!(revoked["revoked_at"].is_string() && revoked.get("key").is_none());
}

#[tokio::test]
async fn a_view_link_is_printed_as_what_to_embed() {
    let stack = Stack::start(Spread::OneProcess).await;
    let shell = Shell::on(&stack);
    let url = shell
        .ok(&[
            "keys",
            "view-link",
            "--scope",
            "read",
            "--scope",
            "replay",
            "--expires",
            "2h",
            "--console",
            "https://console.example.com/",
        ])
        .await;
    let token = url
        .trim()
        .strip_prefix("https://console.example.com/embed#token=");
    let token = token.expect("a URL");
    let (status, viewer) = stack
        .call_as(token, "GET", "/v1/api-keys/current", None)
        .await;
    assert_eq!(status, 200, "{viewer}");
    assert_eq!(viewer["scopes"], json!(["read", "replay"]));

    let plain = shell.ok(&["keys", "view-link"]).await;
    assert!(plain.starts_with("zyv_"), "{plain}");
    let made = shell.json(&["keys", "view-link"]).await;
    assert_eq!(made["scopes"], json!(["read"]));
    assert!(text(&made, "token").starts_with("zyv_"));
    shell
        .fails(2, &["keys", "view-link", "--scope", "manage"])
        .await;
    let long = shell
        .fails(1, &["keys", "view-link", "--expires", "2d"])
        .await;
    assert!(long.contains("expires_in_s"), "{long}");
}

#[tokio::test]
async fn dead_letters_are_chosen_by_their_ids() {
    let stack = Stack::start(Spread::OneProcess).await;
    let shell = Shell::on(&stack);
    stack.endpoint("/hook", json!({})).await;
    stack.receiver.answer(Answer::status(400));
    let mut events = Vec::new();
    for number in 0..3 {
        events.push(stack.publish("a", json!(number)).await);
    }
    for event in &events {
        stack.wait_for_state(event, "DEAD_LETTERED").await;
    }
    stack.receiver.answer(Answer::status(200));
    // The newest first.
    let dead = shell.json(&["dead-letters", "list"]).await;
    let [last, middle] = [0, 1].map(|index| text(&dead["data"][index], "id"));
    let strange = "dlv_00000000000070008000000000000000";
    let replay = [
        "dead-letters",
        "replay",
        last,
        middle,
        strange,
        "--reason",
        "mended",
    ];
    let dry = shell.run(&replay).await;
    let left_out = format!("left out: {strange}: there is no such dead letter");
    assert!(
        dry.stderr.contains("--yes replays 2") && dry.stderr.contains(&left_out),
        "{dry:?}"
    );
    let go = [&replay[..], &["--yes", "--rate", "1000"]].concat();
    let done = shell.run(&go).await;
    assert!(done.stderr.contains(&left_out), "{done:?}");
    for event in &events[1..] {
        stack.wait_for_state(event, "DELIVERED").await;
    }
    assert_eq!(stack.delivery(&events[0]).await.0, "DEAD_LETTERED");
    let none = shell.run(&[&go[..], &["--json"]].concat()).await;
    assert_eq!(none.status.code(), Some(1), "{none:?}");
    let none: Value = serde_json::from_str(&none.stdout).expect("JSON");
    assert_eq!(none["refused"].as_array().map(Vec::len), Some(3), "{none}");
    let narrowed = [&replay[..], &["--max", "1"]].concat();
    shell.fails(2, &narrowed).await;
    stack.assert_settled().await;
}

#[tokio::test]
async fn dead_letters_are_replayed_after_a_dry_run() {
    let stack = Stack::start(Spread::OneProcess).await;
    let shell = Shell::on(&stack);
    let endpoint = stack.endpoint("/hook", json!({})).await;
    let endpoint = text(&endpoint, "id");
    stack
        .receiver
        .answer(Answer::status(400).body("\u{1b}[31mno"));
    let mut events = Vec::new();
    for number in 0..3 {
        events.push(stack.publish("a", json!(number)).await);
    }
    for event in &events {
        stack.wait_for_state(event, "DEAD_LETTERED").await;
    }
    let dead = shell
        .json(&["dead-letters", "list", "--dead-reason", "rejected"])
        .await;
    assert_eq!(dead["data"].as_array().map(Vec::len), Some(3), "{dead}");
    let none = ["dead-letters", "list", "--dead-reason", "expired"];
    assert_eq!(shell.ok(&none).await, "there is no dead letter like this\n");
    // What the receiver says is shown, and obeyed by no terminal.
    let one = text(&dead["data"][0], "id");
    let attempts = shell.ok(&["deliveries", "attempts", one]).await;
    assert!(attempts.contains("\\u{1b}[31mno"), "{attempts}");

    stack.receiver.answer(Answer::status(200));
    let replay = [
        "dead-letters",
        "replay",
        "--endpoint",
        endpoint,
        "--reason",
        "mended",
    ];
    let dry = shell.run(&replay).await;
    assert!(
        dry.stderr.contains("--yes replays 3") && dry.stdout.contains("DEAD LETTERS"),
        "{dry:?}"
    );
    let dry = shell.json(&replay).await;
    assert_eq!(
        (&dry["dry_run"], &dry["deliveries"]),
        (&json!(true), &json!(3))
    );
    assert_eq!(
        stack.delivery(&events[0]).await.0,
        "DEAD_LETTERED",
        "nothing was done"
    );

    let one = ["deliveries", "replay", one, "--reason", "mended"];
    assert!(shell.ok(&one).await.contains("goes back to the start"));
    let go = [&replay[..], &["--yes", "--max", "1", "--rate", "1000"]].concat();
    let first = shell.json(&go).await;
    for (member, expected) in [("deliveries", 1), ("delivered", 1), ("waiting", 0)] {
        assert_eq!(first[member], expected, "{member} of {first}");
    }
    let rest = [&replay[..], &["--yes", "--detach"]].concat();
    let begun = shell.ok(&rest).await;
    let begun = begun.strip_prefix("replay ").expect("its number");
    let (number, rest) = begun.split_once(':').expect("its number, and more");
    assert_eq!(rest, " 1 go back to the start\n");
    let progress = ["dead-letters", "progress", number, "--wait"];
    let told = shell.ok(&progress).await;
    assert!(
        told.contains("mended") && told.contains("delivered"),
        "{told}"
    );
    assert_eq!(shell.json(&progress).await["delivered"], 1);
    let none = shell.ok(&[&replay[..], &["--yes"]].concat()).await;
    assert_eq!(none, "there is no dead letter like this\n");
    shell.fails(1, &["dead-letters", "progress", "0"]).await;
    for event in &events {
        stack.wait_for_state(event, "DELIVERED").await;
    }
    stack.assert_settled().await;
}
