-- Deliveries Zyven has stopped trying, newest first, and a summary by reason.
--
--   psql "$ZYVEN_DATABASE_URL" -f sql/operator/dead-letters.sql
--   psql "$ZYVEN_DATABASE_URL" -v endpoint=ep_0193… -v rows=200 -f sql/operator/dead-letters.sql
--
-- Variables: endpoint (default: all), rows (default: 50)

\set ON_ERROR_STOP on
\if :{?endpoint} \else \set endpoint '' \endif
\if :{?rows} \else \set rows 50 \endif

SELECT reason, http_status, count(*) AS deliveries, min(dead_at) AS oldest, max(dead_at) AS newest
  FROM zyven.dead_letters
 WHERE :'endpoint' = '' OR endpoint = :'endpoint'
 GROUP BY reason, http_status
 ORDER BY deliveries DESC;

SELECT delivery, event_type, reason, attempts, http_status, error, dead_at, url
  FROM zyven.dead_letters
 WHERE :'endpoint' = '' OR endpoint = :'endpoint'
 ORDER BY dead_at DESC
 LIMIT :rows;
