-- Who owns things, and where events go. Small tables, read often, changed by people.

CREATE SCHEMA IF NOT EXISTS zyven;
COMMENT ON SCHEMA zyven IS 'Zyven: accepted events and everything that is known about their delivery';

CREATE TABLE zyven.tenants (
    id         uuid PRIMARY KEY,
    name       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tenant_has_a_name CHECK (length(name) BETWEEN 1 AND 200)
);

CREATE TABLE zyven.api_keys (
    id          uuid PRIMARY KEY,
    tenant_id   uuid NOT NULL REFERENCES zyven.tenants (id),
    public_id   text NOT NULL UNIQUE,
    secret_hash bytea NOT NULL,
    name        text NOT NULL,
    scopes      text[] NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz,
    revoked_at  timestamptz,
    CONSTRAINT key_has_a_sha256 CHECK (length(secret_hash) = 32),
    CONSTRAINT key_has_known_scopes CHECK (
        scopes <@ ARRAY['publish', 'read', 'manage', 'replay'] AND cardinality(scopes) > 0
    )
);
COMMENT ON COLUMN zyven.api_keys.secret_hash IS 'SHA-256 of the secret part; the key itself is never stored';
-- Store::api_keys_of
CREATE INDEX api_keys_of_tenant ON zyven.api_keys (tenant_id, id);

CREATE TYPE zyven.endpoint_status AS ENUM ('enabled', 'disabled');

CREATE TABLE zyven.endpoints (
    id               uuid PRIMARY KEY,
    tenant_id        uuid NOT NULL REFERENCES zyven.tenants (id),
    url              text NOT NULL,
    description      text NOT NULL DEFAULT '',
    event_types      text[] NOT NULL,
    channels         text[] NOT NULL DEFAULT '{}',
    status           zyven.endpoint_status NOT NULL DEFAULT 'enabled',
    disabled_reason  text,
    retry_base_ms    bigint NOT NULL DEFAULT 5000,
    retry_cap_ms     bigint NOT NULL DEFAULT 43200000,
    attempts_max     integer NOT NULL DEFAULT 12,
    age_max_ms       bigint NOT NULL DEFAULT 345600000,
    timeout_ms       integer NOT NULL DEFAULT 15000,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    deleted_at       timestamptz,
    CONSTRAINT endpoint_url_is_bounded CHECK (length(url) BETWEEN 8 AND 2048),
    CONSTRAINT endpoint_subscribes_to_something CHECK (cardinality(event_types) BETWEEN 1 AND 100),
    CONSTRAINT endpoint_channels_are_bounded CHECK (cardinality(channels) <= 10),
    CONSTRAINT endpoint_says_why_it_is_disabled CHECK ((status = 'disabled') = (disabled_reason IS NOT NULL)),
    CONSTRAINT endpoint_retry_is_sane CHECK (
        retry_base_ms BETWEEN 1 AND 86400000
        AND retry_cap_ms BETWEEN retry_base_ms AND 604800000
        AND attempts_max BETWEEN 1 AND 100
        AND age_max_ms BETWEEN 1000 AND 2592000000
        AND timeout_ms BETWEEN 100 AND 30000
    )
);
COMMENT ON COLUMN zyven.endpoints.event_types IS 'patterns: an exact type, a prefix with ".*", or "*"';
COMMENT ON COLUMN zyven.endpoints.channels IS 'empty: every event; otherwise only events with at least one of these channels';
COMMENT ON COLUMN zyven.endpoints.deleted_at IS 'set instead of deleting the row: finished deliveries still point here';
-- Store::endpoints_of
CREATE INDEX endpoints_of_tenant ON zyven.endpoints (tenant_id, id) WHERE deleted_at IS NULL;

CREATE TABLE zyven.endpoint_secrets (
    id          uuid PRIMARY KEY,
    endpoint_id uuid NOT NULL REFERENCES zyven.endpoints (id),
    envelope    bytea NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz
);
COMMENT ON COLUMN zyven.endpoint_secrets.envelope IS 'XChaCha20-Poly1305 envelope; associated data "endpoint_secrets/<id>"';
COMMENT ON COLUMN zyven.endpoint_secrets.expires_at IS 'NULL: the current secret; otherwise the end of its overlap with its successor';
-- Store::endpoints
CREATE INDEX endpoint_secrets_of_endpoint ON zyven.endpoint_secrets (endpoint_id, created_at DESC);
CREATE UNIQUE INDEX endpoint_has_one_current_secret ON zyven.endpoint_secrets (endpoint_id) WHERE expires_at IS NULL;

-- Routing, derived from endpoints by the trigger below: what zyven.route reads.
CREATE TABLE zyven.subscriptions (
    tenant_id   uuid NOT NULL,
    pattern     text NOT NULL,
    endpoint_id uuid NOT NULL,
    channels    text[] NOT NULL,
    PRIMARY KEY (tenant_id, pattern, endpoint_id)
);
-- zyven.refresh_routing
CREATE INDEX subscriptions_of_endpoint ON zyven.subscriptions (endpoint_id);

-- One row per tenant. A cached routing is used only if this number is still the one it was read
-- with, compared inside the statement that stores the event (ADR 0004).
CREATE TABLE zyven.routing_versions (
    tenant_id uuid PRIMARY KEY,
    version   bigint NOT NULL
) WITH (fillfactor = 50);

CREATE FUNCTION zyven.patterns_of(event_type text) RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
        SELECT ARRAY[event_type]
            || coalesce(
                   (SELECT array_agg(left(event_type, stop - 1) || '.*' ORDER BY stop)
                      FROM generate_series(2, length(event_type) - 1) AS stop
                     WHERE substr(event_type, stop, 1) = '.'),
                   '{}')
            || ARRAY['*']
    $$;
COMMENT ON FUNCTION zyven.patterns_of(text) IS 'every pattern that matches an event type; twin of EventType::patterns in Rust';

CREATE FUNCTION zyven.route(tenant uuid, event_type text, event_channels text[]) RETURNS SETOF uuid
    LANGUAGE sql STABLE
    AS $$
        SELECT DISTINCT s.endpoint_id
          FROM zyven.subscriptions s
         WHERE s.tenant_id = tenant
           AND s.pattern = ANY (zyven.patterns_of(event_type))
           AND (s.channels = '{}' OR s.channels && coalesce(event_channels, '{}'))
    $$;
COMMENT ON FUNCTION zyven.route(uuid, text, text[]) IS 'which endpoints get an event: the one definition, used by the API and by zyven.publish';

CREATE FUNCTION zyven.refresh_routing() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
    BEGIN
        DELETE FROM zyven.subscriptions WHERE endpoint_id = NEW.id;
        IF NEW.status = 'enabled' AND NEW.deleted_at IS NULL THEN
            INSERT INTO zyven.subscriptions (tenant_id, pattern, endpoint_id, channels)
            SELECT DISTINCT NEW.tenant_id, pattern, NEW.id, NEW.channels
              FROM unnest(NEW.event_types) AS pattern;
        END IF;
        UPDATE zyven.routing_versions SET version = version + 1 WHERE tenant_id = NEW.tenant_id;
        RETURN NULL;
    END
    $$;

CREATE TRIGGER routing_follows_endpoints
    AFTER INSERT OR UPDATE OF status, event_types, channels, deleted_at ON zyven.endpoints
    FOR EACH ROW EXECUTE FUNCTION zyven.refresh_routing();

CREATE FUNCTION zyven.start_routing() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
    BEGIN
        INSERT INTO zyven.routing_versions (tenant_id, version) VALUES (NEW.id, 1);
        RETURN NULL;
    END
    $$;

CREATE TRIGGER tenant_has_a_routing_version
    AFTER INSERT ON zyven.tenants
    FOR EACH ROW EXECUTE FUNCTION zyven.start_routing();
