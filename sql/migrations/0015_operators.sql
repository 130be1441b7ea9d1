-- What an operator asks in psql, and what they may do to many deliveries at once.

-- Looking -------------------------------------------------------------------------------------------

-- As before, with ids as the API shows them at the end.
CREATE OR REPLACE VIEW zyven.deliveries AS
    SELECT o.delivery_id, o.event_id, o.endpoint_id, o.tenant_id, o.generation, o.attempts, o.seq,
           -- An untouched row counts as handed over once the relay has passed it (ADR 0003).
           CASE WHEN o.state = 'RECEIVED' AND o.seq <= (SELECT watermark FROM zyven.relay)
                THEN 'DISPATCHING'::zyven.delivery_state
                ELSE o.state END AS state,
           NULL::text AS reason,
           o.enqueued_at,
           CASE WHEN o.state = 'RETRY_SCHEDULED' OR o.due_at > now() THEN o.due_at END AS next_attempt_at,
           NULL::timestamptz AS finished_at,
           NULL::smallint AS http_status,
           zyven.typed_id('dlv', o.delivery_id) AS delivery,
           zyven.typed_id('evt', o.event_id) AS event,
           zyven.typed_id('ep', o.endpoint_id) AS endpoint,
           zyven.typed_id('ten', o.tenant_id) AS tenant
      FROM zyven.outbox o
    UNION ALL
    SELECT f.delivery_id, f.event_id, f.endpoint_id, f.tenant_id, f.generation, f.attempts, f.seq,
           f.state, f.reason, f.enqueued_at, NULL, f.finished_at, f.http_status,
           zyven.typed_id('dlv', f.delivery_id),
           zyven.typed_id('evt', f.event_id),
           zyven.typed_id('ep', f.endpoint_id),
           zyven.typed_id('ten', f.tenant_id)
      FROM zyven.finished_deliveries f
     WHERE f.state = 'DELIVERED'
        -- A dead letter that was replayed lives on as its next generation.
        OR (NOT EXISTS (SELECT FROM zyven.outbox o WHERE o.delivery_id = f.delivery_id)
            AND NOT EXISTS (SELECT FROM zyven.finished_deliveries g
                             WHERE g.delivery_id = f.delivery_id AND g.generation > f.generation));
COMMENT ON VIEW zyven.deliveries IS
    'every delivery in its latest generation, in one of the five states. Ask by delivery_id, by endpoint_id, or by time: delivery_id >= zyven.uuid_floor(now() - interval ''1 hour''); an event''s are zyven.deliveries_of(''evt_…'')';

CREATE FUNCTION zyven.deliveries_of(event text) RETURNS SETOF zyven.deliveries
    LANGUAGE sql STABLE
    AS $$
        -- An event's deliveries begin with its own millisecond, by which the indexes find them.
        SELECT d.*
          FROM zyven.deliveries d
         WHERE d.event_id = zyven.untyped_id('evt', $1)
           AND d.delivery_id >= zyven.uuid_floor(zyven.uuid_time(zyven.untyped_id('evt', $1)))
           AND d.delivery_id < zyven.uuid_floor(zyven.uuid_time(zyven.untyped_id('evt', $1)) + interval '1 millisecond')
    $$;
COMMENT ON FUNCTION zyven.deliveries_of(text) IS 'the deliveries of evt_…: one for each endpoint it matched when it was accepted';

CREATE FUNCTION zyven.attempts_of(delivery text) RETURNS SETOF zyven.attempt_log
    LANGUAGE sql STABLE
    AS $$
        SELECT a.*
          FROM zyven.attempt_log a
         WHERE a.delivery_id = zyven.untyped_id('dlv', $1)
         ORDER BY a.generation, a.number
    $$;
COMMENT ON FUNCTION zyven.attempts_of(text) IS 'every attempt of dlv_… on record, the first one first';

CREATE OR REPLACE VIEW zyven.backlog AS
    SELECT zyven.typed_id('ep', o.endpoint_id) AS endpoint, e.url, o.state,
           count(*) AS deliveries, min(o.due_at) AS oldest_due, max(o.attempts) AS attempts_max,
           zyven.typed_id('ten', o.tenant_id) AS tenant,
           count(*) FILTER (WHERE o.leased_until > now()) AS being_attempted,
           o.endpoint_id, o.tenant_id
      FROM zyven.outbox o
      LEFT JOIN zyven.endpoints e ON e.id = o.endpoint_id
     GROUP BY o.tenant_id, o.endpoint_id, e.url, o.state;

-- A fixed amount of work for each endpoint, however much it was sent: what it did lately is read from the end of
-- the index finished_deliveries_of_endpoint.
CREATE VIEW zyven.endpoint_health AS
    SELECT zyven.typed_id('ep', e.id) AS endpoint,
           zyven.typed_id('ten', e.tenant_id) AS tenant,
           e.url,
           CASE WHEN e.status = 'disabled' THEN 'disabled: ' || e.disabled_reason
                WHEN e.paused_at IS NOT NULL THEN 'paused'
                ELSE 'enabled' END AS status,
           coalesce(b.waiting, 0) AS waiting,
           coalesce(b.retrying, 0) AS retrying,
           coalesce(b.being_attempted, 0) AS being_attempted,
           b.oldest_due,
           coalesce(d.dead_letters, 0) AS dead_letters,
           l.finished AS latest_finished,
           round(l.delivered::numeric / nullif(l.finished, 0), 4) AS latest_delivered_share,
           l.attempts_mean AS latest_attempts_mean,
           l.total_ms_p50 AS latest_ms_p50,
           l.total_ms_p95 AS latest_ms_p95,
           l.delivered_last_at,
           l.dead_last_at,
           e.id AS endpoint_id,
           e.tenant_id
      FROM zyven.endpoints e
      LEFT JOIN LATERAL (
               SELECT count(*) AS finished,
                      count(*) FILTER (WHERE f.state = 'DELIVERED') AS delivered,
                      round(avg(f.attempts), 2) AS attempts_mean,
                      round((percentile_cont(0.5) WITHIN GROUP (ORDER BY f.total_us) / 1000)::numeric, 1) AS total_ms_p50,
                      round((percentile_cont(0.95) WITHIN GROUP (ORDER BY f.total_us) / 1000)::numeric, 1) AS total_ms_p95,
                      max(f.finished_at) FILTER (WHERE f.state = 'DELIVERED') AS delivered_last_at,
                      max(f.finished_at) FILTER (WHERE f.state = 'DEAD_LETTERED') AS dead_last_at
                 FROM (SELECT g.state, g.attempts, g.total_us, g.finished_at
                         FROM zyven.finished_deliveries g
                        WHERE g.endpoint_id = e.id
                        ORDER BY g.delivery_id DESC
                        LIMIT 200) AS f) AS l ON true
      LEFT JOIN LATERAL (
               SELECT count(*) AS dead_letters
                 FROM zyven.dead_letter_records d
                WHERE d.endpoint_id = e.id
                  AND d.replayed_at IS NULL
                  AND d.resolved_at IS NULL) AS d ON true
      LEFT JOIN (
               SELECT o.endpoint_id,
                      count(*) AS waiting,
                      count(*) FILTER (WHERE o.state = 'RETRY_SCHEDULED') AS retrying,
                      count(*) FILTER (WHERE o.leased_until > now()) AS being_attempted,
                      min(o.due_at) AS oldest_due
                 FROM zyven.outbox o
                GROUP BY o.endpoint_id) AS b ON b.endpoint_id = e.id
     WHERE e.deleted_at IS NULL;
COMMENT ON VIEW zyven.endpoint_health IS
    'one row for each endpoint: what waits for it, its open dead letters, and how its latest 200 finished deliveries went. Ask by endpoint_id or tenant_id';
COMMENT ON COLUMN zyven.endpoint_health.waiting IS 'unfinished deliveries, those being retried and attempted included';
COMMENT ON COLUMN zyven.endpoint_health.latest_ms_p50 IS 'the successful attempt, from its start to the end of the answer';

CREATE FUNCTION zyven.storage(retention interval DEFAULT interval '30 days')
    RETURNS TABLE (
        what text, partitions bigint, oldest_day date, newest_day date, rows_about bigint, table_bytes bigint, index_bytes bigint,
        bytes_per_day bigint, expired_bytes bigint, needed_days bigint, next_freed_at timestamptz, next_freed_bytes bigint)
    LANGUAGE sql STABLE
    AS $$
        WITH parts AS (
            SELECT coalesce(p.relname, c.relname)::text AS what,
                   CASE WHEN p.oid IS NOT NULL THEN to_date(right(c.relname, 8), 'YYYYMMDD') END AS day,
                   greatest(c.reltuples, 0)::bigint AS rows_about,
                   pg_table_size(c.oid) AS table_bytes,
                   pg_indexes_size(c.oid) AS index_bytes
              FROM pg_class c
              LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
              LEFT JOIN pg_class p ON p.oid = i.inhparent
             WHERE c.relnamespace = 'zyven'::regnamespace
               AND c.relkind = 'r'
        ), dated AS (
            SELECT *,
                   table_bytes + index_bytes AS bytes,
                   (now() AT TIME ZONE 'UTC')::date AS today,
                   (day + 1)::timestamp AT TIME ZONE 'UTC' + $1 AS freed_at
              FROM parts
        ), judged AS (
            SELECT *,
                   freed_at <= now() AS is_expired,
                   row_number() OVER (PARTITION BY what, freed_at > now() ORDER BY day) AS turn,
                   -- An unfinished delivery keeps all partitions of its event's day.
                   freed_at <= now() AND EXISTS (
                       SELECT FROM zyven.outbox o
                        WHERE o.delivery_id >= zyven.uuid_floor(day::timestamp AT TIME ZONE 'UTC')
                          AND o.delivery_id < zyven.uuid_floor((day + 1)::timestamp AT TIME ZONE 'UTC')) AS is_needed
              FROM dated
        )
        SELECT what, count(day), min(day), max(day), sum(rows_about)::bigint, sum(table_bytes)::bigint, sum(index_bytes)::bigint,
               avg(bytes) FILTER (WHERE day BETWEEN today - 7 AND today - 1)::bigint,
               coalesce(sum(bytes) FILTER (WHERE is_expired), 0)::bigint,
               count(*) FILTER (WHERE is_needed),
               min(freed_at) FILTER (WHERE NOT is_expired),
               sum(bytes) FILTER (WHERE NOT is_expired AND turn = 1)::bigint
          FROM judged
         GROUP BY what
         ORDER BY sum(bytes) DESC, what
    $$;
COMMENT ON FUNCTION zyven.storage(interval) IS
    'what takes how much room, how fast it grows, and what the retention of events frees next; rows_about as of the last ANALYZE, needed_days: expired days that unfinished deliveries keep';

-- Doing ---------------------------------------------------------------------------------------------

CREATE FUNCTION zyven.check_bulk(reason text, deliveries_max integer, rate_per_s numeric DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql IMMUTABLE
    AS $$
    BEGIN
        IF reason IS NULL OR length(btrim(reason)) NOT BETWEEN 1 AND 1000 THEN
            RAISE EXCEPTION 'reason must say why, in at most 1000 characters' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF deliveries_max IS NULL OR deliveries_max NOT BETWEEN 1 AND 100000 THEN
            RAISE EXCEPTION 'deliveries_max must be between 1 and 100000' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF rate_per_s <= 0 THEN
            RAISE EXCEPTION 'rate_per_s must be greater than 0' USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END
    $$;
COMMENT ON FUNCTION zyven.check_bulk(text, integer, numeric) IS 'refuses arguments that no function for many deliveries takes';

CREATE FUNCTION zyven.replay_missing(
    endpoint        text,
    reason          text,
    since           timestamptz,
    until           timestamptz DEFAULT 'infinity',
    rate_per_s      numeric DEFAULT NULL,
    deliveries_max  integer DEFAULT 10000,
    dry_run         boolean DEFAULT true
) RETURNS TABLE (replay_id bigint, never_sent integer, dead_letters integer, oldest timestamptz, newest timestamptz, note text)
    LANGUAGE plpgsql
    AS $$
    #variable_conflict use_column
    DECLARE
        endpoint_uuid uuid := zyven.untyped_id('ep', endpoint);
        target        record;
        missed        uuid[];
        dead          uuid[];
        -- An event's deliveries begin with its own millisecond, by which the indexes find them.
        first_id      uuid := zyven.uuid_floor(greatest(since, '1970-01-01 00:00:00+00'));
        end_id        uuid := zyven.uuid_floor(least(until, now() + interval '1 day'));
    BEGIN
        PERFORM zyven.check_bulk(replay_missing.reason, deliveries_max, rate_per_s);
        IF NOT dry_run THEN
            -- Two that choose at the same time would send the same. What the other one has done is seen by the next
            -- statement, but in a snapshot from before it is not.
            IF current_setting('transaction_isolation') <> 'read committed' THEN
                RAISE EXCEPTION 'replay_missing needs a READ COMMITTED transaction' USING ERRCODE = 'invalid_transaction_state';
            END IF;
            PERFORM pg_advisory_xact_lock(hashtextextended('zyven.replay_missing ' || endpoint_uuid, 0));
        END IF;
        IF since IS NULL THEN
            RAISE EXCEPTION 'since must say from when on events are wanted' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        SELECT e.tenant_id, e.status INTO target
          FROM zyven.endpoints e
         WHERE e.id = endpoint_uuid
           AND e.deleted_at IS NULL;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'there is no endpoint %', endpoint USING ERRCODE = 'no_data_found';
        END IF;
        IF target.status <> 'enabled' THEN
            RAISE EXCEPTION 'endpoint % is disabled: enable it first, or what is sent to it becomes a dead letter', endpoint
                USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
        -- What it would get if it were published now, and never got: the routing of today, not of that day.
        SELECT coalesce(array_agg(m.id ORDER BY m.id), '{}') INTO missed
          FROM (SELECT e.id
                  FROM zyven.events e
                 WHERE e.id >= first_id
                   AND e.id < end_id
                   AND e.tenant_id = target.tenant_id
                   AND (e.expires_at IS NULL OR e.expires_at > now())
                   AND EXISTS (SELECT FROM zyven.routes(e.tenant_id, e.type, e.channels) AS r
                                WHERE r.endpoint_id = endpoint_uuid
                                  AND (r.filter IS NULL OR zyven.filter_admits(r.filter, zyven.document_of(e.payload))))
                   AND NOT EXISTS (SELECT FROM zyven.outbox o
                                    WHERE o.delivery_id = zyven.delivery_id(e.id, endpoint_uuid)
                                      AND o.delivery_id >= first_id
                                      AND o.delivery_id < end_id)
                   AND NOT EXISTS (SELECT FROM zyven.finished_deliveries f
                                    WHERE f.delivery_id = zyven.delivery_id(e.id, endpoint_uuid)
                                      AND f.delivery_id >= first_id
                                      AND f.delivery_id < end_id)
                 ORDER BY e.id
                 LIMIT deliveries_max) AS m;
        SELECT coalesce(array_agg(d.delivery_id), '{}') INTO dead
          FROM (SELECT d.delivery_id
                  FROM zyven.dead_letter_records d
                 WHERE d.endpoint_id = endpoint_uuid
                   AND d.replayed_at IS NULL
                   AND d.resolved_at IS NULL
                   AND d.payload IS NOT NULL
                   AND d.reason NOT IN ('cancelled', 'expired')
                   AND d.accepted_at >= since
                   AND d.accepted_at < until
                 ORDER BY d.dead_at
                 LIMIT deliveries_max - cardinality(missed)) AS d;
        never_sent := cardinality(missed);
        dead_letters := cardinality(dead);
        SELECT min(zyven.uuid_time(id)), max(zyven.uuid_time(id)) INTO oldest, newest
          FROM unnest(missed || dead) AS id;
        IF dry_run THEN
            note := 'dry run: nothing was changed; call again with dry_run => false';
            RETURN NEXT;
            RETURN;
        END IF;
        -- First: whoever adds to the outbox owns a transaction id before it draws a number (ADR 0003).
        INSERT INTO zyven.replays (reason, filter, deliveries)
        VALUES (replay_missing.reason,
                jsonb_strip_nulls(jsonb_build_object(
                    'missing_at', endpoint, 'since', since, 'until', until,
                    'rate_per_s', rate_per_s, 'deliveries_max', deliveries_max)),
                never_sent + dead_letters)
        RETURNING zyven.replays.id INTO replay_id;
        WITH queued AS (
            INSERT INTO zyven.outbox (delivery_id, event_id, endpoint_id, tenant_id, enqueued_at, due_at, ordering_key)
            SELECT zyven.delivery_id(w.id, endpoint_uuid), w.id, endpoint_uuid, target.tenant_id, w.turn, w.turn,
                   zyven.ordering_number(w.ordering_key)
              FROM (SELECT e.id, e.ordering_key,
                           greatest(e.deliver_at, now()
                               + CASE WHEN rate_per_s IS NULL THEN interval '0'
                                      ELSE make_interval(secs => (row_number() OVER (ORDER BY e.id) - 1) / rate_per_s::float8)
                                 END) AS turn
                      FROM zyven.events e
                     WHERE e.id = ANY (missed)) AS w
             ORDER BY w.id
            -- Somebody else may have sent it meanwhile.
            ON CONFLICT (delivery_id) DO NOTHING
            RETURNING 1
        )
        SELECT count(*) INTO never_sent FROM queued;
        dead_letters := zyven.replay_into_outbox(dead, replay_id, rate_per_s);
        UPDATE zyven.replays SET deliveries = never_sent + replay_missing.dead_letters WHERE id = replay_id;
        IF never_sent > 0 THEN
            -- Dead letters tell of themselves.
            INSERT INTO zyven.audit_log (tenant_id, action, subject, details)
            VALUES (target.tenant_id, 'delivery.send_missing', endpoint,
                    jsonb_build_object('replay', replay_id, 'deliveries', never_sent, 'reason', replay_missing.reason));
        END IF;
        note := CASE WHEN rate_per_s IS NULL THEN 'all due at once'
                     ELSE format('spread over %s s', round(greatest(never_sent, replay_missing.dead_letters) / rate_per_s, 1)) END;
        RETURN NEXT;
    END
    $$;
COMMENT ON FUNCTION zyven.replay_missing(text, text, timestamptz, timestamptz, numeric, integer, boolean)
    IS 'sends an endpoint what it should have by its subscription of today and has not, of events accepted since a time: those never sent to it, and its dead letters (not the cancelled and expired). A dry run unless dry_run => false; rate_per_s spreads each of the two; audited in zyven.replays; undone by ROLLBACK';

CREATE FUNCTION zyven.cancel_deliveries(
    reason          text,
    tenant          text DEFAULT NULL,
    endpoint        text DEFAULT NULL,
    event_type      text DEFAULT NULL,
    since           timestamptz DEFAULT '-infinity',
    until           timestamptz DEFAULT 'infinity',
    deliveries_max  integer DEFAULT 10000,
    dry_run         boolean DEFAULT true
) RETURNS TABLE (cancelled integer, being_attempted integer, oldest timestamptz, newest timestamptz, note text)
    LANGUAGE plpgsql
    AS $$
    #variable_conflict use_column
    DECLARE
        tenant_uuid   uuid := CASE WHEN tenant IS NOT NULL THEN zyven.untyped_id('ten', tenant) END;
        endpoint_uuid uuid := CASE WHEN endpoint IS NOT NULL THEN zyven.untyped_id('ep', endpoint) END;
        chosen        uuid[];
        delivery      uuid;
        done          record;
    BEGIN
        PERFORM zyven.check_bulk(cancel_deliveries.reason, deliveries_max);
        IF tenant IS NULL AND endpoint IS NULL THEN
            RAISE EXCEPTION 'tenant or endpoint must say whose deliveries are cancelled'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        SELECT coalesce(array_agg(o.delivery_id), '{}'),
               count(*) FILTER (WHERE NOT leased), count(*) FILTER (WHERE leased),
               min(accepted_at), max(accepted_at)
          INTO chosen, cancelled, being_attempted, oldest, newest
          FROM (SELECT o.delivery_id, zyven.uuid_time(o.event_id) AS accepted_at,
                       o.leased_until > clock_timestamp() AS leased
                  FROM zyven.outbox o
                 WHERE (tenant_uuid IS NULL OR o.tenant_id = tenant_uuid)
                   AND (endpoint_uuid IS NULL OR o.endpoint_id = endpoint_uuid)
                   -- When it was accepted: what is to be sent later is enqueued for then.
                   AND o.event_id >= zyven.uuid_floor(greatest(since, '1970-01-01 00:00:00+00'))
                   AND o.event_id < zyven.uuid_floor(least(until, now() + interval '1 day'))
                   AND (cancel_deliveries.event_type IS NULL
                        OR EXISTS (SELECT FROM zyven.events e
                                    WHERE e.id = o.event_id AND e.type = cancel_deliveries.event_type))
                 ORDER BY o.seq
                 LIMIT deliveries_max) AS o;
        IF dry_run THEN
            note := 'dry run: nothing was changed; call again with dry_run => false';
            RETURN NEXT;
            RETURN;
        END IF;
        cancelled := 0;
        being_attempted := 0;
        FOREACH delivery IN ARRAY chosen LOOP
            SELECT * INTO done FROM zyven.cancel(zyven.typed_id('dlv', delivery), cancel_deliveries.reason);
            cancelled := cancelled + done.cancelled;
            being_attempted := being_attempted + done.being_attempted;
        END LOOP;
        note := 'what is being attempted was left alone';
        RETURN NEXT;
    END
    $$;
COMMENT ON FUNCTION zyven.cancel_deliveries(text, text, text, text, timestamptz, timestamptz, integer, boolean)
    IS 'cancels what waits for an endpoint or a tenant and was accepted since and until a time, oldest first, each row locked until the end of the transaction: dead letters (cancelled) that a replay by that reason brings back. A dry run unless dry_run => false; audited one by one in zyven.cancellations; undone by ROLLBACK';

ALTER TABLE zyven.dead_letter_records ADD COLUMN purged_at timestamptz;
COMMENT ON COLUMN zyven.dead_letter_records.purged_at IS 'somebody deleted the payload; resolved_at closes it';
COMMENT ON COLUMN zyven.dead_letter_records.resolved_at IS 'closed: a 2xx arrived after Zyven had given up, or it was purged';
ALTER TABLE zyven.dead_letter_records
    DROP CONSTRAINT only_a_missing_payload_is_null,
    ADD CONSTRAINT only_a_missing_payload_is_null
        CHECK (payload IS NOT NULL OR reason = 'payload_missing' OR purged_at IS NOT NULL) NOT VALID;
ALTER TABLE zyven.dead_letter_records VALIDATE CONSTRAINT only_a_missing_payload_is_null;

CREATE FUNCTION zyven.purge_dead_letters(
    reason          text,
    tenant          text DEFAULT NULL,
    endpoint        text DEFAULT NULL,
    event_type      text DEFAULT NULL,
    dead_reason     text DEFAULT NULL,
    dead_since      timestamptz DEFAULT '-infinity',
    dead_until      timestamptz DEFAULT 'infinity',
    deliveries_max  integer DEFAULT 10000,
    dry_run         boolean DEFAULT true
) RETURNS TABLE (purged integer, payload_bytes bigint, oldest timestamptz, newest timestamptz, note text)
    LANGUAGE plpgsql
    AS $$
    #variable_conflict use_column
    DECLARE
        tenant_uuid   uuid := CASE WHEN tenant IS NOT NULL THEN zyven.untyped_id('ten', tenant) END;
        endpoint_uuid uuid := CASE WHEN endpoint IS NOT NULL THEN zyven.untyped_id('ep', endpoint) END;
        chosen        uuid[];
    BEGIN
        PERFORM zyven.check_bulk(purge_dead_letters.reason, deliveries_max);
        IF tenant IS NULL AND endpoint IS NULL THEN
            RAISE EXCEPTION 'tenant or endpoint must say whose dead letters are deleted'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        SELECT coalesce(array_agg(d.delivery_id), '{}'), count(*), coalesce(sum(d.bytes), 0), min(d.dead_at), max(d.dead_at)
          INTO chosen, purged, payload_bytes, oldest, newest
          FROM (SELECT d.delivery_id, d.dead_at, octet_length(d.payload) AS bytes
                  FROM zyven.dead_letter_records d
                 WHERE d.replayed_at IS NULL
                   AND d.resolved_at IS NULL
                   AND (tenant_uuid IS NULL OR d.tenant_id = tenant_uuid)
                   AND (endpoint_uuid IS NULL OR d.endpoint_id = endpoint_uuid)
                   AND (purge_dead_letters.event_type IS NULL OR d.event_type = purge_dead_letters.event_type)
                   AND (dead_reason IS NULL OR d.reason = dead_reason)
                   AND d.dead_at >= dead_since
                   AND d.dead_at < dead_until
                 ORDER BY d.dead_at
                 LIMIT deliveries_max) AS d;
        IF dry_run THEN
            note := 'dry run: nothing was changed; call again with dry_run => false';
            RETURN NEXT;
            RETURN;
        END IF;
        WITH doomed AS MATERIALIZED (
            SELECT d.delivery_id, d.generation, octet_length(d.payload) AS bytes
              FROM zyven.dead_letter_records d
             WHERE d.delivery_id = ANY (chosen)
               -- Not what somebody has replayed meanwhile.
               AND d.replayed_at IS NULL
               AND d.resolved_at IS NULL
               FOR UPDATE
        ), gone AS (
            UPDATE zyven.dead_letter_records d
               SET payload = NULL, purged_at = now(), resolved_at = now()
              FROM doomed
             WHERE d.delivery_id = doomed.delivery_id
               AND d.generation = doomed.generation
            RETURNING d.tenant_id, doomed.bytes
        ), told AS (
            INSERT INTO zyven.audit_log (tenant_id, action, subject, details)
            SELECT tenant_id, 'dead_letter.purge', coalesce(endpoint, zyven.typed_id('ten', tenant_id)),
                   jsonb_strip_nulls(jsonb_build_object(
                       'deliveries', count(*), 'reason', btrim(purge_dead_letters.reason),
                       'event_type', purge_dead_letters.event_type, 'dead_reason', dead_reason))
              FROM gone
             GROUP BY tenant_id
        )
        SELECT count(*), coalesce(sum(bytes), 0) INTO purged, payload_bytes FROM gone;
        note := 'closed, and never replayed; the events'' own copies of the payloads go with their day';
        RETURN NEXT;
    END
    $$;
COMMENT ON FUNCTION zyven.purge_dead_letters(text, text, text, text, text, timestamptz, timestamptz, integer, boolean)
    IS 'closes dead letters and deletes their payloads, oldest first; they cannot be replayed afterwards. That they died stays on record, and so does the event itself until retention drops its day. A dry run unless dry_run => false; audited in zyven.audit_log; undone by ROLLBACK';

-- Least privilege -----------------------------------------------------------------------------------

-- What happens as a consequence (a trigger), needs ownership (partitions), or is an operator's decision as a whole runs
-- with the owner's rights, so that the roles of sql/roles.sql need none of their own for it. Who did it is still
-- session_user (ADR 0031). A function that a later migration replaces loses this, and
-- must be listed again there.
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN
        SELECT p.oid::regprocedure
          FROM pg_proc p
         WHERE p.pronamespace = 'zyven'::regnamespace
           AND p.proname IN (
               'audit', 'audit_replays', 'audit_cancellation', 'refresh_routing', 'start_routing',
               'ensure_partition', 'drop_expired_partitions',
               'publish', 'replay', 'replay_dead_letters', 'replay_missing', 'cancel', 'cancel_deliveries',
               'purge_dead_letters', 'pause', 'resume')
    LOOP
        EXECUTE format('ALTER FUNCTION %s SECURITY DEFINER SET search_path = pg_catalog, pg_temp', name);
        -- With the owner's rights they are nobody's but whom they are granted to.
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', name);
    END LOOP;
END
$$;
