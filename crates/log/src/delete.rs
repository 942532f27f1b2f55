//! Deletes what lies at a log's start: records, and the sealed segments that hold nothing else.
//!
//! Where the log begins is durable in the recovery points before the first file goes. So a file in front
//! of the first segment that is kept is on its way out, whatever ended the process: whoever opens the log
//! passes over it, and removes it. Invariants: the log never begins above what was asked for; the active
//! segment stays; a durable checkpoint of the producers covers whatever goes. Whoever appends waits for
//! the preparation at the most, not for files to go.
//! Deliberately absent: what should go, and when.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use taffrail_model::Offset;

use crate::error::ReadOnly;
use crate::log::Log;
use crate::points::Points;
use crate::reader::LogReader;
use crate::segment::parse_segment_name;
use crate::shared::{Segments, Shared};
use crate::sync::SyncError;
use crate::vfs::{Entry, Vfs};

/// A deletion that is prepared. Dropped without [`Deletion::finish`], it deletes nothing.
#[derive(Debug)]
#[must_use = "nothing is deleted before it is finished"]
pub struct Deletion {
    shared: Arc<Shared>,
    start: Offset,
}

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
    /// The disk refused. The log may begin further on already; what is left in front of that is removed
    /// by the next deletion, or when the log is opened the next time.
    #[error("cannot delete segments of {path}: {source}")]
    Io {
        /// The log's directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl From<SyncError> for DeleteError {
    fn from(SyncError::Poisoned { cause }: SyncError) -> Self {
        Self::Poisoned { cause }
    }
}

impl Log {
    /// Prepares to delete the records below `before`, or all that there are: the log will begin there.
    ///
    /// Where not even the active segment is to keep any, it is sealed, so that its file can go; that, and
    /// a checkpoint of the producers once after an opening of the log, are all that is written here.
    ///
    /// # Errors
    /// If the log is poisoned or read-only, or the disk refuses.
    pub fn delete_records_before(&mut self, before: Offset) -> Result<Deletion, DeleteError> {
        self.check_deletable()?;
        let start = before.min(self.end()).max(self.shared.log_start());
        if self.shared.durable_end() < start {
            // The log cannot begin behind what is on disk.
            self.syncer().sync()?;
        }
        let base_offset = self.shared.segments.load().active.header.base_offset;
        if start == self.end() && base_offset < start {
            // If that cannot be, on a full disk perhaps, only the file stays.
            let _ = self.roll();
            self.check_deletable()?;
        }
        self.prepare(start)
    }

    /// Prepares to delete the segments whose offsets are all below `before`: the log will begin at the
    /// last segment that begins at or below it.
    ///
    /// # Errors
    /// If the log is poisoned or read-only, or the disk refuses.
    pub fn delete_segments_before(&mut self, before: Offset) -> Result<Deletion, DeleteError> {
        self.check_deletable()?;
        let floor = first_segment(&self.shared.segments.load(), before);
        self.prepare(floor.unwrap_or_default().max(self.shared.log_start()))
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

    /// Makes sure that no segment that goes is needed to know what producers sent.
    fn prepare(&mut self, start: Offset) -> Result<Deletion, DeleteError> {
        let shared = Arc::clone(&self.shared);
        let first = first_segment(&shared.segments.load(), start).unwrap_or_default();
        if self.checkpoints.durable_end() < first {
            // One that counts in what is not on disk would not be believed.
            let end = self.syncer().sync()?;
            let stored = shared.points.spare().lend(|| self.checkpoint(end, true));
            stored.map_err(|source| DeleteError::Io { path: shared.path.clone(), source })?;
        }
        Ok(Deletion { shared, start })
    }
}

impl Deletion {
    /// Deletes. On return that is durable, and the files are gone. Readers are told `OutOfRange` for
    /// what went; what they hold of it stays readable. Works on a full disk, in the room that is kept
    /// back. Needs no lock on the log: whoever appends goes on meanwhile.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn finish(self) -> Result<Deleted, DeleteError> {
        let shared = &self.shared;
        let _one = shared.trimming.lock().unwrap_or_else(PoisonError::into_inner);
        let before = shared.segments.load_full();
        let first = first_segment(&before, self.start).unwrap_or_default();
        let goes = |base: Offset| base < first;
        let gone = before.sealed.iter().filter(|segment| goes(segment.header.base_offset));
        let (mut segments, mut bytes) = (0, 0);
        for segment in gone {
            (segments, bytes) = (segments + 1, bytes + segment.length);
        }
        let moved = segments > 0 || shared.log_start() < self.start;
        if moved || shared.has_leftovers.load(Ordering::Acquire) {
            let failed = |source| DeleteError::Io { path: shared.path.clone(), source };
            self.cut(first, segments > 0).map_err(failed)?;
        }
        Ok(Deleted { start: shared.log_start(), segments, bytes })
    }

    /// Lets the log begin at its new start, and removes the files of the segments in front of `first`.
    fn cut(&self, first: Offset, has_segments: bool) -> io::Result<()> {
        let (shared, start) = (&self.shared, self.start);
        shared.points.start_at(shared.id, start, first)?;
        // First the start: whoever sees the list without a segment sees that too.
        shared.progress.starts_at(start);
        shared.damage.forget_below(start);
        if has_segments {
            // From here on this is so, whatever fails.
            shared.has_leftovers.store(true, Ordering::Release);
            shared.segments.rcu(|now| now.from(first, start));
            shared.cache.forget_below(shared.id, first);
        }
        if shared.has_leftovers.load(Ordering::Acquire) {
            let left = leftovers(shared.vfs.as_ref(), &shared.path, first)?;
            remove(shared.vfs.as_ref(), &shared.path, &left)?;
            shared.has_leftovers.store(false, Ordering::Release);
        }
        Ok(())
    }
}

impl LogReader {
    /// Where the log should begin, if a deletion has said so durably and did not come to its end.
    pub fn unfinished_deletion(&self) -> Option<Offset> {
        let shared = self.shared();
        let start = shared.points.known(shared.id).unwrap_or_default().log_start;
        (shared.log_start() < start).then_some(start)
    }
}

/// Where the first segment begins that a log needs that begins at `start`: the last one that begins at or
/// below it. What follows one that is missing or unreadable, and no earlier segment, says where that one
/// ends. `None` if no segment begins so early.
fn first_segment(segments: &Segments, start: Offset) -> Option<Offset> {
    let sealed = segments.sealed.iter().map(|segment| segment.header.base_offset);
    let bases = sealed.chain([segments.active.header.base_offset]);
    bases.take_while(|base| *base <= start).last()
}

/// How many of a log's segment files, ascending by base offset, lie in front of the first one that is
/// kept: the log does not have them any more.
pub(crate) fn count_left(bases: &[Offset], first: Offset) -> usize {
    bases.partition_point(|base| *base <= first).saturating_sub(1)
}

/// Removes what a deletion that did not end has left in the log's directory, as far as that goes;
/// whether something may be left still.
pub(crate) fn finish_deletion(
    vfs: &dyn Vfs,
    points: &Points,
    directory: &Path,
    first: Offset,
) -> bool {
    if first == Offset::ZERO {
        return false;
    }
    let finished = leftovers(vfs, directory, first).and_then(|left| {
        if left.is_empty() {
            return Ok(());
        }
        // This may be another opening in a process that could not write them.
        points.persist()?;
        remove(vfs, directory, &left)
    });
    finished.is_err()
}

/// The files of segments in front of the first one that is kept, the oldest first, each behind its index.
/// None if that is not there: then it was not a deletion that has left them.
fn leftovers(vfs: &dyn Vfs, directory: &Path, first: Offset) -> io::Result<Vec<PathBuf>> {
    let entries = vfs.list(directory)?;
    if !entries.iter().any(|entry| parse_segment_name(&entry.name) == Some(first)) {
        return Ok(Vec::new());
    }
    let is_left = |entry: &&Entry| {
        !entry.is_directory && belongs_to(&entry.name).is_some_and(|base| base < first)
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
pub(crate) fn remove(vfs: &dyn Vfs, directory: &Path, files: &[PathBuf]) -> io::Result<()> {
    for file in files {
        match vfs.remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    if files.is_empty() { Ok(()) } else { vfs.sync_directory(directory) }
}
