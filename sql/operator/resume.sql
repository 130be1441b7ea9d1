-- Lets a paused endpoint's deliveries go, few at a time at first.
--
--   psql "$ZYVEN_DATABASE_URL" -v endpoint=ep_0193… -f sql/operator/resume.sql

\set ON_ERROR_STOP on
\set SHOW_CONTEXT never
\if :{?endpoint} \else
    -- psql's \quit would end with success.
    DO $$ BEGIN RAISE EXCEPTION 'missing: ENDPOINT=ep_… (in psql: -v endpoint=…)'; END $$;
\endif

SELECT zyven.resume(:'endpoint') AS resumed;
