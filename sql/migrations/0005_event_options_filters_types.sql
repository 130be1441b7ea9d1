-- What a publisher may ask of an event's delivery, what an endpoint leaves out, and types with a schema.

-- Options of an event -------------------------------------------------------------------------------

ALTER TABLE zyven.events
    ADD COLUMN deliver_at   timestamptz,
    ADD COLUMN expires_at   timestamptz,
    ADD COLUMN ordering_key text;
COMMENT ON COLUMN zyven.events.deliver_at IS 'no attempt begins earlier';
COMMENT ON COLUMN zyven.events.expires_at IS 'no attempt of the first generation begins later; a replay lifts it';
COMMENT ON COLUMN zyven.events.ordering_key IS 'events of one key reach an endpoint one after the other, in the order of acceptance';

-- A dead letter outlives its event, and a replay of it brings the event back as it was.
ALTER TABLE zyven.dead_letter_records
    ADD COLUMN deliver_at   timestamptz,
    ADD COLUMN expires_at   timestamptz,
    ADD COLUMN ordering_key text;

CREATE FUNCTION zyven.ordering_number(ordering_key text) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
        SELECT CASE WHEN ordering_key IS NULL THEN 0
                    ELSE greatest(1, ('x' || encode(substring(sha256(convert_to(ordering_key, 'UTF8')) FROM 1 FOR 8), 'hex'))
                                         ::bit(64)::bigint & x'7fffffffffffffff'::bigint)
               END
    $$;
COMMENT ON FUNCTION zyven.ordering_number(text)
    IS 'what the outbox keeps of an ordering key: 63 bits of its SHA-256, never 0; 0 without a key. Two keys with one number share their order, which harms neither; twin of OrderingKey::number in Rust';

-- The line of options begins with a character that no JSON begins with, and is absent without options.
CREATE FUNCTION zyven.body_fingerprint(
    event_type   text,
    channels     text[],
    source       text,
    deliver_at   timestamptz,
    expires_at   timestamptz,
    ordering_key text,
    payload      bytea
) RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
        SELECT zyven.body_fingerprint(event_type, channels, source,
            CASE WHEN deliver_at IS NULL AND expires_at IS NULL AND ordering_key IS NULL THEN payload
                 ELSE convert_to(format(E'@%s,%s,%s\n',
                          (extract(epoch FROM deliver_at) * 1000000)::bigint,
                          (extract(epoch FROM expires_at) * 1000000)::bigint,
                          ordering_key), 'UTF8') || payload
            END)
    $$;
COMMENT ON FUNCTION zyven.body_fingerprint(text, text[], text, timestamptz, timestamptz, text, bytea)
    IS 'twin of body_fingerprint in Rust';

ALTER TABLE zyven.dead_letter_records
    DROP CONSTRAINT dead_letter_reason_is_known,
    ADD CONSTRAINT dead_letter_reason_is_known CHECK (reason IN (
        'attempts_exhausted', 'age_exceeded', 'rejected', 'gone', 'egress_denied', 'invalid_url',
        'endpoint_disabled', 'endpoint_deleted', 'payload_missing', 'expired', 'cancelled'));

-- Cancelling ----------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION zyven.lifecycle_permits(from_state zyven.delivery_state, to_state zyven.delivery_state)
    RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
        SELECT (from_state, to_state) IN (
            ('RECEIVED', 'DISPATCHING'),
            ('RECEIVED', 'DEAD_LETTERED'),
            ('DISPATCHING', 'DISPATCHING'),
            ('DISPATCHING', 'DELIVERED'),
            ('DISPATCHING', 'RETRY_SCHEDULED'),
            ('DISPATCHING', 'DEAD_LETTERED'),
            ('RETRY_SCHEDULED', 'DISPATCHING'),
            ('RETRY_SCHEDULED', 'DELIVERED'),
            ('RETRY_SCHEDULED', 'DEAD_LETTERED'),
            ('DEAD_LETTERED', 'RECEIVED'))
    $$;

-- Append-only: every cancellation that had an effect.
CREATE TABLE zyven.cancellations (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    decided_at timestamptz NOT NULL DEFAULT now(),
    decided_by text NOT NULL DEFAULT session_user,
    reason     text NOT NULL,
    what       text NOT NULL,
    deliveries integer NOT NULL,
    xact_id    xid8 NOT NULL DEFAULT pg_current_xact_id(),
    CONSTRAINT cancellation_says_why CHECK (length(btrim(reason)) BETWEEN 1 AND 1000)
);
COMMENT ON COLUMN zyven.cancellations.what IS 'the event or delivery that was named, as the API shows ids';

CREATE FUNCTION zyven.cancel(what text, reason text, decided_by text DEFAULT session_user)
    RETURNS TABLE (cancelled integer, cancelled_before integer, being_attempted integer, finished integer)
    LANGUAGE plpgsql
    AS $$
    #variable_conflict use_column
    DECLARE
        event_uuid uuid;
        chosen     uuid[];
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
                   e.expires_at, e.ordering_key AS key,
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
                    traceparent, accepted_at, reason, attempts, deliver_at, expires_at, ordering_key)
            SELECT delivery_id, generation, event_id, endpoint_id, tenant_id, coalesce(type, ''), payload, channels,
                   source, traceparent, coalesce(accepted_at, enqueued_at), reason, attempts, deliver_at, expires_at,
                   key
              FROM judged
        )
        SELECT count(*) INTO cancelled FROM gone;
        SELECT count(*) FILTER (WHERE d.state = 'DEAD_LETTERED' AND d.reason = 'cancelled') - cancelled,
               count(*) FILTER (WHERE d.state NOT IN ('DELIVERED', 'DEAD_LETTERED')),
               count(*) FILTER (WHERE d.state = 'DELIVERED' OR (d.state = 'DEAD_LETTERED' AND d.reason <> 'cancelled'))
          INTO cancelled_before, being_attempted, finished
          FROM zyven.deliveries d
         WHERE d.delivery_id = ANY (chosen);
        IF cancelled > 0 THEN
            INSERT INTO zyven.cancellations (decided_by, reason, what, deliveries)
            VALUES (cancel.decided_by, btrim(cancel.reason), cancel.what, cancelled);
        END IF;
        RETURN NEXT;
    END
    $$;
COMMENT ON FUNCTION zyven.cancel(text, text, text)
    IS 'makes dead letters (cancelled) of the deliveries of evt_… or of dlv_… that nobody is attempting at this moment; repeatable; audited in zyven.cancellations; undone by ROLLBACK';

-- Content filters -----------------------------------------------------------------------------------

ALTER TABLE zyven.endpoints
    ADD COLUMN filter text,
    ADD CONSTRAINT endpoint_filter_is_a_bounded_path CHECK (
        filter IS NULL OR (length(filter) BETWEEN 1 AND 1024 AND filter::jsonpath IS NOT NULL));
COMMENT ON COLUMN zyven.endpoints.filter IS 'a predicate of the SQL/JSON path language; NULL: every event that matches otherwise';

ALTER TABLE zyven.subscriptions
    ADD COLUMN filter text;

CREATE OR REPLACE FUNCTION zyven.refresh_routing() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
    BEGIN
        DELETE FROM zyven.subscriptions WHERE endpoint_id = NEW.id;
        IF NEW.status = 'enabled' AND NEW.deleted_at IS NULL THEN
            INSERT INTO zyven.subscriptions (tenant_id, pattern, endpoint_id, channels, filter)
            SELECT DISTINCT NEW.tenant_id, pattern, NEW.id, NEW.channels, NEW.filter
              FROM unnest(NEW.event_types) AS pattern;
        END IF;
        UPDATE zyven.routing_versions SET version = version + 1 WHERE tenant_id = NEW.tenant_id;
        RETURN NULL;
    END
    $$;

DROP TRIGGER routing_follows_endpoints ON zyven.endpoints;
CREATE TRIGGER routing_follows_endpoints
    AFTER INSERT OR UPDATE OF status, event_types, channels, filter, deleted_at ON zyven.endpoints
    FOR EACH ROW EXECUTE FUNCTION zyven.refresh_routing();

CREATE FUNCTION zyven.routes(tenant uuid, event_type text, event_channels text[])
    RETURNS TABLE (endpoint_id uuid, filter text)
    LANGUAGE sql STABLE
    AS $$
        SELECT DISTINCT s.endpoint_id, s.filter
          FROM zyven.subscriptions s
         WHERE s.tenant_id = tenant
           AND s.pattern = ANY (zyven.patterns_of(event_type))
           AND (s.channels = '{}' OR s.channels && coalesce(event_channels, '{}'))
    $$;
COMMENT ON FUNCTION zyven.routes(uuid, text, text[])
    IS 'which endpoints get an event, each on the condition of its filter: the one definition, used by the API and by zyven.publish';

-- Processes of the version before this one still ask this.
CREATE OR REPLACE FUNCTION zyven.route(tenant uuid, event_type text, event_channels text[]) RETURNS SETOF uuid
    LANGUAGE sql STABLE
    AS $$ SELECT r.endpoint_id FROM zyven.routes(tenant, event_type, event_channels) AS r $$;
COMMENT ON FUNCTION zyven.route(uuid, text, text[]) IS 'the endpoints of zyven.routes, whatever their filters say';

CREATE FUNCTION zyven.document_of(payload bytea) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
    BEGIN
        RETURN convert_from(payload, 'UTF8')::jsonb;
    EXCEPTION WHEN OTHERS THEN
        -- The API takes a few numbers that PostgreSQL does not, such as 1e-20000. One event must not stop the
        -- others of its batch; no filter admits it.
        RETURN NULL;
    END
    $$;
COMMENT ON FUNCTION zyven.document_of(bytea) IS 'a payload as filters see it; NULL where PostgreSQL cannot read it';

CREATE FUNCTION zyven.filter_admits(filter text, document jsonb) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT coalesce(jsonb_path_match(document, filter::jsonpath, silent => true), false) $$;
COMMENT ON FUNCTION zyven.filter_admits(text, jsonb) IS 'true if the filter is exactly true of the payload; absent members, other types and errors are not';

-- Event types ---------------------------------------------------------------------------------------

CREATE TYPE zyven.schema_mode AS ENUM ('off', 'warn', 'reject');
CREATE SEQUENCE zyven.event_type_versions;

CREATE TABLE zyven.event_types (
    tenant_id   uuid NOT NULL REFERENCES zyven.tenants (id),
    name        text COLLATE "C" NOT NULL,
    description text NOT NULL DEFAULT '',
    mode        zyven.schema_mode NOT NULL DEFAULT 'off',
    schema      text,
    version     bigint NOT NULL DEFAULT nextval('zyven.event_type_versions'),
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    archived_at timestamptz,
    PRIMARY KEY (tenant_id, name),
    CONSTRAINT event_type_has_a_plain_name CHECK (name ~ '^[a-zA-Z0-9_.-]{1,128}$'),
    CONSTRAINT event_type_schema_is_bounded CHECK (octet_length(schema) BETWEEN 1 AND 65536),
    CONSTRAINT checking_needs_a_schema CHECK (mode = 'off' OR schema IS NOT NULL)
);
COMMENT ON COLUMN zyven.event_types.schema IS 'JSON Schema (draft 2020-12 or 7), without references to elsewhere';
COMMENT ON COLUMN zyven.event_types.version IS 'another one after each change, for whoever has compiled the schema';
COMMENT ON COLUMN zyven.event_types.archived_at IS 'set: shown no more, and its schema is not applied';
-- Store::checked_types
CREATE INDEX event_types_with_a_check ON zyven.event_types (tenant_id, name, version)
    WHERE mode <> 'off' AND archived_at IS NULL;

-- Publishing ----------------------------------------------------------------------------------------

DROP FUNCTION zyven.publish(text, text, json, text, text[], text, text);

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
    ordering_key    text DEFAULT NULL
) RETURNS text
    LANGUAGE plpgsql
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
        IF payload IS NULL OR length(bytes) > 262144 THEN
            RAISE EXCEPTION 'payload must be JSON of at most 262144 bytes'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        -- Refuses what readers would disagree about: \u0000, lone surrogates, absurd numbers.
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
COMMENT ON FUNCTION zyven.publish(text, text, json, text, text[], text, text, timestamptz, timestamptz, text)
    IS 'accepts an event inside the caller''s own transaction: it is delivered if and only if that commits. Returns the event id; with a used idempotency key, the first event''s';

-- Replaying -----------------------------------------------------------------------------------------

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
                    ordering_key)
            SELECT DISTINCT ON (event_id)
                   event_id, tenant_id, event_type, payload, channels, source, traceparent, accepted_at, deliver_at,
                   expires_at, ordering_key
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

CREATE OR REPLACE FUNCTION zyven.replay_dead_letters(
    reason          text,
    tenant          text DEFAULT NULL,
    endpoint        text DEFAULT NULL,
    event_type      text DEFAULT NULL,
    dead_reason     text DEFAULT NULL,
    dead_since      timestamptz DEFAULT '-infinity',
    dead_until      timestamptz DEFAULT 'infinity',
    rate_per_s      numeric DEFAULT NULL,
    deliveries_max  integer DEFAULT 10000,
    dry_run         boolean DEFAULT true
) RETURNS TABLE (replay_id bigint, deliveries integer, oldest timestamptz, newest timestamptz, note text)
    LANGUAGE plpgsql
    AS $$
    #variable_conflict use_column
    DECLARE
        tenant_uuid   uuid := CASE WHEN tenant IS NOT NULL THEN zyven.untyped_id('ten', tenant) END;
        endpoint_uuid uuid := CASE WHEN endpoint IS NOT NULL THEN zyven.untyped_id('ep', endpoint) END;
        chosen        uuid[];
    BEGIN
        IF rate_per_s <= 0 THEN
            RAISE EXCEPTION 'rate_per_s must be greater than 0' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF deliveries_max NOT BETWEEN 1 AND 100000 THEN
            RAISE EXCEPTION 'deliveries_max must be between 1 and 100000' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        SELECT coalesce(array_agg(d.delivery_id), '{}'), min(d.dead_at), max(d.dead_at)
          INTO chosen, oldest, newest
          FROM (SELECT d.delivery_id, d.dead_at
                  FROM zyven.dead_letter_records d
                 WHERE d.replayed_at IS NULL
                   AND d.resolved_at IS NULL
                   AND d.payload IS NOT NULL
                   AND (tenant_uuid IS NULL OR d.tenant_id = tenant_uuid)
                   AND (endpoint_uuid IS NULL OR d.endpoint_id = endpoint_uuid)
                   AND (replay_dead_letters.event_type IS NULL OR d.event_type = replay_dead_letters.event_type)
                   -- What its publisher or an operator has called off comes back only by its name.
                   AND CASE WHEN dead_reason IS NULL THEN d.reason NOT IN ('cancelled', 'expired')
                            ELSE d.reason = dead_reason END
                   AND d.dead_at >= dead_since
                   AND d.dead_at < dead_until
                 ORDER BY d.dead_at
                 LIMIT deliveries_max) AS d;
        IF dry_run THEN
            deliveries := cardinality(chosen);
            note := 'dry run: nothing was changed; call again with dry_run => false';
            RETURN NEXT;
            RETURN;
        END IF;
        INSERT INTO zyven.replays (reason, filter, deliveries)
        VALUES (replay_dead_letters.reason,
                jsonb_strip_nulls(jsonb_build_object(
                    'tenant', tenant, 'endpoint', endpoint, 'event_type', replay_dead_letters.event_type,
                    'dead_reason', dead_reason, 'dead_since', dead_since, 'dead_until', dead_until,
                    'rate_per_s', rate_per_s, 'deliveries_max', deliveries_max)),
                cardinality(chosen))
        RETURNING zyven.replays.id INTO replay_id;
        deliveries := zyven.replay_into_outbox(chosen, replay_id, rate_per_s);
        -- Somebody else may have replayed some of them meanwhile.
        UPDATE zyven.replays SET deliveries = replay_dead_letters.deliveries WHERE id = replay_id;
        note := CASE WHEN rate_per_s IS NULL THEN 'all due at once'
                     ELSE format('spread over %s s', round(deliveries / rate_per_s, 1)) END;
        RETURN NEXT;
    END
    $$;
COMMENT ON FUNCTION zyven.replay_dead_letters(text, text, text, text, text, timestamptz, timestamptz, numeric, integer, boolean)
    IS 'sends dead letters back to the start, oldest first; those cancelled or expired only if dead_reason names them. A dry run unless dry_run => false; rate_per_s spreads them; audited in zyven.replays; undone by ROLLBACK';
