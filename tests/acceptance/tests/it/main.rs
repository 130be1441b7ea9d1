//! The promises of docs/guarantees.md, on the real program with real PostgreSQL, Redis and sockets.

mod cli;
mod cli_following;
mod cli_refusals;
mod failover;
mod journey;
mod lanes;
mod load;
mod logs;
mod measuring;
mod monitoring;
mod operating;
mod operational;
mod options;
mod orders;
mod outages;
mod postgres;
mod presence;
mod publishers;
mod restarts;
mod roles;
mod secrets;
mod stack;
mod tracing;
mod upgrading;
