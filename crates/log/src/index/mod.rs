//! Where in a segment an offset or a time is to be found.
//!
//! Sparse: an entry per [`limits::INDEX_INTERVAL_BYTES`] of log; from there a reader walks headers.
//! A cache: it can always be rebuilt from the segment, and is checked before it is believed.

mod file;

use taffrail_model::batch::BatchHeader;
use taffrail_model::{Offset, Timestamp, limits};

pub(crate) use file::{IndexFile, MAGIC, decode, index_path};

/// A place in a segment where a batch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    /// The batch's base offset.
    pub(crate) offset: Offset,
    /// Where it begins.
    pub(crate) position: u64,
    /// The latest timestamp of all batches before it in the segment.
    pub(crate) max_timestamp_before: Timestamp,
}

/// The places of one segment, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Index {
    entries: Vec<IndexEntry>,
    max_timestamp: Timestamp,
}

impl Default for Index {
    fn default() -> Self {
        Self { entries: Vec::new(), max_timestamp: Timestamp::MIN }
    }
}

impl Index {
    /// Notes a batch that begins at `position`, behind all that were noted before.
    pub(crate) fn note(&mut self, position: u64, header: &BatchHeader) {
        let due = |last: &IndexEntry| position - last.position >= limits::INDEX_INTERVAL_BYTES;
        if self.entries.last().is_none_or(due) {
            let max_timestamp_before = self.max_timestamp;
            let offset = header.base_offset;
            self.entries.push(IndexEntry { offset, position, max_timestamp_before });
        }
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
    }

    /// Its places.
    pub(crate) fn entries(&self) -> &[IndexEntry] {
        &self.entries
    }

    /// The last place at or before `offset`.
    pub(crate) fn floor(&self, offset: Offset) -> Option<IndexEntry> {
        let behind = self.entries.partition_point(|entry| entry.offset <= offset);
        self.entries.get(behind.checked_sub(1)?).copied()
    }

    /// The last place of the segment.
    pub(crate) fn last(&self) -> Option<IndexEntry> {
        self.entries.last().copied()
    }

    /// The place from which the first batch that reaches `timestamp` is to be searched.
    pub(crate) fn floor_timestamp(&self, timestamp: Timestamp) -> Option<IndexEntry> {
        let reached = |entry: &IndexEntry| entry.max_timestamp_before < timestamp;
        let behind = self.entries.partition_point(reached);
        self.entries.get(behind.saturating_sub(1)).copied()
    }

    /// Bytes that it takes in memory.
    pub(crate) fn bytes(&self) -> u64 {
        size_of_val(self.entries.as_slice()) as u64
    }

    /// The latest timestamp in the segment.
    pub(crate) const fn max_timestamp(&self) -> Timestamp {
        self.max_timestamp
    }
}
