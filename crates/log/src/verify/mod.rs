//! Looks at what lies on disk, offline, and says what is wrong and what to do about it.
//!
//! Never writes and never locks: it may look at a directory that a broker uses, and sees it as it is
//! at that moment. Everything is read and checked: each header, each payload, each index.
//! Deliberately absent: repair, and any text but findings; who prints them decides how.

pub(crate) mod around;
mod checkpoints;
mod contents;
mod directory;
mod dump;
mod log;
mod report;
mod segment;

use std::io;
use std::path::{Path, PathBuf};

use crate::segment::{SegmentHeaderError, parse_segment_name};
use crate::vfs::{Entry, Vfs};

pub use contents::{
    CheckpointContents, Contents, IndexContents, PointsContents, ProducerContents, contents,
};
pub use dump::{Dump, Dumped, dump};
pub use report::{
    CheckpointReport, CheckpointState, DirectoryReport, Finding, IdentityState, IndexState, Kept,
    LogReport, PointsCopy, PointsState, Remedy, Report, SegmentReport, Severity, Usage,
};

/// Why there is nothing to report on.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// Nothing in it looks like ours.
    #[error(
        "{path} is neither a data directory nor a log nor a segment: name one of these, for \
         example DIR, DIR/logs/ID or DIR/logs/ID/00000000000000000000.log"
    )]
    Unknown {
        /// What was named.
        path: PathBuf,
    },
    /// The segment's header is damaged, so that its batches cannot be told from other bytes.
    #[error("{path}: {cause}")]
    Header {
        /// The segment.
        path: PathBuf,
        /// What is wrong with its header.
        cause: SegmentHeaderError,
    },
    /// Its checksum does not hold.
    #[error("{path} is damaged: its checksum does not hold; it is a cache, or there are two of it")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// What could not be read.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Inspects a data directory, the directory of one log, or one segment file, whichever `path` is.
///
/// Reads all of it. What cannot be read within it is a finding, not an error.
///
/// # Errors
/// If `path` itself cannot be read, or is none of these.
pub fn inspect(vfs: &dyn Vfs, path: &Path) -> Result<Report, InspectError> {
    let unknown = || InspectError::Unknown { path: path.to_owned() };
    let entries = match vfs.list(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            let log = log::inspect_file(vfs, path).ok_or_else(unknown)?;
            return Ok(Report { path: path.to_owned(), directory: None, logs: vec![log] });
        }
        Err(source) => return Err(InspectError::Io { path: path.to_owned(), source }),
    };
    let is_log = |entry: &Entry| parse_segment_name(&entry.name).is_some();
    if around::is_one(&entries) {
        Ok(directory::inspect_directory(vfs, path, &entries))
    } else if entries.iter().any(is_log) {
        let (points, usage) = around::around_log(vfs, path);
        let log = log::inspect_log(vfs, path, &points, &usage);
        Ok(Report { path: path.to_owned(), directory: None, logs: vec![log] })
    } else {
        Err(unknown())
    }
}
