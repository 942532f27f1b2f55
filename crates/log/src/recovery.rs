//! Opens a log after whatever ended the last run.
//!
//! The *recovery point* is the offset below which everything is known to have been on disk. Below it
//! whatever is missing or invalid is damage: it is reported, and nothing is deleted. At or above it
//! the log ends before the first batch that is invalid; what lies behind is moved aside and cut.
//! After an unclean end what lies above the recovery point is written again and synced before
//! anybody reads it: the page cache may hold what the disk does not.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use taffrail_model::{LeaderEpoch, LogId, Offset, Timestamp};

use crate::directory::Point;
use crate::index::{Index, decode, index_path};
use crate::log::Log;
use crate::maps::Maps;
use crate::segment::{
    ActiveSegment, HEADER_BYTES_MAX, Hole, Scanned, Scanner, SealedSegment, SegmentHeader,
    SegmentHeaderError, Written, decode_header, parse_segment_name, segment_path,
};
use crate::shared::Segments;
use crate::vfs::{File, Vfs, read_bytes, read_file, write_full};

const COPY_BYTES: usize = 1 << 20;

/// A log that was opened, and what was found.
#[derive(Debug)]
pub struct Opened {
    /// The log.
    pub log: Log,
    /// What was found, and done about it.
    pub report: RecoveryReport,
}

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
    /// What is damaged or missing, for people.
    pub damage: Vec<Damage>,
}

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

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It should be there.
    #[error("{path} is missing or has no segments: restore it from a backup, or delete the topic")]
    Missing {
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
    #[error("{path} is damaged: {cause}; restore it from a backup")]
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
    pub(crate) append_time: Timestamp,
    pub(crate) read_only: Option<String>,
    pub(crate) report: RecoveryReport,
}

/// A segment file whose header is sound.
struct Candidate {
    path: PathBuf,
    file: Arc<dyn File>,
    length: u64,
    header: SegmentHeader,
    header_bytes: u64,
}

/// Recovers the log in `path`.
pub(crate) fn recover(
    vfs: &Arc<dyn Vfs>,
    maps: &Arc<Maps>,
    path: &Path,
    id: LogId,
    point: Option<&Point>,
) -> Result<Recovery, OpenError> {
    let mut report = RecoveryReport::default();
    let known = point.copied().unwrap_or_default();
    let mut candidates = open_segments(vfs, path, id, known.recovery_point, &mut report)?;
    let Some(last) = candidates.pop() else {
        return Err(OpenError::Missing { path: path.to_owned() });
    };
    let recovery_point = known.recovery_point.max(last.header.base_offset);
    let tail = recover_tail(vfs, &last, recovery_point, known.is_clean, &mut report)?;
    let ends = candidates.iter().skip(1).map(|next| next.header.previous_end);
    let ends: Vec<_> = ends.chain([last.header.previous_end]).collect();
    let start = candidates.first().map_or(last.header.base_offset, |c| c.header.base_offset);
    let sealed: Vec<_> = candidates
        .into_iter()
        .zip(ends)
        .map(|(segment, end)| {
            let Candidate { path, length, header, header_bytes, .. } = segment;
            let (vfs, maps) = (Arc::clone(vfs), Arc::clone(maps));
            let end = end.max(header.base_offset);
            Arc::new(SealedSegment::new(header, header_bytes, path, length, end, None, vfs, maps))
        })
        .collect();
    let epoch = match sealed.last() {
        Some(previous) if point.is_none() && tail.epoch == LeaderEpoch::ZERO => {
            last_epoch(previous).map_err(io_at(&previous.path))?
        }
        _ => tail.epoch,
    };
    let Candidate { path, file, header, header_bytes, .. } = last;
    let written = Written { position: tail.position, end: tail.end };
    let label = header.label.clone();
    let active = ActiveSegment::new(header, header_bytes, path, file, tail.index, written);
    Ok(Recovery {
        segments: Segments { sealed, active: Arc::new(active) },
        label,
        start: start.max(known.log_start),
        end: tail.end,
        epoch,
        append_time: tail.append_time,
        read_only: tail.read_only,
        report,
    })
}

/// Opens every segment whose header is sound, ascending. A last one that a roll left unfinished is
/// moved aside.
fn open_segments(
    vfs: &Arc<dyn Vfs>,
    directory: &Path,
    id: LogId,
    recovery_point: Offset,
    report: &mut RecoveryReport,
) -> Result<Vec<Candidate>, OpenError> {
    let entries = match vfs.list(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(OpenError::Missing { path: directory.to_owned() });
        }
        Err(error) => return Err(io_at(directory)(error)),
    };
    let bases: Vec<_> = entries.iter().filter_map(|e| parse_segment_name(&e.name)).collect();
    let mut candidates = Vec::with_capacity(bases.len());
    let mut unreadable = None;
    for base in &bases {
        let path = segment_path(directory, *base);
        let file = vfs.open(&path).map_err(io_at(&path))?;
        let length = file.length().map_err(io_at(&path))?;
        let bytes = read_bytes(file.as_ref(), 0, HEADER_BYTES_MAX).map_err(io_at(&path))?;
        let cause = match decode_header(&bytes) {
            Ok((header, _)) if header.log_id != id => {
                return Err(OpenError::Foreign { path, found: header.log_id });
            }
            Ok((header, header_bytes)) if header.base_offset == *base => {
                let header_bytes = header_bytes as u64;
                candidates.push(Candidate { path, file, length, header, header_bytes });
                continue;
            }
            Ok(_) => SegmentHeaderError::Damaged { at: 25 },
            Err(cause @ SegmentHeaderError::Version { .. }) => {
                return Err(OpenError::Damaged { path, cause });
            }
            Err(cause) => cause,
        };
        let sound_end =
            candidates.last().map_or(Offset::ZERO, |c: &Candidate| c.header.base_offset);
        let is_last = bases.last() == Some(base);
        if is_last && !candidates.is_empty() && *base >= recovery_point.max(sound_end) {
            let aside = aside_path(vfs.as_ref(), &path, 0);
            vfs.rename(&path, &aside).map_err(io_at(&path))?;
            vfs.sync_directory(directory).map_err(io_at(directory))?;
            report.moved_aside.push(aside);
            continue;
        }
        let to = bases.iter().copied().find(|other| other > base).unwrap_or(recovery_point);
        report.damage.push(Damage {
            from: *base,
            to,
            path: path.clone(),
            position: 0,
            cause: cause.to_string(),
        });
        unreadable = Some((path, cause));
    }
    match unreadable {
        Some((path, cause)) if candidates.is_empty() => Err(OpenError::Damaged { path, cause }),
        _ => Ok(candidates),
    }
}

/// What is known of the last segment.
struct Tail {
    index: Index,
    position: u64,
    end: Offset,
    epoch: LeaderEpoch,
    append_time: Timestamp,
    synced_end: Offset,
    holes: Vec<Hole>,
    read_only: Option<String>,
}

/// Finds the end of the last segment, and makes sure that all before it is on disk.
fn recover_tail(
    vfs: &Arc<dyn Vfs>,
    last: &Candidate,
    recovery_point: Offset,
    is_clean: bool,
    report: &mut RecoveryReport,
) -> Result<Tail, OpenError> {
    let io = io_at(&last.path);
    if is_clean && let Some(tail) = trust_clean(vfs, last, recovery_point).map_err(&io)? {
        report.was_clean = true;
        return Ok(tail);
    }
    let mut tail = scan(last, last.length).map_err(&io)?;
    report.scanned_bytes = last.length;
    let recovery_point = recovery_point.max(tail.synced_end);
    let torn = tail.holes.iter().find(|hole| hole.from >= recovery_point).cloned();
    if let Some(hole) = torn {
        match cut_aside(vfs, last, hole.position) {
            Ok(aside) => report.moved_aside.push(aside),
            Err(error) => {
                let cut = format!(
                    "what lies behind byte {} cannot be kept aside: {error}",
                    hole.position
                );
                tail.read_only = Some(cut);
            }
        }
        let read_only = tail.read_only.take();
        tail = scan(last, hole.position).map_err(&io)?;
        tail.read_only = read_only;
    }
    for hole in &tail.holes {
        report.damage.push(Damage {
            from: hole.from,
            to: hole.to.unwrap_or(recovery_point.max(hole.from)),
            path: last.path.clone(),
            position: hole.position,
            cause: hole.cause.clone(),
        });
    }
    if tail.end < recovery_point || tail.holes.iter().any(|hole| hole.to.is_none()) {
        let (end, cause) = (tail.end, "was on disk and is damaged or missing");
        tail.read_only =
            Some(format!("what lies between offset {end} and {recovery_point} {cause}"));
        if tail.holes.is_empty() {
            report.damage.push(Damage {
                from: end,
                to: recovery_point,
                path: last.path.clone(),
                position: tail.position,
                cause: "the file ends too early".into(),
            });
        }
    }
    if tail.end > recovery_point && tail.read_only.is_none() {
        let from = tail.index.floor(recovery_point).map_or(last.header_bytes, |e| e.position);
        rewrite(last, from, tail.position).map_err(&io)?;
        report.rewritten_bytes = tail.position - from;
    }
    Ok(tail)
}

/// The end of a segment that was closed cleanly, from its index and the last few batches; `None` if
/// these do not say what the recovery point says.
fn trust_clean(
    vfs: &Arc<dyn Vfs>,
    last: &Candidate,
    recovery_point: Offset,
) -> io::Result<Option<Tail>> {
    let Ok(bytes) = read_file(vfs.as_ref(), &index_path(&last.path), last.length) else {
        return Ok(None);
    };
    let Some(file) = decode(&bytes) else { return Ok(None) };
    let belongs = file.salt == last.header.salt
        && file.base_offset == last.header.base_offset
        && file.segment_bytes == last.length
        && file.end_offset == recovery_point;
    if !belongs {
        return Ok(None);
    }
    let begin = (last.header_bytes, last.header.base_offset);
    let (position, offset) =
        file.index.last().map_or(begin, |entry| (entry.position, entry.offset));
    let tail = scan_from(last, last.length, position, offset, file.index)?;
    Ok((tail.holes.is_empty() && tail.end == recovery_point).then_some(tail))
}

fn scan(last: &Candidate, length: u64) -> io::Result<Tail> {
    scan_from(last, length, last.header_bytes, last.header.base_offset, Index::default())
}

/// Reads a segment from `position` on; `index` already knows the batch there, or nothing.
fn scan_from(
    last: &Candidate,
    length: u64,
    position: u64,
    offset: Offset,
    mut index: Index,
) -> io::Result<Tail> {
    let is_known = index.last().is_some();
    let mut tail = Tail {
        index: Index::default(),
        position,
        end: offset,
        epoch: LeaderEpoch::ZERO,
        append_time: last.header.created,
        synced_end: Offset::ZERO,
        holes: Vec::new(),
        read_only: None,
    };
    let mut scanner = Scanner::new(last.file.as_ref(), &last.header, length, position, offset);
    while let Some(scanned) = scanner.next()? {
        match scanned {
            Scanned::Batch { position, header, .. } => {
                if !is_known {
                    index.note(position, &header);
                }
                tail.position = position + header.total_bytes() as u64;
                tail.end = header.end_offset();
                tail.epoch = tail.epoch.max(header.leader_epoch);
                tail.append_time = tail.append_time.max(header.append_time);
                tail.synced_end = tail.synced_end.max(header.synced_end);
            }
            Scanned::Hole(hole) => tail.holes.push(hole),
        }
    }
    tail.index = index;
    Ok(tail)
}

/// The epoch of the last batch of a sealed segment.
fn last_epoch(segment: &SealedSegment) -> io::Result<LeaderEpoch> {
    let Some(entry) = segment.index()?.last() else { return Ok(LeaderEpoch::ZERO) };
    let file = segment.open()?;
    let (header, length) = (&segment.header, segment.length);
    let mut scanner = Scanner::new(file.as_ref(), header, length, entry.position, entry.offset);
    let mut epoch = LeaderEpoch::ZERO;
    while let Some(scanned) = scanner.next()? {
        if let Scanned::Batch { header, .. } = scanned {
            epoch = header.leader_epoch;
        }
    }
    Ok(epoch)
}

/// Keeps what lies behind `position` in a file of its own, durably, then cuts it off, durably.
fn cut_aside(vfs: &Arc<dyn Vfs>, last: &Candidate, position: u64) -> io::Result<PathBuf> {
    let path = aside_path(vfs.as_ref(), &last.path, position);
    let aside = vfs.create(&path)?;
    let mut copied = position;
    while copied < last.length {
        let bytes = read_bytes(last.file.as_ref(), copied, COPY_BYTES)?;
        if bytes.is_empty() {
            break;
        }
        write_full(aside.as_ref(), copied - position, &bytes).map_err(|(_, error)| error)?;
        copied += bytes.len() as u64;
    }
    aside.sync_data()?;
    vfs.sync_directory(crate::vfs::parent(&path))?;
    last.file.set_length(position)?;
    last.file.sync_data()?;
    Ok(path)
}

/// A name that is not taken for what is cut off at `position`.
fn aside_path(vfs: &dyn Vfs, segment: &Path, position: u64) -> PathBuf {
    let name = |attempt: u32| {
        let mut name = segment.as_os_str().to_owned();
        name.push(format!(".{position}.{attempt}.aside"));
        PathBuf::from(name)
    };
    let is_taken = |path: &PathBuf| vfs.open_read_only(path).is_ok();
    (0..u32::MAX).map(name).find(|path| !is_taken(path)).expect("some number is free")
}

/// Writes what lies between two positions again, in place, and syncs it.
fn rewrite(last: &Candidate, from: u64, to: u64) -> io::Result<()> {
    let mut position = from;
    while position < to {
        let wanted = (to - position).min(COPY_BYTES as u64) as usize;
        let bytes = read_bytes(last.file.as_ref(), position, wanted)?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        write_full(last.file.as_ref(), position, &bytes).map_err(|(_, error)| error)?;
        position += bytes.len() as u64;
    }
    last.file.sync_data()
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> OpenError {
    move |source| OpenError::Io { path: path.to_owned(), source }
}
