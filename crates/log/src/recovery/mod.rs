//! Opens a log after whatever ended the last run.
//!
//! The *recovery point* is the offset below which everything is known to have been on disk. Below it
//! whatever is missing or invalid is damage: it is reported, and nothing is deleted. At or above it
//! the log ends before the first batch that is invalid; what lies behind is moved aside and cut.
//! After an unclean end what lies above the recovery point is written again and synced before
//! anybody reads it: the page cache may hold what the disk does not.

mod aside;
mod files;
mod last;
mod remembered;
mod tail;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use taffrail_model::{Gap, GapReason, LeaderEpoch, LogId, Offset, ProducerId, Timestamp};

use crate::damage::Damage;
use crate::delete::finish_deletion;
use crate::error::ReadOnly;
use crate::log::LogState;
use crate::points::Points;
use crate::segment::{
    ActiveSegment, HEADER_BYTES_MAX, Scanned, Scanner, SealedSegment, SegmentCache, SegmentHeader,
    SegmentHeaderError, Written, create_segment, random_salt, segment_path,
};
use crate::shared::Segments;
use crate::spare::Spare;
use crate::vfs::{Vfs, parent};

use files::{Files, find_files};
use remembered::Remembered;
use tail::{Expected, Tail, recover_tail};

/// What opening a log found, and did about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Whether the log had been closed cleanly, so that nothing had to be checked.
    pub was_clean: bool,
    /// Bytes that were read and verified.
    pub scanned_bytes: u64,
    /// Bytes that were written again because they might not have been on disk.
    pub rewritten_bytes: u64,
    /// Where what was cut off is kept.
    pub moved_aside: Vec<PathBuf>,
    /// Segments whose header is damaged, and was restored from what else is known. No record is lost.
    pub salvaged: Vec<SalvagedHeader>,
    /// What is damaged or missing, for people.
    pub damage: Vec<Damage>,
    /// Offsets that may have been given out before a power loss, and are not given out again.
    pub skipped: Option<Gap>,
}

/// A segment whose header is damaged, and was restored from what else is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SalvagedHeader {
    /// The segment.
    pub path: PathBuf,
    /// What is wrong with its header on disk.
    pub cause: String,
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It should be there.
    #[error(
        "{path} is missing or has no segments: restore it from a backup, give up what was in it with \
         `taffrail repair`, or delete the topic"
    )]
    Missing {
        /// The log's directory.
        path: PathBuf,
    },
    /// A repair of it did not end.
    #[error(
        "{path} is missing: a repair of it was interrupted; say the same `taffrail repair` again, and \
         it is finished"
    )]
    Interrupted {
        /// The log's directory.
        path: PathBuf,
    },
    /// A segment of another log lies in its directory.
    #[error("{path} belongs to log {found}: move the file back to where it belongs")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The log that it belongs to.
        found: LogId,
    },
    /// No segment of it can be read.
    #[error(
        "{path} is damaged: {cause}; restore it from a backup, or give up what was in it with \
         `taffrail repair`"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: SegmentHeaderError,
    },
    /// A file cannot be read or written. This says nothing about what it holds: nothing was cut.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// A log as recovery leaves it.
pub(crate) struct Recovery {
    pub(crate) segments: Segments,
    pub(crate) label: String,
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    pub(crate) epoch: LeaderEpoch,
    pub(crate) state: LogState,
    /// Whether offsets at the end may have been given out and are not skipped yet.
    pub(crate) may_have_lost: bool,
    /// Whether a deletion may have left files of segments that the log does not have any more.
    pub(crate) has_leftovers: bool,
    pub(crate) report: RecoveryReport,
}

/// Recovers the log in `path`; the points say what is known of it. `note_loss` makes it durable that
/// something may be gone. Whatever producers there were before have ids below `producer_ids_end`.
pub(crate) fn recover(
    vfs: &Arc<dyn Vfs>,
    cache: &Arc<SegmentCache>,
    points: &Points,
    path: &Path,
    id: LogId,
    producer_ids_end: ProducerId,
    note_loss: impl Fn() -> io::Result<()>,
) -> Result<Recovery, OpenError> {
    let mut report = RecoveryReport::default();
    let (point, spare) = (points.known(id), points.spare());
    let known = point.unwrap_or_default();
    // Whoever cuts, and is ended before it is seen that something was cut, leaves word before.
    let before_cut = |end: Offset| if end < known.reserved_end { note_loss() } else { Ok(()) };
    let has_leftovers = finish_deletion(vfs.as_ref(), points, path, known.first_segment);
    let mut files = find_files(vfs.as_ref(), path, id, &known, before_cut, &mut report)?;
    let (first, told_from) = (files.first(), files.told_from());
    let Some(last) = files.sound.pop() else {
        return Err(OpenError::Missing { path: path.to_owned() });
    };
    let start = point.map_or(first, |point| point.log_start);
    if start < told_from {
        let cause = "the segments that held them are missing".into();
        let path = path.to_owned();
        report.damage.push(Damage { from: start, to: told_from, path, position: 0, cause });
    }
    let last = last.open(vfs)?;
    let recovery_point = known.recovery_point.max(last.header.covered_end());
    let is_clean = known.is_clean;
    // Where the last sound segment should end: at one that cannot be read, if there is one behind.
    let unreadable = files.unreadable_behind(last.header.base_offset);
    let end_min = unreadable.unwrap_or(recovery_point);
    let expected = Expected { recovery_point, end_min, is_clean };
    let (checkpoints, mut remembered) =
        Remembered::load(vfs.as_ref(), path, id, recovery_point, producer_ids_end);
    remembered.catch_up(vfs, &files, &last);
    remembered.begin(&last.header);
    let tail = recover_tail(vfs, spare, &last, expected, before_cut, &mut remembered, &mut report);
    remembered.reach(tail.end);
    if !report.was_clean {
        settle(vfs.as_ref(), path, point.is_none())?;
    }
    let mut sealed = seal(vfs, cache, files, last.header.previous_end);
    let epoch = match sealed.last() {
        Some(_) if point.is_none() && tail.epoch == LeaderEpoch::ZERO => last_epoch(&sealed)?,
        _ => tail.epoch,
    };
    let Tail { index, position, mut end, append_time, mut read_only, was_torn, .. } = tail;
    if let Some(from) = unreadable.filter(|_| read_only.is_none()) {
        let what = format!("what its segment at offset {from} holds cannot be told");
        let cause = format!("{what}: restore the file, or give it up with `taffrail repair`");
        read_only = Some(ReadOnly::because(cause));
    }
    let label = last.header.label.clone();
    let written = Written { position, end, append_time };
    let mut active = last.activate(index, written);
    let lost_something = was_torn || !report.moved_aside.is_empty() || !report.damage.is_empty();
    let is_certain = report.was_clean || !known.may_have_lost && !lost_something;
    // Whoever can write must not go on where offsets may have been given out.
    let must_skip = end < known.reserved_end && !is_certain;
    // Nothing is appended to what was compacted, whatever became of the segment behind it.
    let is_closed = active.header.compacted.is_some();
    if (must_skip || is_closed) && read_only.is_none() {
        // Offsets that may have been given out, and read, are not given out again.
        let base_offset = if must_skip { known.reserved_end } else { end };
        match begin_behind(vfs.as_ref(), spare, path, &active.header, end, base_offset, append_time)
        {
            Ok(next) => {
                report.skipped = next.header.gap();
                sealed.push(Arc::new(active.seal(Arc::clone(vfs), Arc::clone(cache))));
                (active, end) = (next, base_offset);
            }
            Err(error) => {
                let what = format!("no segment can be begun in {} at offset", path.display());
                let what = format!("{what} {base_offset}");
                read_only = Some(ReadOnly::failed(&what, &error, HEADER_BYTES_MAX as u64));
            }
        }
    }
    let lost = report.damage.clone();
    Ok(Recovery {
        segments: Segments { sealed, active: Arc::new(active), lost },
        label,
        start,
        end,
        epoch,
        may_have_lost: must_skip && read_only.is_some(),
        state: LogState { append_time, read_only, producers: remembered.producers, checkpoints },
        has_leftovers,
        report,
    })
}

/// Begins a segment at `base_offset`, where the log ends, or behind offsets that may have been given out
/// and are gone.
fn begin_behind(
    vfs: &dyn Vfs,
    spare: &Spare,
    path: &Path,
    last: &SegmentHeader,
    end: Offset,
    base_offset: Offset,
    created: Timestamp,
) -> io::Result<ActiveSegment> {
    let header = SegmentHeader {
        salt: random_salt(vfs),
        created,
        compacted: None,
        base_offset,
        previous_end: end,
        gap_reason: (end < base_offset).then_some(GapReason::PowerLoss),
        ..last.clone()
    };
    let segment = segment_path(path, base_offset);
    let active = spare.lend(|| create_segment(vfs, segment.clone(), header.clone()))?;
    vfs.sync_directory(path)?;
    Ok(active)
}

/// Makes the names of the segments durable: a process may have been killed between a rename and the
/// sync behind it, and what is appended must not go into a file that a power loss takes away.
fn settle(vfs: &dyn Vfs, path: &Path, is_first: bool) -> Result<(), OpenError> {
    vfs.sync_directory(path).map_err(io_at(path))?;
    if is_first { vfs.sync_directory(parent(path)).map_err(io_at(path)) } else { Ok(()) }
}

/// The segments before the last one, which says where the one before it ended.
fn seal(
    vfs: &Arc<dyn Vfs>,
    cache: &Arc<SegmentCache>,
    files: Files,
    last_previous_end: Offset,
) -> Vec<Arc<SealedSegment>> {
    let ends = files.sound.iter().skip(1).map(|next| next.header.previous_end);
    let ends: Vec<_> = ends.chain([last_previous_end]).collect();
    let sealed = files.sound.iter().zip(ends).map(|(segment, end)| {
        let base_offset = segment.header.base_offset;
        let end = files.unreadable_behind(base_offset).map_or(end, |from| from.min(end));
        let end = segment.header.compacted.map_or(end, |compacted| compacted.end);
        Arc::new(SealedSegment::new(
            segment.header.clone(),
            segment.header_bytes,
            segment.path.clone(),
            segment.length,
            end.max(base_offset),
            Arc::clone(vfs),
            Arc::clone(cache),
        ))
    });
    sealed.collect()
}

/// The epoch of the last batch of sealed segments.
fn last_epoch(sealed: &[Arc<SealedSegment>]) -> Result<LeaderEpoch, OpenError> {
    // A compacted one may have none.
    for segment in sealed.iter().rev() {
        let io = io_at(&segment.path);
        let Some(entry) = segment.known().map_err(&io)?.index.last() else { continue };
        let file = segment.open().map_err(&io)?;
        let (header, length) = (&segment.header, segment.length);
        let mut scanner = Scanner::new(file, header, length, entry.position, entry.offset);
        let mut epoch = LeaderEpoch::ZERO;
        while let Some(scanned) = scanner.next().map_err(&io)? {
            if let Scanned::Batch { header, .. } = scanned {
                epoch = header.leader_epoch;
            }
        }
        return Ok(epoch);
    }
    Ok(LeaderEpoch::ZERO)
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> OpenError {
    move |source| OpenError::Io { path: path.to_owned(), source }
}
