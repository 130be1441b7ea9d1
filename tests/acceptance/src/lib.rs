//! Promises, tried on the real program. They are all in `tests/`: this crate has no code of its own.
