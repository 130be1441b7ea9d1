//! What only Redis knows of a delivery, and that nobody misses it who does without.

use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use zyven_domain::id::EndpointId;
use zyven_queue::{
    ClaimedTicket, Completion, Epoch, Lane, LaneSettings, Learned, Next, Pushed, Queue,
    QueueConfig, Rate, Ticket,
};
use zyven_store::Settlement;
use zyven_testkit::TestRedis;

use crate::deliveries::{record, settle};
use crate::support::{Api, Tenant};

/// For a ticket that is held meanwhile.
const LEASE: Duration = Duration::from_secs(60);
const NOW: Duration = Duration::ZERO;

/// An API that knows where Redis is, and what relay and dispatcher do there.
struct Stage {
    api: Api,
    queue: Queue,
    epoch: Epoch,
    redis: TestRedis,
}

impl Stage {
    async fn new(change: impl FnOnce(&mut QueueConfig)) -> Self {
        let redis = TestRedis::start().await;
        let mut config = QueueConfig {
            url: redis.url(),
            ..QueueConfig::default()
        };
        change(&mut config);
        let queue = Queue::connect(&config).expect("a queue");
        let epoch = queue.begin_epoch().await.expect("an epoch");
        let of_its_own = Queue::connect(&config).expect("a queue");
        let api = Api::with_queue(of_its_own).await;
        api.store
            .record_watermark(i64::MAX)
            .await
            .expect("a watermark");
        Self {
            api,
            queue,
            epoch,
            redis,
        }
    }

    fn lane(tenant: &Tenant<'_>, endpoint: &str) -> Lane {
        Lane {
            tenant_id: tenant.id,
            endpoint_id: endpoint.parse::<EndpointId>().expect("an id"),
        }
    }

    /// Gives every unfinished delivery of the lane a ticket.
    async fn hand_over(&self, lane: Lane) {
        let rows = self.api.store.outbox_page(0).await.expect("a page");
        let tickets: Vec<Ticket> = rows
            .iter()
            .filter(|row| row.endpoint_id == lane.endpoint_id)
            .map(|row| Ticket {
                seq: row.seq,
                lane,
                ordering_key: row.ordering_key,
                is_first: false,
                is_retry: false,
                due_in: NOW,
            })
            .collect();
        let pushed = self
            .queue
            .push(&tickets, &self.epoch)
            .await
            .expect("pushed");
        assert!(matches!(pushed, Pushed::Accepted { .. }));
    }

    async fn claim(&self, tickets_max: usize) -> Vec<ClaimedTicket> {
        let claimed = self.queue.claim(tickets_max, LEASE, &[]).await;
        claimed.expect("a claim").tickets
    }

    async fn give_back(&self, tickets: &[ClaimedTicket], learned: Learned, next: Next) {
        let completions: Vec<Completion> = tickets
            .iter()
            .map(|ticket| Completion {
                ticket: *ticket,
                learned,
                next,
            })
            .collect();
        let claimed = self.queue.claim(0, LEASE, &completions).await;
        assert_eq!(claimed.expect("given back").tickets, []);
    }

    /// Twelve events, the first ten of which fail in Redis: its breaker opens. The other two wait in the lane.
    async fn fail_ten_of_twelve(&self, tenant: &Tenant<'_>, endpoint: &str) -> Vec<String> {
        let mut events = Vec::new();
        for _ in 0..12 {
            events.push(tenant.publish("a").await);
        }
        self.hand_over(Self::lane(tenant, endpoint)).await;
        let taken = self.claim(10).await;
        self.give_back(&taken, Learned::Failed, Next::Retry(NOW))
            .await;
        events
    }

    async fn tell(&self, lane: Lane, settings: LaneSettings) {
        let told = self.queue.configure(&[(lane, settings)], &self.epoch).await;
        assert_eq!(told.expect("told"), Pushed::Accepted { added: 1 });
    }
}

/// The delivery's part of an event's explanation, which has one, and what was known of Redis.
async fn explain(tenant: &Tenant<'_>, event: &str) -> (Value, String) {
    let all = crate::explain::explain_event(tenant, event).await;
    let data = all["data"].as_array().expect("data");
    assert_eq!(data.len(), 1, "{all}");
    let known = all["queue"].as_str().expect("a text").to_owned();
    (data[0]["delivery"].clone(), known)
}

async fn check(tenant: &Tenant<'_>, event: &str, code: &str) -> Value {
    let (delivery, known) = explain(tenant, event).await;
    assert_eq!(
        (delivery["code"].as_str(), known.as_str()),
        (Some(code), "known"),
        "{delivery}"
    );
    let sentence = delivery["sentence"].as_str().expect("a sentence");
    assert!(sentence.ends_with('.'), "{delivery}");
    delivery
}

/// A time that lies about this far ahead.
#[track_caller]
fn lies_ahead(value: &Value, wait: Duration) {
    let time: chrono::DateTime<Utc> = value.as_str().expect("a time").parse().expect("a time");
    let ahead = time - Utc::now();
    let wait = TimeDelta::from_std(wait).expect("short");
    assert!(
        ahead <= wait && ahead > wait - TimeDelta::seconds(15),
        "{ahead} of {wait}"
    );
}

#[tokio::test]
async fn a_delivery_in_its_lane_is_told_its_place() {
    let stage = Stage::new(|config| config.lane_in_flight_max = 2).await;
    let tenant = stage.api.tenant().await;
    let endpoint = tenant.endpoint(&json!({})).await;
    let lane = Stage::lane(&tenant, &endpoint);
    let mut events = Vec::new();
    for _ in 0..4 {
        events.push(tenant.publish("a").await);
    }
    let missing = check(&tenant, &events[0], "ticket_missing").await;
    assert_eq!(
        (&missing["lane"]["place"], &missing["lane"]["position"]),
        (&json!("none"), &Value::Null)
    );

    stage.hand_over(lane).await;
    for (position, event) in (1..).zip(&events) {
        let delivery = check(&tenant, event, "in_lane").await;
        let lane = &delivery["lane"];
        assert_eq!(
            (&lane["place"], &lane["position"]),
            (&json!("fresh"), &json!(position))
        );
        assert_eq!(
            (&lane["fresh"], &lane["retries"], &lane["in_flight"]),
            (&json!(4), &json!(0), &json!(0))
        );
        assert_eq!(
            (&lane["in_flight_max"], &lane["breaker"]),
            (&json!(2), &json!("closed"))
        );
    }
    let taken = stage.claim(2).await;
    assert_eq!(taken.len(), 2);
    check(&tenant, &events[0], "being_claimed").await;
    let full = check(&tenant, &events[2], "lane_full").await;
    assert_eq!(
        (&full["lane"]["position"], &full["lane"]["in_flight"]),
        (&json!(1), &json!(2))
    );

    // What is finished needs nothing that Redis knows.
    settle(&stage.api, &events[0], || {
        Settlement::Delivered(record(200))
    })
    .await;
    let (_, known) = explain(&tenant, &events[0]).await;
    assert_eq!(known, "not_needed");
}

#[tokio::test]
async fn a_lane_that_may_not_be_served_is_the_reason() {
    let stage = Stage::new(|config| config.tenant_in_flight_max = 3).await;
    let tenant = stage.api.tenant().await;
    let endpoint = tenant.endpoint(&json!({})).await;
    let lane = Stage::lane(&tenant, &endpoint);
    let mut events = Vec::new();
    for _ in 0..5 {
        events.push(tenant.publish("a").await);
    }
    let last = &events[4];
    stage.hand_over(lane).await;
    let taken = stage.claim(5).await;
    assert_eq!(taken.len(), 3);
    check(&tenant, last, "tenant_full").await;

    stage
        .give_back(&taken[..1], Learned::Throttled(LEASE), Next::Retry(NOW))
        .await;
    let delivery = check(&tenant, last, "throttled").await;
    lies_ahead(&delivery["next_attempt_at"], LEASE);
    assert_eq!(
        delivery["lane"]["throttled_until"],
        delivery["next_attempt_at"]
    );

    stage
        .give_back(&taken[1..], Learned::Failed, Next::Retry(NOW))
        .await;
    let rate = Rate {
        per_s: 0.01,
        burst: 1,
    };
    let limited = LaneSettings {
        rate: Some(rate),
        ..LaneSettings::default()
    };
    let other = tenant.endpoint(&json!({ "event_types": ["b"] })).await;
    let other = Stage::lane(&tenant, &other);
    stage.tell(other, limited).await;
    tenant
        .delete(&format!("/v1/endpoints/{endpoint}"))
        .await
        .expect(204);
    let (first, second) = (tenant.publish("b").await, tenant.publish("b").await);
    stage.hand_over(other).await;
    assert_eq!(stage.claim(2).await.len(), 1, "one token");
    let of_the_lane = async |event: &str| {
        let all = crate::explain::explain_event(&tenant, event).await;
        let data = all["data"].as_array().expect("data").clone();
        let of_it = data.into_iter().find(|item| item["matched"] == true);
        of_it.expect("a delivery")["delivery"].clone()
    };
    assert_eq!(of_the_lane(&first).await["code"], "being_claimed");
    let delivery = of_the_lane(&second).await;
    assert_eq!(delivery["code"], "rate_limited");
    lies_ahead(&delivery["next_attempt_at"], Duration::from_secs(100));
}

#[tokio::test]
async fn an_open_breaker_outweighs_a_shorter_wait_and_no_longer_one() {
    let open = Duration::from_secs(3_000);
    let stage = Stage::new(|config| {
        config.breaker_open_min = open;
        config.breaker_open_max = open;
    })
    .await;
    let tenant = stage.api.tenant().await;
    let endpoint = tenant.endpoint(&json!({})).await;
    let events = stage.fail_ten_of_twelve(&tenant, &endpoint).await;
    let delivery = check(&tenant, &events[11], "breaker_open").await;
    lies_ahead(&delivery["next_attempt_at"], open);
    assert_eq!(delivery["lane"]["breaker"], "open");
    assert_eq!(
        delivery["lane"]["breaker_until"],
        delivery["next_attempt_at"]
    );
    assert_eq!(delivery["lane"]["retries"], 10);

    for (event, wait, code) in [
        (&events[0], open / 2, "breaker_open"),
        (&events[1], open * 2, "backoff"),
    ] {
        settle(&stage.api, event, || Settlement::Retry {
            record: record(500),
            retry_in: wait,
        })
        .await;
        let delivery = check(&tenant, event, code).await;
        lies_ahead(&delivery["next_attempt_at"], wait.max(open));
        assert_eq!(delivery["lane"]["place"], "retries");
    }
    // A pause is somebody's decision, whatever the breaker does.
    let pause = format!("/v1/endpoints/{endpoint}/pause");
    tenant.push(&pause).await.expect(200);
    check(&tenant, &events[11], "paused").await;
}

#[tokio::test]
async fn a_breaker_that_is_about_to_close_is_told_as_such() {
    let stage = Stage::new(|config| {
        config.breaker_open_min = Duration::from_millis(1);
        config.breaker_open_max = Duration::from_millis(1);
    })
    .await;
    let tenant = stage.api.tenant().await;
    let endpoint = tenant.endpoint(&json!({})).await;
    let events = stage.fail_ten_of_twelve(&tenant, &endpoint).await;
    zyven_testkit::wait_until("the breaker lets a probe through", LEASE, async || {
        let (delivery, _) = explain(&tenant, &events[11]).await;
        match delivery["lane"]["breaker"].as_str() {
            Some("half_open") => Ok(()),
            other => Err(other.map(str::to_owned)),
        }
    })
    .await;
    check(&tenant, &events[11], "breaker_probing").await;
}

#[tokio::test]
async fn the_order_of_a_key_shows_in_redis_as_well() {
    let stage = Stage::new(|_| ()).await;
    let tenant = stage.api.tenant().await;
    let endpoint = tenant.endpoint(&json!({})).await;
    let keyed = json!({ "type": "a", "payload": 1, "ordering_key": "k" });
    let mut events = Vec::new();
    for _ in 0..3 {
        let answer = tenant.post("/v1/events", &keyed).await;
        events.push(answer.expect(202).text_of("id"));
    }
    stage.hand_over(Stage::lane(&tenant, &endpoint)).await;
    let first = check(&tenant, &events[0], "in_lane").await;
    assert_eq!(
        (&first["lane"]["place"], &first["lane"]["position"]),
        (&json!("fresh"), &json!(1))
    );
    let third = check(&tenant, &events[2], "waits_for_earlier").await;
    assert_eq!(
        (&third["lane"]["place"], &third["lane"]["position"]),
        (&json!("in_order"), &json!(3))
    );
    // PostgreSQL is ahead of Redis: the two before it are done, which Redis has not been told.
    for event in &events[..2] {
        settle(&stage.api, event, || Settlement::Delivered(record(200))).await;
    }
    check(&tenant, &events[2], "ticket_chained").await;
}

#[tokio::test]
async fn without_redis_explanations_say_so_and_everything_else_goes_on() {
    let mut stage = Stage::new(|_| ()).await;
    let tenant = stage.api.tenant().await;
    let endpoint = tenant.endpoint(&json!({})).await;
    let event = tenant.publish("a").await;
    stage.hand_over(Stage::lane(&tenant, &endpoint)).await;
    check(&tenant, &event, "in_lane").await;

    stage.redis.freeze();
    let began = Instant::now();
    let (delivery, known) = explain(&tenant, &event).await;
    let took = began.elapsed();
    assert_eq!(
        (known.as_str(), &delivery["code"]),
        ("away", &json!("in_lane"))
    );
    assert_eq!(delivery["lane"], Value::Null);
    // Half a second for Redis, and what a loaded machine needs for the rest.
    assert!(took < Duration::from_secs(2), "{took:?}");
    tenant.publish("a").await;
    stage.redis.thaw();

    stage.redis.kill();
    let (delivery, known) = explain(&tenant, &event).await;
    assert_eq!(
        (known.as_str(), &delivery["code"]),
        ("away", &json!("in_lane"))
    );
    tenant.publish("a").await;

    stage.redis.restart().await;
    zyven_testkit::wait_until("Redis is asked again", LEASE, async || {
        match explain(&tenant, &event).await {
            (delivery, known) if known == "known" => Ok(delivery),
            (_, other) => Err(other),
        }
    })
    .await;
    check(&tenant, &event, "ticket_missing").await;
}
