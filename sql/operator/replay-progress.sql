-- How far a replay has come: how many of its deliveries were delivered, wait, or died again, and when the last of those that wait is due.
--
--   psql "$ZYVEN_DATABASE_URL" -v replay=7 -f sql/operator/replay-progress.sql
--
-- Variables: replay (required: the replay_id that a replay has shown), tenant (only what is this tenant's)

\set ON_ERROR_STOP on
\set SHOW_CONTEXT never
\if :{?replay} \else
    -- psql's \quit would end with success.
    DO $$ BEGIN RAISE EXCEPTION 'missing: REPLAY=7, the replay_id that a replay has shown (in psql: -v replay=…)'; END $$;
\endif
\if :{?tenant} \else \set tenant '' \endif

SELECT zyven.given_number('REPLAY', :'replay', 1, 999999999999999999)::bigint AS replay \gset
SELECT NOT EXISTS (SELECT FROM zyven.replays WHERE id = :replay) AS is_unknown \gset
\if :is_unknown
    DO $$ BEGIN RAISE EXCEPTION 'there is no replay of this number; the latest are in zyven.replays'; END $$;
\endif

SELECT * FROM zyven.replay_progress(:replay, nullif(:'tenant', ''));
