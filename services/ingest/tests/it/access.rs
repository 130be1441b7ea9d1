//! Who may do what: every route, without a key, with too little of one, and with another tenant's.

use serde_json::{Value, json};
use zyven_domain::api_key::{ApiKey, Scope};
use zyven_ingest::routes;

use crate::routes::{Things, body_of, prepare, send};
use crate::support::Api;
use crate::wire::{JSON, Wire, request};

/// Routes that show what must not be shown without a trace.
const REVEALS: [&str; 1] = ["/v1/endpoints/{id}/secret"];
/// Routes of work rather than of administration.
const PUBLISHES: [&str; 2] = ["/v1/events", "/v1/events/batch"];

/// Everything the database knows of a tenant, by table: how many rows, and a digest of them.
async fn known_of(api: &Api, tenant: zyven_domain::id::TenantId) -> Vec<(String, i64, String)> {
    let client = api.database.client().await;
    let tables = client
        .query(
            "SELECT c.relname::text
               FROM pg_class c
               JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
              WHERE c.relnamespace = 'zyven'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
              ORDER BY 1",
            &[],
        )
        .await
        .expect("the catalog");
    let mut known = Vec::new();
    for row in tables {
        let table: String = row.get(0);
        let sql = format!(
            "SELECT count(*), coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '')
               FROM zyven.{table} t WHERE tenant_id = $1"
        );
        let row = client
            .query_one(&sql, &[&tenant.uuid()])
            .await
            .expect("rows");
        known.push((table, row.get(0), row.get(1)));
    }
    known
}

#[tokio::test]
async fn another_tenants_things_do_not_exist() {
    let api = Api::start().await;
    let (owner, stranger) = (api.tenant().await, api.tenant().await);
    let (things, unknown) = (Things::of(&owner).await, Things::unknown());
    let before = known_of(&api, owner.id).await;
    assert!(
        before.iter().filter(|(_, rows, _)| *rows > 0).count() >= 6,
        "{before:?}"
    );
    for route in routes() {
        let body = body_of(&route);
        let answer = send(
            &api,
            Some(&stranger.key),
            &route,
            &things.path(&route),
            body.as_ref(),
        )
        .await;
        if route.path.contains('{') {
            let never_was = send(
                &api,
                Some(&stranger.key),
                &route,
                &unknown.path(&route),
                body.as_ref(),
            )
            .await;
            never_was.expect_problem(404, "not_found");
            answer.expect_problem(404, "not_found");
        } else {
            assert!(answer.status.is_success(), "{route:?}: {answer:?}");
            for id in things.ids() {
                assert!(!answer.text.contains(id), "{route:?} shows {id}");
            }
        }
    }
    // To ask for another's things in a list is to ask for nothing.
    for (list, parameter, collection) in [
        ("/v1/deliveries", "endpoint", "endpoints"),
        ("/v1/audit-log", "subject", "endpoints"),
        ("/v1/audit-log", "actor", "api-keys"),
    ] {
        let path = format!("{list}?{parameter}={}", things.get(collection));
        let found = stranger.get(&path).await.expect(200).json();
        assert_eq!(found["data"], json!([]), "{path}");
    }
    assert_eq!(
        known_of(&api, owner.id).await,
        before,
        "nothing has happened to them"
    );
}

#[tokio::test]
async fn without_a_good_key_every_route_is_the_same_401() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let things = Things::of(&tenant).await;
    let known = ApiKey::parse(&tenant.key).expect("a key");
    let (kept, last) = tenant.key.split_at(tenant.key.len() - 1);
    let wrong_secret = format!("{kept}{}", if last == "A" { "E" } else { "A" });
    let unknown = ApiKey::from_random([1; 8], [2; 32]).expose();
    let bad_keys = [
        None,
        Some("zyk_"),
        Some("nonsense"),
        Some(unknown.as_str()),
        Some(wrong_secret.as_str()),
    ];
    assert_ne!(wrong_secret, tenant.key);
    assert!(wrong_secret.contains(&known.public_id().to_string()));
    let mut bodies = Vec::new();
    for route in routes() {
        for key in bad_keys {
            let body = body_of(&route);
            let answer = send(&api, key, &route, &things.path(&route), body.as_ref()).await;
            let answer = answer.expect_problem(401, "unauthenticated");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            bodies.push(answer.text);
        }
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "all alike");
}

#[tokio::test]
async fn a_scope_opens_its_own_routes_and_no_other() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let unknown = Things::unknown();
    for scope in Scope::ALL {
        let only = tenant.key_with(&[scope]).await;
        let others: Vec<Scope> = Scope::ALL
            .into_iter()
            .filter(|other| *other != scope)
            .collect();
        let all_others = tenant.key_with(&others).await;
        let mut opened = 0;
        for route in routes() {
            let (path, body) = (unknown.path(&route), body_of(&route));
            let with_it = send(&api, Some(&only), &route, &path, body.as_ref()).await;
            let without = send(&api, Some(&all_others), &route, &path, body.as_ref()).await;
            let Some(needed) = route.scope else {
                for answer in [with_it, without] {
                    assert!(answer.status.is_success(), "{route:?}: {answer:?}");
                }
                continue;
            };
            let refused = if needed == scope {
                if route.path == "/v1/view-links" {
                    // Let in, and told that it cannot give what it has not.
                    let told = with_it.expect_problem(403, "scope_missing");
                    assert!(told.text.contains("\\\"read\\\""), "{told:?}");
                } else {
                    let open = with_it.status.is_success() || with_it.status == 404;
                    assert!(open, "{scope} opens {route:?}: {with_it:?}");
                }
                opened += 1;
                without
            } else {
                with_it
            };
            let refused = refused.expect_problem(403, "scope_missing");
            let named = format!("\\\"{needed}\\\"");
            assert!(refused.text.contains(&named), "{route:?}: {refused:?}");
        }
        assert!(opened > 0, "{scope} opens nothing");
    }
}

/// Over the API as by SQL: who, what, to what, in the log of the tenant, by the request that did it.
#[tokio::test]
async fn every_administrative_route_leaves_an_entry_in_the_audit_log() {
    let api = Api::start().await;
    for route in routes() {
        let tenant = api.tenant().await;
        let mut things = Things::of(&tenant).await;
        prepare(&route, &tenant, &mut things).await;
        // Another key than the one that made everything.
        let made = json!({ "name": "auditor", "scopes": ["publish", "read", "manage", "replay"] });
        let made = tenant.post("/v1/api-keys", &made).await.expect(201);
        let (id, key) = (made.text_of("id"), made.text_of("key"));
        let entries = async || {
            let path = format!("/v1/audit-log?actor={id}&limit=200");
            tenant.get(&path).await.expect(200).json()["data"].clone()
        };
        assert_eq!(entries().await, json!([]));
        let all_before = tenant.get("/v1/audit-log?limit=200").await.json();
        let body = body_of(&route);
        let done = send(
            &api,
            Some(&key),
            &route,
            &things.path(&route),
            body.as_ref(),
        )
        .await;
        assert!(done.status.is_success(), "{route:?}: {done:?}");

        let (entries, all) = (
            entries().await,
            tenant.get("/v1/audit-log?limit=200").await.json(),
        );
        let count = |list: &Value| list.as_array().map_or(0, Vec::len);
        let is_administrative = REVEALS.contains(&route.path)
            || (route.method != "GET" && !PUBLISHES.contains(&route.path));
        assert_eq!(
            count(&entries) > 0,
            is_administrative,
            "{route:?}: {entries}"
        );
        assert_eq!(
            count(&all["data"]) - count(&all_before["data"]),
            count(&entries),
            "{route:?}: somebody else is named in {all}"
        );
        let text = entries.to_string();
        for secret in [&key, &tenant.key] {
            assert!(!text.contains(secret.as_str()), "{route:?}: {text}");
        }
        assert!(!text.contains("whsec_"), "{route:?}: {text}");
    }
}

#[tokio::test]
async fn the_audit_log_is_read_latest_first_in_pages() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let endpoint = tenant.endpoint(&json!({})).await;
    for description in ["one", "two", "three"] {
        let body = json!({ "description": description });
        tenant
            .patch(&format!("/v1/endpoints/{endpoint}"), &body)
            .await
            .expect(200);
    }
    let mut seen = Vec::new();
    let mut path = format!("/v1/audit-log?action=endpoint.change&subject={endpoint}&limit=2");
    loop {
        let page = tenant.get(&path).await.expect(200).json();
        for entry in page["data"].as_array().expect("data") {
            seen.push(
                entry["details"]["description"]["to"]
                    .as_str()
                    .expect("a text")
                    .to_owned(),
            );
            assert!(
                entry["id"]
                    .as_str()
                    .is_some_and(|id| id.starts_with("aud_")),
                "{entry}"
            );
            assert!(
                entry["actor"]
                    .as_str()
                    .is_some_and(|actor| actor.starts_with("key_")),
                "{entry}"
            );
        }
        match page["next_cursor"].as_str() {
            Some(cursor) => {
                path = format!("/v1/audit-log?action=endpoint.change&limit=2&cursor={cursor}");
            }
            None => break,
        }
    }
    assert_eq!(seen, ["three", "two", "one"]);
    let refused = tenant
        .get("/v1/audit-log?action=&actor=%00&since=now&cursor=key_1&who=me")
        .await;
    let fields = refused.expect_problem(422, "invalid").fields();
    assert_eq!(fields, ["cursor", "action", "actor", "since", "who"]);
}

/// Values that break programs, wherever the API takes one.
#[tokio::test]
async fn no_value_in_any_place_of_any_route_gets_a_5xx() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let things = Things::of(&tenant).await;
    let long = "x".repeat(70_000);
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    let hostile = [
        json!(null),
        json!(true),
        json!(-1),
        json!(1.5),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!(" "),
        json!("\0"),
        json!("a\0b"),
        json!("\u{feff}"),
        json!("\u{202e}\u{10ffff}"),
        json!("'; DROP TABLE x; --"),
        json!("%s%n"),
        json!("9999-12-31T23:59:60Z"),
        json!("0000-01-01T00:00:00Z"),
        json!("http://[::1]:99999/"),
        json!("$.a ? (@ > 1)"),
        json!(long),
        json!([]),
        json!([null]),
        json!(["\0"]),
        json!([1, [2]]),
        json!([long]),
        json!({}),
        json!({"a": "\0"}),
        json!({"": {}}),
        json!(vec![0; 5000]),
        deep,
    ];
    let members = [
        "type",
        "payload",
        "channels",
        "source",
        "traceparent",
        "idempotency_key",
        "deliver_at",
        "expires_at",
        "ordering_key",
        "reason",
        "url",
        "description",
        "event_types",
        "filter",
        "retry_base_ms",
        "retry_cap_ms",
        "retry_schedule_ms",
        "retry_statuses",
        "attempts_max",
        "age_max_ms",
        "timeout_ms",
        "secret",
        "signing",
        "overlap_s",
        "name",
        "scopes",
        "expires_in_s",
        "headers",
        "auth",
        "client_certificate",
        "concurrency_max",
        "rate_per_minute",
        "rate_burst",
        "schema",
        "mode",
        "unknown",
    ];
    let mut wire = Wire::to(api.address).await;
    for route in routes()
        .into_iter()
        .filter(|route| body_of(route).is_some())
    {
        let path = things.path(&route);
        for member in members {
            for value in &hostile {
                let mut body = body_of(&route).expect("filtered");
                match &mut body {
                    Value::Array(items) => items[0][member] = value.clone(),
                    body => body[member] = value.clone(),
                }
                // As bytes on one connection: thousands of requests, and none may leave it out of step.
                let text = request(
                    route.method.as_str(),
                    &path,
                    &tenant.key,
                    JSON,
                    &body.to_string(),
                );
                wire.send(text).await;
                let answer = wire.answer().await;
                assert!(
                    answer.status < 500,
                    "{route:?} {member} {value:.100}: {answer:?}"
                );
            }
        }
    }
    let texts = [
        "",
        "%00",
        "a%00",
        "%ff",
        "0",
        "-1",
        "99999999999999999999",
        "null",
        "%F0%9F%98%80",
        &"x".repeat(5000),
    ];
    let parameters = [
        "limit",
        "cursor",
        "status",
        "endpoint",
        "event_type",
        "since",
        "until",
        "action",
        "actor",
        "subject",
        "order",
    ];
    for route in routes().into_iter().filter(|route| route.method == "GET") {
        for text in texts {
            for parameter in parameters {
                let path = format!("{}?{parameter}={text}", things.path(&route));
                wire.send(request("GET", &path, &tenant.key, "", "")).await;
                let answer = wire.answer().await;
                assert!(answer.status < 500, "{path}: {answer:?}");
            }
        }
        for id in [
            "x",
            "%00",
            "evt_",
            "ep_zz",
            "key_00000000-0000-0000-0000-000000000000",
            &"0".repeat(5000),
        ] {
            let mut parts = route.path.split('/').collect::<Vec<_>>();
            if let Some(at) = parts.iter().position(|part| part.starts_with('{')) {
                parts[at] = id;
                wire.send(request("GET", &parts.join("/"), &tenant.key, "", ""))
                    .await;
                assert_eq!(wire.answer().await.status, 404, "{parts:?}");
            }
        }
    }
}

#[tokio::test]
async fn unknown_routes_and_methods_say_so() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let paths = [
        "/",
        "/v1",
        "/v1/event",
        "/v1/events/",
        "/v1/events/a/b",
        "/v1/events/%FF",
    ];
    for path in paths {
        tenant.get(path).await.expect_problem(404, "not_found");
    }
    for path in ["/v1/events", "/v1/endpoints"] {
        let answer = tenant
            .delete(path)
            .await
            .expect_problem(405, "method_not_allowed");
        let mut allowed: Vec<&str> = answer.header("allow").expect("Allow").split(',').collect();
        allowed.sort_unstable();
        assert_eq!(allowed, ["GET", "HEAD", "POST"], "{path}");
    }
}
