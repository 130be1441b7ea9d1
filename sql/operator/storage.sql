-- What takes how much room, how fast it grows, and what the retention of events frees next.
--
--   psql "$ZYVEN_DATABASE_URL" -f sql/operator/storage.sql
--   psql "$ZYVEN_DATABASE_URL" -v retention='14 days' -f sql/operator/storage.sql
--
-- Variables: retention (what would be kept; default: 30 days, as ZYVEN_RELAY_EVENT_RETENTION has it)

\set ON_ERROR_STOP on
\set SHOW_CONTEXT never
\if :{?retention} \else \set retention '30 days' \endif

SELECT what, partitions, oldest_day, newest_day, CASE WHEN rows_about < 0 THEN 'unknown' ELSE rows_about::text END AS rows_about,
       pg_size_pretty(table_bytes) AS table_size, pg_size_pretty(index_bytes) AS index_size,
       pg_size_pretty(bytes_per_day) AS a_day, pg_size_pretty(expired_bytes) AS expired, needed_days,
       next_freed_at, pg_size_pretty(next_freed_bytes) AS next_freed
  FROM zyven.storage(:'retention'::interval);
