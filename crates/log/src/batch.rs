//! Batches on their way in, and where they went.

use bytes::Bytes;
use taffrail_model::batch::{BatchHeader, BatchKind, Compression, HEADER_BYTES};
use taffrail_model::{Offset, ProducerStamp, Timestamp};

/// A batch to append: a payload that was checked, and what the check found.
#[derive(Clone, Debug)]
pub struct NewBatch {
    /// The encoded records.
    pub payload: Bytes,
    /// How they are compressed.
    pub compression: Compression,
    /// CRC-32 of the payload.
    pub records_crc: u32,
    /// Number of records, at least 1.
    pub record_count: u32,
    /// The latest timestamp that a record states.
    pub max_timestamp: Option<Timestamp>,
    /// Whether some record states none.
    pub has_unstamped: bool,
    /// Whose it is.
    pub kind: BatchKind,
    /// The idempotent producer that sent it, if one did.
    pub producer: Option<ProducerStamp>,
}

impl NewBatch {
    /// Its bytes in a log, its header included.
    pub(crate) fn total_bytes(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }
}

/// Where a batch went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// The offset behind its last one.
    pub end_offset: Offset,
    /// When it was appended.
    pub append_time: Timestamp,
}

/// Batches that lie wholly in a file.
pub(crate) struct Whole {
    pub(crate) count: usize,
    pub(crate) bytes: usize,
}

/// The batches that lie wholly within the first `in_file` bytes.
pub(crate) fn whole_batches(headers: &[BatchHeader], in_file: usize) -> Whole {
    let mut whole = Whole { count: 0, bytes: 0 };
    for header in headers {
        let end = whole.bytes + header.total_bytes();
        if end > in_file {
            break;
        }
        whole = Whole { count: whole.count + 1, bytes: end };
    }
    whole
}
