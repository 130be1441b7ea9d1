-- Dispatchers at work, so that the leases of one that died can end before their time (ADR 0029).
--
-- One row for each registration, updated once a second by its owner. Small: what keeps it so is that the
-- row of a dispatcher that stops or is taken for dead goes away.

CREATE TABLE zyven.dispatchers (
    number        bigint PRIMARY KEY,
    beat          bigint NOT NULL DEFAULT 0,
    registered_at timestamptz NOT NULL DEFAULT now(),
    dead_at       timestamptz,
    CONSTRAINT dispatcher_number_is_half_a_token CHECK (number BETWEEN 1 AND 549755813887)
) WITH (
    fillfactor = 10,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 500,
    autovacuum_analyze_threshold = 5000
);
COMMENT ON TABLE zyven.dispatchers IS 'dispatchers at work; one that is gone has no row';
COMMENT ON COLUMN zyven.dispatchers.number IS 'random; the upper bits of every lease token of this registration';
COMMENT ON COLUMN zyven.dispatchers.beat IS 'counted up by the dispatcher once a second while it lives';
COMMENT ON COLUMN zyven.dispatchers.dead_at IS
    'when the leading relay took it for dead. From then on the row does not count beats any more, its leases are ended, and then it goes';
