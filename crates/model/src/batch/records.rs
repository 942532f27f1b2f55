//! The records inside a payload, decoded where they lie.

use super::{BatchHeader, Compression, WireError};
use crate::wire::{Reader, WireType};
use crate::{Offset, Timestamp};

/// One record, borrowed from its batch's payload.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    /// Its place in the partition.
    pub offset: Offset,
    /// When the event happened; where the producer did not say, when the batch was appended.
    pub timestamp: Timestamp,
    /// What it is about.
    pub key: Option<&'a [u8]>,
    /// What it says; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// When compaction may remove it: only of a tombstone that compaction has seen.
    pub delete_after: Option<Timestamp>,
    pub(super) encoded: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Its headers, in their order. Decoded as they are asked for.
    pub fn headers(&self) -> Headers<'a> {
        Headers { reader: Reader::new(self.encoded) }
    }
}

/// A name and a value beside a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderView<'a> {
    /// The name.
    pub name: &'a str,
    /// The value.
    pub value: &'a [u8],
}

/// The records of a batch, in the order of their offsets.
///
/// Ends behind the first error, which a payload that was scanned cannot have, but for one that is still
/// compressed.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    reader: Reader<'a>,
    is_compressed: bool,
    base_offset: Offset,
    append_time: Timestamp,
    index: u64,
}

impl<'a> Records<'a> {
    pub(super) fn new(header: &BatchHeader, payload: &'a [u8]) -> Self {
        Self {
            reader: Reader::new(payload),
            is_compressed: header.compression != Compression::None,
            base_offset: header.base_offset,
            append_time: header.append_time,
            index: 0,
        }
    }

    fn decode(&mut self) -> Result<Option<RecordView<'a>>, WireError> {
        if std::mem::take(&mut self.is_compressed) {
            return Err(WireError::Compressed);
        }
        while !self.reader.is_empty() {
            let (field, wire_type) = self.reader.tag()?;
            if (field, wire_type) != (1, WireType::Length) {
                self.reader.skip(wire_type)?;
                continue;
            }
            let encoded = self.reader.bytes()?;
            let record = self.decode_record(encoded)?;
            self.index += 1;
            return Ok(Some(record));
        }
        Ok(None)
    }

    fn decode_record(&self, encoded: &'a [u8]) -> Result<RecordView<'a>, WireError> {
        let mut reader = Reader::new(encoded);
        let (mut key, mut value) = (None, None);
        let mut timestamp = 0;
        let mut delete_after = None;
        let mut delta = self.index;
        while !reader.is_empty() {
            match reader.tag()? {
                (1, WireType::Length) => key = Some(reader.bytes()?),
                (2, WireType::Length) => value = Some(reader.bytes()?),
                (4, WireType::Varint) => timestamp = reader.varint()? as i64,
                (5, WireType::Varint) => delta = reader.varint()?,
                (6, WireType::Fixed64) => {
                    delete_after = Some(Timestamp::from_millis(reader.fixed64()? as i64));
                }
                (_, wire_type) => reader.skip(wire_type)?,
            }
        }
        let timestamp =
            if timestamp == 0 { self.append_time } else { Timestamp::from_millis(timestamp) };
        let offset = self.base_offset.advance(delta);
        Ok(RecordView { offset, timestamp, key, value, delete_after, encoded })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordView<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.decode();
        if record.is_err() {
            self.reader = Reader::new(&[]);
        }
        record.transpose()
    }
}

/// The headers of a record.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for Headers<'a> {
    type Item = HeaderView<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.reader.is_empty() {
            let (field, wire_type) = self.reader.tag().ok()?;
            if (field, wire_type) == (3, WireType::Length) {
                return decode_header(self.reader.bytes().ok()?);
            }
            self.reader.skip(wire_type).ok()?;
        }
        None
    }
}

fn decode_header(encoded: &[u8]) -> Option<HeaderView<'_>> {
    let mut reader = Reader::new(encoded);
    let mut header = HeaderView { name: "", value: &[] };
    while !reader.is_empty() {
        match reader.tag().ok()? {
            (1, WireType::Length) => {
                header.name = std::str::from_utf8(reader.bytes().ok()?).ok()?;
            }
            (2, WireType::Length) => header.value = reader.bytes().ok()?,
            (_, wire_type) => reader.skip(wire_type).ok()?,
        }
    }
    Some(header)
}
