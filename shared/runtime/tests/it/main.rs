//! Everything that needs sockets, signals, a clock or a process of its own.

mod child;
mod doorbell;
mod environment;
mod log;
mod pace;
mod probes;
mod signals;
mod supervisor;
