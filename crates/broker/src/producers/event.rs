//! The facts that are persisted of idempotent producers. They only ever grow.

use serde::{Deserialize, Serialize};

/// Something that happened to producers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Event {
    /// Numbers below this are given out, or will be.
    NumbersReserved { end: u64 },
    /// Somebody has taken a name.
    NameTaken { name: String, number: u64, epoch: u32, attempt: u64 },
}
