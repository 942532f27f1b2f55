//! The segment that grows.
//!
//! One writer, many readers. They share a lock that is held for a few instructions, never across
//! I/O; what readers take out of it are shared slices. The last MiBs stay in memory, so that a
//! reader at the tail never touches the disk.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use taffrail_model::batch::BatchHeader;
use taffrail_model::{Offset, Timestamp};

use super::{SealedSegment, SegmentCache, SegmentHeader};
use crate::index::{Index, IndexEntry, IndexFile};
use crate::vfs::{File, Vfs};

/// The segment that grows.
#[derive(Debug)]
pub(crate) struct ActiveSegment {
    pub(crate) header: SegmentHeader,
    /// Where its batches begin.
    pub(crate) header_bytes: u64,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    index: Index,
    tail: VecDeque<Group>,
    tail_bytes: usize,
    written: Written,
}

/// How far a segment is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// Where the next batch goes.
    pub(crate) position: u64,
    /// The offset it will have.
    pub(crate) end: Offset,
    /// When the last one was appended; if there is none, when the segment was made.
    pub(crate) append_time: Timestamp,
}

/// Batches that were written in one go.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// Where they begin.
    pub(crate) position: u64,
    /// The first one's base offset.
    pub(crate) base_offset: Offset,
    /// The offset behind the last one.
    pub(crate) end_offset: Offset,
    /// Headers and payloads, as on disk.
    pub(crate) bytes: Bytes,
}

impl ActiveSegment {
    pub(crate) fn new(
        header: SegmentHeader,
        header_bytes: u64,
        path: PathBuf,
        file: Arc<dyn File>,
        index: Index,
        written: Written,
    ) -> Self {
        let state = State { index, tail: VecDeque::new(), tail_bytes: 0, written };
        Self { header, header_bytes, path, file, state: Mutex::new(state) }
    }

    pub(crate) fn written(&self) -> Written {
        self.state().written
    }

    /// Takes note of a group that is in the file, of which the tail keeps at most `tail_bytes_max`.
    pub(crate) fn note(&self, group: Group, headers: &[BatchHeader], tail_bytes_max: usize) {
        let mut state = self.state();
        assert_eq!(group.position, state.written.position, "groups follow one another");
        let mut position = group.position;
        for header in headers {
            state.index.note(position, header);
            position += header.total_bytes() as u64;
        }
        let append_time = headers.last().map_or(state.written.append_time, |it| it.append_time);
        state.written = Written { position, end: group.end_offset, append_time };
        state.tail_bytes += group.bytes.len();
        state.tail.push_back(group);
        state.limit_tail(tail_bytes_max);
    }

    /// Keeps at most so much of the end in memory.
    pub(crate) fn limit_tail(&self, bytes_max: usize) {
        self.state().limit_tail(bytes_max);
    }

    /// The groups in memory that hold `from` and what follows, some `bytes_max`; none if `from` is
    /// no longer in memory.
    pub(crate) fn tail(&self, from: Offset, bytes_max: usize) -> Vec<Group> {
        let state = self.state();
        let behind = state.tail.partition_point(|group| group.base_offset <= from);
        let Some(first) = behind.checked_sub(1) else { return Vec::new() };
        let mut bytes = 0;
        let enough = |group: &&Group| {
            let wanted = bytes < bytes_max;
            bytes += group.bytes.len();
            wanted
        };
        state.tail.iter().skip(first).take_while(enough).cloned().collect()
    }

    pub(crate) fn floor(&self, offset: Offset) -> Option<IndexEntry> {
        self.state().index.floor(offset)
    }

    pub(crate) fn floor_timestamp(&self, timestamp: Timestamp) -> Option<IndexEntry> {
        self.state().index.floor_timestamp(timestamp)
    }

    pub(crate) fn max_timestamp(&self) -> Timestamp {
        self.state().index.max_timestamp()
    }

    /// Its index, as it is written beside it when it is sealed or closed.
    pub(crate) fn index_file(&self) -> IndexFile {
        let state = self.state();
        IndexFile {
            salt: self.header.salt,
            segment_bytes: state.written.position,
            base_offset: self.header.base_offset,
            end_offset: state.written.end,
            compacted: self.header.compacted,
            index: state.index.clone(),
        }
    }

    /// The same segment as one that no longer changes. Everything in it must be synced.
    pub(crate) fn seal(&self, vfs: Arc<dyn Vfs>, cache: Arc<SegmentCache>) -> SealedSegment {
        let state = self.state();
        let sealed = SealedSegment::new(
            self.header.clone(),
            self.header_bytes,
            self.path.clone(),
            state.written.position,
            state.written.end,
            vfs,
            cache,
        );
        sealed.note_last_append(state.written.append_time);
        sealed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn limit_tail(&mut self, bytes_max: usize) {
        while self.tail_bytes > bytes_max {
            self.tail_bytes -= self.tail.pop_front().map_or(0, |group| group.bytes.len());
        }
    }
}
