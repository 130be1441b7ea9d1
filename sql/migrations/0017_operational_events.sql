-- Operational events: what befalls a tenant's deliveries and endpoints, told to those of its endpoints that ask for it by
-- name (ADR 0037). They are events like all others, written by the transaction that writes the fact.

-- Which types -----------------------------------------------------------------------------------------

CREATE FUNCTION zyven.is_operational(event_type text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT starts_with(event_type, 'zyven.') $$;
COMMENT ON FUNCTION zyven.is_operational(text) IS 'whether only Zyven makes events of this type; twin of EventType::is_operational in Rust';

-- Who takes everything has not asked for these: "*" does not match them. Says for itself what is_operational says: services that may
-- call this may not call everything.
CREATE OR REPLACE FUNCTION zyven.patterns_of(event_type text) RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
        SELECT ARRAY[event_type]
            || coalesce(
                   (SELECT array_agg(left(event_type, stop - 1) || '.*' ORDER BY stop)
                      FROM generate_series(2, length(event_type) - 1) AS stop
                     WHERE substr(event_type, stop, 1) = '.'),
                   '{}')
            || CASE WHEN starts_with(event_type, 'zyven.') THEN '{}' ELSE ARRAY['*'] END
    $$;

-- Telling ---------------------------------------------------------------------------------------------

CREATE FUNCTION zyven.shown_time(moment timestamptz) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') $$;
COMMENT ON FUNCTION zyven.shown_time(timestamptz) IS 'a moment as the API shows it (RFC 3339, UTC)';

-- Waits for nobody: it reads subscriptions and inserts rows with fresh keys. The event first: the transaction must own an xid
-- before it draws a sequence number, as the relay's gap ledger needs it.
--
-- Never the reason why a fact cannot be recorded. Called by a trigger it cannot make a partition (the tables are in use by the
-- statement); where that of today is missing, which the relay makes a week ahead, nothing is told.
CREATE FUNCTION zyven.tell(
    event       uuid,
    tenant      uuid,
    event_type  text,
    concerning  uuid,
    payload     text,
    traceparent text DEFAULT NULL
) RETURNS integer
    LANGUAGE plpgsql
    AS $$
    DECLARE
        told uuid[];
    BEGIN
        -- Nobody is told about itself.
        told := ARRAY(
            SELECT r.endpoint_id
              FROM zyven.routes(tenant, event_type, NULL) AS r
             WHERE r.endpoint_id <> concerning
               AND (r.filter IS NULL OR zyven.filter_admits(r.filter, payload::jsonb)));
        IF cardinality(told) = 0 THEN
            RETURN 0;
        END IF;
        BEGIN
            INSERT INTO zyven.events (id, tenant_id, type, payload, source, traceparent)
            VALUES (event, tenant, event_type, convert_to(payload, 'UTF8'), 'zyven', traceparent)
            ON CONFLICT (id) DO NOTHING;
        EXCEPTION WHEN check_violation THEN
            RAISE WARNING 'nothing is told: there is no partition for an event of %', event_type;
            RETURN 0;
        END;
        IF NOT FOUND THEN
            RETURN 0; -- told before, by a call whose outcome got lost
        END IF;
        INSERT INTO zyven.outbox (delivery_id, event_id, endpoint_id, tenant_id)
        SELECT zyven.delivery_id(event, endpoint), event, endpoint, tenant
          FROM unnest(told) AS endpoint;
        RETURN cardinality(told);
    END
    $$;
COMMENT ON FUNCTION zyven.tell(uuid, uuid, text, uuid, text, text)
    IS 'makes an operational event for the endpoints of a tenant that subscribe to its type, except the one it is about; returns how many are told. No event if there are none, or if there is one with this id';

-- A dead letter --------------------------------------------------------------------------------------

-- For each statement, so that one which buries nothing does not come here and one that buries thousands comes once. What an
-- operational event comes to is not told, or the telling would not end; nor is what somebody has called off.
CREATE FUNCTION zyven.tell_dead_letters() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    BEGIN
        PERFORM zyven.tell(zyven.uuid_v7(), b.tenant_id, 'zyven.delivery.dead_lettered', b.endpoint_id,
                    json_build_object(
                        'delivery_id', zyven.typed_id('dlv', b.delivery_id),
                        'generation', b.generation,
                        'event_id', zyven.typed_id('evt', b.event_id),
                        'event_type', b.event_type,
                        'endpoint_id', zyven.typed_id('ep', b.endpoint_id),
                        'reason', b.reason,
                        'attempts', b.attempts,
                        'http_status', b.http_status,
                        'error', b.error,
                        'accepted_at', zyven.shown_time(b.accepted_at),
                        'dead_lettered_at', zyven.shown_time(b.dead_at))::text,
                    b.traceparent)
           FROM buried b
          WHERE NOT zyven.is_operational(b.event_type)
            AND b.reason <> 'cancelled'
            AND EXISTS (SELECT FROM zyven.subscriptions s
                         WHERE s.tenant_id = b.tenant_id
                           AND s.pattern = ANY (ARRAY['zyven.delivery.dead_lettered', 'zyven.delivery.*', 'zyven.*']));
        RETURN NULL;
    END
    $$;

CREATE TRIGGER dead_letters_are_told
    AFTER INSERT ON zyven.dead_letter_records
    REFERENCING NEW TABLE AS buried
    FOR EACH STATEMENT EXECUTE FUNCTION zyven.tell_dead_letters();

-- An endpoint ----------------------------------------------------------------------------------------

CREATE FUNCTION zyven.tell_endpoint_disabled() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    BEGIN
        PERFORM zyven.tell(zyven.uuid_v7(), NEW.tenant_id, 'zyven.endpoint.disabled', NEW.id,
                    json_build_object(
                        'endpoint_id', zyven.typed_id('ep', NEW.id),
                        'description', NEW.description,
                        'reason', NEW.disabled_reason,
                        'disabled_at', zyven.shown_time(now()))::text);
        RETURN NULL;
    END
    $$;

-- By its name after routing_follows_endpoints: the endpoint itself subscribes to nothing any more.
CREATE TRIGGER tells_that_it_is_disabled
    AFTER UPDATE OF status ON zyven.endpoints
    FOR EACH ROW
    WHEN (OLD.status = 'enabled' AND NEW.status = 'disabled' AND NEW.deleted_at IS NULL)
    EXECUTE FUNCTION zyven.tell_endpoint_disabled();

-- What breakers do is Redis' knowledge; the dispatcher that learns of it tells it here. Of endpoints that are themselves told of
-- such things nothing is told: two that fail would otherwise go on telling each other.
CREATE FUNCTION zyven.tell_breaker_opened(event uuid, endpoint uuid, probe_in_ms bigint) RETURNS integer
    LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        it zyven.endpoints;
    BEGIN
        SELECT e.* INTO it
          FROM zyven.endpoints e
         WHERE e.id = tell_breaker_opened.endpoint
           AND e.status = 'enabled'
           AND e.deleted_at IS NULL
           AND NOT (e.channels = '{}'
                    AND EXISTS (SELECT FROM unnest(e.event_types) AS pattern WHERE zyven.is_operational(pattern)));
        IF NOT FOUND THEN
            RETURN 0;
        END IF;
        RETURN zyven.tell(event, it.tenant_id, 'zyven.endpoint.breaker_opened', it.id,
                   json_build_object(
                       'endpoint_id', zyven.typed_id('ep', it.id),
                       'description', it.description,
                       'opened_at', zyven.shown_time(now()),
                       'probe_in_ms', probe_in_ms)::text);
    END
    $$;
COMMENT ON FUNCTION zyven.tell_breaker_opened(uuid, uuid, bigint)
    IS 'tells that an endpoint was found failing and is left alone; repeatable with the same event id. For dispatchers';

DO $$
DECLARE
    name text;
BEGIN
    FOR name IN
        SELECT p.oid::regprocedure
          FROM pg_proc p
         WHERE p.pronamespace = 'zyven'::regnamespace
           AND p.proname IN ('tell', 'tell_dead_letters', 'tell_endpoint_disabled', 'tell_breaker_opened')
    LOOP
        -- With the owner's rights they are nobody's but whom they are granted to (sql/roles.sql).
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', name);
    END LOOP;
END
$$;

-- Publishing ------------------------------------------------------------------------------------------

-- As before, and types of Zyven's own are not for others to publish.
CREATE OR REPLACE FUNCTION zyven.publish(
    tenant          text,
    event_type      text,
    payload         json,
    idempotency_key text DEFAULT NULL,
    channels        text[] DEFAULT NULL,
    source          text DEFAULT NULL,
    traceparent     text DEFAULT NULL,
    deliver_at      timestamptz DEFAULT NULL,
    expires_at      timestamptz DEFAULT NULL,
    ordering_key    text DEFAULT NULL
) RETURNS text
    LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        tenant_uuid uuid := zyven.untyped_id('ten', tenant);
        event_uuid  uuid := zyven.uuid_v7();
        bytes       bytea := convert_to(payload::text, 'UTF8');
        document    jsonb;
        sorted      text[];
        body        uuid;
        turn        timestamptz;
        first       record;
    BEGIN
        IF NOT EXISTS (SELECT FROM zyven.tenants t WHERE t.id = tenant_uuid) THEN
            RAISE EXCEPTION 'tenant % does not exist', tenant USING ERRCODE = 'foreign_key_violation';
        END IF;
        IF event_type IS NULL OR event_type !~ '^[a-zA-Z0-9_.-]{1,128}$' THEN
            RAISE EXCEPTION 'event_type must be 1 to 128 characters of a-z, A-Z, 0-9, underscore, full stop and hyphen'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF zyven.is_operational(event_type) THEN
            RAISE EXCEPTION 'event_type must not begin with "zyven.": such types are Zyven''s own'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF payload IS NULL OR length(bytes) > 262144 THEN
            RAISE EXCEPTION 'payload must be JSON of at most 262144 bytes'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        PERFORM zyven.check_payload(payload);
        document := payload::jsonb;
        IF idempotency_key !~ '^[!-~]{1,255}$' THEN
            RAISE EXCEPTION 'idempotency_key must be 1 to 255 visible ASCII characters'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF source !~ '^[!-~]{1,255}$' THEN
            RAISE EXCEPTION 'source must be 1 to 255 visible ASCII characters'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF traceparent !~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$' THEN
            RAISE EXCEPTION 'traceparent must be a W3C traceparent of version 00'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF cardinality(channels) > 10
            OR EXISTS (SELECT FROM unnest(channels) AS channel
                        WHERE channel IS NULL OR channel !~ '^[a-zA-Z0-9_.-]{1,128}$') THEN
            RAISE EXCEPTION 'channels must be at most 10, each 1 to 128 characters of a-z, A-Z, 0-9, underscore, full stop and hyphen'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF deliver_at > now() + interval '30 days' THEN
            RAISE EXCEPTION 'deliver_at must be at most 30 days ahead' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF expires_at <= greatest(deliver_at, now()) THEN
            RAISE EXCEPTION 'expires_at must be in the future, and after deliver_at' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF ordering_key !~ '^[!-~]{1,128}$' THEN
            RAISE EXCEPTION 'ordering_key must be 1 to 128 visible ASCII characters'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF ordering_key IS NOT NULL AND deliver_at IS NOT NULL THEN
            RAISE EXCEPTION 'deliver_at does not go together with ordering_key: an event that waits would hold up all that follow it'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        -- A schema cannot be applied here. To refuse is better than to let through what the API would not (ADR 0015).
        IF EXISTS (SELECT FROM zyven.event_types t
                    WHERE t.tenant_id = tenant_uuid AND t.name = event_type
                      AND t.mode = 'reject' AND t.archived_at IS NULL) THEN
            RAISE EXCEPTION 'events of the type % must fit its JSON Schema, which only the API can tell: publish them there', event_type
                USING ERRCODE = 'feature_not_supported';
        END IF;
        sorted := (SELECT array_agg(name ORDER BY name COLLATE "C")
                     FROM (SELECT DISTINCT unnest(channels)) AS given (name));

        IF idempotency_key IS NOT NULL THEN
            body := zyven.body_fingerprint(event_type, sorted, source, deliver_at, expires_at, ordering_key, bytes);
            INSERT INTO zyven.idempotency_keys AS k (key, event_id, body)
            VALUES (zyven.key_fingerprint(tenant_uuid, idempotency_key), event_uuid, body)
            ON CONFLICT (key) DO NOTHING;
            IF NOT FOUND THEN
                SELECT k.event_id, k.body INTO first
                  FROM zyven.idempotency_keys k
                 WHERE k.key = zyven.key_fingerprint(tenant_uuid, idempotency_key);
                IF first.body IS DISTINCT FROM body THEN
                    RAISE EXCEPTION 'idempotency key "%" was used for a different event', idempotency_key
                        USING ERRCODE = 'unique_violation', CONSTRAINT = 'idempotency_keys_pkey';
                END IF;
                RETURN zyven.typed_id('evt', first.event_id);
            END IF;
        END IF;

        PERFORM zyven.ensure_partition(zyven.uuid_time(event_uuid));
        -- The event first: the transaction must own an xid before it draws a sequence number, or the
        -- relay could take the number for one that will never be used.
        INSERT INTO zyven.events
               (id, tenant_id, type, payload, channels, source, traceparent, deliver_at, expires_at, ordering_key)
        VALUES (event_uuid, tenant_uuid, event_type, bytes, sorted, source, traceparent, deliver_at, expires_at,
                ordering_key);
        turn := greatest(deliver_at, now());
        INSERT INTO zyven.outbox (delivery_id, event_id, endpoint_id, tenant_id, enqueued_at, due_at, ordering_key)
        SELECT zyven.delivery_id(event_uuid, r.endpoint_id), event_uuid, r.endpoint_id, tenant_uuid, turn, turn,
               zyven.ordering_number(publish.ordering_key)
          FROM zyven.routes(tenant_uuid, event_type, sorted) AS r
         WHERE r.filter IS NULL
            OR zyven.filter_admits(r.filter, document);
        RETURN zyven.typed_id('evt', event_uuid);
    END
    $$;
