//! What a delivery waits for, or how it has ended, as far as PostgreSQL knows.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use zyven_domain::id::DeliveryId;
use zyven_domain::lease::{self, DispatcherNumber};
use zyven_domain::retry::DeadLetterReason;
use zyven_store::{AttemptRecord, Settlement};

use crate::deliveries::{dead, delivered, record, settle};
use crate::support::{Api, Tenant};

async fn explain(tenant: &Tenant<'_>, delivery: &str) -> Value {
    let path = format!("/v1/deliveries/{delivery}/explain");
    let answer = tenant.get(&path).await.expect(200).json();
    assert_eq!(answer["matched"], true, "{answer}");
    assert_eq!(answer["delivery"]["id"], delivery);
    answer
}

/// The delivery of an event that has one.
async fn delivery_of(tenant: &Tenant<'_>, event: &str) -> String {
    let page = tenant.get(&format!("/v1/events/{event}/deliveries")).await;
    let page = page.expect(200).json();
    assert_eq!(page["data"].as_array().map(Vec::len), Some(1), "{page}");
    page["data"][0]["id"].as_str().expect("an id").to_owned()
}

/// Asserts the reason by both ways in, and returns the delivery's part.
async fn check(tenant: &Tenant<'_>, event: &str, status: &str, code: &str) -> Value {
    let alone = explain(tenant, &delivery_of(tenant, event).await).await;
    let delivery = alone["delivery"].clone();
    assert_eq!(delivery["code"], code, "{delivery}");
    assert_eq!(delivery["status"], status, "{delivery}");
    let sentence = delivery["sentence"].as_str().expect("a sentence");
    assert!(sentence.ends_with('.'), "{delivery}");
    assert_eq!(
        delivery["lane"],
        Value::Null,
        "nobody has said where Redis is"
    );
    let all = crate::explain::explain_event(tenant, event).await;
    let data = all["data"].as_array().expect("data");
    let same = data
        .iter()
        .find(|item| item["delivery"]["id"] == delivery["id"]);
    let same = &same.expect("the event's delivery")["delivery"];
    assert_eq!(
        (&same["code"], &same["status"]),
        (&json!(code), &json!(status))
    );
    delivery
}

fn time(value: &Value) -> DateTime<Utc> {
    let text = value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no time"));
    text.parse().expect("a time")
}

async fn execute(api: &Api, sql: &str) {
    api.database
        .client()
        .await
        .batch_execute(sql)
        .await
        .expect(sql);
}

async fn handed_over(api: &Api) {
    let all = i64::MAX;
    api.store.record_watermark(all).await.expect("a watermark");
}

fn answered(status: u16, headers: &str) -> AttemptRecord {
    AttemptRecord {
        response_headers: Some(headers.to_owned()),
        ..record(status)
    }
}

fn retried(record: AttemptRecord, after: u64) -> Settlement {
    Settlement::Retry {
        record,
        retry_in: Duration::from_secs(after),
    }
}

#[tokio::test]
async fn a_delivery_on_its_way_says_what_is_next() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    tenant.endpoint(&json!({})).await;
    let event = tenant.publish("a").await;
    let delivery = check(&tenant, &event, "RECEIVED", "awaiting_relay").await;
    assert_eq!(
        (&delivery["attempts"], &delivery["lease"]),
        (&json!(0), &Value::Null)
    );
    handed_over(&api).await;
    check(&tenant, &event, "DISPATCHING", "in_lane").await;

    // A dispatcher with a short lease: another timeout than the endpoint's own would be longer.
    let number = DispatcherNumber::of_chance(u64::MAX);
    let timeout = Duration::from_secs(15);
    let before = Utc::now();
    let claim = api
        .store
        .claim(&[1], number.token(9), timeout + lease::MARGIN)
        .await;
    assert_eq!(claim.expect("a claim").claimed.len(), 1);
    let delivery = check(&tenant, &event, "DISPATCHING", "in_hand").await;
    assert_eq!(delivery["attempts"], 1);
    assert_eq!(delivery["lease"]["dispatcher"], number.to_string());
    let since = time(&delivery["lease"]["since_at_latest"]);
    let until = time(&delivery["lease"]["until"]);
    assert_eq!(
        until - since,
        TimeDelta::seconds(20),
        "the endpoint's timeout and the margin"
    );
    assert!(
        since >= before - TimeDelta::seconds(1) && since <= Utc::now(),
        "{delivery}"
    );

    execute(
        &api,
        "UPDATE zyven.outbox SET leased_until = now() - interval '1 s'",
    )
    .await;
    let delivery = check(&tenant, &event, "DISPATCHING", "lease_ended").await;
    assert_eq!(delivery["lease"], Value::Null);

    settle(&api, &event, || Settlement::Release {
        due_in: Duration::from_secs(60),
    })
    .await;
    let delivery = check(&tenant, &event, "DISPATCHING", "released").await;
    assert!(time(&delivery["next_attempt_at"]) > Utc::now());
    execute(&api, "UPDATE zyven.outbox SET due_at = now()").await;
    settle(&api, &event, delivered).await;
    let delivery = check(&tenant, &event, "DELIVERED", "delivered").await;
    assert!(delivery["finished_at"].is_string() && delivery["next_attempt_at"].is_null());
}

#[tokio::test]
async fn a_retry_says_whether_its_wait_is_the_policys_or_the_endpoints() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    // 5 s, times at most 1.2; the second it was recorded in does not count.
    tenant.endpoint(&json!({ "retry_base_ms": 5000 })).await;
    for (status, headers, wait, code) in [
        (
            503,
            "content-type: text/plain\nretry-after: 60\n",
            60,
            "retry_after",
        ),
        (429, "Retry-After: 60\n", 60, "retry_after"),
        (503, "retry-after: 5\n", 6, "backoff"),
        (503, "x-retry-after: 60\n", 60, "backoff"),
        (500, "retry-after: 60\n", 60, "backoff"),
    ] {
        let event = tenant.publish("a").await;
        settle(&api, &event, || retried(answered(status, headers), wait)).await;
        let delivery = check(&tenant, &event, "RETRY_SCHEDULED", code).await;
        let next = time(&delivery["next_attempt_at"]);
        let expected = Utc::now() + TimeDelta::seconds(i64::try_from(wait).expect("small"));
        assert!(
            (next - expected).abs() < TimeDelta::seconds(3),
            "{delivery}"
        );
        assert_eq!(delivery["last_attempts"][0]["http_status"], status);
    }
    handed_over(&api).await;
    execute(&api, "UPDATE zyven.outbox SET due_at = now()").await;
    let event = tenant.publish("a").await;
    settle(&api, &event, || retried(record(500), 0)).await;
    check(&tenant, &event, "RETRY_SCHEDULED", "in_lane").await;
}

#[tokio::test]
async fn what_somebody_has_decided_is_the_reason() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let endpoint = tenant.endpoint(&json!({})).await;
    handed_over(&api).await;
    let publish = async |options: Value| {
        let mut event = json!({ "type": "a", "payload": 1 });
        for (name, value) in options.as_object().expect("options") {
            event[name] = value.clone();
        }
        tenant
            .post("/v1/events", &event)
            .await
            .expect(202)
            .text_of("id")
    };
    let in_an_hour = Utc::now() + TimeDelta::hours(1);
    let later = publish(json!({ "deliver_at": in_an_hour })).await;
    let delivery = check(&tenant, &later, "DISPATCHING", "deliver_at").await;
    let off = time(&delivery["next_attempt_at"]) - in_an_hour;
    assert!(off.abs() < TimeDelta::milliseconds(1), "{delivery}");

    let first = publish(json!({ "ordering_key": "k" })).await;
    let second = publish(json!({ "ordering_key": "k" })).await;
    let third = publish(json!({ "ordering_key": "k" })).await;
    check(&tenant, &first, "DISPATCHING", "in_lane").await;
    for event in [second, third] {
        let delivery = check(&tenant, &event, "DISPATCHING", "waits_for_earlier").await;
        assert_eq!(delivery["waits_for"], delivery_of(&tenant, &first).await);
    }

    let expiring = publish(json!({ "expires_at": in_an_hour })).await;
    check(&tenant, &expiring, "DISPATCHING", "in_lane").await;
    execute(
        &api,
        "UPDATE zyven.events SET expires_at = now() WHERE expires_at IS NOT NULL",
    )
    .await;
    check(&tenant, &expiring, "DISPATCHING", "past_expiry").await;

    let act = async |action: &str| {
        let path = format!("/v1/endpoints/{endpoint}/{action}");
        tenant.push(&path).await.expect(200);
    };
    act("pause").await;
    check(&tenant, &first, "DISPATCHING", "paused").await;
    act("resume").await;
    act("disable").await;
    check(&tenant, &first, "DISPATCHING", "endpoint_takes_none").await;
    act("enable").await;
    check(&tenant, &first, "DISPATCHING", "in_lane").await;
    tenant
        .delete(&format!("/v1/endpoints/{endpoint}"))
        .await
        .expect(204);
    check(&tenant, &first, "DISPATCHING", "endpoint_takes_none").await;
}

#[tokio::test]
async fn a_finished_delivery_says_how_it_has_ended() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    tenant.endpoint(&json!({})).await;
    for reason in DeadLetterReason::ALL {
        if reason == DeadLetterReason::Cancelled {
            continue;
        }
        let event = tenant.publish("a").await;
        settle(&api, &event, || Settlement::DeadLetter {
            record: Some(record(404)),
            reason,
        })
        .await;
        let delivery = check(&tenant, &event, "DEAD_LETTERED", reason.as_str()).await;
        assert!(delivery["finished_at"].is_string(), "{delivery}");
        assert_eq!(delivery["resolved_at"], Value::Null);
    }
    let event = tenant.publish("a").await;
    let reason = json!({ "reason": "wrong" });
    let path = format!("/v1/events/{event}/cancel");
    tenant.post(&path, &reason).await.expect(200);
    check(&tenant, &event, "DEAD_LETTERED", "cancelled").await;
}

#[tokio::test]
async fn a_replay_is_explained_anew_and_a_late_success_is_told() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    tenant.endpoint(&json!({})).await;
    handed_over(&api).await;
    let events = [tenant.publish("a").await, tenant.publish("a").await];
    for event in &events {
        settle(&api, event, dead).await;
    }
    execute(
        &api,
        "SELECT zyven.replay_dead_letters('mended', rate_per_s => 0.01, dry_run => false)",
    )
    .await;
    check(&tenant, &events[0], "DISPATCHING", "in_lane").await;
    let second = check(&tenant, &events[1], "DISPATCHING", "replay_turn").await;
    assert_eq!(
        (&second["generation"], &second["attempts"]),
        (&json!(2), &json!(0))
    );
    // What the first generation was told is still there.
    assert_eq!(second["last_attempts"][0]["generation"], 1);

    settle(&api, &events[0], dead).await;
    execute(
        &api,
        "UPDATE zyven.dead_letter_records SET resolved_at = now() WHERE generation = 2",
    )
    .await;
    let resolved = check(&tenant, &events[0], "DEAD_LETTERED", "rejected").await;
    assert!(resolved["resolved_at"].is_string(), "{resolved}");
    assert_eq!(resolved["generation"], 2);
}

#[tokio::test]
async fn the_last_three_attempts_are_shown_latest_first_with_the_start_of_each_answer() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    tenant.endpoint(&json!({})).await;
    let event = tenant.publish("a").await;
    for attempt in 1..=3 {
        let failed = || AttemptRecord {
            http_status: None,
            error: Some("timeout"),
            error_detail: Some(format!("attempt {attempt}")),
            response_body: None,
            ..record(500)
        };
        settle(&api, &event, || retried(failed(), 0)).await;
    }
    let body = vec![b'x'; 1000];
    settle(&api, &event, || {
        retried(
            AttemptRecord {
                response_body: Some(body.clone().into()),
                ..record(500)
            },
            60,
        )
    })
    .await;
    let delivery = check(&tenant, &event, "RETRY_SCHEDULED", "backoff").await;
    assert_eq!(delivery["attempts"], 4);
    let shown = delivery["last_attempts"].as_array().expect("attempts");
    let numbers: Vec<&Value> = shown.iter().map(|attempt| &attempt["number"]).collect();
    assert_eq!(numbers, [&json!(4), &json!(3), &json!(2)]);
    let start = shown[0]["response_body_start"].as_str().expect("a body");
    assert_eq!(start.len(), 256);
    assert_eq!(shown[0]["http_status"], 500);
    assert_eq!(shown[1]["error"], "timeout");
    assert_eq!(shown[1]["error_detail"], "attempt 3");
    for (phase, us) in [
        ("connect_us", 200),
        ("first_byte_us", 700),
        ("total_us", 900),
    ] {
        assert_eq!(shown[0][phase], us);
    }
}

#[tokio::test]
async fn a_delivery_whose_event_is_gone_is_still_explained() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let endpoint = tenant.endpoint(&json!({})).await;
    let event = tenant.publish("a").await;
    let delivery = delivery_of(&tenant, &event).await;
    execute(&api, "DELETE FROM zyven.events").await;
    let explained = explain(&tenant, &delivery).await;
    assert_eq!(explained["event"], Value::Null);
    assert_eq!(
        (
            &explained["endpoint"],
            &explained["code"],
            &explained["judged_by"]
        ),
        (&json!(endpoint), &json!("matched"), &json!("record"))
    );
    assert_eq!(explained["delivery"]["code"], "awaiting_relay");
    let path = format!("/v1/events/{event}/explain");
    tenant.get(&path).await.expect_problem(404, "not_found");
    let unknown = DeliveryId::from_uuid(uuid::Uuid::nil());
    let path = format!("/v1/deliveries/{unknown}/explain");
    tenant.get(&path).await.expect_problem(404, "not_found");
}
