-- What operators could not see or were not told: breakers; typing errors that looked like "nothing to do"; replays that come to nothing.
-- Expands only: whoever does not know of it works as before.

-- Breakers ------------------------------------------------------------------------------------------

-- Breakers are Redis' knowledge. Whichever dispatcher learns of a move writes it down here, for people: nothing is decided by it.
-- No foreign key: a dispatcher must not wait for somebody who has an endpoint locked.
CREATE TABLE zyven.breakers (
    endpoint_id uuid PRIMARY KEY,
    opened_at   timestamptz NOT NULL,
    probe_at    timestamptz NOT NULL
);
COMMENT ON TABLE zyven.breakers IS
    'endpoints whose breaker is open, as far as dispatchers have said so: a hint. Read zyven.left_alone, which leaves out what is too old to be believed';
COMMENT ON COLUMN zyven.breakers.opened_at IS 'when it opened, or was first said to be open';
COMMENT ON COLUMN zyven.breakers.probe_at IS 'until then nothing is sent; then one probe decides';

-- A probe takes 30 s at most, and is on record soon after. A row that nobody has touched for longer than a minute after its probe was
-- due says nothing any more: the word that the breaker has closed was lost, or no dispatcher runs.
CREATE VIEW zyven.left_alone AS
    SELECT e.id AS endpoint_id, 'paused' AS because, e.paused_at AS since, NULL::timestamptz AS until
      FROM zyven.endpoints e
     WHERE e.paused_at IS NOT NULL
       AND e.deleted_at IS NULL
    UNION ALL
    SELECT b.endpoint_id, 'breaker_open', b.opened_at, b.probe_at
      FROM zyven.breakers b
      JOIN zyven.endpoints e ON e.id = b.endpoint_id
     WHERE b.probe_at > now() - interval '1 minute'
       AND e.paused_at IS NULL
       AND e.deleted_at IS NULL;
COMMENT ON VIEW zyven.left_alone IS
    'endpoints whose deliveries wait because they should: paused, or (as far as is known here) the breaker is open. One row for each, at most';

CREATE OR REPLACE VIEW zyven.stuck AS
    SELECT zyven.typed_id('dlv', o.delivery_id) AS delivery,
           zyven.typed_id('evt', o.event_id) AS event,
           zyven.typed_id('ep', o.endpoint_id) AS endpoint,
           o.state, o.attempts, o.seq,
           now() - greatest(o.due_at, o.leased_until) AS overdue,
           CASE WHEN a.because = 'paused' THEN 'its endpoint is paused'
                WHEN a.because = 'breaker_open'
                THEN 'its breaker is open until ' || date_trunc('second', a.until) || ': its endpoint has failed too often'
                WHEN o.ordering_key <> 0
                     AND EXISTS (SELECT FROM zyven.outbox earlier
                                  WHERE earlier.endpoint_id = o.endpoint_id
                                    AND earlier.ordering_key = o.ordering_key
                                    AND earlier.ordering_key <> 0
                                    AND earlier.seq < o.seq)
                THEN 'an earlier delivery with its ordering key is unfinished'
                WHEN o.seq > (SELECT watermark FROM zyven.relay) THEN 'the relay has not come to it: is a relay running?'
                WHEN o.lease_token <> 0 THEN 'its dispatcher died or stalled; waiting to be claimed again'
                ELSE 'it waits in its endpoint''s lane: is a dispatcher running, is the endpoint slow or failing?'
           END AS why,
           a.because IS NOT NULL AS is_left_alone,
           o.endpoint_id, o.tenant_id
      FROM zyven.outbox o
      LEFT JOIN zyven.left_alone a ON a.endpoint_id = o.endpoint_id
     WHERE o.due_at < now() - interval '30 seconds'
       AND o.leased_until < now();
COMMENT ON COLUMN zyven.stuck.is_left_alone IS 'its endpoint is paused or its breaker is open: it waits as it should';

-- As before, with the breaker at the end. What somebody called off says nothing of an endpoint.
CREATE OR REPLACE VIEW zyven.endpoint_health AS
    SELECT zyven.typed_id('ep', e.id) AS endpoint,
           zyven.typed_id('ten', e.tenant_id) AS tenant,
           e.url,
           CASE WHEN e.status = 'disabled' THEN 'disabled: ' || e.disabled_reason
                     || CASE WHEN e.paused_at IS NOT NULL THEN '; and paused' ELSE '' END
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
           e.tenant_id,
           w.opened_at AS breaker_opened_at,
           w.probe_at AS breaker_open_until
      FROM zyven.endpoints e
      LEFT JOIN LATERAL (
               SELECT count(*) FILTER (WHERE f.reason IS DISTINCT FROM 'cancelled') AS finished,
                      count(*) FILTER (WHERE f.state = 'DELIVERED') AS delivered,
                      round(avg(f.attempts) FILTER (WHERE f.reason IS DISTINCT FROM 'cancelled'), 2) AS attempts_mean,
                      round((percentile_cont(0.5) WITHIN GROUP (ORDER BY f.total_us) / 1000)::numeric, 1) AS total_ms_p50,
                      round((percentile_cont(0.95) WITHIN GROUP (ORDER BY f.total_us) / 1000)::numeric, 1) AS total_ms_p95,
                      max(f.finished_at) FILTER (WHERE f.state = 'DELIVERED') AS delivered_last_at,
                      max(f.finished_at) FILTER (WHERE f.state = 'DEAD_LETTERED') AS dead_last_at
                 FROM (SELECT g.state, g.reason, g.attempts, g.total_us, g.finished_at
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
      -- Of one that is paused as well: when it goes on depends on both.
      LEFT JOIN zyven.breakers w ON w.endpoint_id = e.id AND w.probe_at > now() - interval '1 minute'
     WHERE e.deleted_at IS NULL;
COMMENT ON VIEW zyven.endpoint_health IS
    'one row for each endpoint: what waits for it, its open dead letters, how those of its latest 200 finished deliveries went that nobody cancelled, and its breaker. Ask by endpoint_id or tenant_id';
COMMENT ON COLUMN zyven.endpoint_health.breaker_open_until IS
    'when the next probe goes, if the breaker is open; a hint, as only Redis knows. NULL: closed, as far as is known here';

-- What is given by hand -----------------------------------------------------------------------------

CREATE FUNCTION zyven.known(typed text, VARIADIC kinds text[]) RETURNS uuid
    LANGUAGE plpgsql STABLE
    AS $$
    DECLARE
        kind     text;
        thing_id uuid;
    BEGIN
        FOREACH kind IN ARRAY kinds LOOP
            CONTINUE WHEN NOT coalesce(
                typed ~ ('^(' || kind || '_[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$'), false);
            thing_id := zyven.untyped_id(kind, typed);
            IF (CASE kind
                    WHEN 'ten' THEN EXISTS (SELECT FROM zyven.tenants t WHERE t.id = thing_id)
                    -- A deleted one may still have dead letters.
                    WHEN 'ep' THEN EXISTS (SELECT FROM zyven.endpoints e WHERE e.id = thing_id)
                    -- A delivery may outlive its event, and a dead letter both.
                    WHEN 'evt' THEN EXISTS (SELECT FROM zyven.events v WHERE v.id = thing_id)
                                 OR EXISTS (SELECT FROM zyven.deliveries_of(zyven.typed_id('evt', thing_id)))
                    WHEN 'dlv' THEN EXISTS (SELECT FROM zyven.outbox o WHERE o.delivery_id = thing_id)
                                 OR EXISTS (SELECT FROM zyven.finished_deliveries f WHERE f.delivery_id = thing_id)
                                 OR EXISTS (SELECT FROM zyven.dead_letter_records d WHERE d.delivery_id = thing_id)
                END) THEN
                RETURN thing_id;
            END IF;
        END LOOP;
        IF thing_id IS NULL THEN
            RAISE EXCEPTION '"%" is not an id: it must be % followed by 32 hexadecimal digits, or a UUID', typed,
                (SELECT string_agg('"' || k || '_"', ' or ' ORDER BY n) FROM unnest(kinds) WITH ORDINALITY AS named (k, n))
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        RAISE EXCEPTION 'there is no % %',
            (SELECT string_agg(CASE k WHEN 'ten' THEN 'tenant' WHEN 'ep' THEN 'endpoint' WHEN 'evt' THEN 'event' ELSE 'delivery' END,
                               ' or ' ORDER BY n)
               FROM unnest(kinds) WITH ORDINALITY AS named (k, n)), typed
            USING ERRCODE = 'no_data_found';
    END
    $$;
COMMENT ON FUNCTION zyven.known(text, text[])
    IS 'the UUID inside an id of one of these kinds (ten, ep, evt, dlv), if there is such a thing; raises P0002 if not, 22023 if it is no id. For scripts and functions of operators';

CREATE FUNCTION zyven.given_number(name text, given text, at_least numeric, at_most numeric) RETURNS numeric
    LANGUAGE plpgsql IMMUTABLE STRICT
    AS $$
    BEGIN
        IF given ~ '^[0-9]{1,18}([.][0-9]{1,18})?$' AND given::numeric BETWEEN at_least AND at_most THEN
            RETURN given::numeric;
        END IF;
        RAISE EXCEPTION '% must be a number from % to %, not "%"', name, at_least, at_most, given
            USING ERRCODE = 'invalid_parameter_value';
    END
    $$;
COMMENT ON FUNCTION zyven.given_number(text, text, numeric, numeric) IS 'a number that somebody has written, within bounds. For scripts of operators';

CREATE FUNCTION zyven.given_moment(name text, given text) RETURNS timestamptz
    LANGUAGE plpgsql STABLE
    AS $$
    DECLARE
        age interval;
    BEGIN
        RETURN given::timestamptz;
    EXCEPTION WHEN data_exception THEN
        BEGIN
            -- A bare number would be seconds, which nobody means. "1 hour ago" is an interval below zero.
            IF given ~ '[a-z]' THEN
                age := given::interval;
                RETURN now() - greatest(age, -age);
            END IF;
        EXCEPTION WHEN data_exception THEN
            NULL; -- told below
        END;
        RAISE EXCEPTION '% must be a time (2026-11-28 09:00+00) or how long ago it was (24h, 3 days), not "%"', name, given
            USING ERRCODE = 'invalid_parameter_value';
    END
    $$;
COMMENT ON FUNCTION zyven.given_moment(text, text)
    IS 'a moment that somebody has written, as a time or as how long ago it was. For scripts of operators';

CREATE FUNCTION zyven.given_go(given text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE
    AS $$
    BEGIN
        IF given IN ('yes', 'no') THEN
            RETURN given = 'yes';
        END IF;
        RAISE EXCEPTION 'GO must be yes (do it) or no (a dry run, as without it), not "%"', given
            USING ERRCODE = 'invalid_parameter_value';
    END
    $$;
COMMENT ON FUNCTION zyven.given_go(text) IS 'whether somebody means it. For scripts of operators';

-- For people a filter that can fit nothing is a typing error. The API knows its own ways to say so, or says that nothing fits.
CREATE FUNCTION zyven.check_filter(
    tenant      text DEFAULT NULL,
    endpoint    text DEFAULT NULL,
    dead_reason text DEFAULT NULL,
    since       timestamptz DEFAULT NULL,
    until       timestamptz DEFAULT NULL
) RETURNS void
    LANGUAGE plpgsql STABLE
    AS $$
    DECLARE
        reasons CONSTANT text[] := ARRAY[
            'attempts_exhausted', 'age_exceeded', 'rejected', 'gone', 'egress_denied', 'invalid_url', 'endpoint_disabled',
            'endpoint_deleted', 'payload_missing', 'expired', 'cancelled'];
        tenant_uuid   uuid := CASE WHEN tenant IS NOT NULL THEN zyven.known(tenant, 'ten') END;
        endpoint_uuid uuid := CASE WHEN endpoint IS NOT NULL THEN zyven.known(endpoint, 'ep') END;
    BEGIN
        IF tenant_uuid IS NOT NULL AND endpoint_uuid IS NOT NULL
            AND NOT EXISTS (SELECT FROM zyven.endpoints e WHERE e.id = endpoint_uuid AND e.tenant_id = tenant_uuid) THEN
            RAISE EXCEPTION 'endpoint % is not of tenant %', endpoint, tenant USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF dead_reason <> ALL (reasons) THEN
            RAISE EXCEPTION 'dead_reason must be one of %, not "%"', array_to_string(reasons, ', '), dead_reason
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF since > now() THEN
            RAISE EXCEPTION 'since must not lie in the future: %', since USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF until <= since THEN
            RAISE EXCEPTION 'until must be later than since: % is not later than %', until, since
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END
    $$;
COMMENT ON FUNCTION zyven.check_filter(text, text, text, timestamptz, timestamptz)
    IS 'refuses what can fit nothing: an unknown tenant, endpoint or dead-letter reason, a time to come. Twin of DeadLetterReason in Rust';

-- Replaying -----------------------------------------------------------------------------------------

CREATE FUNCTION zyven.replay_note(deliveries uuid[], rate_per_s numeric DEFAULT NULL, dry_run boolean DEFAULT false) RETURNS text
    LANGUAGE sql STABLE
    AS $$
        SELECT CASE WHEN dry_run THEN 'dry run: nothing was changed; call again with dry_run => false'
                    WHEN rate_per_s IS NULL THEN 'all due at once'
                    ELSE format('spread over %s s', round(cardinality(deliveries) / rate_per_s, 1)) END
               -- That they have just been replayed does not matter here.
            || coalesce((SELECT format('; WARNING: %s for disabled or deleted endpoints, where they become dead letters again', count(*))
                           FROM zyven.dead_letter_records d
                           JOIN zyven.endpoints e ON e.id = d.endpoint_id
                          WHERE d.delivery_id = ANY (deliveries)
                            AND (e.status = 'disabled' OR e.deleted_at IS NOT NULL)
                            AND d.generation = (SELECT max(g.generation) FROM zyven.dead_letter_records g
                                                 WHERE g.delivery_id = d.delivery_id)
                         HAVING count(*) > 0), '')
    $$;
COMMENT ON FUNCTION zyven.replay_note(uuid[], numeric, boolean)
    IS 'what is to be said of a replay of these: when they are due, and how many of them it does not help';

-- As before, and says what of it comes to nothing.
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
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan
    AS $$
    #variable_conflict use_column
    DECLARE
        tenant_uuid   uuid := CASE WHEN tenant IS NOT NULL THEN zyven.untyped_id('ten', tenant) END;
        endpoint_uuid uuid := CASE WHEN endpoint IS NOT NULL THEN zyven.untyped_id('ep', endpoint) END;
        chosen        uuid[];
    BEGIN
        PERFORM zyven.check_bulk(replay_dead_letters.reason, deliveries_max, rate_per_s);
        -- Who and when may come from the API, to which an id of somebody else is one that never was.
        PERFORM zyven.check_filter(dead_reason => replay_dead_letters.dead_reason);
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
        note := zyven.replay_note(chosen, rate_per_s, dry_run);
        IF dry_run THEN
            deliveries := cardinality(chosen);
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
        RETURN NEXT;
    END
    $$;

-- Likewise.
CREATE OR REPLACE FUNCTION zyven.replay_chosen(
    dead_letters  text[],
    reason        text,
    tenant        text DEFAULT NULL,
    rate_per_s    numeric DEFAULT NULL,
    dry_run       boolean DEFAULT true
) RETURNS TABLE (replay_id bigint, deliveries integer, oldest timestamptz, newest timestamptz, refused jsonb, note text)
    LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    #variable_conflict use_column
    DECLARE
        tenant_uuid uuid := CASE WHEN tenant IS NOT NULL THEN zyven.untyped_id('ten', tenant) END;
        chosen      uuid[];
        replayable  uuid[];
    BEGIN
        PERFORM zyven.check_bulk(replay_chosen.reason, 1, rate_per_s);
        -- The audit keeps every one of them: 10,000 are some 400 kB.
        IF coalesce(cardinality(dead_letters), 0) NOT BETWEEN 1 AND 10000 OR array_position(dead_letters, NULL) IS NOT NULL THEN
            RAISE EXCEPTION 'dead_letters must name 1 to 10000 deliveries' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        -- Who is named twice is meant once.
        chosen := ARRAY(SELECT DISTINCT zyven.untyped_id('dlv', named) FROM unnest(dead_letters) AS named);
        SELECT coalesce(array_agg(d.delivery_id), '{}'), min(d.dead_at), max(d.dead_at)
          INTO replayable, oldest, newest
          FROM zyven.dead_letter_records d
         WHERE d.delivery_id = ANY (chosen)
           AND (tenant_uuid IS NULL OR d.tenant_id = tenant_uuid)
           AND d.replayed_at IS NULL
           AND d.resolved_at IS NULL
           AND d.payload IS NOT NULL;
        note := zyven.replay_note(replayable, rate_per_s, dry_run);
        IF NOT dry_run THEN
            INSERT INTO zyven.replays (reason, filter, deliveries)
            VALUES (replay_chosen.reason,
                    jsonb_strip_nulls(jsonb_build_object(
                        'tenant', tenant, 'dead_letters', dead_letters, 'rate_per_s', rate_per_s)),
                    cardinality(replayable))
            RETURNING zyven.replays.id INTO replay_id;
            PERFORM zyven.replay_into_outbox(replayable, replay_chosen.replay_id, rate_per_s);
            -- Somebody else may have replayed some of them meanwhile.
            replayable := ARRAY(SELECT d.delivery_id
                            FROM zyven.dead_letter_records d
                           WHERE d.delivery_id = ANY (replayable)
                             AND d.replay_id = replay_chosen.replay_id);
            UPDATE zyven.replays SET deliveries = cardinality(replayable) WHERE id = replay_chosen.replay_id;
        END IF;
        deliveries := cardinality(replayable);
        SELECT coalesce(jsonb_object_agg(zyven.typed_id('dlv', id), zyven.why_not_replayable(id, tenant_uuid)), '{}')
          INTO refused
          FROM (SELECT unnest(chosen) AS id EXCEPT SELECT unnest(replayable)) AS others;
        RETURN NEXT;
    END
    $$;

-- Choosing ------------------------------------------------------------------------------------------

-- As before, with a word about what can fit nothing.
CREATE OR REPLACE FUNCTION zyven.replay_missing(
    endpoint        text,
    reason          text,
    since           timestamptz,
    until           timestamptz DEFAULT 'infinity',
    rate_per_s      numeric DEFAULT NULL,
    deliveries_max  integer DEFAULT 10000,
    dry_run         boolean DEFAULT true
) RETURNS TABLE (replay_id bigint, never_sent integer, dead_letters integer, oldest timestamptz, newest timestamptz, note text)
    LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
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
        PERFORM zyven.check_filter(endpoint => replay_missing.endpoint, since => replay_missing.since, until => replay_missing.until);
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

CREATE OR REPLACE FUNCTION zyven.cancel_deliveries(
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
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
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
        PERFORM zyven.check_filter(cancel_deliveries.tenant, cancel_deliveries.endpoint, NULL, cancel_deliveries.since, cancel_deliveries.until);
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

CREATE OR REPLACE FUNCTION zyven.purge_dead_letters(
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
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
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
        PERFORM zyven.check_filter(purge_dead_letters.tenant, purge_dead_letters.endpoint, purge_dead_letters.dead_reason, dead_since, dead_until);
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

-- Looking -------------------------------------------------------------------------------------------

-- As before, and knows what it does not know.
CREATE OR REPLACE FUNCTION zyven.storage(retention interval DEFAULT interval '30 days')
    RETURNS TABLE (
        what text, partitions bigint, oldest_day date, newest_day date, rows_about bigint, table_bytes bigint, index_bytes bigint,
        bytes_per_day bigint, expired_bytes bigint, needed_days bigint, next_freed_at timestamptz, next_freed_bytes bigint)
    LANGUAGE sql STABLE
    AS $$
        WITH parts AS (
            SELECT coalesce(p.relname, c.relname)::text AS what,
                   CASE WHEN p.oid IS NOT NULL THEN to_date(right(c.relname, 8), 'YYYYMMDD') END AS day,
                   -- -1 before the first ANALYZE; what has no page has no row.
                   CASE WHEN c.reltuples >= 0 THEN c.reltuples::bigint
                        WHEN pg_relation_size(c.oid) = 0 THEN 0 END AS rows_about,
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
        SELECT what, count(day), min(day), max(day),
               -- A program that does not know of it takes it for none.
               CASE WHEN count(*) = count(rows_about) THEN sum(rows_about)::bigint ELSE -1 END,
               sum(table_bytes)::bigint, sum(index_bytes)::bigint,
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
    'what takes how much room, how fast it grows, and what the retention of events frees next; rows_about as of the last ANALYZE, -1 before the first; needed_days: expired days that unfinished deliveries keep';

-- As before, with the breaker: of what only Redis knows, the only part that is written down here.
CREATE OR REPLACE FUNCTION zyven.explain(what text, endpoints_max integer DEFAULT 1000, after text DEFAULT NULL)
    RETURNS TABLE (
        endpoint        text,
        matched         boolean,
        code            text,
        sentence        text,
        delivery        text,
        state           zyven.delivery_state,
        attempts        integer,
        next_attempt_at timestamptz,
        judged_by       text,
        url             text
    )
    LANGUAGE plpgsql STABLE
    -- Compiling the statement takes seconds, running it milliseconds.
    SET jit = off
    AS $$
    #variable_conflict use_column
    DECLARE
        event_uuid    uuid;
        endpoint_uuid uuid;
    BEGIN
        IF explain.endpoints_max NOT BETWEEN 1 AND 10000 THEN
            RAISE EXCEPTION 'endpoints_max must be between 1 and 10000' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF explain.what LIKE 'dlv\_%' THEN
            SELECT d.event_id, d.endpoint_id INTO event_uuid, endpoint_uuid
              FROM zyven.explain_delivery(zyven.untyped_id('dlv', explain.what)) AS d;
        ELSE
            SELECT v.id INTO event_uuid
              FROM zyven.events v
             WHERE v.id = zyven.untyped_id('evt', explain.what);
        END IF;
        IF event_uuid IS NULL THEN
            RAISE EXCEPTION 'there is no event or delivery %', explain.what USING ERRCODE = 'no_data_found';
        END IF;
        RETURN QUERY
            SELECT zyven.typed_id('ep', e.endpoint_id), e.matched, coalesce(a.because, d.code, e.code),
                   CASE WHEN a.because IS NULL THEN zyven.explain_sentence(coalesce(d.code, e.code))
                        ELSE 'Its endpoint has failed too often and is left alone; then one probe decides.' END,
                   zyven.typed_id('dlv', e.delivery_id), d.state, d.attempts, coalesce(d.next_attempt_at, a.until), e.judged_by,
                   e.url
              FROM zyven.explain_event(event_uuid,
                       CASE WHEN explain.after IS NULL THEN '00000000-0000-0000-0000-000000000000'
                            ELSE zyven.untyped_id('ep', explain.after) END,
                       explain.endpoints_max, endpoint_uuid) AS e
              LEFT JOIN LATERAL zyven.explain_delivery(e.delivery_id) AS d ON true
              LEFT JOIN zyven.left_alone a
                ON a.endpoint_id = e.endpoint_id
               AND a.because = 'breaker_open'
               AND d.code = 'in_lane';
    END
    $$;
COMMENT ON FUNCTION zyven.explain(text, integer, text)
    IS 'why evt_… reached each endpoint of its tenant or did not, or what dlv_… waits for: a code and a sentence. Of what only Redis knows breakers are told as far as zyven.left_alone has them; the API tells more. More endpoints than endpoints_max: call again with after => the last one';

-- What the others are for, which nobody calls by hand.
COMMENT ON FUNCTION zyven.key_fingerprint(uuid, text) IS 'what stands for a tenant''s idempotency key; twin of key_fingerprint in Rust';
COMMENT ON FUNCTION zyven.body_fingerprint(text, text[], text, bytea) IS 'the fingerprint of an event without options, as the first releases took it';
COMMENT ON FUNCTION zyven.replay_into_outbox(uuid[], bigint, numeric) IS 'sends dead letters back to the start, each as its next generation; used by every replay, which has written its row before; returns how many';
COMMENT ON FUNCTION zyven.refresh_routing() IS 'trigger: an endpoint''s subscriptions follow its row, and the tenant''s routing version is counted up';
COMMENT ON FUNCTION zyven.start_routing() IS 'trigger: a new tenant has a routing version';
COMMENT ON FUNCTION zyven.refuse_move() IS 'trigger: refuses to change a delivery in a way that the lifecycle does not permit';
COMMENT ON FUNCTION zyven.partitioned_tables() IS 'the tables with a partition for each day';
COMMENT ON FUNCTION zyven.note_change() IS 'trigger: an endpoint''s row says when it changed, whoever changes it';
COMMENT ON FUNCTION zyven.refuse_rewriting() IS 'trigger: entries of the audit log are not changed, nor deleted within 30 days';
COMMENT ON FUNCTION zyven.audit_replays() IS 'trigger: writes replays into the audit log, one entry for each tenant concerned';
COMMENT ON FUNCTION zyven.audit_cancellation() IS 'trigger: writes a cancellation into the audit log';
COMMENT ON FUNCTION zyven.refuse_another_tenant() IS 'trigger: refuses a row that names an object of another tenant';
COMMENT ON FUNCTION zyven.tell_dead_letters() IS 'trigger: makes an operational event of each dead letter, for those who ask for it';
COMMENT ON FUNCTION zyven.tell_endpoint_disabled() IS 'trigger: makes an operational event of an endpoint that is disabled, for those who ask for it';
