//! Takes records out of a batch: what compaction does to a payload.
//!
//! What stays keeps its offset, which each record then states itself, and all else that it says, unknown
//! fields included.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Batch, WireError};
use crate::Timestamp;
use crate::wire::{Reader, WireType, put_varint, varint_bytes};

const RECORD_TAG: u8 = 0x0a;
const OFFSET_DELTA_TAG: u8 = 0x28;
const DELETE_AFTER_TAG: u8 = 0x31;

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is taken out.
    Goes,
    /// It stays as it is.
    Stays,
    /// It is a tombstone, and stays; it may go then.
    StaysUntil(Timestamp),
}

/// A payload from which records were taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thinned {
    /// What is left.
    pub payload: Bytes,
    /// Number of records that are left.
    pub record_count: u32,
    /// The latest timestamp of these.
    pub max_timestamp: Timestamp,
}

/// The payload of a batch without the records that go; `fates` has one for each of its records.
///
/// # Errors
/// If the payload is not what a scan accepts.
pub fn thin(batch: &Batch, fates: &[Fate]) -> Result<Thinned, WireError> {
    let mut payload = BytesMut::with_capacity(batch.payload.len());
    let (mut record_count, mut max_timestamp) = (0, Timestamp::MIN);
    for (record, fate) in batch.records().zip(fates) {
        let record = record?;
        let delete_after = match fate {
            Fate::Goes => continue,
            Fate::Stays => record.delete_after,
            Fate::StaysUntil(time) => Some(*time),
        };
        let delta = record.offset.since(batch.header.base_offset);
        put_record(&mut payload, record.encoded, delta, delete_after)?;
        record_count += 1;
        max_timestamp = max_timestamp.max(record.timestamp);
    }
    Ok(Thinned { payload: payload.freeze(), record_count, max_timestamp })
}

/// Writes a record with its offset, and when it may go.
fn put_record(
    out: &mut BytesMut,
    encoded: &[u8],
    delta: u64,
    delete_after: Option<Timestamp>,
) -> Result<(), WireError> {
    let own_bytes = 1 + varint_bytes(delta) + delete_after.map_or(0, |_| 9);
    let mut kept_bytes = 0;
    each_kept(encoded, |field| kept_bytes += field.len())?;
    let body_bytes = kept_bytes + own_bytes;
    out.reserve(1 + varint_bytes(body_bytes as u64) + body_bytes);
    out.put_u8(RECORD_TAG);
    put_varint(out, body_bytes as u64);
    each_kept(encoded, |field| out.put_slice(field))?;
    out.put_u8(OFFSET_DELTA_TAG);
    put_varint(out, delta);
    if let Some(time) = delete_after {
        out.put_u8(DELETE_AFTER_TAG);
        out.put_i64_le(time.as_millis());
    }
    Ok(())
}

/// The fields of a record, tags included, but for those that are written anew.
fn each_kept(encoded: &[u8], mut keep: impl FnMut(&[u8])) -> Result<(), WireError> {
    let mut reader = Reader::new(encoded);
    while !reader.is_empty() {
        let before = reader.rest();
        let (field, wire_type): (u32, WireType) = reader.tag()?;
        reader.skip(wire_type)?;
        if !matches!(field, 5 | 6) {
            keep(before.get(..before.len() - reader.rest().len()).unwrap_or_default());
        }
    }
    Ok(())
}
