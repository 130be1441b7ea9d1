-- Sends dead letters that were chosen one by one back to the start. A dry run unless go=yes.
--
--   psql "$ZYVEN_DATABASE_URL" -v reason='receiver fixed' -v deliveries='dlv_0193… dlv_0194…' -f sql/operator/replay-chosen.sql
--   psql "$ZYVEN_DATABASE_URL" -v reason='receiver fixed' -v deliveries='dlv_0193… dlv_0194…' -v rate=50 -v go=yes -f …
--
-- Variables: deliveries (required: up to 10,000 ids, with blanks or commas between them), reason (required), tenant (only what is
--            this tenant's), rate (deliveries per second; default: all at once), go (yes: really do it)

\set ON_ERROR_STOP on
\set SHOW_CONTEXT never
\if :{?deliveries} \else
    -- psql's \quit would end with success.
    DO $$ BEGIN RAISE EXCEPTION 'missing: DELIVERIES=''dlv_… dlv_…'' (in psql: -v deliveries=…)'; END $$;
\endif
\if :{?reason} \else
    DO $$ BEGIN RAISE EXCEPTION 'missing: REASON=''why they are replayed'' (in psql: -v reason=…); it goes into the audit'; END $$;
\endif
\if :{?tenant} \else \set tenant '' \endif
\if :{?rate} \else \set rate '' \endif
\if :{?go} \else \set go no \endif

SELECT replay_id, deliveries, oldest, newest, jsonb_pretty(refused) AS refused,
       replace(note, 'call again with dry_run => false', 'do it with GO=yes (in psql: -v go=yes)') AS note
  FROM zyven.replay_chosen(
           dead_letters => regexp_split_to_array(btrim(:'deliveries', E' ,\n\t'), '[\s,]+'),
           reason       => :'reason',
           tenant       => nullif(:'tenant', ''),
           rate_per_s   => zyven.given_number('RATE', nullif(:'rate', ''), 0.001, 100000),
           dry_run      => NOT zyven.given_go(:'go'));
