//! What every Zyven process needs, and nothing about webhooks.
//!
//! - [`config`]: settings from the environment or a file; every mistake reported, all of them at once.
//! - [`shutdown`]: one request to stop, heard everywhere; [`supervisor`]: services that start together
//!   and stop in order.
//! - [`connections`]: accepted up to a limit.
//! - [`inherited`]: listening sockets that outlive the process.
//! - [`pace`]: the one background loop, so that back-off, rest and stopping are written once.
//! - [`doorbell`]: "there is new work", between processes, losable.
//! - [`telemetry`], [`metrics`], [`traces`], [`probes`]: what an operator sees.
//!
//! # Architecture invariants
//!
//! The environment is read here and nowhere else. No crate of Zyven's is imported. Nothing here knows
//! a database, a queue or an event.

pub mod config;
pub mod connections;
pub mod doorbell;
pub mod inherited;
pub mod metrics;
pub mod pace;
pub mod probes;
pub mod shutdown;
pub mod supervisor;
pub mod telemetry;
pub mod traces;
