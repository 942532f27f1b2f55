//! From one batch to the next, without opening payloads.

use bytes::Bytes;

use super::{BatchHeader, HEADER_BYTES, HeaderBytes, HeaderError, Records, Salt, records_crc};
use crate::{Offset, limits};

/// A batch in memory: its header, and its payload as a shared slice.
#[derive(Clone, Debug)]
pub struct Batch {
    /// What it says of itself.
    pub header: BatchHeader,
    /// The encoded records.
    pub payload: Bytes,
}

impl Batch {
    /// Its records, in the order of their offsets.
    pub fn records(&self) -> Records<'_> {
        Records::new(&self.header, &self.payload)
    }

    /// Whether the payload is what the producer sent. Reads all of it.
    pub fn is_sound(&self) -> bool {
        records_crc(&self.payload) == self.header.records_crc
    }
}

/// Walks over canonical batches that lie one behind the other.
///
/// Yields whole batches only; where the bytes end inside a batch the walk ends, and
/// [`Batches::position`] says where.
#[derive(Clone, Debug)]
pub struct Batches {
    bytes: Bytes,
    salt: Option<Salt>,
    position: usize,
}

/// Why a walk cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no batch begins at byte {position}: {cause}")]
pub struct WalkError {
    /// Bytes from the start of the walk.
    pub position: usize,
    /// What is wrong there.
    pub cause: HeaderError,
}

impl Batches {
    /// Walks over what came from a segment with this salt; each header's CRC is checked.
    pub const fn verified(bytes: Bytes, salt: Salt) -> Self {
        Self { bytes, salt: Some(salt), position: 0 }
    }

    /// Walks over what came over a connection; header CRCs, whose salt stays with the broker, are
    /// not checked.
    pub const fn received(bytes: Bytes) -> Self {
        Self { bytes, salt: None, position: 0 }
    }

    /// Bytes walked over so far: where the next batch begins.
    pub const fn position(&self) -> usize {
        self.position
    }

    /// The next batch's header, if all of it is there; does not move.
    ///
    /// # Errors
    /// If what is there is not a header.
    pub fn peek(&self) -> Result<Option<BatchHeader>, WalkError> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let Some(header) = rest.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = match self.salt {
            Some(salt) => BatchHeader::decode(header, salt),
            None => BatchHeader::decode_unverified(header),
        };
        header.map(Some).map_err(|cause| WalkError { position: self.position, cause })
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, WalkError>;

    fn next(&mut self) -> Option<Self::Item> {
        let header = match self.peek() {
            Ok(header) => header?,
            Err(error) => {
                self.position = self.bytes.len();
                return Some(Err(error));
            }
        };
        let end = self.position + header.total_bytes();
        if end > self.bytes.len() {
            return None;
        }
        let payload = self.bytes.slice(self.position + HEADER_BYTES..end);
        self.position = end;
        Some(Ok(Batch { header, payload }))
    }
}

/// The first header in `bytes` whose CRC holds and whose base offset is at least `base_min`:
/// where it begins, and what it says. Searches byte by byte.
pub fn find_header(bytes: &[u8], salt: Salt, base_min: Offset) -> Option<(usize, BatchHeader)> {
    bytes.windows(HEADER_BYTES).enumerate().find_map(|(position, window)| {
        // Two cheap looks before the CRC: the tags of the batch and of its CRC.
        if window[0] != 0x12 || window[5] != 0x0d {
            return None;
        }
        let header: &HeaderBytes = window.try_into().ok()?;
        let header = BatchHeader::decode(header, salt).ok()?;
        let plausible = header.total_bytes() <= limits::BATCH_BYTES_MAX as usize;
        (plausible && header.base_offset >= base_min).then_some((position, header))
    })
}
