//! The machine's atomics. The test in `tests/loom.rs` puts others in their place, under which it tries
//! every order in which threads may see them change.

pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
