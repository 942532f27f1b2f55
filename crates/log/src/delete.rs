//! Deletes what lies at a log's start: whole sealed segments.
//!
//! Where the log begins is durable in the recovery points before the first file goes. So a file below
//! that is on its way out, whatever ended the process: whoever opens the log passes over it, and
//! removes it. Invariants: the log begins where a segment does, and never above what was asked for;
//! the active segment stays; a durable checkpoint of the producers covers whatever goes.
//! Deliberately absent: what should go, and when.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use taffrail_model::Offset;

use crate::error::ReadOnly;
use crate::log::Log;
use crate::points::Points;
use crate::segment::parse_segment_name;
use crate::shared::Segments;
use crate::sync::{SyncError, sync_active};
use crate::vfs::{Entry, Vfs};

/// What a deletion took away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Where the log begins now.
    pub start: Offset,
    /// Number of segments that went.
    pub segments: usize,
    /// Bytes of these.
    pub bytes: u64,
}

/// Why a log was not cut short at its start.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// A sync failed before: nothing is taken until the log is opened anew.
    #[error("the log is poisoned: {cause}; open it anew to find out what is on disk")]
    Poisoned {
        /// What happened first.
        cause: String,
    },
    /// Damage leaves the log's end uncertain: a person has to look at it, with all that is there.
    #[error("the log is read-only: {cause}")]
    ReadOnly {
        /// Why.
        cause: String,
    },
    /// The disk refused. The log may begin further on already; what is left below that is removed by
    /// the next deletion, or when the log is opened the next time.
    #[error("cannot delete segments of {path}: {source}")]
    Io {
        /// The log's directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Log {
    /// Deletes the sealed segments all of whose offsets are below `before`, and what lies beside them:
    /// the log begins at the last segment that begins at or below `before`.
    ///
    /// On return that is durable, and the files are gone. Readers are told `OutOfRange` for what went;
    /// what they hold of it stays readable. Two small files are written, and after an opening of the
    /// log once a checkpoint of the producers; nothing at all where no segment goes. Works on a full
    /// disk, in the room that is kept back.
    ///
    /// # Errors
    /// If the log is poisoned or read-only, or the disk refuses.
    pub fn delete_before(&mut self, before: Offset) -> Result<Deleted, DeleteError> {
        self.check_deletable()?;
        let segments = self.shared.segments.load_full();
        let count = count_below(&segments, before);
        let first = segments.sealed.get(count).map(|segment| segment.header.base_offset);
        let start = match count {
            0 if !self.has_leftovers => return Ok(self.deleted(&segments, 0)),
            0 => self.shared.log_start(),
            _ => first.unwrap_or(segments.active.header.base_offset),
        };
        self.cut_start(&segments, start, count).map_err(|error| match error {
            Cut::Io(source) => DeleteError::Io { path: self.shared.path.clone(), source },
            Cut::Sync(SyncError::Poisoned { cause }) => DeleteError::Poisoned { cause },
        })?;
        Ok(self.deleted(&segments, count))
    }

    fn check_deletable(&self) -> Result<(), DeleteError> {
        if let Some(cause) = self.shared.poisoned() {
            return Err(DeleteError::Poisoned { cause: cause.to_owned() });
        }
        match &self.read_only {
            Some(ReadOnly { cause, .. }) => Err(DeleteError::ReadOnly { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Lets the log begin at `start`, and removes what lies below: the first `count` segments, and what
    /// an earlier deletion has left.
    fn cut_start(&mut self, segments: &Segments, start: Offset, count: usize) -> Result<(), Cut> {
        self.cover_producers(start)?;
        let shared = Arc::clone(&self.shared);
        shared.points.start_at(shared.id, start)?;
        // From here on this is so, whatever fails.
        self.has_leftovers = true;
        if count > 0 {
            // First the start: whoever sees the list without a segment sees that too.
            shared.progress.starts_at(start);
            shared.segments.store(Arc::new(segments.without(count, start)));
            shared.damage.forget_below(start);
            shared.cache.forget_below(shared.id, start);
        }
        let left = leftovers(shared.vfs.as_ref(), &shared.path, start)?;
        remove(shared.vfs.as_ref(), &shared.path, &left)?;
        self.has_leftovers = false;
        Ok(())
    }

    /// Makes sure that no segment below `start` is needed to know what producers sent.
    fn cover_producers(&mut self, start: Offset) -> Result<(), Cut> {
        if start <= self.checkpoints.durable_end() {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let one = shared.sync.lock().unwrap_or_else(PoisonError::into_inner);
        // One that counts in what is not on disk would not be believed.
        let end = sync_active(&shared).map_err(Cut::Sync)?;
        drop(one);
        Ok(shared.points.spare().lend(|| self.checkpoint(end, true))?)
    }

    /// What is said of a deletion of the first `count` segments.
    fn deleted(&self, segments: &Segments, count: usize) -> Deleted {
        let bytes = segments.sealed.iter().take(count).map(|segment| segment.length).sum();
        Deleted { start: self.shared.log_start(), segments: count, bytes }
    }
}

/// Why a log was not cut short.
enum Cut {
    Io(io::Error),
    Sync(SyncError),
}

impl From<io::Error> for Cut {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// How many segments lie wholly below `before`. What follows one that is missing or unreadable, and no
/// earlier segment, says where that one ends.
fn count_below(segments: &Segments, before: Offset) -> usize {
    if segments.active.header.base_offset <= before {
        return segments.sealed.len();
    }
    let begun = segments.sealed.partition_point(|segment| segment.header.base_offset <= before);
    begun.saturating_sub(1)
}

/// How many of a log's segment files, ascending by base offset, lie wholly below its start: the log does
/// not have them any more.
pub(crate) fn count_left(bases: &[Offset], start: Offset) -> usize {
    bases.partition_point(|base| *base <= start).saturating_sub(1)
}

/// Removes what a deletion that did not end has left in the log's directory, as far as that goes;
/// whether something may be left still.
pub(crate) fn finish_deletion(
    vfs: &dyn Vfs,
    points: &Points,
    directory: &Path,
    start: Offset,
) -> bool {
    if start == Offset::ZERO {
        return false;
    }
    let finished = leftovers(vfs, directory, start).and_then(|left| {
        if left.is_empty() {
            return Ok(());
        }
        // This may be another opening in a process that could not write them.
        points.persist()?;
        remove(vfs, directory, &left)
    });
    finished.is_err()
}

/// The files of segments below `start`, the oldest first, each behind its index. None if no segment
/// begins there: then it was not a deletion that has left them.
fn leftovers(vfs: &dyn Vfs, directory: &Path, start: Offset) -> io::Result<Vec<PathBuf>> {
    let entries = vfs.list(directory)?;
    if !entries.iter().any(|entry| parse_segment_name(&entry.name) == Some(start)) {
        return Ok(Vec::new());
    }
    let is_left = |entry: &&Entry| {
        !entry.is_directory && belongs_to(&entry.name).is_some_and(|base| base < start)
    };
    Ok(entries.iter().filter(is_left).map(|entry| directory.join(&entry.name)).collect())
}

/// The base offset of the segment that a file is, or belongs to. What recovery cut off belongs to
/// people.
pub(crate) fn belongs_to(name: &str) -> Option<Offset> {
    let name = name.strip_suffix(".new").unwrap_or(name);
    match name.strip_suffix(".index") {
        Some(stem) => parse_segment_name(&format!("{stem}.log")),
        None => parse_segment_name(name),
    }
}

/// Removes files in this order; the removal of all of them is durable on return.
fn remove(vfs: &dyn Vfs, directory: &Path, files: &[PathBuf]) -> io::Result<()> {
    for file in files {
        match vfs.remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    if files.is_empty() { Ok(()) } else { vfs.sync_directory(directory) }
}
