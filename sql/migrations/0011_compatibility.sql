-- Which programs may still work with this schema (ADR 0030).

CREATE TABLE zyven.compatibility (
    only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    oldest_known text NOT NULL
);
COMMENT ON COLUMN zyven.compatibility.oldest_known IS
    'a program that does not know the migration of this name must not work here: a migration that takes something away raises it';
INSERT INTO zyven.compatibility (oldest_known) VALUES ('0001_tenants_and_endpoints');
