-- Replays of many dead letters by the API, and how far a replay has come. Expands only: nothing that exists changes.

-- zyven.replay_progress. May have been made before, concurrently (docs/operations/upgrading.md).
CREATE INDEX IF NOT EXISTS dead_letters_by_replay ON zyven.dead_letter_records (replay_id, tenant_id)
    WHERE replay_id IS NOT NULL;

-- What a replay has sent is on record in the dead letters it took, each of which came back as the next generation. An operator's
-- replay may concern several tenants; each sees its own part.
CREATE FUNCTION zyven.replay_progress(replay bigint, tenant text DEFAULT NULL)
    RETURNS TABLE (
        replay_id bigint, decided_at timestamptz, decided_by text, reason text, deliveries integer, waiting integer,
        delivered integer, dead_lettered integer, forgotten integer, next_at timestamptz, last_at timestamptz)
    LANGUAGE sql STABLE
    AS $$
    SELECT r.id, r.decided_at, r.decided_by, r.reason, p.*
      FROM zyven.replays r
      CROSS JOIN LATERAL (
           SELECT count(*)::integer,
                  count(g.due_at)::integer,
                  count(*) FILTER (WHERE g.state = 'DELIVERED')::integer,
                  count(*) FILTER (WHERE g.state = 'DEAD_LETTERED')::integer,
                  count(*) FILTER (WHERE g.due_at IS NULL AND g.state IS NULL)::integer,
                  min(g.due_at),
                  max(g.due_at)
             -- Each is looked up by its key: joined, the planner may read all that is finished.
             FROM (SELECT (SELECT o.due_at FROM zyven.outbox o
                            WHERE o.delivery_id = d.delivery_id AND o.generation = d.generation + 1) AS due_at,
                          (SELECT f.state FROM zyven.finished_deliveries f
                            WHERE f.delivery_id = d.delivery_id AND f.generation = d.generation + 1) AS state
                     FROM zyven.dead_letter_records d
                    WHERE d.replay_id = replay
                      AND (tenant IS NULL OR d.tenant_id = zyven.untyped_id('ten', tenant))
                   OFFSET 0) AS g) AS p
     WHERE r.id = replay
    $$;
COMMENT ON FUNCTION zyven.replay_progress(bigint, text)
    IS 'how far a replay has come: how many deliveries it sent back (of that tenant), how many of them wait, were delivered or died again; forgotten: beyond retention; next_at and last_at: due times of those that wait';

-- Ingest's connections plan once for all values, which would not know by which index to look: "of this tenant, if one is given" is no
-- condition of any. Whoever calls it, it is planned for what it is called with.
ALTER FUNCTION zyven.replay_dead_letters(text, text, text, text, text, timestamptz, timestamptz, numeric, integer, boolean)
    SET plan_cache_mode = force_custom_plan;
