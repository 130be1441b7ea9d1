-- Who changed what, and that nothing of one tenant can become another's (ADR 0019, ADR 0020).

-- The audit log -------------------------------------------------------------------------------------

-- In whose name the current transaction acts: what the API, the dispatcher and the command line say
-- with set_config('zyven.actor', …, true), or else whoever is connected.
CREATE FUNCTION zyven.actor() RETURNS text
    LANGUAGE sql STABLE
    AS $$ SELECT coalesce(nullif(current_setting('zyven.actor', true), ''), session_user::text) $$;
COMMENT ON FUNCTION zyven.actor() IS 'in whose name this transaction acts: an API key''s id, "dispatcher", "zyven admin", or the database role';

CREATE FUNCTION zyven.audit_id() RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL SAFE
    AS $$
        SELECT encode(
            set_byte(set_byte(
                overlay(uuid_send(gen_random_uuid()) PLACING substring(int8send(us / 1000) FROM 3) FROM 1 FOR 6),
                6, 112 | (fraction >> 8)), 7, fraction & 255),
            'hex')::uuid
          FROM (SELECT us, (us % 1000 * 4096 / 1000)::integer AS fraction
                  FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us) AS clock) AS split
    $$;
COMMENT ON FUNCTION zyven.audit_id() IS 'a fresh UUIDv7 with microseconds (RFC 9562, section 6.2, method 3): what one transaction did stays in order';

CREATE TABLE zyven.audit_log (
    id        uuid PRIMARY KEY DEFAULT zyven.audit_id(),
    done_at   timestamptz NOT NULL DEFAULT now(),
    tenant_id uuid,
    actor     text NOT NULL DEFAULT zyven.actor(),
    role      text NOT NULL DEFAULT session_user,
    action    text NOT NULL,
    subject   text NOT NULL,
    details   jsonb NOT NULL DEFAULT '{}',
    xact_id   xid8 NOT NULL DEFAULT pg_current_xact_id(),
    CONSTRAINT audit_names_an_action CHECK (action ~ '^[a-z_]+\.[a-z_]+$')
);
COMMENT ON TABLE zyven.audit_log IS 'append-only: every administrative action, written by the transaction that did it';
COMMENT ON COLUMN zyven.audit_log.tenant_id IS 'whom it concerns; NULL: nobody in particular';
COMMENT ON COLUMN zyven.audit_log.actor IS 'in whose name, see zyven.actor()';
COMMENT ON COLUMN zyven.audit_log.role IS 'the database role that was connected, whatever the actor claims to be';
COMMENT ON COLUMN zyven.audit_log.details IS 'each column that changed, from what to what; secrets are never shown';
-- Store::audit_log_of
CREATE INDEX audit_log_of_tenant ON zyven.audit_log (tenant_id, id);
-- zyven.expire_audit_log
CREATE INDEX audit_log_by_age ON zyven.audit_log (done_at);

CREATE FUNCTION zyven.refuse_rewriting() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
    BEGIN
        RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Entries may be deleted when they are older than 30 days.';
    END
    $$;

CREATE TRIGGER audit_log_is_never_changed
    BEFORE UPDATE ON zyven.audit_log
    FOR EACH ROW EXECUTE FUNCTION zyven.refuse_rewriting();
-- What retention may delete stands here, and not in a setting that could be set for a moment.
CREATE TRIGGER audit_log_is_kept_for_a_month
    BEFORE DELETE ON zyven.audit_log
    FOR EACH ROW
    WHEN (OLD.done_at > now() - interval '30 days')
    EXECUTE FUNCTION zyven.refuse_rewriting();
CREATE TRIGGER audit_log_is_never_emptied
    BEFORE TRUNCATE ON zyven.audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION zyven.refuse_rewriting();

CREATE FUNCTION zyven.expire_audit_log(retention interval, rows_max integer DEFAULT 1000) RETURNS bigint
    LANGUAGE sql
    AS $$
        WITH expired AS (
            SELECT id
              FROM zyven.audit_log
             WHERE done_at < now() - retention
             ORDER BY done_at
             LIMIT rows_max
        ), gone AS (
            DELETE FROM zyven.audit_log
             WHERE id IN (SELECT id FROM expired)
            RETURNING 1
        )
        SELECT count(*) FROM gone
    $$;
COMMENT ON FUNCTION zyven.expire_audit_log(interval, integer) IS 'deletes entries older than the retention (at least 30 days), a batch at a time; returns how many';

CREATE FUNCTION zyven.audit_verb(changed jsonb, after jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE
    AS $$
        SELECT CASE
            WHEN changed ? 'deleted_at' THEN CASE WHEN after ->> 'deleted_at' IS NULL THEN 'restore' ELSE 'delete' END
            WHEN changed ? 'revoked_at' THEN CASE WHEN after ->> 'revoked_at' IS NULL THEN 'restore' ELSE 'revoke' END
            WHEN changed ? 'archived_at' THEN CASE WHEN after ->> 'archived_at' IS NULL THEN 'restore' ELSE 'archive' END
            WHEN changed ? 'status' THEN CASE after ->> 'status' WHEN 'enabled' THEN 'enable' ELSE 'disable' END
            WHEN changed ? 'paused_at' THEN CASE WHEN after ->> 'paused_at' IS NULL THEN 'resume' ELSE 'pause' END
            -- The same value under another master key.
            WHEN changed ? 'envelope' AND NOT changed ? 'id' THEN 'reseal'
            WHEN changed ? 'expires_at' AND after ? 'envelope' THEN 'retire'
            ELSE 'change'
        END
    $$;
COMMENT ON FUNCTION zyven.audit_verb(jsonb, jsonb) IS 'what an UPDATE means, by the columns that it changed';

CREATE FUNCTION zyven.audit_value(value jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    AS $$ SELECT CASE WHEN length(value::text) > 2000 THEN to_jsonb(left(value::text, 2000) || '…') ELSE value END $$;
COMMENT ON FUNCTION zyven.audit_value(jsonb) IS 'a value as the audit log keeps it: cut after 2,000 characters';

-- The one trigger for every configuration table:
--     EXECUTE FUNCTION zyven.audit('endpoint', 'ep')
-- says what its rows are called and what their typed ids begin with. A third argument names the column
-- that identifies the subject, if that is not "id"; an empty prefix means that it identifies as it is.
-- Columns of type bytea hold secrets and are never shown.
CREATE FUNCTION zyven.audit() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
    DECLARE
        before   jsonb := CASE WHEN TG_OP = 'INSERT' THEN '{}' ELSE to_jsonb(OLD) END;
        after    jsonb := CASE WHEN TG_OP = 'DELETE' THEN '{}' ELSE to_jsonb(NEW) END;
        subject  jsonb := CASE WHEN TG_OP = 'DELETE' THEN before ELSE after END;
        noun     text := TG_ARGV[0];
        identity text := subject ->> coalesce(TG_ARGV[2], 'id');
        secrets  text[];
        changed  jsonb;
        owner    uuid;
    BEGIN
        SELECT coalesce(array_agg(attname), '{}') INTO secrets
          FROM pg_attribute
         WHERE attrelid = TG_RELID
           AND atttypid = 'bytea'::regtype;
        SELECT coalesce(jsonb_object_agg(name, CASE
                   WHEN name = ANY (secrets) THEN '"not shown"'::jsonb
                   ELSE jsonb_strip_nulls(jsonb_build_object(
                       'from', zyven.audit_value(before -> name), 'to', zyven.audit_value(after -> name)))
               END), '{}') INTO changed
          FROM jsonb_object_keys(before || after) AS name
         WHERE nullif(before -> name, 'null') IS DISTINCT FROM nullif(after -> name, 'null')
           -- Bookkeeping, which follows from the rest.
           AND name NOT IN ('updated_at', 'changed_at', 'version');
        IF changed = '{}' THEN
            RETURN NULL;
        END IF;
        owner := CASE
            WHEN subject ? 'tenant_id' THEN (subject ->> 'tenant_id')::uuid
            WHEN subject ? 'endpoint_id' THEN
                (SELECT e.tenant_id FROM zyven.endpoints e WHERE e.id = (subject ->> 'endpoint_id')::uuid)
            WHEN TG_RELID = 'zyven.tenants'::regclass THEN (subject ->> 'id')::uuid
        END;
        INSERT INTO zyven.audit_log (tenant_id, action, subject, details)
        VALUES (owner,
                noun || '.' || CASE TG_OP WHEN 'INSERT' THEN 'create'
                                          WHEN 'DELETE' THEN 'delete'
                                          ELSE zyven.audit_verb(changed, after) END,
                CASE WHEN TG_ARGV[1] = '' THEN identity ELSE zyven.typed_id(TG_ARGV[1], identity::uuid) END,
                changed - CASE TG_OP WHEN 'UPDATE' THEN '{}'::text[] ELSE secrets || ARRAY['id', 'tenant_id', 'endpoint_id'] END);
        RETURN NULL;
    END
    $$;
COMMENT ON FUNCTION zyven.audit() IS 'writes what happened to a row into the audit log; for configuration tables';

CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON zyven.tenants
    FOR EACH ROW EXECUTE FUNCTION zyven.audit('tenant', 'ten');
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON zyven.api_keys
    FOR EACH ROW EXECUTE FUNCTION zyven.audit('api_key', 'key');
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON zyven.endpoints
    FOR EACH ROW EXECUTE FUNCTION zyven.audit('endpoint', 'ep');
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON zyven.endpoint_secrets
    FOR EACH ROW EXECUTE FUNCTION zyven.audit('endpoint_secret', 'ep', 'endpoint_id');
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON zyven.endpoint_credentials
    FOR EACH ROW EXECUTE FUNCTION zyven.audit('endpoint_credential', 'ep', 'endpoint_id');
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON zyven.event_types
    FOR EACH ROW EXECUTE FUNCTION zyven.audit('event_type', '', 'name');

-- A replay is seen where it has its effect, so that each tenant's part of it is in that tenant's log. Once
-- for each statement: dead letters are updated by nothing but replays and late successes.
ALTER TABLE zyven.replays ALTER COLUMN decided_by SET DEFAULT zyven.actor();

CREATE FUNCTION zyven.audit_replays() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
    BEGIN
        INSERT INTO zyven.audit_log (tenant_id, action, subject, details)
        SELECT a.tenant_id, 'delivery.replay',
               CASE WHEN count(*) = 1 THEN zyven.typed_id('dlv', (array_agg(a.delivery_id))[1])
                    ELSE zyven.typed_id('ten', a.tenant_id) END,
               jsonb_strip_nulls(jsonb_build_object('replay', a.replay_id, 'deliveries', count(*), 'reason', r.reason))
          FROM after_rows a
          JOIN before_rows b USING (delivery_id, generation)
          LEFT JOIN zyven.replays r ON r.id = a.replay_id
         WHERE b.replayed_at IS NULL
           AND a.replayed_at IS NOT NULL
         GROUP BY a.tenant_id, a.replay_id, r.reason;
        RETURN NULL;
    END
    $$;

CREATE TRIGGER replays_are_audited
    AFTER UPDATE ON zyven.dead_letter_records
    REFERENCING OLD TABLE AS before_rows NEW TABLE AS after_rows
    FOR EACH STATEMENT EXECUTE FUNCTION zyven.audit_replays();

-- A cancellation names an event or a delivery; whoever owns it reads of it.
CREATE FUNCTION zyven.audit_cancellation() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
    DECLARE
        owner uuid;
    BEGIN
        IF NEW.what LIKE 'evt\_%' THEN
            SELECT e.tenant_id INTO owner
              FROM zyven.events e
             WHERE e.id = zyven.untyped_id('evt', NEW.what);
        ELSE
            SELECT f.tenant_id INTO owner
              FROM zyven.finished_deliveries f
             WHERE f.delivery_id = zyven.untyped_id('dlv', NEW.what)
             LIMIT 1;
        END IF;
        INSERT INTO zyven.audit_log (tenant_id, actor, action, subject, details)
        VALUES (owner, NEW.decided_by, 'delivery.cancel', NEW.what,
                jsonb_build_object('cancellation', NEW.id, 'deliveries', NEW.deliveries, 'reason', NEW.reason));
        RETURN NULL;
    END
    $$;

CREATE TRIGGER cancellations_are_audited
    AFTER INSERT ON zyven.cancellations
    FOR EACH ROW EXECUTE FUNCTION zyven.audit_cancellation();

CREATE VIEW zyven.audit AS
    SELECT a.done_at, a.actor, k.name AS key_name, a.role, a.action, a.subject,
           zyven.typed_id('ten', a.tenant_id) AS tenant, t.name AS tenant_name,
           a.details, a.xact_id, zyven.typed_id('aud', a.id) AS entry, a.id, a.tenant_id
      FROM zyven.audit_log a
      LEFT JOIN zyven.tenants t ON t.id = a.tenant_id
      LEFT JOIN zyven.api_keys k
             ON k.id = CASE WHEN a.actor ~ '^key_[0-9a-f]{32}$' THEN right(a.actor, 32)::uuid END;
COMMENT ON VIEW zyven.audit IS 'the audit log with names; ORDER BY id DESC shows the latest first';

-- Tenants never mix ---------------------------------------------------------------------------------

-- Routing is where an event could reach a stranger: a subscription names a tenant and an endpoint, and
-- must name an endpoint of that tenant.
ALTER TABLE zyven.endpoints
    ADD CONSTRAINT endpoint_belongs_to_one_tenant UNIQUE (tenant_id, id);
ALTER TABLE zyven.subscriptions
    ADD CONSTRAINT subscription_is_of_its_endpoints_tenant
        FOREIGN KEY (tenant_id, endpoint_id) REFERENCES zyven.endpoints (tenant_id, id);

-- Nothing is ever handed from one tenant to another. No statement of Zyven's names these columns in an
-- UPDATE, so this costs nothing.
CREATE FUNCTION zyven.refuse_another_tenant() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
    BEGIN
        RAISE EXCEPTION 'a row of % cannot become another tenant''s', TG_TABLE_NAME
            USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END
    $$;

CREATE TRIGGER stays_with_its_tenant BEFORE UPDATE OF tenant_id ON zyven.api_keys
    FOR EACH ROW WHEN (OLD.tenant_id <> NEW.tenant_id) EXECUTE FUNCTION zyven.refuse_another_tenant();
CREATE TRIGGER stays_with_its_tenant BEFORE UPDATE OF tenant_id ON zyven.endpoints
    FOR EACH ROW WHEN (OLD.tenant_id <> NEW.tenant_id) EXECUTE FUNCTION zyven.refuse_another_tenant();
CREATE TRIGGER stays_with_its_tenant BEFORE UPDATE OF tenant_id ON zyven.outbox
    FOR EACH ROW WHEN (OLD.tenant_id <> NEW.tenant_id) EXECUTE FUNCTION zyven.refuse_another_tenant();
CREATE TRIGGER stays_with_its_tenant BEFORE UPDATE OF tenant_id ON zyven.dead_letter_records
    FOR EACH ROW WHEN (OLD.tenant_id <> NEW.tenant_id) EXECUTE FUNCTION zyven.refuse_another_tenant();

-- Payloads, checked alike ---------------------------------------------------------------------------

-- Twin of zyven_domain::payload::validate. PostgreSQL has checked the syntax and the encoding when it
-- made a json of it. Most payloads need none of the expensive steps: each is preceded by a cheap
-- question that is answered "no" for them.
CREATE FUNCTION zyven.check_payload(payload json) RETURNS void
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
    DECLARE
        given    text := payload::text;
        strings  CONSTANT text := '"(?:[^"\\]|\\.)*"';
        bare     text; -- without strings: every bracket, colon and digit left is JSON's own
        brackets text;
        shown    text;
    BEGIN
        -- Numbers first: printing 1e131071 takes 131 kB.
        IF given ~ '[0-9][eE][-+0-9]' OR given ~ '[-+.0-9eE]{129}' THEN
            bare := regexp_replace(given, strings, '', 'g');
            IF bare ~ '[-+.0-9eE]{129}' THEN
                RAISE EXCEPTION 'payload breaks a rule: numbers must not be longer than 128 characters'
                    USING ERRCODE = 'invalid_parameter_value';
            END IF;
            -- 22003 if one is too large for a double, or so small that it is read as 0.
            PERFORM number[1]::float8
               FROM regexp_matches(bare, '-?[0-9][.0-9]*[eE][-+]?[0-9]+', 'g') AS number;
        END IF;
        -- 22P05 for \u0000, 22P02 for a lone surrogate.
        shown := payload::jsonb::text;
        -- Up to 64 opening brackets cannot nest deeper than 64.
        IF length(given) - length(translate(given, '[{', '')) > 64 THEN
            bare := coalesce(bare, regexp_replace(given, strings, '', 'g'));
            brackets := translate(regexp_replace(bare, '[^][{}]+', '', 'g'), '{}', '[]');
            -- Each round takes the innermost level away.
            FOR level IN 1..64 LOOP
                EXIT WHEN brackets = '';
                brackets := replace(brackets, '[]', '');
            END LOOP;
            IF brackets <> '' THEN
                RAISE EXCEPTION 'payload breaks a rule: arrays and objects must not nest deeper than 64'
                    USING ERRCODE = 'invalid_parameter_value';
            END IF;
        END IF;
        -- jsonb keeps one member of each name, so a missing colon tells of a name that occurs twice. An
        -- escaped colon, which jsonb shows as it is, could make up for it.
        IF position('\u003' IN given) > 0 THEN
            given := coalesce(bare, regexp_replace(given, strings, '', 'g'));
            shown := regexp_replace(shown, strings, '', 'g');
        END IF;
        IF length(given) - length(replace(given, ':', '')) <> length(shown) - length(replace(shown, ':', '')) THEN
            RAISE EXCEPTION 'payload breaks a rule: a member name occurs twice in one object'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END
    $$;
COMMENT ON FUNCTION zyven.check_payload(json) IS 'fails unless every reader understands the payload alike; twin of zyven_domain::payload::validate';

-- As before, with every rule for payloads that the API has.
CREATE OR REPLACE FUNCTION zyven.publish(
    tenant          text,
    event_type      text,
    payload         json,
    idempotency_key text DEFAULT NULL,
    channels        text[] DEFAULT NULL,
    source          text DEFAULT NULL,
    traceparent     text DEFAULT NULL,
    deliver_at      timestamptz DEFAULT NULL,
    expires_at      timestamptz DEFAULT NULL,
    ordering_key    text DEFAULT NULL
) RETURNS text
    LANGUAGE plpgsql
    AS $$
    DECLARE
        tenant_uuid uuid := zyven.untyped_id('ten', tenant);
        event_uuid  uuid := zyven.uuid_v7();
        bytes       bytea := convert_to(payload::text, 'UTF8');
        document    jsonb;
        sorted      text[];
        body        uuid;
        turn        timestamptz;
        first       record;
    BEGIN
        IF NOT EXISTS (SELECT FROM zyven.tenants t WHERE t.id = tenant_uuid) THEN
            RAISE EXCEPTION 'tenant % does not exist', tenant USING ERRCODE = 'foreign_key_violation';
        END IF;
        IF event_type IS NULL OR event_type !~ '^[a-zA-Z0-9_.-]{1,128}$' THEN
            RAISE EXCEPTION 'event_type must be 1 to 128 characters of a-z, A-Z, 0-9, underscore, full stop and hyphen'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF payload IS NULL OR length(bytes) > 262144 THEN
            RAISE EXCEPTION 'payload must be JSON of at most 262144 bytes'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        PERFORM zyven.check_payload(payload);
        document := payload::jsonb;
        IF idempotency_key !~ '^[!-~]{1,255}$' THEN
            RAISE EXCEPTION 'idempotency_key must be 1 to 255 visible ASCII characters'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF source !~ '^[!-~]{1,255}$' THEN
            RAISE EXCEPTION 'source must be 1 to 255 visible ASCII characters'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF traceparent !~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$' THEN
            RAISE EXCEPTION 'traceparent must be a W3C traceparent of version 00'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF cardinality(channels) > 10
            OR EXISTS (SELECT FROM unnest(channels) AS channel
                        WHERE channel IS NULL OR channel !~ '^[a-zA-Z0-9_.-]{1,128}$') THEN
            RAISE EXCEPTION 'channels must be at most 10, each 1 to 128 characters of a-z, A-Z, 0-9, underscore, full stop and hyphen'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF deliver_at > now() + interval '30 days' THEN
            RAISE EXCEPTION 'deliver_at must be at most 30 days ahead' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF expires_at <= greatest(deliver_at, now()) THEN
            RAISE EXCEPTION 'expires_at must be in the future, and after deliver_at' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF ordering_key !~ '^[!-~]{1,128}$' THEN
            RAISE EXCEPTION 'ordering_key must be 1 to 128 visible ASCII characters'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF ordering_key IS NOT NULL AND deliver_at IS NOT NULL THEN
            RAISE EXCEPTION 'deliver_at does not go together with ordering_key: an event that waits would hold up all that follow it'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        -- A schema cannot be applied here. To refuse is better than to let through what the API would not (ADR 0015).
        IF EXISTS (SELECT FROM zyven.event_types t
                    WHERE t.tenant_id = tenant_uuid AND t.name = event_type
                      AND t.mode = 'reject' AND t.archived_at IS NULL) THEN
            RAISE EXCEPTION 'events of the type % must fit its JSON Schema, which only the API can tell: publish them there', event_type
                USING ERRCODE = 'feature_not_supported';
        END IF;
        sorted := (SELECT array_agg(name ORDER BY name COLLATE "C")
                     FROM (SELECT DISTINCT unnest(channels)) AS given (name));

        IF idempotency_key IS NOT NULL THEN
            body := zyven.body_fingerprint(event_type, sorted, source, deliver_at, expires_at, ordering_key, bytes);
            INSERT INTO zyven.idempotency_keys AS k (key, event_id, body)
            VALUES (zyven.key_fingerprint(tenant_uuid, idempotency_key), event_uuid, body)
            ON CONFLICT (key) DO NOTHING;
            IF NOT FOUND THEN
                SELECT k.event_id, k.body INTO first
                  FROM zyven.idempotency_keys k
                 WHERE k.key = zyven.key_fingerprint(tenant_uuid, idempotency_key);
                IF first.body IS DISTINCT FROM body THEN
                    RAISE EXCEPTION 'idempotency key "%" was used for a different event', idempotency_key
                        USING ERRCODE = 'unique_violation', CONSTRAINT = 'idempotency_keys_pkey';
                END IF;
                RETURN zyven.typed_id('evt', first.event_id);
            END IF;
        END IF;

        PERFORM zyven.ensure_partition(zyven.uuid_time(event_uuid));
        -- The event first: the transaction must own an xid before it draws a sequence number, or the
        -- relay could take the number for one that will never be used.
        INSERT INTO zyven.events
               (id, tenant_id, type, payload, channels, source, traceparent, deliver_at, expires_at, ordering_key)
        VALUES (event_uuid, tenant_uuid, event_type, bytes, sorted, source, traceparent, deliver_at, expires_at,
                ordering_key);
        turn := greatest(deliver_at, now());
        INSERT INTO zyven.outbox (delivery_id, event_id, endpoint_id, tenant_id, enqueued_at, due_at, ordering_key)
        SELECT zyven.delivery_id(event_uuid, r.endpoint_id), event_uuid, r.endpoint_id, tenant_uuid, turn, turn,
               zyven.ordering_number(publish.ordering_key)
          FROM zyven.routes(tenant_uuid, event_type, sorted) AS r
         WHERE r.filter IS NULL
            OR zyven.filter_admits(r.filter, document);
        RETURN zyven.typed_id('evt', event_uuid);
    END
    $$;
