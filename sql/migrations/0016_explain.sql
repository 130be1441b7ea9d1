-- Why an event reached an endpoint or did not, and what its delivery waits for (ADR 0032). Nothing that accepts or
-- delivers asks these.

-- zyven.explain_event: those that were there when the event came.
CREATE INDEX endpoints_deleted_of_tenant ON zyven.endpoints (tenant_id, id) WHERE deleted_at IS NOT NULL;

CREATE FUNCTION zyven.explain_sentence(code text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
        SELECT CASE code
            -- Why an event has a delivery to an endpoint, or has none.
            WHEN 'matched' THEN 'The event was routed to this endpoint.'
            WHEN 'test_event' THEN 'It is a test event, sent to this endpoint alone.'
            WHEN 'created_later' THEN 'The endpoint was created after the event was accepted.'
            WHEN 'other_endpoints_test' THEN 'It is a test event, sent to another endpoint alone.'
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
COMMENT ON FUNCTION zyven.explain_sentence(text) IS 'a code of zyven.explain in words';

-- One row, or none if there is no such delivery. Two tables hold what has not ended and what has; the latest
-- generation counts.
CREATE FUNCTION zyven.explain_delivery(delivery uuid)
    RETURNS TABLE (
        delivery_id      uuid,
        event_id         uuid,
        endpoint_id      uuid,
        tenant_id        uuid,
        state            zyven.delivery_state,
        code             text,
        generation       integer,
        attempts         integer,
        seq              bigint,
        ordering_number  bigint,
        enqueued_at      timestamptz,
        next_attempt_at  timestamptz,
        finished_at      timestamptz,
        resolved_at      timestamptz,
        waits_for        uuid,
        dispatcher       bigint,
        leased_since_max timestamptz,
        leased_until     timestamptz
    )
    LANGUAGE sql STABLE ROWS 1
    AS $$
        SELECT o.delivery_id, o.event_id, o.endpoint_id, o.tenant_id,
               CASE WHEN o.state = 'RECEIVED' AND o.seq <= r.watermark THEN 'DISPATCHING'::zyven.delivery_state
                    ELSE o.state END,
               CASE WHEN h.is_in_hand THEN 'in_hand'
                    WHEN p.deleted_at IS NULL AND p.paused_at IS NOT NULL THEN 'paused'
                    WHEN p.deleted_at IS NOT NULL OR p.status = 'disabled' THEN 'endpoint_takes_none'
                    WHEN earlier.delivery_id IS NOT NULL THEN 'waits_for_earlier'
                    -- A replay lifts the expiry.
                    WHEN o.generation = 1 AND v.expires_at <= greatest(o.due_at, statement_timestamp()) THEN 'past_expiry'
                    WHEN h.is_early AND o.state = 'RETRY_SCHEDULED' THEN
                        CASE WHEN o.due_at > last.ended_at + last.backoff_max THEN 'retry_after' ELSE 'backoff' END
                    WHEN h.is_early AND o.generation = 1 AND o.attempts = 0 AND o.due_at = v.deliver_at THEN 'deliver_at'
                    WHEN h.is_early AND o.generation > 1 AND o.due_at = o.enqueued_at THEN 'replay_turn'
                    WHEN h.is_early THEN 'released'
                    WHEN o.lease_token <> 0 THEN 'lease_ended'
                    WHEN o.state = 'RECEIVED' AND o.seq > r.watermark THEN 'awaiting_relay'
                    ELSE 'in_lane' END,
               o.generation, o.attempts, o.seq, o.ordering_key, o.enqueued_at,
               CASE WHEN h.is_early AND NOT h.is_in_hand THEN o.due_at END,
               NULL::timestamptz, NULL::timestamptz,
               CASE WHEN NOT h.is_in_hand THEN earlier.delivery_id END,
               -- See zyven_domain::lease: the upper bits of a token are its dispatcher's number.
               CASE WHEN h.is_in_hand THEN o.lease_token >> 24 END,
               -- When a lease began is not on record. It lasts for the longest timeout of its batch, hence no less than
               -- for its own endpoint's, and the margin of zyven_domain::lease::MARGIN.
               CASE WHEN h.is_in_hand THEN least(statement_timestamp(),
                   o.leased_until - (p.timeout_ms + 5000) * interval '1 millisecond') END,
               CASE WHEN h.is_in_hand THEN o.leased_until END
          FROM zyven.outbox o
         CROSS JOIN zyven.relay r
         CROSS JOIN LATERAL (
               SELECT o.leased_until > statement_timestamp(), o.due_at > statement_timestamp()
               ) AS h (is_in_hand, is_early)
          LEFT JOIN zyven.endpoints p ON p.id = o.endpoint_id
          LEFT JOIN zyven.events v ON v.id = o.event_id
          LEFT JOIN LATERAL (
               SELECT e.delivery_id
                 FROM zyven.outbox e
                WHERE e.endpoint_id = o.endpoint_id
                  AND e.ordering_key = o.ordering_key
                  AND e.ordering_key <> 0
                  AND e.seq < o.seq
                ORDER BY e.seq
                LIMIT 1
               ) AS earlier ON true
          -- Retry-After is a floor: if the wait is longer than the policy's own can be, that was the reason. A second is
          -- for recording the attempt, and for the difference of two clocks.
          LEFT JOIN LATERAL (
               SELECT a.started_at + a.total_us * interval '1 microsecond' AS ended_at,
                      interval '1 second' + 1.2 * interval '1 millisecond' * CASE
                          WHEN cardinality(p.retry_schedule_ms) > 0 THEN coalesce(p.retry_schedule_ms[o.attempts], 0)
                          ELSE least(p.retry_base_ms * 2.0 ^ least(o.attempts - 1, 31), p.retry_cap_ms)
                      END::float8 AS backoff_max
                 FROM zyven.attempts a
                WHERE a.delivery_id = o.delivery_id
                  AND a.generation = o.generation
                  AND a.number = o.attempts
                  AND a.http_status IN (429, 503)
                  AND a.response_headers ~* '(^|\n)retry-after:'
               ) AS last ON o.state = 'RETRY_SCHEDULED'
         WHERE o.delivery_id = explain_delivery.delivery
        UNION ALL
        (SELECT f.delivery_id, f.event_id, f.endpoint_id, f.tenant_id, f.state, coalesce(f.reason, 'delivered'),
                f.generation, f.attempts, f.seq, 0::bigint, f.enqueued_at, NULL::timestamptz, f.finished_at,
                d.resolved_at, NULL::uuid, NULL::bigint, NULL::timestamptz, NULL::timestamptz
           FROM zyven.finished_deliveries f
           LEFT JOIN zyven.dead_letter_records d ON d.delivery_id = f.delivery_id AND d.generation = f.generation
          WHERE f.delivery_id = explain_delivery.delivery
            AND NOT EXISTS (SELECT FROM zyven.outbox o WHERE o.delivery_id = explain_delivery.delivery)
          ORDER BY f.generation DESC
          LIMIT 1)
    $$;
COMMENT ON FUNCTION zyven.explain_delivery(uuid)
    IS 'where a delivery stands and why, as far as PostgreSQL knows; used by the API and by zyven.explain';

-- The order of the reasons: what is on record first; of what is judged by the configuration, what would keep the event
-- away whatever the endpoint's status is comes before the status.
CREATE FUNCTION zyven.explain_event(event uuid, after uuid, endpoints_max integer, only_endpoint uuid DEFAULT NULL)
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
                                  AND a.details ->> 'event' = zyven.typed_id('evt', v.id)) AS is_test
              FROM zyven.events v
             WHERE v.id = explain_event.event
            UNION ALL
            -- A delivery may outlive its event (payload_missing).
            SELECT d.event_id, d.tenant_id, NULL, NULL, NULL, d.enqueued_at, false
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
               CASE WHEN a.reason IN ('matched', 'test_event', 'created_later', 'other_endpoints_test') THEN 'record'
                    WHEN a.updated_at <= a.accepted_at THEN 'unchanged_configuration'
                    ELSE 'present_configuration' END,
               a.updated_at,
               CASE WHEN a.has_delivery THEN a.delivery_id END
          FROM asked a
         ORDER BY a.id
    $$;
COMMENT ON FUNCTION zyven.explain_event(uuid, uuid, integer, uuid)
    IS 'for each endpoint of an event''s tenant behind "after": whether the event has a delivery to it, and why (not); used by the API and by zyven.explain';

CREATE FUNCTION zyven.explain(what text, endpoints_max integer DEFAULT 1000, after text DEFAULT NULL)
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
            SELECT zyven.typed_id('ep', e.endpoint_id), e.matched, coalesce(d.code, e.code),
                   zyven.explain_sentence(coalesce(d.code, e.code)), zyven.typed_id('dlv', e.delivery_id), d.state,
                   d.attempts, d.next_attempt_at, e.judged_by, e.url
              FROM zyven.explain_event(event_uuid,
                       CASE WHEN explain.after IS NULL THEN '00000000-0000-0000-0000-000000000000'
                            ELSE zyven.untyped_id('ep', explain.after) END,
                       explain.endpoints_max, endpoint_uuid) AS e
              LEFT JOIN LATERAL zyven.explain_delivery(e.delivery_id) AS d ON true;
    END
    $$;
COMMENT ON FUNCTION zyven.explain(text, integer, text)
    IS 'why evt_… reached each endpoint of its tenant or did not, or what dlv_… waits for: a code and a sentence. What only Redis knows (breaker, place in the lane) the API tells. More endpoints than endpoints_max: call again with after => the last one';
