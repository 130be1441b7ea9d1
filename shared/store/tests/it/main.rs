//! The store against a real PostgreSQL.

mod accepting;
mod claiming;
mod credentials;
mod endpoints;
mod envelopes;
mod fixture;
mod keys;
mod maintaining;
mod plans;
mod reads;
mod replaying;
mod settling;
mod twins;
