//! Whoever asks how the process is gets an answer on a listener of its own:
//!
//! | Path | Answer |
//! |---|---|
//! | `/healthz` | 200 while the process can answer at all: restart it otherwise |
//! | `/readyz` | 200 when every check is ready, 503 with the reasons otherwise: send it no work |
//! | `/metrics` | the [`Metrics`] |
//!
//! A process that waits for its database is alive and not ready: restarting it would help nobody.
//! One that was asked to stop is not ready from that moment on.

mod readiness;
mod server;

pub use self::readiness::{Check, Readiness};
pub use self::server::serve;
