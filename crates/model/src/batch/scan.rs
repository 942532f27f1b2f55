//! Checks a payload that came from outside, before a byte of it is written.
//!
//! One pass, no allocation. Accepts only what every official protobuf decoder accepts, so that no
//! reader in any language chokes on what is stored; says how many records there are and how late
//! the latest is. Unknown fields inside records are kept.

use super::WireError;
use crate::Timestamp;
use crate::wire::{Reader, WireType};

/// What a payload holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanSummary {
    /// Number of records, at least 1.
    pub record_count: u32,
    /// The latest timestamp that a record states, if any does.
    pub max_timestamp: Option<Timestamp>,
    /// Whether some record states none, and so gets the append time.
    pub has_unstamped: bool,
    /// Number of records without a key.
    pub keyless_count: u32,
}

/// Why a payload is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// No records.
    #[error("the batch has no records: send at least one")]
    Empty,
    /// Not protobuf, or not of the declared types.
    #[error("record {record} is not a valid protobuf message: {cause}")]
    Wire {
        /// The record's index in the batch.
        record: u32,
        /// What is wrong.
        cause: WireError,
    },
    /// A header's name is not text.
    #[error("record {record} has a header whose name is not UTF-8")]
    HeaderName {
        /// The record's index in the batch.
        record: u32,
    },
    /// A producer set what only compaction sets.
    #[error("record {record} sets {field}, which is the broker's: leave it out")]
    BrokersOwn {
        /// The record's index in the batch.
        record: u32,
        /// The field.
        field: &'static str,
    },
}

/// Checks `payload`, an uncompressed `RecordSet`.
///
/// # Errors
/// On the first thing that a decoder in some language, or the format, would not take.
pub fn scan(payload: &[u8]) -> Result<ScanSummary, ScanError> {
    let mut summary = ScanSummary {
        record_count: 0,
        max_timestamp: None,
        has_unstamped: false,
        keyless_count: 0,
    };
    let mut reader = Reader::new(payload);
    while !reader.is_empty() {
        let record = summary.record_count;
        let at = |cause| ScanError::Wire { record, cause };
        match reader.tag().map_err(at)? {
            (1, WireType::Length) => {
                let Scanned { timestamp, has_key } =
                    scan_record(record, reader.bytes().map_err(at)?)?;
                summary.record_count += 1;
                summary.keyless_count += u32::from(!has_key);
                if timestamp == 0 {
                    summary.has_unstamped = true;
                } else {
                    let timestamp = Some(Timestamp::from_millis(timestamp));
                    summary.max_timestamp = summary.max_timestamp.max(timestamp);
                }
            }
            (1, _) => return Err(at(WireError::Mismatch { field: 1 })),
            (_, wire_type) => reader.skip(wire_type).map_err(at)?,
        }
    }
    if summary.record_count == 0 { Err(ScanError::Empty) } else { Ok(summary) }
}

/// The places of the records without a key in a payload that was scanned.
pub fn keyless(payload: &[u8]) -> impl Iterator<Item = u32> + '_ {
    let mut reader = Reader::new(payload);
    let mut next = move || {
        while !reader.is_empty() {
            match reader.tag().ok()? {
                (1, WireType::Length) => return scan_record(0, reader.bytes().ok()?).ok(),
                (_, wire_type) => reader.skip(wire_type).ok()?,
            }
        }
        None
    };
    let records = (0..).map_while(move |place| next().map(|scanned| (place, scanned)));
    records.filter(|(_, scanned)| !scanned.has_key).map(|(place, _)| place)
}

/// What one record says.
struct Scanned {
    /// 0 if it states none.
    timestamp: i64,
    has_key: bool,
}

/// Checks one record.
#[inline]
fn scan_record(record: u32, encoded: &[u8]) -> Result<Scanned, ScanError> {
    let at = |cause| ScanError::Wire { record, cause };
    let mut reader = Reader::new(encoded);
    let mut scanned = Scanned { timestamp: 0, has_key: false };
    while !reader.is_empty() {
        match reader.tag().map_err(at)? {
            (field @ (1 | 2), WireType::Length) => {
                reader.bytes().map_err(at)?;
                scanned.has_key |= field == 1;
            }
            (3, WireType::Length) => scan_header(record, reader.bytes().map_err(at)?)?,
            (4, WireType::Varint) => scanned.timestamp = reader.varint().map_err(at)? as i64,
            (5, _) => return Err(ScanError::BrokersOwn { record, field: "offset_delta" }),
            (6, _) => return Err(ScanError::BrokersOwn { record, field: "delete_after_ms" }),
            (field @ 1..=4, _) => return Err(at(WireError::Mismatch { field })),
            (_, wire_type) => reader.skip(wire_type).map_err(at)?,
        }
    }
    Ok(scanned)
}

fn scan_header(record: u32, encoded: &[u8]) -> Result<(), ScanError> {
    let at = |cause| ScanError::Wire { record, cause };
    let mut reader = Reader::new(encoded);
    while !reader.is_empty() {
        match reader.tag().map_err(at)? {
            (1, WireType::Length) => {
                let name = reader.bytes().map_err(at)?;
                std::str::from_utf8(name).map_err(|_| ScanError::HeaderName { record })?;
            }
            (2, WireType::Length) => drop(reader.bytes().map_err(at)?),
            (field @ 1..=2, _) => return Err(at(WireError::Mismatch { field })),
            (_, wire_type) => reader.skip(wire_type).map_err(at)?,
        }
    }
    Ok(())
}
