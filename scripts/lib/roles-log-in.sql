-- Lets the roles of sql/roles.sql log in, each with the password that the environment names. For the local stack.

\set ON_ERROR_STOP on
\getenv ingest ZYVEN_ROLE_PASSWORD_INGEST
\getenv relay ZYVEN_ROLE_PASSWORD_RELAY
\getenv dispatcher ZYVEN_ROLE_PASSWORD_DISPATCHER
\getenv operator ZYVEN_ROLE_PASSWORD_OPERATOR
ALTER ROLE zyven_ingest LOGIN PASSWORD :'ingest';
ALTER ROLE zyven_relay LOGIN PASSWORD :'relay';
ALTER ROLE zyven_dispatcher LOGIN PASSWORD :'dispatcher';
ALTER ROLE zyven_operator LOGIN PASSWORD :'operator';
