-- Deliveries Zyven has stopped trying, newest first, and a summary by reason.
--
--   psql "$ZYVEN_DATABASE_URL" -f sql/operator/dead-letters.sql
--   psql "$ZYVEN_DATABASE_URL" -v endpoint=ep_0193… -v rows=200 -f sql/operator/dead-letters.sql
--
-- Variables: endpoint, tenant (default: all), rows (default: 50)

\set ON_ERROR_STOP on
\set SHOW_CONTEXT never
\if :{?endpoint} \else \set endpoint '' \endif
\if :{?tenant} \else \set tenant '' \endif
\if :{?rows} \else \set rows 50 \endif

SELECT coalesce(CASE WHEN :'endpoint' <> '' THEN zyven.known(:'endpoint', 'ep') END::text, '') AS endpoint_id,
       coalesce(CASE WHEN :'tenant' <> '' THEN zyven.known(:'tenant', 'ten') END::text, '') AS tenant_id,
       zyven.given_number('ROWS', :'rows', 1, 100000) AS rows \gset

SELECT reason, http_status, count(*) AS deliveries, min(dead_at) AS oldest, max(dead_at) AS newest
  FROM zyven.dead_letters
 WHERE (:'endpoint_id' = '' OR endpoint_id = nullif(:'endpoint_id', '')::uuid)
   AND (:'tenant_id' = '' OR tenant_id = nullif(:'tenant_id', '')::uuid)
 GROUP BY reason, http_status
 ORDER BY deliveries DESC;

SELECT delivery, event_type, reason, attempts, http_status, error, dead_at, url
  FROM zyven.dead_letters
 WHERE (:'endpoint_id' = '' OR endpoint_id = nullif(:'endpoint_id', '')::uuid)
   AND (:'tenant_id' = '' OR tenant_id = nullif(:'tenant_id', '')::uuid)
 ORDER BY dead_at DESC
 LIMIT :rows;
