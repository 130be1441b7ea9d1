//! `/v1/replays`: many dead letters at once, and how far they have come.

use serde_json::{Value, json};

use crate::deliveries::{dead, delivered, settle};
use crate::overview::{ask_at_once, refused_for};
use crate::support::{Api, Tenant};

/// As many events of that type, each of which ends as a dead letter of each of its endpoints.
async fn bury(tenant: &Tenant<'_>, event_type: &str, count: usize) -> Vec<String> {
    let mut events = Vec::new();
    for _ in 0..count {
        let event = tenant.publish(event_type).await;
        settle(tenant.api, &event, dead).await;
        events.push(event);
    }
    events
}

async fn progress(tenant: &Tenant<'_>, id: &Value) -> Value {
    let answer = tenant.get(&format!("/v1/replays/{id}")).await;
    answer.expect(200).json()
}

#[tokio::test]
async fn a_dry_run_counts_what_a_replay_then_sends_back_and_its_progress_is_told() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    tenant.endpoint(&json!({})).await;
    let events = bury(&tenant, "a", 3).await;
    bury(&tenant, "b", 1).await;
    let mut ask = json!({ "reason": "receiver fixed", "event_type": "a", "dry_run": true });
    let tried = tenant.post("/v1/replays", &ask).await.expect(200).json();
    assert_eq!(
        (&tried["id"], &tried["deliveries"]),
        (&json!(null), &json!(3))
    );
    assert_eq!(api.count("SELECT count(*) FROM zyven.outbox").await, 0);
    assert_eq!(api.count("SELECT count(*) FROM zyven.replays").await, 0);

    ask["dry_run"] = json!(false);
    let begun = tenant.post("/v1/replays", &ask).await.expect(202).json();
    for member in ["deliveries", "oldest_at", "newest_at"] {
        assert_eq!(begun[member], tried[member], "{member}");
    }
    settle(&api, &events[0], delivered).await;
    settle(&api, &events[1], dead).await;
    let told = progress(&tenant, &begun["id"]).await;
    for (member, expected) in [
        ("deliveries", 3),
        ("waiting", 1),
        ("delivered", 1),
        ("dead_lettered", 1),
        ("forgotten", 0),
    ] {
        assert_eq!(told[member], expected, "{member} of {told}");
    }
    assert_eq!(told["reason"], "receiver fixed");
    let keys = tenant.get("/v1/api-keys").await.json();
    assert_eq!(told["decided_by"], keys["data"][0]["id"]);
    assert!(told["next_due_at"].is_string(), "{told}");
    assert_eq!(told["next_due_at"], told["last_due_at"]);

    // The one that died again is found again; this replay's own account stays as it is.
    let again = tenant.post("/v1/replays", &ask).await.expect(202).json();
    assert_eq!(again["deliveries"], 1);
    assert_eq!(progress(&tenant, &begun["id"]).await, told);
    let nothing = tenant.post("/v1/replays", &ask).await.expect(200).json();
    assert_eq!(
        (&nothing["id"], &nothing["deliveries"]),
        (&json!(null), &json!(0))
    );
    assert_eq!(api.count("SELECT count(*) FROM zyven.replays").await, 2);
}

#[tokio::test]
async fn a_rate_spreads_them_and_a_filter_narrows() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let endpoint = tenant.endpoint(&json!({ "event_types": ["a"] })).await;
    tenant.endpoint(&json!({ "event_types": ["a", "b"] })).await;
    bury(&tenant, "a", 4).await;
    bury(&tenant, "b", 2).await;
    let ask = json!({ "reason": "r", "endpoint": endpoint, "rate_per_s": 2, "deliveries_max": 3 });
    let begun = tenant.post("/v1/replays", &ask).await.expect(202).json();
    assert_eq!(begun["deliveries"], 3);
    let told = progress(&tenant, &begun["id"]).await;
    let moment = |member: &str| {
        let text = told[member].as_str().expect("a time");
        chrono::DateTime::parse_from_rfc3339(text).expect("a time")
    };
    let spread = moment("last_due_at") - moment("next_due_at");
    assert_eq!(spread.num_milliseconds(), 1_000, "three, two a second");

    let count = async |members: Value| {
        let mut ask = json!({ "reason": "r", "dry_run": true });
        for (name, value) in members.as_object().expect("an object") {
            ask[name] = value.clone();
        }
        let answer = tenant.post("/v1/replays", &ask).await.expect(200).json();
        answer["deliveries"].as_u64().expect("a count")
    };
    assert_eq!(count(json!({})).await, 1 + 4 + 2);
    assert_eq!(count(json!({ "endpoint": endpoint })).await, 1);
    assert_eq!(count(json!({ "event_type": "b" })).await, 2);
    assert_eq!(count(json!({ "dead_reason": "rejected" })).await, 7);
    assert_eq!(count(json!({ "dead_reason": "gone" })).await, 0);
    let (past, future) = ("2020-01-01T00:00:00Z", "2222-01-01T00:00:00Z");
    for (member, moment, expected) in [
        ("since", past, 7),
        ("since", future, 0),
        ("until", past, 0),
        ("until", future, 7),
    ] {
        assert_eq!(count(json!({ member: moment })).await, expected, "{member}");
    }
    // What somebody has called off comes back only if it is named.
    let called_off = tenant.publish("b").await;
    let cancel = format!("/v1/events/{called_off}/cancel");
    tenant
        .post(&cancel, &json!({ "reason": "r" }))
        .await
        .expect(200);
    assert_eq!(count(json!({ "event_type": "b" })).await, 2);
    assert_eq!(count(json!({ "dead_reason": "cancelled" })).await, 1);
}

#[tokio::test]
async fn what_is_no_longer_kept_is_told_as_forgotten_and_then_not_at_all() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    tenant.endpoint(&json!({})).await;
    let event = bury(&tenant, "a", 1).await.remove(0);
    let ask = json!({ "reason": "r" });
    let begun = tenant.post("/v1/replays", &ask).await.expect(202).json();
    settle(&api, &event, delivered).await;
    let client = api.database.client().await;
    let forget = async |table: &str| {
        let statement = format!("DELETE FROM zyven.{table}");
        client.execute(&statement, &[]).await.expect("deleted");
    };
    forget("finished_deliveries").await;
    let told = progress(&tenant, &begun["id"]).await;
    assert_eq!(
        (&told["deliveries"], &told["forgotten"]),
        (&json!(1), &json!(1))
    );
    forget("dead_letter_records").await;
    let answer = tenant.get(&format!("/v1/replays/{}", begun["id"])).await;
    answer.expect_problem(404, "not_found");
}

#[tokio::test]
async fn each_tenant_has_its_own_replays_and_its_own_part_of_an_operators() {
    let api = Api::start().await;
    let (mine, theirs) = (api.tenant().await, api.tenant().await);
    for tenant in [&mine, &theirs] {
        tenant.endpoint(&json!({})).await;
    }
    bury(&mine, "a", 2).await;
    bury(&theirs, "a", 1).await;
    let ask = json!({ "reason": "r" });
    let begun = mine.post("/v1/replays", &ask).await.expect(202).json();
    assert_eq!(begun["deliveries"], 2);
    let path = format!("/v1/replays/{}", begun["id"]);
    theirs.get(&path).await.expect_problem(404, "not_found");

    bury(&mine, "a", 1).await;
    let client = api.database.client().await;
    let replay: i64 = client
        .query_one(
            "SELECT replay_id FROM zyven.replay_dead_letters('all', dry_run => false)",
            &[],
        )
        .await
        .expect("a replay")
        .get(0);
    for tenant in [&mine, &theirs] {
        assert_eq!(progress(tenant, &json!(replay)).await["deliveries"], 1);
    }
}

/// The tenant's deliveries in this state, the newest first.
async fn deliveries(tenant: &Tenant<'_>, status: &str) -> Vec<Value> {
    let listed = tenant.get(&format!("/v1/deliveries?status={status}")).await;
    let listed = listed.expect(200).json();
    let data = listed["data"].as_array().expect("data").iter();
    data.map(|delivery| delivery["id"].clone()).collect()
}

#[tokio::test]
async fn those_that_were_chosen_go_back_in_one_request_and_the_others_are_told_why_not() {
    let api = Api::start().await;
    let (tenant, stranger) = (api.tenant().await, api.tenant().await);
    for tenant in [&tenant, &stranger] {
        tenant.endpoint(&json!({})).await;
    }
    let sent = tenant.publish("a").await;
    settle(&api, &sent, delivered).await;
    bury(&tenant, "a", 3).await;
    bury(&stranger, "a", 1).await;
    let dead = deliveries(&tenant, "DEAD_LETTERED").await;
    let (sent, theirs) = (
        deliveries(&tenant, "DELIVERED").await.remove(0),
        deliveries(&stranger, "DEAD_LETTERED").await.remove(0),
    );
    let unknown = json!("dlv_00000000000070008000000000000000");
    let mut ask = json!({
        "deliveries": [dead[0], dead[1], dead[1], sent, theirs, unknown],
        "reason": "receiver fixed", "rate_per_s": 2, "dry_run": true,
    });
    let tried = tenant.post("/v1/replays", &ask).await.expect(200).json();
    assert_eq!(
        (&tried["id"], &tried["deliveries"]),
        (&json!(null), &json!(2))
    );
    let refused = tried["refused"].as_array().expect("refused");
    let why = |delivery: &Value| {
        let told = refused.iter().find(|one| one["delivery"] == *delivery);
        told.unwrap_or_else(|| panic!("{delivery} in {refused:?}"))["reason"].clone()
    };
    assert_eq!(refused.len(), 3, "{refused:?}");
    assert_eq!(why(&sent), "it was delivered");
    assert_eq!(why(&theirs), why(&unknown), "nothing is told of others'");
    assert_eq!(api.count("SELECT count(*) FROM zyven.outbox").await, 0);

    ask["dry_run"] = json!(false);
    let begun = tenant.post("/v1/replays", &ask).await.expect(202).json();
    for member in ["deliveries", "oldest_at", "newest_at", "refused"] {
        assert_eq!(begun[member], tried[member], "{member}");
    }
    let told = progress(&tenant, &begun["id"]).await;
    assert_eq!(
        (&told["deliveries"], &told["waiting"], &told["reason"]),
        (&json!(2), &json!(2), &json!("receiver fixed"))
    );
    assert_eq!(
        deliveries(&tenant, "DEAD_LETTERED").await,
        dead[2..].to_vec()
    );
    assert_eq!(deliveries(&stranger, "DEAD_LETTERED").await, [theirs]);
    let audit = tenant.get("/v1/audit-log?action=delivery.replay").await;
    let audit = audit.expect(200).json();
    assert_eq!(audit["data"].as_array().map(Vec::len), Some(1), "{audit}");
    assert_eq!(audit["data"][0]["details"]["deliveries"], 2, "{audit}");

    // Sent again after an answer that got lost, it does nothing twice.
    let again = tenant.post("/v1/replays", &ask).await.expect(200).json();
    assert_eq!(
        (&again["id"], &again["deliveries"]),
        (&json!(null), &json!(0))
    );
    assert_eq!(again["refused"].as_array().map(Vec::len), Some(5));
    assert_eq!(api.count("SELECT count(*) FROM zyven.replays").await, 1);
}

#[tokio::test]
async fn a_choice_is_bounded_and_is_narrowed_by_nothing_else() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    let id = |number: usize| format!("dlv_{number:032x}");
    let ask = async |count: usize| {
        let chosen: Vec<String> = (0..count).map(id).collect();
        let ask = json!({ "reason": "r", "deliveries": chosen });
        tenant.post("/v1/replays", &ask).await
    };
    let most = ask(1_000).await.expect(200).json();
    assert_eq!(most["refused"].as_array().map(Vec::len), Some(1_000));
    for count in [0, 1_001] {
        let refused = ask(count).await.expect_problem(422, "invalid");
        assert_eq!(refused.fields(), ["deliveries"], "{count}");
        assert!(refused.text.contains("1 to 1000 items"), "{refused:?}");
    }
    for deliveries in [json!([id(1), "evt_1"]), json!([id(1), 7]), json!(id(1))] {
        let ask = json!({ "reason": "r", "deliveries": deliveries });
        let refused = tenant.post("/v1/replays", &ask).await;
        let refused = refused.expect_problem(422, "invalid");
        assert!(refused.fields()[0].starts_with("deliveries"), "{refused:?}");
    }
    let everything = json!({
        "reason": "r", "deliveries": [id(1)], "endpoint": "ep_1", "event_type": "a", "dead_reason": "gone",
        "since": "2026-01-02T00:00:00Z", "until": "2026-01-02T00:00:00Z", "deliveries_max": 1,
    });
    let refused = tenant.post("/v1/replays", &everything).await;
    let refused = refused.expect_problem(422, "invalid");
    assert_eq!(
        refused.fields(),
        [
            "endpoint",
            "event_type",
            "dead_reason",
            "since",
            "until",
            "deliveries_max"
        ]
    );
    assert!(
        refused
            .text
            .contains("must not be sent together with deliveries")
    );
}

#[tokio::test]
async fn one_tenants_replays_keep_no_other_tenant_out() {
    let api = Api::with(&[("ZYVEN_INGEST_REQUEST_DEADLINE", "1s")]).await;
    let (tenant, other) = (api.tenant().await, api.tenant().await);
    other.endpoint(&json!({})).await;
    bury(&other, "a", 1).await;
    let mut client = api.database.client().await;
    let holding = client.transaction().await.expect("begun");
    // What progress reads, and a dry run does not.
    holding
        .batch_execute("LOCK TABLE zyven.replays IN ACCESS EXCLUSIVE MODE")
        .await
        .expect("locked");
    let mut asking = ask_at_once(&api, &tenant.key, "/v1/replays/1", 3);
    for _ in 0..2 {
        refused_for(&mut asking, "replays").await;
    }
    let dry_run = json!({ "reason": "r", "dry_run": true });
    let tried = other.post("/v1/replays", &dry_run).await.expect(200).json();
    assert_eq!(tried["deliveries"], 1);
    holding.rollback().await.expect("let go");
    let answer = asking.join_next().await.expect("the third");
    answer.expect("an answer").expect_problem(404, "not_found");
}

#[tokio::test]
async fn what_a_replay_cannot_be_is_named() {
    let api = Api::start().await;
    let tenant = api.tenant().await;
    for (members, field) in [
        (json!({}), "reason"),
        (json!({ "reason": " " }), "reason"),
        (json!({ "reason": "r", "endpoint": "dlv_1" }), "endpoint"),
        (json!({ "reason": "r", "event_type": "a b" }), "event_type"),
        (
            json!({ "reason": "r", "dead_reason": "tired" }),
            "dead_reason",
        ),
        (json!({ "reason": "r", "since": "yesterday" }), "since"),
        (
            json!({ "reason": "r", "since": "2026-01-02T00:00:00Z", "until": "2026-01-02T00:00:00Z" }),
            "until",
        ),
        (
            json!({ "reason": "r", "deliveries_max": 0 }),
            "deliveries_max",
        ),
        (
            json!({ "reason": "r", "deliveries_max": 10_001 }),
            "deliveries_max",
        ),
        (json!({ "reason": "r", "rate_per_s": 0 }), "rate_per_s"),
        (json!({ "reason": "r", "dry_run": "yes" }), "dry_run"),
        (json!({ "reason": "r", "dryrun": true }), "dryrun"),
    ] {
        let answer = tenant.post("/v1/replays", &members).await;
        assert_eq!(
            answer.expect_problem(422, "invalid").fields(),
            [field],
            "{members}"
        );
    }
    for id in ["0", "-1", "x", "99999999999999999999", "1.0"] {
        let answer = tenant.get(&format!("/v1/replays/{id}")).await;
        answer.expect_problem(404, "not_found");
    }
}
