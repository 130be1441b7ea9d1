//! Secrets at rest while they are in use.

use serde_json::{Value, json};
use zyven_domain::signature::{SigningKey, SigningSecret, sign};
use zyven_testkit::{Answer, Binary, Receiver, TestCa};

use crate::stack::{PATIENCE, Spread, Stack};

const OLD: &str = "old:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const NEW: &str = "new:Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";

async fn rotate(binary: &Binary, keys: &str, more: &[&str]) -> zyven_testkit::Finished {
    let arguments = [&["admin", "rotate-master-key"], more].concat();
    let binary = binary.clone().with("ZYVEN_MASTER_KEYS", keys);
    binary.run(arguments, PATIENCE).await
}

async fn restart(stack: &mut Stack, keys: &str) {
    let mut process = stack.take_process("all");
    process.terminate();
    let ended = process.ended(PATIENCE).await;
    assert!(ended.status.success(), "{ended:?}");
    stack.binary = stack.binary.clone().with("ZYVEN_MASTER_KEYS", keys);
    stack.start_service("all");
    stack.wait_until_ready("all").await;
}

#[tokio::test]
async fn master_keys_are_rotated_while_deliveries_flow_and_the_old_one_can_be_removed() {
    const EVENTS: usize = 40;
    let old_first = format!("{OLD},{NEW}");
    let new_first = format!("{NEW},{OLD}");
    let settings = [("ZYVEN_MASTER_KEYS", old_first.as_str())];
    let mut stack = Stack::start_with(Spread::OneProcess, &settings).await;
    let shared = stack.endpoint("/shared", json!({})).await;
    let more = json!({
        "signing": "ed25519",
        "headers": { "x-key": "header-secret" },
        "auth": { "type": "bearer", "token": "bearer-secret" },
    });
    stack.endpoint("/more", more).await;

    let dry = rotate(&stack.binary, &new_first, &["--dry-run"]).await;
    assert!(!dry.status.success(), "there is something to do");
    assert!(
        dry.stdout.contains("master key old: 4 envelopes"),
        "{dry:?}"
    );

    let publishing = async {
        for number in 0..EVENTS {
            stack
                .publish("invoice.paid", json!({ "number": number }))
                .await;
        }
    };
    let (rotated, ()) = tokio::join!(rotate(&stack.binary, &new_first, &[]), publishing);
    let said = rotated.expect_success();
    assert!(said.contains("master key new: 4 envelopes"), "{said}");
    assert!(said.contains("other keys may be removed"), "{said}");

    // This stack still seals with the old key; the next rotation takes up what is left.
    stack.endpoint("/late", json!({})).await;
    let check = stack.binary.run(["admin", "check"], PATIENCE).await;
    let said = check.expect_success();
    assert!(said.contains("master key old: 1 envelopes"), "{said}");
    restart(&mut stack, &new_first).await;
    let rest = rotate(&stack.binary, &new_first, &[]).await;
    assert!(
        rest.stderr.contains("pass 1: 1 envelopes sealed anew"),
        "{rest:?}"
    );
    assert!(!rest.expect_success().contains("master key old"));

    restart(&mut stack, NEW).await;
    let last = stack
        .publish("invoice.paid", json!({ "number": EVENTS }))
        .await;
    stack
        .receiver
        .wait_for_requests(2 * EVENTS + 3, PATIENCE)
        .await;
    stack.assert_settled().await;
    let sql = stack.database.client().await;
    let row = sql
        .query_one(
            "SELECT count(*), max(attempts) FROM zyven.deliveries WHERE state = 'DELIVERED'",
            &[],
        )
        .await
        .expect("a count");
    let (delivered, attempts): (i64, i32) = (row.get(0), row.get(1));
    assert_eq!((delivered, attempts), (2 * EVENTS as i64 + 3, 1), "{last}");
    // Whoever works with the command line is in the audit log, too: for each secret that was sealed anew.
    let rows = sql
        .query(
            "SELECT action, count(*) FROM zyven.audit WHERE actor = 'zyven admin' GROUP BY 1 ORDER BY 1",
            &[],
        )
        .await
        .expect("entries");
    let audited: Vec<(String, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let expected = [
        ("api_key.create", 1),
        ("endpoint_credential.reseal", 2),
        ("endpoint_secret.reseal", 3),
        ("tenant.create", 1),
    ];
    assert_eq!(
        audited,
        expected.map(|(action, count)| (action.to_owned(), count))
    );

    let id = shared["id"].as_str().expect("an id");
    let path = format!("/v1/endpoints/{id}/secret");
    let (_, shown) = stack.call("GET", &path, None).await;
    assert_eq!(shown["secret"], shared["secret"], "the same secret as ever");
    let Ok(secret) = SigningSecret::parse(shared["secret"].as_str().expect("a text")) else {
        panic!("not a signing secret");
    };
    for request in stack.receiver.requests_at("/more") {
        assert_eq!(request.header("x-key"), "header-secret");
        assert_eq!(request.header("authorization"), "Bearer bearer-secret");
    }
    for request in stack.receiver.requests_at("/shared") {
        let timestamp = request
            .header("webhook-timestamp")
            .parse()
            .expect("seconds");
        let keys = [SigningKey::new(&secret)];
        let signed = sign(
            &keys,
            request.header("webhook-id"),
            timestamp,
            &request.body,
        );
        assert_eq!(request.header("webhook-signature"), signed);
    }
}

#[tokio::test]
async fn an_envelope_that_cannot_be_opened_is_named_and_the_others_are_rotated() {
    let settings = [("ZYVEN_MASTER_KEYS", OLD)];
    let stack = Stack::start_with(Spread::OneProcess, &settings).await;
    stack.endpoint("/a", json!({})).await;
    stack.endpoint("/b", json!({})).await;
    let sql = stack.database.client().await;
    sql.execute(
        "UPDATE zyven.endpoint_secrets SET envelope = '\\x00'
          WHERE id = (SELECT id FROM zyven.endpoint_secrets ORDER BY id LIMIT 1)",
        &[],
    )
    .await
    .expect("an update");
    let keys = format!("{NEW},{OLD}");
    let rotated = rotate(&stack.binary, &keys, &[]).await;
    assert!(!rotated.status.success());
    assert!(rotated.stderr.contains("1 cannot be opened"), "{rotated:?}");
    assert!(rotated.stderr.contains("endpoint_secrets "), "{rotated:?}");
    assert!(
        rotated.stdout.contains("master key new: 1 envelopes"),
        "{rotated:?}"
    );
}

#[tokio::test]
async fn without_a_usable_master_key_nothing_that_needs_one_starts() {
    let binary = Binary::find();
    let short = "k:AAECAwQFBgcICQoLDA0ODw==";
    let placeholder = "k:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for service in ["ingest", "dispatcher", "all"] {
        for (keys, rule) in [
            (None, "ZYVEN_MASTER_KEYS must be set"),
            (Some(""), "ZYVEN_MASTER_KEYS"),
            (Some(short), "must be exactly 32 bytes"),
            (Some(placeholder), "is a placeholder"),
        ] {
            let binary = match keys {
                None => binary.clone(),
                Some(keys) => binary.clone().with("ZYVEN_MASTER_KEYS", keys),
            };
            let ended = binary.run([service], PATIENCE).await;
            assert_eq!(ended.status.code(), Some(64), "{service} {keys:?}");
            assert!(
                ended.stderr.contains(rule),
                "{service} {keys:?}: {}",
                ended.stderr
            );
        }
    }
}

/// One endpoint of each kind, delivered to, read, changed and rotated, with every process saying all it can.
#[tokio::test]
async fn no_secret_shows_up_in_what_processes_say_at_trace_level() {
    const ACCESS_TOKEN: &str = "access-token-secret";
    let ca = TestCa::new();
    let certificate = ca.client_certificate("zyven", (2020, 2090));
    let file = std::env::temp_dir().join(format!("zyven-trace-ca-{}.pem", std::process::id()));
    std::fs::write(&file, ca.certificate_pem()).expect("a file");
    let settings = [
        ("ZYVEN_LOG", "trace"),
        (
            "ZYVEN_DISPATCHER_TLS_CA_FILE",
            file.to_str().expect("a path"),
        ),
    ];
    let mut stack = Stack::start_with(Spread::OneProcess, &settings).await;
    let strict = Receiver::start_tls_with(ca.strict_server_config(&["127.0.0.1"])).await;
    let issuer = Receiver::start().await;
    let issued = json!({ "access_token": ACCESS_TOKEN, "token_type": "bearer" });
    issuer.answer(Answer::status(200).body(issued.to_string()));

    let shared = stack
        .endpoint("/hmac", json!({ "headers": { "x-key": "header-secret" } }))
        .await;
    stack
        .endpoint("/ed25519", json!({ "signing": "ed25519" }))
        .await;
    for (path, auth) in [
        (
            "/basic",
            json!({ "type": "basic", "username": "user-secret", "password": "password-secret" }),
        ),
        (
            "/bearer",
            json!({ "type": "bearer", "token": "bearer-secret" }),
        ),
        (
            "/oauth2",
            json!({
                "type": "oauth2_client_credentials", "token_url": issuer.url("/token"),
                "client_id": "zyven", "client_secret": "client-secret", "client_auth": "body",
            }),
        ),
    ] {
        stack.endpoint(path, json!({ "auth": auth })).await;
    }
    let mutual = json!({
        "url": strict.url("/mutual"),
        "client_certificate": {
            "certificate_pem": certificate.certificate_pem, "private_key_pem": certificate.private_key_pem,
        },
    });
    let (status, made) = stack.call("POST", "/v1/endpoints", Some(mutual)).await;
    assert_eq!(status, 201, "{made}");

    stack.publish("invoice.paid", json!({ "amount": 1 })).await;
    let id = shared["id"].as_str().expect("an id");
    let rotate = format!("/v1/endpoints/{id}/rotate-secret");
    let (_, rotated) = stack.call("POST", &rotate, None).await;
    stack.publish("invoice.paid", json!({ "amount": 2 })).await;
    stack.receiver.wait_for_requests(10, PATIENCE).await;
    strict.wait_for_requests(2, PATIENCE).await;
    stack.assert_settled().await;
    let (_, listed) = stack.call("GET", "/v1/endpoints", None).await;

    let process = stack.process("all");
    let said = format!("{}{}", process.stdout(), process.stderr());
    let _ = std::fs::remove_file(&file);
    assert!(said.contains("attempted"), "{said:.2000}");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let bare = |secret: String| secret.trim_start_matches("whsec_").to_owned();
    let key_lines = certificate
        .private_key_pem
        .lines()
        .filter(|line| !line.starts_with('-'));
    let mut secrets: Vec<String> = key_lines.map(str::to_owned).collect();
    secrets.extend(
        [
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
            "header-secret",
            "user-secret",
            "password-secret",
            "dXNlci1zZWNyZXQ6cGFzc3dvcmQtc2VjcmV0",
            "bearer-secret",
            "client-secret",
            ACCESS_TOKEN,
            "correct-horse-battery-staple",
        ]
        .map(str::to_owned),
    );
    secrets.extend([
        bare(text(&shared["secret"])),
        bare(text(&rotated["secret"])),
    ]);
    secrets.extend(stack.key.rsplit('_').next().map(str::to_owned));
    for secret in &secrets {
        assert!(!said.contains(secret), "{secret} was said");
    }
    let listed = listed.to_string();
    for secret in &secrets {
        assert!(!listed.contains(secret), "{secret} is shown");
    }
}
