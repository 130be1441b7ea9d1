//! The API on a real socket, with a real PostgreSQL behind it.

mod access;
mod batches;
mod credentials;
mod deliveries;
mod endpoints;
mod event_types;
mod explain;
mod explain_deliveries;
mod explain_lanes;
mod hostile;
mod keys;
mod limits;
mod measurement;
mod options;
mod order;
mod outages;
mod postgres;
mod protocol;
mod publishing;
mod response_rules;
mod routes;
mod routing;
mod signing;
mod stopping;
mod support;
mod wire;
