-- Each endpoint: what waits for it, its open dead letters, how its latest 200 finished deliveries went, and until when its breaker is
-- open, as far as dispatchers have said so.
--
--   psql "$ZYVEN_DATABASE_URL" -f sql/operator/endpoint-health.sql
--   psql "$ZYVEN_DATABASE_URL" -v tenant=ten_0193… -f sql/operator/endpoint-health.sql
--
-- Variables: tenant, endpoint (default: all), rows (default: 50). Those with most waiting come first.

\set ON_ERROR_STOP on
\set SHOW_CONTEXT never
\if :{?tenant} \else \set tenant '' \endif
\if :{?endpoint} \else \set endpoint '' \endif
\if :{?rows} \else \set rows 50 \endif

SELECT coalesce(CASE WHEN :'endpoint' <> '' THEN zyven.known(:'endpoint', 'ep') END::text, '') AS endpoint_id,
       coalesce(CASE WHEN :'tenant' <> '' THEN zyven.known(:'tenant', 'ten') END::text, '') AS tenant_id,
       zyven.given_number('ROWS', :'rows', 1, 100000) AS rows \gset

SELECT endpoint, url, status, breaker_open_until, waiting, retrying, being_attempted, now() - oldest_due AS oldest_waits,
       dead_letters, latest_delivered_share, latest_attempts_mean, latest_ms_p50, latest_ms_p95, delivered_last_at
  FROM zyven.endpoint_health
 WHERE (:'tenant_id' = '' OR tenant_id = nullif(:'tenant_id', '')::uuid)
   AND (:'endpoint_id' = '' OR endpoint_id = nullif(:'endpoint_id', '')::uuid)
 ORDER BY waiting DESC, dead_letters DESC, endpoint
 LIMIT :rows;
