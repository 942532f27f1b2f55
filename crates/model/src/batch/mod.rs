//! The record batch: records that are appended, stored and handed out together.
//!
//! One format from the producer's encoder to the consumer's decoder. A batch is a protobuf message
//! `taffrail.v1.RecordBatch` as an element of the repeated field 2 of its segment, written
//! canonically: a header of [`HEADER_BYTES`] at constant positions, then the payload, which is an
//! encoded `RecordSet`, perhaps compressed, that nobody on the way changes.
//!
//! ```text
//! 0     5           10                          84      89
//! | tag | header_crc | offsets, epochs, times … | length | payload: RecordSet |
//! | len |            |                          |        |                    |
//! ```
//!
//! A compressed payload is stored and handed out as it came; whoever wants its records opens it.
//! Deliberately absent: any other copy of the payload.

mod builder;
mod compression;
mod header;
mod records;
mod scan;
mod thin;
mod walk;

pub use builder::{RecordFields, RecordSetBuilder};
pub use compression::{Compression, Compressions, OpenError};
pub use header::{BatchHeader, BatchKind, HEADER_BYTES, HeaderBytes, HeaderError, Salt};
pub use records::{HeaderView, Headers, RecordView, Records};
pub use scan::{ScanError, ScanSummary, keyless, scan};
pub use thin::{Fate, Thinned, thin};
pub use walk::{Batch, Batches, WalkError, find_header};

pub use crate::wire::WireError;

/// The checksum of a payload: CRC-32 as zlib computes it.
pub fn records_crc(payload: &[u8]) -> u32 {
    crc32fast::hash(payload)
}

#[cfg(test)]
mod tests;
