//! Writes what stays of a group of segments into a new one, beside their place.

use std::path::PathBuf;
use std::sync::Arc;

use taffrail_model::batch::{Batch, BatchHeader, Fate, HEADER_BYTES, records_crc, thin};
use taffrail_model::{Timestamp, limits};

use super::keys::Keys;
use super::plan::Group;
use super::{CompactionError, damaged, damaged_records, failed, is_thinned, open, scan};
use crate::index::Index;
use crate::segment::{
    Compacted, Scanned, Scanner, SealedSegment, SegmentHeader, random_salt, segment_path,
};
use crate::shared::Shared;
use crate::vfs::{File, Vfs, beside, write_full};

/// Bytes that are gathered before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// A new segment in the making.
#[derive(Debug)]
pub(super) struct Rewrite {
    vfs: Arc<dyn Vfs>,
    pub(super) group: Group,
    pub(super) path: PathBuf,
    pub(super) beside: PathBuf,
    file: Arc<dyn File>,
    pub(super) header: SegmentHeader,
    pub(super) header_bytes: u64,
    /// Where the next batch goes.
    pub(super) position: u64,
    pub(super) index: Index,
    /// What is not written yet.
    buffer: Vec<u8>,
    unsynced_bytes: u64,
    /// Which segment of the group is read.
    at: usize,
    scanner: Option<Scanner>,
    /// The number of the next record.
    number: u32,
    /// Bytes of the group that were not read yet.
    rest_bytes: u64,
    /// Tombstones go whose time is over by this, if the time is believed.
    expired: Option<Timestamp>,
    /// Until when a tombstone stays that no compaction has seen before.
    horizon: Timestamp,
    is_whole: bool,
    pub(super) read_bytes: u64,
    pub(super) removed_records: u64,
    /// Whether records are left in it that should have gone.
    pub(super) has_kept_more: bool,
}

impl Rewrite {
    pub(super) fn begin(
        shared: &Shared,
        group: Group,
        expired: Option<Timestamp>,
        horizon: Timestamp,
    ) -> Result<Self, CompactionError> {
        let vfs = Arc::clone(&shared.vfs);
        let path = segment_path(&shared.path, group.base_offset());
        let beside = beside(&path);
        let free = vfs.free_bytes(&shared.path).map_err(|source| failed(&shared.path, source))?;
        if free < group.bytes_before + limits::COMPACTION_ROOM_BYTES {
            return Err(CompactionError::StorageFull { path: beside });
        }
        let first = group.segments.first().map(|(segment, _)| &segment.header);
        let header = SegmentHeader {
            salt: random_salt(vfs.as_ref()),
            compacted: Some(Compacted { end: group.end_offset(), bytes: 0, due: None }),
            ..first.expect("a group has segments").clone()
        };
        let header_bytes = header.encode().len() as u64;
        // What an earlier run left.
        let _ = vfs.remove_file(&beside);
        let file = vfs.create(&beside).map_err(|source| failed(&beside, source))?;
        Ok(Self {
            rest_bytes: group.segments.iter().map(|(segment, _)| segment.length).sum(),
            vfs,
            group,
            path,
            beside,
            file,
            header,
            header_bytes,
            position: header_bytes,
            index: Index::default(),
            buffer: Vec::new(),
            unsynced_bytes: 0,
            at: 0,
            scanner: None,
            number: 0,
            expired,
            horizon,
            is_whole: false,
            read_bytes: 0,
            removed_records: 0,
            has_kept_more: false,
        })
    }

    /// Writes a little, and says how much it read and wrote; `None` once all is written and on disk.
    pub(super) fn step(&mut self, keys: &Keys) -> Result<Option<u64>, CompactionError> {
        if self.is_whole {
            return Ok(None);
        }
        let (read, written) = (self.read_bytes, self.position);
        while self.read_bytes - read < limits::COMPACTION_STEP_BYTES {
            let Some((segment, span)) = self.group.segments.get(self.at) else {
                self.seal()?;
                break;
            };
            let segment = Arc::clone(segment);
            let scanner = match &mut self.scanner {
                Some(scanner) => scanner,
                None => {
                    self.number = span.first;
                    let scanner = scan(&segment).map_err(|source| failed(&segment.path, source))?;
                    self.scanner.insert(scanner)
                }
            };
            match scanner.next().map_err(|source| failed(&segment.path, source))? {
                Some(Scanned::Batch { header, payload, .. }) => {
                    let bytes = header.total_bytes() as u64;
                    self.read_bytes += bytes;
                    self.rest_bytes = self.rest_bytes.saturating_sub(bytes);
                    self.take(&segment, Batch { header, payload }, keys)?;
                }
                Some(Scanned::Hole(hole)) => return Err(damaged(&segment, hole)),
                None => (self.at, self.scanner) = (self.at + 1, None),
            }
        }
        Ok(Some(self.read_bytes - read + self.position - written))
    }

    /// Writes what stays of a batch.
    fn take(
        &mut self,
        segment: &SealedSegment,
        batch: Batch,
        keys: &Keys,
    ) -> Result<(), CompactionError> {
        if !is_thinned(&batch) {
            return self.put(batch);
        }
        let opened = open(segment, &batch)?;
        let (stored, batch) = (batch, opened);
        let (mut fates, mut due) = (Vec::new(), None);
        for record in batch.records() {
            let record = record.map_err(|cause| damaged_records(segment, &batch, &cause))?;
            let is_tombstone = record.key.is_some() && record.value.is_none();
            let fate = match record.delete_after {
                _ if !keys.is_last(self.number) => Fate::Goes,
                _ if !is_tombstone => Fate::Stays,
                Some(time) if self.expired.is_some_and(|now| time <= now) => Fate::Goes,
                Some(_) => Fate::Stays,
                None => Fate::StaysUntil(self.horizon),
            };
            let more = match fate {
                Fate::Goes => None,
                Fate::Stays => record.delete_after,
                Fate::StaysUntil(time) => Some(time),
            };
            due = due.into_iter().chain(more).min();
            fates.push(fate);
            self.number += 1;
        }
        if fates.iter().all(|fate| *fate == Fate::Stays) {
            return self.put_whole(stored, &batch);
        }
        let thinned = thin(&batch, &fates);
        let thinned = thinned.map_err(|cause| damaged_records(segment, &batch, &cause))?;
        let removed = fates.len() as u64 - u64::from(thinned.record_count);
        if thinned.record_count == 0 {
            self.removed_records += removed;
            return Ok(());
        }
        let opened_bytes = thinned.payload.len();
        let payload = stored.header.compression.pack(thinned.payload);
        let bytes = HEADER_BYTES + payload.len().max(opened_bytes);
        let grown = payload.len().saturating_sub(stored.payload.len()) as u64;
        let is_too_large = bytes > limits::BATCH_BYTES_MAX as usize
            || grown > 0
                && self.position + self.rest_bytes + grown > limits::SEGMENT_FILE_BYTES_MAX;
        if is_too_large {
            // Offsets that have to be stated take more than what goes.
            self.has_kept_more = true;
            self.expired = None;
            return self.put_whole(stored, &batch);
        }
        self.removed_records += removed;
        self.note_due(due);
        let header = BatchHeader {
            max_timestamp: thinned.max_timestamp,
            records_crc: records_crc(&payload),
            payload_bytes: payload.len() as u32,
            ..stored.header
        };
        self.put(Batch { header, payload })
    }

    /// Writes a batch as it is stored, whose records are these.
    fn put_whole(&mut self, stored: Batch, opened: &Batch) -> Result<(), CompactionError> {
        let due = opened.records().filter_map(|record| record.ok()?.delete_after).min();
        self.note_due(due);
        self.put(stored)
    }

    /// Takes note of when a tombstone may go that stays.
    fn note_due(&mut self, due: Option<Timestamp>) {
        if let Some(compacted) = &mut self.header.compacted {
            compacted.due = compacted.due.into_iter().chain(due).min();
        }
    }

    fn put(&mut self, Batch { header, payload }: Batch) -> Result<(), CompactionError> {
        self.index.note(self.position, &header);
        self.buffer.extend_from_slice(&header.encode(self.header.salt));
        self.buffer.extend_from_slice(&payload);
        self.position += header.total_bytes() as u64;
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), CompactionError> {
        let failed = |source| failed(&self.beside, source);
        let at = self.position - self.buffer.len() as u64;
        let written = write_full(self.file.as_ref(), at, &self.buffer);
        written.map_err(|(_, error)| failed(error))?;
        self.unsynced_bytes += self.buffer.len() as u64;
        if self.unsynced_bytes >= limits::UNSYNCED_BYTES_MAX {
            // Little at a time, so that no sync takes long: others wait for the same disk.
            self.file.sync_data().map_err(failed)?;
            self.unsynced_bytes = 0;
        }
        self.buffer.clear();
        Ok(())
    }

    /// Writes the header, which says what is in it, and makes all of it durable.
    fn seal(&mut self) -> Result<(), CompactionError> {
        self.flush()?;
        let failed = |source| failed(&self.beside, source);
        if let Some(compacted) = &mut self.header.compacted {
            compacted.bytes = self.position;
        }
        let header = self.header.encode();
        write_full(self.file.as_ref(), 0, &header).map_err(|(_, error)| failed(error))?;
        self.file.sync_data().map_err(failed)?;
        self.is_whole = true;
        Ok(())
    }
}

impl Drop for Rewrite {
    fn drop(&mut self) {
        // Gone if it was put in its place. If it stays, the next opening of the log removes it.
        let _ = self.vfs.remove_file(&self.beside);
    }
}
