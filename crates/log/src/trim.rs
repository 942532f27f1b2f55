//! What a reader wants, and how it is cut out of the bytes that were read for it.

use std::ops::Range;

use bytes::Bytes;
use taffrail_model::Offset;
use taffrail_model::batch::{Batches, HEADER_BYTES, records_crc};

use crate::segment::SegmentHeader;

/// What to read.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequest {
    /// The offset to begin at; the first batch may begin before it.
    pub from: Offset,
    /// The offset to stop before: what is not committed is not read.
    pub limit: Offset,
    /// Bytes to return at most; the first batch comes even if it is larger.
    pub bytes_max: usize,
}

/// What was found in a window of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trim {
    /// Whole batches that the request asks for.
    Found {
        /// Where in the window.
        range: Range<usize>,
        /// The offset behind the last one.
        next: Offset,
    },
    /// The window ends inside the first batch that is wanted, or before it.
    Partial {
        /// Bytes of batches that are not wanted.
        skipped: usize,
        /// The offset at which the next batch begins.
        expected: Offset,
        /// Bytes that are needed there.
        batch_bytes: usize,
    },
    /// The next batch is at or above the limit.
    Nothing,
    /// What lies in front of anything that is wanted is not a sound batch.
    Damaged,
}

/// Cuts the batches that `request` asks for out of `bytes` of a segment, which begin with the batch whose
/// base offset is `expected`, or where it was, if the segment was compacted. With `verify` payloads that
/// are returned are checked.
pub(crate) fn trim(
    bytes: &Bytes,
    segment: &SegmentHeader,
    mut expected: Offset,
    request: &ReadRequest,
    verify: bool,
) -> Trim {
    let mut batches = Batches::verified(bytes.clone(), segment.salt);
    let mut start = None;
    loop {
        let position = batches.position();
        let found = start.map(|start| Trim::Found { range: start..position, next: expected });
        let header = match batches.peek() {
            Ok(Some(header)) if header.base_offset >= expected => header,
            Ok(None) => {
                let batch_bytes = HEADER_BYTES;
                return found.unwrap_or(Trim::Partial { skipped: position, expected, batch_bytes });
            }
            Ok(Some(_)) | Err(_) => return found.unwrap_or(Trim::Damaged),
        };
        let is_missing = header.base_offset != expected && request.from < header.base_offset;
        if is_missing && segment.compacted.is_none() {
            return found.unwrap_or(Trim::Damaged);
        }
        if header.base_offset >= request.limit {
            return found.unwrap_or(Trim::Nothing);
        }
        let end = position + header.total_bytes();
        let wanted = header.last_offset() >= request.from;
        if start.is_some_and(|start| end - start > request.bytes_max) {
            return found.unwrap_or(Trim::Nothing);
        }
        let Some(payload) = bytes.get(position + HEADER_BYTES..end) else {
            let batch_bytes = header.total_bytes();
            return found.unwrap_or(Trim::Partial { skipped: position, expected, batch_bytes });
        };
        if wanted {
            if verify && records_crc(payload) != header.records_crc {
                return found.unwrap_or(Trim::Damaged);
            }
            start.get_or_insert(position);
        }
        expected = header.end_offset();
        // Cannot fail or end: the header was peeked at and the payload is there.
        let _ = batches.next();
    }
}
