//! What a log has lost.

use std::path::PathBuf;

use taffrail_model::Offset;

/// Records that should be there and are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The first offset.
    pub from: Offset,
    /// The first one behind that is sound again.
    pub to: Offset,
    /// The file.
    pub path: PathBuf,
    /// Where in it.
    pub position: u64,
    /// What is wrong.
    pub cause: String,
}
