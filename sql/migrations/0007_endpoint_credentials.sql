-- How requests to an endpoint are authenticated: asymmetric signatures beside the symmetric ones, and
-- what an endpoint asks for besides a signature (ADR 0017).

ALTER TABLE zyven.endpoint_secrets
    ADD COLUMN scheme text NOT NULL DEFAULT 'hmac',
    ADD CONSTRAINT secret_has_a_known_scheme CHECK (scheme IN ('hmac', 'ed25519'));
COMMENT ON COLUMN zyven.endpoint_secrets.scheme IS 'hmac: a shared secret, signatures v1; ed25519: a private key, signatures v1a';
COMMENT ON COLUMN zyven.endpoint_secrets.envelope IS
    'XChaCha20-Poly1305 envelope; associated data "endpoint_secrets/<tenant>/<id>" (version 1: "endpoint_secrets/<id>")';

CREATE TABLE zyven.endpoint_credentials (
    id          uuid PRIMARY KEY,
    endpoint_id uuid NOT NULL REFERENCES zyven.endpoints (id),
    kind        text NOT NULL,
    envelope    bytea NOT NULL,
    shown       json NOT NULL,
    changed_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT credential_has_a_known_kind CHECK (kind IN ('headers', 'auth', 'client_certificate')),
    -- Also how Store::endpoints finds them.
    CONSTRAINT endpoint_has_one_credential_of_a_kind UNIQUE (endpoint_id, kind)
);
COMMENT ON TABLE zyven.endpoint_credentials IS 'what requests to an endpoint carry besides signatures: headers, authorization, a client certificate';
COMMENT ON COLUMN zyven.endpoint_credentials.id IS 'another one for each value, so that what depends on a value is told apart by it';
COMMENT ON COLUMN zyven.endpoint_credentials.envelope IS
    'XChaCha20-Poly1305 envelope; associated data "endpoint_credentials/<tenant>/<id>"';
COMMENT ON COLUMN zyven.endpoint_credentials.shown IS 'what may be shown of it: names and kinds, no secret';
