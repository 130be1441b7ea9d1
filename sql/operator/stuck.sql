-- Deliveries that are due and that nobody is working on, and why; then everything unfinished, by endpoint.
-- While the first table is empty, all is well. What waits as it should, because its endpoint is paused or its breaker is open, is in the
-- second one only, which says so.
--
--   psql "$ZYVEN_DATABASE_URL" -f sql/operator/stuck.sql
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

SELECT delivery, event, endpoint, state, attempts, overdue, why
  FROM zyven.stuck
 WHERE NOT is_left_alone
   AND (:'endpoint_id' = '' OR endpoint_id = nullif(:'endpoint_id', '')::uuid)
   AND (:'tenant_id' = '' OR tenant_id = nullif(:'tenant_id', '')::uuid)
 ORDER BY overdue DESC
 LIMIT :rows;

SELECT b.endpoint, b.url, b.state, b.deliveries, b.oldest_due, b.attempts_max,
       CASE a.because WHEN 'paused' THEN 'paused'
                      WHEN 'breaker_open' THEN 'breaker open until ' || date_trunc('second', a.until) END AS left_alone
  FROM zyven.backlog b
  LEFT JOIN zyven.left_alone a ON a.endpoint_id = b.endpoint_id
 WHERE (:'endpoint_id' = '' OR b.endpoint_id = nullif(:'endpoint_id', '')::uuid)
   AND (:'tenant_id' = '' OR b.tenant_id = nullif(:'tenant_id', '')::uuid)
 ORDER BY b.deliveries DESC
 LIMIT :rows;
