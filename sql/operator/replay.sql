-- Sends one dead letter back to the start. It keeps its webhook-id and goes the normal way.
--
--   psql "$ZYVEN_DATABASE_URL" -v delivery=dlv_0193… -v reason='receiver fixed' -f sql/operator/replay.sql

\set ON_ERROR_STOP on
\if :{?delivery} \else
    -- psql's \quit would end with success.
    DO $$ BEGIN RAISE EXCEPTION 'missing: -v delivery=dlv_…'; END $$;
\endif
\if :{?reason} \else
    -- psql's \quit would end with success.
    DO $$ BEGIN RAISE EXCEPTION 'missing: -v reason=''why it is replayed'' (it goes into the audit)'; END $$;
\endif

SELECT zyven.replay(:'delivery', :'reason') AS replayed;
