-- Calls off what is not finished of an event (evt_…) or a delivery (dlv_…). What is being attempted is left alone.
--
--   psql "$ZYVEN_DATABASE_URL" -v what=evt_0193… -v reason='sent by mistake' -f sql/operator/cancel.sql

\set ON_ERROR_STOP on
\set SHOW_CONTEXT never
\if :{?what} \else
    -- psql's \quit would end with success.
    DO $$ BEGIN RAISE EXCEPTION 'missing: WHAT=evt_… or WHAT=dlv_… (in psql: -v what=…)'; END $$;
\endif
\if :{?reason} \else
    DO $$ BEGIN RAISE EXCEPTION 'missing: REASON=''why it is cancelled'' (in psql: -v reason=…); it goes into the audit'; END $$;
\endif

-- What nobody has is not called off.
SELECT CASE WHEN :'what' ~ '^[0-9a-f]{8}-'
            -- As zyven.cancel takes an id without its kind.
            THEN zyven.known(:'what', 'dlv')
            ELSE zyven.known(:'what', 'evt', 'dlv') END AS known \gset

SELECT * FROM zyven.cancel(:'what', :'reason');
