//! Reading what became of events, and replaying.

use std::time::Duration;

use chrono::Utc;
use serde_json::{Value, json};
use zyven_domain::id::EventId;
use zyven_domain::retry::DeadLetterReason;
use zyven_store::{AttemptRecord, SettleItem, Settlement};

use crate::support::{Api, Tenant};

const TOKEN: i64 = 7;

pub(crate) fn record(status: u16) -> AttemptRecord {
    AttemptRecord {
        started_at: Utc::now(),
        http_status: Some(status),
        error: (status >= 300).then_some("status"),
        error_detail: None,
        connect_us: Some(200),
        first_byte_us: Some(700),
        total_us: 900,
        response_headers: Some("content-type: text/plain\nx-a: b: c\n".to_owned()),
        response_body: Some(b"caf\xc3\xa9 \xff".to_vec().into()),
    }
}

/// Claims and settles every delivery of an event, as a dispatcher would.
pub(crate) async fn settle(api: &Api, event: &str, settlement: impl Fn() -> Settlement) {
    let client = api.database.client().await;
    let sql = "SELECT seq FROM zyven.outbox WHERE event_id = zyven.untyped_id('evt', $1)";
    let rows = client.query(sql, &[&event]).await.expect("rows");
    let seqs: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    let claim = api
        .store
        .claim(&seqs, TOKEN, Duration::from_secs(60))
        .await
        .expect("a claim");
    let items: Vec<SettleItem> = claim
        .claimed
        .iter()
        .map(|claimed| SettleItem {
            seq: claimed.seq,
            lease_token: TOKEN,
            delivery_id: claimed.delivery_id,
            event_id: claimed.event_id,
            endpoint_id: claimed.endpoint_id,
            generation: claimed.generation,
            attempt: claimed.attempt,
            settlement: settlement(),
        })
        .collect();
    assert_eq!(items.len(), seqs.len(), "{:?}", claim.refused);
    api.store.settle(&items).await.expect("settled");
}

pub(crate) fn dead() -> Settlement {
    Settlement::DeadLetter {
        record: Some(record(404)),
        reason: DeadLetterReason::Rejected,
    }
}

pub(crate) fn delivered() -> Settlement {
    Settlement::Delivered(record(200))
}

fn retried() -> Settlement {
    Settlement::Retry {
        record: record(500),
        retry_in: Duration::from_secs(60),
    }
}

async fn only_delivery(tenant: &Tenant<'_>, event: &str) -> Value {
    let page = tenant
        .get(&format!("/v1/events/{event}/deliveries"))
        .await
        .expect(200)
        .json();
    assert_eq!(page["data"].as_array().map(Vec::len), Some(1), "{page}");
    page["data"][0].clone()
}

fn ids(page: &Value) -> Vec<String> {
    let data = page["data"].as_array().expect("data");
    data.iter()
        .map(|d| d["event"].as_str().expect("an id").to_owned())
        .collect()
}

#[tokio::test]
async fn an_event_and_its_delivery_are_seen_in_all_five_states() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    tenant.endpoint(&json!({})).await;
    let check = async |event: &str, state: &str| {
        let delivery = only_delivery(&tenant, event).await;
        assert_eq!(delivery["status"], state, "{delivery}");
        let read = tenant.get(&format!("/v1/events/{event}")).await.expect(200);
        assert_eq!(read.text_of("status"), state);
        delivery
    };
    let event = tenant.publish("a").await;
    check(&event, "RECEIVED").await;
    api.store
        .record_watermark(1_000)
        .await
        .expect("a watermark");
    check(&event, "DISPATCHING").await;
    settle(&api, &event, retried).await;
    let waiting = check(&event, "RETRY_SCHEDULED").await;
    assert!(waiting["next_attempt_at"].is_string());
    let other = tenant.publish("a").await;
    settle(&api, &other, delivered).await;
    let done = check(&other, "DELIVERED").await;
    assert_eq!(
        (&done["attempts"], &done["http_status"]),
        (&json!(1), &json!(200))
    );
    let third = tenant.publish("a").await;
    settle(&api, &third, dead).await;
    let given_up = check(&third, "DEAD_LETTERED").await;
    assert_eq!(given_up["reason"], "rejected");
}

#[tokio::test]
async fn attempts_are_shown_with_what_the_endpoint_said() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    tenant.endpoint(&json!({})).await;
    let event = tenant.publish("a").await;
    settle(&api, &event, || Settlement::Retry {
        record: record(503),
        retry_in: Duration::ZERO,
    })
    .await;
    settle(&api, &event, delivered).await;
    let delivery = only_delivery(&tenant, &event).await;
    let id = delivery["id"].as_str().expect("an id");
    let attempts = tenant
        .get(&format!("/v1/deliveries/{id}/attempts"))
        .await
        .expect(200)
        .json();
    let attempts = attempts["data"].as_array().expect("data").clone();
    assert_eq!(attempts.len(), 2);
    assert_eq!(
        (&attempts[0]["number"], &attempts[0]["http_status"]),
        (&json!(1), &json!(503))
    );
    assert_eq!(attempts[0]["status_after"], "RETRY_SCHEDULED");
    assert_eq!(attempts[1]["status_after"], "DELIVERED");
    assert_eq!(attempts[1]["total_us"], 900);
    assert_eq!(
        attempts[1]["response_headers"],
        json!([["content-type", "text/plain"], ["x-a", "b: c"]])
    );
    assert_eq!(attempts[1]["response_body"], "café \u{fffd}");
}

#[tokio::test]
async fn deliveries_are_listed_newest_first_filtered_and_in_pages() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let first = tenant.endpoint(&json!({ "event_types": ["a"] })).await;
    let second = tenant.endpoint(&json!({ "event_types": ["b"] })).await;
    let mut events = Vec::new();
    for (event_type, settlement) in [
        ("a", Some(delivered as fn() -> Settlement)),
        ("b", Some(dead)),
        ("a", Some(retried)),
        ("b", None),
        ("a", None),
    ] {
        let event = tenant.publish(event_type).await;
        if let Some(settlement) = settlement {
            settle(&api, &event, settlement).await;
        }
        events.push(event);
    }
    let stranger = api.tenant().await;
    stranger.endpoint(&json!({})).await;
    stranger.publish("a").await;

    let list = async |query: &str| {
        let page = tenant
            .get(&format!("/v1/deliveries{query}"))
            .await
            .expect(200);
        ids(&page.json())
    };
    let newest_first = |wanted: &[usize]| -> Vec<String> {
        wanted.iter().map(|index| events[*index].clone()).collect()
    };
    assert_eq!(list("").await, newest_first(&[4, 3, 2, 1, 0]));
    assert_eq!(list("?status=DELIVERED").await, newest_first(&[0]));
    assert_eq!(list("?status=RECEIVED").await, newest_first(&[4, 3]));
    assert_eq!(
        list("?status=DEAD_LETTERED,RETRY_SCHEDULED").await,
        newest_first(&[2, 1])
    );
    assert_eq!(list("?event_type=b").await, newest_first(&[3, 1]));
    assert_eq!(
        list(&format!("?endpoint={first}")).await,
        newest_first(&[4, 2, 0])
    );
    assert_eq!(
        list(&format!("?endpoint={second}&status=RECEIVED")).await,
        newest_first(&[3])
    );
    assert_eq!(list("?since=2100-01-01T00:00:00Z").await, newest_first(&[]));
    assert_eq!(
        list("?since=2020-01-01T00:00:00%2B02:00&event_type=b")
            .await
            .len(),
        2
    );

    assert_eq!(list("?dead_reason=rejected").await, newest_first(&[1]));
    assert_eq!(list("?dead_reason=gone").await, newest_first(&[]));
    assert_eq!(
        list("?dead_reason=rejected&status=DELIVERED,RECEIVED").await,
        newest_first(&[])
    );
    assert_eq!(list("?until=2020-01-01T00:00:00Z").await, newest_first(&[]));
    assert_eq!(
        list("?until=2100-01-01T00:00:00Z&event_type=b").await.len(),
        2
    );
    // A millisecond of one event parts the others.
    let third: EventId = events[2].parse().expect("an id");
    let ms = i64::try_from(third.timestamp_ms()).expect("a time");
    let moment = chrono::DateTime::from_timestamp_millis(ms).expect("a time");
    let moment = moment.format("%Y-%m-%dT%H:%M:%S%.3fZ");
    let since = list(&format!("?since={moment}")).await;
    let until = list(&format!("?until={moment}")).await;
    assert!(since.len() >= 3, "{since:?}");
    assert_eq!([since, until].concat(), newest_first(&[4, 3, 2, 1, 0]));

    let mut seen = Vec::new();
    let mut path = "/v1/deliveries?limit=2".to_owned();
    loop {
        let page = tenant.get(&path).await.expect(200).json();
        seen.extend(ids(&page));
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/v1/deliveries?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, newest_first(&[4, 3, 2, 1, 0]));

    let refused = tenant
        .get("/v1/deliveries?status=DONE&endpoint=x&event_type=a+b&dead_reason=tired&since=now&until=x")
        .await;
    assert_eq!(
        refused.expect_problem(422, "invalid").fields(),
        [
            "status",
            "endpoint",
            "event_type",
            "dead_reason",
            "since",
            "until"
        ]
    );
}

#[tokio::test]
async fn a_dead_letter_is_replayed_with_its_reason_on_record() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    tenant.endpoint(&json!({})).await;
    let event = tenant.publish("a").await;
    settle(&api, &event, dead).await;
    let delivery = only_delivery(&tenant, &event).await;
    let id = delivery["id"].as_str().expect("an id").to_owned();
    let path = format!("/v1/deliveries/{id}/replay");
    let refused = tenant.post(&path, &json!({ "reason": "  " })).await;
    assert_eq!(refused.expect_problem(422, "invalid").fields(), ["reason"]);

    let answer = tenant
        .post(&path, &json!({ "reason": "receiver fixed" }))
        .await
        .expect(202);
    assert_eq!(answer.text_of("status"), "RECEIVED");
    let replayed = only_delivery(&tenant, &event).await;
    assert_eq!(
        (&replayed["id"], &replayed["generation"]),
        (&json!(id), &json!(2))
    );

    let client = api.database.client().await;
    let row = client
        .query_one("SELECT decided_by, reason FROM zyven.replays", &[])
        .await
        .expect("one replay");
    let keys = tenant.get("/v1/api-keys").await.json();
    assert_eq!(
        row.get::<_, String>(0),
        keys["data"][0]["id"].as_str().expect("an id")
    );
    assert_eq!(row.get::<_, String>(1), "receiver fixed");

    let again = tenant.post(&path, &json!({ "reason": "again" })).await;
    let again = again.expect_problem(409, "not_replayable");
    assert!(again.text.contains("still being delivered"), "{again:?}");
    settle(&api, &event, delivered).await;
    let again = tenant.post(&path, &json!({ "reason": "again" })).await;
    again.expect_problem(409, "not_replayable");
    assert_eq!(api.count("SELECT count(*) FROM zyven.replays").await, 1);
}

#[tokio::test]
async fn what_is_no_id_is_the_id_of_nothing() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let event = tenant.publish("a").await;
    for path in [
        "/v1/events/x".to_owned(),
        "/v1/events/evt_%00".to_owned(),
        format!("/v1/deliveries/{event}"),
        format!("/v1/events/{}", event.to_uppercase()),
        "/v1/deliveries/dlv_00000000000000000000000000000000/attempts".to_owned(),
        "/v1/endpoints/'; DROP TABLE zyven.events; --".to_owned(),
    ] {
        tenant.get(&path).await.expect_problem(404, "not_found");
    }
}

#[tokio::test]
async fn events_of_the_last_hour_are_listed_newest_first_whether_anybody_wants_them_or_not() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let mut published = Vec::new();
    for event_type in ["a", "b", "a"] {
        published.push(tenant.publish(event_type).await);
    }
    let listed = async |query: &str| -> (Vec<String>, Value) {
        let page = tenant.get(&format!("/v1/events?{query}")).await.expect(200);
        let page = page.json();
        let data = page["data"].as_array().expect("data");
        let ids = data
            .iter()
            .map(|event| event["id"].as_str().expect("an id").to_owned());
        (ids.collect(), page["next_cursor"].clone())
    };
    published.reverse();
    assert_eq!(listed("").await, (published.clone(), Value::Null));
    let (first, cursor) = listed("limit=2").await;
    assert_eq!(first, published[..2]);
    let cursor = cursor.as_str().expect("another page");
    let (rest, end) = listed(&format!("limit=2&cursor={cursor}")).await;
    assert_eq!((rest.as_slice(), end), (&published[2..], Value::Null));
    assert_eq!(listed("event_type=b").await.0, published[1..2]);

    let one = &tenant.get("/v1/events?limit=1").await.json()["data"][0];
    assert_eq!(one["type"], "a");
    assert!(
        one["accepted_at"].is_string() && one.get("payload").is_none(),
        "{one}"
    );

    let ago = |seconds: i64| {
        let moment = Utc::now() - chrono::TimeDelta::seconds(seconds);
        format!("since={}", moment.format("%Y-%m-%dT%H:%M:%SZ"))
    };
    assert_eq!(listed(&ago(3_590)).await.0, published);
    // An hour ago, by whoever asks, is a little longer ago here.
    assert_eq!(listed(&ago(3_603)).await.0, published);
    assert_eq!(listed(&ago(-60)).await.0, Vec::<String>::new());
    let refused = tenant.get(&format!("/v1/events?{}", ago(3_700))).await;
    let refused = refused.expect_problem(422, "invalid");
    assert_eq!(refused.fields(), ["since"]);
}
