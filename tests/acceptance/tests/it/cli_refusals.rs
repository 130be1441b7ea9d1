//! What the commands for developers say when something is wrong, and with which code they end.

use serde_json::{Value, json};
use zyven_testkit::{Answer, Binary, Receiver, TestCa};

use crate::cli::Shell;
use crate::stack::{PATIENCE, Spread, Stack, free_port};

/// Written as a key, and nobody's.
const KEY: &str = "zyk_00010203040506ff_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const EVENT: &str = "evt_0199f2c6d1a87b3e9c5f2d4a6b8e0c1d";

#[tokio::test]
async fn who_is_refused_hears_the_code_the_field_the_rule_and_the_next_step() {
    let stack = Stack::start(Spread::OneProcess).await;
    let shell = Shell::on(&stack);
    let wrong = ["endpoints", "create", "ftp://nowhere"];
    let said = shell.fails(1, &wrong).await;
    for part in [
        "error: POST /v1/endpoints was answered 422 invalid: url ",
        "\nrequest: ",
        "next: ",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(!said.contains("\n  url "), "once is enough: {said}");
    let many = ["--timeout-ms", "1", "--attempts-max", "0"];
    let many = shell.fails(1, &[&wrong[..], &many].concat()).await;
    for field in ["url", "timeout_ms", "attempts_max"] {
        assert!(many.contains(&format!("\n  {field} ")), "{field} in {many}");
    }
    let said = shell.fails(1, &[&wrong[..], &["--json"]].concat()).await;
    let report: Value = serde_json::from_str(&said).expect("one document");
    assert_eq!(report["exit_code"], 1);
    assert_eq!(report["problem"]["errors"][0]["field"], "url", "{report}");

    let stranger = Shell::at(&stack.api, KEY);
    let said = stranger.fails(1, &["keys", "list"]).await;
    assert!(
        said.contains("unauthenticated") && said.contains("next: set ZYVEN_API_KEY"),
        "{said}"
    );
}

#[tokio::test]
async fn who_cannot_reach_a_server_hears_how_to_start_one() {
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let said = Shell::at(&nowhere, KEY).fails(3, &["events", "tail"]).await;
    for part in [nowhere.as_str(), "make up", "ZYVEN_API_URL", "--api-url"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    // The option beats the setting.
    let elsewhere = Shell::at("http://127.0.0.1:1", KEY);
    let said = elsewhere
        .fails(3, &["keys", "list", "--api-url", &nowhere])
        .await;
    assert!(said.contains(&nowhere), "{said}");
}

#[tokio::test]
async fn wrong_settings_are_64_and_wrong_arguments_2() {
    let said = Binary::find().run(["keys", "list"], PATIENCE).await;
    assert_eq!(said.status.code(), Some(64), "{said:?}");
    assert!(
        said.stderr.contains("ZYVEN_API_KEY must be set"),
        "{said:?}"
    );
    let said = Shell::at("nowhere", "zyk_x")
        .fails(64, &["keys", "list"])
        .await;
    assert!(
        said.contains("ZYVEN_API_URL must be") && said.contains("ZYVEN_API_KEY: "),
        "{said}"
    );

    let shell = Shell::at("http://127.0.0.1:1", KEY);
    for arguments in [
        &["events"][..],
        &["events", "get", "dlv_0"],
        &["events", "send", "a"],
        &[
            "events",
            "send",
            "a",
            "--payload",
            "1",
            "--payload-file",
            "-",
        ],
        &["events", "send", "a", "--payload", "{"],
        &["events", "send", "a", "--payload-file", "/nowhere"],
        &["deliveries", "list", "--status", "LOST"],
        &["deliveries", "list", "--since", "yesterday"],
        &["deliveries", "list", "--limit", "0"],
        &[
            "deliveries",
            "replay",
            "dlv_00000000000000000000000000000000",
        ],
        &["keys", "create", "name", "--scope", "everything"],
        &["listen", "--forward", "localhost:3000"],
        &["completions", "clay-tablet"],
    ] {
        shell.fails(2, arguments).await;
    }
}

/// The other side of the wire, played by a script.
#[tokio::test]
async fn a_server_that_fails_is_4_and_one_that_is_no_zyven_is_named() {
    let server = Receiver::start().await;
    let shell = Shell::at(&server.url(""), KEY);
    let problem = json!({ "code": "overloaded", "status": 503, "detail": "Too much." });
    server.answer(Answer::status(503).body(problem.to_string()));
    let said = shell.fails(4, &["keys", "list"]).await;
    assert!(
        said.contains("503 overloaded: Too much.") && said.contains("next: wait"),
        "{said}"
    );
    server.answer(Answer::status(404).body("<html>"));
    let said = shell.fails(1, &["keys", "list"]).await;
    assert!(said.contains("no Zyven answers like this"), "{said}");
    server.answer(Answer::status(200).body("<html>"));
    let said = shell.fails(1, &["keys", "list"]).await;
    assert!(said.contains("that is no Zyven API"), "{said}");
    let request = &server.requests()[0];
    assert_eq!(request.header("authorization"), format!("Bearer {KEY}"));
}

#[tokio::test]
async fn explain_shows_whatever_the_server_says_or_that_it_says_nothing() {
    let server = Receiver::start().await;
    let shell = Shell::at(&server.url(""), KEY);
    let explain = ["events", "explain", EVENT];
    let path = format!("/v1/events/{EVENT}");
    let unknown =
        json!({ "code": "not_found", "status": 404, "detail": "There is no such route." });
    server.answer(Answer::status(404).body(unknown.to_string()));
    let said = shell.fails(1, &explain).await;
    assert!(
        said.contains("not_found") && !said.contains("cannot explain"),
        "no such event: {said}"
    );
    server.answer_at(&path, Answer::status(200).body("{}"));
    let said = shell.fails(1, &explain).await;
    assert!(
        said.contains("cannot explain: it is older than this program"),
        "{said}"
    );

    let explanation = json!({
        "event": EVENT,
        "next_cursor": null,
        "data": [
            { "endpoint": "ep_1", "matched": false, "code": "type", "sentence": "It wants other types." },
            { "endpoint": "ep_2", "matched": true, "sentence": "It waits.", "new_member": [{ "deep": 7 }],
              "attempts": [{ "number": 1, "http_status": 503 }] },
        ],
    });
    let whole = Answer::status(200).body(explanation.to_string());
    let pages = [(0, json!("ep_1")), (1, Value::Null)].map(|(row, next_cursor)| {
        let page = json!({ "event": EVENT, "data": [explanation["data"][row]], "next_cursor": next_cursor });
        Answer::status(200).body(page.to_string())
    });
    let path = format!("{path}/explain");
    server.answer_at(&path, whole.clone());
    server.answer_in_turn(&path, pages);
    assert_eq!(shell.json(&explain).await, explanation);
    let asked = server.requests_at(&path);
    let asked = asked.last().and_then(|request| request.query.clone());
    assert_eq!(asked.as_deref(), Some("limit=49&cursor=ep_1"));
    let said = shell.ok(&[&explain[..], &["--details"]].concat()).await;
    for part in [
        "It wants other types.",
        "It waits.",
        "new_member",
        "deep  7",
        "503",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let delivery = "dlv_0199f2c6d1a88f10b2c4d6e8f0a1b3c5";
    server.answer_at(&format!("/v1/deliveries/{delivery}/explain"), whole);
    assert_eq!(
        shell.json(&["deliveries", "explain", delivery]).await,
        explanation
    );
}

#[tokio::test]
async fn colours_are_for_terminals_and_never_with_no_color() {
    let shell = Shell::at("http://127.0.0.1:1", KEY).with("CLICOLOR_FORCE", "1");
    let run = |shell: Shell| async move { shell.run_any(&["keys", "list"]).await.stderr };
    assert!(
        run(shell).await.contains("\u{1b}["),
        "where they are forced"
    );
    let shell = Shell::at("http://127.0.0.1:1", KEY).with("CLICOLOR_FORCE", "1");
    let plain = run(shell.with("NO_COLOR", "1")).await;
    assert!(
        plain.contains("error: ") && !plain.contains('\u{1b}'),
        "{plain}"
    );
}

#[tokio::test]
async fn verify_takes_what_was_signed_and_says_what_is_wrong_with_the_rest() {
    use zyven_domain::signature::{SigningKey, SigningSecret, sign};
    let Ok(secret) = SigningSecret::parse(SECRET) else {
        panic!("not a secret");
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = i64::try_from(now.expect("after 1970").as_secs()).expect("small");
    let folder = std::env::temp_dir();
    let path = |name: &str| folder.join(format!("zyven-verify-{}-{name}", std::process::id()));
    let (body, longer, key) = (path("body"), path("longer"), path("secret"));
    std::fs::write(&body, "{\"a\": 1}").expect("a file");
    std::fs::write(&longer, "{\"a\": 1}\n").expect("a file");
    std::fs::write(&key, format!("{SECRET}\n")).expect("a file");
    let signature = |timestamp| sign(&[SigningKey::new(&secret)], EVENT, timestamp, b"{\"a\": 1}");
    let arguments = |body: &std::path::Path, timestamp: i64, signature: &str| {
        let options = [("--id", EVENT), ("--signature", signature)];
        let mut arguments = vec!["verify".to_owned(), body.display().to_string()];
        arguments.push(format!("--timestamp={timestamp}"));
        arguments.extend(options.map(|(name, value)| format!("{name}={value}")));
        arguments
    };
    let shell = Binary::find().with("ZYVEN_SECRET", SECRET);
    let good = arguments(&body, now, &signature(now));
    let said = shell.run(&good, PATIENCE).await.expect_success();
    assert!(said.starts_with("verified"), "{said}");
    let piped = shell.clone().reading(&body);
    let from_stdin: Vec<String> = good
        .iter()
        .filter(|a| **a != body.display().to_string())
        .cloned()
        .collect();
    assert!(
        piped
            .run(&from_stdin, PATIENCE)
            .await
            .expect_success()
            .starts_with("verified")
    );
    let by_file = [
        good.clone(),
        vec![format!("--secret-file={}", key.display())],
    ]
    .concat();
    let said = Binary::find().run(&by_file, PATIENCE).await;
    assert!(said.expect_success().starts_with("verified"));

    let old = now - 301;
    for (arguments, reason) in [
        (
            arguments(&longer, now, &signature(now)),
            "ends with a line break",
        ),
        (arguments(&body, now + 1, &signature(now)), "raw bytes"),
        (arguments(&body, now, "v1a,AAAA"), "no v1 signature"),
        (arguments(&body, now, "v1,abc"), "no complete v1 signature"),
        (arguments(&body, old, &signature(old)), "timestamp is 30"),
    ] {
        let refused = shell.run(&arguments, PATIENCE).await;
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(refused.stderr.contains(reason), "{reason}: {refused:?}");
        let json = [arguments, vec!["--json".to_owned()]].concat();
        let refused = shell.run(&json, PATIENCE).await;
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        let verdict: Value = serde_json::from_str(&refused.stdout).expect("one document");
        assert_eq!(verdict["verified"], false);
        assert!(
            verdict["reason"]
                .as_str()
                .is_some_and(|text| text.contains(reason)),
            "{verdict}"
        );
    }
    let old = [
        arguments(&body, old, &signature(old)),
        vec!["--tolerance=1h".to_owned()],
    ]
    .concat();
    let said = shell.run(&old, PATIENCE).await;
    assert!(said.expect_success().starts_with("verified"));
    let missing = Binary::find().run(&good, PATIENCE).await;
    assert_eq!(missing.status.code(), Some(2), "{missing:?}");
    assert!(missing.stderr.contains("ZYVEN_SECRET"), "{missing:?}");
}

#[tokio::test]
async fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = Binary::find().run(["completions", shell], PATIENCE).await;
        let script = script.expect_success();
        for command in ["dead-letters", "listen", "bench", "--forward"] {
            let command = command.trim_start_matches("--");
            assert!(script.contains(command), "{command} in those for {shell}");
        }
    }
}

#[tokio::test]
async fn the_help_of_each_command_says_what_its_exit_codes_mean() {
    let codes = [
        "0 done",
        "1 refused",
        "2 wrong arguments",
        "3 not reachable",
        "4 the server failed",
        "64 wrong configuration",
    ];
    for command in [
        &["events"][..],
        &["events", "send"],
        &["endpoints", "secrets"],
        &["listen"],
        &["verify"],
        &["bench"],
    ] {
        let help = [command, &["--help"]].concat();
        let help = Binary::find().run(help, PATIENCE).await.expect_success();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for code in codes {
            assert!(help.contains(code), "{code} of {command:?} in {help}");
        }
    }
}

#[tokio::test]
async fn an_api_behind_tls_is_used_if_this_machine_trusts_its_certificate() {
    let ca = TestCa::new();
    let server = Receiver::start_tls(&ca, &["127.0.0.1"]).await;
    let empty = json!({ "data": [], "next_cursor": null });
    server.answer(Answer::status(200).body(empty.to_string()));
    let trusted = |ca: &TestCa, name: &str| {
        let file = format!("zyven-cli-{name}-{}.pem", std::process::id());
        let file = std::env::temp_dir().join(file);
        std::fs::write(&file, ca.certificate_pem()).expect("a file");
        let file = file.to_str().expect("UTF-8");
        Shell::at(&server.url(""), KEY).with("SSL_CERT_FILE", file)
    };
    assert_eq!(trusted(&ca, "it").json(&["keys", "list"]).await, empty);
    let said = trusted(&TestCa::new(), "another")
        .fails(3, &["keys", "list"])
        .await;
    assert!(
        said.contains("cannot be reached") && said.contains("invalid peer certificate"),
        "{said}"
    );
    assert_eq!(server.request_count(), 1, "no key is sent to a stranger");
}
