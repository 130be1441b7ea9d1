//! API keys: made once, listed, revoked, expired.

use std::time::{Duration, Instant};

use serde_json::json;
use zyven_domain::api_key::{ApiKey, Scope};
use zyven_testkit::{TestDatabase, wait_until};

use crate::support::{Answer, Api, SOON, Tenant};

#[tokio::test]
async fn a_key_is_shown_once_and_works_until_it_is_revoked() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let body = json!({ "name": " deploy ", "scopes": ["publish", "read", "read"] });
    let made = tenant.post("/v1/api-keys", &body).await.expect(201);
    let id = made.text_of("id");
    assert_eq!(made.json()["scopes"], json!(["publish", "read"]));
    assert_eq!(made.text_of("name"), "deploy");
    let other = Tenant {
        api: &api,
        id: tenant.id,
        key: made.text_of("key"),
    };
    other.publish("a").await;

    let listed = tenant.get("/v1/api-keys").await.expect(200);
    assert!(listed.text.contains(&id));
    assert!(!listed.text.contains(&other.key), "never again");
    assert!(!listed.text.contains("secret"), "{}", listed.text);

    tenant
        .delete(&format!("/v1/api-keys/{id}"))
        .await
        .expect(204);
    let revoked = Instant::now();
    wait_until("the key is refused", SOON, async || {
        other.get("/v1/deliveries").await.status == 401
    })
    .await;
    assert!(revoked.elapsed() < zyven_ingest::REVOCATION_MAX + std::time::Duration::from_secs(1));
    tenant
        .delete(&format!("/v1/api-keys/{id}"))
        .await
        .expect(204);
    let listed = tenant.get("/v1/api-keys").await.json();
    assert!(listed["data"][1]["revoked_at"].is_string(), "{listed}");
}

#[tokio::test]
async fn a_key_ends_at_its_expiry() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let soon = chrono::Utc::now() + chrono::TimeDelta::milliseconds(1500);
    let body = json!({ "name": "short", "scopes": ["read"], "expires_at": soon });
    let made = tenant.post("/v1/api-keys", &body).await.expect(201);
    let other = Tenant {
        api: &api,
        id: tenant.id,
        key: made.text_of("key"),
    };
    other.get("/v1/endpoints").await.expect(200);
    wait_until("the key has expired", SOON, async || {
        other.get("/v1/endpoints").await.status == 401
    })
    .await;
    assert!(chrono::Utc::now() >= soon);
}

#[tokio::test]
async fn a_key_cannot_give_away_what_it_does_not_have() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let limited = Tenant {
        api: &api,
        id: tenant.id,
        key: tenant.key_with(&[Scope::Manage, Scope::Read]).await,
    };
    limited.key_with(&[Scope::Read]).await;
    let body = json!({ "name": "more", "scopes": ["read", "replay"] });
    let refused = limited.post("/v1/api-keys", &body).await;
    let refused = refused.expect_problem(403, "scope_missing");
    assert!(refused.text.contains("replay"), "{refused:?}");
}

#[tokio::test]
async fn a_keys_members_are_checked() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    for (body, fields) in [
        (json!({}), &["name", "scopes"][..]),
        (json!({ "name": " ", "scopes": [] }), &["name", "scopes"]),
        (
            json!({ "name": "n", "scopes": ["read", "admin"] }),
            &["scopes[1]"],
        ),
        (
            json!({ "name": "n", "scopes": ["read"], "expires_at": "2001-01-01T00:00:00Z" }),
            &["expires_at"],
        ),
    ] {
        let answer = tenant.post("/v1/api-keys", &body).await;
        assert_eq!(
            answer.expect_problem(422, "invalid").fields(),
            fields,
            "{body}"
        );
    }
}

#[tokio::test]
async fn lists_come_in_pages() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    for _ in 0..4 {
        tenant.key_with(&[Scope::Read]).await;
    }
    let mut seen = Vec::new();
    let mut path = "/v1/api-keys?limit=2".to_owned();
    let mut pages = 0;
    loop {
        let page = tenant.get(&path).await.expect(200).json();
        let data = page["data"].as_array().expect("data");
        seen.extend(data.iter().map(|key| key["id"].to_string()));
        pages += 1;
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/v1/api-keys?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    seen.dedup();
    assert_eq!((pages, seen.len()), (3, 5));
    let refused = tenant.get("/v1/api-keys?limit=0&cursor=evt_1&page=2").await;
    let refused = refused.expect_problem(422, "invalid");
    assert_eq!(refused.fields(), ["limit", "cursor", "page"]);
}

#[tokio::test]
async fn a_revocation_counts_in_every_process_within_two_seconds() {
    let one = Api::start().await;
    let same = one.database.url();
    let other = Api::reaching(TestDatabase::empty().await, &same, &[]).await;
    let tenant = one.tenant().await;
    let made = json!({ "name": "shared", "scopes": ["read"] });
    let made = tenant.post("/v1/api-keys", &made).await.expect(201);
    let key = made.text_of("key");
    // Both have seen it just now, so both remember it.
    for api in [&one, &other] {
        let request = api.http.get(api.url("/v1/endpoints")).bearer_auth(&key);
        Answer::of(request).await.expect(200);
    }
    let id = made.text_of("id");
    tenant
        .delete(&format!("/v1/api-keys/{id}"))
        .await
        .expect(204);
    let revoked = Instant::now();
    let mut last_good = Duration::ZERO;
    wait_until("the other process refuses it", SOON, async || {
        let sent = revoked.elapsed();
        let request = other.http.get(other.url("/v1/endpoints")).bearer_auth(&key);
        let is_good = Answer::of(request).await.status == 200;
        if is_good {
            last_good = sent;
        }
        !is_good
    })
    .await;
    // When a request was sent says how long the key still worked, however slow the machine is.
    assert!(last_good < zyven_ingest::REVOCATION_MAX, "{last_good:?}");
}

#[tokio::test]
async fn keys_that_somebody_makes_up_leave_the_database_to_others() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let mut client = api.database.client().await;
    tenant.get("/v1/endpoints").await.expect(200);
    let lock = client.transaction().await.expect("begun");
    lock.batch_execute("LOCK TABLE zyven.api_keys IN ACCESS EXCLUSIVE MODE")
        .await
        .expect("locked");
    let mut guesses = tokio::task::JoinSet::new();
    for number in 0..60_u8 {
        let key = ApiKey::from_random([number; 8], [number; 32]).expose();
        let request = api.http.get(api.url("/v1/endpoints")).bearer_auth(key);
        guesses.spawn(async move { Answer::of(request).await.status });
    }
    let waiting = async || {
        api.count(
            "SELECT count(*) FROM pg_stat_activity
              WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%FROM zyven.api_keys%'",
        )
        .await
    };
    wait_until("look-ups wait for the table", SOON, async || {
        waiting().await >= 4
    })
    .await;
    // A key that is remembered needs nothing but a free connection. Looking it up again may be one more.
    tenant.get("/v1/deliveries").await.expect(200);
    assert!(
        (4..=5).contains(&waiting().await),
        "no more than four at a time"
    );
    lock.rollback().await.expect("unlocked");
    while let Some(status) = guesses.join_next().await {
        assert_eq!(status.expect("an answer"), 401);
    }
}

#[tokio::test]
async fn a_key_too_many_is_a_conflict() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let client = api.database.client().await;
    client
        .execute(
            "INSERT INTO zyven.api_keys (id, tenant_id, public_id, secret_hash, name, scopes)
             SELECT gen_random_uuid(), $1, n::text, sha256(''), 'many', '{read}' FROM generate_series(3, 1000) AS n",
            &[&tenant.id.uuid()],
        )
        .await
        .expect("keys");
    let body = json!({ "name": "n", "scopes": ["read"] });
    tenant.post("/v1/api-keys", &body).await.expect(201);
    let refused = tenant.post("/v1/api-keys", &body).await;
    let refused = refused.expect_problem(409, "api_key_limit");
    assert!(refused.text.contains("1000"), "{refused:?}");
}
