//! Copies the segments of one log, up to what is durable of it.

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use taffrail_model::Offset;

use super::{BackupError, BackupReport, failed};
use crate::index::index_path;
use crate::points::Point;
use crate::producers::CHECKPOINTS;
use crate::reader::{ReadError, Source};
use crate::segment::{HEADER_BYTES_MAX, Scanned, Scanner, decode_header, segment_path};
use crate::shared::{Segments, Shared};
use crate::vfs::{File, read_bytes, read_file, write_full};

/// Bytes that are copied at once.
const COPY_BYTES: u64 = 1 << 20;
/// Bytes that are written before they are synced: little, so that no sync takes long.
const SYNC_BYTES: u64 = 8 << 20;

/// What was copied of a log.
pub(super) struct Copied {
    pub(super) point: Point,
    pub(super) report: BackupReport,
}

/// How a segment comes into a backup.
enum Share {
    /// It has a second name there.
    Linked,
    /// This is copied.
    Copied(Arc<dyn File>),
    /// It does not: it was deleted.
    Gone,
}

/// Copies a log into the directory `to`, which is empty; `before` is where an earlier backup has it.
pub(super) fn copy(
    shared: &Arc<Shared>,
    before: Option<&Path>,
    to: &Path,
    pace: &mut dyn FnMut(u64) -> bool,
) -> Result<Copied, BackupError> {
    Copying { shared, before, to, pace }.log()
}

fn copy_checkpoints(shared: &Shared, to: &Path) -> Result<(), BackupError> {
    for name in CHECKPOINTS {
        let (from, to) = (shared.path.join(name), to.join(name));
        match read_file(shared.vfs.as_ref(), &from, u64::from(u32::MAX)) {
            Ok(bytes) => {
                let write = || {
                    let file = shared.vfs.create(&to)?;
                    write_full(file.as_ref(), 0, &bytes).map_err(|(_, error)| error)?;
                    file.sync_data()
                };
                write().map_err(|source| failed(&to, source))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(failed(&from, source)),
        }
    }
    Ok(())
}

fn read_failed(error: ReadError) -> BackupError {
    let (path, source) = match error {
        ReadError::Io { path, source } => (path, source),
        error @ (ReadError::OutOfRange { .. } | ReadError::DataLoss { .. }) => {
            (Path::new("").to_owned(), io::Error::other(error.to_string()))
        }
    };
    failed(&path, source)
}

/// A log that is being copied.
struct Copying<'a> {
    shared: &'a Shared,
    before: Option<&'a Path>,
    to: &'a Path,
    pace: &'a mut dyn FnMut(u64) -> bool,
}

/// What is copied of a log.
struct Picture {
    segments: Arc<Segments>,
    start: Offset,
    end: Offset,
}

impl Copying<'_> {
    /// Copies all of it that is not deleted meanwhile.
    fn log(mut self) -> Result<Copied, BackupError> {
        // First what is remembered of producers: it must not know of more than the segments hold.
        copy_checkpoints(self.shared, self.to)?;
        let Picture { segments, mut start, end } = self.picture();
        let mut report = BackupReport { logs: 1, ..BackupReport::default() };
        let mut first = 0;
        for at in 0..=segments.sealed.len() {
            let source = Source::at(&segments, at);
            let length = match &source {
                Source::Sealed(segment) => segment.length,
                Source::Active(segment) if end <= segment.header.base_offset => {
                    segment.header_bytes
                }
                Source::Active(_) => source.position_of(end).map_err(read_failed)?,
            };
            if !self.segment(&source, length, &mut report)? {
                // Whatever is in front of it was deleted before it.
                (first, start) = (at + 1, self.shared.log_start().min(end));
                for gone in 0..at {
                    self.forget(Source::at(&segments, gone).header().base_offset)?;
                }
                report = BackupReport { logs: 1, ..report };
                (report.segments, report.bytes, report.copied_bytes) = (0, 0, 0);
            }
        }
        let (vfs, to) = (self.shared.vfs.as_ref(), self.to);
        vfs.sync_directory(to).map_err(|source| failed(to, source))?;
        let first_segment = Source::at(&segments, first).header().base_offset.min(start);
        let point = Point {
            recovery_point: end,
            leader_epoch: self.shared.epoch,
            reserved_end: end,
            log_start: start,
            first_segment,
            is_clean: true,
            may_have_lost: false,
        };
        Ok(Copied { point, report })
    }

    /// Takes a segment out of the backup again.
    fn forget(&self, base: Offset) -> Result<(), BackupError> {
        let segment = segment_path(self.to, base);
        for path in [index_path(&segment), segment] {
            match self.shared.vfs.remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(&path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The log as it is now, up to what is durable.
    fn picture(&self) -> Picture {
        let _one = self.shared.trimming.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, end) = (self.shared.log_start(), self.shared.durable_end());
        let segments = self.shared.segments.load_full();
        // A segment may have been begun since: all before it is durable.
        let end = end.max(segments.active.header.base_offset);
        Picture { segments, start, end }
    }

    /// Shares or copies the first `length` bytes of a segment, and reads them once more if they are new;
    /// false if it was deleted meanwhile.
    fn segment(
        &mut self,
        source: &Source,
        length: u64,
        report: &mut BackupReport,
    ) -> Result<bool, BackupError> {
        let to = segment_path(self.to, source.header().base_offset);
        if let Source::Sealed(_) = source
            && self.share_before(source, length, &to)
        {
            self.share_index(source, &to);
            (report.segments, report.bytes) = (report.segments + 1, report.bytes + length);
            return Ok(true);
        }
        match self.share(source, &to)? {
            Share::Linked => {}
            Share::Copied(file) => {
                self.copy(source, file.as_ref(), length, &to)?;
                report.copied_bytes += length;
            }
            Share::Gone => return Ok(false),
        }
        self.share_index(source, &to);
        let (verified, damaged) = self.verify(source, length, &to)?;
        (report.segments, report.bytes) = (report.segments + 1, report.bytes + length);
        report.verified_bytes += verified;
        report.damaged += damaged;
        Ok(true)
    }

    /// Shares a segment that no longer changes where that can be, or else opens it to be copied.
    fn share(&self, source: &Source, to: &Path) -> Result<Share, BackupError> {
        let Source::Sealed(segment) = source else {
            return Ok(Share::Copied(source.file().map_err(read_failed)?));
        };
        let _one = self.shared.trimming.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.shared.segments.load();
        let has_its_name = now.sealed.iter().any(|it| Arc::ptr_eq(it, segment));
        if has_its_name && self.shared.vfs.link(&segment.path, to).is_ok() {
            return Ok(Share::Linked);
        }
        // One that was compacted is held open.
        let file = match segment.open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !has_its_name => {
                return Ok(Share::Gone);
            }
            file => file.map_err(|source| failed(&segment.path, source))?,
        };
        Ok(Share::Copied(file))
    }

    /// Shares the segment of the backup before, if it is the same.
    fn share_before(&self, source: &Source, length: u64, to: &Path) -> bool {
        let Some(before) = self.before else { return false };
        let from = segment_path(before, source.header().base_offset);
        let is_same = || {
            let file = self.shared.vfs.open_read_only(&from).ok()?;
            let bytes = read_bytes(file.as_ref(), 0, HEADER_BYTES_MAX).ok()?;
            // A salt is not made twice.
            let (header, _) = decode_header(&bytes).ok()?;
            Some(header == *source.header() && file.length().ok()? == length)
        };
        is_same() == Some(true) && self.shared.vfs.link(&from, to).is_ok()
    }

    /// Shares or copies the index of a segment. It is a cache: without it, it is made anew.
    fn share_index(&self, source: &Source, to: &Path) {
        let (from, to) = (index_path(&source.path()), index_path(to));
        let vfs = self.shared.vfs.as_ref();
        if let Source::Sealed(segment) = source
            && vfs.link(&from, &to).is_err()
            && let Ok(bytes) = read_file(vfs, &from, segment.length)
            && let Ok(file) = vfs.create(&to)
        {
            let _ = write_full(file.as_ref(), 0, &bytes);
        }
    }

    fn copy(
        &mut self,
        source: &Source,
        from: &dyn File,
        length: u64,
        to: &Path,
    ) -> Result<(), BackupError> {
        let at_source = |error| failed(&source.path(), error);
        let at_copy = |error| failed(to, error);
        let file = self.shared.vfs.create(to).map_err(at_copy)?;
        let (mut position, mut unsynced) = (0, 0);
        while position < length {
            let wanted = COPY_BYTES.min(length - position) as usize;
            let bytes = read_bytes(from, position, wanted).map_err(at_source)?;
            if bytes.is_empty() {
                // It ends too early: what is missing is found when it is read.
                break;
            }
            write_full(file.as_ref(), position, &bytes).map_err(|(_, error)| at_copy(error))?;
            position += bytes.len() as u64;
            unsynced += bytes.len() as u64;
            if unsynced >= SYNC_BYTES {
                file.sync_data().map_err(at_copy)?;
                unsynced = 0;
            }
            self.go_on(2 * bytes.len() as u64)?;
        }
        file.sync_data().map_err(at_copy)
    }

    /// Reads what was copied once more, past the page cache where that can be.
    fn verify(
        &mut self,
        source: &Source,
        length: u64,
        to: &Path,
    ) -> Result<(u64, u64), BackupError> {
        let failed = |error| failed(to, error);
        let file = self.shared.vfs.open_uncached(to).map_err(failed)?;
        let (header, position) = (source.header(), source.header_bytes());
        let mut scanner = Scanner::new(file, header, length, position, header.base_offset);
        let (mut read, mut unpaced, mut damaged) = (0, 0, 0);
        while let Some(scanned) = scanner.next().map_err(failed)? {
            match scanned {
                Scanned::Batch { header, .. } => {
                    let bytes = header.total_bytes() as u64;
                    (read, unpaced) = (read + bytes, unpaced + bytes);
                }
                Scanned::Hole(_) => damaged += 1,
            }
            if unpaced >= COPY_BYTES {
                self.go_on(unpaced)?;
                unpaced = 0;
            }
        }
        Ok((read, damaged))
    }

    fn go_on(&mut self, bytes: u64) -> Result<(), BackupError> {
        if (self.pace)(bytes) { Ok(()) } else { Err(BackupError::GivenUp) }
    }
}
