-- Each endpoint: what waits for it, its open dead letters, how its latest 200 finished deliveries went.
--
--   psql "$ZYVEN_DATABASE_URL" -f sql/operator/endpoint-health.sql
--   psql "$ZYVEN_DATABASE_URL" -v tenant=ten_0193… -f sql/operator/endpoint-health.sql
--
-- Variables: tenant, endpoint (default: all), rows (default: 50). Those with most waiting come first.

\set ON_ERROR_STOP on
\if :{?tenant} \else \set tenant '' \endif
\if :{?endpoint} \else \set endpoint '' \endif
\if :{?rows} \else \set rows 50 \endif

SELECT endpoint, url, status, waiting, retrying, being_attempted, now() - oldest_due AS oldest_waits, dead_letters,
       latest_delivered_share, latest_attempts_mean, latest_ms_p50, latest_ms_p95, delivered_last_at
  FROM zyven.endpoint_health
 WHERE (:'tenant' = '' OR tenant_id = zyven.untyped_id('ten', coalesce(nullif(:'tenant', ''), '00000000-0000-0000-0000-000000000000')))
   AND (:'endpoint' = '' OR endpoint_id = zyven.untyped_id('ep', coalesce(nullif(:'endpoint', ''), '00000000-0000-0000-0000-000000000000')))
 ORDER BY waiting DESC, dead_letters DESC, endpoint
 LIMIT :rows;
