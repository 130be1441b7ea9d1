-- Lanes: what an endpoint may be asked to bear, and order within a key.

ALTER TABLE zyven.endpoints
    ADD COLUMN paused_at       timestamptz,
    ADD COLUMN concurrency_max integer,
    ADD COLUMN rate_per_minute integer,
    ADD COLUMN rate_burst      integer,
    ADD CONSTRAINT endpoint_lane_is_sane CHECK (
        concurrency_max BETWEEN 1 AND 1000
        AND rate_per_minute BETWEEN 1 AND 600000
        AND rate_burst BETWEEN 1 AND 10000
    );
COMMENT ON COLUMN zyven.endpoints.paused_at IS 'set: events are accepted for it and wait; unlike a disabled endpoint it loses none';
COMMENT ON COLUMN zyven.endpoints.concurrency_max IS 'requests in flight at the same time; NULL: the deployment''s limit';
COMMENT ON COLUMN zyven.endpoints.rate_per_minute IS 'requests a minute, by a token bucket; NULL: not limited';
COMMENT ON COLUMN zyven.endpoints.rate_burst IS 'size of the token bucket; NULL: one second''s worth, at least 1';
-- Store::lane_limits_changed, Store::lane_limits
CREATE INDEX endpoints_by_change ON zyven.endpoints (updated_at);
CREATE INDEX endpoints_with_lane_settings ON zyven.endpoints (id)
    WHERE deleted_at IS NULL
      AND (paused_at IS NOT NULL OR concurrency_max IS NOT NULL OR rate_per_minute IS NOT NULL);

-- The relay learns of changes by this column, so it must not depend on whoever writes an UPDATE.
CREATE FUNCTION zyven.note_change() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
    BEGIN
        NEW.updated_at := clock_timestamp();
        RETURN NEW;
    END
    $$;

CREATE TRIGGER endpoint_says_when_it_changed
    BEFORE UPDATE ON zyven.endpoints
    FOR EACH ROW EXECUTE FUNCTION zyven.note_change();

-- Order ---------------------------------------------------------------------------------------------

-- A number of fixed length that never changes: updates stay heap-only, and the index below is not
-- touched by deliveries without a key.
ALTER TABLE zyven.outbox
    ADD COLUMN ordering_key bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN zyven.outbox.ordering_key
    IS '63 bits of the ordering key''s hash; 0: none. Of one endpoint and key only the smallest seq may be claimed';
-- Store::claim, zyven.stuck
CREATE INDEX outbox_in_order ON zyven.outbox (endpoint_id, ordering_key, seq)
    WHERE ordering_key <> 0;

-- Pausing -------------------------------------------------------------------------------------------

CREATE FUNCTION zyven.pause(endpoint text) RETURNS text
    LANGUAGE plpgsql
    AS $$
    BEGIN
        UPDATE zyven.endpoints
           SET paused_at = coalesce(paused_at, now())
         WHERE id = zyven.untyped_id('ep', endpoint)
           AND deleted_at IS NULL;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'there is no endpoint %', endpoint USING ERRCODE = 'no_data_found';
        END IF;
        RETURN endpoint;
    END
    $$;
COMMENT ON FUNCTION zyven.pause(text) IS 'holds an endpoint''s deliveries back: events are accepted, deliveries wait, no attempt is spent. Takes effect within about 2 s';

CREATE FUNCTION zyven.resume(endpoint text) RETURNS text
    LANGUAGE plpgsql
    AS $$
    BEGIN
        UPDATE zyven.endpoints
           SET paused_at = NULL
         WHERE id = zyven.untyped_id('ep', endpoint)
           AND deleted_at IS NULL;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'there is no endpoint %', endpoint USING ERRCODE = 'no_data_found';
        END IF;
        RETURN endpoint;
    END
    $$;
COMMENT ON FUNCTION zyven.resume(text) IS 'lets a paused endpoint''s deliveries go, few at a time at first';
