-- Holds an endpoint's deliveries back: events are accepted, deliveries wait, no attempt is spent.
--
--   psql "$ZYVEN_DATABASE_URL" -v endpoint=ep_0193… -f sql/operator/pause.sql

\set ON_ERROR_STOP on
\set SHOW_CONTEXT never
\if :{?endpoint} \else
    -- psql's \quit would end with success.
    DO $$ BEGIN RAISE EXCEPTION 'missing: ENDPOINT=ep_… (in psql: -v endpoint=…)'; END $$;
\endif

SELECT zyven.pause(:'endpoint') AS paused;
