//! sql/roles.sql: each service has what it needs, and nothing else.

use std::process::Command;

use serde_json::json;
use zyven_testkit::{Answer, Postgres, wait_until};

use crate::operating::{psql, said};
use crate::stack::{PATIENCE, Spread, Stack};

const SERVICES: [&str; 3] = ["ingest", "relay", "dispatcher"];
const PASSWORD: &str = "a-password-of-the-test";

/// What psql makes of this as this role: all it said, whether it succeeded or not.
fn as_role(stack: &Stack, role: &str, sql: &str) -> String {
    let output = Command::new(psql())
        .args(["-XAt", "-v", "ON_ERROR_STOP=1"])
        .arg(url_of(stack, role))
        .args(["-c", sql])
        .output()
        .expect("psql runs");
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat())
        .trim()
        .to_owned()
}

fn url_of(stack: &Stack, role: &str) -> String {
    let url = stack.database.url();
    let (_, place) = url.split_once('@').expect("a URL with a user");
    format!("postgres://{role}:{PASSWORD}@{place}")
}

/// Everything in sql/operator, as an operator would; what changes many rows as a dry run.
fn run_every_script(stack: &Stack, tenant: &str, endpoint: &str) {
    let folder = format!("{}/../../sql/operator", env!("CARGO_MANIFEST_DIR"));
    let delivery = as_role(
        stack,
        "zyven_operator",
        "SELECT delivery FROM zyven.dead_letters",
    );
    // Of nothing, so that the scripts find what they are asked for.
    let replay = as_role(
        stack,
        "zyven_operator",
        "SELECT replay_id FROM zyven.replay_chosen(ARRAY[zyven.typed_id('dlv', zyven.uuid_v7())], 'a test', dry_run => false)",
    );
    let mut scripts = 0;
    for entry in std::fs::read_dir(folder).expect("the scripts").flatten() {
        let path = entry.path();
        let name = path
            .file_stem()
            .and_then(|name| name.to_str())
            .unwrap_or("");
        // A test of its own replays, with the same function.
        if name == "replay" {
            continue;
        }
        scripts += 1;
        let output = Command::new(psql())
            .args(["-X", "-v", "reason=a test", "-v", "since=-infinity"])
            .args(["-v", "events=50", "-v", "requests=default"])
            .args(["-v", &format!("tenant={tenant}")])
            .args(["-v", &format!("endpoint={endpoint}")])
            .args(["-v", &format!("delivery={delivery}")])
            .args(["-v", &format!("deliveries={delivery}")])
            .args(["-v", &format!("what={delivery}")])
            .args(["-v", &format!("replay={replay}")])
            .arg(url_of(stack, "zyven_operator"))
            .arg("-f")
            .arg(&path)
            .output()
            .expect("psql runs");
        let said = said(&output);
        assert!(!said.contains("ERROR"), "{name}:\n{said}");
    }
    assert!(scripts > 10, "only {scripts}");
}

/// Applies the script twice, as upgrades do, and lets every role log in.
async fn apply_roles(stack: &Stack) {
    let file = format!("{}/../../sql/roles.sql", env!("CARGO_MANIFEST_DIR"));
    for _ in 0..2 {
        let output = Command::new(psql())
            .arg("-X")
            .arg(stack.database.url())
            .args(["-f", &file])
            .output()
            .expect("psql runs");
        let _ = said(&output);
    }
    let sql = stack.database.client().await;
    for role in ["ingest", "relay", "dispatcher", "operator", "publisher"] {
        sql.batch_execute(&format!(
            "ALTER ROLE zyven_{role} LOGIN PASSWORD '{PASSWORD}'"
        ))
        .await
        .expect("the owner of the server may");
    }
}

/// A stack whose services are connected as themselves, on a server of its own: roles belong to a whole server.
pub(crate) async fn stack_with_roles() -> (Stack, Postgres) {
    let server = Postgres::private().await;
    let mut stack = Stack::start_on(
        server.database().await,
        Spread::ProcessEach,
        &[("ZYVEN_RELAY_MAINTENANCE_CRON", "* * * * * *")],
    )
    .await;
    apply_roles(&stack).await;
    let as_owner = stack.binary.clone();
    for service in SERVICES {
        drop(stack.take_process(service));
        stack.binary = as_owner.clone().with(
            "ZYVEN_DATABASE_URL",
            url_of(&stack, &format!("zyven_{service}")),
        );
        stack.start_service(service);
    }
    stack.binary = as_owner;
    for service in SERVICES {
        stack.wait_until_ready(service).await;
    }
    (stack, server)
}

/// Everything a tenant can do with its endpoints, keys and types.
async fn use_the_whole_api(stack: &Stack) {
    let endpoint = stack.endpoint("/managed", json!({})).await;
    let endpoint = format!("/v1/endpoints/{}", endpoint["id"].as_str().expect("an id"));
    let under = |path: &str| format!("{endpoint}{path}");
    let (status, key) = stack
        .call(
            "POST",
            "/v1/api-keys",
            Some(json!({ "name": "another", "scopes": ["read"] })),
        )
        .await;
    assert_eq!(status, 201, "{key}");
    let key = format!("/v1/api-keys/{}", key["id"].as_str().expect("an id"));
    let steps = [
        (
            "PATCH",
            endpoint.clone(),
            Some(json!({ "description": "changed", "event_types": ["managed"] })),
        ),
        (
            "PATCH",
            endpoint.clone(),
            Some(json!({ "headers": { "x-own": "value" } })),
        ),
        ("GET", under("/secret"), None),
        ("POST", under("/rotate-secret"), Some(json!({}))),
        ("POST", under("/pause"), None),
        ("POST", under("/resume"), None),
        ("POST", under("/disable"), None),
        ("POST", under("/enable"), None),
        ("POST", under("/test"), None),
        ("GET", "/v1/endpoints".to_owned(), None),
        (
            "POST",
            "/v1/event-types".to_owned(),
            Some(
                json!({ "name": "typed", "schema_mode": "reject", "schema": { "type": "object" } }),
            ),
        ),
        (
            "PATCH",
            "/v1/event-types/typed".to_owned(),
            Some(json!({ "description": "changed" })),
        ),
        ("GET", "/v1/event-types".to_owned(), None),
        ("GET", "/v1/api-keys".to_owned(), None),
        ("POST", "/v1/view-links".to_owned(), Some(json!({}))),
        ("DELETE", key, None),
        ("GET", "/v1/audit-log".to_owned(), None),
        ("GET", "/v1/deliveries".to_owned(), None),
        ("GET", "/v1/events".to_owned(), None),
        ("DELETE", endpoint.clone(), None),
    ];
    for (method, path, body) in steps {
        let (status, answer) = stack.call(method, &path, body).await;
        assert!(status < 300, "{method} {path}: {status} {answer}");
    }
}

#[tokio::test]
async fn every_service_works_with_its_own_role() {
    let (mut stack, _server) = stack_with_roles().await;
    use_the_whole_api(&stack).await;
    stack
        .endpoint("/hook", json!({ "retry_base_ms": 50 }))
        .await;
    // Fails, then succeeds; is refused, then replayed; is cancelled while it waits; says that it is gone.
    stack
        .receiver
        .answer_in_turn("/hook", [Answer::status(500), Answer::status(400)]);
    let retried = stack.publish("a.b", json!({ "a": 1 })).await;
    wait_until("an attempt was refused for good", PATIENCE, async || {
        let delivery = stack.delivery(&retried).await;
        if delivery.0 == "DEAD_LETTERED" {
            Ok(())
        } else {
            Err(delivery)
        }
    })
    .await;
    let (_, deliveries) = stack
        .call("GET", &format!("/v1/events/{retried}/deliveries"), None)
        .await;
    let delivery = deliveries["data"][0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let (status, answer) = stack
        .call(
            "POST",
            &format!("/v1/deliveries/{delivery}/replay"),
            Some(json!({ "reason": "the receiver was mended" })),
        )
        .await;
    assert!(status < 300, "{answer}");
    stack.wait_for_state(&retried, "DELIVERED").await;
    for what in [
        format!("events/{retried}"),
        format!("deliveries/{delivery}"),
    ] {
        let path = format!("/v1/{what}/explain");
        let (status, explained) = stack.call("GET", &path, None).await;
        assert_eq!(status, 200, "{explained}");
    }
    let (_, attempts) = stack
        .call("GET", &format!("/v1/deliveries/{delivery}/attempts"), None)
        .await;
    assert_eq!(
        attempts["data"].as_array().map(Vec::len),
        Some(3),
        "{attempts}"
    );

    stack.receiver.answer_at("/hook", Answer::status(503));
    let waiting = stack.publish("a.b", json!({ "a": 2 })).await;
    stack.wait_for_state(&waiting, "RETRY_SCHEDULED").await;
    // While an attempt is under way, the answer is 409.
    wait_until("it is cancelled", PATIENCE, async || {
        let path = format!("/v1/events/{waiting}/cancel");
        let why = json!({ "reason": "sent by mistake" });
        let (status, answer) = stack.call("POST", &path, Some(why)).await;
        if status < 300 { Ok(()) } else { Err(answer) }
    })
    .await;
    stack.receiver.answer_at("/hook", Answer::status(400));
    let refused = stack.publish("a.c", json!({ "a": 3 })).await;
    stack.wait_for_state(&refused, "DEAD_LETTERED").await;
    stack.receiver.answer_at("/hook", Answer::status(200));
    let all = json!({ "event_type": "a.c", "reason": "the receiver was mended" });
    let (status, replay) = stack.call("POST", "/v1/replays", Some(all)).await;
    assert_eq!(status, 202, "{replay}");
    let path = format!("/v1/replays/{}", replay["id"]);
    let (status, progress) = stack.call("GET", &path, None).await;
    assert_eq!((status, &progress["deliveries"]), (200, &json!(1)));
    stack.wait_for_state(&refused, "DELIVERED").await;
    stack.receiver.answer_at("/hook", Answer::status(410));
    let last = stack.publish("a.b", json!({ "a": 4 })).await;
    stack.wait_for_state(&last, "DEAD_LETTERED").await;

    stack.assert_settled().await;
    for service in SERVICES {
        let said = stack.process(service).stderr();
        assert!(!said.contains("permission denied"), "{service}:\n{said}");
        assert!(!said.contains("must be owner"), "{service}:\n{said}");
    }
}

#[tokio::test]
async fn a_role_can_do_nothing_but_its_own_work() {
    let (stack, _server) = stack_with_roles().await;
    let endpoint = stack.endpoint("/hook", json!({})).await;
    let endpoint = endpoint["id"].as_str().expect("an id");
    stack.receiver.answer(Answer::status(400));
    let event = stack.publish("a.b", json!({ "a": 1 })).await;
    stack.wait_for_state(&event, "DEAD_LETTERED").await;
    let tenant = as_role(
        &stack,
        "zyven_operator",
        "SELECT tenant FROM zyven.dead_letters",
    );
    assert!(tenant.starts_with("ten_"), "{tenant}");

    let refused = [
        ("zyven_ingest", "DELETE FROM zyven.events"),
        (
            "zyven_ingest",
            "UPDATE zyven.audit_log SET actor = 'nobody'",
        ),
        ("zyven_ingest", "UPDATE zyven.relay SET watermark = 0"),
        (
            "zyven_ingest",
            "INSERT INTO zyven.audit_log (action, subject, role) VALUES ('made.up', 'x', 'somebody')",
        ),
        ("zyven_relay", "SELECT * FROM zyven.events"),
        (
            "zyven_relay",
            "SELECT payload FROM zyven.dead_letter_records",
        ),
        (
            "zyven_dispatcher",
            "UPDATE zyven.dead_letter_records SET payload = NULL",
        ),
        ("zyven_relay", "SELECT * FROM zyven.endpoint_secrets"),
        ("zyven_relay", "DELETE FROM zyven.outbox"),
        ("zyven_dispatcher", "SELECT * FROM zyven.api_keys"),
        (
            "zyven_dispatcher",
            "INSERT INTO zyven.outbox DEFAULT VALUES",
        ),
        (
            "zyven_dispatcher",
            "UPDATE zyven.endpoints SET url = 'https://elsewhere.example'",
        ),
        ("zyven_operator", "SELECT * FROM zyven.endpoint_secrets"),
        ("zyven_operator", "SELECT secret_hash FROM zyven.api_keys"),
        ("zyven_operator", "DELETE FROM zyven.dead_letter_records"),
        (
            "zyven_operator",
            "INSERT INTO zyven.audit_log (action, subject) VALUES ('made.up', 'x')",
        ),
        ("zyven_publisher", "SELECT * FROM zyven.events"),
        ("zyven_publisher", "SELECT zyven.replay_dead_letters('why')"),
        (
            "zyven_publisher",
            "SELECT zyven.replay_chosen(ARRAY['dlv_…'], 'why')",
        ),
    ];
    for (role, sql) in refused {
        let said = as_role(&stack, role, sql);
        assert!(said.contains("permission denied"), "{role}: {sql}\n{said}");
    }

    for view in [
        "deliveries",
        "attempt_log",
        "dead_letters",
        "stuck",
        "endpoint_health",
        "backlog",
        "audit",
    ] {
        let said = as_role(
            &stack,
            "zyven_operator",
            &format!("SELECT count(*) FROM zyven.{view}"),
        );
        assert!(said.parse::<i64>().is_ok(), "{view}: {said}");
    }
    run_every_script(&stack, &tenant, endpoint);
    let operator = |sql: &str| as_role(&stack, "zyven_operator", sql);
    assert_eq!(
        operator(&format!("SELECT code FROM zyven.explain('{event}')")),
        "rejected"
    );
    let tables = operator("SELECT count(*) > 5 FROM zyven.storage()");
    assert_eq!(tables, "t");
    assert_eq!(
        operator(&format!("SELECT zyven.pause('{endpoint}')")),
        endpoint
    );
    assert_eq!(
        operator(&format!("SELECT zyven.resume('{endpoint}')")),
        endpoint
    );
    stack.receiver.answer(Answer::status(200));
    let replayed = operator(&format!(
        "SELECT deliveries FROM zyven.replay_dead_letters('mended', endpoint => '{endpoint}', dry_run => false)"
    ));
    assert_eq!(replayed, "1");
    stack.wait_for_state(&event, "DELIVERED").await;
    let progress = operator(
        "SELECT delivered FROM zyven.replay_progress((SELECT max(id) FROM zyven.replays))",
    );
    assert_eq!(progress, "1");
    // It shows as what the person was connected as, although the function runs as its owner.
    let who = operator(
        "SELECT DISTINCT role FROM zyven.audit WHERE action IN ('endpoint.pause', 'delivery.replay')",
    );
    assert_eq!(who, "zyven_operator");

    let published = as_role(
        &stack,
        "zyven_publisher",
        &format!("SELECT zyven.publish('{tenant}', 'a.b', '{{\"a\": 2}}')"),
    );
    assert!(published.starts_with("evt_"), "{published}");
    stack.wait_for_state(&published, "DELIVERED").await;
}
