-- What a payload is sent as: CloudEvents arrive as what they are (ADR 0039).
--
-- Expands only. What earlier versions write is application/json, as it was; what they read has the columns they know.

CREATE TYPE zyven.content_type AS ENUM ('application/json', 'application/cloudevents+json');
COMMENT ON TYPE zyven.content_type IS 'what a payload is, and says it is where it arrives; twin of ContentType in Rust';

-- A constant default is kept once, not in each row: no table is rewritten.
ALTER TABLE zyven.events
    ADD COLUMN content_type zyven.content_type NOT NULL DEFAULT 'application/json';
COMMENT ON COLUMN zyven.events.content_type IS 'what the payload is sent as';

-- A dead letter outlives its event, and a replay of it brings the event back as it was.
ALTER TABLE zyven.dead_letter_records
    ADD COLUMN content_type zyven.content_type NOT NULL DEFAULT 'application/json';
COMMENT ON COLUMN zyven.dead_letter_records.content_type IS 'what the payload is sent as, after a replay as well';

CREATE OR REPLACE VIEW zyven.dead_letters AS
    SELECT zyven.typed_id('dlv', d.delivery_id) AS delivery,
           zyven.typed_id('evt', d.event_id) AS event,
           zyven.typed_id('ep', d.endpoint_id) AS endpoint,
           zyven.typed_id('ten', d.tenant_id) AS tenant,
           d.event_type, d.reason, d.attempts, d.http_status, d.error, d.dead_at, d.generation,
           e.url, octet_length(d.payload) AS payload_bytes,
           d.delivery_id, d.event_id, d.endpoint_id, d.tenant_id, d.content_type
      FROM zyven.dead_letter_records d
      LEFT JOIN zyven.endpoints e ON e.id = d.endpoint_id
     WHERE d.replayed_at IS NULL
       AND d.resolved_at IS NULL;

-- To dead letters and back ----------------------------------------------------------------------------

-- As before, and the dead letter is what the event was.
CREATE OR REPLACE FUNCTION zyven.cancel(what text, reason text, decided_by text DEFAULT session_user)
    RETURNS TABLE (cancelled integer, cancelled_before integer, being_attempted integer, finished integer)
    LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    #variable_conflict use_column
    DECLARE
        event_uuid uuid;
        chosen     uuid[];
        now_dead   uuid[];
    BEGIN
        IF cancel.reason IS NULL OR length(btrim(cancel.reason)) NOT BETWEEN 1 AND 1000 THEN
            RAISE EXCEPTION 'reason must say why, in at most 1000 characters' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF what LIKE 'evt\_%' THEN
            event_uuid := zyven.untyped_id('evt', what);
            -- An event's deliveries begin with its own millisecond, by which the indexes find them.
            SELECT coalesce(array_agg(d.delivery_id), '{}') INTO chosen
              FROM zyven.deliveries d
             WHERE d.event_id = event_uuid
               AND d.delivery_id >= zyven.uuid_floor(zyven.uuid_time(event_uuid))
               AND d.delivery_id < zyven.uuid_floor(zyven.uuid_time(event_uuid) + interval '1 millisecond');
        ELSE
            chosen := ARRAY[zyven.untyped_id('dlv', what)];
        END IF;
        -- A row that is leased, or locked by somebody about to lease or settle it, is left to them. Nothing is
        -- waited for, so this cannot deadlock with a claim.
        WITH free AS MATERIALIZED (
            SELECT o.seq
              FROM zyven.outbox o
             WHERE o.delivery_id = ANY (chosen)
               AND o.leased_until <= clock_timestamp()
               FOR UPDATE SKIP LOCKED
        ), gone AS (
            DELETE FROM zyven.outbox o
             WHERE o.seq IN (SELECT seq FROM free)
            RETURNING o.*
        ), judged AS (
            SELECT g.*, e.type, e.payload, e.channels, e.source, e.traceparent, e.accepted_at, e.deliver_at,
                   e.expires_at, e.ordering_key AS key, e.content_type,
                   CASE WHEN e.payload IS NULL THEN 'payload_missing' ELSE 'cancelled' END AS reason
              FROM gone g
              LEFT JOIN zyven.events e ON e.id = g.event_id
        ), finished AS (
            INSERT INTO zyven.finished_deliveries
                   (delivery_id, generation, attempts, seq, event_id, endpoint_id, tenant_id, state, reason, enqueued_at)
            SELECT delivery_id, generation, attempts, seq, event_id, endpoint_id, tenant_id, 'DEAD_LETTERED', reason,
                   enqueued_at
              FROM judged
        ), buried AS (
            INSERT INTO zyven.dead_letter_records
                   (delivery_id, generation, event_id, endpoint_id, tenant_id, event_type, payload, channels, source,
                    traceparent, accepted_at, reason, attempts, deliver_at, expires_at, ordering_key,
                    content_type)
            SELECT delivery_id, generation, event_id, endpoint_id, tenant_id, coalesce(type, ''), payload, channels,
                   source, traceparent, coalesce(accepted_at, enqueued_at), reason, attempts, deliver_at, expires_at,
                   key, coalesce(content_type, 'application/json')
              FROM judged
        )
        SELECT coalesce(array_agg(delivery_id), '{}') INTO now_dead FROM gone;
        cancelled := cardinality(now_dead);
        SELECT count(*) FILTER (WHERE d.state = 'DEAD_LETTERED' AND d.reason = 'cancelled'),
               count(*) FILTER (WHERE d.state NOT IN ('DELIVERED', 'DEAD_LETTERED')),
               count(*) FILTER (WHERE d.state = 'DELIVERED' OR (d.state = 'DEAD_LETTERED' AND d.reason <> 'cancelled'))
          INTO cancelled_before, being_attempted, finished
          FROM zyven.deliveries d
         WHERE d.delivery_id = ANY (chosen)
           AND d.delivery_id <> ALL (now_dead);
        IF cancelled > 0 THEN
            INSERT INTO zyven.cancellations (decided_by, reason, what, deliveries)
            VALUES (cancel.decided_by, btrim(cancel.reason), cancel.what, cancelled);
        END IF;
        RETURN NEXT;
    END
    $$;

-- As before, and an event that is brought back is what the dead letter says.
CREATE OR REPLACE FUNCTION zyven.replay_into_outbox(deliveries uuid[], replay bigint, rate_per_s numeric) RETURNS integer
    LANGUAGE plpgsql
    AS $$
    DECLARE
        replayed integer;
    BEGIN
        -- Partitions of long ago may have been dropped; the dead letter has kept the payload.
        PERFORM zyven.ensure_partition(day)
           FROM (SELECT DISTINCT date_trunc('day', zyven.uuid_time(id), 'UTC') AS day FROM unnest(deliveries) AS id) AS days;
        WITH marked AS (
            UPDATE zyven.dead_letter_records d
               SET replayed_at = now(), replay_id = replay
             WHERE d.delivery_id = ANY (deliveries)
               AND d.replayed_at IS NULL
               AND d.resolved_at IS NULL
               AND d.payload IS NOT NULL
            RETURNING d.*
        ), kept AS (
            INSERT INTO zyven.events
                   (id, tenant_id, type, payload, channels, source, traceparent, accepted_at, deliver_at, expires_at,
                    ordering_key, content_type)
            SELECT DISTINCT ON (event_id)
                   event_id, tenant_id, event_type, payload, channels, source, traceparent, accepted_at, deliver_at,
                   expires_at, ordering_key, content_type
              FROM marked
            ON CONFLICT (id) DO NOTHING
        ), queued AS (
            -- Age counts from when its turn comes, or a slow replay would die of old age. Within an ordering key
            -- a replay takes its place at the end; several of them stay in order among each other.
            INSERT INTO zyven.outbox
                   (delivery_id, event_id, endpoint_id, tenant_id, generation, enqueued_at, due_at, ordering_key)
            SELECT delivery_id, event_id, endpoint_id, tenant_id, generation + 1, turn, turn,
                   zyven.ordering_number(ordering_key)
              FROM (SELECT m.*,
                           now() + CASE WHEN rate_per_s IS NULL THEN interval '0'
                                        ELSE make_interval(secs => (row_number() OVER (ORDER BY dead_at, event_id) - 1) / rate_per_s::float8)
                                   END AS turn
                      FROM marked m) AS in_turn
             ORDER BY dead_at, event_id
            RETURNING 1
        )
        SELECT count(*) INTO replayed FROM queued;
        RETURN replayed;
    END
    $$;

-- CloudEvents -----------------------------------------------------------------------------------------

CREATE FUNCTION zyven.moment_of(given text) RETURNS timestamptz
    LANGUAGE plpgsql STABLE
    AS $$
    BEGIN
        IF given ~ '^\d{4}-\d\d-\d\d[Tt ]([01]\d|2[0-3]):\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$' THEN
            -- A cast would round what is beyond microseconds, and the API cuts it off. Nor would it take a fraction of a leap second.
            RETURN regexp_replace(regexp_replace(given, '(\.\d{6})\d+', '\1'), ':60(?=[.Zz+-])', ':59')::timestamptz
                   + CASE WHEN given ~ ':60[.Zz+-]' THEN interval '1 second' ELSE interval '0' END;
        END IF;
        RETURN NULL;
    EXCEPTION WHEN datetime_field_overflow OR invalid_datetime_format OR invalid_time_zone_displacement_value THEN
        RETURN NULL;
    END
    $$;
COMMENT ON FUNCTION zyven.moment_of(text) IS 'a time written as RFC 3339 demands, to the microsecond; NULL if it is none';

-- Twin of services/ingest/src/events/draft/cloud_event.rs. What `zyven.publish` takes over from the event, it checks itself: the
-- type, and whether times, keys and channels are such that an event may have them. A member that is null is absent.
CREATE FUNCTION zyven.check_cloud_event(event jsonb) RETURNS void
    LANGUAGE plpgsql STABLE
    AS $$
    DECLARE
        texts CONSTANT text[] := ARRAY[
            'specversion', 'id', 'source', 'type', 'subject', 'time', 'datacontenttype', 'dataschema', 'data_base64',
            'traceparent', 'expirytime', 'zyvendeliverat', 'zyvenorderingkey', 'zyvenchannels'];
        name  text;
        value jsonb;
        given text;
        rule  text;
    BEGIN
        IF jsonb_typeof(event) <> 'object' THEN
            RAISE EXCEPTION 'payload must be a CloudEvent: a JSON object' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        FOR name, value IN SELECT * FROM jsonb_each(event) WHERE key <> 'data' LOOP
            given := value #>> '{}';
            rule := CASE
                WHEN name <> 'data_base64' AND name !~ '^[a-z0-9]+$'
                    THEN 'must have a name of a-z and 0-9 only, as attributes of CloudEvents do'
                WHEN given IS NULL THEN NULL
                WHEN name = ANY (texts) AND jsonb_typeof(value) <> 'string' THEN 'must be a string'
                WHEN jsonb_typeof(value) IN ('object', 'array')
                    THEN 'must be a string, a number or a boolean: data is the place for more'
                WHEN name = 'data_base64' THEN CASE
                    WHEN event ? 'data' THEN 'must not be sent beside data'
                    WHEN given !~ '^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$'
                        THEN 'must be Base64, with padding'
                    END
                WHEN name = 'specversion' AND given <> '1.0' THEN 'must be "1.0"'
                WHEN name = 'id' AND octet_length(given) NOT BETWEEN 1 AND 1024 THEN 'must be 1 to 1024 bytes'
                WHEN name = 'source' AND given !~ '^[!-~]{1,255}$' THEN 'must be 1 to 255 visible ASCII characters'
                WHEN name IN ('subject', 'datacontenttype', 'dataschema') AND given = '' THEN 'must not be empty'
                WHEN name IN ('time', 'expirytime', 'zyvendeliverat') AND zyven.moment_of(given) IS NULL
                    THEN 'must be a time such as 2026-01-31T12:00:00Z'
                WHEN given ~ '[\u0001-\u001f\u007f-\u009f]' THEN 'must not have control characters'
                END;
            IF rule IS NOT NULL THEN
                RAISE EXCEPTION 'payload.% %', left(name, 128), rule USING ERRCODE = 'invalid_parameter_value';
            END IF;
        END LOOP;
        FOREACH name IN ARRAY ARRAY['specversion', 'id', 'source', 'type'] LOOP
            IF event ->> name IS NULL THEN
                RAISE EXCEPTION 'payload.% is missing', name USING ERRCODE = 'invalid_parameter_value';
            END IF;
        END LOOP;
    END
    $$;
COMMENT ON FUNCTION zyven.check_cloud_event(jsonb)
    IS 'fails unless this is a CloudEvent 1.0 in structured mode, as the API takes them; the message names the attribute and its rule';

-- Publishing ------------------------------------------------------------------------------------------

-- As before, and CloudEvents are published as what they are. Another parameter makes another function; that of before goes
-- below, or a call that leaves the parameter out would fit both.
CREATE FUNCTION zyven.publish(
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
        IF payload IS NULL OR length(bytes) > 262144 THEN
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
COMMENT ON FUNCTION zyven.publish(text, text, json, text, text[], text, text, timestamptz, timestamptz, text, text)
    IS 'accepts an event inside the caller''s own transaction: it is delivered if and only if that commits. Returns the event id; with a used idempotency key, the first event''s';

-- Producers must not wait for sql/roles.sql to be run again: who might call the function of before may call this one.
DO $$
DECLARE
    before CONSTANT regprocedure :=
        'zyven.publish(text, text, json, text, text[], text, text, timestamptz, timestamptz, text)'::regprocedure;
    after CONSTANT regprocedure :=
        'zyven.publish(text, text, json, text, text[], text, text, timestamptz, timestamptz, text, text)'::regprocedure;
    given record;
BEGIN
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', after);
    FOR given IN
        SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee, a.is_grantable
          FROM pg_proc p
         CROSS JOIN aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
         WHERE p.oid = before
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s%s', after, given.grantee,
                       CASE WHEN given.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
    END LOOP;
    EXECUTE format('DROP FUNCTION %s', before);
END
$$;
