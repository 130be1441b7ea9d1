-- Events, the outbox, and what became of each delivery.
--
-- Hot tables have no foreign keys: a key check per row is a look-up per row, and the functions that
-- write here take their ids from rows they have just read or written.

CREATE TYPE zyven.delivery_state AS ENUM (
    'RECEIVED', 'DISPATCHING', 'RETRY_SCHEDULED', 'DELIVERED', 'DEAD_LETTERED'
);

-- Insert-only. Partitioned by the time inside the UUIDv7 id.
CREATE TABLE zyven.events (
    id          uuid NOT NULL,
    tenant_id   uuid NOT NULL,
    type        text NOT NULL,
    payload     bytea COMPRESSION lz4 NOT NULL,
    channels    text[],
    source      text,
    traceparent text,
    accepted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);
COMMENT ON COLUMN zyven.events.payload IS 'exactly the bytes that were accepted, and that are signed and sent';

-- The only place where "has this key been used" is decided: a unique key cannot span partitions.
CREATE TABLE zyven.idempotency_keys (
    key        uuid PRIMARY KEY,
    event_id   uuid NOT NULL,
    body       uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN zyven.idempotency_keys.key IS 'first 128 bits of SHA-256(tenant, key)';
COMMENT ON COLUMN zyven.idempotency_keys.body IS 'first 128 bits of SHA-256(type, channels, source, payload)';
-- Store::expire_idempotency_keys
CREATE INDEX idempotency_keys_by_age ON zyven.idempotency_keys (created_at);

-- The promise that a delivery is not finished yet: the row exists exactly as long as that is true.
-- The one mutable hot table. Neither index mentions a column that changes, so that every update can
-- be heap-only; every column has a fixed length and a neutral value, so that no row outgrows its page.
CREATE TABLE zyven.outbox (
    seq          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    enqueued_at  timestamptz NOT NULL DEFAULT now(),
    due_at       timestamptz NOT NULL DEFAULT now(),
    leased_until timestamptz NOT NULL DEFAULT '-infinity',
    lease_token  bigint NOT NULL DEFAULT 0,
    delivery_id  uuid NOT NULL,
    event_id     uuid NOT NULL,
    endpoint_id  uuid NOT NULL,
    tenant_id    uuid NOT NULL,
    generation   integer NOT NULL DEFAULT 1,
    attempts     integer NOT NULL DEFAULT 0,
    state        zyven.delivery_state NOT NULL DEFAULT 'RECEIVED',
    CONSTRAINT outbox_holds_unfinished_deliveries CHECK (state IN ('RECEIVED', 'DISPATCHING', 'RETRY_SCHEDULED')),
    CONSTRAINT lease_has_a_token_and_an_end CHECK ((lease_token = 0) = (leased_until = '-infinity')),
    CONSTRAINT only_dispatching_is_leased CHECK (lease_token = 0 OR state = 'DISPATCHING'),
    CONSTRAINT retry_follows_an_attempt CHECK (state <> 'RETRY_SCHEDULED' OR attempts > 0),
    CONSTRAINT attempts_are_counted_from_zero CHECK (attempts >= 0 AND generation >= 1)
) WITH (
    fillfactor = 45,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.2
);
COMMENT ON COLUMN zyven.outbox.seq IS 'the ticket: what Redis holds';
COMMENT ON COLUMN zyven.outbox.enqueued_at IS 'when this generation began; its age counts from here';
COMMENT ON COLUMN zyven.outbox.lease_token IS 'random; 0 means not leased. Whoever records a failure must hold it';
-- One unfinished delivery per (event, endpoint). Store::delivery, zyven.drop_expired_partitions.
CREATE UNIQUE INDEX delivery_is_unfinished_once ON zyven.outbox (delivery_id);

CREATE FUNCTION zyven.refuse_move() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
    BEGIN
        RAISE EXCEPTION 'a delivery cannot move from % to %', OLD.state, NEW.state
            USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END
    $$;

-- A plain expression in WHEN costs a fifth of a function call for each row.
CREATE TRIGGER outbox_moves_along_the_lifecycle
    BEFORE UPDATE OF state ON zyven.outbox
    FOR EACH ROW
    WHEN (OLD.state <> NEW.state
        AND NOT (OLD.state = 'RECEIVED' AND NEW.state = 'DISPATCHING')
        AND NOT (OLD.state = 'DISPATCHING' AND NEW.state = 'RETRY_SCHEDULED')
        AND NOT (OLD.state = 'RETRY_SCHEDULED' AND NEW.state = 'DISPATCHING'))
    EXECUTE FUNCTION zyven.refuse_move();

CREATE FUNCTION zyven.lifecycle_permits(from_state zyven.delivery_state, to_state zyven.delivery_state)
    RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
        SELECT (from_state, to_state) IN (
            ('RECEIVED', 'DISPATCHING'),
            ('DISPATCHING', 'DISPATCHING'),
            ('DISPATCHING', 'DELIVERED'),
            ('DISPATCHING', 'RETRY_SCHEDULED'),
            ('DISPATCHING', 'DEAD_LETTERED'),
            ('RETRY_SCHEDULED', 'DISPATCHING'),
            ('RETRY_SCHEDULED', 'DELIVERED'),
            ('RETRY_SCHEDULED', 'DEAD_LETTERED'),
            ('DEAD_LETTERED', 'RECEIVED'))
    $$;
COMMENT ON FUNCTION zyven.lifecycle_permits(zyven.delivery_state, zyven.delivery_state)
    IS 'the lifecycle; twin of zyven_domain::lifecycle::permits';

-- Insert-only: one row per finished generation. Partitioned by the event's time, which the delivery
-- id begins with. The record of a successful attempt is part of this row.
CREATE TABLE zyven.finished_deliveries (
    delivery_id      uuid NOT NULL,
    generation       integer NOT NULL,
    attempts         integer NOT NULL,
    seq              bigint NOT NULL,
    event_id         uuid NOT NULL,
    endpoint_id      uuid NOT NULL,
    tenant_id        uuid NOT NULL,
    state            zyven.delivery_state NOT NULL,
    reason           text,
    enqueued_at      timestamptz NOT NULL,
    finished_at      timestamptz NOT NULL DEFAULT now(),
    started_at       timestamptz,
    http_status      smallint,
    connect_us       integer,
    first_byte_us    integer,
    total_us         integer,
    response_headers text,
    response_body    bytea,
    PRIMARY KEY (delivery_id, generation),
    CONSTRAINT finished_is_final CHECK (state IN ('DELIVERED', 'DEAD_LETTERED')),
    CONSTRAINT dead_letter_has_a_reason CHECK ((state = 'DEAD_LETTERED') = (reason IS NOT NULL))
) PARTITION BY RANGE (delivery_id);
COMMENT ON COLUMN zyven.finished_deliveries.response_body IS 'first KiB of the answer';
-- Store::deliveries_of, by endpoint
CREATE INDEX finished_deliveries_of_endpoint ON zyven.finished_deliveries (endpoint_id, delivery_id);

-- Insert-only: every unsuccessful attempt. zyven.attempt_log shows all attempts alike.
CREATE TABLE zyven.attempts (
    delivery_id      uuid NOT NULL,
    generation       integer NOT NULL,
    number           integer NOT NULL,
    event_id         uuid NOT NULL,
    endpoint_id      uuid NOT NULL,
    tenant_id        uuid NOT NULL,
    state_after      zyven.delivery_state NOT NULL,
    started_at       timestamptz NOT NULL,
    http_status      smallint,
    error            text,
    error_detail     text,
    connect_us       integer,
    first_byte_us    integer,
    total_us         integer NOT NULL,
    response_headers text,
    response_body    bytea,
    PRIMARY KEY (delivery_id, generation, number)
) PARTITION BY RANGE (delivery_id);
COMMENT ON COLUMN zyven.attempts.connect_us IS 'time to a usable connection (proxy, TCP, TLS); NULL when one was reused';

-- Small and self-contained: outlives the partitions of its event.
CREATE TABLE zyven.dead_letter_records (
    delivery_id uuid NOT NULL,
    generation  integer NOT NULL,
    event_id    uuid NOT NULL,
    endpoint_id uuid NOT NULL,
    tenant_id   uuid NOT NULL,
    event_type  text NOT NULL,
    payload     bytea COMPRESSION lz4,
    channels    text[],
    source      text,
    traceparent text,
    accepted_at timestamptz NOT NULL,
    reason      text NOT NULL,
    attempts    integer NOT NULL,
    http_status smallint,
    error       text,
    dead_at     timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    replayed_at timestamptz,
    replay_id   bigint,
    PRIMARY KEY (delivery_id, generation),
    CONSTRAINT dead_letter_reason_is_known CHECK (reason IN (
        'attempts_exhausted', 'age_exceeded', 'rejected', 'gone', 'egress_denied', 'invalid_url',
        'endpoint_disabled', 'endpoint_deleted', 'payload_missing')),
    CONSTRAINT only_a_missing_payload_is_null CHECK (payload IS NOT NULL OR reason = 'payload_missing'),
    CONSTRAINT replayed_by_a_replay CHECK ((replayed_at IS NULL) = (replay_id IS NULL))
);
COMMENT ON COLUMN zyven.dead_letter_records.resolved_at IS 'a 2xx arrived after Zyven had given up';
-- zyven.dead_letters, zyven.replay_dead_letters
CREATE INDEX dead_letters_open_by_tenant ON zyven.dead_letter_records (tenant_id, dead_at)
    WHERE replayed_at IS NULL AND resolved_at IS NULL;
CREATE INDEX dead_letters_open_by_endpoint ON zyven.dead_letter_records (endpoint_id, dead_at)
    WHERE replayed_at IS NULL AND resolved_at IS NULL;
-- zyven.expire_dead_letters
CREATE INDEX dead_letters_by_age ON zyven.dead_letter_records (dead_at);

-- Append-only: every replay that was decided.
CREATE TABLE zyven.replays (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    decided_at timestamptz NOT NULL DEFAULT now(),
    decided_by text NOT NULL DEFAULT session_user,
    reason     text NOT NULL,
    filter     jsonb NOT NULL,
    deliveries integer NOT NULL,
    xact_id    xid8 NOT NULL DEFAULT pg_current_xact_id(),
    CONSTRAINT replay_says_why CHECK (length(btrim(reason)) BETWEEN 1 AND 1000)
);

-- How far the relay has come; one row per role of the relay.
CREATE TABLE zyven.relay (
    only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    watermark    bigint NOT NULL DEFAULT 0,
    holder       text NOT NULL DEFAULT '',
    holder_until timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 20);
COMMENT ON COLUMN zyven.relay.watermark IS 'every outbox row up to this seq has been handed to the queue (or is in the relay''s gap ledger)';
COMMENT ON COLUMN zyven.relay.holder IS 'the relay that leads until holder_until; others wait';
INSERT INTO zyven.relay DEFAULT VALUES;

-- Time partitions -------------------------------------------------------------------------------

CREATE FUNCTION zyven.uuid_floor(moment timestamptz) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
        SELECT (lpad(to_hex(floor(extract(epoch FROM moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
    $$;
COMMENT ON FUNCTION zyven.uuid_floor(timestamptz) IS 'the smallest id that can have been made at this moment';

CREATE FUNCTION zyven.uuid_time(id uuid) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
        SELECT to_timestamp(('x' || lpad(left(replace(id::text, '-', ''), 12), 16, '0'))::bit(64)::bigint / 1000.0)
    $$;
COMMENT ON FUNCTION zyven.uuid_time(uuid) IS 'when a UUIDv7, or a delivery id derived from one, was made';

CREATE FUNCTION zyven.partitioned_tables() RETURNS text[]
    LANGUAGE sql IMMUTABLE
    AS $$ SELECT ARRAY['events', 'finished_deliveries', 'attempts'] $$;

-- Attaches a table made beforehand: unlike CREATE … PARTITION OF this takes no lock that stops
-- the traffic of other partitions.
CREATE FUNCTION zyven.ensure_partition(moment timestamptz) RETURNS integer
    LANGUAGE plpgsql
    AS $$
    DECLARE
        day       date := (moment AT TIME ZONE 'UTC')::date;
        first_id  uuid := zyven.uuid_floor(day::timestamp AT TIME ZONE 'UTC');
        next_id   uuid := zyven.uuid_floor((day + 1)::timestamp AT TIME ZONE 'UTC');
        parent    text;
        partition text;
        made      integer := 0;
    BEGIN
        FOREACH parent IN ARRAY zyven.partitioned_tables() LOOP
            partition := format('%s_%s', parent, to_char(day, 'YYYYMMDD'));
            CONTINUE WHEN to_regclass(format('zyven.%I', partition)) IS NOT NULL;
            PERFORM pg_advisory_xact_lock(hashtextextended('zyven.ensure_partition', 0));
            CONTINUE WHEN to_regclass(format('zyven.%I', partition)) IS NOT NULL;
            EXECUTE format('CREATE TABLE zyven.%I (LIKE zyven.%I INCLUDING ALL)', partition, parent);
            EXECUTE format('ALTER TABLE zyven.%I ATTACH PARTITION zyven.%I FOR VALUES FROM (%L) TO (%L)',
                parent, partition, first_id, next_id);
            made := made + 1;
        END LOOP;
        RETURN made;
    END
    $$;
COMMENT ON FUNCTION zyven.ensure_partition(timestamptz) IS 'makes the partitions of one day (UTC) where they are missing; returns how many were made';

CREATE FUNCTION zyven.ensure_partitions(days_ahead integer DEFAULT 7) RETURNS integer
    LANGUAGE sql
    AS $$
        SELECT coalesce(sum(zyven.ensure_partition(now() + make_interval(days => day))), 0)::integer
          FROM generate_series(-1, days_ahead) AS day
    $$;
COMMENT ON FUNCTION zyven.ensure_partitions(integer) IS 'makes the partitions from yesterday to some days ahead';

CREATE FUNCTION zyven.drop_expired_partitions(retention interval) RETURNS text[]
    LANGUAGE plpgsql
    AS $$
    DECLARE
        day     date;
        dropped text[] := '{}';
        parent  text;
        name    text;
    BEGIN
        IF retention < interval '1 day' THEN
            RAISE EXCEPTION 'retention must be at least one day, not %', retention;
        END IF;
        PERFORM pg_advisory_xact_lock(hashtextextended('zyven.ensure_partition', 0));
        -- Rather give up and come again than queue behind a long query with traffic piling up behind us.
        PERFORM set_config('lock_timeout', '2s', true);
        FOR day IN
            SELECT to_date(right(c.relname, 8), 'YYYYMMDD')
              FROM pg_inherits i
              JOIN pg_class c ON c.oid = i.inhrelid
             WHERE i.inhparent = 'zyven.events'::regclass
             ORDER BY 1
        LOOP
            EXIT WHEN (day + 1)::timestamp AT TIME ZONE 'UTC' > now() - retention;
            EXECUTE format('LOCK TABLE zyven.%I IN ACCESS EXCLUSIVE MODE', 'events_' || to_char(day, 'YYYYMMDD'));
            -- An unfinished delivery still needs its event's payload.
            CONTINUE WHEN EXISTS (
                SELECT FROM zyven.outbox
                 WHERE delivery_id >= zyven.uuid_floor(day::timestamp AT TIME ZONE 'UTC')
                   AND delivery_id < zyven.uuid_floor((day + 1)::timestamp AT TIME ZONE 'UTC'));
            FOREACH parent IN ARRAY zyven.partitioned_tables() LOOP
                name := format('%s_%s', parent, to_char(day, 'YYYYMMDD'));
                EXECUTE format('DROP TABLE IF EXISTS zyven.%I', name);
                dropped := dropped || name;
            END LOOP;
            -- One day per transaction: its locks stop all traffic, so they must not wait for another day's.
            EXIT;
        END LOOP;
        RETURN dropped;
    END
    $$;
COMMENT ON FUNCTION zyven.drop_expired_partitions(interval) IS 'drops the partitions of the oldest day beyond the retention that no unfinished delivery needs; to be repeated until it returns nothing';

CREATE FUNCTION zyven.expire_dead_letters(retention interval, rows_max integer DEFAULT 1000) RETURNS bigint
    LANGUAGE sql
    AS $$
        WITH expired AS (
            SELECT delivery_id, generation
              FROM zyven.dead_letter_records
             WHERE dead_at < now() - retention
             ORDER BY dead_at
             LIMIT rows_max
        ), gone AS (
            DELETE FROM zyven.dead_letter_records d
             USING expired e
             WHERE d.delivery_id = e.delivery_id AND d.generation = e.generation
            RETURNING 1
        )
        SELECT count(*) FROM gone
    $$;
COMMENT ON FUNCTION zyven.expire_dead_letters(interval, integer) IS 'deletes dead letters older than the retention, a batch at a time; returns how many';

SELECT zyven.ensure_partitions();
