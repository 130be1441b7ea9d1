-- Everything about one delivery: where it stands, every attempt, every replay.
--
--   psql "$ZYVEN_DATABASE_URL" -v delivery=dlv_0193… -f sql/operator/delivery.sql

\set ON_ERROR_STOP on
\set SHOW_CONTEXT never
\if :{?delivery} \else
    -- psql's \quit would end with success.
    DO $$ BEGIN RAISE EXCEPTION 'missing: DELIVERY=dlv_… (in psql: -v delivery=…)'; END $$;
\endif
SELECT zyven.known(:'delivery', 'dlv') AS delivery_id \gset

SELECT state, reason, generation, attempts, http_status, enqueued_at, next_attempt_at, finished_at,
       zyven.typed_id('evt', event_id) AS event, zyven.typed_id('ep', endpoint_id) AS endpoint
  FROM zyven.deliveries
 WHERE delivery_id = :'delivery_id';

SELECT generation, number, started_at, state_after, http_status, error, error_detail,
       connect_us, first_byte_us, total_us, left(encode(response_body, 'escape'), 200) AS answer
  FROM zyven.attempt_log
 WHERE delivery_id = :'delivery_id'
 ORDER BY generation, number;

SELECT d.generation, d.reason, d.dead_at, d.resolved_at, r.decided_at AS replayed_at, r.decided_by, r.reason AS replay_reason
  FROM zyven.dead_letter_records d
  LEFT JOIN zyven.replays r ON r.id = d.replay_id
 WHERE d.delivery_id = :'delivery_id'
 ORDER BY d.generation;
