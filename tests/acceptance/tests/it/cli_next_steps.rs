//! What the commands for developers advise: each failure has one document, one exit code and a next step that works.

use serde_json::{Value, json};
use zyven_testkit::{Answer, Receiver};

use crate::cli::{Shell, text};
use crate::stack::{Spread, Stack, free_port};

/// Written as a key, and nobody's.
const KEY: &str = "zyk_00010203040506ff_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const EVENT: &str = "evt_0199f2c6d1a87b3e9c5f2d4a6b8e0c1d";
const DELIVERY: &str = "dlv_0199f2c6d1a88f10b2c4d6e8f0a1b3c5";

/// The one document on standard error.
fn report(said: &str) -> Value {
    serde_json::from_str(said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[tokio::test]
async fn wrong_arguments_are_one_document_as_well() {
    let shell = Shell::at("http://127.0.0.1:1", KEY);
    for (arguments, usage) in [
        (&["events", "get", "--json"][..], "Usage: zyven events get"),
        (&["verify", "--json"], "Usage: zyven verify"),
        (&["listen", "--json"], "Usage: zyven listen"),
        (&["events", "--json"], "Usage: zyven events"),
        (&["bench", "--loudly", "--json"], "Usage: zyven bench"),
        (
            &["keys", "list", "--limit", "0", "--json"],
            "Usage: zyven keys list",
        ),
    ] {
        let report = report(&shell.fails(2, arguments).await);
        assert_eq!(report["exit_code"], 2, "{report}");
        for null in ["problem", "request_id"] {
            assert_eq!(report[null], Value::Null, "{report}");
        }
        assert!(text(&report, "next_step").starts_with(usage), "{report}");
        let error = text(&report, "error");
        assert!(
            !error.is_empty() && !error.contains("Usage") && !error.contains("--help"),
            "{report}"
        );
    }
    let payload = ["events", "send", "a", "--payload", "{", "--json"];
    let report = report(&shell.fails(2, &payload).await);
    assert!(text(&report, "error").contains("not JSON"), "{report}");
    assert!(text(&report, "next_step").contains("--payload"), "{report}");
    // Services and operators' commands are told as before.
    let said = shell.fails(2, &["migrate", "--loudly", "--json"]).await;
    assert!(
        said.starts_with("error: ") && said.contains("Usage:"),
        "{said}"
    );
}

#[tokio::test]
async fn an_id_of_another_kind_leads_to_the_command_that_takes_it() {
    let shell = Shell::at("http://127.0.0.1:1", KEY);
    let endpoint = "ep_0199f2c6d1a88f10b2c4d6e8f0a1b3c5";
    for (arguments, next) in [
        (
            &["deliveries", "attempts", EVENT][..],
            format!("events get {EVENT}"),
        ),
        (
            &["events", "get", DELIVERY],
            format!("deliveries get {DELIVERY}"),
        ),
        (
            &["events", "explain", DELIVERY],
            format!("deliveries explain {DELIVERY}"),
        ),
        (
            &["deliveries", "explain", EVENT],
            format!("events explain {EVENT}"),
        ),
        (
            &["deliveries", "explain", endpoint],
            format!("endpoints get {endpoint}"),
        ),
        (
            &["deliveries", "list", "--endpoint", EVENT],
            format!("events get {EVENT}"),
        ),
    ] {
        let said = shell.fails(2, arguments).await;
        assert!(said.ends_with(&format!("next: zyven {next}\n")), "{said}");
        let report = report(&shell.fails(2, &[arguments, &["--json"]].concat()).await);
        assert_eq!(report["next_step"], format!("zyven {next}"), "{report}");
    }
    let said = shell.fails(2, &["events", "get", "evt_0"]).await;
    assert!(!said.contains("next: "), "no id at all: {said}");
}

#[tokio::test]
async fn an_argument_that_is_no_such_number_hears_the_rule() {
    let shell = Shell::at("http://127.0.0.1:1", KEY);
    let verify = [
        "verify",
        "--id",
        EVENT,
        "--signature",
        "v1,x",
        "--timestamp",
    ];
    let dated = [&verify[..], &["2026-01-31T12:00:00Z"]].concat();
    let url = "https://receiver.example.com";
    let replay = ["dead-letters", "replay", "--reason", "r"];
    for (arguments, rule) in [
        (dated, "must be seconds since 1970"),
        (
            vec!["endpoints", "create", url, "--timeout-ms", "abc"],
            "must be a whole number",
        ),
        (
            vec!["keys", "list", "--limit", "10001"],
            "must be a whole number from 1 to 10000",
        ),
        (
            [&replay[..], &["--rate", "fast"]].concat(),
            "must be a whole number from 1 to 10000",
        ),
        (
            vec!["events", "tail", "--count", "0"],
            "must be a whole number, at least 1",
        ),
        (
            vec!["dead-letters", "progress", "first"],
            "must be a replay's number",
        ),
        (
            vec!["bench", "--rounds", "0"],
            "must be a whole number from 1 to 1000",
        ),
        (
            vec!["bench", "--connections", "many"],
            "must be a whole number from 1 to 10000",
        ),
    ] {
        let said = shell.fails(2, &arguments).await;
        assert!(said.contains(rule), "{rule} for {arguments:?} in {said}");
        assert!(!said.contains("invalid digit"), "{said}");
    }
}

#[tokio::test]
async fn a_refusal_names_the_request_for_whoever_looks_into_the_log() {
    let server = Receiver::start().await;
    let shell = Shell::at(&server.url(""), KEY);
    let problem =
        json!({ "code": "not_found", "status": 404, "detail": "There is no such event." });
    let answer = Answer::status(404).header("x-request-id", "r-1");
    server.answer(answer.body(problem.to_string()));
    let get = ["events", "get", EVENT];
    let said = shell.fails(1, &get).await;
    assert!(said.contains("\nrequest: r-1\nnext: "), "{said}");
    let report = report(&shell.fails(1, &[&get[..], &["--json"]].concat()).await);
    assert_eq!(report["request_id"], "r-1", "{report}");
    assert_eq!(report["problem"], problem);
}

#[tokio::test]
async fn an_event_without_an_answer_can_be_sent_again_with_its_key() {
    let server = Receiver::start().await;
    let shell = Shell::at(&server.url(""), KEY);
    let send = ["events", "send", "a", "--payload", "1"];
    let unavailable = json!({ "code": "unavailable", "status": 503, "detail": "Unknown." });
    for (answer, code) in [
        (Answer::close(), 3),
        (Answer::status(503).body(unavailable.to_string()), 4),
    ] {
        server.answer(answer);
        server.forget_requests();
        let said = shell.fails(code, &send).await;
        let sent: Value = serde_json::from_slice(&server.requests()[0].body).expect("JSON");
        let key = text(&sent, "idempotency_key");
        assert!(key.starts_with("cli-"), "{sent}");
        let next = format!("repeat the command with --idempotency-key {key}");
        assert!(said.contains(&next), "{next} in {said}");
    }
    // A refusal leaves nothing open.
    let invalid = json!({ "code": "invalid", "status": 422, "detail": "type is wrong." });
    server.answer(Answer::status(422).body(invalid.to_string()));
    let said = shell.fails(1, &send).await;
    assert!(!said.contains("idempotency-key"), "{said}");
}

#[tokio::test]
async fn an_explanation_is_a_table_and_details_of_what_matched() {
    let server = Receiver::start().await;
    let shell = Shell::at(&server.url(""), KEY);
    let [late, other, wanted] =
        [1, 2, 3].map(|number| format!("ep_0199f2c6d1a88f10b2c4d6e8f0a1b3c{number}"));
    let item = |id: &str, code: &str, sentence: &str| {
        json!({ "endpoint": id, "url": "https://a.example.com", "matched": code == "matched", "code": code,
                "sentence": sentence, "delivery": null })
    };
    let mut matched = item(&wanted, "matched", "It was routed.");
    matched["delivery"] = json!({ "id": DELIVERY, "status": "RETRY_SCHEDULED", "next_attempt_at": "2026-11-29T02:00:26.176136168Z",
                                  "lease": { "until": "2026-11-29T02:00:26.176136168Z" } });
    let items = [
        item(&late, "created_later", "It came later."),
        item(&other, "event_type", "It wants others."),
        matched.clone(),
    ];
    let page = |data: &[Value]| {
        let page = json!({ "event": { "id": EVENT }, "queue": "known", "data": data, "next_cursor": null });
        Answer::status(200).body(page.to_string())
    };
    let path = format!("/v1/events/{EVENT}/explain");
    server.answer_at(&path, page(&items));
    let explain = ["events", "explain", EVENT];
    let finished = shell.run(&explain).await;
    let said = &finished.stdout;
    let at = |part: &str| {
        said.find(part)
            .unwrap_or_else(|| panic!("{part} in {said}"))
    };
    assert!(at("ENDPOINT") < at(&other) && at(&other) < at(&wanted) && at(&wanted) < at(&late));
    assert!(at("RETRY_SCHEDULED") < at("It was routed."), "{said}");
    assert!(!said.contains("It wants others."), "{said}");
    assert!(finished.stderr.contains("--details"), "{finished:?}");
    assert!(
        said.contains("2026-11-29T02:00:26.176136Z") && !said.contains("176136168"),
        "{said}"
    );
    let whole = shell.ok(&["events", "explain", EVENT, "--details"]).await;
    assert!(
        whole.contains("It wants others.") && whole.contains("It came later."),
        "{whole}"
    );

    server.answer_at(&path, page(&items[1..2]));
    let one = ["events", "explain", EVENT, "--endpoint", &other];
    assert!(shell.ok(&one).await.contains("It wants others."));
    let asked = server
        .requests_at(&path)
        .last()
        .and_then(|request| request.query.clone());
    assert_eq!(
        asked,
        Some(format!("limit=1&cursor={late}")),
        "behind the id before"
    );
    assert_eq!(shell.json(&one).await["data"], json!([items[1]]));
    let nobody = ["events", "explain", EVENT, "--endpoint", &wanted];
    let said = shell.fails(1, &nobody).await;
    assert!(
        said.contains("no such endpoint") && said.contains("zyven endpoints list"),
        "{said}"
    );
}

#[tokio::test]
async fn the_bench_fails_as_every_client_does() {
    let bench = ["bench", "--stack-dir=none", "--events=1"];
    let json = [&bench[..], &["--json"]].concat();
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let away = Shell::at(&nowhere, KEY);
    let said = away.fails(3, &bench).await;
    assert!(said.contains(&nowhere) && said.contains("next: "), "{said}");
    assert_eq!(report(&away.fails(3, &json).await)["exit_code"], 3);

    let server = Receiver::start().await;
    let problem = json!({ "code": "unauthenticated", "status": 401, "detail": "No." });
    let answer = Answer::status(401).header("x-request-id", "r-2");
    server.answer(answer.body(problem.to_string()));
    let stranger = Shell::at(&server.url(""), KEY);
    let said = stranger.fails(1, &bench).await;
    for part in [
        "POST /v1/endpoints was answered 401 unauthenticated",
        "request: r-2",
        "next: set ZYVEN_API_KEY",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let report = report(&stranger.fails(1, &json).await);
    assert_eq!(report["problem"], problem);

    // A key on a command line could be read by everybody on this machine.
    let with_key = [&bench[..], &["--api-key", KEY]].concat();
    stranger.fails(2, &with_key).await;
    let said = Shell::at("https://127.0.0.1:1", KEY).fails(2, &bench).await;
    assert!(said.contains("must be written as http://"), "{said}");
}

#[tokio::test]
async fn dead_letters_are_listed_page_by_page_and_may_die_again() {
    let stack = Stack::start(Spread::OneProcess).await;
    let shell = Shell::on(&stack);
    let endpoint = stack.endpoint("/hook", json!({})).await;
    let endpoint = text(&endpoint, "id");
    stack.receiver.answer(Answer::status(400));
    for number in 0..3 {
        let event = stack.publish("a", json!(number)).await;
        stack.wait_for_state(&event, "DEAD_LETTERED").await;
    }
    let list = [
        "dead-letters",
        "list",
        "--dead-reason",
        "rejected",
        "--limit",
        "2",
    ];
    let table = shell.run(&list).await;
    let first = shell.json(&list).await;
    let cursor = text(&first, "next_cursor");
    assert!(
        table.stderr.contains(&format!("more: --cursor {cursor}")),
        "{table:?}"
    );
    let rest = shell
        .json(&[&list[..], &["--cursor", cursor]].concat())
        .await;
    assert_eq!(rest["data"].as_array().map(Vec::len), Some(1), "{rest}");
    assert_eq!(rest["next_cursor"], Value::Null);
    let typo = ["dead-letters", "list", "--dead-reason", "attempt_exhausted"];
    let said = shell.fails(1, &typo).await;
    assert!(
        said.contains("dead_reason must be one of attempts_exhausted,"),
        "{said}"
    );

    let strange = "dlv_00000000000070008000000000000000";
    let one = text(&rest["data"][0], "id");
    let chosen = [
        "dead-letters",
        "replay",
        one,
        strange,
        "--reason",
        "r",
        "--yes",
        "--json",
    ];
    let again = shell.run(&chosen).await;
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    let told: Value = serde_json::from_str(&again.stdout).expect("one document");
    assert_eq!(told["dead_lettered"], 1, "{told}");
    assert_eq!(told["refused"][0]["delivery"], strange, "{told}");
    assert_eq!(report(&again.stderr)["error"], "1 of 1 were given up again");
    let all = [
        "dead-letters",
        "replay",
        "--endpoint",
        endpoint,
        "--reason",
        "r",
        "--yes",
        "--rate",
        "1000",
    ];
    let said = shell.fails(1, &all).await;
    let next = format!("next: `zyven dead-letters list --endpoint {endpoint}`");
    assert!(
        said.contains("3 of 3 were given up again") && said.contains(&next),
        "{said}"
    );
    let progress = ["dead-letters", "progress", &told["id"].to_string()];
    shell.ok(&progress).await;
    shell.fails(1, &[&progress[..], &["--wait"]].concat()).await;
    stack.assert_settled().await;
}

#[tokio::test]
async fn what_a_key_or_a_view_link_may_is_shown_to_itself() {
    let stack = Stack::start(Spread::OneProcess).await;
    let shell = Shell::on(&stack);
    let current = shell.json(&["keys", "current"]).await;
    let tenant = text(&current, "tenant");
    assert!(tenant.starts_with("ten_"), "{current}");
    let said = shell.ok(&["keys", "current"]).await;
    assert!(
        said.contains(tenant) && said.contains("publish read manage replay"),
        "{said}"
    );

    let link = [
        "keys",
        "view-link",
        "--console",
        "https://console.example.com/",
    ];
    let made = shell.json(&link).await;
    let token = text(&made, "token");
    assert_eq!(
        made["url"],
        format!("https://console.example.com/embed#token={token}")
    );
    let viewer = Shell::at(&stack.api, token);
    let viewed = viewer.json(&["keys", "current"]).await;
    assert_eq!(
        (&viewed["tenant"], &viewed["scopes"]),
        (&json!(tenant), &json!(["read"]))
    );
    viewer.ok(&["deliveries", "list"]).await;
    let said = viewer
        .fails(1, &["events", "send", "a", "--payload", "1"])
        .await;
    assert!(said.contains("scope_missing"), "{said}");
    let said = Shell::at(&stack.api, "zyx_1")
        .fails(64, &["keys", "list"])
        .await;
    assert!(
        said.contains("neither an API key (zyk_…) nor a view link (zyv_…)")
            && said.contains("next: "),
        "{said}"
    );
}

#[tokio::test]
async fn what_keeps_an_endpoint_from_its_events_is_named() {
    let stack = Stack::start(Spread::OneProcess).await;
    let shell = Shell::on(&stack);
    let endpoint = stack.endpoint("/hook", json!({})).await;
    let id = text(&endpoint, "id");
    let near = ["endpoints", "create", "http://localhost:3000/hooks"];
    let said = shell.fails(1, &near).await;
    assert!(
        said.contains("zyven listen --forward http://localhost:3000/hooks"),
        "{said}"
    );
    assert!(!said.contains("\n  url "), "once is enough: {said}");

    shell.ok(&["endpoints", "pause", id]).await;
    let waits = shell.run(&["endpoints", "test", id]).await;
    assert!(
        waits
            .stdout
            .ends_with("waits, because the endpoint is paused\n"),
        "{waits:?}"
    );
    let resume = format!("next: zyven endpoints resume {id}");
    assert!(waits.stderr.contains(&resume), "{waits:?}");
    let said = shell.fails(1, &["endpoints", "test", id, "--wait"]).await;
    assert!(
        said.contains("is paused") && said.contains(&resume),
        "{said}"
    );
    shell.ok(&["endpoints", "disable", id]).await;
    let enabled = shell.run(&["endpoints", "enable", id]).await;
    assert!(
        enabled.stdout.ends_with("is paused\n") && enabled.stderr.contains(&resume),
        "{enabled:?}"
    );
    shell.ok(&["endpoints", "disable", id]).await;
    let resumed = shell.run(&["endpoints", "resume", id]).await;
    assert_eq!(resumed.stdout, format!("{id} is disabled\n"));
    assert_eq!(
        resumed.stderr,
        format!("next: zyven endpoints enable {id}\n")
    );

    let seen = shell.ok(&["endpoints", "get", id]).await;
    let version = seen
        .lines()
        .find_map(|line| line.strip_prefix("version (ETag)"));
    let version = version
        .unwrap_or_else(|| panic!("no version in {seen}"))
        .trim();
    let change = [
        "endpoints",
        "update",
        id,
        "--description",
        "x",
        "--if-match",
        version,
    ];
    shell.ok(&change).await;
    let delete = ["endpoints", "delete", id, "--yes", "--if-match"];
    for stale in [&change[..], &[&delete[..], &[version]].concat()] {
        let said = shell.fails(1, stale).await;
        assert!(
            said.contains("412 precondition_failed") && said.contains("next: `zyven endpoints get"),
            "{said}"
        );
    }
    shell.fails(2, &[&delete[..], &["a,b"]].concat()).await;
    let seen = shell.ok(&["endpoints", "get", id]).await;
    let version = seen
        .lines()
        .find_map(|line| line.strip_prefix("version (ETag)"));
    // With the quotation marks of the header as well.
    let quoted = format!("\"{}\"", version.expect("a version").trim());
    shell.ok(&[&delete[..], &[&quoted]].concat()).await;
}
