//! The relay between a real PostgreSQL and a real Redis, both of which fail.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod caring;
mod handing_over;
mod leading;
mod limits;
mod measurement;
mod outages;
mod reclaiming;
mod stage;
mod sweeping;
