//! Reads what is left of a log, and puts a new one in its place.

use std::io;
use std::path::PathBuf;

use taffrail_model::batch::{Batch, BatchHeader, Compression};
use taffrail_model::{GapReason, LeaderEpoch, LogId, Offset, Timestamp};

use super::build::{begin, exchange, finish};
use super::error::{RepairError, io_at};
use super::sources::{Source, read_sources};
use super::{QUARANTINE, Repair};
use crate::directory::LOGS;
use crate::log::NewBatch;
use crate::segment::{Scanned, Scanner, SegmentHeader, random_salt, segment_path};
use crate::vfs::write_full;

/// What comes next in a log that may have lost something.
#[derive(Debug)]
pub enum Walked {
    /// A sound batch.
    Batch(Batch),
    /// Something is missing here.
    Lost,
}

impl Repair {
    /// Walks through all batches of a log, and says where some are missing in between.
    ///
    /// # Errors
    /// If it is not there, or cannot be read; or what `each` says.
    pub fn walk<E: From<RepairError>>(
        &self,
        log: LogId,
        mut each: impl FnMut(Walked) -> Result<(), E>,
    ) -> Result<(), E> {
        let directory = self.places(log).log;
        let sources = read_sources(self.vfs.as_ref(), &directory, log)?;
        let point = self.points.get(&log).copied().unwrap_or_default();
        let mut at = point.log_start;
        for source in &sources {
            let Ok(contents) = &source.contents else {
                each(Walked::Lost)?;
                continue;
            };
            if at < contents.header.previous_end {
                each(Walked::Lost)?;
            }
            at = at.max(contents.header.base_offset);
            self.walk_segment(source, &mut at, &mut each)?;
        }
        if at < point.recovery_point { each(Walked::Lost) } else { Ok(()) }
    }

    fn walk_segment<E: From<RepairError>>(
        &self,
        source: &Source,
        at: &mut Offset,
        each: &mut impl FnMut(Walked) -> Result<(), E>,
    ) -> Result<(), E> {
        let Ok(contents) = &source.contents else { return Ok(()) };
        let io = io_at(&source.path);
        let file = self.vfs.open_read_only(&source.path).map_err(&io)?;
        let (header, length) = (&contents.header, contents.length);
        let (position, base) = (contents.header_bytes, header.base_offset);
        let mut scanner = Scanner::new(file, header, length, position, base);
        while let Some(scanned) = scanner.next().map_err(&io)? {
            match scanned {
                Scanned::Batch { header, payload, .. } => {
                    *at = header.end_offset();
                    each(Walked::Batch(Batch { header, payload }))?;
                }
                Scanned::Hole(hole) => {
                    *at = hole.to.unwrap_or(*at);
                    each(Walked::Lost)?;
                }
            }
        }
        Ok(())
    }

    /// Where a log is kept that is replaced; `None` if there is none.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn plan_replacement(&self, log: LogId) -> Result<Option<PathBuf>, RepairError> {
        let is_there = self.is_there(&self.places(log).log)?;
        let place = || self.free_place(LOGS, &format!("{log}{QUARANTINE}"), 1);
        is_there.then(place).transpose()
    }

    /// Puts a new log of one batch in the place of a log, and keeps that, if there is one. No offset
    /// of the old one is used again. Durable on return.
    ///
    /// # Errors
    /// If the disk refuses. Then the log is as it was, or the same call ends what was begun.
    pub fn replace(
        &self,
        log: LogId,
        label: &str,
        batch: &NewBatch,
        now: Timestamp,
    ) -> Result<(), RepairError> {
        assert!(self.lock.is_some(), "a directory is held before it is changed");
        let places = self.places(log);
        let kept = self.plan_replacement(log)?;
        let sources = read_sources(self.vfs.as_ref(), &places.log, log)?;
        let point = self.points.get(&log).copied().unwrap_or_default();
        let reached = sources.iter().map(Source::reached).max().unwrap_or_default();
        let base_offset = reached.max(point.recovery_point).max(point.reserved_end);
        let previous_end = point.log_start.min(base_offset);
        let header = SegmentHeader {
            salt: random_salt(self.vfs.as_ref()),
            compacted: false,
            base_offset,
            previous_end,
            gap_reason: (previous_end < base_offset).then_some(GapReason::Quarantine),
            created: now,
            log_id: log,
            label: label.to_owned(),
        };
        begin(self.vfs.as_ref(), &places)?;
        let path = segment_path(&places.repairing, base_offset);
        let made = self.write_batch(&path, &header, batch, point.leader_epoch);
        finish(self.vfs.as_ref(), &places, made.map_err(io_at(&path)))?;
        exchange(self.vfs.as_ref(), &places, kept.as_deref())
    }

    /// Writes a segment of one batch.
    fn write_batch(
        &self,
        path: &std::path::Path,
        segment: &SegmentHeader,
        batch: &NewBatch,
        leader_epoch: LeaderEpoch,
    ) -> io::Result<()> {
        let header = BatchHeader {
            base_offset: segment.base_offset,
            last_offset_delta: batch.record_count - 1,
            leader_epoch,
            producer: None,
            append_time: segment.created,
            max_timestamp: batch.max_timestamp.unwrap_or(segment.created),
            compression: Compression::None,
            kind: batch.kind,
            records_crc: batch.records_crc,
            synced_end: segment.base_offset,
            payload_bytes: batch.payload.len() as u32,
        };
        let mut bytes = segment.encode();
        bytes.extend_from_slice(&header.encode(segment.salt));
        bytes.extend_from_slice(&batch.payload);
        let file = self.vfs.create(path)?;
        write_full(file.as_ref(), 0, &bytes).map_err(|(_, error)| error)?;
        file.sync_data()
    }
}

impl Source {
    /// The offset behind everything that it holds, or held.
    fn reached(&self) -> Offset {
        let contents = self.contents.as_ref().ok();
        let pieces = contents.into_iter().flat_map(|contents| &contents.pieces);
        let holes = contents.into_iter().flat_map(|contents| &contents.holes);
        let ends = pieces.map(|piece| piece.to).chain(holes.filter_map(|hole| hole.to));
        ends.fold(self.base_offset, Offset::max)
    }
}
