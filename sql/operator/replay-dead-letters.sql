-- Sends many dead letters back to the start, oldest first. A dry run unless go=yes.
--
--   psql "$ZYVEN_DATABASE_URL" -v reason='receiver fixed' -v endpoint=ep_0193… -f sql/operator/replay-dead-letters.sql
--   psql "$ZYVEN_DATABASE_URL" -v reason='receiver fixed' -v endpoint=ep_0193… -v rate=50 -v go=yes -f …
--
-- Variables: reason (required), tenant, endpoint, event_type, dead_reason, since, until (default: no filter),
--            rate (deliveries per second; default: all at once), max (default: 10000), go (yes: really do it)
--            Times are as PostgreSQL reads them (2026-11-28 09:00+00), or how long ago they were (24h, 3 days).

\set ON_ERROR_STOP on
\set SHOW_CONTEXT never
\if :{?reason} \else
    -- psql's \quit would end with success.
    DO $$ BEGIN RAISE EXCEPTION 'missing: REASON=''why they are replayed'' (in psql: -v reason=…); it goes into the audit'; END $$;
\endif
\if :{?tenant} \else \set tenant '' \endif
\if :{?endpoint} \else \set endpoint '' \endif
\if :{?event_type} \else \set event_type '' \endif
\if :{?dead_reason} \else \set dead_reason '' \endif
\if :{?since} \else \set since '-infinity' \endif
\if :{?until} \else \set until 'infinity' \endif
\if :{?rate} \else \set rate '' \endif
\if :{?max} \else \set max 10000 \endif
\if :{?go} \else \set go no \endif

SELECT zyven.given_moment('SINCE', :'since') AS since, zyven.given_moment('UNTIL', :'until') AS until \gset

-- To the API, which calls the function as well, whatever it does not know simply has no dead letters.
SELECT zyven.check_filter(nullif(:'tenant', ''), nullif(:'endpoint', ''), nullif(:'dead_reason', ''), :'since', :'until') AS checked \gset

SELECT replay_id, deliveries, oldest, newest,
       replace(note, 'call again with dry_run => false', 'do it with GO=yes (in psql: -v go=yes)') AS note
  FROM zyven.replay_dead_letters(
           reason         => :'reason',
           tenant         => nullif(:'tenant', ''),
           endpoint       => nullif(:'endpoint', ''),
           event_type     => nullif(:'event_type', ''),
           dead_reason    => nullif(:'dead_reason', ''),
           dead_since     => :'since',
           dead_until     => :'until',
           rate_per_s     => zyven.given_number('RATE', nullif(:'rate', ''), 0.001, 100000),
           deliveries_max => zyven.given_number('MAX', :'max', 1, 100000)::integer,
           dry_run        => NOT zyven.given_go(:'go'));
