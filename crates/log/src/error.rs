//! Why a log takes nothing.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::spare::is_full;

/// Why batches were not appended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// A sync failed before: nothing is taken until the log is opened anew.
    #[error("the log is poisoned: {cause}; open it anew to find out what is on disk")]
    Poisoned {
        /// What happened first.
        cause: String,
    },
    /// Damage leaves the log's end uncertain.
    #[error("the log is read-only: {cause}")]
    ReadOnly {
        /// Why.
        cause: String,
    },
    /// The disk is full. Nothing of the batch is in the log.
    #[error("the disk is full: {path} cannot grow; free some space, then retry")]
    StorageFull {
        /// The file.
        path: PathBuf,
    },
    /// The disk refused. Nothing of the batch is in the log.
    #[error("cannot write {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Arc<io::Error>,
    },
}

/// Why a log takes no appends from its opening on.
#[derive(Clone, Debug)]
pub(crate) struct ReadOnly {
    pub(crate) cause: String,
    /// Bytes for which there was no room, if only that was wanting: once there is, it may be opened
    /// anew.
    pub(crate) wanted_bytes: Option<u64>,
}

impl ReadOnly {
    /// Something is wrong with what lies on disk.
    pub(crate) const fn because(cause: String) -> Self {
        Self { cause, wanted_bytes: None }
    }

    /// So many bytes had to be written and could not be.
    pub(crate) fn failed(what: &str, error: &io::Error, bytes: u64) -> Self {
        let wanted_bytes = is_full(error).then_some(bytes);
        let hope = match wanted_bytes {
            Some(bytes) => {
                format!("; it wants {bytes} bytes, and is tried again when there is more room")
            }
            None => String::new(),
        };
        Self { cause: format!("{what}: {error}{hope}"), wanted_bytes }
    }
}

impl AppendError {
    /// What was to be written to a file was not.
    pub(crate) fn writing(path: PathBuf, error: io::Error) -> Self {
        if is_full(&error) {
            return Self::StorageFull { path };
        }
        Self::Io { path, source: Arc::new(error) }
    }
}
