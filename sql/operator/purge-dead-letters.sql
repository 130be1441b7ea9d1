-- Deletes dead letters of an endpoint or a tenant with their payloads, for good, oldest first. A dry run unless go=yes.
--
--   psql "$ZYVEN_DATABASE_URL" -v endpoint=ep_0193… -v reason='test data' -f sql/operator/purge-dead-letters.sql
--   psql "$ZYVEN_DATABASE_URL" -v endpoint=ep_0193… -v reason='test data' -v go=yes -f …
--
-- Variables: reason and one of endpoint and tenant (required), event_type, dead_reason, since, until (default: no filter),
--            max (default: 10000), go (yes: really do it)

\set ON_ERROR_STOP on
\if :{?reason} \else
    -- psql's \quit would end with success.
    DO $$ BEGIN RAISE EXCEPTION 'missing: -v reason=''why they are deleted'' (it goes into the audit)'; END $$;
\endif
\if :{?tenant} \else \set tenant '' \endif
\if :{?endpoint} \else \set endpoint '' \endif
\if :{?event_type} \else \set event_type '' \endif
\if :{?dead_reason} \else \set dead_reason '' \endif
\if :{?since} \else \set since '-infinity' \endif
\if :{?until} \else \set until 'infinity' \endif
\if :{?max} \else \set max 10000 \endif
\if :{?go} \else \set go no \endif

SELECT *
  FROM zyven.purge_dead_letters(
           reason         => :'reason',
           tenant         => nullif(:'tenant', ''),
           endpoint       => nullif(:'endpoint', ''),
           event_type     => nullif(:'event_type', ''),
           dead_reason    => nullif(:'dead_reason', ''),
           dead_since     => :'since'::timestamptz,
           dead_until     => :'until'::timestamptz,
           deliveries_max => :max,
           dry_run        => :'go' <> 'yes');
