//! CloudEvents, in each of their three modes.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Api, Tenant};

const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

pub(crate) async fn structured(tenant: &Tenant<'_>, text: &str) -> Answer {
    let request = tenant
        .request(Method::POST, "/v1/events")
        .header("content-type", STRUCTURED)
        .body(text.to_owned());
    Answer::of(request).await
}

async fn binary(tenant: &Tenant<'_>, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut request = tenant
        .request(Method::POST, "/v1/events")
        .body(body.to_vec());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::of(request).await
}

/// What is stored, and so what is signed and sent.
async fn payload(api: &Api) -> String {
    let client = api.database.client().await;
    let row = client
        .query_one(
            "SELECT payload FROM zyven.events ORDER BY id DESC LIMIT 1",
            &[],
        )
        .await
        .expect("an event");
    String::from_utf8(row.get(0)).expect("UTF-8")
}

#[tokio::test]
async fn a_structured_event_is_the_payload_as_it_came() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let text = r#"{ "type":"invoice.paid", "specversion":"1.0", "source":"/erp", "id":"1",
        "subject": null, "comexampleseverity": 3, "time":"2026-01-31T12:00:00+02:00",
        "traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "data": {"z": 1.10, "a": [1E2]} }"#;
    let answer = structured(&tenant, text).await.expect(202);
    assert_eq!(answer.text_of("type"), "invoice.paid");
    assert_eq!(payload(&api).await, text);
    let event = tenant
        .get(&format!("/v1/events/{}", answer.text_of("id")))
        .await
        .expect(200)
        .json();
    assert_eq!(event["source"], "/erp");
    assert_eq!(
        event["traceparent"],
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    );
}

#[tokio::test]
async fn whatever_mode_it_came_in_it_is_sent_as_a_cloud_event_and_nothing_else_is() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let text = r#"{"specversion":"1.0","type":"a","source":"/s","id":"1"}"#;
    let cloud_event = |id: &str| text.replace("\"1\"", &format!("\"{id}\""));
    let plain = format!(r#"{{"type":"a","payload":{text}}}"#);
    let batch = async |content_type: &str, body: String| {
        let request = tenant
            .request(Method::POST, "/v1/events/batch")
            .header("content-type", content_type)
            .body(body);
        let results = Answer::of(request).await.expect(202).json()["results"].clone();
        results[1]["id"].as_str().expect("an id").to_owned()
    };
    let with_charset = tenant
        .request(Method::POST, "/v1/events")
        .header(
            "content-type",
            "application/CloudEvents+JSON; charset=UTF-8",
        )
        .body(cloud_event("2"));
    let attributes = [
        ("ce-specversion", "1.0"),
        ("ce-type", "a"),
        ("ce-source", "/s"),
        ("ce-id", "3"),
        ("content-type", "image/png"),
    ];
    let batched = [cloud_event("4"), cloud_event("5")].join(",");
    let accepted = |answer: Answer| answer.expect(202).text_of("id");
    for (id, sent_as) in [
        (accepted(structured(&tenant, text).await), STRUCTURED),
        (accepted(Answer::of(with_charset).await), STRUCTURED),
        (
            accepted(binary(&tenant, &attributes, b"\x89PNG").await),
            STRUCTURED,
        ),
        (batch(BATCH, format!("[{batched}]")).await, STRUCTURED),
        // The same bytes as a payload are what they are called.
        (
            accepted(tenant.publish_text(&plain).await),
            "application/json",
        ),
        (
            batch("application/x-ndjson", format!("{plain}\n{plain}")).await,
            "application/json",
        ),
    ] {
        let event = tenant.get(&format!("/v1/events/{id}")).await.expect(200);
        assert_eq!(event.text_of("content_type"), sent_as, "{event:?}");
        let listed = tenant.get("/v1/events?limit=200").await.expect(200).json();
        let mut items = listed["data"].as_array().expect("a page").iter();
        let item = items.find(|item| item["id"] == id).expect("the event");
        assert_eq!(item["content_type"], sent_as);
    }
}

#[tokio::test]
async fn source_and_id_make_it_the_same_event() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let event = |source: &str, id: &str, n: u32| {
        json!({ "specversion": "1.0", "type": "a", "source": source, "id": id, "data": n })
            .to_string()
    };
    let first = structured(&tenant, &event("/s", "1", 1)).await.expect(202);
    let again = structured(&tenant, &event("/s", "1", 1)).await.expect(200);
    assert_eq!(again.text_of("id"), first.text_of("id"));
    structured(&tenant, &event("/s", "1", 2))
        .await
        .expect_problem(409, "idempotency_conflict");
    structured(&tenant, &event("/s", "2", 1)).await.expect(202);
    structured(&tenant, &event("/t", "1", 1)).await.expect(202);
    // Another tenant's events are others, and a key in the header is what its sender wants it to be.
    let other = api.tenant().await;
    structured(&other, &event("/s", "1", 2)).await.expect(202);
    let request = tenant
        .request(Method::POST, "/v1/events")
        .header("content-type", STRUCTURED)
        .header("idempotency-key", "mine")
        .body(event("/s", "1", 2));
    Answer::of(request).await.expect(202);
}

#[tokio::test]
async fn a_binary_event_becomes_the_same_one_in_structured_mode() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let attributes = [
        ("ce-specversion", "1.0"),
        ("ce-type", "invoice.paid"),
        ("ce-source", "/erp"),
        ("ce-id", "\"a \\\"1\\\"\""),
        ("ce-subject", "Z%C3%BCrich%20%F0%9F%98%80"),
    ];
    let typed = |content_type| [&attributes[..], &[("content-type", content_type)]].concat();
    let json_type = typed("application/json");
    binary(&tenant, &json_type, b" {\"z\": 1.10}\n")
        .await
        .expect(202);
    assert_eq!(
        payload(&api).await,
        r#"{"id":"a \"1\"","source":"/erp","specversion":"1.0","subject":"Zürich 😀","type":"invoice.paid","datacontenttype":"application/json","data": {"z": 1.10}
}"#
    );
    // In another order it is the same event still.
    let mut turned = json_type.clone();
    turned.reverse();
    binary(&tenant, &turned, b" {\"z\": 1.10}\n")
        .await
        .expect(200);

    for (content_type, body, data) in [
        (
            "image/png",
            &b"\x89PNG"[..],
            json!({ "data_base64": "iVBORw==" }),
        ),
        (
            "text/plain; x=a%20b",
            b"hello",
            json!({ "data_base64": "aGVsbG8=" }),
        ),
        (
            "application/vnd.x+json; charset=utf-8",
            b"[1]",
            json!({ "data": [1] }),
        ),
        ("application/xml", b"", json!({})),
    ] {
        let other = api.tenant().await;
        binary(&other, &typed(content_type), body).await.expect(202);
        let mut expected = json!({
            "specversion": "1.0", "type": "invoice.paid", "source": "/erp", "id": "a \"1\"",
            "subject": "Zürich 😀", "datacontenttype": content_type,
        });
        for (name, value) in data.as_object().expect("an object") {
            expected[name] = value.clone();
        }
        let stored: Value = serde_json::from_str(&payload(&api).await).expect("JSON");
        assert_eq!(stored, expected);
    }
    // Without a type, data is JSON, and there need not be any.
    let other = api.tenant().await;
    binary(&other, &attributes, b"").await.expect(202);
    assert!(!payload(&api).await.contains("data"));
}

#[tokio::test]
async fn a_body_cannot_add_attributes() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-type", "a"),
        ("ce-source", "/s"),
        ("ce-id", "1"),
        ("content-type", "application/json"),
    ];
    for body in [r#"1,"subject":"x""#, r#"1}{"a":1"#, "{"] {
        binary(&tenant, &headers, body.as_bytes())
            .await
            .expect_problem(400, "body_not_json");
    }
    let twice = binary(&tenant, &headers, br#"{"a":1,"a":2}"#).await;
    assert_eq!(twice.expect_problem(422, "invalid").fields(), ["data"]);
    binary(&tenant, &headers, b"\"\xff\"")
        .await
        .expect_problem(400, "body_not_utf8");
    for (name, field) in [
        ("ce-data", "ce-data"),
        ("ce-datacontenttype", "ce-datacontenttype"),
        // Sent a second time.
        ("ce-id", "ce-id"),
        ("ce-data_base64", "ce-data_base64"),
        ("ce-com.example", "ce-com.example"),
        ("ce-", "ce-"),
    ] {
        for body in [&b"{}"[..], b""] {
            let answer = binary(&tenant, &[&headers[..], &[(name, "e30=")]].concat(), body).await;
            assert_eq!(
                answer.expect_problem(422, "invalid").fields(),
                [field],
                "{name}"
            );
        }
    }
    for (value, rule) in [("%FF", "UTF-8"), ("\u{e9}", "ASCII"), ("%00", "control")] {
        let answer = binary(
            &tenant,
            &[&headers[..], &[("ce-subject", value)]].concat(),
            b"{}",
        )
        .await
        .expect_problem(422, "invalid");
        assert!(answer.text.contains(rule), "{}", answer.text);
    }
    assert_eq!(api.count("SELECT count(*) FROM zyven.events").await, 0);
}

/// Whoever wrote headers is told of headers.
#[tokio::test]
async fn what_is_wrong_with_attributes_in_headers_is_told_with_the_headers_names() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let wrong = [
        ("ce-specversion", "0.3"),
        ("ce-source", "a b"),
        ("ce-time", "yesterday"),
        ("ce-zyvenorderingkey", "a b"),
        ("idempotency-key", "a b"),
        ("content-type", ""),
    ];
    let refused = binary(&tenant, &wrong, b"").await;
    let mut fields = refused.expect_problem(422, "invalid").fields();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "Content-Type",
            "Idempotency-Key",
            "ce-id",
            "ce-source",
            "ce-specversion",
            "ce-time",
            "ce-type",
            "ce-zyvenorderingkey",
        ]
    );
}

/// Sent under the name of another format, it would otherwise be told of each of its attributes.
#[tokio::test]
async fn a_cloud_event_sent_as_json_is_told_its_content_type() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let event = json!({ "specversion": "1.0", "type": "a", "source": "/s", "id": "1", "subject": "x", "data": 1 });
    let one = tenant.post("/v1/events", &event).await;
    let path = "/v1/events/batch";
    let many = tenant.post(path, &json!([event, event])).await;
    let line = tenant
        .request(Method::POST, path)
        .header("content-type", "application/x-ndjson")
        .body(event.to_string());
    let line = Answer::of(line).await;
    for (answer, fields) in [
        (one, &["specversion"][..]),
        (many, &["[0].specversion", "[1].specversion"]),
        (line, &["[0].specversion"]),
    ] {
        let refused = answer.expect_problem(422, "invalid");
        assert_eq!(refused.fields(), fields);
        for content_type in [STRUCTURED, BATCH] {
            assert!(refused.text.contains(content_type), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn a_batch_holds_cloud_events_each_with_its_own_result() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let event = |id: &str, n: u32| json!({ "specversion": "1.0", "type": "a", "source": "/s", "id": id, "data": n });
    let batch = async |events: Value| {
        let request = tenant
            .request(Method::POST, "/v1/events/batch")
            .header("content-type", BATCH)
            .body(events.to_string());
        Answer::of(request).await
    };
    batch(json!([event("1", 1), event("2", 1)]))
        .await
        .expect(202);
    let answer = batch(json!([event("1", 1), event("2", 2), event("3", 1)]))
        .await
        .expect(207)
        .json();
    let statuses: Vec<&Value> = answer["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|result| &result["status"])
        .collect();
    assert_eq!(statuses, [200, 409, 202]);
    let answer =
        batch(json!([event("9", 1), { "specversion": "0.3" }, { "type": "a", "payload": 1 }]))
            .await
            .expect_problem(422, "invalid");
    let fields = answer.fields();
    for field in ["[1].specversion", "[1].id", "[2].specversion", "[2].source"] {
        assert!(
            fields.iter().any(|known| known == field),
            "{field} in {fields:?}"
        );
    }
}

#[tokio::test]
async fn what_is_wrong_is_named_as_the_specification_names_it() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let right = json!({ "specversion": "1.0", "type": "a", "source": "/s", "id": "1" });
    let past = "2020-01-01T00:00:00Z";
    let far = "2222-01-01T00:00:00Z";
    for (name, value) in [
        ("specversion", json!("0.3")),
        ("specversion", json!(1.0)),
        ("id", json!("")),
        ("id", json!("x".repeat(1_025))),
        ("id", json!("a\u{7}")),
        ("id", json!(null)),
        ("source", json!("a b")),
        ("type", json!("com.example/thing")),
        ("subject", json!("")),
        ("time", json!("yesterday")),
        ("dataschema", json!(7)),
        ("data_base64", json!("%")),
        ("traceparent", json!("00-1-2-3")),
        ("expirytime", json!(past)),
        ("zyvendeliverat", json!(far)),
        ("zyvenchannels", json!("a,,b")),
        ("zyvenchannels", json!("c,".repeat(10) + "c")),
        ("zyvenorderingkey", json!("")),
        ("myExtension", json!("x")),
        ("my-extension", json!("x")),
        ("extension", json!({})),
        ("extension", json!(["x"])),
        ("extension", json!("a\u{0}b")),
        ("data", json!("a\u{0}b")),
    ] {
        let mut event = right.clone();
        event[name] = value;
        let answer = structured(&tenant, &event.to_string()).await;
        let fields = answer.expect_problem(422, "invalid").fields();
        assert_eq!(fields.first().map(String::as_str), Some(name), "{event}");
    }
    let both = json!({ "specversion": "1.0", "type": "a", "source": "/s", "id": "1", "data": 1, "data_base64": "" });
    let answer = structured(&tenant, &both.to_string()).await;
    assert_eq!(
        answer.expect_problem(422, "invalid").fields(),
        ["data_base64"]
    );
    structured(&tenant, "[]")
        .await
        .expect_problem(422, "invalid");
    structured(&tenant, "{")
        .await
        .expect_problem(400, "body_not_json");
    // Batches have a place of their own, and other formats none.
    for content_type in [
        BATCH,
        "application/cloudevents+avro",
        "application/cloudevents",
    ] {
        let request = tenant
            .request(Method::POST, "/v1/events")
            .header("content-type", content_type)
            .header("ce-specversion", "1.0")
            .body("[]");
        Answer::of(request)
            .await
            .expect_problem(415, "content_type_unsupported");
    }
    assert_eq!(api.count("SELECT count(*) FROM zyven.events").await, 0);
}

#[tokio::test]
async fn extensions_say_what_to_do_with_an_event() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    tenant.endpoint(&json!({ "channels": ["eu"] })).await;
    let event = json!({
        "specversion": "1.0", "type": "a", "source": "/s", "id": "1",
        "zyvenchannels": "eu, us", "zyvenorderingkey": "customer-7",
        "expirytime": "2222-01-01T00:00:00Z",
    });
    let answer = structured(&tenant, &event.to_string()).await.expect(202);
    assert_eq!(answer.json()["deliveries"], 1);
    let read = tenant
        .get(&format!("/v1/events/{}", answer.text_of("id")))
        .await
        .expect(200)
        .json();
    assert_eq!(read["channels"], json!(["eu", "us"]));
    assert_eq!(read["ordering_key"], "customer-7");
    assert_eq!(read["expires_at"], "2222-01-01T00:00:00Z");
}
