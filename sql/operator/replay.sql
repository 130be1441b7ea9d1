-- Sends one dead letter back to the start. It keeps its webhook-id and goes the normal way.
--
--   psql "$ZYVEN_DATABASE_URL" -v delivery=dlv_0193… -v reason='receiver fixed' -f sql/operator/replay.sql

\set ON_ERROR_STOP on
\if :{?delivery} \else
    \warn 'missing: -v delivery=dlv_…'
    \quit 2
\endif
\if :{?reason} \else
    \warn 'missing: -v reason=\'why it is replayed\' (it goes into the audit)'
    \quit 2
\endif

SELECT zyven.replay(:'delivery', :'reason') AS replayed;
