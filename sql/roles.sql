-- One least-privilege role for each service, one for operators and one for programs that publish in SQL.
--
--   psql "$ZYVEN_DATABASE_URL" -f sql/roles.sql            after each `zyven migrate`, as the owner of the schema, which the
--                                                          first time needs CREATEROLE as well
--   psql "$ZYVEN_DATABASE_URL" -c "ALTER ROLE zyven_ingest LOGIN PASSWORD '…'"
--
-- May be run again at any time: it takes away and grants anew. The roles cannot log in by themselves: give each a
-- password as above, or grant it to roles of your own. `zyven migrate`, `zyven admin` and `zyven all` go on using the
-- owner. What each service reads and writes is also in ARCHITECTURE.md; a test runs every service with its own role.

\set ON_ERROR_STOP on
BEGIN;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['zyven_ingest', 'zyven_relay', 'zyven_dispatcher', 'zyven_operator', 'zyven_publisher'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I', name);
        END IF;
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA zyven FROM %I', name);
        EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA zyven FROM %I', name);
        EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA zyven FROM %I', name);
        EXECUTE format('GRANT USAGE ON SCHEMA zyven TO %I', name);
    END LOOP;
END
$$;

-- Functions are everybody's unless that is said.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA zyven FROM PUBLIC;

-- What only computes, and what defaults, indexes and views call.
GRANT EXECUTE ON FUNCTION
    zyven.typed_id, zyven.untyped_id, zyven.uuid_v7, zyven.uuid_floor, zyven.uuid_time, zyven.delivery_id,
    zyven.actor, zyven.audit_id
TO zyven_ingest, zyven_relay, zyven_dispatcher, zyven_operator, zyven_publisher;

-- Every service asks whether the schema is the one it knows.
GRANT SELECT ON zyven.migrations, zyven.compatibility TO zyven_ingest, zyven_relay, zyven_dispatcher, zyven_operator;

-- Ingest: everything of a tenant; the outbox it fills, and empties by cancelling.
GRANT SELECT ON
    zyven.tenants, zyven.api_keys, zyven.endpoints, zyven.endpoint_secrets, zyven.endpoint_credentials,
    zyven.event_types, zyven.subscriptions, zyven.routing_versions, zyven.events, zyven.outbox,
    zyven.finished_deliveries, zyven.attempts, zyven.dead_letter_records, zyven.idempotency_keys, zyven.relay,
    zyven.deliveries, zyven.attempt_log, zyven.audit_log, zyven.replays
TO zyven_ingest;
GRANT INSERT ON zyven.events, zyven.outbox, zyven.idempotency_keys TO zyven_ingest;
-- Who and when is not for it to say.
GRANT INSERT (tenant_id, action, subject, details) ON zyven.audit_log TO zyven_ingest;
GRANT INSERT, UPDATE ON zyven.api_keys, zyven.endpoints, zyven.event_types TO zyven_ingest;
GRANT INSERT, UPDATE, DELETE ON zyven.endpoint_secrets, zyven.endpoint_credentials TO zyven_ingest;
-- FOR SHARE, and an update that changes nothing, are how a route is held still.
GRANT UPDATE ON zyven.routing_versions, zyven.idempotency_keys TO zyven_ingest;
GRANT USAGE ON SEQUENCE zyven.event_type_versions TO zyven_ingest;
GRANT EXECUTE ON FUNCTION
    zyven.route, zyven.routes, zyven.patterns_of, zyven.document_of, zyven.filter_admits, zyven.ordering_number,
    zyven.ensure_partition, zyven.cancel, zyven.replay, zyven.replay_chosen, zyven.replay_dead_letters,
    zyven.replay_progress, zyven.explain_event, zyven.explain_delivery, zyven.explain_sentence
TO zyven_ingest;

-- Relay: reads the outbox, keeps the watermark, ends the leases of the dead, and looks after what is old.
GRANT SELECT ON zyven.outbox, zyven.endpoints, zyven.relay, zyven.left_alone TO zyven_relay;
GRANT UPDATE (lease_token, leased_until) ON zyven.outbox TO zyven_relay;
GRANT SELECT, UPDATE, DELETE ON zyven.dispatchers TO zyven_relay;
GRANT UPDATE ON zyven.relay TO zyven_relay;
GRANT SELECT, DELETE ON zyven.idempotency_keys, zyven.audit_log TO zyven_relay;
GRANT SELECT (delivery_id, generation, dead_at), DELETE ON zyven.dead_letter_records TO zyven_relay;
GRANT EXECUTE ON FUNCTION
    zyven.ensure_partition, zyven.ensure_partitions, zyven.drop_expired_partitions, zyven.expire_dead_letters,
    zyven.expire_audit_log
TO zyven_relay;

-- Dispatcher: says that it lives, claims, settles, disables an endpoint that says it is gone, and tells of its breaker.
GRANT SELECT ON
    zyven.outbox, zyven.events, zyven.endpoints, zyven.endpoint_secrets, zyven.endpoint_credentials,
    zyven.finished_deliveries, zyven.dead_letter_records
TO zyven_dispatcher;
GRANT SELECT, INSERT, UPDATE, DELETE ON zyven.dispatchers, zyven.breakers TO zyven_dispatcher;
GRANT UPDATE, DELETE ON zyven.outbox TO zyven_dispatcher;
GRANT INSERT ON zyven.finished_deliveries, zyven.attempts, zyven.dead_letter_records TO zyven_dispatcher;
GRANT UPDATE (resolved_at) ON zyven.dead_letter_records TO zyven_dispatcher;
GRANT UPDATE (status, disabled_reason) ON zyven.endpoints TO zyven_dispatcher;
GRANT EXECUTE ON FUNCTION zyven.tell_breaker_opened TO zyven_dispatcher;

-- Operators: see everything but secrets and hashes of keys; change things by functions, which leave an entry.
GRANT SELECT ON
    zyven.tenants, zyven.endpoints, zyven.event_types, zyven.subscriptions, zyven.events, zyven.outbox, zyven.finished_deliveries,
    zyven.attempts, zyven.dead_letter_records, zyven.relay, zyven.dispatchers, zyven.replays, zyven.cancellations, zyven.audit_log,
    zyven.deliveries, zyven.attempt_log, zyven.dead_letters, zyven.stuck, zyven.backlog, zyven.endpoint_health,
    zyven.breakers, zyven.left_alone, zyven.audit
TO zyven_operator;
GRANT SELECT (id, tenant_id, public_id, name, scopes, created_at, expires_at, revoked_at) ON zyven.api_keys TO zyven_operator;
GRANT EXECUTE ON FUNCTION
    zyven.deliveries_of, zyven.attempts_of, zyven.replay, zyven.replay_chosen, zyven.replay_dead_letters, zyven.replay_missing,
    zyven.replay_progress,
    zyven.cancel, zyven.cancel_deliveries, zyven.purge_dead_letters, zyven.pause, zyven.resume, zyven.limit_tenant, zyven.storage,
    zyven.explain, zyven.explain_event, zyven.explain_delivery, zyven.explain_sentence,
    zyven.patterns_of, zyven.document_of, zyven.filter_admits, zyven.routes,
    zyven.known, zyven.given_number, zyven.given_moment, zyven.given_go, zyven.check_filter, zyven.replay_note
TO zyven_operator;

-- The relay tells for how long the oldest transaction has been open. Without this it sees its own sessions only.
DO $$
BEGIN
    GRANT pg_read_all_stats TO zyven_relay;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'not granted: pg_read_all_stats to zyven_relay, which takes a superuser; zyven_relay_oldest_transaction_seconds will know the relay''s own sessions only';
END
$$;

-- Publishers: a producer's own database role, which can publish and see nothing.
GRANT EXECUTE ON FUNCTION zyven.publish TO zyven_publisher;

COMMIT;
