//! View links: what they open, what they never open, and how they end.

use std::time::{Duration, Instant};

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use serde_json::{Value, json};
use zyven_domain::api_key::{ApiKey, Scope};
use zyven_domain::secret_box::KeyRing;
use zyven_domain::view_link::{View, ViewLink};
use zyven_ingest::routes;
use zyven_testkit::wait_until;

use crate::routes::{Things, body_of, send};
use crate::support::{Answer, Api, MASTER_KEYS, SOON, Tenant};

/// Whoever holds a link that the tenant's key has made.
async fn viewer<'a>(tenant: &Tenant<'a>, wanted: &Value) -> Tenant<'a> {
    let made = tenant.post("/v1/view-links", wanted).await.expect(201);
    holding(tenant, made.text_of("token"))
}

fn holding<'a>(tenant: &Tenant<'a>, token: String) -> Tenant<'a> {
    Tenant {
        api: tenant.api,
        id: tenant.id,
        key: token,
    }
}

/// A link as the API would have sealed it, at another time or with other keys.
async fn forged(tenant: &Tenant<'_>, ring: &str, expires_at: DateTime<Utc>) -> String {
    let current = tenant.get("/v1/api-keys/current").await.expect(200);
    let key = current.text_of("id").parse().expect("an id");
    let public_id = ApiKey::parse(&tenant.key).expect("a key").public_id();
    let view = View {
        scopes: [Scope::Read].into_iter().collect(),
        expires_at,
    };
    let ring = KeyRing::parse(ring).expect("a key ring");
    ViewLink::seal(view, public_id, (tenant.id, key), &ring, [9; 24]).expose()
}

#[tokio::test]
async fn a_link_says_what_it_allows_and_until_when() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let before = Utc::now();
    // The body is optional.
    let made = tenant.push("/v1/view-links").await.expect(201);
    assert_eq!(made.json()["scopes"], json!(["read"]));
    let expires_at: DateTime<Utc> = made.text_of("expires_at").parse().expect("a time");
    assert!(expires_at > before + TimeDelta::seconds(3599 - 1));
    assert!(expires_at <= Utc::now() + TimeDelta::seconds(3600));

    let viewer = holding(&tenant, made.text_of("token"));
    let (own, current) = (
        tenant.get("/v1/api-keys/current").await.expect(200).json(),
        viewer.get("/v1/api-keys/current").await.expect(200).json(),
    );
    assert_eq!(current["scopes"], json!(["read"]));
    assert_eq!(current["expires_at"], made.json()["expires_at"]);
    assert_eq!(
        (&current["id"], &current["tenant"]),
        (&own["id"], &own["tenant"])
    );
    assert_eq!(own["expires_at"], Value::Null, "the key itself goes on");

    let entries = tenant
        .get("/v1/audit-log?action=view_link.")
        .await
        .expect(200);
    let entry = &entries.json()["data"][0];
    assert_eq!(
        (&entry["actor"], &entry["subject"]),
        (&own["id"], &own["id"])
    );
    assert_eq!(entry["details"]["scopes"]["to"], json!(["read"]));
    assert_eq!(entry["details"]["expires_in_s"]["to"], 3600);
    assert!(!entries.text.contains("zyv_"), "{entries:?}");
}

#[tokio::test]
async fn a_link_for_each_page_is_one_entry_in_the_audit_log_and_each_is_counted() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    for _ in 0..20 {
        viewer(&tenant, &json!({ "expires_in_s": 900 })).await;
    }
    let entries = tenant.get("/v1/audit-log?action=view_link.").await;
    let entries = entries.expect(200).json();
    assert_eq!(entries["data"].as_array().map(Vec::len), Some(1));
    let counted = r#"zyven_ingest_requests_total{route="/v1/view-links",status="201"}"#;
    wait_until("each is counted", SOON, async || {
        api.metric(counted) == 20.0
    })
    .await;
}

#[tokio::test]
async fn the_bounds_of_a_link_are_checked() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    for good in [60, 86_400] {
        viewer(&tenant, &json!({ "expires_in_s": good })).await;
    }
    for (body, fields) in [
        (json!({ "expires_in_s": 59 }), &["expires_in_s"][..]),
        (json!({ "expires_in_s": 86_401 }), &["expires_in_s"]),
        (json!({ "scopes": [] }), &["scopes"]),
        (json!({ "scopes": ["read", "replay", "read"] }), &["scopes"]),
        (
            json!({ "scopes": ["publish", "manage"], "name": "n" }),
            &["scopes[0]", "scopes[1]", "name"],
        ),
    ] {
        let refused = tenant.post("/v1/view-links", &body).await;
        let refused = refused.expect_problem(422, "invalid");
        assert_eq!(refused.fields(), fields, "{body}");
    }
    // What a key has not it cannot give.
    let limited = holding(
        &tenant,
        tenant.key_with(&[Scope::Manage, Scope::Read]).await,
    );
    viewer(&limited, &json!({})).await;
    let body = json!({ "scopes": ["read", "replay"] });
    let refused = limited.post("/v1/view-links", &body).await;
    let refused = refused.expect_problem(403, "scope_missing");
    assert!(refused.text.contains("replay"), "{refused:?}");
}

#[tokio::test]
async fn a_link_never_publishes_manages_or_makes_links() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let things = Things::unknown();
    let both = [Scope::Read, Scope::Replay];
    for scopes in [&both[..1], &both[1..], &both] {
        let names: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
        let viewer = viewer(&tenant, &json!({ "scopes": names })).await;
        for route in routes() {
            let (path, body) = (things.path(&route), body_of(&route));
            let answer = send(&api, Some(&viewer.key), &route, &path, body.as_ref()).await;
            let calls_off = route.path == "/v1/deliveries/{id}/cancel";
            let may = route.scope.is_none_or(|scope| scopes.contains(&scope));
            if may && !calls_off {
                let open = answer.status.is_success() || answer.status == 404;
                assert!(open, "{route:?}: {answer:?}");
            } else {
                answer.expect_problem(403, "scope_missing");
            }
        }
    }
}

#[tokio::test]
async fn a_link_replays_a_dead_letter_of_its_own_tenant_and_sees_no_others() {
    let api = Api::start().await;
    let (tenant, stranger) = (api.tenant().await, api.tenant().await);
    let (own, others) = (Things::of(&tenant).await, Things::of(&stranger).await);
    let viewer = viewer(&tenant, &json!({ "scopes": ["read", "replay"] })).await;
    for route in routes() {
        let is_for_views = [Scope::Read, Scope::Replay]
            .map(Some)
            .contains(&route.scope);
        let is_one = is_for_views && route.path.contains("{id}") && route.method == "GET";
        if is_one {
            let path = others.path(&route);
            viewer.get(&path).await.expect_problem(404, "not_found");
        }
    }
    let listed = viewer.get("/v1/deliveries").await.expect(200);
    assert!(listed.text.contains(own.get("deliveries")));
    for id in others.ids() {
        assert!(!listed.text.contains(id), "{id}");
    }
    let replay = |of: &Things| format!("/v1/deliveries/{}/replay", of.get("deliveries"));
    let body = json!({ "reason": "the receiver is mended" });
    let refused = viewer.post(&replay(&others), &body).await;
    refused.expect_problem(404, "not_found");
    let replayed = viewer.post(&replay(&own), &body).await;
    assert!(replayed.status.is_success(), "{replayed:?}");
}

#[tokio::test]
async fn a_link_that_was_changed_or_is_over_is_the_same_401_as_no_key() {
    const OTHER_KEYS: &str = "test:Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";
    let api = Api::start().await;
    let (tenant, stranger) = (api.tenant().await, api.tenant().await);
    let good = viewer(&tenant, &json!({})).await.key;
    let mut bad = Vec::new();
    for index in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[index] = if bytes[index] == b'a' { b'b' } else { b'a' };
        bad.push(String::from_utf8(bytes).expect("ASCII"));
        bad.push(good[..index].to_owned());
    }
    // Beside the public id of another key, of this tenant or another.
    let envelope = good.splitn(3, '_').nth(2).expect("three parts");
    let second = tenant.key_with(&[Scope::Read]).await;
    for other in [&second, &stranger.key] {
        let public_id = ApiKey::parse(other).expect("a key").public_id();
        bad.push(format!("zyv_{public_id}_{envelope}"));
    }
    let now = Utc::now();
    bad.push(forged(&tenant, MASTER_KEYS, now - TimeDelta::seconds(1)).await);
    let later = now + TimeDelta::hours(1);
    bad.push(forged(&tenant, OTHER_KEYS, later).await);
    let forged = forged(&tenant, MASTER_KEYS, later).await;
    holding(&tenant, forged)
        .get("/v1/endpoints")
        .await
        .expect(200);

    let nobody = api.http.get(api.url("/v1/endpoints"));
    let nobody = Answer::of(nobody)
        .await
        .expect_problem(401, "unauthenticated");
    for token in bad {
        let refused = holding(&tenant, token).get("/v1/endpoints").await;
        assert_eq!(refused.status, 401, "{refused:?}");
        assert_eq!(refused.text, nobody.text);
    }
    holding(&tenant, good)
        .get("/v1/endpoints")
        .await
        .expect(200);
}

#[tokio::test]
async fn a_link_ends_at_its_time() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let soon = Utc::now() + TimeDelta::seconds(5);
    let viewer = holding(&tenant, forged(&tenant, MASTER_KEYS, soon).await);
    viewer.get("/v1/endpoints").await.expect(200);
    wait_until("the link has ended", SOON, async || {
        viewer.get("/v1/endpoints").await.status == 401
    })
    .await;
    assert!(Utc::now().timestamp() >= soon.timestamp());
}

#[tokio::test]
async fn links_end_with_the_key_that_made_them() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let parent = json!({ "name": "shop", "scopes": ["manage", "read"] });
    let parent = tenant.post("/v1/api-keys", &parent).await.expect(201);
    let giver = holding(&tenant, parent.text_of("key"));
    let viewer = viewer(&giver, &json!({ "expires_in_s": 86_400 })).await;
    viewer.get("/v1/endpoints").await.expect(200);
    let path = format!("/v1/api-keys/{}", parent.text_of("id"));
    tenant.delete(&path).await.expect(204);
    let revoked = Instant::now();
    let mut last_good = Duration::ZERO;
    wait_until("the link is refused", SOON, async || {
        let sent = revoked.elapsed();
        let is_good = viewer.get("/v1/endpoints").await.status == 200;
        if is_good {
            last_good = sent;
        }
        !is_good
    })
    .await;
    assert!(last_good < zyven_ingest::REVOCATION_MAX, "{last_good:?}");

    let end = Utc::now() + TimeDelta::seconds(5);
    let short = json!({ "name": "short", "scopes": ["manage", "read"], "expires_at": end });
    let short = tenant.post("/v1/api-keys", &short).await.expect(201);
    let giver = holding(&tenant, short.text_of("key"));
    let viewer = self::viewer(&giver, &json!({})).await;
    let current = viewer.get("/v1/api-keys/current").await.expect(200);
    let told: DateTime<Utc> = current.text_of("expires_at").parse().expect("a time");
    assert_eq!(told, end.trunc_subsecs(0), "the earlier end, to the second");
    wait_until("the link has ended", SOON, async || {
        viewer.get("/v1/endpoints").await.status == 401
    })
    .await;
    assert!(Utc::now() >= told);
}
