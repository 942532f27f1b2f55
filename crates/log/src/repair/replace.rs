//! Reads what is left of a log, and puts a new one in its place. For the broker's own logs, where a gap
//! would be believed.

use std::io;
use std::path::PathBuf;

use taffrail_model::batch::{Batch, BatchHeader, Compression};
use taffrail_model::{GapReason, LeaderEpoch, LogId, Offset, ProducerId, Timestamp};

use super::build::{begin, exchange, finish};
use super::error::{RepairError, io_at};
use super::plan::{cut_torn, start};
use super::sources::{Contents, Piece, Source};
use super::{QUARANTINE, Repair};
use crate::batch::NewBatch;
use crate::directory::LOGS;
use crate::producers::{CHECKPOINTS, read_checkpoint};
use crate::segment::{
    HEADER_BYTES_MAX, Scanned, Scanner, SegmentHeader, decode_header, parse_segment_name,
    random_salt, salvage_header, segment_path,
};
use crate::vfs::{read_bytes, write_full};

/// What comes next in a log that may have lost something.
#[derive(Debug)]
pub enum Walked {
    /// A sound batch.
    Batch(Batch),
    /// Something is missing here.
    Lost,
}

impl Repair {
    /// Walks through all batches of a log, and says where some are missing in between. What a stop left
    /// half written at its end is no loss.
    ///
    /// # Errors
    /// If it cannot be read; or what `each` says.
    pub fn walk<E: From<RepairError>>(
        &self,
        log: LogId,
        mut each: impl FnMut(Walked) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut sources = self.sources(log)?;
        let point = self.points.get(&log).copied();
        let (recovery_point, _) = cut_torn(&mut sources, point.unwrap_or_default().recovery_point);
        let mut at = start(&sources, point);
        for source in &sources {
            let Ok(contents) = &source.contents else { continue };
            for piece in &contents.pieces {
                let told_from =
                    if piece.is_first { contents.header.previous_end } else { piece.from };
                if at < told_from {
                    each(Walked::Lost)?;
                }
                self.walk_piece(source, contents, piece, &mut each)?;
                at = piece.to;
            }
        }
        if at < recovery_point { each(Walked::Lost) } else { Ok(()) }
    }

    fn walk_piece<E: From<RepairError>>(
        &self,
        source: &Source,
        contents: &Contents,
        piece: &Piece,
        each: &mut impl FnMut(Walked) -> Result<(), E>,
    ) -> Result<(), E> {
        let io = io_at(&source.path);
        let file = self.vfs.open_read_only(&source.path).map_err(&io)?;
        let Piece { position, end_position, from, .. } = *piece;
        let mut scanner = Scanner::new(file, &contents.header, end_position, position, from);
        while let Some(scanned) = scanner.next().map_err(&io)? {
            match scanned {
                Scanned::Batch { header, payload, .. } => {
                    each(Walked::Batch(Batch { header, payload }))?;
                }
                // It was sound a moment ago.
                Scanned::Hole(_) => each(Walked::Lost)?,
            }
        }
        Ok(())
    }

    /// What a log says of itself: the header of its last segment that has one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn header(&self, log: LogId) -> Result<Option<SegmentHeader>, RepairError> {
        let directory = self.places(log).log;
        let entries = match self.vfs.list(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_at(&directory)(error)),
        };
        let mut found = None;
        for base in entries.iter().filter_map(|entry| parse_segment_name(&entry.name)) {
            let path = segment_path(&directory, base);
            let file = self.vfs.open_read_only(&path).map_err(io_at(&path))?;
            let bytes = read_bytes(file.as_ref(), 0, HEADER_BYTES_MAX).map_err(io_at(&path))?;
            let sound = decode_header(&bytes).ok().map(|(header, _)| header);
            found = sound.filter(|header| header.log_id == log).or(found);
        }
        match (found, entries.iter().find_map(|entry| parse_segment_name(&entry.name))) {
            (None, Some(base)) => {
                let path = segment_path(&directory, base);
                let salvaged = salvage_header(self.vfs.as_ref(), &path, log, base);
                Ok(salvaged.map_err(io_at(&path))?.map(|salvaged| salvaged.header))
            }
            (found, _) => Ok(found),
        }
    }

    /// The latest idempotent producer that a log knows anything of. Reads all of it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn last_producer(&self, log: LogId) -> Result<Option<ProducerId>, RepairError> {
        let directory = self.places(log).log;
        let sources = self.sources(log)?;
        let contents = sources.iter().filter_map(|source| source.contents.as_ref().ok());
        let sent = contents.filter_map(|contents| contents.last_producer);
        let checkpoints = CHECKPOINTS.iter().filter_map(|name| {
            read_checkpoint(self.vfs.as_ref(), &directory.join(name)).ok()??.producers.last()
        });
        Ok(sent.chain(checkpoints).max())
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

    /// Puts a new log of these batches in the place of a log, and keeps that, if there is one. No offset
    /// of the old one is used again. Durable on return.
    ///
    /// # Errors
    /// If the disk refuses. Then the log is as it was, or the same call ends what was begun.
    pub fn replace(
        &self,
        log: LogId,
        label: &str,
        batches: &[NewBatch],
        now: Timestamp,
    ) -> Result<(), RepairError> {
        assert!(self.lock.is_some(), "a directory is held before it is changed");
        let places = self.places(log);
        let kept = self.plan_replacement(log)?;
        let sources = self.sources(log)?;
        let point = self.points.get(&log).copied().unwrap_or_default();
        let reached = sources.iter().map(Source::reached).max().unwrap_or_default();
        let base_offset = reached.max(point.recovery_point).max(point.reserved_end);
        let previous_end = point.log_start.min(base_offset);
        let header = SegmentHeader {
            salt: random_salt(self.vfs.as_ref()),
            compacted: None,
            base_offset,
            previous_end,
            gap_reason: (previous_end < base_offset).then_some(GapReason::Quarantine),
            created: now,
            log_id: log,
            label: label.to_owned(),
        };
        begin(self.vfs.as_ref(), &places)?;
        let path = segment_path(&places.repairing, base_offset);
        let made = self.write_batches(&path, &header, batches, point.leader_epoch);
        finish(self.vfs.as_ref(), &places, made.map_err(io_at(&path)))?;
        exchange(self.vfs.as_ref(), &places, kept.as_deref())
    }

    /// Writes a segment of these batches.
    fn write_batches(
        &self,
        path: &std::path::Path,
        segment: &SegmentHeader,
        batches: &[NewBatch],
        leader_epoch: LeaderEpoch,
    ) -> io::Result<()> {
        let mut bytes = segment.encode();
        let mut base_offset = segment.base_offset;
        for batch in batches {
            let header = BatchHeader {
                base_offset,
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
            bytes.extend_from_slice(&header.encode(segment.salt));
            bytes.extend_from_slice(&batch.payload);
            base_offset = header.end_offset();
        }
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
