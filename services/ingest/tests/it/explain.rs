//! Why an event has a delivery to each endpoint, or has none.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use zyven_domain::api_key::Scope;
use zyven_domain::retry::DeadLetterReason;
use zyven_store::EXPLANATION_CODES;

use crate::support::{Answer, Api, Tenant};

pub(crate) async fn explain_event(tenant: &Tenant<'_>, event: &str) -> Value {
    let answer = tenant.get(&format!("/v1/events/{event}/explain")).await;
    answer.expect(200).json()
}

/// What is said of an endpoint.
#[track_caller]
fn of<'a>(explained: &'a Value, endpoint: &str) -> &'a Value {
    let data = explained["data"].as_array().expect("data");
    let found: Vec<&Value> = data
        .iter()
        .filter(|item| item["endpoint"] == endpoint)
        .collect();
    assert_eq!(found.len(), 1, "{endpoint} in {explained}");
    found[0]
}

#[track_caller]
fn check(explained: &Value, endpoint: &str, expected: (bool, &str, &str)) {
    let item = of(explained, endpoint);
    let (matched, code, judged_by) = expected;
    assert_eq!(item["matched"], matched, "{item}");
    assert_eq!(item["code"], code, "{item}");
    assert_eq!(item["judged_by"], judged_by, "{item}");
    assert_eq!(item["delivery"].is_object(), matched, "{item}");
    let sentence = item["sentence"].as_str().expect("a sentence");
    assert!(sentence.ends_with('.'), "{item}");
}

/// Code by endpoint.
fn codes(explained: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let data = explained["data"].as_array().expect("data");
    data.iter()
        .map(|item| (text(&item["endpoint"]), text(&item["code"])))
        .collect()
}

async fn endpoint_action(tenant: &Tenant<'_>, endpoint: &str, action: &str) {
    let path = format!("/v1/endpoints/{endpoint}/{action}");
    tenant.push(&path).await.expect(200);
}

async fn delete(tenant: &Tenant<'_>, endpoint: &str) {
    let path = format!("/v1/endpoints/{endpoint}");
    tenant.delete(&path).await.expect(204);
}

const RECORD: &str = "record";
const UNCHANGED: &str = "unchanged_configuration";
const PRESENT: &str = "present_configuration";

#[tokio::test]
async fn each_endpoint_is_told_with_the_reason_why_it_got_the_event_or_did_not() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let everything = tenant.endpoint(&json!({})).await;
    let other_type = tenant.endpoint(&json!({ "event_types": ["b.*"] })).await;
    let other_channel = tenant.endpoint(&json!({ "channels": ["eu"] })).await;
    let too_little = tenant.endpoint(&json!({ "filter": "$.amount > 9" })).await;
    let enough = tenant.endpoint(&json!({ "filter": "$.amount > 8" })).await;
    let disabled = tenant.endpoint(&json!({})).await;
    let deleted = tenant.endpoint(&json!({})).await;
    let deleted_before = tenant.endpoint(&json!({})).await;
    for off in [&disabled, &deleted] {
        endpoint_action(&tenant, off, "disable").await;
    }
    delete(&tenant, &deleted_before).await;
    let stranger = api.tenant().await;
    let strangers = stranger.endpoint(&json!({})).await;

    let event = tenant
        .publish_text(r#"{"type": "a.b", "payload": {"amount": 9}, "channels": ["us"]}"#)
        .await
        .expect(202)
        .text_of("id");
    let later = tenant.endpoint(&json!({})).await;
    let explained = explain_event(&tenant, &event).await;
    assert_eq!(explained["event"]["id"], event);
    assert_eq!(explained["event"]["type"], "a.b");
    assert_eq!(explained["event"]["channels"], json!(["us"]));
    assert_eq!(explained["queue"], "not_configured");
    for (endpoint, expected) in [
        (&everything, (true, "matched", RECORD)),
        (&enough, (true, "matched", RECORD)),
        (&other_type, (false, "event_type", UNCHANGED)),
        (&other_channel, (false, "channel", UNCHANGED)),
        (&too_little, (false, "filter", UNCHANGED)),
        (&disabled, (false, "disabled", UNCHANGED)),
        (&deleted, (false, "disabled", UNCHANGED)),
        (&later, (false, "created_later", RECORD)),
    ] {
        check(&explained, endpoint, expected);
    }
    for (endpoint, event_types, channels, filter) in [
        (&everything, json!(["*"]), json!([]), json!(null)),
        (&other_type, json!(["b.*"]), json!([]), json!(null)),
        (&other_channel, json!(["*"]), json!(["eu"]), json!(null)),
        (&too_little, json!(["*"]), json!([]), json!("$.amount > 9")),
    ] {
        let item = of(&explained, endpoint);
        assert_eq!(item["event_types"], event_types, "{item}");
        assert_eq!(item["channels"], channels, "{item}");
        assert_eq!(item["filter"], filter, "{item}");
    }
    let told = codes(&explained);
    assert_eq!(told.len(), 8, "no more endpoints than these: {told:?}");
    assert!(!told.contains_key(&strangers) && !told.contains_key(&deleted_before));

    // What has changed since is judged by what it is now, and says so.
    let path = format!("/v1/endpoints/{other_type}");
    let changed = tenant.patch(&path, &json!({ "event_types": ["*"] })).await;
    let changed_at = changed.expect(200).json()["updated_at"].clone();
    let path = format!("/v1/endpoints/{other_channel}");
    let moved = json!({ "channels": ["asia"] });
    tenant.patch(&path, &moved).await.expect(200);
    delete(&tenant, &deleted).await;
    endpoint_action(&tenant, &everything, "pause").await;
    let explained = explain_event(&tenant, &event).await;
    for (endpoint, expected) in [
        (&everything, (true, "matched", RECORD)),
        (&other_type, (false, "no_delivery", PRESENT)),
        (&other_channel, (false, "channel", PRESENT)),
        (&deleted, (false, "deleted", PRESENT)),
    ] {
        check(&explained, endpoint, expected);
    }
    let item = of(&explained, &other_type);
    assert_eq!(item["endpoint_updated_at"], changed_at);
    assert_eq!(item["event_types"], json!(["*"]), "as it is now: {item}");
    assert_eq!(of(&explained, &other_channel)["channels"], json!(["asia"]));
}

/// Who gets an event does not depend on where it goes, how it is signed, or how fast.
#[tokio::test]
async fn a_change_of_something_else_makes_what_is_told_of_the_past_no_less_certain() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let endpoint = tenant.endpoint(&json!({ "event_types": ["b"] })).await;
    let path = format!("/v1/endpoints/{endpoint}");
    let event = tenant.publish("a").await;
    let read = tenant.get(&path).await.expect(200).json();
    for (action, body) in [
        ("rotate-secret", json!({ "overlap_s": 60 })),
        ("pause", json!({})),
        ("resume", json!({})),
    ] {
        let path = format!("{path}/{action}");
        tenant.post(&path, &body).await.expect(200);
    }
    let elsewhere = json!({ "url": "https://example.com/elsewhere", "description": "another", "attempts_max": 3 });
    let changed = tenant.patch(&path, &elsewhere).await.expect(200).json();
    assert_ne!(changed["updated_at"], read["updated_at"]);
    let explained = explain_event(&tenant, &event).await;
    check(&explained, &endpoint, (false, "event_type", UNCHANGED));
    let item = of(&explained, &endpoint);
    assert_eq!(item["endpoint_updated_at"], changed["updated_at"]);

    for (change, code) in [
        (json!({ "channels": ["eu"] }), "event_type"),
        (json!({ "filter": "$.a == 1" }), "event_type"),
        (json!({ "event_types": ["a"] }), "channel"),
    ] {
        let event = tenant.publish("a").await;
        let before = explain_event(&tenant, &event).await;
        assert_eq!(of(&before, &endpoint)["judged_by"], UNCHANGED, "{change}");
        tenant.patch(&path, &change).await.expect(200);
        let explained = explain_event(&tenant, &event).await;
        check(&explained, &endpoint, (false, code, PRESENT));
    }
    let event = tenant.publish("a").await;
    endpoint_action(&tenant, &endpoint, "disable").await;
    let explained = explain_event(&tenant, &event).await;
    check(&explained, &endpoint, (false, "channel", PRESENT));
}

#[tokio::test]
async fn a_test_event_is_explained_as_one_and_has_no_namesake() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let tried = tenant.endpoint(&json!({ "event_types": ["a"] })).await;
    let other = tenant.endpoint(&json!({})).await;
    let test = tenant.push(&format!("/v1/endpoints/{tried}/test")).await;
    let test = test.expect(202).text_of("event");
    let explained = explain_event(&tenant, &test).await;
    check(&explained, &tried, (true, "test_event", RECORD));
    check(&explained, &other, (false, "other_endpoints_test", RECORD));

    let namesake = json!({ "type": "zyven.test", "payload": {} });
    let refused = tenant.post("/v1/events", &namesake).await;
    let refused = refused.expect_problem(422, "invalid");
    assert_eq!(refused.fields(), ["type"]);
}

/// Explaining and routing are written apart, as a route tells nothing about those it leaves out.
#[tokio::test]
async fn what_is_said_of_endpoints_is_what_routing_does() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    for patterns in [json!(["*"]), json!(["a.*", "b"]), json!(["a.b.c", "a"])] {
        for channels in [json!([]), json!(["x"]), json!(["y", "z"])] {
            for filter in [Value::Null, json!("$.n == 1"), json!("exists($.l[*].m)")] {
                let members = json!({
                    "event_types": patterns, "channels": channels, "filter": filter,
                });
                tenant.endpoint(&members).await;
            }
        }
    }
    let client = api.database.client().await;
    let mut matching = 0;
    for event_type in ["a", "b", "a.b", "a.b.c", "ab"] {
        for channels in [json!([]), json!(["x"]), json!(["z", "w"])] {
            for payload in [
                json!({ "n": 1 }),
                json!({ "l": [{ "m": 2 }] }),
                json!(1e-300),
            ] {
                let event = json!({
                    "type": event_type, "channels": channels, "payload": payload,
                });
                let event = tenant.post("/v1/events", &event).await.expect(202);
                let (event, deliveries) = (event.text_of("id"), event.json()["deliveries"].clone());
                let by_record = codes(&explain_event(&tenant, &event).await);
                assert_eq!(by_record.len(), 27);
                let matched = by_record.values().filter(|code| *code == "matched").count();
                assert_eq!(json!(matched), deliveries);
                matching += matched;
                // Without the record, the configuration says the same.
                client
                    .execute(
                        "DELETE FROM zyven.outbox WHERE event_id = zyven.untyped_id('evt', $1)",
                        &[&event],
                    )
                    .await
                    .expect("deleted");
                let mut judged = codes(&explain_event(&tenant, &event).await);
                for code in judged.values_mut() {
                    assert_ne!(code, "matched");
                    if code == "no_delivery" {
                        "matched".clone_into(code);
                    }
                }
                assert_eq!(judged, by_record, "{event_type} {channels} {payload}");
            }
        }
    }
    assert!(matching > 50, "{matching}");
}

#[tokio::test]
async fn filters_are_not_asked_beyond_what_takes_some_seconds() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let mut walking = Vec::new();
    for _ in 0..65 {
        walking.push(tenant.endpoint(&json!({ "filter": "$.a[*] == 1" })).await);
    }
    let event = tenant.publish("a").await;
    // Larger than the API takes: what is gone through is payload bytes times filters, 64 MiB at most.
    let sql = "UPDATE zyven.events SET payload = convert_to('\"' || repeat('x', 1048574) || '\"', 'UTF8')";
    let client = api.database.client().await;
    client.execute(sql, &[]).await.expect("an event of 1 MiB");
    let path = format!("/v1/events/{event}/explain?limit=200");
    let explained = tenant.get(&path).await.expect(200).json();
    for endpoint in &walking[..64] {
        check(&explained, endpoint, (false, "filter", UNCHANGED));
    }
    check(
        &explained,
        &walking[64],
        (false, "filter_not_asked", UNCHANGED),
    );
    // A smaller page asks it.
    let path = format!("/v1/events/{event}/explain?cursor={}", walking[63]);
    let rest = tenant.get(&path).await.expect(200).json();
    check(&rest, &walking[64], (false, "filter", UNCHANGED));
}

#[tokio::test]
async fn many_endpoints_are_explained_page_by_page() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    for _ in 0..5 {
        tenant.endpoint(&json!({})).await;
    }
    let event = tenant.publish("a").await;
    let whole = explain_event(&tenant, &event).await;
    assert_eq!(whole["next_cursor"], Value::Null);
    let mut seen = Vec::new();
    let mut path = format!("/v1/events/{event}/explain?limit=2");
    let mut pages = 0;
    loop {
        let page = tenant.get(&path).await.expect(200).json();
        pages += 1;
        seen.extend(page["data"].as_array().expect("data").clone());
        assert_eq!(page["event"], whole["event"]);
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/v1/events/{event}/explain?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!((pages, Value::Array(seen)), (3, whole["data"].clone()));
    let path = format!("/v1/events/{event}/explain?limit=201&cursor={event}&since=now");
    let refused = tenant.get(&path).await.expect_problem(422, "invalid");
    assert_eq!(refused.fields(), ["limit", "cursor", "since"]);
}

#[tokio::test]
async fn explanations_need_the_scope_read_and_are_of_ones_own_things() {
    let api = Api::start().await;
    let (tenant, stranger) = (api.tenant().await, api.tenant().await);
    let endpoint = tenant.endpoint(&json!({})).await;
    stranger.endpoint(&json!({})).await;
    let event = tenant.publish("a").await;
    let explained = explain_event(&tenant, &event).await;
    let delivery = of(&explained, &endpoint)["delivery"]["id"].clone();
    let delivery = delivery.as_str().expect("an id");
    let reader = tenant.key_with(&[Scope::Read]).await;
    let others = [Scope::Publish, Scope::Manage, Scope::Replay];
    let publisher = tenant.key_with(&others).await;
    for path in [
        format!("/v1/events/{event}/explain"),
        format!("/v1/deliveries/{delivery}/explain"),
    ] {
        let with =
            async |key: &str| Answer::of(api.http.get(api.url(&path)).bearer_auth(key)).await;
        with(&reader).await.expect(200);
        with(&publisher).await.expect_problem(403, "scope_missing");
        stranger.get(&path).await.expect_problem(404, "not_found");
    }
}

/// An operator's psql and the API say the same, as they ask the same functions.
#[tokio::test]
async fn sql_says_what_the_api_says() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    tenant.endpoint(&json!({})).await;
    tenant.endpoint(&json!({ "event_types": ["b"] })).await;
    tenant.endpoint(&json!({ "filter": "$.a == 1" })).await;
    let event = tenant.publish("a").await;
    let explained = explain_event(&tenant, &event).await;
    let client = api.database.client().await;
    let sql =
        "SELECT endpoint, matched, code, sentence, delivery, state::text FROM zyven.explain($1)";
    let rows = client.query(sql, &[&event]).await.expect("rows");
    let data = explained["data"].as_array().expect("data");
    assert_eq!(rows.len(), data.len());
    for (row, item) in rows.iter().zip(data) {
        // A delivery's own reason says more than that it matched.
        let reason = match item["delivery"].is_null() {
            true => item,
            false => &item["delivery"],
        };
        let columns = json!({
            "endpoint": row.get::<_, String>(0), "matched": row.get::<_, bool>(1),
            "code": row.get::<_, String>(2), "sentence": row.get::<_, String>(3),
            "delivery": row.get::<_, Option<String>>(4), "state": row.get::<_, Option<String>>(5),
        });
        let shown = json!({
            "endpoint": item["endpoint"], "matched": item["matched"],
            "code": reason["code"], "sentence": reason["sentence"],
            "delivery": item["delivery"]["id"], "state": item["delivery"]["status"],
        });
        assert_eq!(columns, shown);
        if let Some(delivery) = row.get::<_, Option<String>>(4) {
            let alone = client.query(sql, &[&delivery]).await.expect("rows");
            assert_eq!(alone.len(), 1);
            assert_eq!(alone[0].get::<_, String>(2), row.get::<_, String>(2));
        }
    }
    let one = client
        .query(
            "SELECT endpoint FROM zyven.explain($1, endpoints_max => 1)",
            &[&event],
        )
        .await
        .expect("one row");
    let first: String = one[0].get(0);
    let rest = client
        .query(
            "SELECT endpoint FROM zyven.explain($1, after => $2)",
            &[&event, &first],
        )
        .await
        .expect("the others");
    assert_eq!((one.len(), rest.len()), (1, 2));
    for (what, code) in [
        ("evt_00000000000000000000000000000000", "P0002"),
        ("dlv_00000000000000000000000000000000", "P0002"),
        ("nonsense", "22023"),
    ] {
        let refused = client.query(sql, &[&what]).await.expect_err(what);
        assert_eq!(refused.code().map(|code| code.code()), Some(code), "{what}");
    }
}

#[tokio::test]
async fn every_code_has_a_sentence() {
    let api = Api::start().await;
    let client = api.database.client().await;
    let reasons = DeadLetterReason::ALL.map(DeadLetterReason::as_str);
    for code in reasons.into_iter().chain(EXPLANATION_CODES) {
        let row = client
            .query_one("SELECT zyven.explain_sentence($1)", &[&code])
            .await
            .expect("asked");
        let sentence: Option<String> = row.get(0);
        assert!(sentence.is_some_and(|text| text.ends_with('.')), "{code}");
    }
}

#[tokio::test]
async fn an_operational_event_is_not_for_the_endpoint_it_is_about() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let patterns = json!({ "event_types": ["zyven.*", "a"] });
    let itself = tenant.endpoint(&patterns).await;
    let told = tenant.endpoint(&patterns).await;
    let other = tenant.endpoint(&json!({ "event_types": ["b"] })).await;
    let unasked = tenant.endpoint(&json!({})).await;
    for endpoint in [&itself, &unasked] {
        endpoint_action(&tenant, endpoint, "disable").await;
    }
    let client = api.database.client().await;
    let about = async |endpoint: &str| -> String {
        const ABOUT: &str = "
            SELECT zyven.typed_id('evt', id)
              FROM zyven.events
             WHERE type = 'zyven.endpoint.disabled'
               AND convert_from(payload, 'UTF8')::jsonb ->> 'endpoint_id' = $1";
        let row = client.query_one(ABOUT, &[&endpoint]).await;
        row.expect("it was told").get(0)
    };
    let event = about(&itself).await;
    let explained = explain_event(&tenant, &event).await;
    check(&explained, &itself, (false, "about_itself", RECORD));
    check(&explained, &told, (true, "matched", RECORD));
    check(&explained, &other, (false, "event_type", UNCHANGED));
    let sentence = of(&explained, &itself)["sentence"].clone();
    assert!(sentence.to_string().contains("about this"), "{sentence}");
    // Nor would it be, if it had asked for such events.
    let explained = explain_event(&tenant, &about(&unasked).await).await;
    check(&explained, &unasked, (false, "about_itself", RECORD));
    check(&explained, &told, (true, "matched", RECORD));

    // What a publisher's payload says has no part in it.
    let payload = json!({ "endpoint_id": other });
    let ordinary = json!({ "type": "c", "payload": payload, "source": "zyven" });
    let ordinary = tenant.post("/v1/events", &ordinary).await.expect(202);
    let explained = explain_event(&tenant, &ordinary.text_of("id")).await;
    check(&explained, &other, (false, "event_type", UNCHANGED));
}
