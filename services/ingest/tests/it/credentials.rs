//! What requests of an endpoint carry besides signatures, as its owner arranges it.

use serde_json::{Value, json};
use zyven_testkit::TestCa;

use crate::support::{Api, Tenant};

/// Everything that must never be seen again, in the requests below.
const SECRETS: [&str; 6] = [
    "header-secret",
    "basic-user",
    "basic-secret",
    "bearer-secret",
    "client-secret",
    "PRIVATE KEY",
];

fn new(more: &Value) -> Value {
    let mut body = json!({ "url": "https://example.com/hook" });
    for (name, value) in more.as_object().expect("members") {
        body[name] = value.clone();
    }
    body
}

fn oauth2() -> Value {
    json!({
        "type": "oauth2_client_credentials",
        "token_url": "https://id.example.com/token",
        "client_id": "zyven",
        "client_secret": "client-secret",
        "scope": "hooks",
    })
}

/// Asserts that the endpoint is refused, new and as a change of a good one.
async fn refused(tenant: &Tenant<'_>, id: &str, more: &Value, fields: &[&str]) -> String {
    let made = tenant.post("/v1/endpoints", &new(more)).await;
    let made = made.expect_problem(422, "invalid");
    assert_eq!(made.fields(), fields, "{more}");
    let changed = tenant.patch(&format!("/v1/endpoints/{id}"), more).await;
    let changed = changed.expect_problem(422, "invalid");
    assert_eq!(changed.fields(), fields, "{more}");
    made.text
}

#[tokio::test]
async fn credentials_are_written_and_only_their_kinds_and_names_are_read() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let certificate = TestCa::new().client_certificate("zyven", (2020, 2090));
    let kinds = [
        json!({ "type": "basic", "username": "basic-user", "password": "basic-secret" }),
        json!({ "type": "bearer", "token": "bearer-secret" }),
        oauth2(),
    ];
    for auth in kinds {
        let made = tenant
            .post(
                "/v1/endpoints",
                &new(&json!({
                    "headers": { "X-Api-Key": "header-secret", "X-Tenant": "header-secret" },
                    "auth": auth,
                    "client_certificate": {
                        "certificate_pem": certificate.certificate_pem,
                        "private_key_pem": certificate.private_key_pem,
                    },
                })),
            )
            .await
            .expect(201);
        let id = made.text_of("id");
        let read = tenant.get(&format!("/v1/endpoints/{id}")).await.expect(200);
        let listed = tenant.get("/v1/endpoints").await.expect(200);
        let shown = read.json();
        assert_eq!(shown["headers"], json!(["x-api-key", "x-tenant"]));
        assert_eq!(shown["auth"]["type"], auth["type"]);
        assert_eq!(shown["auth"]["token_url"], auth["token_url"]);
        assert_eq!(
            shown["client_certificate"]["not_after"],
            "2090-12-31T00:00:00Z"
        );
        assert_eq!(
            shown["client_certificate"]["fingerprint_sha256"],
            json!(sha256(&certificate.certificate_der))
        );
        for answer in [&made, &read, &listed] {
            for secret in SECRETS {
                assert!(!answer.text.contains(secret), "{secret} in {answer:?}");
            }
        }
        tenant
            .delete(&format!("/v1/endpoints/{id}"))
            .await
            .expect(204);
    }
    let client = api.database.client().await;
    let rows = client
        .query(
            "SELECT envelope, shown::text FROM zyven.endpoint_credentials",
            &[],
        )
        .await
        .expect("rows");
    assert_eq!(rows.len(), 9);
    for row in rows {
        let (envelope, shown): (Vec<u8>, String) = (row.get(0), row.get(1));
        let stored = format!("{} {shown}", String::from_utf8_lossy(&envelope));
        for secret in SECRETS {
            assert!(!stored.contains(secret), "{secret} in {stored}");
        }
    }
}

fn sha256(der: &[u8]) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(der);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_change_replaces_a_credential_null_removes_it_and_what_is_not_said_stays() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let id = tenant
        .endpoint(&json!({ "headers": { "x-a": "1" }, "auth": { "type": "bearer", "token": "t" } }))
        .await;
    let path = format!("/v1/endpoints/{id}");
    let change = async |change: Value| tenant.patch(&path, &change).await.expect(200).json();
    let shown = change(json!({ "description": "ERP" })).await;
    assert_eq!(
        (&shown["headers"], &shown["auth"]["type"]),
        (&json!(["x-a"]), &json!("bearer"))
    );
    let shown = change(json!({ "headers": { "X-B": "2" }, "auth": oauth2() })).await;
    assert_eq!(shown["headers"], json!(["x-b"]));
    assert_eq!(shown["auth"]["type"], "oauth2_client_credentials");
    let shown = change(json!({ "headers": null, "auth": null, "client_certificate": null })).await;
    assert_eq!(
        (&shown["headers"], &shown["auth"]),
        (&json!([]), &Value::Null)
    );
    assert_eq!(
        api.count("SELECT count(*) FROM zyven.endpoint_credentials")
            .await,
        0
    );
}

#[tokio::test]
async fn every_broken_rule_of_a_credential_is_named_and_no_value_is_repeated() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let id = tenant.endpoint(&json!({})).await;
    let many: Value = (0..21).map(|n| (format!("x-{n}"), json!("v"))).collect();
    let with = |name: &str, value: Value| {
        let mut auth = oauth2();
        auth[name] = value;
        json!({ "auth": auth })
    };
    for (more, fields) in [
        (
            json!({ "headers": { "Host": "header-secret" } }),
            &["headers.Host"][..],
        ),
        (
            json!({ "headers": { "Webhook-Id": "header-secret" } }),
            &["headers.Webhook-Id"],
        ),
        (
            json!({ "headers": { "a b": "header-secret", "x": "header-secret\r\ny: z" } }),
            &["headers.a b", "headers.x"],
        ),
        (
            json!({ "headers": { "x-a": "1", "X-A": "2" } }),
            &["headers"],
        ),
        (json!({ "headers": { "x": 1 } }), &["headers.x"]),
        (json!({ "headers": many }), &["headers"]),
        (json!({ "headers": ["x"] }), &["headers"]),
        (json!({ "auth": "basic-secret" }), &["auth"]),
        (json!({ "auth": {} }), &["auth.type"]),
        (json!({ "auth": { "type": "digest" } }), &["auth.type"]),
        (
            json!({ "auth": { "type": "basic", "username": "basic-user:x" } }),
            &["auth.username", "auth.password"],
        ),
        (
            json!({ "auth": { "type": "bearer", "token": "bearer-secret x", "scope": "s" } }),
            &["auth.token", "auth.scope"],
        ),
        (
            with("token_url", json!("http://127.1/")),
            &["auth.token_url"],
        ),
        (
            with("token_url", json!("https://u@id.example.com/")),
            &["auth.token_url"],
        ),
        (with("client_auth", json!("header")), &["auth.client_auth"]),
        (with("client_secret", Value::Null), &["auth.client_secret"]),
        (
            json!({ "headers": { "Authorization": "header-secret" }, "auth": oauth2() }),
            &["headers.authorization"],
        ),
    ] {
        let answer = refused(&tenant, &id, &more, fields).await;
        for secret in SECRETS {
            assert!(!answer.contains(secret), "{secret} in {answer}");
        }
    }
    let read = tenant.get(&format!("/v1/endpoints/{id}")).await.expect(200);
    assert_eq!(read.json()["auth"], Value::Null, "nothing was changed");
}

#[tokio::test]
async fn what_contradicts_what_stays_is_refused() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let certificate = TestCa::new().client_certificate("zyven", (2020, 2090));
    let certificate = json!({
        "certificate_pem": certificate.certificate_pem, "private_key_pem": certificate.private_key_pem,
    });
    let header = json!({ "headers": { "AUTHORIZATION": "x" } });
    let plain = tenant
        .endpoint(&json!({ "url": "http://example.com/" }))
        .await;
    let with_header = tenant.endpoint(&header).await;
    let with_auth = tenant.endpoint(&json!({ "auth": oauth2() })).await;
    let with_certificate = tenant
        .endpoint(&json!({ "client_certificate": certificate }))
        .await;
    for (id, change, field) in [
        (
            &plain,
            json!({ "client_certificate": certificate }),
            "client_certificate",
        ),
        (
            &with_certificate,
            json!({ "url": "http://example.com/" }),
            "client_certificate",
        ),
        (
            &with_header,
            json!({ "auth": oauth2() }),
            "headers.authorization",
        ),
        (&with_auth, header, "headers.authorization"),
    ] {
        let path = format!("/v1/endpoints/{id}");
        let answer = tenant.patch(&path, &change).await;
        assert_eq!(
            answer.expect_problem(422, "invalid").fields(),
            [field],
            "{change}"
        );
    }
    let both = json!({ "headers": null, "auth": oauth2() });
    tenant
        .patch(&format!("/v1/endpoints/{with_header}"), &both)
        .await
        .expect(200);
}

#[tokio::test]
async fn a_client_certificate_that_could_not_be_shown_is_refused() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let id = tenant.endpoint(&json!({})).await;
    let ca = TestCa::new();
    let good = ca.client_certificate("zyven", (2020, 2090));
    let other = ca.client_certificate("other", (2020, 2090));
    let expired = ca.client_certificate("zyven", (2001, 2002));
    let early = ca.client_certificate("zyven", (2080, 2090));
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let not_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let certificate = "client_certificate.certificate_pem";
    let key = "client_certificate.private_key_pem";
    for (pem, private_key, fields, rule) in [
        (
            &*good.certificate_pem,
            &*other.private_key_pem,
            &[key][..],
            "does not belong",
        ),
        (
            &*expired.certificate_pem,
            &*expired.private_key_pem,
            &[certificate],
            "expired at 2002-12-31",
        ),
        (
            &*early.certificate_pem,
            &*early.private_key_pem,
            &[certificate],
            "not valid before 2080",
        ),
        (
            &*good.certificate_pem,
            encrypted,
            &[key],
            "must not be encrypted",
        ),
        (
            "nonsense",
            "nonsense",
            &[certificate, key],
            "holds no certificate",
        ),
        (
            not_der,
            &*good.private_key_pem,
            &[certificate],
            "no X.509 certificate",
        ),
    ] {
        let more = json!({ "client_certificate": { "certificate_pem": pem, "private_key_pem": private_key } });
        let answer = refused(&tenant, &id, &more, fields).await;
        assert!(answer.contains(rule), "{rule}: {answer}");
        assert!(!answer.contains("PRIVATE KEY"), "{answer}");
    }
    let more = json!({ "client_certificate": { "certificate_pem": good.certificate_pem } });
    refused(&tenant, &id, &more, &[key]).await;
}
