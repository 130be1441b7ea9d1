//! CloudEvents published in SQL: `zyven.publish` has the rules of the API.

use serde_json::{Value, json};
use zyven_domain::id::TenantId;

use crate::cloud_events::structured;
use crate::support::{Api, Tenant};

/// Publishes a CloudEvent in SQL, with more arguments; returns the event's id, or what is wrong.
async fn in_sql(api: &Api, tenant: TenantId, event: &str, more: &str) -> Result<String, String> {
    let sql = format!(
        "SELECT zyven.publish('{}', 'a', $1::text::json, content_type => 'application/cloudevents+json'{more})",
        tenant.uuid()
    );
    let row = api.database.client().await.query_one(&sql, &[&event]).await;
    match row {
        Ok(row) => Ok(row.get(0)),
        Err(error) => {
            let error = error.as_db_error().expect("PostgreSQL has answered");
            assert_eq!(error.code().code(), "22023", "{error}");
            Err(error.message().to_owned())
        }
    }
}

fn event(members: &Value) -> Value {
    let mut event = json!({ "specversion": "1.0", "type": "a", "source": "/s", "id": "1" });
    for (name, value) in members.as_object().expect("an object") {
        event[name] = value.clone();
    }
    event
}

async fn read(tenant: &Tenant<'_>, id: &str) -> Value {
    let answer = tenant.get(&format!("/v1/events/{id}")).await;
    answer.expect(200).json()
}

#[tokio::test]
async fn a_cloud_event_is_the_same_one_in_sql_and_in_the_api() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    tenant.endpoint(&json!({ "channels": ["eu"] })).await;
    let text = event(&json!({
        "zyvenchannels": "us ,eu", "zyvenorderingkey": "customer-7",
        "expirytime": "2222-01-01t00:00:00.1234567+01:00",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "data": { "amount": 4200 },
    }))
    .to_string();
    let id = in_sql(&api, tenant.id, &text, "").await.expect("published");
    let again = structured(&tenant, &text).await.expect(200);
    assert_eq!(again.text_of("id"), id, "the same key and fingerprint");
    let other = event(&json!({ "data": 1 })).to_string();
    structured(&tenant, &other)
        .await
        .expect_problem(409, "idempotency_conflict");

    let mut in_sql_read = read(&tenant, &id).await;
    assert_eq!(in_sql_read["deliveries"], 1);
    // Another tenant's, by the API, differs in nothing but id and time.
    let second = api.tenant().await;
    second.endpoint(&json!({ "channels": ["eu"] })).await;
    let id = structured(&second, &text).await.expect(202).text_of("id");
    let mut in_api_read = read(&second, &id).await;
    assert_eq!(in_api_read["content_type"], "application/cloudevents+json");
    for read in [&mut in_sql_read, &mut in_api_read] {
        let members = read.as_object_mut().expect("an object");
        members.remove("id");
        members.remove("accepted_at");
    }
    assert_eq!(in_sql_read, in_api_read);
}

#[tokio::test]
async fn arguments_have_the_last_word_but_not_about_what_the_event_is() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let text = event(&json!({
        "zyvenchannels": "eu", "zyvenorderingkey": "k", "expirytime": "2222-01-01T00:00:00Z",
    }))
    .to_string();
    let id = in_sql(&api, tenant.id, &text, "").await.expect("published");
    let given =
        ", idempotency_key => 'mine', channels => '{us}', source => '/s', ordering_key => 'mine',
                  expires_at => '2222-02-02T00:00:00Z'";
    let own = in_sql(&api, tenant.id, &text, given)
        .await
        .expect("published");
    assert_ne!(id, own, "the key is another one");
    let read = read(&tenant, &own).await;
    assert_eq!(read["channels"], json!(["us"]));
    assert_eq!(read["ordering_key"], "mine");
    assert_eq!(read["expires_at"], "2222-02-02T00:00:00Z");

    let refused = async |text: &str, more: &str| in_sql(&api, tenant.id, text, more).await;
    assert_eq!(
        refused(&text, ", source => '/t'").await,
        Err("source must be the same as payload.source if it is given".to_owned())
    );
    let other_type = event(&json!({ "type": "b" })).to_string();
    assert_eq!(
        refused(&other_type, "").await,
        Err("event_type must be the same as payload.type".to_owned())
    );
    assert_eq!(
        refused("[]", "").await,
        Err("payload must be a CloudEvent: a JSON object".to_owned())
    );
    let client = api.database.client().await;
    for content_type in [
        "'text/plain'",
        "''",
        "NULL",
        "'application/json; charset=utf-8'",
    ] {
        let sql = format!(
            "SELECT zyven.publish('{}', 'a', '{{}}', content_type => {content_type})",
            tenant.id.uuid()
        );
        let error = client.query_one(&sql, &[]).await.expect_err(content_type);
        assert_eq!(
            error.as_db_error().map(|error| error.message()),
            Some("content_type must be application/json or application/cloudevents+json")
        );
    }
}

/// What both say alike, as `payload.<attribute> <rule>` in SQL.
const JUDGED_ALIKE: &str = r#"[
    ["specversion", "0.3"], ["specversion", 1.0], ["specversion", null], ["specversion", ""],
    ["id", null], ["id", ""], ["id", 7], ["id", "a\u0007"], ["id", "a\u0085b"],
    ["source", null], ["source", "a b"], ["source", ""], ["source", "\u00e4"],
    ["subject", ""], ["subject", {}], ["subject", "\u007f"], ["datacontenttype", ""], ["dataschema", 7],
    ["time", "yesterday"], ["time", "now"], ["time", "infinity"], ["time", "2026-01-31"], ["time", ""],
    ["time", "2026-02-30T00:00:00Z"], ["time", "2026-01-31T24:00:00Z"], ["time", "2026-01-31T12:00:61Z"],
    ["time", "2026-01-31T12:00:00"], ["time", "2026-01-31T12:00Z"], ["time", " 2026-01-31T12:00:00Z"],
    ["time", "2026-01-31T12:00:00.Z"], ["time", "2026-01-31T12:00:00+0100"], ["time", 1],
    ["expirytime", "tomorrow"], ["zyvendeliverat", "soon"], ["zyvendeliverat", true],
    ["data_base64", "%"], ["data_base64", "QQ"], ["data_base64", "QR=="], ["data_base64", "QUI"],
    ["data_base64", "QUJ="], ["data_base64", "QUJD\n"], ["data_base64", "===="], ["data_base64", 1],
    ["traceparent", 1], ["zyvenchannels", ["a"]], ["zyvenorderingkey", 1],
    ["myExtension", "x"], ["my-extension", null], ["", "x"], ["\u00e4", "x"],
    ["extension", {}], ["extension", ["x"]], ["extension", "a\nb"]
]"#;

/// What both take.
const TAKEN: &str = r#"[
    ["subject", null], ["subject", "Z\u00fcrich \ud83d\ude00"], ["extension", 1.5], ["extension", false], ["extension", null],
    ["time", "2026-01-31T12:00:00Z"], ["time", "2026-01-31t23:59:60.123456789z"], ["time", "2024-02-29 00:00:00-12:30"],
    ["expirytime", "2222-01-01T12:34:60.5Z"], ["expirytime", "2222-12-31t23:59:60.1234567+01:30"],
    ["zyvendeliverat", "2020-01-01 00:00:00.9999999-00:00"],
    ["id", "\u00e4"], ["data", null], ["data", {"A": [1]}], ["data_base64", ""], ["data_base64", "QQ=="],
    ["data_base64", "QUI="], ["data_base64", "QUJD+/8="], ["data_base64", null], ["source", "~!"]
]"#;

#[tokio::test]
async fn cloud_events_are_judged_alike_in_sql_and_in_the_api() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let cases = |text: &str| -> Vec<(String, Value)> { serde_json::from_str(text).expect("cases") };
    for (name, value) in cases(JUDGED_ALIKE) {
        let text = event(&json!({ &name: value })).to_string();
        let problem = structured(&tenant, &text).await;
        let problem = problem.expect_problem(422, "invalid").json();
        let error = &problem["errors"][0];
        assert_eq!(error["field"], name, "{text}");
        let rule = error["rule"].as_str().expect("a rule");
        let said = in_sql(&api, tenant.id, &text, "").await;
        assert_eq!(said, Err(format!("payload.{name} {rule}")), "{text}");
    }
    for (name, value) in cases(TAKEN) {
        // Each is the first one of a tenant of its own.
        let tenant = api.tenant().await;
        let text = event(&json!({ &name: value })).to_string();
        let published = in_sql(&api, tenant.id, &text, "").await;
        let id = published.unwrap_or_else(|said| panic!("{text}: {said}"));
        let again = structured(&tenant, &text).await.expect(200);
        assert_eq!(again.text_of("id"), id, "{text}");
    }
    let both = event(&json!({ "data": null, "data_base64": "" })).to_string();
    let problem = structured(&tenant, &both)
        .await
        .expect_problem(422, "invalid");
    assert_eq!(problem.fields(), ["data_base64"]);
    assert_eq!(
        in_sql(&api, tenant.id, &both, "").await,
        Err("payload.data_base64 must not be sent beside data".to_owned())
    );
    let long = |bytes: usize| event(&json!({ "id": "x".repeat(bytes) })).to_string();
    assert!(in_sql(&api, tenant.id, &long(1_024), "").await.is_ok());
    assert_eq!(
        in_sql(&api, tenant.id, &long(1_025), "").await,
        Err("payload.id must be 1 to 1024 bytes".to_owned())
    );
}

/// What an attribute means to Zyven is told by the name of the argument that says the same.
#[tokio::test]
async fn what_an_event_asks_for_keeps_the_rules_of_the_arguments() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    for (attribute, value, argument) in [
        ("expirytime", "2020-01-01T00:00:00Z", "expires_at"),
        ("zyvendeliverat", "2222-01-01T00:00:00Z", "deliver_at"),
        ("zyvenchannels", "a,,b", "channels"),
        ("zyvenchannels", "", "channels"),
        ("zyvenchannels", "a,a,a,a,a,a,a,a,a,a,a", "channels"),
        ("zyvenorderingkey", "", "ordering_key"),
        ("traceparent", "00-1-2-3", "traceparent"),
    ] {
        let text = event(&json!({ attribute: value })).to_string();
        structured(&tenant, &text)
            .await
            .expect_problem(422, "invalid");
        let said = in_sql(&api, tenant.id, &text, "").await.expect_err(&text);
        assert!(said.starts_with(&format!("{argument} must")), "{said}");
    }
    assert_eq!(api.count("SELECT count(*) FROM zyven.events").await, 0);
}
