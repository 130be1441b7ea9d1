-- Says how often a tenant may ask: events it publishes and other requests, per second at each process of the API. Ten times as many
-- may come at once. In force within 2 s.
--
--   psql "$ZYVEN_DATABASE_URL" -v tenant=ten_0193… -v events=50 -v requests=default -f sql/operator/limit-tenant.sql
--
-- default: as the settings of the API say; 0: no limit.

\set ON_ERROR_STOP on
\set SHOW_CONTEXT never
\if :{?tenant} \else
    -- psql's \quit would end with success.
    DO $$ BEGIN RAISE EXCEPTION 'missing: TENANT=ten_… (in psql: -v tenant=…)'; END $$;
\endif
\if :{?events} \else
    DO $$ BEGIN RAISE EXCEPTION 'missing: EVENTS=50, or EVENTS=default (in psql: -v events=…)'; END $$;
\endif
\if :{?requests} \else
    DO $$ BEGIN RAISE EXCEPTION 'missing: REQUESTS=50, or REQUESTS=default (in psql: -v requests=…)'; END $$;
\endif

SELECT zyven.limit_tenant(
           :'tenant',
           zyven.given_number('EVENTS', nullif(:'events', 'default'), 0, 1000000)::integer,
           zyven.given_number('REQUESTS', nullif(:'requests', 'default'), 0, 1000000)::integer) AS limited;
