//! The kit against the real servers it starts.

mod chaos;
mod children;
mod copies;
mod postgres;
mod receiver;
mod redis_server;

use std::time::Duration;

/// Long enough for a loaded machine; nothing here should ever need it.
const SOON: Duration = Duration::from_secs(20);
