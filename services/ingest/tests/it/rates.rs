//! How often a tenant may ask.

use std::time::Instant;

use reqwest::Method;
use serde_json::json;
use zyven_domain::id::TenantId;
use zyven_testkit::wait_until;

use crate::support::{Answer, Api, SOON, Tenant};

/// A batch of this many events.
fn batch(events: usize) -> serde_json::Value {
    json!(vec![json!({ "type": "a", "payload": 1 }); events])
}

async fn publish(tenant: &Tenant<'_>) -> Answer {
    tenant.publish_text(r#"{"type": "a", "payload": 1}"#).await
}

/// What `RateLimit` says is left.
fn left(answer: &Answer) -> u64 {
    let said = answer.header("ratelimit").expect("a limit");
    let parts: Vec<&str> = said.split(';').collect();
    let [_, left, full_after] = parts.as_slice() else {
        panic!("{said}");
    };
    let seconds = full_after.strip_prefix("t=").expect("a time");
    assert!(seconds.parse::<u64>().is_ok(), "{said}");
    let left = left.strip_prefix("r=").expect("a number");
    left.parse().expect("a whole number")
}

#[tokio::test]
async fn whoever_publishes_more_than_it_may_is_told_when_to_come_again() {
    let api = Api::with(&[("ZYVEN_INGEST_TENANT_EVENTS_PER_SECOND", "2")]).await;
    let (tenant, other) = (api.tenant().await, api.tenant().await);
    let first = publish(&tenant).await.expect(202);
    assert_eq!(
        first.header("ratelimit-policy"),
        Some("\"events\";q=20;w=10")
    );
    assert!(
        first
            .header("ratelimit")
            .is_some_and(|said| said.starts_with("\"events\";r="))
    );
    assert!((19..=20).contains(&left(&first)), "{first:?}");

    // There is room for one, so a batch is taken whole: a hundred events are fifty seconds' worth, and ten were there.
    let sent = tenant
        .post("/v1/events/batch", &batch(100))
        .await
        .expect(202);
    assert_eq!(left(&sent), 0);
    for refused in [
        publish(&tenant).await,
        tenant.post("/v1/events/batch", &batch(1)).await,
        publish(&tenant).await,
    ] {
        let refused = refused.expect_problem(429, "rate_limited");
        assert_eq!(left(&refused), 0);
        let again_s: u64 = refused
            .header("retry-after")
            .and_then(|seconds| seconds.parse().ok())
            .expect("seconds");
        assert!((20..=41).contains(&again_s), "{refused:?}");
    }
    assert_eq!(api.count("SELECT count(*) FROM zyven.events").await, 101);
    assert!(
        api.metrics
            .render()
            .contains("zyven_ingest_rate_limited_total{limit=\"events\"} 3")
    );

    // Neither its other requests nor anybody else is concerned.
    let read = tenant.get("/v1/events").await.expect(200);
    assert_eq!(read.header("ratelimit"), None);
    publish(&other).await.expect(202);
}

#[tokio::test]
async fn whoever_asks_more_than_it_may_can_publish_still() {
    let api = Api::with(&[("ZYVEN_INGEST_TENANT_REQUESTS_PER_SECOND", "1")]).await;
    let tenant = api.tenant().await;
    let began = Instant::now();
    let refused = loop {
        assert!(began.elapsed() < SOON, "never refused");
        let answer = tenant.get("/v1/endpoints").await;
        if answer.status == 429 {
            break answer.expect_problem(429, "rate_limited");
        }
        answer.expect(200);
    };
    assert_eq!(
        refused.header("ratelimit-policy"),
        Some("\"requests\";q=10;w=10")
    );
    assert_eq!(refused.header("retry-after"), Some("1"));
    let published = publish(&tenant).await.expect(202);
    assert_eq!(published.header("ratelimit"), None);
    // Whoever waits finds room, and nobody else learns anything of it.
    wait_until("there is room again", SOON, async || {
        tenant.get("/v1/endpoints").await.status == 200
    })
    .await;
    let anonymous = api.http.request(Method::GET, api.url("/v1/endpoints"));
    let anonymous = Answer::of(anonymous).await.expect(401);
    assert_eq!(anonymous.header("ratelimit"), None);
}

#[tokio::test]
async fn a_tenant_with_a_rate_of_its_own_has_that() {
    let api = Api::with(&[("ZYVEN_INGEST_TENANT_EVENTS_PER_SECOND", "1")]).await;
    let tenant = api.tenant().await;
    let limit = async |events: &str| {
        let sql = format!("SELECT zyven.limit_tenant('{}', {events}, NULL)", tenant.id);
        let client = api.database.client().await;
        client.query_one(&sql, &[]).await.expect("limited");
    };
    let policy = async |expected: Option<&str>| {
        wait_until("its rate is in force", SOON, async || {
            let answer = publish(&tenant).await;
            let told = answer.header("ratelimit-policy");
            (told == expected).then_some(()).ok_or(answer)
        })
        .await;
    };
    policy(Some("\"events\";q=10;w=10")).await;
    limit("70").await;
    policy(Some("\"events\";q=700;w=10")).await;
    limit("0").await;
    policy(None).await;
    limit("NULL").await;
    policy(Some("\"events\";q=10;w=10")).await;
    let audited = "SELECT count(*) FROM zyven.audit_log WHERE action LIKE 'tenant.%' AND details ? 'events_per_second'";
    assert_eq!(api.count(audited).await, 3);
    let id = tenant.id.to_string();
    for (tenant, events, requests, rule) in [
        (id.as_str(), "-1", "NULL", "events_per_second must be 0"),
        (&id, "1000001", "NULL", "events_per_second must be 0"),
        (&id, "NULL", "1000001", "requests_per_second must be 0"),
        (
            &TenantId::new().to_string(),
            "1",
            "1",
            "there is no tenant ten_",
        ),
    ] {
        let sql = format!("SELECT zyven.limit_tenant('{tenant}', {events}, {requests})");
        let client = api.database.client().await;
        let error = client.query_one(&sql, &[]).await.expect_err("a rule");
        let told = error.as_db_error().expect("PostgreSQL's").message();
        assert!(told.starts_with(rule), "{told}");
    }
}
