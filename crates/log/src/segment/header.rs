//! The first bytes of a segment file: which log it belongs to, and where it begins.
//!
//! ```text
//!  0  tag of `header`, padded length   25  base_offset            57  log_id, 16 bytes
//!  5  crc                              34  previous_end           75  label, padded length
//! 10  format_version                   43  gap_reason             78  the label's bytes
//! 15  salt                             48  created_ms
//! 20  compacted
//! ```

use taffrail_model::batch::Salt;
use taffrail_model::{Gap, GapReason, LogId, Offset, Timestamp, limits};

/// The version of the layout that is written and read.
pub(super) const FORMAT_VERSION: u32 = 1;

/// Bytes of a header before its label.
pub(super) const FIXED_BYTES: usize = 78;

/// Bytes of a header with the longest label.
pub(crate) const HEADER_BYTES_MAX: usize = FIXED_BYTES + limits::LABEL_BYTES_MAX;

/// What a segment says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// What the CRCs of its batch headers start with.
    pub salt: Salt,
    /// Whether compaction wrote it.
    pub compacted: bool,
    /// Offset of the first record that can be in it.
    pub base_offset: Offset,
    /// Where the log ended before it.
    pub previous_end: Offset,
    /// Why offsets are missing in between, if any are.
    pub gap_reason: Option<GapReason>,
    /// When it was made.
    pub created: Timestamp,
    /// The log it belongs to.
    pub log_id: LogId,
    /// What that log was called then.
    pub label: String,
}

/// Why bytes are not the header of a segment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentHeaderError {
    /// The file ends inside it.
    #[error("the file ends inside the segment header")]
    Truncated,
    /// It is not spelled as a header is.
    #[error("the segment header is damaged at its byte {at}")]
    Damaged {
        /// The byte.
        at: usize,
    },
    /// Its CRC does not fit.
    #[error("segment header crc {found:#010x}, computed {computed:#010x}")]
    Crc {
        /// What the header says.
        found: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// A newer version of Taffrail wrote it.
    #[error("segment format {found}; this version reads {FORMAT_VERSION}: use a newer Taffrail")]
    Version {
        /// The format it states.
        found: u32,
    },
}

impl SegmentHeader {
    /// The header's bytes: what the file begins with.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let label = self.label.as_bytes();
        let label = label.get(..limits::LABEL_BYTES_MAX).unwrap_or(label);
        let mut bytes = Vec::with_capacity(FIXED_BYTES + label.len());
        let message_bytes = (FIXED_BYTES - 5 + label.len()) as u32;
        bytes.push(0x0a);
        bytes.extend(padded_length(message_bytes));
        put_u32(&mut bytes, 0x0d, 0);
        put_u32(&mut bytes, 0x15, FORMAT_VERSION);
        put_u32(&mut bytes, 0x1d, self.salt.get());
        put_u32(&mut bytes, 0x25, u32::from(self.compacted));
        put_u64(&mut bytes, 0x29, self.base_offset.get());
        put_u64(&mut bytes, 0x31, self.previous_end.get());
        put_u32(&mut bytes, 0x3d, self.gap_reason.map_or(0, GapReason::code));
        put_u64(&mut bytes, 0x41, self.created.as_millis() as u64);
        bytes.extend([0x4a, LogId::BYTES as u8]);
        bytes.extend(self.log_id.bytes());
        bytes.extend([0x52, label.len() as u8 | 0x80, (label.len() >> 7) as u8]);
        assert_eq!(bytes.len(), FIXED_BYTES, "the fields have constant places");
        bytes.extend(label);
        let crc = header_crc(&bytes);
        bytes[6..10].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The offsets that are missing in front of the segment, if it says why.
    pub(crate) fn gap(&self) -> Option<Gap> {
        let (from, to) = (self.previous_end, self.base_offset);
        self.gap_reason.map(|reason| Gap { from, to, reason })
    }
}

/// Reads the header that `bytes` begin with, and says how long it is.
pub(crate) fn decode_header(bytes: &[u8]) -> Result<(SegmentHeader, usize), SegmentHeaderError> {
    let fixed: &[u8; FIXED_BYTES] = bytes.first_chunk().ok_or(SegmentHeaderError::Truncated)?;
    let tag = |at: usize, tag: u8| {
        if fixed[at] == tag { Ok(()) } else { Err(SegmentHeaderError::Damaged { at }) }
    };
    for (at, value) in
        [(0, 0x0a), (5, 0x0d), (10, 0x15), (15, 0x1d), (20, 0x25), (25, 0x29), (34, 0x31)]
    {
        tag(at, value)?;
    }
    for (at, value) in [(43, 0x3d), (48, 0x41), (57, 0x4a), (58, LogId::BYTES as u8), (75, 0x52)] {
        tag(at, value)?;
    }
    let label_bytes = usize::from(fixed[76] & 0x7f) | usize::from(fixed[77]) << 7;
    let length = FIXED_BYTES + label_bytes;
    let canonical = fixed[1..5] == padded_length((length - 5) as u32) && fixed[76] >= 0x80;
    if label_bytes > limits::LABEL_BYTES_MAX || !canonical {
        return Err(SegmentHeaderError::Damaged { at: 1 });
    }
    let whole = bytes.get(..length).ok_or(SegmentHeaderError::Truncated)?;
    let found = get_u32(fixed, 6);
    let computed = header_crc(whole);
    if found != computed {
        return Err(SegmentHeaderError::Crc { found, computed });
    }
    let version = get_u32(fixed, 11);
    if version != FORMAT_VERSION {
        return Err(SegmentHeaderError::Version { found: version });
    }
    let mut log_id = [0; LogId::BYTES];
    log_id.copy_from_slice(&fixed[59..75]);
    let header = SegmentHeader {
        salt: Salt::new(get_u32(fixed, 16)),
        compacted: get_u32(fixed, 21) != 0,
        base_offset: Offset::new(get_u64(fixed, 26)),
        previous_end: Offset::new(get_u64(fixed, 35)),
        gap_reason: GapReason::from_code(get_u32(fixed, 44)),
        created: Timestamp::from_millis(get_u64(fixed, 49) as i64),
        log_id: LogId::new(log_id),
        label: String::from_utf8_lossy(whole.get(FIXED_BYTES..).unwrap_or_default()).into_owned(),
    };
    Ok((header, length))
}

/// CRC of all bytes but the CRC's own.
fn header_crc(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..6]);
    hasher.update(&bytes[10..]);
    hasher.finalize()
}

fn padded_length(value: u32) -> [u8; 4] {
    [value as u8 | 0x80, (value >> 7) as u8 | 0x80, (value >> 14) as u8 | 0x80, 0]
}

fn put_u32(bytes: &mut Vec<u8>, tag: u8, value: u32) {
    bytes.push(tag);
    bytes.extend(value.to_le_bytes());
}

fn put_u64(bytes: &mut Vec<u8>, tag: u8, value: u64) {
    bytes.push(tag);
    bytes.extend(value.to_le_bytes());
}

fn get_u32(bytes: &[u8; FIXED_BYTES], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

fn get_u64(bytes: &[u8; FIXED_BYTES], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            salt: Salt::new(7),
            compacted: false,
            base_offset: Offset::new(100),
            previous_end: Offset::new(90),
            gap_reason: Some(GapReason::PowerLoss),
            created: Timestamp::from_millis(-5),
            log_id: LogId::new(*b"sixteen bytes id"),
            label: "quakes/3".into(),
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = header().encode();
        assert_eq!(decode_header(&bytes), Ok((header(), bytes.len())));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_header(&flipped).is_err(), "bit {bit} went unnoticed");
        }
        for length in 0..bytes.len() {
            assert!(decode_header(&bytes[..length]).is_err(), "cut at {length}");
        }
    }
}
