//! Encodes records into a payload.

use bytes::{BufMut, Bytes, BytesMut};

use super::HeaderView;
use crate::Timestamp;
use crate::wire::{put_varint, varint_bytes};

const RECORD_TAG: u8 = 0x0a;
const KEY_TAG: u8 = 0x0a;
const VALUE_TAG: u8 = 0x12;
const HEADER_TAG: u8 = 0x1a;
const TIMESTAMP_TAG: u8 = 0x20;
const NAME_TAG: u8 = 0x0a;
const HEADER_VALUE_TAG: u8 = 0x12;

/// What goes into a record; borrowed, it is copied once into the payload.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecordFields<'a> {
    /// What it is about.
    pub key: Option<&'a [u8]>,
    /// What it says; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Names and values beside it.
    pub headers: &'a [HeaderView<'a>],
    /// When the event happened; `None`: when it is appended.
    pub timestamp: Option<Timestamp>,
}

impl RecordFields<'_> {
    /// Bytes the record adds to a payload.
    pub fn encoded_bytes(&self) -> usize {
        let body = self.body_bytes();
        1 + varint_bytes(body as u64) + body
    }

    fn body_bytes(&self) -> usize {
        let optional =
            |bytes: Option<&[u8]>| bytes.map_or(0, |bytes| length_field_bytes(bytes.len()));
        let headers: usize =
            self.headers.iter().map(|header| length_field_bytes(header_bytes(header))).sum();
        let timestamp = self.timestamp_millis().map_or(0, |millis| 1 + varint_bytes(millis));
        optional(self.key) + optional(self.value) + headers + timestamp
    }

    /// The timestamp as it is encoded; 0, which means none, is not.
    fn timestamp_millis(&self) -> Option<u64> {
        self.timestamp.map(|at| at.as_millis() as u64).filter(|millis| *millis != 0)
    }
}

/// Encodes records one behind the other into a payload.
#[derive(Debug, Default)]
pub struct RecordSetBuilder {
    payload: BytesMut,
    record_count: u32,
}

impl RecordSetBuilder {
    /// An empty payload with room for `bytes`.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { payload: BytesMut::with_capacity(bytes), record_count: 0 }
    }

    /// Adds a record.
    pub fn push(&mut self, record: &RecordFields<'_>) {
        let body = record.body_bytes();
        self.payload.reserve(1 + varint_bytes(body as u64) + body);
        let out = &mut self.payload;
        out.put_u8(RECORD_TAG);
        put_varint(out, body as u64);
        if let Some(key) = record.key {
            put_length_field(out, KEY_TAG, key);
        }
        if let Some(value) = record.value {
            put_length_field(out, VALUE_TAG, value);
        }
        for header in record.headers {
            out.put_u8(HEADER_TAG);
            put_varint(out, header_bytes(header) as u64);
            put_length_field(out, NAME_TAG, header.name.as_bytes());
            put_length_field(out, HEADER_VALUE_TAG, header.value);
        }
        if let Some(millis) = record.timestamp_millis() {
            out.put_u8(TIMESTAMP_TAG);
            put_varint(out, millis);
        }
        self.record_count += 1;
    }

    /// Number of records so far.
    pub const fn record_count(&self) -> u32 {
        self.record_count
    }

    /// Bytes of the payload so far.
    pub fn payload_bytes(&self) -> usize {
        self.payload.len()
    }

    /// Whether nothing was added.
    pub const fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// The payload.
    pub fn finish(self) -> Bytes {
        self.payload.freeze()
    }
}

const fn length_field_bytes(length: usize) -> usize {
    1 + varint_bytes(length as u64) + length
}

const fn header_bytes(header: &HeaderView<'_>) -> usize {
    length_field_bytes(header.name.len()) + length_field_bytes(header.value.len())
}

fn put_length_field(out: &mut BytesMut, tag: u8, value: &[u8]) {
    out.put_u8(tag);
    put_varint(out, value.len() as u64);
    out.put_slice(value);
}
