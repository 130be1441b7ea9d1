-- Deliveries that are due and that nobody is working on, and why; then everything unfinished, by endpoint.
-- While the first table is empty, all is well.
--
--   psql "$ZYVEN_DATABASE_URL" -f sql/operator/stuck.sql
--
-- Variables: rows (default: 50)

\set ON_ERROR_STOP on
\if :{?rows} \else \set rows 50 \endif

SELECT delivery, event, endpoint, state, attempts, overdue, why
  FROM zyven.stuck
 ORDER BY overdue DESC
 LIMIT :rows;

SELECT endpoint, url, state, deliveries, oldest_due, attempts_max
  FROM zyven.backlog
 ORDER BY deliveries DESC
 LIMIT :rows;
