-- Cancels what waits for an endpoint or a tenant, oldest first. What is being attempted is left alone. A dry run unless go=yes.
--
--   psql "$ZYVEN_DATABASE_URL" -v endpoint=ep_0193… -v reason='receiver is gone' -f sql/operator/cancel-deliveries.sql
--   psql "$ZYVEN_DATABASE_URL" -v endpoint=ep_0193… -v reason='receiver is gone' -v go=yes -f …
--
-- Variables: reason and one of endpoint and tenant (required), event_type, since, until (default: no filter),
--            max (default: 10000), go (yes: really do it)

\set ON_ERROR_STOP on
\if :{?reason} \else
    -- psql's \quit would end with success.
    DO $$ BEGIN RAISE EXCEPTION 'missing: -v reason=''why they are cancelled'' (it goes into the audit)'; END $$;
\endif
\if :{?tenant} \else \set tenant '' \endif
\if :{?endpoint} \else \set endpoint '' \endif
\if :{?event_type} \else \set event_type '' \endif
\if :{?since} \else \set since '-infinity' \endif
\if :{?until} \else \set until 'infinity' \endif
\if :{?max} \else \set max 10000 \endif
\if :{?go} \else \set go no \endif

SELECT *
  FROM zyven.cancel_deliveries(
           reason         => :'reason',
           tenant         => nullif(:'tenant', ''),
           endpoint       => nullif(:'endpoint', ''),
           event_type     => nullif(:'event_type', ''),
           since          => :'since'::timestamptz,
           until          => :'until'::timestamptz,
           deliveries_max => :max,
           dry_run        => :'go' <> 'yes');
