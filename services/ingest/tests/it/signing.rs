//! How requests of an endpoint are signed, as its owner arranges it.

use serde_json::{Value, json};
use zyven_domain::signature::SigningSecret;

use crate::support::{Api, Tenant};

async fn public_keys(tenant: &Tenant<'_>, id: &str) -> Vec<Value> {
    let path = format!("/v1/endpoints/{id}/public-key");
    let shown = tenant.get(&path).await.expect(200).json();
    shown["data"].as_array().expect("an array").clone()
}

#[tokio::test]
async fn an_ed25519_endpoint_shows_its_public_key_and_never_the_private_one() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let made = tenant
        .post(
            "/v1/endpoints",
            &json!({ "url": "https://example.com/", "signing": "ed25519" }),
        )
        .await
        .expect(201);
    let public_key = made.text_of("public_key");
    assert!(public_key.starts_with("whpk_"), "{public_key}");
    assert_eq!(made.json()["signing"], "ed25519");
    assert_eq!(made.json()["secret"], Value::Null);
    let id = made.text_of("id");
    let keys = public_keys(&tenant, &id).await;
    assert_eq!(keys.len(), 1);
    assert_eq!(keys[0]["public_key"], json!(public_key));
    assert_eq!(keys[0]["expires_at"], Value::Null);
    assert!(keys[0]["valid_from"].is_string());

    let read = tenant.get(&format!("/v1/endpoints/{id}")).await.expect(200);
    assert_eq!(read.json()["signing"], "ed25519");
    let secret = tenant
        .get(&format!("/v1/endpoints/{id}/secret"))
        .await
        .expect(200);
    assert_eq!(
        secret.json(),
        json!({ "public_key": public_key, "previous": [] })
    );
    for answer in [&made, &read, &secret] {
        assert!(!answer.text.contains("whsec_") && !answer.text.contains("whsk_"));
    }
}

#[tokio::test]
async fn a_rotation_keeps_the_scheme_and_lists_both_public_keys_until_the_overlap_ends() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let id = tenant.endpoint(&json!({ "signing": "ed25519" })).await;
    let before = public_keys(&tenant, &id).await;
    let rotate = format!("/v1/endpoints/{id}/rotate-secret");
    let rotated = tenant
        .post(&rotate, &json!({ "overlap_s": 3600 }))
        .await
        .expect(200);
    let keys = public_keys(&tenant, &id).await;
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[0]["public_key"], json!(rotated.text_of("public_key")));
    assert_eq!(keys[0]["expires_at"], Value::Null);
    assert_eq!(keys[1]["public_key"], before[0]["public_key"]);
    assert!(keys[1]["expires_at"].is_string());

    tenant
        .post(&rotate, &json!({ "overlap_s": 0 }))
        .await
        .expect(200);
    let keys = public_keys(&tenant, &id).await;
    assert_eq!(
        keys[1]["public_key"], before[0]["public_key"],
        "its hour goes on"
    );
    assert_eq!(keys.len(), 2, "the one without overlap ended at once");
}

#[tokio::test]
async fn changing_the_scheme_is_a_rotation_with_an_overlap() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let id = tenant.endpoint(&json!({})).await;
    assert_eq!(public_keys(&tenant, &id).await, Vec::<Value>::new());
    let rotate = format!("/v1/endpoints/{id}/rotate-secret");
    tenant
        .post(&rotate, &json!({ "signing": "ed25519" }))
        .await
        .expect(200);
    let secrets = tenant
        .get(&format!("/v1/endpoints/{id}/secret"))
        .await
        .expect(200)
        .json();
    assert!(secrets["public_key"].is_string());
    assert!(secrets["previous"][0]["secret"].is_string());
    let back = tenant
        .post(&rotate, &json!({ "signing": "hmac" }))
        .await
        .expect(200);
    assert!(SigningSecret::parse(&back.text_of("secret")).is_ok());
    let keys = public_keys(&tenant, &id).await;
    assert!(
        keys[0]["expires_at"].is_string(),
        "it ends with its overlap"
    );
}

#[tokio::test]
async fn what_makes_no_sense_about_signing_is_refused() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let secret = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";
    let id = tenant.endpoint(&json!({})).await;
    let rotate = format!("/v1/endpoints/{id}/rotate-secret");
    let new = |more: Value| {
        let mut body = json!({ "url": "https://example.com/" });
        for (name, value) in more.as_object().expect("members") {
            body[name] = value.clone();
        }
        body
    };
    for (more, field) in [
        (json!({ "signing": "rsa" }), "signing"),
        (json!({ "signing": null }), "signing"),
        (json!({ "signing": "ed25519", "secret": secret }), "secret"),
    ] {
        let made = tenant.post("/v1/endpoints", &new(more.clone())).await;
        assert_eq!(made.expect_problem(422, "invalid").fields(), [field]);
        let rotated = tenant.post(&rotate, &more).await;
        assert_eq!(rotated.expect_problem(422, "invalid").fields(), [field]);
    }
    let path = format!("/v1/endpoints/{id}");
    let changed = tenant.patch(&path, &json!({ "signing": "ed25519" })).await;
    assert_eq!(
        changed.expect_problem(422, "invalid").fields(),
        ["signing"],
        "a change without overlap would cut receivers off"
    );
}
