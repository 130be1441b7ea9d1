//! The promises of docs/guarantees.md, on the real program with real PostgreSQL, Redis and sockets.

mod journey;
mod lanes;
mod measuring;
mod operating;
mod options;
mod outages;
mod presence;
mod publishers;
mod restarts;
mod secrets;
mod stack;
