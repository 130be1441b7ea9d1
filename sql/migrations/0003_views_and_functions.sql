-- What operators and producers use: typed ids, publish, replay, and the views.

CREATE FUNCTION zyven.typed_id(prefix text, id uuid) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT prefix || '_' || replace(id::text, '-', '') $$;
COMMENT ON FUNCTION zyven.typed_id(text, uuid) IS 'an id as the API shows it: evt_0193…';

CREATE FUNCTION zyven.untyped_id(prefix text, typed text) RETURNS uuid
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
    BEGIN
        IF typed ~ ('^' || prefix || '_[0-9a-f]{32}$') THEN
            RETURN right(typed, 32)::uuid;
        ELSIF typed ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
            RETURN typed::uuid;
        END IF;
        RAISE EXCEPTION '"%" is not an id: it must be "%_" followed by 32 hexadecimal digits, or a UUID', typed, prefix
            USING ERRCODE = 'invalid_parameter_value';
    END
    $$;
COMMENT ON FUNCTION zyven.untyped_id(text, text) IS 'the UUID inside evt_0193…; accepts a plain UUID too';

CREATE FUNCTION zyven.uuid_v7() RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL SAFE
    AS $$
        SELECT encode(
            set_bit(set_bit(
                overlay(uuid_send(gen_random_uuid())
                    PLACING substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
                    FROM 1 FOR 6),
                52, 1), 53, 1),
            'hex')::uuid
    $$;
COMMENT ON FUNCTION zyven.uuid_v7() IS 'a fresh UUIDv7 (RFC 9562)';

CREATE FUNCTION zyven.delivery_id(event uuid, endpoint uuid) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
        SELECT encode(set_byte(set_byte(bytes,
                   6, 128 | (get_byte(bytes, 6) & 15)),
                   8, 128 | (get_byte(bytes, 8) & 63)), 'hex')::uuid
          FROM (SELECT substring(uuid_send(event) FROM 1 FOR 6)
                    || substring(sha256(uuid_send(event) || uuid_send(endpoint)) FROM 1 FOR 10)) AS derived (bytes)
    $$;
COMMENT ON FUNCTION zyven.delivery_id(uuid, uuid) IS 'the delivery of an event to an endpoint; twin of DeliveryId::derive in Rust';

CREATE FUNCTION zyven.key_fingerprint(tenant uuid, key text) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT encode(substring(sha256(uuid_send(tenant) || convert_to(key, 'UTF8')) FROM 1 FOR 16), 'hex')::uuid $$;

CREATE FUNCTION zyven.body_fingerprint(event_type text, channels text[], source text, payload bytea) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
        SELECT encode(substring(sha256(
                   convert_to(event_type || E'\n'
                       || coalesce(array_to_string(channels, ','), '') || E'\n'
                       || coalesce(source, '') || E'\n', 'UTF8')
                   || payload) FROM 1 FOR 16), 'hex')::uuid
    $$;

-- Publishing ------------------------------------------------------------------------------------

CREATE FUNCTION zyven.publish(
    tenant          text,
    event_type      text,
    payload         json,
    idempotency_key text DEFAULT NULL,
    channels        text[] DEFAULT NULL,
    source          text DEFAULT NULL,
    traceparent     text DEFAULT NULL
) RETURNS text
    LANGUAGE plpgsql
    AS $$
    DECLARE
        tenant_uuid uuid := zyven.untyped_id('ten', tenant);
        event_uuid  uuid := zyven.uuid_v7();
        bytes       bytea := convert_to(payload::text, 'UTF8');
        sorted      text[];
        body        uuid;
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
        PERFORM payload::jsonb;
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
        sorted := (SELECT array_agg(name ORDER BY name COLLATE "C")
                     FROM (SELECT DISTINCT unnest(channels)) AS given (name));

        IF idempotency_key IS NOT NULL THEN
            body := zyven.body_fingerprint(event_type, sorted, source, bytes);
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
        INSERT INTO zyven.events (id, tenant_id, type, payload, channels, source, traceparent)
        VALUES (event_uuid, tenant_uuid, event_type, bytes, sorted, source, traceparent);
        INSERT INTO zyven.outbox (delivery_id, event_id, endpoint_id, tenant_id)
        SELECT zyven.delivery_id(event_uuid, endpoint), event_uuid, endpoint, tenant_uuid
          FROM zyven.route(tenant_uuid, event_type, sorted) AS endpoint;
        RETURN zyven.typed_id('evt', event_uuid);
    END
    $$;
COMMENT ON FUNCTION zyven.publish(text, text, json, text, text[], text, text)
    IS 'accepts an event inside the caller''s own transaction: it is delivered if and only if that commits. Returns the event id; with a used idempotency key, the first event''s';

-- Replaying -------------------------------------------------------------------------------------

-- One generation back to the start. The caller has written the replays row, so it owns an xid.
CREATE FUNCTION zyven.replay_into_outbox(deliveries uuid[], replay bigint, rate_per_s numeric) RETURNS integer
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
            INSERT INTO zyven.events (id, tenant_id, type, payload, channels, source, traceparent, accepted_at)
            SELECT DISTINCT ON (event_id)
                   event_id, tenant_id, event_type, payload, channels, source, traceparent, accepted_at
              FROM marked
            ON CONFLICT (id) DO NOTHING
        ), queued AS (
            -- Age counts from when its turn comes, or a slow replay would die of old age.
            INSERT INTO zyven.outbox (delivery_id, event_id, endpoint_id, tenant_id, generation, enqueued_at, due_at)
            SELECT delivery_id, event_id, endpoint_id, tenant_id, generation + 1, turn, turn
              FROM (SELECT m.*,
                           now() + CASE WHEN rate_per_s IS NULL THEN interval '0'
                                        ELSE make_interval(secs => (row_number() OVER (ORDER BY dead_at) - 1) / rate_per_s::float8)
                                   END AS turn
                      FROM marked m) AS in_turn
            RETURNING 1
        )
        SELECT count(*) INTO replayed FROM queued;
        RETURN replayed;
    END
    $$;

CREATE FUNCTION zyven.replay(delivery text, reason text) RETURNS text
    LANGUAGE plpgsql
    AS $$
    DECLARE
        delivery_uuid uuid := zyven.untyped_id('dlv', delivery);
        replay_id     bigint;
    BEGIN
        INSERT INTO zyven.replays (reason, filter, deliveries)
        VALUES (reason, jsonb_build_object('delivery', delivery), 1)
        RETURNING id INTO replay_id;
        IF zyven.replay_into_outbox(ARRAY[delivery_uuid], replay_id, NULL) = 0 THEN
            RAISE EXCEPTION 'delivery % cannot be replayed: %', delivery, CASE
                WHEN EXISTS (SELECT FROM zyven.outbox o WHERE o.delivery_id = delivery_uuid)
                    THEN 'it is still being delivered'
                WHEN EXISTS (SELECT FROM zyven.dead_letter_records d WHERE d.delivery_id = delivery_uuid AND d.payload IS NULL AND d.replayed_at IS NULL)
                    THEN 'its payload is no longer stored'
                WHEN EXISTS (SELECT FROM zyven.dead_letter_records d WHERE d.delivery_id = delivery_uuid AND d.resolved_at IS NOT NULL)
                    THEN 'a late success has resolved it'
                WHEN EXISTS (SELECT FROM zyven.finished_deliveries f WHERE f.delivery_id = delivery_uuid AND f.state = 'DELIVERED')
                    THEN 'it was delivered'
                ELSE 'there is no such dead letter'
            END USING ERRCODE = 'no_data_found';
        END IF;
        RETURN delivery;
    END
    $$;
COMMENT ON FUNCTION zyven.replay(text, text) IS 'sends one dead letter back to the start, keeping its webhook-id; audited in zyven.replays; undone by ROLLBACK';

CREATE FUNCTION zyven.replay_dead_letters(
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
                   AND (dead_reason IS NULL OR d.reason = dead_reason)
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
    IS 'sends dead letters back to the start, oldest first. A dry run unless dry_run => false; rate_per_s spreads them; audited in zyven.replays; undone by ROLLBACK';

-- Views -----------------------------------------------------------------------------------------

CREATE VIEW zyven.deliveries AS
    SELECT o.delivery_id, o.event_id, o.endpoint_id, o.tenant_id, o.generation, o.attempts, o.seq,
           -- An untouched row counts as handed over once the relay has passed it (ADR 0003).
           CASE WHEN o.state = 'RECEIVED' AND o.seq <= (SELECT watermark FROM zyven.relay)
                THEN 'DISPATCHING'::zyven.delivery_state
                ELSE o.state END AS state,
           NULL::text AS reason,
           o.enqueued_at,
           CASE WHEN o.state = 'RETRY_SCHEDULED' OR o.due_at > now() THEN o.due_at END AS next_attempt_at,
           NULL::timestamptz AS finished_at,
           NULL::smallint AS http_status
      FROM zyven.outbox o
    UNION ALL
    SELECT f.delivery_id, f.event_id, f.endpoint_id, f.tenant_id, f.generation, f.attempts, f.seq,
           f.state, f.reason, f.enqueued_at, NULL, f.finished_at, f.http_status
      FROM zyven.finished_deliveries f
     WHERE f.state = 'DELIVERED'
        -- A dead letter that was replayed lives on as its next generation.
        OR (NOT EXISTS (SELECT FROM zyven.outbox o WHERE o.delivery_id = f.delivery_id)
            AND NOT EXISTS (SELECT FROM zyven.finished_deliveries g
                             WHERE g.delivery_id = f.delivery_id AND g.generation > f.generation));
COMMENT ON VIEW zyven.deliveries IS 'every delivery in its latest generation, in one of the five states';

CREATE VIEW zyven.attempt_log AS
    SELECT a.delivery_id, a.generation, a.number, a.event_id, a.endpoint_id, a.tenant_id, a.state_after,
           a.started_at, a.http_status, a.error, a.error_detail, a.connect_us, a.first_byte_us, a.total_us,
           a.response_headers, a.response_body
      FROM zyven.attempts a
    UNION ALL
    SELECT f.delivery_id, f.generation, f.attempts, f.event_id, f.endpoint_id, f.tenant_id, f.state,
           f.started_at, f.http_status, NULL, NULL, f.connect_us, f.first_byte_us, f.total_us,
           f.response_headers, f.response_body
      FROM zyven.finished_deliveries f
     WHERE f.state = 'DELIVERED';
COMMENT ON VIEW zyven.attempt_log IS 'every attempt on record, successful ones included';

CREATE VIEW zyven.dead_letters AS
    SELECT zyven.typed_id('dlv', d.delivery_id) AS delivery,
           zyven.typed_id('evt', d.event_id) AS event,
           zyven.typed_id('ep', d.endpoint_id) AS endpoint,
           zyven.typed_id('ten', d.tenant_id) AS tenant,
           d.event_type, d.reason, d.attempts, d.http_status, d.error, d.dead_at, d.generation,
           e.url, octet_length(d.payload) AS payload_bytes,
           d.delivery_id, d.event_id, d.endpoint_id, d.tenant_id
      FROM zyven.dead_letter_records d
      LEFT JOIN zyven.endpoints e ON e.id = d.endpoint_id
     WHERE d.replayed_at IS NULL
       AND d.resolved_at IS NULL;
COMMENT ON VIEW zyven.dead_letters IS 'deliveries Zyven has stopped trying and nobody has replayed yet';

CREATE VIEW zyven.stuck AS
    SELECT zyven.typed_id('dlv', o.delivery_id) AS delivery,
           zyven.typed_id('evt', o.event_id) AS event,
           zyven.typed_id('ep', o.endpoint_id) AS endpoint,
           o.state, o.attempts, o.seq,
           now() - greatest(o.due_at, o.leased_until) AS overdue,
           CASE WHEN o.seq > (SELECT watermark FROM zyven.relay) THEN 'the relay has not come to it: is a relay running?'
                WHEN o.lease_token <> 0 THEN 'its dispatcher died or stalled; waiting to be claimed again'
                ELSE 'it waits in its endpoint''s lane: is a dispatcher running, is the endpoint slow?'
           END AS why
      FROM zyven.outbox o
     WHERE o.due_at < now() - interval '30 seconds'
       AND o.leased_until < now();
COMMENT ON VIEW zyven.stuck IS 'deliveries that have been due for more than 30 s and that nobody is working on';

CREATE VIEW zyven.backlog AS
    SELECT zyven.typed_id('ep', o.endpoint_id) AS endpoint, e.url, o.state,
           count(*) AS deliveries, min(o.due_at) AS oldest_due, max(o.attempts) AS attempts_max
      FROM zyven.outbox o
      LEFT JOIN zyven.endpoints e ON e.id = o.endpoint_id
     GROUP BY o.endpoint_id, e.url, o.state;
COMMENT ON VIEW zyven.backlog IS 'unfinished deliveries by endpoint and state';
