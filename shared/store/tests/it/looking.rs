//! The relay's look: who leads, who beats, and whether there is anything to do, in one statement.

use std::time::Duration;

use zyven_domain::lease::DispatcherNumber;
use zyven_store::{Leadership, RelayLook};
use zyven_testkit::wait_until;

use crate::fixture::Fixture;

const LONG: Duration = Duration::from_secs(3600);
const LATE: Duration = Duration::ZERO;

async fn look(fixture: &Fixture, holder: &str, after_seq: Option<i64>) -> RelayLook {
    look_back(fixture, holder, LONG, after_seq).await
}

async fn look_back(
    fixture: &Fixture,
    holder: &str,
    changed_within: Duration,
    after_seq: Option<i64>,
) -> RelayLook {
    let looked = (fixture.store)
        .relay_look(holder, LONG, changed_within, after_seq)
        .await;
    looked.expect("looked")
}

#[tokio::test]
async fn where_nothing_is_a_look_finds_nothing_and_leads() {
    let fixture = Fixture::new().await;
    let nothing = RelayLook {
        leadership: Leadership::Leader,
        beats: Vec::new(),
        have_endpoints_changed: false,
        has_rows: false,
    };
    assert_eq!(look(&fixture, "a", Some(0)).await, nothing);
}

#[tokio::test]
async fn who_follows_sees_what_the_leader_sees_and_takes_nothing() {
    let fixture = Fixture::new().await;
    for number in [9, 8] {
        let number = DispatcherNumber::from_i64(number).expect("a number");
        let registered = fixture.store.register_dispatcher(number).await;
        assert!(registered.expect("registered"));
    }
    let leader = look(&fixture, "a", None).await;
    assert_eq!(leader.leadership, Leadership::Leader);
    let numbers = leader.beats.iter().map(|it| it.number.as_i64());
    assert_eq!(numbers.collect::<Vec<_>>(), [8, 9]);
    assert_eq!(
        leader.beats,
        fixture.store.dispatcher_beats().await.expect("beats")
    );

    let follower = look(&fixture, "b", None).await;
    assert_eq!(follower.leadership, Leadership::Follower);
    assert_eq!(follower.beats, leader.beats);
    assert_eq!(
        look(&fixture, "a", None).await.leadership,
        Leadership::Leader
    );
    let resigned = fixture.store.resign_relay_lease("a").await;
    resigned.expect("resigned");
    assert_eq!(
        look(&fixture, "b", None).await.leadership,
        Leadership::Leader
    );
}

#[tokio::test]
async fn a_lead_that_has_run_out_is_free() {
    let fixture = Fixture::new().await;
    let short = fixture.store.relay_look("a", LATE, LONG, None).await;
    assert_eq!(short.expect("looked").leadership, Leadership::Leader);
    assert_eq!(
        look(&fixture, "b", None).await.leadership,
        Leadership::Leader
    );
    assert_eq!(
        look(&fixture, "a", None).await.leadership,
        Leadership::Follower
    );
}

#[tokio::test]
async fn a_look_tells_of_endpoints_that_have_changed_of_late() {
    let (fixture, _endpoint) = Fixture::with_endpoint().await;
    assert!(look(&fixture, "a", None).await.have_endpoints_changed);
    let later = look_back(&fixture, "a", LATE, None).await;
    assert!(!later.have_endpoints_changed);
}

#[tokio::test]
async fn a_look_tells_of_rows_behind_the_cursor_to_whoever_asks() {
    let (fixture, _endpoint) = Fixture::with_endpoint().await;
    let event = fixture.event("invoice.paid", None);
    let seq = fixture.accepted(&event).await[0];
    assert!(look(&fixture, "a", Some(seq - 1)).await.has_rows);
    assert!(!look(&fixture, "a", Some(seq)).await.has_rows);
    assert!(!look(&fixture, "a", None).await.has_rows);
}

#[tokio::test]
async fn endpoints_that_have_not_changed_of_late_cost_a_look_nothing() {
    const ENDPOINTS: i64 = 1_000;
    const LOOKS: i64 = 20;
    let minute = Duration::from_secs(60);
    let fixture = Fixture::new().await;
    let old = "INSERT INTO zyven.endpoints (id, tenant_id, url, event_types, channels, updated_at)
               SELECT gen_random_uuid(), $1, 'http://192.0.2.1/', '{*}', '{}', now() - interval '1 day'
                 FROM generate_series(1, $2::bigint)";
    (fixture.sql)
        .execute(old, &[&fixture.tenant.uuid(), &ENDPOINTS])
        .await
        .expect("endpoints");
    let read = "SELECT idx_scan, idx_tup_read
                  FROM pg_stat_user_indexes
                 WHERE indexrelname = 'endpoints_by_change'";
    let count = async || {
        let row = fixture.sql.query_one(read, &[]).await.expect("statistics");
        (row.get::<_, i64>(0), row.get::<_, i64>(1))
    };
    let before = count().await;
    let patience = Duration::from_secs(30);
    // Sessions tell what they have read once a second, at the end of a statement.
    let after = wait_until("the looks are counted", patience, async || {
        let look = look_back(&fixture, "a", minute, None).await;
        assert!(!look.have_endpoints_changed);
        let changed = fixture.store.lane_limits_changed(minute).await;
        assert_eq!(changed.expect("asked"), []);
        let after = count().await;
        if after.0 - before.0 >= LOOKS {
            Ok(after)
        } else {
            Err(after)
        }
    })
    .await;
    let entries = after.1 - before.1;
    assert!(
        entries < ENDPOINTS,
        "{entries} entries of the index were read"
    );
}

#[tokio::test]
async fn whoever_locks_other_tables_holds_up_neither_lead_nor_beats() {
    let fixture = Fixture::new().await;
    let (term, minute) = (Duration::from_secs(4), Duration::from_secs(60));
    let mut other = fixture.database.client().await;
    let locking = other.transaction().await.expect("a transaction");
    locking
        .batch_execute("LOCK TABLE zyven.endpoints, zyven.outbox IN ACCESS EXCLUSIVE MODE")
        .await
        .expect("locked");
    let look = fixture.store.relay_look("one", term, minute, Some(0));
    let look = tokio::time::timeout(term, look).await.expect("in time");
    let look = look.expect("a look");
    assert_eq!(look.leadership, Leadership::Leader);
    assert!(look.have_endpoints_changed && look.has_rows, "nobody knows");
    locking.rollback().await.expect("let go");
    let look = fixture.store.relay_look("one", term, minute, Some(0)).await;
    let look = look.expect("a look");
    assert_eq!(look.leadership, Leadership::Leader);
    assert!(!look.has_rows);
}
