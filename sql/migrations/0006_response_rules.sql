-- Response rules an endpoint's owner may set: an explicit schedule, and further statuses to retry.

ALTER TABLE zyven.endpoints
    ADD COLUMN retry_schedule_ms bigint[] NOT NULL DEFAULT '{}',
    ADD COLUMN retry_statuses    smallint[] NOT NULL DEFAULT '{}',
    ADD CONSTRAINT endpoint_schedule_is_sane CHECK (
        cardinality(retry_schedule_ms) <= 100
        AND array_position(retry_schedule_ms, NULL) IS NULL
        AND 1 <= ALL (retry_schedule_ms)
        AND 604800000 >= ALL (retry_schedule_ms)
    ),
    -- 410 has a meaning of its own: it disables the endpoint.
    ADD CONSTRAINT endpoint_retries_only_4xx CHECK (
        cardinality(retry_statuses) <= 99
        AND array_position(retry_statuses, NULL) IS NULL
        AND 400 <= ALL (retry_statuses)
        AND 499 >= ALL (retry_statuses)
        AND 410 <> ALL (retry_statuses)
    );
COMMENT ON COLUMN zyven.endpoints.retry_schedule_ms
    IS 'waits after failed attempts, in place of retry_base_ms, retry_cap_ms and attempts_max; empty: no schedule';
COMMENT ON COLUMN zyven.endpoints.retry_statuses
    IS 'statuses among 4xx that are retried besides 408, 425 and 429';
