-- Replays of dead letters that somebody has chosen one by one; and an explanation of why an operational event does not go to
-- the endpoint it is about. Expands only: what exists works as before.

-- Replaying ------------------------------------------------------------------------------------------

-- One answer for one delivery and for many. What is another tenant's is told from what nobody has by nothing.
CREATE FUNCTION zyven.why_not_replayable(delivery uuid, tenant uuid DEFAULT NULL) RETURNS text
    LANGUAGE sql STABLE
    AS $$
        SELECT CASE
            WHEN EXISTS (SELECT FROM zyven.outbox o
                          WHERE o.delivery_id = why_not_replayable.delivery
                            AND (why_not_replayable.tenant IS NULL OR o.tenant_id = why_not_replayable.tenant))
                THEN 'it is still being delivered'
            WHEN EXISTS (SELECT FROM zyven.dead_letter_records d
                          WHERE d.delivery_id = why_not_replayable.delivery
                            AND (why_not_replayable.tenant IS NULL OR d.tenant_id = why_not_replayable.tenant)
                            AND d.payload IS NULL
                            AND d.replayed_at IS NULL)
                THEN 'its payload is no longer stored'
            WHEN EXISTS (SELECT FROM zyven.dead_letter_records d
                          WHERE d.delivery_id = why_not_replayable.delivery
                            AND (why_not_replayable.tenant IS NULL OR d.tenant_id = why_not_replayable.tenant)
                            AND d.resolved_at IS NOT NULL)
                THEN 'a late success has resolved it'
            WHEN EXISTS (SELECT FROM zyven.finished_deliveries f
                          WHERE f.delivery_id = why_not_replayable.delivery
                            AND (why_not_replayable.tenant IS NULL OR f.tenant_id = why_not_replayable.tenant)
                            AND f.state = 'DELIVERED')
                THEN 'it was delivered'
            ELSE 'there is no such dead letter'
        END
    $$;
COMMENT ON FUNCTION zyven.why_not_replayable(uuid, uuid)
    IS 'why a delivery that could not be replayed could not; of a tenant, if one is given. Used by zyven.replay and zyven.replay_chosen';

CREATE OR REPLACE FUNCTION zyven.replay(delivery text, reason text) RETURNS text
    LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        delivery_uuid uuid := zyven.untyped_id('dlv', delivery);
        replay_id     bigint;
    BEGIN
        INSERT INTO zyven.replays (reason, filter, deliveries)
        VALUES (reason, jsonb_build_object('delivery', delivery), 1)
        RETURNING id INTO replay_id;
        IF zyven.replay_into_outbox(ARRAY[delivery_uuid], replay_id, NULL) = 0 THEN
            RAISE EXCEPTION 'delivery % cannot be replayed: %', delivery, zyven.why_not_replayable(delivery_uuid)
                USING ERRCODE = 'no_data_found';
        END IF;
        RETURN delivery;
    END
    $$;

CREATE FUNCTION zyven.replay_chosen(
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
        IF dry_run THEN
            note := 'dry run: nothing was changed; call again with dry_run => false';
        ELSE
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
            note := CASE WHEN rate_per_s IS NULL THEN 'all due at once'
                         ELSE format('spread over %s s', round(cardinality(replayable) / rate_per_s, 1)) END;
        END IF;
        deliveries := cardinality(replayable);
        SELECT coalesce(jsonb_object_agg(zyven.typed_id('dlv', id), zyven.why_not_replayable(id, tenant_uuid)), '{}')
          INTO refused
          FROM (SELECT unnest(chosen) AS id EXCEPT SELECT unnest(replayable)) AS others;
        RETURN NEXT;
    END
    $$;
COMMENT ON FUNCTION zyven.replay_chosen(text[], text, text, numeric, boolean)
    IS 'sends these dead letters back to the start, oldest first, those that were cancelled or have expired as well; refused says of each other one why not. A dry run unless dry_run => false; rate_per_s spreads them; audited in zyven.replays; undone by ROLLBACK';
-- With the owner's rights it is nobody's but whom it is granted to (sql/roles.sql).
REVOKE ALL ON FUNCTION zyven.replay_chosen(text[], text, text, numeric, boolean) FROM PUBLIC;

-- Explaining -----------------------------------------------------------------------------------------

-- As before, with a reason of its own for whoever is not told about itself (ADR 0037).
CREATE OR REPLACE FUNCTION zyven.explain_sentence(code text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
        SELECT CASE code
            -- Why an event has a delivery to an endpoint, or has none.
            WHEN 'matched' THEN 'The event was routed to this endpoint.'
            WHEN 'test_event' THEN 'It is a test event, sent to this endpoint alone.'
            WHEN 'created_later' THEN 'The endpoint was created after the event was accepted.'
            WHEN 'other_endpoints_test' THEN 'It is a test event, sent to another endpoint alone.'
            WHEN 'about_itself' THEN 'It is an operational event about this endpoint itself; it goes to the others alone.'
            WHEN 'event_type' THEN 'None of the endpoint''s event_types matches the event''s type.'
            WHEN 'channel' THEN 'The endpoint has channels, and the event is in none of them.'
            WHEN 'filter' THEN 'The endpoint''s filter does not admit the event''s payload.'
            WHEN 'filter_not_asked' THEN 'Whether the endpoint''s filter admits the payload was not asked: it would take too long.'
            WHEN 'deleted' THEN 'The endpoint is deleted; otherwise it would match.'
            WHEN 'disabled' THEN 'The endpoint is disabled; otherwise it would match.'
            WHEN 'no_delivery' THEN 'The endpoint would match as it is now, but there is no delivery: it was different then, or the record is gone.'
            -- What an unfinished delivery waits for.
            WHEN 'in_hand' THEN 'A dispatcher has it in hand.'
            WHEN 'paused' THEN 'Its endpoint is paused: it waits until somebody resumes that.'
            WHEN 'endpoint_takes_none' THEN 'Its endpoint is disabled or deleted: it becomes a dead letter when its turn comes.'
            WHEN 'waits_for_earlier' THEN 'An earlier delivery with the same ordering key is unfinished.'
            WHEN 'past_expiry' THEN 'Its event expires before its turn comes: it then becomes a dead letter.'
            WHEN 'backoff' THEN 'Its last attempt failed; it waits as the endpoint''s retry policy says.'
            WHEN 'retry_after' THEN 'Its last attempt was answered with Retry-After, and it waits for as long.'
            WHEN 'deliver_at' THEN 'Its publisher has asked for a later time (deliver_at).'
            WHEN 'replay_turn' THEN 'It was replayed together with others at a limited rate; its turn comes later.'
            WHEN 'released' THEN 'It was taken up and given back without an attempt, as nothing could be sent; it is taken up again soon.'
            WHEN 'lease_ended' THEN 'The dispatcher that had it died or stalled; it is offered again.'
            WHEN 'awaiting_relay' THEN 'It is committed, and the relay has not handed it over yet.'
            WHEN 'in_lane' THEN 'It is due, and waits in its endpoint''s lane for a dispatcher.'
            -- How a delivery has ended.
            WHEN 'delivered' THEN 'The endpoint answered 2xx.'
            WHEN 'attempts_exhausted' THEN 'The last permitted attempt failed.'
            WHEN 'age_exceeded' THEN 'The next attempt would have been past the endpoint''s age limit.'
            WHEN 'rejected' THEN 'The endpoint refused it with a status that repeating does not cure.'
            WHEN 'gone' THEN 'The endpoint answered 410 and was disabled.'
            WHEN 'egress_denied' THEN 'The egress policy denies the endpoint''s address, host or port.'
            WHEN 'invalid_url' THEN 'The endpoint''s URL is not one that Zyven delivers to.'
            WHEN 'endpoint_disabled' THEN 'The endpoint was disabled when its turn came.'
            WHEN 'endpoint_deleted' THEN 'The endpoint was deleted when its turn came.'
            WHEN 'payload_missing' THEN 'The event''s payload was no longer stored.'
            WHEN 'expired' THEN 'The event''s expires_at came before it could be delivered.'
            WHEN 'cancelled' THEN 'Its publisher or an operator called it off.'
        END
    $$;

-- The order of the reasons: what is on record first; of what is judged by the configuration, what would keep the event
-- away whatever the endpoint's status is comes before the status.
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
                    WHEN a.updated_at <= a.accepted_at THEN 'unchanged_configuration'
                    ELSE 'present_configuration' END,
               a.updated_at,
               CASE WHEN a.has_delivery THEN a.delivery_id END
          FROM asked a
         ORDER BY a.id
    $$;
