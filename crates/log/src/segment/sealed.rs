//! A segment that no longer changes.
//!
//! Costs nothing until it is read: no open file, no index in memory. What was read is known for a
//! while. A range is read with `pread` and verified the first time; from then on it is served from a
//! map.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use taffrail_model::{Offset, Timestamp};

use super::cache::{SegmentCache, SegmentKey};
use super::{Known, Scanned, Scanner, SegmentHeader};
use crate::index::{Index, IndexFile, decode, index_path};
use crate::vfs::{File, Vfs, beside, read_file, write_full};

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
    /// When its last batch was appended, once somebody wanted to know.
    last_append: OnceLock<Timestamp>,
    /// The file, where another one has taken its name.
    held: OnceLock<Arc<dyn File>>,
    vfs: Arc<dyn Vfs>,
    cache: Arc<SegmentCache>,
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
        Self {
            header,
            header_bytes,
            path,
            length,
            end_offset,
            max_timestamp: OnceLock::new(),
            last_append: OnceLock::new(),
            held: OnceLock::new(),
            vfs,
            cache,
        }
    }

    /// When its last batch was appended, if that is known.
    pub(crate) fn known_last_append(&self) -> Option<Timestamp> {
        self.last_append.get().copied()
    }

    /// Takes note of when its last batch was appended.
    pub(crate) fn note_last_append(&self, append_time: Timestamp) {
        let _ = self.last_append.set(append_time);
    }

    /// What is known of it. Its index comes from memory, from the file beside it, or is rebuilt from
    /// the segment.
    pub(crate) fn known(&self) -> io::Result<Arc<Known>> {
        self.cache.known(self.key(), || {
            let index = match self.load_index() {
                Some(index) => index,
                None => self.rebuild_index()?,
            };
            Ok(Arc::new(Known::new(index)))
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

    /// A slice of its map. Only for what is known to be sound.
    pub(crate) fn mapped(&self, position: u64, length: usize) -> io::Result<Bytes> {
        self.cache.map(self.key(), || self.open()?.map(self.length))?.slice(position, length)
    }

    /// Opens its file.
    pub(crate) fn open(&self) -> io::Result<Arc<dyn File>> {
        if let Some(held) = self.held.get() {
            return Ok(Arc::clone(held));
        }
        let opened = self.vfs.open_read_only(&self.path);
        // It may have lost its name in between.
        self.held.get().map_or(opened, |held| Ok(Arc::clone(held)))
    }

    /// Opens its file so that reading goes past the page cache, where that can be.
    pub(crate) fn open_uncached(&self) -> io::Result<Arc<dyn File>> {
        let opened = self.vfs.open_uncached(&self.path);
        // Of one that has lost its name nobody wants to know what the disk has.
        self.held.get().map_or(opened, |held| Ok(Arc::clone(held)))
    }

    /// Keeps the file open for whoever still reads it: it is about to lose its name.
    pub(crate) fn hold_open(&self) -> io::Result<()> {
        let file = self.open()?;
        self.held.get_or_init(|| file);
        Ok(())
    }

    fn key(&self) -> SegmentKey {
        (self.header.log_id, self.header.base_offset, self.length, self.header.salt)
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
        let file = self.open()?;
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
            compacted: self.header.compacted,
            index: index.clone(),
        };
        if self.held.get().is_some() {
            // Another segment has the name that it would go by.
            return Ok(index);
        }
        // A cache: if it cannot be written, the next start rebuilds it again.
        let _ = write_index(self.vfs.as_ref(), &self.path, &file);
        Ok(index)
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
