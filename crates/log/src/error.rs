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
    /// Whether only room was wanting: once there is some, it may be opened anew.
    pub(crate) awaits_room: bool,
}

impl ReadOnly {
    /// Something is wrong with what lies on disk.
    pub(crate) const fn because(cause: String) -> Self {
        Self { cause, awaits_room: false }
    }

    /// Something that had to be written could not be.
    pub(crate) fn failed(what: &str, error: &io::Error) -> Self {
        let awaits_room = is_full(error);
        let hope = if awaits_room { "; it is tried again when there is room" } else { "" };
        Self { cause: format!("{what}: {error}{hope}"), awaits_room }
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
