-- Sends an endpoint what it should have and has not: events it never got (its subscription was made or widened later, it
-- was disabled, …) and its dead letters, of events accepted since a time. A dry run unless go=yes.
--
--   psql "$ZYVEN_DATABASE_URL" -v endpoint=ep_0193… -v since='2026-11-28 09:00+00' -v reason='subscribed too late' \
--        -v rate=50 -v go=yes -f sql/operator/replay-missing.sql
--
-- Variables: endpoint, since, reason (required), until (default: no end), rate (deliveries per second; default: all at
--            once), max (default: 10000), go (yes: really do it)
--            Times are as PostgreSQL reads them (2026-11-28 09:00+00), or how long ago they were (24h, 3 days).

\set ON_ERROR_STOP on
\set SHOW_CONTEXT never
\if :{?endpoint} \else
    -- psql's \quit would end with success.
    DO $$ BEGIN RAISE EXCEPTION 'missing: ENDPOINT=ep_… (in psql: -v endpoint=…)'; END $$;
\endif
\if :{?since} \else
    DO $$ BEGIN RAISE EXCEPTION 'missing: SINCE=''2026-11-28 09:00+00'' or SINCE=24h (in psql: -v since=…): events accepted from then on'; END $$;
\endif
\if :{?reason} \else
    DO $$ BEGIN RAISE EXCEPTION 'missing: REASON=''why they are sent'' (in psql: -v reason=…); it goes into the audit'; END $$;
\endif
\if :{?until} \else \set until 'infinity' \endif
\if :{?rate} \else \set rate '' \endif
\if :{?max} \else \set max 10000 \endif
\if :{?go} \else \set go no \endif

SELECT replay_id, never_sent, dead_letters, oldest, newest,
       replace(note, 'call again with dry_run => false', 'do it with GO=yes (in psql: -v go=yes)') AS note
  FROM zyven.replay_missing(
           endpoint       => :'endpoint',
           reason         => :'reason',
           since          => zyven.given_moment('SINCE', :'since'),
           until          => zyven.given_moment('UNTIL', :'until'),
           rate_per_s     => zyven.given_number('RATE', nullif(:'rate', ''), 0.001, 100000),
           deliveries_max => zyven.given_number('MAX', :'max', 1, 100000)::integer,
           dry_run        => NOT zyven.given_go(:'go'));
