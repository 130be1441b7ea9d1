//! The console in front of a real API on a real PostgreSQL, asked as a browser asks.

mod embedded;
mod login;
mod passing;
mod protection;
mod support;
