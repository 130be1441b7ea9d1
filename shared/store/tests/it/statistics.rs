//! What an overview counts, for whom, and where it stops counting.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use zyven_domain::id::{ApiKeyId, EndpointId, TenantId};
use zyven_domain::retry::DeadLetterReason;
use zyven_store::{
    DEAD_LETTERS_COUNTED_MAX, FINISHED_COUNTED_MAX, Finished, Settlement, Tally, Window,
};

use crate::fixture::{Fixture, TOKEN, record, settling};

/// An hour in minutes, up to now and a little further.
fn hour() -> Window {
    Window {
        since: Utc::now() - TimeDelta::minutes(59),
        step_s: 60,
        steps: 60,
    }
}

async fn finished(fixture: &Fixture, endpoint: Option<EndpointId>, window: Window) -> Finished {
    let counted = fixture.store.finished_in(fixture.tenant, endpoint, window);
    counted.await.expect("counted")
}

/// Accepts an event for the only endpoint and takes its delivery to an end.
async fn ends(fixture: &Fixture, settlement: Settlement) {
    let claimed = fixture.claimed().await;
    let item = settling(&claimed, TOKEN, settlement);
    fixture.store.settle(&[item]).await.expect("settled");
}

/// Rows as they are after traffic: delivered one after the other, `apart_ms`, from `from` on, each 40 ms after it was
/// accepted.
async fn ended_long_ago(
    fixture: &Fixture,
    endpoint: EndpointId,
    rows: i64,
    from: DateTime<Utc>,
    apart_ms: i64,
) {
    fixture
        .sql
        .execute("SELECT zyven.ensure_partition($1)", &[&from])
        .await
        .expect("a partition");
    fixture
        .sql
        .execute(
            "INSERT INTO zyven.finished_deliveries
                    (delivery_id, generation, attempts, seq, event_id, endpoint_id, tenant_id, state, enqueued_at, finished_at)
             SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '8000' || '8000'
                     || lpad(to_hex(number), 12, '0'))::uuid,
                    1, 1, number, gen_random_uuid(), $1, $2, 'DELIVERED', at, at + interval '40 ms'
               FROM (SELECT number, $4::timestamptz + number * $5::bigint * interval '1 ms' AS at
                       FROM generate_series(1, $3::bigint) AS number) AS made",
            &[&endpoint.uuid(), &fixture.tenant.uuid(), &rows, &from, &apart_ms],
        )
        .await
        .expect("rows");
}

#[tokio::test]
async fn an_overview_counts_how_deliveries_ended_step_by_step() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    let nothing = finished(&fixture, None, hour()).await;
    assert_eq!(nothing.total, Tally::default());
    assert!(nothing.steps.is_empty() && nothing.endpoints.is_empty());

    for _ in 0..3 {
        ends(&fixture, Settlement::Delivered(record(200))).await;
    }
    let given_up = Settlement::DeadLetter {
        record: Some(record(404)),
        reason: DeadLetterReason::Rejected,
    };
    ends(&fixture, given_up).await;
    let window = hour();
    let all = finished(&fixture, None, window).await;
    assert_eq!(
        (
            all.total.delivered,
            all.total.dead_lettered,
            all.total.attempts
        ),
        (3, 1, 4)
    );
    let [p50, p95, p99] = all.total.latency_ms.expect("something was delivered");
    assert!(
        0 <= p50 && p50 <= p95 && p95 <= p99 && p99 < 60_000,
        "{p50} {p95} {p99}"
    );
    assert!(all.total.last_finished_at.is_some());
    assert_eq!(all.complete_since, None);
    let in_steps: i64 = all.steps.iter().map(|(_, tally)| tally.delivered).sum();
    assert_eq!(in_steps, 3);
    assert!(
        all.steps.iter().all(|(step, _)| *step < window.steps),
        "{:?}",
        all.steps
    );
    assert_eq!(all.endpoints, [(endpoint, all.total.clone())]);

    let elsewhere = fixture.endpoint(&["other"], &[]).await;
    assert_eq!(
        finished(&fixture, Some(elsewhere), window).await.total,
        Tally::default()
    );
    assert_eq!(
        finished(&fixture, Some(endpoint), window).await.total,
        all.total
    );
    // A window that begins after they were accepted has none of them.
    let later = Window {
        since: Utc::now() + TimeDelta::seconds(1),
        ..window
    };
    assert_eq!(
        finished(&fixture, None, later).await.total,
        Tally::default()
    );
}

#[tokio::test]
async fn an_overview_shows_nothing_of_another_tenant() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    ends(&fixture, Settlement::Delivered(record(200))).await;
    let given_up = Settlement::DeadLetter {
        record: None,
        reason: DeadLetterReason::EndpointDisabled,
    };
    ends(&fixture, given_up).await;
    fixture.accepted(&fixture.event("a", None)).await;
    let stranger = TenantId::new();
    for endpoint in [None, Some(endpoint)] {
        let counted = fixture
            .store
            .finished_in(stranger, endpoint, hour())
            .await
            .expect("counted");
        assert_eq!(counted.total, Tally::default());
        let backlog = fixture
            .store
            .backlog_of(stranger, endpoint)
            .await
            .expect("counted");
        assert_eq!(backlog.total.deliveries, 0);
        let dead = fixture.store.dead_letters_counted(stranger, endpoint).await;
        assert_eq!(dead.expect("counted"), 0);
        let dead = fixture
            .store
            .dead_letters_counted(fixture.tenant, endpoint)
            .await;
        assert_eq!(dead.expect("counted"), 1);
    }
    let names = fixture.store.key_names(stranger, ApiKeyId::new()).await;
    assert_eq!(names.expect("asked"), None);
}

#[tokio::test]
async fn what_went_to_an_endpoint_that_was_deleted_meanwhile_counts() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    ends(&fixture, Settlement::Delivered(record(200))).await;
    let deleted = fixture
        .store
        .remove_endpoint(fixture.tenant, endpoint, None)
        .await;
    assert_eq!(deleted.expect("an answer"), Ok(()));
    assert_eq!(finished(&fixture, None, hour()).await.total.delivered, 1);
}

#[tokio::test]
async fn a_backlog_tells_what_waits_what_is_retried_and_what_is_in_hand() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    let backlog = fixture
        .store
        .backlog_of(fixture.tenant, None)
        .await
        .expect("counted");
    assert_eq!(backlog.total.deliveries, 0);
    assert!(backlog.is_complete);

    fixture.accepted(&fixture.event("a", None)).await;
    fixture.claimed().await;
    let failed = fixture.claimed().await;
    let retry = Settlement::Retry {
        record: record(503),
        retry_in: Duration::from_secs(600),
    };
    fixture
        .store
        .settle(&[settling(&failed, TOKEN, retry)])
        .await
        .expect("settled");
    let backlog = fixture
        .store
        .backlog_of(fixture.tenant, None)
        .await
        .expect("counted");
    let total = &backlog.total;
    assert_eq!((total.deliveries, total.retrying, total.in_hand), (3, 1, 1));
    let oldest = total.oldest_due_at.expect("one is due and nobody's");
    assert!(oldest <= Utc::now() + TimeDelta::seconds(1));
    assert_eq!(backlog.endpoints, [(endpoint, total.clone())]);
}

/// The bound on rows is shared out: a busy endpoint does not hide what others do.
#[tokio::test]
async fn a_busy_endpoint_is_counted_in_part_and_hides_no_other() {
    let (fixture, busy) = Fixture::with_endpoint().await;
    let quiet = fixture.endpoint(&["other"], &[]).await;
    let window = hour();
    let share = i64::from(FINISHED_COUNTED_MAX) / 2;
    // 25 ms apart, from a minute after the beginning: some eleven minutes.
    let from = window.since + TimeDelta::minutes(1);
    let from = DateTime::from_timestamp(from.timestamp(), 0).expect("a time in whole seconds");
    ended_long_ago(&fixture, busy, share + 400, from, 25).await;
    ended_long_ago(&fixture, quiet, 3, from, 1000).await;
    fixture
        .sql
        .batch_execute("ANALYZE zyven.finished_deliveries")
        .await
        .expect("analysed");

    let scans = "SELECT coalesce(sum(seq_scan), 0)::bigint FROM pg_stat_user_tables WHERE relname LIKE 'finished_deliveries%'";
    let before = fixture.count(scans).await;
    let all = finished(&fixture, None, window).await;
    let by_endpoint: Vec<_> = all
        .endpoints
        .iter()
        .map(|(id, tally)| (*id, tally.delivered))
        .collect();
    assert_eq!(by_endpoint, [(busy, share), (quiet, 3)]);
    assert_eq!(all.total.delivered, share + 3);
    assert_eq!(all.total.latency_ms, Some([40, 40, 40]));
    // The 400 oldest were left out, so the count is complete from the first that was not.
    let complete = all.complete_since.expect("not everything was counted");
    let left_out = (complete - from).num_milliseconds();
    assert_eq!(left_out, 401 * 25);
    assert_eq!(fixture.count(scans).await, before, "found by the index");
}

#[tokio::test]
async fn dead_letters_are_counted_up_to_a_limit() {
    let (fixture, endpoint) = Fixture::with_endpoint().await;
    let rows = i64::from(DEAD_LETTERS_COUNTED_MAX) + 1;
    fixture
        .sql
        .execute(
            "INSERT INTO zyven.dead_letter_records
                    (delivery_id, generation, event_id, endpoint_id, tenant_id, event_type, payload, accepted_at, reason, attempts)
             SELECT gen_random_uuid(), 1, gen_random_uuid(), $1, $2, 'a', '1', now(), 'rejected', 1
               FROM generate_series(1, $3::bigint)",
            &[&endpoint.uuid(), &fixture.tenant.uuid(), &rows],
        )
        .await
        .expect("rows");
    let counted = fixture
        .store
        .dead_letters_counted(fixture.tenant, None)
        .await;
    assert_eq!(counted.expect("counted"), rows - 1);
}
