//! The fleet and its ledger, tried on the real program.

mod books;
mod chaos;
