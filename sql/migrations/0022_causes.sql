-- Explanations tell a change of routing from any other, what disables an endpoint has a name for programs, and a payload that is
-- not there is told as such.

-- When routing changed --------------------------------------------------------------------------------

ALTER TABLE zyven.endpoints
    ADD COLUMN routing_changed_at timestamptz;
COMMENT ON COLUMN zyven.endpoints.routing_changed_at
    IS 'when that changed which decides who gets an event: event_types, channels, filter, status, deleted_at; NULL: not since there is this column, and not later than updated_at';

-- As before; a new secret, another URL or a pause make no difference to who gets an event.
CREATE OR REPLACE FUNCTION zyven.note_change() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
    BEGIN
        NEW.updated_at := clock_timestamp();
        NEW.routing_changed_at := CASE
            WHEN (NEW.event_types, NEW.channels, NEW.filter, NEW.status, NEW.deleted_at)
                 IS DISTINCT FROM (OLD.event_types, OLD.channels, OLD.filter, OLD.status, OLD.deleted_at)
            THEN NEW.updated_at
            -- The first change since there is this column: whatever changed before, it was no later than this.
            ELSE coalesce(OLD.routing_changed_at, OLD.updated_at) END;
        RETURN NEW;
    END
    $$;

-- As before; when routing changed follows from what did.
CREATE OR REPLACE FUNCTION zyven.audit() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        before   jsonb := CASE WHEN TG_OP = 'INSERT' THEN '{}' ELSE to_jsonb(OLD) END;
        after    jsonb := CASE WHEN TG_OP = 'DELETE' THEN '{}' ELSE to_jsonb(NEW) END;
        subject  jsonb := CASE WHEN TG_OP = 'DELETE' THEN before ELSE after END;
        noun     text := TG_ARGV[0];
        identity text := subject ->> coalesce(TG_ARGV[2], 'id');
        secrets  text[];
        changed  jsonb;
        owner    uuid;
    BEGIN
        SELECT coalesce(array_agg(attname), '{}') INTO secrets
          FROM pg_attribute
         WHERE attrelid = TG_RELID
           AND atttypid = 'bytea'::regtype;
        SELECT coalesce(jsonb_object_agg(name, CASE
                   WHEN name = ANY (secrets) THEN '"not shown"'::jsonb
                   ELSE jsonb_strip_nulls(jsonb_build_object(
                       'from', zyven.audit_value(before -> name), 'to', zyven.audit_value(after -> name)))
               END), '{}') INTO changed
          FROM jsonb_object_keys(before || after) AS name
         WHERE nullif(before -> name, 'null') IS DISTINCT FROM nullif(after -> name, 'null')
           -- Bookkeeping, which follows from the rest.
           AND name NOT IN ('updated_at', 'changed_at', 'version', 'routing_changed_at');
        IF changed = '{}' THEN
            RETURN NULL;
        END IF;
        owner := CASE
            WHEN subject ? 'tenant_id' THEN (subject ->> 'tenant_id')::uuid
            WHEN subject ? 'endpoint_id' THEN
                (SELECT e.tenant_id FROM zyven.endpoints e WHERE e.id = (subject ->> 'endpoint_id')::uuid)
            WHEN TG_RELID = 'zyven.tenants'::regclass THEN (subject ->> 'id')::uuid
        END;
        INSERT INTO zyven.audit_log (tenant_id, action, subject, details)
        VALUES (owner,
                noun || '.' || CASE TG_OP WHEN 'INSERT' THEN 'create'
                                          WHEN 'DELETE' THEN 'delete'
                                          ELSE zyven.audit_verb(changed, after) END,
                CASE WHEN TG_ARGV[1] = '' THEN identity ELSE zyven.typed_id(TG_ARGV[1], identity::uuid) END,
                changed - CASE TG_OP WHEN 'UPDATE' THEN '{}'::text[] ELSE secrets || ARRAY['id', 'tenant_id', 'endpoint_id'] END);
        RETURN NULL;
    END
    $$;

-- The order of the reasons: what is on record first; of what is judged by the configuration, what would keep the event
-- away whatever the endpoint's status is comes before the status. As before, and only changes of routing make a difference
-- to what is known of the past.
CREATE OR REPLACE FUNCTION zyven.explain_event(event uuid, after uuid, endpoints_max integer, only_endpoint uuid DEFAULT NULL)
    RETURNS TABLE (
        endpoint_id         uuid,
        url                 text,
        matched             boolean,
        code                text,
        judged_by           text,
        endpoint_updated_at timestamptz,
        delivery_id         uuid
    )
    LANGUAGE sql STABLE
    AS $$
        WITH v AS MATERIALIZED (
            SELECT v.id, v.tenant_id, zyven.patterns_of(v.type) AS patterns, coalesce(v.channels, '{}') AS channels,
                   v.payload, v.accepted_at,
                   -- A publisher may call an event so as well. The entry is of the same transaction as the event.
                   v.type = 'zyven.test'
                   AND EXISTS (SELECT FROM zyven.audit_log a
                                WHERE a.tenant_id = v.tenant_id
                                  AND a.id >= zyven.uuid_floor(v.accepted_at)
                                  AND a.id < zyven.uuid_floor(v.accepted_at + interval '1 minute')
                                  AND a.action = 'endpoint.test'
                                  AND a.details ->> 'event' = zyven.typed_id('evt', v.id)) AS is_test,
                   -- As zyven.tell writes them. Of other events it is not asked what their payloads say.
                   CASE WHEN starts_with(v.type, 'zyven.') AND v.source = 'zyven'
                        THEN zyven.document_of(v.payload) ->> 'endpoint_id' END AS concerns
              FROM zyven.events v
             WHERE v.id = explain_event.event
            UNION ALL
            -- A delivery may outlive its event (payload_missing).
            SELECT d.event_id, d.tenant_id, NULL, NULL, NULL, d.enqueued_at, false, NULL
              FROM zyven.explain_delivery(zyven.delivery_id(explain_event.event, explain_event.only_endpoint)) AS d
             WHERE explain_event.only_endpoint IS NOT NULL
               AND NOT EXISTS (SELECT FROM zyven.events v WHERE v.id = explain_event.event)
        ), page AS MATERIALIZED (
            SELECT e.id, e.url, e.event_types, e.channels, e.filter, e.status, e.created_at, e.updated_at, e.deleted_at,
                   -- An endpoint from before there was this column, and not changed since: what changed last may have been it.
                   coalesce(e.routing_changed_at, e.updated_at) AS routing_changed_at,
                   zyven.delivery_id(explain_event.event, e.id) AS delivery_id
              FROM (-- Each part has an index of its own.
                    (SELECT e.*
                       FROM zyven.endpoints e
                      WHERE e.id = explain_event.only_endpoint
                        AND e.tenant_id = (SELECT v.tenant_id FROM v)
                        AND e.id > explain_event.after)
                     UNION ALL
                    (SELECT e.*
                       FROM zyven.endpoints e
                      WHERE explain_event.only_endpoint IS NULL
                        AND e.tenant_id = (SELECT v.tenant_id FROM v)
                        AND e.deleted_at IS NULL
                        AND e.id > explain_event.after
                      ORDER BY e.id
                      LIMIT explain_event.endpoints_max)
                     UNION ALL
                    -- One that was deleted before the event was not considered.
                    (SELECT e.*
                       FROM zyven.endpoints e
                      WHERE explain_event.only_endpoint IS NULL
                        AND e.tenant_id = (SELECT v.tenant_id FROM v)
                        AND e.deleted_at > (SELECT v.accepted_at FROM v)
                        AND e.id > explain_event.after
                      ORDER BY e.id
                      LIMIT explain_event.endpoints_max)) AS e
             ORDER BY e.id
             LIMIT explain_event.endpoints_max
        ), judged AS (
            SELECT p.*, h.has_delivery, v.payload, v.accepted_at,
                   CASE WHEN h.has_delivery AND v.is_test THEN 'test_event'
                        WHEN h.has_delivery THEN 'matched'
                        WHEN p.created_at > v.accepted_at THEN 'created_later'
                        WHEN v.is_test THEN 'other_endpoints_test'
                        -- Whatever it subscribes to.
                        WHEN v.concerns = zyven.typed_id('ep', p.id) THEN 'about_itself'
                        WHEN NOT p.event_types && v.patterns THEN 'event_type'
                        WHEN NOT (p.channels = '{}' OR p.channels && v.channels) THEN 'channel'
                        WHEN p.filter IS NOT NULL THEN 'filter' -- unless that admits it
                   END AS code
              FROM v
             CROSS JOIN page p
             CROSS JOIN LATERAL (
                   SELECT EXISTS (SELECT FROM zyven.outbox o WHERE o.delivery_id = p.delivery_id)
                       OR EXISTS (SELECT FROM zyven.finished_deliveries f WHERE f.delivery_id = p.delivery_id)
                   ) AS h (has_delivery)
        ), costed AS (
            -- What the filters go through, as Store::filter_work has it (ADR 0028).
            SELECT j.*,
                   sum(CASE WHEN j.code = 'filter' AND position('*' IN j.filter) > 0 THEN octet_length(j.payload)
                            ELSE 32 END) OVER (ORDER BY j.id) AS work_bytes
              FROM judged j
        ), asked AS (
            SELECT c.*,
                   CASE WHEN c.code <> 'filter' THEN c.code
                        -- 64 MiB are some 5 s.
                        WHEN c.code = 'filter' AND c.work_bytes > 67108864 THEN 'filter_not_asked'
                        -- Read once for all of them, and only if one of them asks.
                        WHEN c.code = 'filter'
                             AND NOT zyven.filter_admits(c.filter, (SELECT zyven.document_of(v.payload) FROM v)) THEN 'filter'
                        WHEN c.deleted_at IS NOT NULL THEN 'deleted'
                        WHEN c.status = 'disabled' THEN 'disabled'
                        ELSE 'no_delivery' END AS reason
              FROM costed c
        )
        SELECT a.id, a.url, a.has_delivery, a.reason,
               CASE WHEN a.reason IN ('matched', 'test_event', 'created_later', 'other_endpoints_test', 'about_itself')
                    THEN 'record'
                    WHEN a.routing_changed_at <= a.accepted_at THEN 'unchanged_configuration'
                    ELSE 'present_configuration' END,
               a.updated_at,
               CASE WHEN a.has_delivery THEN a.delivery_id END
          FROM asked a
         ORDER BY a.id
    $$;

-- What disables an endpoint -----------------------------------------------------------------------------

-- As before, and "cause" is for programs. The sentence is DISABLED_AS_GONE in Rust; a test compares the two.
CREATE OR REPLACE FUNCTION zyven.tell_endpoint_disabled() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    BEGIN
        PERFORM zyven.tell(zyven.uuid_v7(), NEW.tenant_id, 'zyven.endpoint.disabled', NEW.id,
                    json_build_object(
                        'endpoint_id', zyven.typed_id('ep', NEW.id),
                        'description', NEW.description,
                        'cause', CASE NEW.disabled_reason WHEN 'the endpoint answered 410 Gone' THEN 'gone' ELSE 'owner' END,
                        'reason', NEW.disabled_reason,
                        'disabled_at', zyven.shown_time(now()))::text);
        RETURN NULL;
    END
    $$;

-- Publishing ------------------------------------------------------------------------------------------

-- As before, and a payload that is missing is not told as one that is too large.
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
    ordering_key    text DEFAULT NULL,
    content_type    text DEFAULT 'application/json'
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
        IF payload IS NULL THEN
            RAISE EXCEPTION 'payload is missing' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF length(bytes) > 262144 THEN
            RAISE EXCEPTION 'payload must be JSON of at most 262144 bytes'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        PERFORM zyven.check_payload(payload);
        document := payload::jsonb;
        IF content_type IS NULL OR content_type NOT IN ('application/json', 'application/cloudevents+json') THEN
            RAISE EXCEPTION 'content_type must be application/json or application/cloudevents+json'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF content_type = 'application/cloudevents+json' THEN
            PERFORM zyven.check_cloud_event(document);
            IF event_type <> document ->> 'type' THEN
                RAISE EXCEPTION 'event_type must be the same as payload.type' USING ERRCODE = 'invalid_parameter_value';
            END IF;
            IF source <> document ->> 'source' THEN
                RAISE EXCEPTION 'source must be the same as payload.source if it is given' USING ERRCODE = 'invalid_parameter_value';
            END IF;
            -- What an argument leaves open, an attribute may say; either is checked below. Source and id together identify an
            -- event, so they are its key, computed as the API does.
            source          := document ->> 'source';
            idempotency_key := coalesce(idempotency_key,
                'cloudevents:' || encode(sha256(convert_to(source || E'\n' || (document ->> 'id'), 'UTF8')), 'base64'));
            channels        := coalesce(channels, regexp_split_to_array(btrim(document ->> 'zyvenchannels'), '\s*,\s*'));
            traceparent     := coalesce(traceparent, document ->> 'traceparent');
            deliver_at      := coalesce(deliver_at, zyven.moment_of(document ->> 'zyvendeliverat'));
            expires_at      := coalesce(expires_at, zyven.moment_of(document ->> 'expirytime'));
            ordering_key    := coalesce(ordering_key, document ->> 'zyvenorderingkey');
        END IF;
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
               (id, tenant_id, type, payload, channels, source, traceparent, deliver_at, expires_at, ordering_key,
                content_type)
        VALUES (event_uuid, tenant_uuid, event_type, bytes, sorted, source, traceparent, deliver_at, expires_at,
                ordering_key, content_type::zyven.content_type);
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
