//! A segment that no longer changes.
//!
//! Costs nothing until it is read: no open file, no index in memory. What was read is known for a
//! while. A range is read with `pread` and verified the first time; from then on it is served from a
//! map.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use taffrail_model::{Offset, Timestamp};

use super::{Scanned, Scanner, SegmentHeader, verified::Verified};
use crate::cache::{SegmentCache, SegmentKey};
use crate::index::{Index, IndexFile, decode, index_path};
use crate::vfs::{File, Vfs, beside, read_bytes, read_file, write_full};

/// A segment that no longer changes.
#[derive(Debug)]
pub(crate) struct SealedSegment {
    pub(crate) header: SegmentHeader,
    /// Where its batches begin.
    pub(crate) header_bytes: u64,
    pub(crate) path: PathBuf,
    pub(crate) length: u64,
    /// The offset behind its last record.
    pub(crate) end_offset: Offset,
    /// Kept, unlike the index that says it: looking for a time asks all segments.
    max_timestamp: OnceLock<Timestamp>,
    vfs: Arc<dyn Vfs>,
    cache: Arc<SegmentCache>,
}

/// What reading a segment has found out.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) index: Index,
    verified: Mutex<Verified>,
}

impl SealedSegment {
    pub(crate) fn new(
        header: SegmentHeader,
        header_bytes: u64,
        path: PathBuf,
        length: u64,
        end_offset: Offset,
        vfs: Arc<dyn Vfs>,
        cache: Arc<SegmentCache>,
    ) -> Self {
        let max_timestamp = OnceLock::new();
        Self { header, header_bytes, path, length, end_offset, max_timestamp, vfs, cache }
    }

    /// What is known of it. Its index comes from memory, from the file beside it, or is rebuilt from
    /// the segment.
    pub(crate) fn known(&self) -> io::Result<Arc<Known>> {
        self.cache.known(self.key(), || {
            let index = match self.load_index() {
                Some(index) => index,
                None => self.rebuild_index()?,
            };
            Ok(Arc::new(Known { index, verified: Mutex::default() }))
        })
    }

    /// The latest timestamp in it.
    pub(crate) fn max_timestamp(&self) -> io::Result<Timestamp> {
        if let Some(max_timestamp) = self.max_timestamp.get() {
            return Ok(*max_timestamp);
        }
        let max_timestamp = self.known()?.index.max_timestamp();
        Ok(*self.max_timestamp.get_or_init(|| max_timestamp))
    }

    /// Reads a range; the second value says whether it is known to be sound.
    pub(crate) fn read(&self, position: u64, length: usize) -> io::Result<(Bytes, bool)> {
        let range = position..position + length as u64;
        if self.known()?.verified().contains(&range) {
            let map = self
                .cache
                .map(self.key(), || self.vfs.open_read_only(&self.path)?.map(self.length))?;
            return Ok((map.slice(position, length)?, true));
        }
        let file = self.vfs.open_read_only(&self.path)?;
        Ok((read_bytes(file.as_ref(), position, length)?, false))
    }

    /// Opens its file.
    pub(crate) fn open(&self) -> io::Result<Arc<dyn File>> {
        self.vfs.open_read_only(&self.path)
    }

    /// Takes note that a range was read from disk and found sound.
    pub(crate) fn mark_verified(&self, range: Range<u64>) -> io::Result<()> {
        self.known()?.verified().insert(range);
        Ok(())
    }

    fn key(&self) -> SegmentKey {
        (self.header.log_id, self.header.base_offset)
    }

    fn load_index(&self) -> Option<Index> {
        let bytes = read_file(self.vfs.as_ref(), &index_path(&self.path), self.length).ok()?;
        let file = decode(&bytes)?;
        let belongs = file.salt == self.header.salt
            && file.base_offset == self.header.base_offset
            && file.segment_bytes == self.length;
        belongs.then_some(file.index)
    }

    fn rebuild_index(&self) -> io::Result<Index> {
        let file = self.vfs.open_read_only(&self.path)?;
        let base = self.header.base_offset;
        let (start, length) = (self.header_bytes, self.length);
        let mut scanner = Scanner::new(file, &self.header, length, start, base);
        let mut index = Index::default();
        while let Some(scanned) = scanner.next()? {
            if let Scanned::Batch { position, header, .. } = scanned {
                index.note(position, &header);
            }
        }
        let file = IndexFile {
            salt: self.header.salt,
            segment_bytes: self.length,
            base_offset: base,
            end_offset: self.end_offset,
            index: index.clone(),
        };
        // A cache: if it cannot be written, the next start rebuilds it again.
        let _ = write_index(self.vfs.as_ref(), &self.path, &file);
        Ok(index)
    }
}

impl Known {
    fn verified(&self) -> MutexGuard<'_, Verified> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the index of the segment at `segment`. It is not synced: it is a cache with a checksum.
pub(crate) fn write_index(
    vfs: &dyn Vfs,
    segment: &std::path::Path,
    index: &IndexFile,
) -> io::Result<()> {
    let path = index_path(segment);
    let beside = beside(&path);
    // What a former start left half written.
    let _ = vfs.remove_file(&beside);
    let file = vfs.create(&beside)?;
    write_full(file.as_ref(), 0, &index.encode()).map_err(|(_, error)| error)?;
    vfs.rename(&beside, &path)
}
