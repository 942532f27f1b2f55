//! Reads a segment batch by batch and checks everything: the slow, careful way.
//!
//! Used where trust has to be won or has been lost: recovery, rebuilding an index, a read that met
//! damage, offline verification. Behind damage it searches for the next batch, so that the damaged
//! range of offsets is known exactly.

use std::io;

use bytes::Bytes;
use taffrail_model::batch::{BatchHeader, Batches, HEADER_BYTES, find_header, records_crc};
use taffrail_model::{LeaderEpoch, Offset, limits};

use super::SegmentHeader;
use crate::vfs::{File, read_bytes};

const CHUNK_BYTES: usize = 1 << 20;

/// Reads a segment's batches in order.
pub(crate) struct Scanner<'a> {
    file: &'a dyn File,
    header: &'a SegmentHeader,
    length: u64,
    position: u64,
    expected: Offset,
    epoch: LeaderEpoch,
    chunk: Bytes,
    chunk_position: u64,
}

/// What comes next in a segment.
#[derive(Debug)]
pub(crate) enum Scanned {
    /// A valid batch.
    Batch {
        /// Where it begins.
        position: u64,
        /// What it says of itself.
        header: BatchHeader,
        /// Its records.
        payload: Bytes,
    },
    /// Bytes that are not one.
    Hole(Hole),
}

/// Bytes that are not a valid batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    /// Where they begin.
    pub(crate) position: u64,
    /// Where the next batch begins, or the file ends.
    pub(crate) end_position: u64,
    /// The first offset they should have held.
    pub(crate) from: Offset,
    /// The base offset of the next batch; `None` if there is none in this file.
    pub(crate) to: Option<Offset>,
    /// What is wrong with them.
    pub(crate) cause: String,
}

impl<'a> Scanner<'a> {
    /// Scans from `position`, where a batch with base offset `expected` should begin, up to `length`.
    pub(crate) fn new(
        file: &'a dyn File,
        header: &'a SegmentHeader,
        length: u64,
        position: u64,
        expected: Offset,
    ) -> Self {
        Self {
            file,
            header,
            length,
            position,
            expected,
            epoch: LeaderEpoch::ZERO,
            chunk: Bytes::new(),
            chunk_position: position,
        }
    }

    /// The next batch or hole; `None` at the end.
    ///
    /// # Errors
    /// If the file cannot be read, which says nothing about what it holds.
    pub(crate) fn next(&mut self) -> io::Result<Option<Scanned>> {
        if self.position >= self.length {
            return Ok(None);
        }
        let cause = match self.batch()? {
            Ok((header, payload)) => {
                let position = self.position;
                self.position += header.total_bytes() as u64;
                self.expected = header.end_offset();
                self.epoch = header.leader_epoch;
                return Ok(Some(Scanned::Batch { position, header, payload }));
            }
            Err(cause) => cause,
        };
        let (position, from) = (self.position, self.expected);
        let next = self.search()?;
        let (end_position, to) = match next {
            Some((end_position, to)) => (end_position, Some(to)),
            None => (self.length, None),
        };
        self.position = end_position;
        self.expected = to.unwrap_or(from);
        Ok(Some(Scanned::Hole(Hole { position, end_position, from, to, cause })))
    }

    /// The batch at the current position, or what is wrong with it.
    fn batch(&mut self) -> io::Result<Result<(BatchHeader, Bytes), String>> {
        let bytes = self.window(HEADER_BYTES)?;
        let header = match Batches::verified(bytes, self.header.salt).peek() {
            Ok(Some(header)) => header,
            Ok(None) => return Ok(Err("the file ends inside a batch header".into())),
            Err(error) => return Ok(Err(error.cause.to_string())),
        };
        if let Err(cause) = self.check_order(&header) {
            return Ok(Err(cause));
        }
        if header.total_bytes() as u64 > self.length - self.position {
            return Ok(Err("the file ends inside a batch".into()));
        }
        let batch = self.window(header.total_bytes())?;
        if batch.len() < header.total_bytes() {
            return Ok(Err("the file ends inside a batch".into()));
        }
        let payload = batch.slice(HEADER_BYTES..header.total_bytes());
        let computed = records_crc(&payload);
        if computed != header.records_crc {
            let found = header.records_crc;
            return Ok(Err(format!("records crc {found:#010x}, computed {computed:#010x}")));
        }
        Ok(Ok((header, payload)))
    }

    fn check_order(&self, header: &BatchHeader) -> Result<(), String> {
        let (expected, found) = (self.expected, header.base_offset);
        let follows = found == expected || self.header.compacted && found > expected;
        if !follows {
            return Err(format!("base offset {found} where {expected} was expected"));
        }
        if header.leader_epoch < self.epoch {
            return Err(format!("leader epoch {} after {}", header.leader_epoch, self.epoch));
        }
        if header.synced_end > header.base_offset {
            return Err(format!("synced end {} above its own offset", header.synced_end));
        }
        if header.total_bytes() > limits::BATCH_BYTES_MAX as usize + HEADER_BYTES {
            return Err(format!("a batch of {} bytes", header.total_bytes()));
        }
        Ok(())
    }

    /// Searches behind the current position for the next header that could follow.
    fn search(&mut self) -> io::Result<Option<(u64, Offset)>> {
        let mut from = self.position + 1;
        while from + HEADER_BYTES as u64 <= self.length {
            let length = (self.length - from).min((CHUNK_BYTES + HEADER_BYTES) as u64);
            let bytes = read_bytes(self.file, from, length as usize)?;
            if let Some((at, header)) = find_header(&bytes, self.header.salt, self.expected) {
                return Ok(Some((from + at as u64, header.base_offset)));
            }
            from += CHUNK_BYTES as u64;
        }
        Ok(None)
    }

    /// At least `length` bytes at the current position, fewer only at the end.
    fn window(&mut self, length: usize) -> io::Result<Bytes> {
        let skip = (self.position - self.chunk_position) as usize;
        if self.chunk.len() < skip + length {
            let wanted = (CHUNK_BYTES.max(length) as u64).min(self.length - self.position);
            self.chunk = read_bytes(self.file, self.position, wanted as usize)?;
            self.chunk_position = self.position;
            return Ok(self.chunk.clone());
        }
        Ok(self.chunk.slice(skip..))
    }
}
