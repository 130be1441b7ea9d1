-- Sends an endpoint what it should have and has not: events it never got (its subscription was made or widened later, it
-- was disabled, …) and its dead letters, of events accepted since a time. A dry run unless go=yes.
--
--   psql "$ZYVEN_DATABASE_URL" -v endpoint=ep_0193… -v since='2026-11-28 09:00+00' -v reason='subscribed too late' \
--        -v rate=50 -v go=yes -f sql/operator/replay-missing.sql
--
-- Variables: endpoint, since, reason (required), until (default: no end), rate (deliveries per second; default: all at
--            once), max (default: 10000), go (yes: really do it)

\set ON_ERROR_STOP on
\if :{?endpoint} \else
    -- psql's \quit would end with success.
    DO $$ BEGIN RAISE EXCEPTION 'missing: -v endpoint=ep_…'; END $$;
\endif
\if :{?since} \else
    DO $$ BEGIN RAISE EXCEPTION 'missing: -v since=''2026-11-28 09:00+00'' (events accepted from then on)'; END $$;
\endif
\if :{?reason} \else
    DO $$ BEGIN RAISE EXCEPTION 'missing: -v reason=''why they are sent'' (it goes into the audit)'; END $$;
\endif
\if :{?until} \else \set until 'infinity' \endif
\if :{?rate} \else \set rate '' \endif
\if :{?max} \else \set max 10000 \endif
\if :{?go} \else \set go no \endif

SELECT *
  FROM zyven.replay_missing(
           endpoint       => :'endpoint',
           reason         => :'reason',
           since          => :'since'::timestamptz,
           until          => :'until'::timestamptz,
           rate_per_s     => nullif(:'rate', '')::numeric,
           deliveries_max => :max,
           dry_run        => :'go' <> 'yes');
