//! The `.index` file beside a segment that is sealed or cleanly closed.
//!
//! ```text
//! magic 8 | salt 4 | entries 4 | segment length 8 | end offset 8 | base offset 8 | max timestamp 8 |
//! compacted 1 | compaction due 8
//! entry: offset - base 4 | position 4 | max timestamp before 8        ... repeated
//! crc 4
//! ```
//!
//! All little-endian. It is believed only if its CRC holds, and salt, base offset and length are
//! those of the segment.

use std::path::{Path, PathBuf};

use taffrail_model::batch::Salt;
use taffrail_model::{Offset, Timestamp};

use super::{Index, IndexEntry};
use crate::segment::Compacted;

/// What the file begins with.
pub(crate) const MAGIC: [u8; 8] = *b"TAFFIDX1";
const FIXED_BYTES: usize = 57;
const ENTRY_BYTES: usize = 16;
const CRC_BYTES: usize = 4;

/// An index and the segment it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexFile {
    /// The segment's salt.
    pub(crate) salt: Salt,
    /// The segment's length.
    pub(crate) segment_bytes: u64,
    /// The segment's base offset.
    pub(crate) base_offset: Offset,
    /// The offset behind its last record, or behind what it stands for if it was compacted.
    pub(crate) end_offset: Offset,
    /// What compaction says of it, if it was compacted.
    pub(crate) compacted: Option<Compacted>,
    /// The places.
    pub(crate) index: Index,
}

/// The path of the index of the segment at `segment`.
pub(crate) fn index_path(segment: &Path) -> PathBuf {
    segment.with_extension("index")
}

impl IndexFile {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let entries = &self.index.entries;
        let mut bytes = Vec::with_capacity(FIXED_BYTES + entries.len() * ENTRY_BYTES + CRC_BYTES);
        bytes.extend(MAGIC);
        bytes.extend(self.salt.get().to_le_bytes());
        bytes.extend((entries.len() as u32).to_le_bytes());
        bytes.extend(self.segment_bytes.to_le_bytes());
        bytes.extend(self.end_offset.get().to_le_bytes());
        bytes.extend(self.base_offset.get().to_le_bytes());
        bytes.extend(self.index.max_timestamp.as_millis().to_le_bytes());
        bytes.push(self.compacted.is_some().into());
        let due = self.compacted.and_then(|compacted| compacted.due).unwrap_or_default();
        bytes.extend(due.as_millis().to_le_bytes());
        for entry in entries {
            bytes.extend((entry.offset.since(self.base_offset) as u32).to_le_bytes());
            bytes.extend((entry.position as u32).to_le_bytes());
            bytes.extend(entry.max_timestamp_before.as_millis().to_le_bytes());
        }
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }
}

/// Reads an index file; `None` if it is not one, or damaged.
pub(crate) fn decode(bytes: &[u8]) -> Option<IndexFile> {
    let (body, crc) = bytes.split_last_chunk::<CRC_BYTES>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (fixed, entries) = body.split_at_checked(FIXED_BYTES)?;
    if !fixed.starts_with(&MAGIC) {
        return None;
    }
    let base_offset = Offset::new(get_u64(fixed, 32)?);
    let count = get_u32(fixed, 12)? as usize;
    if entries.len() != count * ENTRY_BYTES {
        return None;
    }
    let entries = entries.chunks_exact(ENTRY_BYTES).map(|entry| {
        Some(IndexEntry {
            offset: base_offset.advance(u64::from(get_u32(entry, 0)?)),
            position: u64::from(get_u32(entry, 4)?),
            max_timestamp_before: Timestamp::from_millis(get_u64(entry, 8)? as i64),
        })
    });
    let entries = entries.collect::<Option<Vec<_>>>()?;
    let max_timestamp = Timestamp::from_millis(get_u64(fixed, 40)? as i64);
    let end_offset = Offset::new(get_u64(fixed, 24)?);
    let due = Timestamp::from_millis(get_u64(fixed, 49)? as i64);
    let due = (due != Timestamp::default()).then_some(due);
    let is_compacted = *fixed.get(48)? != 0;
    let segment_bytes = get_u64(fixed, 16)?;
    let compacted = Compacted { end: end_offset, bytes: segment_bytes, due };
    Some(IndexFile {
        salt: Salt::new(get_u32(fixed, 8)?),
        segment_bytes,
        base_offset,
        end_offset,
        compacted: is_compacted.then_some(compacted),
        index: Index { entries, max_timestamp },
    })
}

fn get_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn get_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_index_is_not_believed() {
        let entry = |offset, position| IndexEntry {
            offset: Offset::new(offset),
            position,
            max_timestamp_before: Timestamp::MIN,
        };
        let file = IndexFile {
            salt: Salt::new(9),
            segment_bytes: 70_000,
            base_offset: Offset::new(1 << 40),
            end_offset: Offset::new((1 << 40) + 800),
            compacted: Some(Compacted {
                end: Offset::new((1 << 40) + 800),
                bytes: 70_000,
                due: Some(Timestamp::from_millis(9)),
            }),
            index: Index {
                entries: vec![entry(1 << 40, 86), entry((1 << 40) + 400, 33_000)],
                max_timestamp: Timestamp::from_millis(5),
            },
        };
        let bytes = file.encode();
        assert_eq!(decode(&bytes).as_ref(), Some(&file));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped), None, "bit {bit} went unnoticed");
        }
    }
}
