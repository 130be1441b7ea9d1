//! The lanes against a real Redis, which is emptied, frozen, killed and filled up.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod breaker;
mod chains;
mod clusters;
mod depth;
mod doorbell;
mod fairness;
mod lanes;
mod leases;
mod losses;
mod measurement;
mod model;
mod outages;
mod refusals;
mod sentinels;
mod support;
mod whereabouts;
