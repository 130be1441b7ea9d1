//! Rules about where things may be, as tests: who imports whom, and what stays in one place.

mod crash_points;
mod deploying;
mod documents;
mod imports;
mod literals;
mod monitoring;
mod tree;
