//! The dispatcher against real PostgreSQL, Redis, egress proxy and receivers.

#![expect(
    clippy::unwrap_used,
    reason = "an error here is the test's failure, and the line says which"
)]

mod answers;
mod answers_connecting;
mod answers_framing;
mod answers_order;
mod answers_statuses;
mod broken_proxies;
mod connections;
mod content_types;
mod credentials;
mod egress;
mod endpoints;
mod expiry;
mod identities;
mod locks;
mod measurement;
mod oauth;
mod outages;
mod presence;
mod requests;
mod signing;
mod stopping;
mod support;
mod tls;
mod wire;
