//! Why a repair does nothing, or did not end.

use std::io;
use std::path::{Path, PathBuf};

use taffrail_model::LogId;

use crate::directory::DirectoryError;

/// Why a repair does nothing, or did not end.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// There is no data directory to repair.
    #[error("{path} is not a data directory that this version knows: {cause}")]
    NotOne {
        /// The directory.
        path: PathBuf,
        /// What its identity says.
        cause: String,
    },
    /// Its lock cannot be had: a broker uses it.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// There is no such log, and nothing says how far it went.
    #[error("there is no log {log} in this directory")]
    NotThere {
        /// The log.
        log: LogId,
    },
    /// There is nothing to repair.
    #[error("log {log} has no damage that a repair could do anything about")]
    Sound {
        /// The log.
        log: LogId,
    },
    /// A file stands where it does not belong, and a person has to say where it does.
    #[error("{path} does not belong there: {cause}; move it to where it belongs, then repair")]
    Misplaced {
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: String,
    },
    /// A file or directory cannot be read or written. Nothing was put into anybody's place.
    #[error("{path}: {source}")]
    Io {
        /// What it was about.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// Says which path an error was about.
pub(super) fn io_at(path: &Path) -> impl Fn(io::Error) -> RepairError + use<> {
    let path = path.to_owned();
    move |source| RepairError::Io { path: path.clone(), source }
}
