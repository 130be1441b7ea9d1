//! Every way PostgreSQL can refuse to store an event: the answer is 503 and never a false 202, and once PostgreSQL is
//! well again so is the API.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use zyven_testkit::{OnDisk, Postgres, SmallDisk, Stop, TestDatabase, wait_until};

use crate::support::{Answer, Api, SOON, Tenant};

const EVENT: &str = r#"{"type": "a", "payload": 1}"#;
/// A deadline that tests do not wait long for.
const IMPATIENT: &[(&str, &str)] = &[("ZYVEN_INGEST_REQUEST_DEADLINE", "1500ms")];

/// Events of one tenant, each published until it is acknowledged, as the documentation tells publishers to.
struct Publisher<'a> {
    tenant: &'a Tenant<'a>,
    acknowledged: i64,
}

impl Publisher<'_> {
    /// One try at the next event: a 202 or 200 counts, anything else must be a 503 that says when to come again.
    async fn try_once(&mut self) -> Answer {
        let key = format!("k{}", self.acknowledged);
        let answer = self.tenant.publish_with_key(EVENT, &key).await;
        if answer.status.is_success() {
            self.acknowledged += 1;
        } else {
            let status = answer.status;
            assert_eq!(status, 503, "{answer:?}");
            assert_eq!(answer.header("retry-after"), Some("1"), "{answer:?}");
        }
        answer
    }

    async fn until(&mut self, description: &str, accepted: bool) {
        wait_until(description, SOON * 2, async || {
            self.try_once().await.status.is_success() == accepted
        })
        .await;
    }

    /// What was acknowledged is stored, each once, and nothing else.
    async fn settle(&mut self) {
        self.until("it works again by itself", true).await;
        let api = self.tenant.api;
        assert_eq!(
            api.count("SELECT count(*) FROM zyven.events").await,
            self.acknowledged
        );
        wait_until("it says that it is ready", SOON, async || {
            api.readiness.missing().is_empty()
        })
        .await;
    }
}

fn publisher<'a>(tenant: &'a Tenant<'a>) -> Publisher<'a> {
    Publisher {
        tenant,
        acknowledged: 0,
    }
}

async fn says_why_it_is_not_ready(api: &Api, why: &str) {
    wait_until("it says why it is not ready", SOON, async || {
        let missing = api.readiness.missing();
        match missing.get("ingest") {
            Some(reason) if reason.contains(why) => Ok(()),
            _ => Err(missing),
        }
    })
    .await;
}

#[tokio::test]
async fn however_postgres_is_restarted_nothing_acknowledged_is_lost_and_storing_resumes() {
    let mut server = Postgres::private().await;
    let api = Api::on(server.database().await, IMPATIENT).await;
    let tenant = api.tenant().await;
    let mut publisher = publisher(&tenant);
    for how in [Stop::Fast, Stop::Immediate] {
        publisher.until("it works", true).await;
        server.ask_to_stop(how);
        publisher.until("it refuses", false).await;
        says_why_it_is_not_ready(&api, "does not answer").await;
        server.restart().await;
        publisher.settle().await;
    }
    // A smart shutdown waits for the sessions there are, which go on working.
    server.ask_to_stop(Stop::Smart);
    publisher.until("the session it has is served", true).await;
    server.ask_to_stop(Stop::Fast);
    server.ended().await;
    publisher.until("it refuses", false).await;
    server.restart().await;
    publisher.settle().await;
}

#[tokio::test]
async fn without_a_free_connection_publishers_are_asked_to_come_again() {
    let server = Postgres::private_with(&["max_connections=12"]).await;
    let database = server.database().await;
    let admin = database.client().await;
    let run = async |statement: &str| admin.batch_execute(statement).await.expect("done");
    for role in ["service", "greedy"] {
        run(&format!(
            "CREATE ROLE {role} LOGIN IN ROLE zyven PASSWORD 'own'"
        ))
        .await;
    }
    let url = database.url_of("service", "own");
    let api = Api::reaching(database, &url, IMPATIENT).await;
    let tenant = api.tenant().await;
    let mut publisher = publisher(&tenant);
    publisher.until("it works", true).await;
    // Its role may have no session any more.
    run("ALTER ROLE service CONNECTION LIMIT 0").await;
    run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'service'").await;
    publisher.until("it refuses", false).await;
    says_why_it_is_not_ready(&api, "does not answer").await;
    // It may again, but others have them all.
    let others = api.database.every_free_client("greedy", "own").await;
    assert!(others.len() > 5, "{}", others.len());
    run("ALTER ROLE service CONNECTION LIMIT -1").await;
    for _ in 0..3 {
        assert_eq!(publisher.try_once().await.status, 503);
    }
    drop(others);
    publisher.settle().await;
}

#[tokio::test]
async fn sessions_that_are_cut_while_idle_cost_no_error() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    tenant.publish("a").await;
    let sql = api.database.client().await;
    for _ in 0..3 {
        sql.batch_execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await
        .expect("cut");
        tenant.publish("a").await;
    }
    assert_eq!(api.count("SELECT count(*) FROM zyven.events").await, 4);
}

#[tokio::test]
async fn a_server_that_only_reads_answers_reads_and_refuses_events_until_it_writes() {
    let server = Postgres::private().await;
    let api = Api::on(server.database().await, IMPATIENT).await;
    let tenant = api.tenant().await;
    let mut publisher = publisher(&tenant);
    publisher.until("it works", true).await;
    let sql = api.database.client().await;
    let become_read_only = async |value: &str| {
        for statement in [
            &format!("ALTER SYSTEM SET default_transaction_read_only = {value}"),
            "SELECT pg_reload_conf()",
        ] {
            let text = format!("SET default_transaction_read_only = off; {statement}");
            for part in text.split("; ") {
                sql.batch_execute(part).await.expect("set");
            }
        }
    };
    become_read_only("on").await;
    publisher.until("it refuses", false).await;
    says_why_it_is_not_ready(&api, "takes no writes").await;
    tenant
        .get("/v1/events/evt_00000000000070008000000000000000")
        .await
        .expect(404);
    let refused = tenant
        .post("/v1/endpoints", &json!({ "url": "https://example.com/" }))
        .await;
    refused.expect_problem(503, "unavailable");
    become_read_only("off").await;
    publisher.settle().await;
}

#[tokio::test]
async fn a_full_disk_refuses_events_until_there_is_room() {
    for what in [OnDisk::Data, OnDisk::Log] {
        let disk = match SmallDisk::mount(256) {
            Ok(disk) => Arc::new(disk),
            Err(reason) => return SmallDisk::skip(&reason),
        };
        let settings = ["max_wal_size=64MB", "min_wal_size=32MB", "wal_recycle=off"];
        let mut server = Postgres::private_on(Arc::clone(&disk), what, &settings).await;
        let api = Api::on(server.database().await, IMPATIENT).await;
        let tenant = api.tenant().await;
        let mut publisher = publisher(&tenant);
        publisher.until("it works", true).await;
        disk.fill();
        let large = format!(r#"{{"type": "a", "payload": "{}"}}"#, noise(200_000));
        let mut stored = 0;
        wait_until("it refuses", SOON * 3, async || {
            let answer = tenant.publish_text(&large).await;
            match answer.status.as_u16() {
                202 => stored += 1,
                503 => {
                    assert_eq!(answer.header("retry-after"), Some("1"), "{answer:?}");
                    return true;
                }
                _ => panic!("{answer:?}"),
            }
            false
        })
        .await;
        if what == OnDisk::Data {
            says_why_it_is_not_ready(&api, "could not store").await;
        }
        disk.free();
        if what == OnDisk::Log {
            // It may have given up at a full log, as its operator finds it.
            server.restart().await;
        }
        publisher.until("it works again", true).await;
        let rows = api.count("SELECT count(*) FROM zyven.events").await;
        let least = publisher.acknowledged + stored;
        // One of those refused may have been stored: without a key nobody can tell its publisher.
        assert!(
            (least..=least + 1).contains(&rows),
            "{rows} rows, {least} acknowledged"
        );
    }
}

/// Text that cannot be compressed.
fn noise(bytes: usize) -> String {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'a' + u8::try_from(state % 26).expect("below 26"))
    };
    (0..bytes).map(|_| next()).collect()
}

#[tokio::test]
async fn a_locked_table_costs_time_and_then_a_503() {
    let api = Api::with(IMPATIENT).await;
    let tenant = api.tenant().await;
    let mut publisher = publisher(&tenant);
    publisher.until("it works", true).await;
    let sql = api.database.client().await;
    sql.batch_execute("BEGIN; LOCK TABLE zyven.events IN ACCESS EXCLUSIVE MODE")
        .await
        .expect("locked");
    publisher.until("it refuses", false).await;
    sql.batch_execute("COMMIT").await.expect("unlocked");
    publisher.settle().await;
}

/// A producer has published with a key in a transaction that it leaves open; the API gets the same key.
#[tokio::test]
async fn an_event_whose_key_is_held_by_an_open_transaction_keeps_nobody_else_waiting() {
    let settings = [
        ("ZYVEN_INGEST_WRITERS", "1"),
        ("ZYVEN_INGEST_REQUEST_DEADLINE", "20s"),
    ];
    let api = Api::with(&settings).await;
    let (blocked, free) = (api.tenant().await, api.tenant().await);
    let sql = api.database.client().await;
    sql.batch_execute(&format!(
        "BEGIN; SELECT zyven.publish('{}', 'a', '1', idempotency_key => 'held')",
        blocked.id
    ))
    .await
    .expect("published");
    let held = blocked.publish_with_key(EVENT, "held");
    let others = async {
        wait_until("it is set aside", SOON, async || {
            free.publish_text(EVENT).await.expect(202);
            api.metric("zyven_ingest_aside_events") >= 1.0
                || api
                    .metrics
                    .render()
                    .contains(r#"set_aside_events_total{reason="held_up"} 1"#)
        })
        .await;
        // From here on it costs the others nothing, although their events share one writer.
        let began = std::time::Instant::now();
        for _ in 0..20 {
            free.publish_text(EVENT).await.expect(202);
        }
        let took = began.elapsed();
        // One more of the same kind goes aside at once.
        let again = blocked.publish_with_key(EVENT, "held");
        let publishing = async {
            for _ in 0..20 {
                free.publish_text(EVENT).await.expect(202);
            }
            sql.batch_execute("COMMIT").await.expect("ended");
        };
        let (again, ()) = tokio::join!(again, publishing);
        again.expect(200);
        took
    };
    let (held, took) = tokio::join!(held, others);
    held.expect(200);
    // Every try at the held key takes a second, of which these would have met twenty.
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn many_filters_of_one_tenant_keep_nobody_else_waiting() {
    const FILTERS: usize = 400;
    let settings = [
        ("ZYVEN_INGEST_WRITERS", "1"),
        ("ZYVEN_INGEST_REQUEST_DEADLINE", "60s"),
    ];
    let api = Api::on(TestDatabase::new().await, &settings).await;
    let (heavy, light) = (api.tenant().await, api.tenant().await);
    let sql = api.database.client().await;
    sql.batch_execute(&format!(
        "INSERT INTO zyven.endpoints (id, tenant_id, url, event_types, filter)
         SELECT gen_random_uuid(), zyven.untyped_id('ten', '{}'), 'https://example.com/', '{{*}}', '$.items[*].n == -1'
           FROM generate_series(1, {FILTERS})",
        heavy.id
    ))
    .await
    .expect("endpoints");
    light.publish("a").await;
    let items = r#"{"n": 1},"#.repeat(8_000);
    let large = format!(r#"{{"type": "a", "payload": {{"items": [{items}{{"n": 1}}]}}}}"#);
    let began = std::time::Instant::now();
    let heavy_ones = async {
        let all = (0..6).map(|_| heavy.publish_text(&large));
        for answer in futures_util::future::join_all(all).await {
            assert_eq!(answer.expect(202).json()["deliveries"], 0);
        }
        began.elapsed()
    };
    let light_ones = async {
        wait_until("they are set aside", SOON, async || {
            api.metric("zyven_ingest_aside_events") >= 1.0
        })
        .await;
        let began = std::time::Instant::now();
        for _ in 0..20 {
            light.publish("a").await;
        }
        began.elapsed() / 20
    };
    let (heavy_time, light_time) = tokio::join!(heavy_ones, light_ones);
    println!(
        "6 events, {FILTERS} filters each: {heavy_time:?}; one event beside them: {light_time:?}"
    );
    // In one line with them it would wait for half of one of them on average, and for all while they come together.
    assert!(
        light_time * 8 < heavy_time,
        "{light_time:?} beside {heavy_time:?}"
    );
}

#[tokio::test]
async fn what_its_filters_would_read_for_too_long_is_refused_as_its_publishers_own_affair() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let sql = api.database.client().await;
    sql.batch_execute(&format!(
        "INSERT INTO zyven.endpoints (id, tenant_id, url, event_types, filter)
         SELECT gen_random_uuid(), zyven.untyped_id('ten', '{}'), 'https://example.com/', '{{*}}', CASE WHEN n <= 700 THEN '$.items[*].n == 1' ELSE '$.n == 1' END
           FROM generate_series(1, 2000) AS n",
        tenant.id
    ))
    .await
    .expect("endpoints");
    let large = format!(r#"{{"type": "a", "payload": "{}"}}"#, "x".repeat(200_000));
    let refused = tenant.publish_text(&large).await;
    refused.expect_problem(422, "filters_too_costly");
    tenant.publish("a").await;
    assert_eq!(api.count("SELECT count(*) FROM zyven.events").await, 1);
}
