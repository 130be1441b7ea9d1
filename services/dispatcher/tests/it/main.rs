//! The dispatcher against real PostgreSQL, Redis, egress proxy and receivers.

mod answers;
mod connections;
mod egress;
mod endpoints;
mod outages;
mod requests;
mod stopping;
mod support;
mod tls;
