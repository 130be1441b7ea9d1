//! Checks of the tree itself. They are all in `tests/`: this crate has no code of its own.
