//! The store against a real PostgreSQL.

mod accepting;
mod claiming;
mod fixture;
mod maintaining;
mod plans;
mod replaying;
mod settling;
mod twins;
