//! The fleet and its ledger, tried on the real program.

mod books;
mod chaos;
mod crash_dispatcher;
mod crash_ingest;
mod crash_program;
mod crash_relay;
mod crash_scene;
mod crash_servers;
mod crash_settling;
mod crash_stopping;
