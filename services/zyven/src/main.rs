//! The program. What it does is in `lib.rs`.

fn main() -> std::process::ExitCode {
    zyven::main()
}
