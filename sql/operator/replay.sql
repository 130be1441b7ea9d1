-- Sends one dead letter back to the start. It keeps its webhook-id and goes the normal way.
--
--   psql "$ZYVEN_DATABASE_URL" -v delivery=dlv_0193… -v reason='receiver fixed' -f sql/operator/replay.sql

\set ON_ERROR_STOP on
\set SHOW_CONTEXT never
\if :{?delivery} \else
    -- psql's \quit would end with success.
    DO $$ BEGIN RAISE EXCEPTION 'missing: DELIVERY=dlv_… (in psql: -v delivery=…)'; END $$;
\endif
\if :{?reason} \else
    DO $$ BEGIN RAISE EXCEPTION 'missing: REASON=''why it is replayed'' (in psql: -v reason=…); it goes into the audit'; END $$;
\endif

SELECT zyven.known(:'delivery', 'dlv') AS delivery_id \gset

SELECT zyven.replay(:'delivery', :'reason') AS replayed, zyven.replay_note(ARRAY[:'delivery_id'::uuid]) AS note;
