-- Sends many dead letters back to the start, oldest first. A dry run unless go=yes.
--
--   psql "$ZYVEN_DATABASE_URL" -v reason='receiver fixed' -v endpoint=ep_0193… -f sql/operator/replay-dead-letters.sql
--   psql "$ZYVEN_DATABASE_URL" -v reason='receiver fixed' -v endpoint=ep_0193… -v rate=50 -v go=yes -f …
--
-- Variables: reason (required), tenant, endpoint, event_type, dead_reason, since, until (default: no filter),
--            rate (deliveries per second; default: all at once), max (default: 10000), go (yes: really do it)

\set ON_ERROR_STOP on
\if :{?reason} \else
    -- psql's \quit would end with success.
    DO $$ BEGIN RAISE EXCEPTION 'missing: -v reason=''why they are replayed'' (it goes into the audit)'; END $$;
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

SELECT *
  FROM zyven.replay_dead_letters(
           reason         => :'reason',
           tenant         => nullif(:'tenant', ''),
           endpoint       => nullif(:'endpoint', ''),
           event_type     => nullif(:'event_type', ''),
           dead_reason    => nullif(:'dead_reason', ''),
           dead_since     => :'since'::timestamptz,
           dead_until     => :'until'::timestamptz,
           rate_per_s     => nullif(:'rate', '')::numeric,
           deliveries_max => :max,
           dry_run        => :'go' <> 'yes');
