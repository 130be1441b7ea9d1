-- Why a delivery waits: what PostgreSQL knows of it, the surest reason first.

CREATE OR REPLACE VIEW zyven.stuck AS
    SELECT zyven.typed_id('dlv', o.delivery_id) AS delivery,
           zyven.typed_id('evt', o.event_id) AS event,
           zyven.typed_id('ep', o.endpoint_id) AS endpoint,
           o.state, o.attempts, o.seq,
           now() - greatest(o.due_at, o.leased_until) AS overdue,
           CASE WHEN e.paused_at IS NOT NULL THEN 'its endpoint is paused'
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
           END AS why
      FROM zyven.outbox o
      LEFT JOIN zyven.endpoints e ON e.id = o.endpoint_id
     WHERE o.due_at < now() - interval '30 seconds'
       AND o.leased_until < now();
