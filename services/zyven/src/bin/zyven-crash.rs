//! The program with crash points, for tests only: Cargo builds it under the feature `crash-points`, and never with others.

fn main() -> std::process::ExitCode {
    zyven::main()
}
