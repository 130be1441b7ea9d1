//! What operators ask has an index to answer from, however much is finished.

use std::time::{Duration, Instant};

use zyven_testkit::TestDatabase;

use crate::fixture::Fixture;

/// So many rows of thirty days, of a thousand endpoints of twenty tenants; every 101st one died, so that each tenant has some.
const FILL: &str = "
    SELECT count(zyven.ensure_partition(now() - make_interval(days => day))) FROM generate_series(0, 30) AS day;
    INSERT INTO zyven.tenants (id, name)
    SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid, 'tenant ' || i FROM generate_series(0, 19) AS i;
    INSERT INTO zyven.endpoints (id, tenant_id, url, event_types)
    SELECT ('00000000-0000-7000-9000-' || lpad(to_hex(i), 12, '0'))::uuid,
           ('00000000-0000-7000-8000-' || lpad(to_hex(i % 20), 12, '0'))::uuid, 'https://example.com/' || i, ARRAY['*']
      FROM generate_series(0, 999) AS i;
    INSERT INTO zyven.finished_deliveries
           (delivery_id, generation, attempts, seq, event_id, endpoint_id, tenant_id, state, reason, enqueued_at,
            finished_at, started_at, http_status, total_us, first_byte_us)
    SELECT (time || '7' || substr(md5(i::text), 1, 3) || '8' || substr(md5(i::text), 4, 15))::uuid, 1, 1, i,
           (time || '7' || substr(md5('e' || i), 1, 3) || '8' || substr(md5('e' || i), 4, 15))::uuid,
           ('00000000-0000-7000-9000-' || lpad(to_hex(i % 1000), 12, '0'))::uuid,
           ('00000000-0000-7000-8000-' || lpad(to_hex(i % 20), 12, '0'))::uuid,
           CASE WHEN i % 101 = 0 THEN 'DEAD_LETTERED' ELSE 'DELIVERED' END::zyven.delivery_state,
           CASE WHEN i % 101 = 0 THEN 'rejected' END, t, t + interval '5 ms', t, 200, 3000 + i % 1000, 2000
      FROM (SELECT i, t, lpad(to_hex((extract(epoch FROM t) * 1000)::bigint), 12, '0') AS time
              FROM (SELECT i, now() - interval '30 days' * (1 - i / $rows::float8) AS t
                      FROM generate_series(1, $rows) AS i) AS drawn) AS dated;
    INSERT INTO zyven.dead_letter_records
           (delivery_id, generation, event_id, endpoint_id, tenant_id, event_type, payload, accepted_at, reason, attempts, dead_at)
    SELECT delivery_id, generation, event_id, endpoint_id, tenant_id, 'invoice.paid', '{}', enqueued_at, reason, attempts, finished_at
      FROM zyven.finished_deliveries
     WHERE state = 'DEAD_LETTERED'
     ORDER BY delivery_id DESC
     LIMIT 10000;
    INSERT INTO zyven.replays (reason, filter, deliveries) VALUES ('of old', '{}', 1000);
    UPDATE zyven.dead_letter_records
       SET replay_id = 1, replayed_at = now()
     WHERE delivery_id IN (SELECT delivery_id FROM zyven.dead_letter_records ORDER BY dead_at LIMIT $rows / 200);
    INSERT INTO zyven.attempts (delivery_id, generation, number, event_id, endpoint_id, tenant_id, state_after, started_at, total_us)
    SELECT delivery_id, 1, 1, event_id, endpoint_id, tenant_id, 'DEAD_LETTERED', started_at, 1000
      FROM zyven.finished_deliveries
     WHERE state = 'DEAD_LETTERED';
    ANALYZE;";

/// Each view with the filters its comment names.
const QUESTIONS: [&str; 14] = [
    "SELECT * FROM zyven.deliveries WHERE delivery_id = '$delivery'",
    "SELECT * FROM zyven.deliveries WHERE endpoint_id = '$endpoint' AND delivery_id >= zyven.uuid_floor(now() - interval '1 day')",
    "SELECT * FROM zyven.deliveries WHERE tenant_id = '$tenant' AND delivery_id >= zyven.uuid_floor(now() - interval '1 hour')",
    "SELECT state, count(*) FROM zyven.deliveries WHERE delivery_id >= zyven.uuid_floor(now() - interval '1 hour') GROUP BY state",
    "SELECT * FROM zyven.deliveries_of(zyven.typed_id('evt', '$event'))",
    "SELECT * FROM zyven.attempt_log WHERE delivery_id = '$delivery'",
    "SELECT * FROM zyven.attempts_of(zyven.typed_id('dlv', '$delivery'))",
    "SELECT * FROM zyven.dead_letters WHERE endpoint_id = '$endpoint' ORDER BY dead_at DESC LIMIT 50",
    "SELECT * FROM zyven.dead_letters WHERE tenant_id = '$tenant' ORDER BY dead_at DESC LIMIT 50",
    "SELECT * FROM zyven.endpoint_health WHERE endpoint_id = '$endpoint'",
    "SELECT * FROM zyven.endpoint_health WHERE tenant_id = '$tenant'",
    "SELECT * FROM zyven.stuck",
    "SELECT * FROM zyven.backlog WHERE endpoint_id = '$endpoint'",
    "SELECT * FROM zyven.replay_progress(1)",
];

async fn filled(rows: u32) -> (Fixture, [String; 14]) {
    let fixture = Fixture::on(TestDatabase::new().await).await;
    fixture
        .sql
        .batch_execute(&FILL.replace("$rows", &rows.to_string()))
        .await
        .expect("filled");
    let one = fixture
        .sql
        .query_one(
            "SELECT delivery_id::text, event_id::text, endpoint_id::text, tenant_id::text
               FROM zyven.finished_deliveries WHERE state = 'DEAD_LETTERED' ORDER BY delivery_id DESC LIMIT 1",
            &[],
        )
        .await
        .expect("a delivery");
    let questions = QUESTIONS.map(|question| {
        ["$delivery", "$event", "$endpoint", "$tenant"]
            .iter()
            .enumerate()
            .fold(question.to_owned(), |question, (column, name)| {
                question.replace(name, one.get(column))
            })
    });
    (fixture, questions)
}

#[tokio::test]
async fn no_usual_question_reads_what_is_finished_from_end_to_end() {
    let (fixture, questions) = filled(20_000).await;
    // Whatever has an index is read by it, however few rows there are here.
    fixture
        .sql
        .batch_execute("SET enable_seqscan = off")
        .await
        .expect("set");
    for question in questions {
        let plan = fixture
            .sql
            .query(&format!("EXPLAIN {question}"), &[])
            .await
            .expect(&question);
        let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
        let whole = plan.iter().find(|step| {
            let is_large = ["finished_deliveries", "attempts", "dead_letter_records"]
                .iter()
                .any(|table| step.contains(table));
            step.contains("Seq Scan") && is_large
        });
        assert_eq!(whole, None, "{question}\n{}", plan.join("\n"));
    }
}

/// Plans as ingest's connections have them: once for all values.
const AS_INGEST: &str = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_bitmapscan = off";

/// How many rows and entries of indexes were read so far of the table of dead letters.
async fn read(sql: &tokio_postgres::Client) -> i64 {
    const READ: &str = "
        SELECT sum(idx_tup_read)::bigint + (SELECT coalesce(seq_tup_read, 0) FROM pg_stat_user_tables
                                             WHERE relname = 'dead_letter_records')
          FROM pg_stat_user_indexes
         WHERE relname = 'dead_letter_records'";
    // Told at the end of the next statement; forgotten, lest the same be read twice.
    for tell in [
        "SELECT pg_stat_force_next_flush()",
        "SELECT pg_stat_clear_snapshot()",
    ] {
        sql.query(tell, &[]).await.expect("statistics");
    }
    sql.query_one(READ, &[]).await.expect("statistics").get(0)
}

#[tokio::test]
async fn a_replay_of_a_tenants_dead_letters_reads_no_others() {
    let (fixture, _) = filled(20_000).await;
    fixture.sql.batch_execute(AS_INGEST).await.expect("set");
    const MINE: &str = "(SELECT min(id::text)::uuid FROM zyven.tenants)";
    let counted = format!(
        "SELECT count(*) FILTER (WHERE tenant_id = {MINE}), count(*) FROM zyven.dead_letter_records"
    );
    let counted = fixture.sql.query_one(&counted, &[]).await.expect("counts");
    let (mine, all): (i64, i64) = (counted.get(0), counted.get(1));
    assert!(all >= 10 * mine, "{mine} of {all}");
    let dry_run = format!(
        "SELECT deliveries FROM zyven.replay_dead_letters('r', tenant => zyven.typed_id('ten', {MINE}))"
    );
    let before = read(&fixture.sql).await;
    let found = fixture
        .sql
        .query_one(&dry_run, &[])
        .await
        .expect("a dry run");
    assert!(found.get::<_, i32>(0) > 0, "there is something to find");
    // Each of them, once more for whether its endpoint takes it, and what the index still has of those that were replayed.
    let looked_at = read(&fixture.sql).await - before;
    assert!(looked_at <= 3 * mine, "{looked_at} to find some of {mine}");
}

#[tokio::test]
async fn dead_letters_that_were_chosen_are_looked_up_one_by_one() {
    let (fixture, _) = filled(20_000).await;
    fixture.sql.batch_execute(AS_INGEST).await.expect("set");
    const CHOSEN: i64 = 5;
    let chosen = fixture
        .sql
        .query_one(
            "SELECT array_agg(delivery), (SELECT count(*) FROM zyven.dead_letter_records)
               FROM (SELECT delivery FROM zyven.dead_letters ORDER BY dead_at DESC LIMIT $1) AS latest",
            &[&CHOSEN],
        )
        .await
        .expect("dead letters");
    let (chosen, all): (Vec<String>, i64) = (chosen.get(0), chosen.get(1));
    assert!(all >= 30 * CHOSEN, "{CHOSEN} of {all}");
    for dry_run in [true, false] {
        let before = read(&fixture.sql).await;
        let found = fixture
            .sql
            .query_one(
                "SELECT deliveries FROM zyven.replay_chosen($1, 'r', dry_run => $2)",
                &[&chosen, &dry_run],
            )
            .await
            .expect("a replay");
        assert_eq!(i64::from(found.get::<_, i32>(0)), CHOSEN);
        // To find them; to mark them, which makes new entries; to see which of them are marked.
        let looked_at = read(&fixture.sql).await - before;
        assert!(
            looked_at <= 6 * CHOSEN,
            "{looked_at} of {all} to find {CHOSEN}"
        );
    }
}

/// Ten million finished rows take minutes to make: `--run-ignored`, with the program built in release mode or not.
#[tokio::test]
#[ignore = "takes minutes and gigabytes"]
async fn every_usual_question_about_ten_million_rows_is_answered_within_200_ms() {
    let (fixture, questions) = filled(10_000_000).await;
    let mut slow = Vec::new();
    for question in questions {
        // The second time: what is asked for lately is in memory.
        let mut took = Duration::ZERO;
        for _ in 0..2 {
            let began = Instant::now();
            fixture.sql.query(&question, &[]).await.expect("an answer");
            took = began.elapsed();
        }
        println!("{:8.1} ms  {question}", took.as_secs_f64() * 1000.0);
        if took > Duration::from_millis(200) {
            slow.push(question);
        }
    }
    assert_eq!(slow, Vec::<String>::new());
}
