//! zyven.
fn main() {}
