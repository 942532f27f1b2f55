//! Reads a segment batch by batch and checks everything: the slow, careful way.
//!
//! Used where trust has to be won or has been lost: recovery, rebuilding an index, a read that met
//! damage, offline verification. Behind damage it searches for the next batch, so that the damaged
//! range of offsets is known exactly.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use taffrail_model::batch::{BatchHeader, Batches, HEADER_BYTES, Salt, find_header, records_crc};
use taffrail_model::{LeaderEpoch, Offset, limits};

use super::SegmentHeader;
use crate::vfs::{File, read_bytes};

const CHUNK_BYTES: usize = 1 << 20;

/// Reads a segment's batches in order.
#[derive(Debug)]
pub(crate) struct Scanner {
    file: Arc<dyn File>,
    salt: Salt,
    is_compacted: bool,
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
    /// The offset at which the log goes on behind them; `None` if this file does not say.
    pub(crate) to: Option<Offset>,
    /// The offset below which all was synced when they were written, if their header is sound.
    pub(crate) synced_end: Offset,
    /// What is wrong with them.
    pub(crate) cause: String,
}

/// Why the bytes at a position are not a valid batch.
struct Invalid {
    cause: String,
    /// Their header, if it is sound by itself.
    header: Option<BatchHeader>,
    /// Whether only the payload is wrong: then the header says where the next batch begins.
    is_payload: bool,
}

impl Invalid {
    fn without_header(cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), header: None, is_payload: false }
    }

    fn with_header(header: BatchHeader, cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), header: Some(header), is_payload: false }
    }
}

impl Scanner {
    /// Scans from `position`, where a batch with base offset `expected` should begin, up to `length`.
    pub(crate) fn new(
        file: Arc<dyn File>,
        header: &SegmentHeader,
        length: u64,
        position: u64,
        expected: Offset,
    ) -> Self {
        Self {
            file,
            salt: header.salt,
            is_compacted: header.compacted.is_some(),
            length,
            position,
            expected,
            epoch: LeaderEpoch::ZERO,
            chunk: Bytes::new(),
            chunk_position: position,
        }
    }

    /// The offset behind what was scanned so far.
    pub(crate) fn reached(&self) -> Offset {
        self.expected
    }

    /// The next batch or hole; `None` at the end.
    ///
    /// # Errors
    /// If the file cannot be read, which says nothing about what it holds.
    pub(crate) fn next(&mut self) -> io::Result<Option<Scanned>> {
        if self.position >= self.length {
            return Ok(None);
        }
        let invalid = match self.batch()? {
            Ok((header, payload)) => {
                let position = self.position;
                self.position += header.total_bytes() as u64;
                self.expected = header.end_offset();
                self.epoch = header.leader_epoch;
                return Ok(Some(Scanned::Batch { position, header, payload }));
            }
            Err(invalid) => invalid,
        };
        let (position, from) = (self.position, self.expected);
        let Invalid { cause, header, is_payload } = invalid;
        let next = match &header {
            Some(header) if is_payload => {
                Some((position + header.total_bytes() as u64, header.end_offset()))
            }
            _ => self.search()?,
        };
        let (end_position, to) = match next {
            Some((end_position, to)) => (end_position, Some(to)),
            None => (self.length, None),
        };
        self.position = end_position;
        self.expected = to.unwrap_or(from);
        let synced_end = header.map_or(Offset::ZERO, |h| h.synced_end.min(h.base_offset));
        Ok(Some(Scanned::Hole(Hole { position, end_position, from, to, synced_end, cause })))
    }

    /// The batch at the current position, or what is wrong with it.
    fn batch(&mut self) -> io::Result<Result<(BatchHeader, Bytes), Invalid>> {
        let bytes = self.window(HEADER_BYTES)?;
        let header = match Batches::verified(bytes, self.salt).peek() {
            Ok(Some(header)) => header,
            Ok(None) => {
                return Ok(Err(Invalid::without_header("the file ends inside a batch header")));
            }
            Err(error) => return Ok(Err(Invalid::without_header(error.cause.to_string()))),
        };
        if let Err(cause) = self.check_order(&header) {
            return Ok(Err(Invalid::with_header(header, cause)));
        }
        let total_bytes = header.total_bytes();
        let fits = total_bytes as u64 <= self.length - self.position;
        let batch = if fits { self.window(total_bytes)? } else { Bytes::new() };
        if batch.len() < total_bytes {
            return Ok(Err(Invalid::with_header(header, "the file ends inside a batch")));
        }
        let payload = batch.slice(HEADER_BYTES..total_bytes);
        let (found, computed) = (header.records_crc, records_crc(&payload));
        if computed != found {
            let cause = format!("records crc {found:#010x}, computed {computed:#010x}");
            return Ok(Err(Invalid { cause, header: Some(header), is_payload: true }));
        }
        Ok(Ok((header, payload)))
    }

    fn check_order(&self, header: &BatchHeader) -> Result<(), String> {
        let (expected, found) = (self.expected, header.base_offset);
        let follows = found == expected || self.is_compacted && found > expected;
        if !follows {
            return Err(format!("base offset {found} where {expected} was expected"));
        }
        if header.leader_epoch < self.epoch {
            return Err(format!("leader epoch {} after {}", header.leader_epoch, self.epoch));
        }
        if header.synced_end > header.base_offset {
            return Err(format!("synced end {} above its own offset", header.synced_end));
        }
        if header.total_bytes() > limits::BATCH_BYTES_MAX as usize {
            return Err(format!("a batch of {} bytes", header.total_bytes()));
        }
        Ok(())
    }

    /// Searches behind the current position, byte by byte, for the next header that could follow.
    fn search(&mut self) -> io::Result<Option<(u64, Offset)>> {
        let mut from = self.position + 1;
        while from + HEADER_BYTES as u64 <= self.length {
            let length = (self.length - from).min((CHUNK_BYTES + HEADER_BYTES) as u64);
            let bytes = read_bytes(self.file.as_ref(), from, length as usize)?;
            if let Some((at, header)) = find_header(&bytes, self.salt, self.expected) {
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
            self.chunk = read_bytes(self.file.as_ref(), self.position, wanted as usize)?;
            self.chunk_position = self.position;
            return Ok(self.chunk.clone());
        }
        Ok(self.chunk.slice(skip..))
    }
}
