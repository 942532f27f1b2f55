//! Finds the segment files of a log, and tells those whose header is sound, or can be restored, from
//! the others.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use taffrail_model::{LogId, Offset};

use super::aside::aside_path;
use super::last::LastSegment;
use super::{OpenError, RecoveryReport, SalvagedHeader, io_at};
use crate::compaction::is_key_file;
use crate::damage::Damage;
use crate::delete::{count_left, remove};
use crate::index::index_path;
use crate::points::Point;
use crate::segment::{
    BASE_OFFSET, HEADER_BYTES_MAX, Salvaged, SegmentHeader, SegmentHeaderError, decode_header,
    parse_segment_name, salvage_header, segment_path,
};
use crate::vfs::{Entry, Vfs, read_bytes};

/// The segment files of a log, ascending by base offset.
pub(super) struct Files {
    /// Those whose header is sound, or was restored.
    pub(super) sound: Vec<SegmentFile>,
    /// The base offsets that the names of the others state.
    unreadable: Vec<Offset>,
}

/// A segment file whose header is known. It is not open: there may be more of them than a process
/// may have open files.
pub(super) struct SegmentFile {
    pub(super) path: PathBuf,
    /// How long it should be.
    pub(super) length: u64,
    pub(super) header: SegmentHeader,
    pub(super) header_bytes: u64,
}

impl Files {
    /// The offset that the first file begins with, sound or not.
    pub(super) fn first(&self) -> Offset {
        let sound = self.sound.first().map(|segment| segment.header.base_offset);
        sound.into_iter().chain(self.unreadable.first().copied()).min().unwrap_or_default()
    }

    /// The offset from which on the files say what became of every record: a gap that the first one's
    /// header records is no loss.
    pub(super) fn told_from(&self) -> Offset {
        let first = self.first();
        let sound = self.sound.first().filter(|segment| segment.header.base_offset == first);
        let gap = sound.and_then(|segment| segment.header.gap());
        gap.map_or(first, |gap| gap.from.min(first))
    }

    /// The base offset of the next unreadable file behind the segment that begins at `base_offset`.
    pub(super) fn unreadable_behind(&self, base_offset: Offset) -> Option<Offset> {
        self.unreadable.iter().copied().find(|other| *other > base_offset)
    }
}

impl SegmentFile {
    pub(super) fn open(self, vfs: &Arc<dyn Vfs>) -> Result<LastSegment, OpenError> {
        let Self { path, length, header, header_bytes } = self;
        let file = vfs.open(&path).map_err(io_at(&path))?;
        Ok(LastSegment { path, file, length, header, header_bytes })
    }
}

/// Finds every segment of the log. A damaged header is restored, in memory, where that can be done for
/// sure. Else a last one is what a roll left unfinished, and is moved aside; others are reported, and
/// stay. `before_cut` hears where the log is about to end.
pub(super) fn find_files(
    vfs: &dyn Vfs,
    directory: &Path,
    id: LogId,
    &Point { recovery_point, first_segment, .. }: &Point,
    before_cut: impl Fn(Offset) -> io::Result<()>,
    report: &mut RecoveryReport,
) -> Result<Files, OpenError> {
    let entries = match vfs.list(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(OpenError::Missing { path: directory.to_owned() });
        }
        Err(error) => return Err(io_at(directory)(error)),
    };
    let mut bases: Vec<_> = entries.iter().filter_map(|e| parse_segment_name(&e.name)).collect();
    // What a deletion has left is no part of the log.
    bases.drain(..count_left(&bases, first_segment));
    let mut files = Files { sound: Vec::with_capacity(bases.len()), unreadable: Vec::new() };
    let mut first_unreadable = None;
    let (mut covered_end, mut covered) = (Offset::ZERO, Vec::new());
    for (index, base) in bases.iter().enumerate() {
        let path = segment_path(directory, *base);
        if *base < covered_end {
            covered.extend([index_path(&path), path]);
            continue;
        }
        let cause = match read_header(vfs, &path, id, *base)? {
            Ok(segment) => {
                covered_end = segment.header.covered_end();
                files.sound.push(segment);
                continue;
            }
            Err(cause) => cause,
        };
        let next = bases.get(index + 1);
        if let Some(segment) = salvage(vfs, &path, id, *base).map_err(io_at(&path))? {
            report.salvaged.push(SalvagedHeader { path, cause: cause.to_string() });
            covered_end = segment.header.covered_end();
            files.sound.push(segment);
            continue;
        }
        if next.is_none() && !files.sound.is_empty() && *base >= recovery_point {
            before_cut(*base).map_err(io_at(&path))?;
            let aside = aside_path(vfs, &path, 0).map_err(io_at(&path))?;
            vfs.rename(&path, &aside).map_err(io_at(&path))?;
            vfs.sync_directory(directory).map_err(io_at(directory))?;
            report.moved_aside.push(aside);
            continue;
        }
        report.damage.push(Damage {
            from: *base,
            to: next.copied().unwrap_or(recovery_point.max(*base)),
            path: path.clone(),
            position: 0,
            cause: cause.to_string(),
        });
        files.unreadable.push(*base);
        first_unreadable.get_or_insert((path, cause));
    }
    remove_unfinished(vfs, directory, &entries, covered);
    match first_unreadable {
        Some((path, cause)) if files.sound.is_empty() => Err(OpenError::Damaged { path, cause }),
        _ => Ok(files),
    }
}

/// Removes what a compaction has left that did not end: the segments for which another one stands, and
/// what was being made and has no name yet. What cannot be removed now is at the next opening.
fn remove_unfinished(vfs: &dyn Vfs, directory: &Path, entries: &[Entry], covered: Vec<PathBuf>) {
    let is_unfinished =
        |entry: &&Entry| entry.name.ends_with(".log.new") || is_key_file(&entry.name);
    let unfinished = entries.iter().filter(is_unfinished).map(|it| directory.join(&it.name));
    // The name of the one that stands for them is durable before they go.
    let settled = if covered.is_empty() { Ok(()) } else { vfs.sync_directory(directory) };
    let doomed: Vec<_> = match settled {
        Ok(()) => unfinished.chain(covered).collect(),
        Err(_) => unfinished.collect(),
    };
    // An error leaves them where they are.
    let _ = remove(vfs, directory, &doomed);
}

/// A segment file whose header is damaged and can be restored.
fn salvage(vfs: &dyn Vfs, path: &Path, id: LogId, base: Offset) -> io::Result<Option<SegmentFile>> {
    let Some(salvaged) = salvage_header(vfs, path, id, base)? else { return Ok(None) };
    let Salvaged { header, header_bytes } = salvaged;
    let length = header.length(vfs.open_read_only(path)?.length()?);
    Ok(Some(SegmentFile { path: path.to_owned(), length, header, header_bytes }))
}

/// A segment file by its header, or what is wrong with that.
///
/// # Errors
/// If the file cannot be read, belongs to another log, or is of a newer format.
fn read_header(
    vfs: &dyn Vfs,
    path: &Path,
    id: LogId,
    base: Offset,
) -> Result<Result<SegmentFile, SegmentHeaderError>, OpenError> {
    let io = io_at(path);
    let file = vfs.open_read_only(path).map_err(&io)?;
    let file_bytes = file.length().map_err(&io)?;
    let bytes = read_bytes(file.as_ref(), 0, HEADER_BYTES_MAX).map_err(&io)?;
    let path = path.to_owned();
    match decode_header(&bytes) {
        Ok((header, _)) if header.log_id != id => {
            Err(OpenError::Foreign { path, found: header.log_id })
        }
        Ok((header, header_bytes)) if header.base_offset == base => {
            let (length, header_bytes) = (header.length(file_bytes), header_bytes as u64);
            Ok(Ok(SegmentFile { path, length, header, header_bytes }))
        }
        Ok(_) => Ok(Err(SegmentHeaderError::Damaged { at: BASE_OFFSET })),
        Err(cause @ SegmentHeaderError::Version { .. }) => Err(OpenError::Damaged { path, cause }),
        Err(cause) => Ok(Err(cause)),
    }
}
