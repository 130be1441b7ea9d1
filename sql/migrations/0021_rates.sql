-- How often a tenant may ask the API, where that is not for the settings of its processes to say (ADR 0042). Expands only: nothing
-- that exists changes.

ALTER TABLE zyven.tenants
    ADD COLUMN events_per_second integer,
    ADD COLUMN requests_per_second integer,
    ADD CONSTRAINT rates_are_no_more_than_a_million CHECK (
        events_per_second BETWEEN 0 AND 1000000 AND requests_per_second BETWEEN 0 AND 1000000);

COMMENT ON COLUMN zyven.tenants.events_per_second
    IS 'events it may publish per second at each process of the API; NULL: as the settings say; 0: no limit';
COMMENT ON COLUMN zyven.tenants.requests_per_second
    IS 'requests of any other kind per second at each process of the API; NULL: as the settings say; 0: no limit';

-- Neither rate has a default: one that was not named would be taken back.
CREATE FUNCTION zyven.limit_tenant(tenant text, events_per_second integer, requests_per_second integer) RETURNS text
    LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    BEGIN
        IF limit_tenant.events_per_second NOT BETWEEN 0 AND 1000000 THEN
            RAISE EXCEPTION 'events_per_second must be 0 (no limit) to 1000000, or NULL (as the settings say)'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF limit_tenant.requests_per_second NOT BETWEEN 0 AND 1000000 THEN
            RAISE EXCEPTION 'requests_per_second must be 0 (no limit) to 1000000, or NULL (as the settings say)'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        UPDATE zyven.tenants t
           SET events_per_second = limit_tenant.events_per_second,
               requests_per_second = limit_tenant.requests_per_second
         WHERE t.id = zyven.untyped_id('ten', tenant);
        IF NOT FOUND THEN
            RAISE EXCEPTION 'there is no tenant %', tenant USING ERRCODE = 'no_data_found';
        END IF;
        RETURN tenant;
    END
    $$;
COMMENT ON FUNCTION zyven.limit_tenant(text, integer, integer)
    IS 'says how many events a tenant may publish and how many other requests it may make per second, at each process of the API; NULL: as the settings say, 0: no limit. In force within 2 s';
REVOKE ALL ON FUNCTION zyven.limit_tenant(text, integer, integer) FROM PUBLIC;
