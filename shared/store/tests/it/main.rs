//! The store against a real PostgreSQL.

mod accepting;
mod audited_changes;
mod auditing;
mod cancelling;
mod claiming;
mod credentials;
mod endpoints;
mod envelopes;
mod filtering;
mod fixture;
mod horizon;
mod keys;
mod maintaining;
mod model;
mod options;
mod ordering;
mod plans;
mod presence;
mod reads;
mod replaying;
mod settling;
mod standbys;
mod tenancy;
mod twins;
mod upgrading;
