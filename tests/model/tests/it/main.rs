//! Every state of the protocol, and the evidence that a wrong protocol would be noticed.

#![allow(
    clippy::print_stdout,
    reason = "what was counted, and the stories of the mutants"
)]

mod bridge;
mod mutants;
mod protocol;
