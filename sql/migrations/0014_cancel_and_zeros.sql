-- What a cancellation counts, and how a zero may be written.

-- A delivery whose event is gone becomes a dead letter for that reason, payload_missing, when it is called off. So
-- what this call has cancelled is counted by itself, and left out of what the reasons are counted for.
CREATE OR REPLACE FUNCTION zyven.cancel(what text, reason text, decided_by text DEFAULT session_user)
    RETURNS TABLE (cancelled integer, cancelled_before integer, being_attempted integer, finished integer)
    LANGUAGE plpgsql
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

-- Twin of zyven_domain::payload::validate.
CREATE OR REPLACE FUNCTION zyven.check_payload(payload json) RETURNS void
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
    DECLARE
        given    text := payload::text;
        strings  CONSTANT text := '"(?:[^"\\]|\\.)*"';
        bare     text; -- without strings: every bracket, colon and digit left is JSON's own
        brackets text;
        shown    text;
    BEGIN
        -- Numbers first: printing 1e131071 takes 131 kB.
        IF given ~ '[0-9][eE][-+0-9]' OR given ~ '[-+.0-9eE]{129}' THEN
            bare := regexp_replace(given, strings, '', 'g');
            IF bare ~ '[-+.0-9eE]{129}' THEN
                RAISE EXCEPTION 'payload breaks a rule: numbers must not be longer than 128 characters'
                    USING ERRCODE = 'invalid_parameter_value';
            END IF;
            -- A zero may have any exponent as far as doubles go. PostgreSQL's numeric cannot hold all of them,
            -- and prints every place of those it can.
            IF bare ~ '[0-9][eE][-+]?0*[1-9][0-9]{3}' THEN
                RAISE EXCEPTION 'payload breaks a rule: exponents must not lie beyond 999'
                    USING ERRCODE = 'invalid_parameter_value';
            END IF;
            -- 22003 if one is too large for a double, or so small that it is read as 0.
            PERFORM number[1]::float8
               FROM regexp_matches(bare, '-?[0-9][.0-9]*[eE][-+]?[0-9]+', 'g') AS number;
        END IF;
        -- 22P05 for \u0000, 22P02 for a lone surrogate.
        shown := payload::jsonb::text;
        -- Up to 64 opening brackets cannot nest deeper than 64.
        IF length(given) - length(translate(given, '[{', '')) > 64 THEN
            bare := coalesce(bare, regexp_replace(given, strings, '', 'g'));
            brackets := translate(regexp_replace(bare, '[^][{}]+', '', 'g'), '{}', '[]');
            -- Each round takes the innermost level away.
            FOR level IN 1..64 LOOP
                EXIT WHEN brackets = '';
                brackets := replace(brackets, '[]', '');
            END LOOP;
            IF brackets <> '' THEN
                RAISE EXCEPTION 'payload breaks a rule: arrays and objects must not nest deeper than 64'
                    USING ERRCODE = 'invalid_parameter_value';
            END IF;
        END IF;
        -- jsonb keeps one member of each name, so a missing colon tells of a name that occurs twice. An
        -- escaped colon, which jsonb shows as it is, could make up for it.
        IF position('\u003' IN given) > 0 THEN
            given := coalesce(bare, regexp_replace(given, strings, '', 'g'));
            shown := regexp_replace(shown, strings, '', 'g');
        END IF;
        IF length(given) - length(replace(given, ':', '')) <> length(shown) - length(replace(shown, ':', '')) THEN
            RAISE EXCEPTION 'payload breaks a rule: a member name occurs twice in one object'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END
    $$;
