//! The API on a real socket, with a real PostgreSQL behind it.

mod access;
mod batches;
mod deliveries;
mod endpoints;
mod keys;
mod limits;
mod measurement;
mod outages;
mod publishing;
mod response_rules;
mod routing;
mod stopping;
mod support;
