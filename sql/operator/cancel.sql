-- Calls off what is not finished of an event (evt_…) or a delivery (dlv_…). What is being attempted is left alone.
--
--   psql "$ZYVEN_DATABASE_URL" -v what=evt_0193… -v reason='sent by mistake' -f sql/operator/cancel.sql

\set ON_ERROR_STOP on
\if :{?what} \else
    -- psql's \quit would end with success.
    DO $$ BEGIN RAISE EXCEPTION 'missing: -v what=evt_… or dlv_…'; END $$;
\endif
\if :{?reason} \else
    -- psql's \quit would end with success.
    DO $$ BEGIN RAISE EXCEPTION 'missing: -v reason=''why it is cancelled'' (it goes into the audit)'; END $$;
\endif

SELECT * FROM zyven.cancel(:'what', :'reason');
