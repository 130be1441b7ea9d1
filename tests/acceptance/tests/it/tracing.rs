//! From the publisher's `traceparent` to the receiver's, as a collector sees it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use zyven_testkit::{Answer, Receiver, wait_until};

use crate::stack::{PATIENCE, Spread, Stack, free_port};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PUBLISHERS_SPAN: &str = "b7ad6b7169203331";

/// Publishes with this header, and returns the event's id.
async fn publish(stack: &Stack, traceparent: &str) -> String {
    let request = (stack.http.post(format!("{}/v1/events", stack.api)))
        .bearer_auth(&stack.key)
        .header("traceparent", traceparent)
        .json(&json!({ "type": "a.b", "payload": {} }));
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), 202);
    let accepted: Value = answer.json().await.expect("JSON");
    accepted["id"].as_str().expect("an id").to_owned()
}

/// Every span the collector has taken, with the name of its service.
fn spans(collector: &Receiver) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for request in collector.requests_at("/v1/traces") {
        assert_eq!(request.header("content-type"), "application/json");
        let body: Value = serde_json::from_slice(&request.body).expect("JSON");
        for resource in body["resourceSpans"].as_array().expect("resources") {
            let service = attribute(&resource["resource"], "service.name");
            for scope in resource["scopeSpans"].as_array().expect("scopes") {
                let spans = scope["spans"].as_array().expect("spans").iter();
                all.extend(spans.map(|span| (service.clone(), span.clone())));
            }
        }
    }
    all.sort_by_key(|(_, span)| span["startTimeUnixNano"].as_str().map(str::to_owned));
    all
}

fn attribute(of: &Value, name: &str) -> String {
    let attributes = of["attributes"].as_array().expect("attributes");
    let found = attributes.iter().find(|attribute| attribute["key"] == name);
    let value = &found.unwrap_or_else(|| panic!("{name} in {of}"))["value"];
    let text = value["stringValue"].as_str().or(value["intValue"].as_str());
    text.expect("a text or a number").to_owned()
}

async fn stop(stack: &mut Stack, services: [&str; 2]) {
    for service in services {
        let mut process = stack.take_process(service);
        process.terminate();
        let ended = process.ended(PATIENCE).await;
        assert!(ended.status.success(), "{service}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn a_trace_leads_from_the_publisher_to_the_receiver() {
    let collector = Receiver::start().await;
    let settings = [("ZYVEN_OTLP_ENDPOINT", collector.url(""))];
    let settings = settings
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let mut stack = Stack::start_with(Spread::ProcessEach, &settings).await;
    let hook = json!({ "retry_schedule_ms": [1] });
    stack.endpoint("/hook", hook).await;
    let answers = [503, 200].map(Answer::status);
    stack.receiver.answer_in_turn("/hook", answers);

    let event = publish(&stack, &format!("00-{TRACE}-{PUBLISHERS_SPAN}-01")).await;
    stack.wait_for_state(&event, "DELIVERED").await;
    let unsampled = format!("00-{}-{PUBLISHERS_SPAN}-00", TRACE.replace('0', "1"));
    let silent = publish(&stack, &unsampled).await;
    stack.wait_for_state(&silent, "DELIVERED").await;
    let untraced = stack.publish("a.b", json!({})).await;
    stack.wait_for_state(&untraced, "DELIVERED").await;
    // What is not sent yet is sent at the stop.
    stop(&mut stack, ["ingest", "dispatcher"]).await;

    let spans = spans(&collector);
    let services: Vec<&str> = spans.iter().map(|(service, _)| service.as_str()).collect();
    assert_eq!(
        services,
        ["zyven-ingest", "zyven-dispatcher", "zyven-dispatcher"],
        "of the two others nobody wanted to know"
    );
    let [(_, request), (_, failed), (_, delivered)] = &spans[..] else {
        panic!("{spans:?}");
    };
    for (span, name, kind, parent, status) in [
        (request, "publish", 2, &json!(PUBLISHERS_SPAN), "202"),
        (failed, "attempt", 3, &request["spanId"], "503"),
        (delivered, "attempt", 3, &request["spanId"], "200"),
    ] {
        assert_eq!(span["traceId"], TRACE, "{span}");
        assert_eq!(span["name"], name);
        assert_eq!(span["kind"], kind);
        assert_eq!(&span["parentSpanId"], parent, "{span}");
        assert_eq!(attribute(span, "event.id"), event);
        assert_eq!(attribute(span, "http.response.status_code"), status);
        let time = |name: &str| -> u64 {
            let text = span[name].as_str().expect("a time");
            assert_eq!(text.len(), 19, "nanoseconds since 1970: {text}");
            text.parse().expect("a number")
        };
        assert!(time("startTimeUnixNano") <= time("endTimeUnixNano"));
        for private in ["/hook", "http://", "payload"] {
            assert!(!span.to_string().contains(private), "{private}: {span}");
        }
    }
    assert_eq!(failed["status"]["code"], 2);
    assert_eq!(delivered["status"], Value::Null);
    assert_eq!(attribute(delivered, "attempt.number"), "2");

    let requests = stack.receiver.requests_at("/hook");
    let told: Vec<&str> = (requests.iter())
        .map(|request| request.header("traceparent"))
        .collect();
    let of = |span: &Value| format!("00-{TRACE}-{}-01", span["spanId"].as_str().expect("an id"));
    assert_eq!(told, [&of(failed), &of(delivered), &unsampled, ""]);
}

#[tokio::test]
async fn what_is_refused_is_in_its_publishers_trace() {
    let collector = Receiver::start().await;
    let settings = [("ZYVEN_OTLP_ENDPOINT", collector.url(""))];
    let settings = settings
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let mut stack = Stack::start_with(Spread::ProcessEach, &settings).await;
    let schema = json!({ "type": "object" });
    let checked = json!({ "name": "checked", "schema_mode": "reject", "schema": schema });
    let (status, _) = stack.call("POST", "/v1/event-types", Some(checked)).await;
    assert_eq!(status, 201);
    let wrong = json!({ "type": "checked", "payload": 1 });
    wait_until("the schema is known", PATIENCE, async || {
        let (status, _) = stack.call("POST", "/v1/events", Some(wrong.clone())).await;
        if status == 422 { Ok(()) } else { Err(status) }
    })
    .await;
    let post = async |path: &str, key: &str, body: &str, header: Option<&str>| {
        let mut request = (stack.http.post(format!("{}{path}", stack.api)))
            .bearer_auth(key)
            .header("content-type", "application/json")
            .body(body.to_owned());
        if let Some(header) = header {
            request = request.header("traceparent", header);
        }
        request.send().await.expect("an answer").status().as_u16()
    };
    let place = |span: u32, flags: &str| format!("00-{TRACE}-{span:016x}-{flags}");
    let own = |kind: &str, trace: &str| {
        json!({ "type": kind, "payload": 1, "traceparent": trace }).to_string()
    };
    let mut expected = Vec::new();
    for (path, body, code) in [
        ("/v1/events", "{}".to_owned(), "invalid"),
        ("/v1/events", "{".to_owned(), "body_not_json"),
        (
            "/v1/events",
            r#"{"type": "checked", "payload": 1}"#.to_owned(),
            "schema_mismatch",
        ),
        (
            "/v1/events/batch",
            r#"[{"type": "a"}]"#.to_owned(),
            "invalid",
        ),
        ("/v1/events/batch", "[".to_owned(), "body_not_json"),
        (
            "/v1/events/batch",
            r#"[{"type": "checked", "payload": 1}]"#.to_owned(),
            "schema_mismatch",
        ),
        // What an event says of itself comes before what its request says.
        ("/v1/events", own("", &place(100, "01")), "invalid"),
        (
            "/v1/events",
            own("checked", &place(101, "01")),
            "schema_mismatch",
        ),
    ] {
        let number = u32::try_from(expected.len()).expect("a few") + 1;
        let header = place(number, "01");
        let status = post(path, &stack.key, &body, Some(&header)).await;
        let parent = match code {
            "invalid" if body.contains("traceparent") => 100,
            "schema_mismatch" if body.contains("traceparent") => 101,
            _ => number,
        };
        expected.push((format!("{parent:016x}"), path, status.to_string(), code));
    }
    // Who wants no trace has none, and who has no key has nothing to say.
    for (key, body, header) in [
        (&*stack.key, "{}", Some(place(200, "00"))),
        (
            &*stack.key,
            own("", &place(201, "00")).as_str(),
            Some(place(202, "01")),
        ),
        (
            &*stack.key,
            own("checked", &place(203, "00")).as_str(),
            Some(place(204, "01")),
        ),
        (&*stack.key, "{}", None),
        ("zyk_0011223344556677_x", "{}", Some(place(205, "01"))),
    ] {
        let status = post("/v1/events", key, body, header.as_deref()).await;
        assert!([401, 422].contains(&status), "{status} for {body}");
    }
    stop(&mut stack, ["ingest", "dispatcher"]).await;

    let told: Vec<(String, String, String, String)> = spans(&collector)
        .iter()
        .map(|(_, span)| {
            assert_eq!(
                (&span["name"], &span["traceId"]),
                (&json!("publish"), &json!(TRACE))
            );
            let parent = span["parentSpanId"].as_str().expect("a parent").to_owned();
            let of = |name: &str| attribute(span, name);
            (
                parent,
                of("http.route"),
                of("http.response.status_code"),
                of("error.type"),
            )
        })
        .collect();
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(parent, path, status, code)| (parent, path.to_owned(), status, code.to_owned()))
        .collect();
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_collector_that_is_away_delays_nothing_and_is_counted() {
    nothing_waits_for(&format!("http://127.0.0.1:{}", free_port())).await;
}

#[tokio::test]
async fn a_collector_that_takes_connections_and_never_answers_delays_nothing() {
    // Nobody accepts: the kernel does.
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = mute.local_addr().expect("an address");
    nothing_waits_for(&format!("http://{address}")).await;
}

async fn nothing_waits_for(nobody: &str) {
    let settings = [("ZYVEN_OTLP_ENDPOINT", nobody), ("ZYVEN_TRACE_RATIO", "1")];
    let mut stack = Stack::start_with(Spread::ProcessEach, &settings).await;
    stack.endpoint("/hook", json!({})).await;
    let event = stack.publish("a.b", json!({})).await;
    stack.wait_for_state(&event, "DELIVERED").await;
    for service in ["ingest", "dispatcher"] {
        let metric = "zyven_trace_spans_total{outcome=\"failed\"}";
        wait_until("the loss is counted", PATIENCE, async || {
            let failed = stack.metric(service, metric).await;
            if failed == 1.0 { Ok(()) } else { Err(failed) }
        })
        .await;
    }
    let told = stack.receiver.requests_at("/hook");
    assert!(told[0].header("traceparent").ends_with("-01"));
    let last = stack.publish("a.b", json!({})).await;
    stack.wait_for_state(&last, "DELIVERED").await;
    let stopping = tokio::time::timeout(
        Duration::from_secs(20),
        stop(&mut stack, ["ingest", "dispatcher"]),
    );
    assert!(stopping.await.is_ok(), "nobody waits for a collector");
}
