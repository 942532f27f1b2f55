//! The first bytes of a segment file: which log it belongs to, and where it begins.
//!
//! ```text
//!  0  tag of `header`, padded length   29  compacted_bytes        65  gap_reason
//!  5  crc                              38  compaction_due_ms      70  created_ms
//! 10  format_version                   47  base_offset            79  log_id, 16 bytes
//! 15  salt                             56  previous_end           97  label, padded length
//! 20  compacted_end                                              100  the label's bytes
//! ```

use taffrail_model::batch::Salt;
use taffrail_model::{Gap, GapReason, LogId, Offset, Timestamp, limits};

/// The version of the layout that is written and read.
pub(super) const FORMAT_VERSION: u32 = 1;

/// Bytes of a header before its label.
pub(super) const FIXED_BYTES: usize = LABEL + 3;

/// Where the fields begin whose places are looked at.
pub(super) const CRC: usize = 5;
pub(super) const VERSION: usize = 10;
pub(super) const SALT: usize = 15;
pub(super) const COMPACTED_END: usize = 20;
pub(super) const COMPACTED_BYTES: usize = 29;
pub(super) const COMPACTION_DUE: usize = 38;
pub(crate) const BASE_OFFSET: usize = 47;
pub(super) const PREVIOUS_END: usize = 56;
pub(super) const GAP_REASON: usize = 65;
pub(super) const CREATED: usize = 70;
pub(super) const LOG_ID: usize = 79;
pub(super) const LABEL: usize = 97;

/// What each begins with.
pub(super) const TAGS: [(usize, u8); 13] = [
    (0, 0x0a),
    (CRC, 0x0d),
    (VERSION, 0x15),
    (SALT, 0x1d),
    (COMPACTED_END, 0x21),
    (COMPACTED_BYTES, 0x29),
    (COMPACTION_DUE, 0x31),
    (BASE_OFFSET, 0x39),
    (PREVIOUS_END, 0x41),
    (GAP_REASON, 0x4d),
    (CREATED, 0x51),
    (LOG_ID, 0x5a),
    (LABEL, 0x62),
];

/// Bytes of a header with the longest label.
pub(crate) const HEADER_BYTES_MAX: usize = FIXED_BYTES + limits::LABEL_BYTES_MAX;

/// What a segment says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// What the CRCs of its batch headers start with.
    pub salt: Salt,
    /// What compaction says of it, if it was compacted.
    pub compacted: Option<Compacted>,
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

/// What compaction says of a segment that it wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// It stands for all offsets below this, whether or not there are records left.
    pub end: Offset,
    /// Length of its file: nothing behind it says where it should end.
    pub bytes: u64,
    /// When a tombstone in it may go, if it has one.
    pub due: Option<Timestamp>,
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
        let due = self.compacted.and_then(|compacted| compacted.due).unwrap_or_default();
        put_u32(&mut bytes, 0x0d, 0);
        put_u32(&mut bytes, 0x15, FORMAT_VERSION);
        put_u32(&mut bytes, 0x1d, self.salt.get());
        put_u64(&mut bytes, 0x21, self.compacted.map_or(0, |compacted| compacted.end.get()));
        put_u64(&mut bytes, 0x29, self.compacted.map_or(0, |compacted| compacted.bytes));
        put_u64(&mut bytes, 0x31, due.as_millis() as u64);
        put_u64(&mut bytes, 0x39, self.base_offset.get());
        put_u64(&mut bytes, 0x41, self.previous_end.get());
        put_u32(&mut bytes, 0x4d, self.gap_reason.map_or(0, GapReason::code));
        put_u64(&mut bytes, 0x51, self.created.as_millis() as u64);
        bytes.extend([0x5a, LogId::BYTES as u8]);
        bytes.extend(self.log_id.bytes());
        bytes.extend([0x62, label.len() as u8 | 0x80, (label.len() >> 7) as u8]);
        assert_eq!(bytes.len(), FIXED_BYTES, "the fields have constant places");
        bytes.extend(label);
        let crc = header_crc(&bytes);
        bytes[CRC + 1..VERSION].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The offset below which it stands for all, if it was compacted; else where it begins.
    pub(crate) fn covered_end(&self) -> Offset {
        self.compacted.map_or(self.base_offset, |compacted| compacted.end)
    }

    /// Where its batches should end in its file, which has `file_bytes`: of a compacted one that was cut,
    /// those that are missing are damage.
    pub(crate) fn length(&self, file_bytes: u64) -> u64 {
        self.compacted.map_or(file_bytes, |compacted| compacted.bytes)
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
    for (at, value) in TAGS.into_iter().chain([(LOG_ID + 1, LogId::BYTES as u8)]) {
        if fixed[at] != value {
            return Err(SegmentHeaderError::Damaged { at });
        }
    }
    let label_bytes = label_bytes(fixed);
    let length = FIXED_BYTES + label_bytes;
    let canonical = fixed[1..5] == padded_length((length - 5) as u32) && fixed[LABEL + 1] >= 0x80;
    if label_bytes > limits::LABEL_BYTES_MAX || !canonical {
        return Err(SegmentHeaderError::Damaged { at: 1 });
    }
    let whole = bytes.get(..length).ok_or(SegmentHeaderError::Truncated)?;
    let found = get_u32(fixed, CRC);
    let computed = header_crc(whole);
    if found != computed {
        return Err(SegmentHeaderError::Crc { found, computed });
    }
    let version = get_u32(fixed, VERSION);
    if version != FORMAT_VERSION {
        return Err(SegmentHeaderError::Version { found: version });
    }
    let mut log_id = [0; LogId::BYTES];
    log_id.copy_from_slice(&fixed[LOG_ID + 2..LABEL]);
    let due = Timestamp::from_millis(get_u64(fixed, COMPACTION_DUE) as i64);
    let due = (due != Timestamp::default()).then_some(due);
    let (end, bytes) = (get_u64(fixed, COMPACTED_END), get_u64(fixed, COMPACTED_BYTES));
    if bytes > limits::SEGMENT_FILE_BYTES_MAX {
        return Err(SegmentHeaderError::Damaged { at: COMPACTED_BYTES });
    }
    let header = SegmentHeader {
        salt: Salt::new(get_u32(fixed, SALT)),
        // It may stand for nothing, but has a length.
        compacted: (bytes != 0).then(|| Compacted { end: Offset::new(end), bytes, due }),
        base_offset: Offset::new(get_u64(fixed, BASE_OFFSET)),
        previous_end: Offset::new(get_u64(fixed, PREVIOUS_END)),
        gap_reason: GapReason::from_code(get_u32(fixed, GAP_REASON)),
        created: Timestamp::from_millis(get_u64(fixed, CREATED) as i64),
        log_id: LogId::new(log_id),
        label: String::from_utf8_lossy(whole.get(FIXED_BYTES..).unwrap_or_default()).into_owned(),
    };
    Ok((header, length))
}

/// Bytes of the label, as a header says that is long enough.
pub(super) fn label_bytes(bytes: &[u8]) -> usize {
    usize::from(bytes[LABEL + 1] & 0x7f) | usize::from(bytes[LABEL + 2]) << 7
}

/// CRC of all bytes but the CRC's own.
fn header_crc(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..=CRC]);
    hasher.update(&bytes[VERSION..]);
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

/// The field whose tag is at a place.
fn get_u32(bytes: &[u8; FIXED_BYTES], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at + 1..at + 5]);
    u32::from_le_bytes(value)
}

fn get_u64(bytes: &[u8; FIXED_BYTES], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at + 1..at + 9]);
    u64::from_le_bytes(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            salt: Salt::new(7),
            compacted: Some(Compacted {
                end: Offset::new(250),
                bytes: 9_000,
                due: Some(Timestamp::from_millis(77)),
            }),
            base_offset: Offset::new(100),
            previous_end: Offset::new(90),
            gap_reason: Some(GapReason::PowerLoss),
            created: Timestamp::from_millis(-5),
            log_id: LogId::new(*b"sixteen bytes id"),
            label: "quakes/3".into(),
        }
    }

    #[test]
    fn an_empty_segment_that_was_compacted_says_so() {
        let compacted = Some(Compacted { end: Offset::ZERO, bytes: 109, due: None });
        let (base_offset, previous_end) = (Offset::ZERO, Offset::ZERO);
        let header = SegmentHeader { compacted, base_offset, previous_end, ..header() };
        assert_eq!(decode_header(&header.encode()).expect("it is one").0, header);
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
