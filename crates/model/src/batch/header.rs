//! The bytes of a batch's header.
//!
//! Invariant: `decode` accepts exactly what `encode` writes. Every field is present, in order, at a
//! constant position, so there is one spelling of a header and its CRC covers all of it.

use super::Compression;
use crate::wire::{padded_varint, read_padded_varint};
use crate::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, ProducerStamp, Sequence, Timestamp};

/// Bytes of a batch before its payload.
pub const HEADER_BYTES: usize = 89;

/// A batch's header as it lies on disk.
pub type HeaderBytes = [u8; HEADER_BYTES];

/// Bytes of tag and length in front of the message: what its length does not count.
const PREFIX_BYTES: usize = 5;

/// A tag's place and value; the field's value follows.
struct Field {
    at: usize,
    tag: u8,
}

const BATCH: Field = Field { at: 0, tag: 0x12 };
const HEADER_CRC: Field = Field { at: 5, tag: 0x0d };
const BASE_OFFSET: Field = Field { at: 10, tag: 0x11 };
const LAST_OFFSET_DELTA: Field = Field { at: 19, tag: 0x1d };
const LEADER_EPOCH: Field = Field { at: 24, tag: 0x25 };
const PRODUCER_ID: Field = Field { at: 29, tag: 0x29 };
const PRODUCER_EPOCH: Field = Field { at: 38, tag: 0x35 };
const BASE_SEQUENCE: Field = Field { at: 43, tag: 0x3d };
const APPEND_TIME: Field = Field { at: 48, tag: 0x41 };
const MAX_TIMESTAMP: Field = Field { at: 57, tag: 0x49 };
const COMPRESSION: Field = Field { at: 66, tag: 0x50 };
const KIND: Field = Field { at: 68, tag: 0x58 };
const RECORDS_CRC: Field = Field { at: 70, tag: 0x65 };
const SYNCED_END: Field = Field { at: 75, tag: 0x69 };
const PAYLOAD: Field = Field { at: 84, tag: 0x7a };
const PAYLOAD_COMPRESSED_TAG: u8 = 0x72;

const _: () = {
    // Each field begins where the one before ends: a tag, then 4 bytes, 8, or 1.
    assert!(HEADER_CRC.at == BATCH.at + 1 + 4);
    assert!(BASE_OFFSET.at == HEADER_CRC.at + 1 + 4);
    assert!(LAST_OFFSET_DELTA.at == BASE_OFFSET.at + 1 + 8);
    assert!(LEADER_EPOCH.at == LAST_OFFSET_DELTA.at + 1 + 4);
    assert!(PRODUCER_ID.at == LEADER_EPOCH.at + 1 + 4);
    assert!(PRODUCER_EPOCH.at == PRODUCER_ID.at + 1 + 8);
    assert!(BASE_SEQUENCE.at == PRODUCER_EPOCH.at + 1 + 4);
    assert!(APPEND_TIME.at == BASE_SEQUENCE.at + 1 + 4);
    assert!(MAX_TIMESTAMP.at == APPEND_TIME.at + 1 + 8);
    assert!(COMPRESSION.at == MAX_TIMESTAMP.at + 1 + 8);
    assert!(KIND.at == COMPRESSION.at + 1 + 1);
    assert!(RECORDS_CRC.at == KIND.at + 1 + 1);
    assert!(SYNCED_END.at == RECORDS_CRC.at + 1 + 4);
    assert!(PAYLOAD.at == SYNCED_END.at + 1 + 8);
    assert!(HEADER_BYTES == PAYLOAD.at + 1 + 4);
    assert!(PREFIX_BYTES == BATCH.at + 1 + 4);
};

/// What the CRCs of a segment's headers start with, so that a copy of another segment inside a
/// payload does not pass for batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salt(u32);

impl Salt {
    /// The salt with this value.
    pub const fn new(value: u32) -> Self {
        Self(value)
    }

    /// Its value.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Whose batch it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchKind {
    /// A client's records.
    Data,
    /// The broker's own.
    Control,
}

impl BatchKind {
    const fn code(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Control => 1,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Data),
            1 => Some(Self::Control),
            _ => None,
        }
    }
}

/// Everything a batch says before its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Offset of the last record less `base_offset`.
    pub last_offset_delta: u32,
    /// The opening of the log in which it was appended.
    pub leader_epoch: LeaderEpoch,
    /// The idempotent producer that sent it, if one did.
    pub producer: Option<ProducerStamp>,
    /// When the broker appended it; never falls along a log.
    pub append_time: Timestamp,
    /// The latest timestamp of its records.
    pub max_timestamp: Timestamp,
    /// How the payload is compressed.
    pub compression: Compression,
    /// Whose it is.
    pub kind: BatchKind,
    /// CRC-32 of the payload.
    pub records_crc: u32,
    /// The offset below which a sync had returned when it was written.
    pub synced_end: Offset,
    /// Bytes of the payload.
    pub payload_bytes: u32,
}

/// Why bytes are not a batch's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// A field is missing, out of order, or not spelled as the broker spells it.
    #[error("the header is not canonical at its byte {at}")]
    NotCanonical {
        /// The byte, counted from the batch's first.
        at: usize,
    },
    /// The CRC does not fit.
    #[error("header crc {found:#010x}, computed {computed:#010x}")]
    Crc {
        /// What the header says.
        found: u32,
        /// What its bytes give.
        computed: u32,
    },
}

impl BatchHeader {
    /// The offset behind its last record.
    pub fn end_offset(&self) -> Offset {
        self.base_offset.advance(u64::from(self.last_offset_delta) + 1)
    }

    /// The offset of its last record.
    pub fn last_offset(&self) -> Offset {
        self.base_offset.advance(u64::from(self.last_offset_delta))
    }

    /// The number of offsets it covers.
    pub fn record_count(&self) -> u64 {
        u64::from(self.last_offset_delta) + 1
    }

    /// Bytes of the whole batch, header and payload.
    pub fn total_bytes(&self) -> usize {
        HEADER_BYTES + self.payload_bytes as usize
    }

    /// The header's bytes in a segment with this salt.
    pub fn encode(&self, salt: Salt) -> HeaderBytes {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |field: Field, value: &[u8]| {
            bytes[field.at] = field.tag;
            bytes[field.at + 1..field.at + 1 + value.len()].copy_from_slice(value);
        };
        let message_bytes = (HEADER_BYTES - PREFIX_BYTES) as u32 + self.payload_bytes;
        put(BATCH, &padded_varint(message_bytes));
        put(HEADER_CRC, &[0; 4]);
        put(BASE_OFFSET, &self.base_offset.get().to_le_bytes());
        put(LAST_OFFSET_DELTA, &self.last_offset_delta.to_le_bytes());
        put(LEADER_EPOCH, &self.leader_epoch.get().to_le_bytes());
        let (id, epoch, sequence) = self.producer.map_or((0, 0, 0), |producer| {
            (producer.id.get(), producer.epoch.get(), producer.sequence.get())
        });
        put(PRODUCER_ID, &id.to_le_bytes());
        put(PRODUCER_EPOCH, &epoch.to_le_bytes());
        put(BASE_SEQUENCE, &sequence.to_le_bytes());
        put(APPEND_TIME, &self.append_time.as_millis().to_le_bytes());
        put(MAX_TIMESTAMP, &self.max_timestamp.as_millis().to_le_bytes());
        put(COMPRESSION, &[self.compression.code()]);
        put(KIND, &[self.kind.code()]);
        put(RECORDS_CRC, &self.records_crc.to_le_bytes());
        put(SYNCED_END, &self.synced_end.get().to_le_bytes());
        let payload = Field { at: PAYLOAD.at, tag: self.payload_tag() };
        put(payload, &padded_varint(self.payload_bytes));
        let crc = header_crc(&bytes, salt);
        bytes[HEADER_CRC.at + 1..BASE_OFFSET.at].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header and checks its CRC.
    ///
    /// # Errors
    /// If the bytes are not exactly what [`Self::encode`] writes with this salt.
    pub fn decode(bytes: &HeaderBytes, salt: Salt) -> Result<Self, HeaderError> {
        let header = Self::decode_unverified(bytes)?;
        let found = u32::from_le_bytes(value(bytes, HEADER_CRC)?);
        let computed = header_crc(bytes, salt);
        if found == computed { Ok(header) } else { Err(HeaderError::Crc { found, computed }) }
    }

    /// Reads a header without checking its CRC: for a reader who does not know the salt, and trusts
    /// the connection that the bytes came over.
    ///
    /// # Errors
    /// If the bytes are not a canonical header.
    pub fn decode_unverified(bytes: &HeaderBytes) -> Result<Self, HeaderError> {
        let message_bytes = padded(bytes, BATCH)?;
        let [compression] = value(bytes, COMPRESSION)?;
        let [kind] = value(bytes, KIND)?;
        let not_canonical = |field: Field| HeaderError::NotCanonical { at: field.at };
        let compression = Compression::from_code(compression).ok_or(not_canonical(COMPRESSION))?;
        let kind = BatchKind::from_code(kind).ok_or(not_canonical(KIND))?;
        let tag =
            if compression == Compression::None { PAYLOAD.tag } else { PAYLOAD_COMPRESSED_TAG };
        let payload_bytes = padded(bytes, Field { at: PAYLOAD.at, tag })?;
        if message_bytes as usize != HEADER_BYTES - PREFIX_BYTES + payload_bytes as usize {
            return Err(not_canonical(PAYLOAD));
        }
        value::<4>(bytes, HEADER_CRC)?;
        Ok(Self {
            base_offset: Offset::new(u64::from_le_bytes(value(bytes, BASE_OFFSET)?)),
            last_offset_delta: u32::from_le_bytes(value(bytes, LAST_OFFSET_DELTA)?),
            leader_epoch: LeaderEpoch::new(u32::from_le_bytes(value(bytes, LEADER_EPOCH)?)),
            producer: producer(bytes)?,
            append_time: Timestamp::from_millis(i64::from_le_bytes(value(bytes, APPEND_TIME)?)),
            max_timestamp: Timestamp::from_millis(i64::from_le_bytes(value(bytes, MAX_TIMESTAMP)?)),
            compression,
            kind,
            records_crc: u32::from_le_bytes(value(bytes, RECORDS_CRC)?),
            synced_end: Offset::new(u64::from_le_bytes(value(bytes, SYNCED_END)?)),
            payload_bytes,
        })
    }

    /// The one salt under which the CRC of a header holds: for a reader who has lost the salt. Any
    /// canonical bytes have one, so another batch, or the payload's CRC, must confirm it.
    ///
    /// # Errors
    /// If the bytes are not a canonical header.
    pub fn solve_salt(bytes: &HeaderBytes) -> Result<Salt, HeaderError> {
        Self::decode_unverified(bytes)?;
        let found = u32::from_le_bytes(value(bytes, HEADER_CRC)?);
        let difference = found ^ header_crc(bytes, Salt::new(0));
        // A CRC is linear in what it starts with: the difference is what became of the salt on its
        // way through as many zeros as there are bytes. Walked back, it is the salt again.
        let salt = (0..8 * CRC_BYTES_COVERED).fold(difference, |crc, _| crc_back(crc));
        Ok(Salt::new(salt))
    }

    fn payload_tag(&self) -> u8 {
        match self.compression {
            Compression::None => PAYLOAD.tag,
            Compression::Lz4 | Compression::Zstd => PAYLOAD_COMPRESSED_TAG,
        }
    }
}

/// Bytes that a header's CRC covers.
const CRC_BYTES_COVERED: usize = HEADER_CRC.at + 1 + HEADER_BYTES - BASE_OFFSET.at;

/// The CRC-32 register before a bit 0 was put into it.
const fn crc_back(register: u32) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    // Its top bit comes from the polynomial alone, so it tells whether that was added.
    if register >> 31 == 1 { (register ^ POLYNOMIAL) << 1 | 1 } else { register << 1 }
}

/// CRC of a header: of all its bytes but the CRC's own, started with the salt.
fn header_crc(bytes: &HeaderBytes, salt: Salt) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt.get());
    hasher.update(&bytes[..=HEADER_CRC.at]);
    hasher.update(&bytes[BASE_OFFSET.at..]);
    hasher.finalize()
}

/// Who sent a batch. Where nobody did, epoch and sequence are 0 as well.
fn producer(bytes: &HeaderBytes) -> Result<Option<ProducerStamp>, HeaderError> {
    let id = u64::from_le_bytes(value(bytes, PRODUCER_ID)?);
    let epoch = u32::from_le_bytes(value(bytes, PRODUCER_EPOCH)?);
    let sequence = u32::from_le_bytes(value(bytes, BASE_SEQUENCE)?);
    match ProducerId::new(id) {
        Some(id) => {
            let (epoch, sequence) = (ProducerEpoch::new(epoch), Sequence::new(sequence));
            Ok(Some(ProducerStamp { id, epoch, sequence }))
        }
        None if epoch == 0 && sequence == 0 => Ok(None),
        None => Err(HeaderError::NotCanonical { at: PRODUCER_ID.at }),
    }
}

fn value<const N: usize>(bytes: &HeaderBytes, field: Field) -> Result<[u8; N], HeaderError> {
    if bytes[field.at] != field.tag {
        return Err(HeaderError::NotCanonical { at: field.at });
    }
    let mut value = [0; N];
    value.copy_from_slice(&bytes[field.at + 1..field.at + 1 + N]);
    Ok(value)
}

fn padded(bytes: &HeaderBytes, field: Field) -> Result<u32, HeaderError> {
    let at = field.at + 1;
    read_padded_varint(value(bytes, field)?).ok_or(HeaderError::NotCanonical { at })
}
