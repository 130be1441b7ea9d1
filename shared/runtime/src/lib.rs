//! What every process needs, and nothing about its business.
//!
//! # The cast
//!
//! A process reads its settings from a [`config::Source`], which collects every mistake before anything
//! starts. [`telemetry`] turns on its log. The [`supervisor::Supervisor`] starts the services in order
//! and stops them in reverse; each gets a [`shutdown::Shutdown`] that tells it when. What a service does
//! over and over is a *step*, and [`pace`] is the one loop that repeats it: at once while there is
//! work, after a rest when there is none, with growing patience while it fails. A
//! [`doorbell::Doorbell`] cuts a rest short when another process has made work. [`probes`] answers
//! whoever asks how the process is: whether it lives, whether it is ready, and its [`metrics`].
//!
//! # Promises
//!
//! - **All configuration mistakes at once**, each naming the setting and the rule, never a secret's
//!   value. A process with a mistake does not start; its exit code is [`EXIT_CONFIG`].
//! - **One way to stop.** A signal, a service that ends unasked and a test all go through the same
//!   [`shutdown::Trigger`]. Nothing is cut before its grace time is over, and nothing outlives it.
//! - **A process whose service died does not live on as a shell**: it stops the others and fails.
//! - **Nothing here is needed for correctness between processes.** A doorbell may be deaf, a probe
//!   unread: work is late by one rest, never lost.
//!
//! # Architecture invariant
//!
//! No database, no queue, no HTTP client, no noun of the domain. This is the only crate that reads the
//! process environment. It starts tasks only for [`shutdown::on_signals`], for services given to the
//! supervisor, for the probes' connections and for a [`doorbell::Bell`] that follows host names; each
//! says what ends it.

pub mod config;
pub mod doorbell;
pub mod metrics;
pub mod pace;
pub mod probes;
pub mod process;
pub mod shutdown;
pub mod supervisor;
pub mod telemetry;

/// Exit code of a process whose settings are wrong: `EX_USAGE` of `sysexits.h`.
pub const EXIT_CONFIG: u8 = 64;
